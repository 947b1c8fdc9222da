"""Vectors of dask collections of texts are those of SentenceEncoder.encode, in order, whatever computes them."""

import numpy as np
import pytest

import pyattn
from tests.support.tiny_model import write_model

pytest.importorskip("dask.array")
pytest.importorskip("dask.bag")

import dask.array
import dask.bag

import pyattn.dask

TEXTS = ["the cat sat on a mat", "find the root of a function", "", "a dog ran"] * 6


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def expected(model):
    return pyattn.SentenceEncoder.from_pretrained(model).encode(TEXTS)


def bag():
    return dask.bag.from_sequence(TEXTS, npartitions=5)


def objects():
    return dask.array.from_array(np.array(TEXTS, object), chunks=7)


def strings():
    return dask.array.from_array(np.array(TEXTS), chunks=(1, 20, 3))


def column():
    pandas = pytest.importorskip("pandas")
    dataframe = pytest.importorskip("dask.dataframe")
    return dataframe.from_pandas(pandas.DataFrame({"text": TEXTS}), npartitions=3)["text"]


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
@pytest.mark.parametrize("collection", [bag, objects, strings, column], ids=lambda f: f.__name__)
def test_collections(collection, scheduler, model, expected):
    texts = collection()
    vectors = pyattn.dask.encode(texts, model)
    assert vectors.dtype == np.float32 and vectors.shape[1] == 24
    if collection in (objects, strings):
        assert vectors.chunks == (texts.chunks[0], (24,))
    else:
        assert np.isnan(vectors.shape[0]) and vectors.numblocks == (texts.npartitions, 1)
    result = vectors.compute(scheduler=scheduler)
    np.testing.assert_array_equal(result.view(np.uint32), expected.view(np.uint32))
    np.testing.assert_array_equal(vectors.sum(axis=1).compute(scheduler=scheduler), expected.sum(axis=1))


@pytest.mark.parametrize(
    "settings",
    [{"dtype": "int8"}, {"normalize": False, "truncate_dim": 5}, {"prompt": "find the "}, {"dtype": {"*": "bfloat16"}}],
    ids=str,
)
def test_settings(settings, model):
    dtype = settings.get("dtype", "float32")
    options = {name: value for name, value in settings.items() if name != "dtype"}
    expected = pyattn.SentenceEncoder.from_pretrained(model, dtype=dtype).encode(TEXTS, **options)
    vectors = pyattn.dask.encode(bag(), str(model), **settings)
    assert vectors.shape[1] == expected.shape[1]
    np.testing.assert_array_equal(vectors.compute(scheduler="sync"), expected)


def test_nothing_is_read_where_the_width_is_given(tmp_path, expected):
    vectors = pyattn.dask.encode(objects(), str(tmp_path / "model"), width=24)  # which workers alone have
    write_model(tmp_path / "model")
    np.testing.assert_array_equal(vectors.compute(scheduler="sync"), expected)
    with pytest.raises(ValueError, match="^encode: the vectors of .* have width 24, not the 25 given"):
        pyattn.dask.encode(objects(), str(tmp_path / "model"), width=25).compute(scheduler="sync")


def test_empty_partitions(model, expected):
    texts = bag().filter(lambda text: False)
    assert pyattn.dask.encode(texts, model).compute(scheduler="sync").shape == (0, 24)
    none = dask.array.from_array(np.array([], object), chunks=4)
    assert pyattn.dask.encode(none, model).compute(scheduler="sync").shape == (0, 24)


def test_tasks_take_their_threads(model, monkeypatch):
    seen = []

    def encode(self, texts, **options):
        seen.append(pyattn.get_num_threads())
        return np.zeros((len(texts), 24), np.float32)

    before = pyattn.get_num_threads()
    vectors = [pyattn.dask.encode(bag(), model, threads=threads) for threads in (1, 3)]
    monkeypatch.setattr(pyattn.SentenceEncoder, "encode", encode)
    for one in vectors:
        one.compute(scheduler="sync")
    assert seen == [1] * 5 + [3] * 5 and pyattn.get_num_threads() == before


def test_the_same_call_has_the_same_keys(model):
    texts = objects()
    one, other, int8 = (pyattn.dask.encode(texts, model, dtype=dtype) for dtype in ("float32", np.float32, "int8"))
    assert set(one.dask) == set(other.dask) and one.name == other.name != int8.name


def test_a_model_that_differs_from_the_callers_is_refused(tmp_path, monkeypatch):
    vectors = pyattn.dask.encode(objects(), write_model(tmp_path / "model"))
    monkeypatch.setattr("pyattn.tasks.loaded._encoders", {})  # as in another process, on another machine
    write_model(tmp_path / "model", seed=1)
    with pytest.raises(ValueError, match="^encode: the model .* of this worker is not the one where encode was called"):
        vectors.compute(scheduler="sync")


@pytest.mark.parametrize(
    ("texts", "settings", "error", "message"),
    [
        (
            TEXTS,
            {},
            TypeError,
            "texts must be a bag, an array or a column .* of dask, not list; dask.bag.from_sequence",
        ),
        ("text", {}, TypeError, "not str"),
        (dask.array.ones(3), {}, TypeError, "texts must be an array of str, not of float64"),
        (objects().reshape(4, 6), {}, ValueError, r"texts has shape \(4, 6\); accepted: \(n,\)"),
        (bag(), {"dtype": "int4"}, TypeError, "dtype must be"),
        (bag(), {"batch_tokens": 0}, ValueError, "batch_tokens must be a positive integer"),
        (bag(), {"prompt_name": "none"}, ValueError, "there is no prompt 'none'"),
        (bag(), {"truncate": "no"}, TypeError, "truncate must be True or False"),
        (bag(), {"threads": 0}, ValueError, "threads must be an integer from 1 to 1024"),
        (bag(), {"width": 0}, ValueError, "width must be a positive integer"),
    ],
)
def test_bad_calls(texts, settings, error, message, model):
    with pytest.raises(error, match=f"^encode: .*{message}"):
        pyattn.dask.encode(texts, model, **settings)


def test_bad_columns(model):
    numbers = column().str.len()
    with pytest.raises(TypeError, match="^encode: texts must be a column of str, not of Int64"):
        pyattn.dask.encode(numbers, model)
    with pytest.raises(TypeError, match=r"^encode: .*not DataFrame; .*dataframe\[name\] is a column"):
        pyattn.dask.encode(column().to_frame(), model)


def test_bad_models(model):
    with pytest.raises(TypeError, match="^encode: model must be a directory or an id .*, not SentenceEncoder"):
        pyattn.dask.encode(bag(), pyattn.SentenceEncoder.from_pretrained(model))
    with pytest.raises(FileNotFoundError, match="^load: there is no directory /nowhere/at/all"):
        pyattn.dask.encode(bag(), "/nowhere/at/all")


@pytest.mark.parametrize("wrong", [None, 3, float("nan")])
def test_texts_that_are_none(wrong, model):
    texts = dask.bag.from_sequence([*TEXTS[:5], wrong, *TEXTS[6:]], npartitions=6)
    vectors = pyattn.dask.encode(texts, model)
    kind = type(wrong).__name__
    with pytest.raises(TypeError, match=rf"^encode: texts\[1\] of partition 1 must be a str, not {kind}"):
        vectors.compute(scheduler="sync")


def number_loaded():
    from pyattn.tasks.loaded import _encoders

    return len(_encoders)


@pytest.mark.server
@pytest.mark.slow
def test_a_worker_that_is_killed(model, expected):
    pytest.importorskip("distributed")
    from tests.dask.cluster import computed_beside_a_kill, slowly, two_workers

    with two_workers() as client:
        texts = dask.bag.from_sequence(TEXTS, npartitions=12).map_partitions(slowly)
        result = computed_beside_a_kill(client, pyattn.dask.encode(texts, model))
        np.testing.assert_array_equal(result, expected)
        assert all(loaded <= 1 for loaded in client.run(number_loaded).values())
