"""A transformer of scikit-learn: its checks, its pipelines and searches, its pickles; and what texts must be."""

import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest

import pyattn
from tests.support.tiny_model import write_model

pytest.importorskip("sklearn", minversion="1.6")

from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import SkipTestWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_is_fitted, validate_data

from pyattn.sklearn import SentenceVectorizer

TEXTS = ["the cat sat on a mat", "find the root of a function", "a dog ran", "solve the equation"] * 3
ANIMALS = [True, False] * 6


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def expected(model):
    return pyattn.SentenceEncoder.from_pretrained(model).encode(TEXTS)


def test_it_passes_the_checks_of_estimators(model):
    """Of estimators of texts scikit-learn checks that they can be cloned, and says so."""
    with pytest.warns(SkipTestWarning, match="Can't test estimator SentenceVectorizer"):
        results = check_estimator(SentenceVectorizer(model))
    assert results and all(result["status"] == "passed" for result in results)


class OfNumbers(SentenceVectorizer):
    """Rows of numbers, written out as texts: all that scikit-learn checks of estimators of numbers."""

    def __init__(self, model="model", dtype="float32"):
        super().__init__(model, dtype=dtype)

    def fit(self, X, y=None):  # noqa: N803
        return super().fit(written(validate_data(self, X)))

    def transform(self, X):  # noqa: N803
        return super().transform(written(validate_data(self, X, reset=False)))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.two_d_array = False, True
        return tags


def written(rows):
    return [" ".join(f"{x:.2f}" for x in row) for row in rows]


def test_it_passes_all_other_checks_on_numbers_that_are_written_out(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model").symlink_to(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of checks that want SciPy's array API, and of cut texts
        results = check_estimator(OfNumbers(), on_fail=None)
    assert not [result for result in results if result["status"] not in ("passed", "skipped")]
    assert sum(result["status"] == "passed" for result in results) >= 30


@pytest.mark.parametrize(
    "container",
    [list, tuple, iter, lambda x: np.array(x, object), np.array],
    ids=["list", "tuple", "iterator", "objects", "array"],
)
def test_texts(container, model, expected):
    vectorizer = SentenceVectorizer(model)
    assert vectorizer.fit(TEXTS) is vectorizer
    check_is_fitted(SentenceVectorizer(model))  # there is nothing to fit
    vectors = SentenceVectorizer(model).transform(container(TEXTS))
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, expected)


def test_settings_are_those_of_the_encoder(model):
    options = {"normalize": False, "prompt": "find the ", "truncate_dim": 7}
    encoder = pyattn.SentenceEncoder.from_pretrained(model, dtype="int8")
    vectorizer = SentenceVectorizer(model, dtype="int8", **options)
    np.testing.assert_array_equal(vectorizer.fit_transform(TEXTS), encoder.encode(TEXTS, **options))
    assert vectorizer.get_feature_names_out().tolist() == [f"sentencevectorizer{i}" for i in range(7)]
    assert vectorizer.set_params(truncate_dim=3).transform(TEXTS).shape == (12, 3)
    assert vectorizer.get_feature_names_out(["text"]).shape == (3,)


def test_parameters_are_kept_as_they_are(model):
    patterns = {"*": "int8"}
    vectorizer = SentenceVectorizer(model, dtype=patterns, batch_tokens=64)
    assert vectorizer.model is model and vectorizer.dtype is patterns
    copy = clone(vectorizer)
    assert copy.get_params() == vectorizer.get_params() and copy is not vectorizer
    nothing = SentenceVectorizer(None, dtype=3, batch_tokens="many")  # nothing is checked here
    assert nothing.get_params()["batch_tokens"] == "many" and "batch_tokens" in repr(nothing)


def test_a_pickle_is_a_path_and_settings(model, expected):
    vectorizer = SentenceVectorizer(str(model), normalize=True).fit(TEXTS)
    vectorizer.transform(TEXTS)
    content = pickle.dumps(vectorizer)
    assert len(content) < 1000
    np.testing.assert_array_equal(pickle.loads(content).transform(TEXTS), expected)


def test_clones_share_a_model(model, monkeypatch):
    loads = []
    monkeypatch.setattr("pyattn.tasks.loaded._encoders", {})
    whole = pyattn.SentenceEncoder.__init__
    monkeypatch.setattr(pyattn.SentenceEncoder, "__init__", lambda self, x: (loads.append(1), whole(self, x))[0])
    vectorizer = SentenceVectorizer(model)
    search = GridSearchCV(
        make_pipeline(vectorizer, LogisticRegression()),
        {"sentencevectorizer__normalize": [None, False], "sentencevectorizer__truncate_dim": [None, 8]},
        cv=2,
        error_score="raise",
    ).fit(TEXTS, ANIMALS)
    assert len(loads) == 1 and search.best_score_ == 1.0
    assert search.predict(TEXTS).tolist() == ANIMALS


@pytest.mark.server
def test_a_search_in_processes(model):
    search = GridSearchCV(
        make_pipeline(SentenceVectorizer(model), LogisticRegression()),
        {"sentencevectorizer__dtype": ["float32", "int8"]},
        cv=2,
        n_jobs=2,
        error_score="raise",
    )
    assert search.fit(TEXTS, ANIMALS).best_score_ == 1.0


def test_tables(model, expected):
    pandas = pytest.importorskip("pandas")
    vectorizer = SentenceVectorizer(model).set_output(transform="pandas")
    frame = pandas.DataFrame({"text": TEXTS}, index=range(5, 17))
    table = vectorizer.fit_transform(frame["text"])
    assert table.columns.tolist() == vectorizer.get_feature_names_out().tolist()
    assert (table.dtypes == np.float32).all()
    np.testing.assert_array_equal(table.to_numpy(), expected)
    columns = ColumnTransformer([("text", SentenceVectorizer(model), "text")]).fit(frame)
    assert columns.get_feature_names_out()[0] == "text__sentencevectorizer0"
    np.testing.assert_array_equal(columns.transform(frame), expected)
    with pytest.raises(ValueError, match=r"^SentenceVectorizer.transform: X must be .* not DataFrame"):
        vectorizer.transform(frame)
    with pytest.raises(TypeError, match=r"^SentenceVectorizer.transform: X\[1\] must be a str, not float"):
        vectorizer.transform(pandas.Series(["text", None], dtype="str"))


def test_beside_others(model, expected):
    union = FeatureUnion([("whole", SentenceVectorizer(model)), ("cut", SentenceVectorizer(model, truncate_dim=2))])
    np.testing.assert_array_equal(union.fit_transform(TEXTS), np.hstack([expected, expected[:, :2]]))


@pytest.mark.parametrize("method", ["fit", "transform"])
@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ("one text", TypeError, "X must be a list of str, not a single one"),
        (3, TypeError, "X must be a list of str, not int"),
        (None, TypeError, "X must be a list of str, not NoneType"),
        (np.array([TEXTS]), ValueError, "X must be a list of str, or one column of a table, not ndarray"),
    ],
)
def test_bad_texts(method, texts, error, message, model):
    with pytest.raises(error, match=f"^SentenceVectorizer.{method}: {message}"):
        getattr(SentenceVectorizer(model), method)(texts)


@pytest.mark.parametrize("texts", [["text", None], ["text", 3.0], np.array([1.0, 2.0]), [["text"]]], ids=str)
def test_texts_that_are_none(texts, model):
    with pytest.raises(TypeError, match=r"^SentenceVectorizer.transform: X\[[01]\] must be a str, not "):
        SentenceVectorizer(model).transform(texts)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"model": 3}, TypeError, "SentenceVectorizer: model must be a directory or an id"),
        ({"model": "/nowhere/at/all"}, FileNotFoundError, "load: there is no directory"),
        ({"dtype": "int4"}, TypeError, "SentenceVectorizer: dtype must be"),
        ({"prompt_name": "none"}, ValueError, "encode: there is no prompt 'none'"),
        ({"batch_tokens": 0}, ValueError, "encode: batch_tokens must be a positive integer"),
    ],
    ids=str,
)
def test_bad_settings_are_errors_of_fit(settings, error, message, model):
    vectorizer = SentenceVectorizer(**{"model": model} | settings)
    with pytest.raises(error, match=f"^{message}"):
        vectorizer.fit(TEXTS)
    with pytest.raises(error, match=f"^{message}"):
        vectorizer.transform(TEXTS)
