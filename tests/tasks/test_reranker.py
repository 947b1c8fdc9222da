"""Rerankers against what CrossEncoder gave for small directories; what is refused; and that batches do not matter."""

import base64
import importlib.util
import json
import re
import sys
import warnings

import numpy as np
import pytest

pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")

from safetensors.numpy import load_file, save_file

import pyattn
from pyattn.models.tokenizer import read_tokenizer
from pyattn.models.tokenizer_classes import Settings, gives_types
from pyattn.tasks.reranker import Reranker
from tests.data.record_reranker import CLASSES, FOLDER, LONGEST, SETTINGS, TEXTS
from tests.support.rerankers import CASES, DOCUMENTS, PAIRS, RECORD, write
from tests.support.tiny_model import write_model
from tests.support.tiny_tokenizers import VOCAB_SIZE, write_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:Reranker.*are cut:UserWarning")

ONE = [name for name, case in CASES.items() if "rank" in case["answers"]]  # that give one score for a pair


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    top = tmp_path_factory.mktemp("rerankers")
    return {name: write(top / name, name) for name in CASES}


@pytest.fixture(scope="module")
def rerankers(folders):
    return {name: Reranker.from_pretrained(folder) for name, folder in folders.items()}


@pytest.mark.parametrize("name", CASES)
def test_scores_are_those_of_cross_encoder(folders, rerankers, name):
    reranker, answers = rerankers[name], CASES[name]["answers"]
    assert reranker.max_length == answers["length"]
    scores = reranker.predict(PAIRS)
    several = np.ndim(answers["scores"]) == 2
    assert scores.dtype == np.float32 and scores.shape == ((len(PAIRS), 3) if several else (len(PAIRS),))
    assert np.ptp(scores, axis=0).min() > 1e-3  # a score that is any other pair's would be seen
    near = {"atol": 1e-5, "rtol": 0}
    np.testing.assert_allclose(scores, answers["scores"], **near)
    np.testing.assert_allclose(reranker.predict(PAIRS, activation="identity"), answers["logits"], **near)
    short = Reranker.from_pretrained(folders[name], max_length=11)
    np.testing.assert_allclose(short.predict(PAIRS), answers["short"], **near)
    assert abs(np.subtract(answers["short"], answers["scores"])).max() > 1e-3
    for one in (tuple(PAIRS[0]), list(PAIRS[0]), np.array(PAIRS[0])):
        given = reranker.predict(one)
        np.testing.assert_array_equal(given, scores[0])
        assert given.shape == scores.shape[1:] and given.dtype == np.float32
    np.testing.assert_array_equal(reranker.predict(np.array(PAIRS)), scores)
    np.testing.assert_array_equal(reranker.predict(map(tuple, PAIRS)), scores)


def test_several_labels(rerankers):
    reranker = rerankers["roberta"]
    answers = CASES["roberta"]["answers"]
    assert reranker.labels == ("LABEL_0", "LABEL_1", "LABEL_2") and reranker.activation == "identity"
    np.testing.assert_allclose(reranker.predict(PAIRS, apply_softmax=True), answers["softmax"], atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match=r"^Reranker.rank: the model gives 3 scores for a pair \(LABEL_0, LABEL_1"):
        reranker.rank("a", ["b"])


def test_no_pairs(rerankers):
    for nothing in ([], (), iter([]), np.empty((0, 2), str)):
        for name, shape in (("bert", (0,)), ("roberta", (0, 3))):
            scores = rerankers[name].predict(nothing)
            assert scores.shape == shape and scores.dtype == np.float32
    assert rerankers["bert"].rank("query", []) == []


@pytest.mark.parametrize("name", ONE)
def test_ranks_are_those_of_cross_encoder(rerankers, name):
    reranker, answers = rerankers[name], CASES[name]["answers"]
    for given, expected in (
        (reranker.rank("find the cat", DOCUMENTS, return_documents=True), answers["rank"]),
        (reranker.rank("find the cat", iter(DOCUMENTS), 2), answers["top"]),
    ):
        assert [x.keys() for x in given] == [x.keys() for x in expected]
        assert [(x["corpus_id"], x.get("text")) for x in given] == [(x["corpus_id"], x.get("text")) for x in expected]
        np.testing.assert_allclose([x["score"] for x in given], [x["score"] for x in expected], atol=1e-5, rtol=0)
        assert all(type(x["score"]) is float and type(x["corpus_id"]) is int for x in given)
    scores = reranker.predict([("find the cat", text) for text in DOCUMENTS])
    assert [x["score"] for x in reranker.rank("find the cat", DOCUMENTS)] == sorted(scores.tolist(), reverse=True)
    assert reranker.rank("find the cat", DOCUMENTS, top_k=0) == []
    assert len(reranker.rank("find the cat", DOCUMENTS, top_k=99)) == len(DOCUMENTS)


def test_equal_scores_keep_their_order(rerankers):
    documents = ["cat", "dog"] * 40
    ranked = [x["corpus_id"] for x in rerankers["bert"].rank("find", documents)]
    first = ranked[0] % 2
    assert ranked == [*range(first, 80, 2), *range(1 - first, 80, 2)]
    assert [x["corpus_id"] for x in rerankers["bert"].rank("find", documents, top_k=3)] == ranked[:3]


@pytest.mark.parametrize("name", CASES)
def test_batches_and_threads_do_not_matter(rerankers, name):
    """More pairs than are tokenized at once, of every length: bitwise the same."""
    rng = np.random.default_rng(0)
    words = ["cat", "dog", "root", "the", "?"]
    pairs = [tuple(" ".join(rng.choice(words, rng.integers(0, 14))) for _ in range(2)) for _ in range(300)]
    reranker = rerankers[name]
    scores = reranker.predict(pairs)
    for batch_tokens in (1, 37, 100_000):
        for threads in (1, 2):
            with pyattn.num_threads(threads):
                np.testing.assert_array_equal(reranker.predict(pairs, batch_tokens=batch_tokens), scores)
    for i in (0, 7, 127, 128, 299):
        np.testing.assert_array_equal(reranker.predict(pairs[i]), scores[i])
    np.testing.assert_array_equal(reranker.predict(pairs[::-1]), scores[::-1])
    softmax = reranker.predict(pairs, apply_softmax=True)
    np.testing.assert_array_equal(reranker.predict(pairs[40:47], apply_softmax=True), softmax[40:47])


def test_a_batch_holds_at_most_the_budget(folders, monkeypatch):
    reranker = Reranker.from_pretrained(folders["bert"])
    model, seen = reranker.model, []

    def spy(token_ids, cu_seqlens, types):
        seen.append(np.diff(cu_seqlens).tolist())
        assert len(token_ids) == len(types) == cu_seqlens[-1]
        return model(token_ids, cu_seqlens, types)

    spy.config = model.config  # type: ignore[attr-defined]
    monkeypatch.setattr(reranker, "model", spy)
    reranker.predict([("cat", "dog"), ("", ""), ("the cat sat on", "a mat"), ("cat", "")], batch_tokens=9)
    assert seen == [[9], [5, 4], [3]]


@pytest.mark.parametrize(("dtype", "near"), [("bfloat16", 0.05), ("int8", 0.1), ({"*": "bfloat16"}, 0.05)])
@pytest.mark.parametrize("name", CASES)
def test_lower_precision_is_near(folders, rerankers, name, dtype, near):
    exact = rerankers[name].predict(PAIRS, activation="identity")
    scores = Reranker.from_pretrained(folders[name], dtype=dtype).predict(PAIRS, activation="identity")
    assert 0 < abs(scores - exact).max() < near * abs(exact).max()


# --- what files say


IDENTITY, SIGMOID = "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Sigmoid"
OLD = "sbert_ce_default_activation_function"


@pytest.mark.parametrize(
    ("base", "config", "activation"),
    [
        ("bert", {}, "sigmoid"),
        ("roberta", {}, "identity"),
        ("bert", {"sentence_transformers": {"activation_fn": IDENTITY}, OLD: SIGMOID}, "identity"),
        ("bert", {"sentence_transformers": {"activation_fn": None}, OLD: IDENTITY}, "sigmoid"),
        ("bert", {"sentence_transformers": {"version": "4.0"}, OLD: IDENTITY}, "identity"),
        ("bert", {OLD: None}, "sigmoid"),
        ("bert", {OLD: "torch.nn.Identity"}, "identity"),
        ("roberta", {OLD: "torch.nn.Sigmoid"}, "sigmoid"),
        ("saved", {OLD: SIGMOID}, "identity"),  # config_sentence_transformers.json has the first word
    ],
)
def test_the_activation_that_files_name(tmp_path, base, config, activation):
    reranker = Reranker.from_pretrained(write(tmp_path, base, config=config))
    assert reranker.activation == activation
    logits, scores = reranker.predict(PAIRS, activation="identity"), reranker.predict(PAIRS)
    expected = 1 / (1 + np.exp(-logits.astype(float))) if activation == "sigmoid" else logits
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_a_sigmoid_of_any_number():
    from pyattn.tasks.reranker import _sigmoid

    values = _sigmoid(np.array([-np.inf, -200, -90, 0, 90, np.inf], np.float32))
    np.testing.assert_allclose(values, [0, 0, 0, 0.5, 1, 1], atol=1e-37)
    assert values.dtype == np.float32


@pytest.mark.parametrize("place", ["new", "old", "saved"])
def test_other_activations_are_refused_by_name_and_not_imported(tmp_path, place):
    (tmp_path / "evil.py").write_text("raise SystemExit")
    config = {"sentence_transformers": {"activation_fn": "evil.Activation"}} if place == "new" else {}
    config |= {OLD: "evil.Activation"} if place == "old" else {}
    beside = {"config_sentence_transformers": {"activation_fn": "evil.Activation"}} if place == "saved" else {}
    folder = write(tmp_path / "model", "saved" if beside else "bert", config=config, **beside)
    with pytest.raises(ValueError, match=r"^load: .*activation.* must be one of .*, not 'evil.Activation'"):
        Reranker.from_pretrained(folder)
    assert "evil" not in sys.modules


@pytest.mark.parametrize(
    ("base", "files", "error"),
    [
        ("bert", {"config": {"architectures": ["BertModel"]}}, "holds a BertModel, not .*; use SentenceEncoder"),
        ("bert", {"config": {"architectures": ["BertForMaskedLM"]}}, "holds a BertForMaskedLM.*; use SentenceEncoder"),
        (
            "bert",
            {"config": {"architectures": ["BertForTokenClassification"]}},
            "a BertForTokenClassification, not .*n$",
        ),
        (
            "bert",
            {"config": {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}},
            "holds a Qwen3ForCausalLM",
        ),
        (
            "bert",
            {"config": {"architectures": None, "model_type": "llama"}},
            "model_type must be one of .* not 'llama'",
        ),
        ("bert", {"chat_template": {"x": 1}}, "chat_template.json: without a modules.json"),
        ("saved", {"config_sentence_transformers": {"default_prompt_name": "web"}}, "default_prompt_name 'web' is not"),
        (
            "saved",
            {"config_sentence_transformers": {"model_type": "SentenceTransformer"}},
            "holds a SentenceTransformer, not a CrossEncoder; use SentenceEncoder",
        ),
        ("saved", {"config_sentence_transformers": {"model_type": "SparseEncoder"}}, "a SparseEncoder, not a .*oder$"),
        (
            "saved",
            {"sentence_bert_config": {"transformer_task": "text-generation"}},
            "'text-generation' is not supported",
        ),
        (
            "saved",
            {"sentence_bert_config": {"processing_kwargs": {"text": {"truncation": "only_first"}}}},
            "truncation 'only_first' is not supported; accepted: True, 'longest_first'",
        ),
        ("bert", {"tokenizer_config": {"model_max_length": 2}}, "adds 3 tokens to a pair; its max_length is only 2"),
    ],
)
def test_other_directories_are_refused_by_name(tmp_path, base, files, error):
    folder = write(tmp_path / "model", base, **files)
    with pytest.raises(ValueError, match=rf"^load: .*{error}"):
        Reranker.from_pretrained(folder)


def test_modules_behind_the_transformer_are_refused(tmp_path):
    kinds = {"": "base.modules.transformer.Transformer", "1_LogitScore": "cross_encoder.modules.logit_score.LogitScore"}
    modules = [{"path": path, "type": f"sentence_transformers.{kind}"} for path, kind in kinds.items()]
    folder = write(tmp_path, "saved", modules=modules)
    with pytest.raises(ValueError, match=r"LogitScore is not supported after the first; those that are: none"):
        Reranker.from_pretrained(folder)


def test_sentence_encoders_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^load: .*a SentenceTransformer, not a CrossEncoder; use SentenceEncoder"):
        Reranker.from_pretrained(write_model(tmp_path))


def test_missing_files_and_heads_are_named(tmp_path, folders):
    folder = write(tmp_path / "model", "bert")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json is missing"):
        Reranker.from_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    save_file({name: x for name, x in tensors.items() if "classifier" not in name}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="missing tensors of the head for sequence-classification: classifier"):
        Reranker.from_pretrained(folder)
    for length, error in ((33, ValueError), (2, ValueError), (True, TypeError), ("8", TypeError)):
        with pytest.raises((error, ValueError), match=r"^Reranker: max_length must be an integer from 3 to 32, not"):
            Reranker.from_pretrained(folders["bert"], max_length=length)


@pytest.mark.parametrize(("number", "kind"), list(enumerate(CLASSES)))
def test_pairs_are_tokenized_as_autotokenizer_does(tmp_path, number, kind):
    """Whatever class of tokenizer a directory names: special tokens, types, cuts at either end."""
    charsmap = base64.b64decode(json.loads((FOLDER / "tokenizers.json").read_text())["charsmap"])
    for i, settings in enumerate(SETTINGS):
        folder = tmp_path / str(i)
        folder.mkdir()
        write_tokenizer(folder, *kind, settings, charsmap)
        tokenizer = read_tokenizer(folder / "tokenizer.json", VOCAB_SIZE, LONGEST)
        with_types = gives_types(Settings(folder), {"model_type": kind[0]})
        found = [tokenizer.encode(*pair) for pair in TEXTS]
        given = [[x.ids, x.type_ids if with_types else None] for x in found]
        assert given == RECORD["classes"][number * len(SETTINGS) + i], settings


def test_a_post_processor_that_repeats_a_text_is_refused(tmp_path):
    folder = write(tmp_path, "modernbert")
    content = json.loads((folder / "tokenizer.json").read_text())
    pair = content["post_processor"]["pair"]
    pair.append(next(piece for piece in pair if "Sequence" in piece))
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"^load: .*tokenizer.json: its post_processor repeats the text"):
        Reranker.from_pretrained(folder)


def test_types_that_the_model_lacks(tmp_path):
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "token_type_ids"]}
    folder = write(tmp_path, "xlm-roberta", tokenizer_config=settings)
    assert np.isfinite(Reranker.from_pretrained(folder).predict(PAIRS)).all()  # all are of type 0
    content = json.loads((folder / "tokenizer.json").read_text())
    for piece in content["post_processor"]["pair"]:
        next(iter(piece.values()))["type_id"] = 1
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"^load: .*tokenizer.json gives the type 1; config.json has 1 of them"):
        Reranker.from_pretrained(folder)


def test_tokens_that_the_model_lacks(tmp_path):
    folder = write(tmp_path, "modernbert")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"]["mat"] = 99
    (folder / "tokenizer.json").write_text(json.dumps(content))
    reranker = Reranker.from_pretrained(folder)
    with pytest.raises(ValueError, match=r"^Reranker.predict: .*tokenizer.json gives the token 99; config.json has"):
        reranker.predict([("a", "mat")])


def test_pairs_without_tokens(tmp_path):
    folder = write(tmp_path, "modernbert")
    content = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(content | {"post_processor": None}))
    reranker = Reranker.from_pretrained(folder)
    with pytest.raises(
        ValueError, match=r"^Reranker.predict: .*tokenizer.json makes no tokens of pairs\[130\]; one is"
    ):
        reranker.predict([("a", "mat")] * 130 + [("", "")])


# --- calls


PAIR = r"a pair of str, \(query, document\), not"


@pytest.mark.parametrize(
    ("pairs", "kind", "error"),
    [
        (None, TypeError, "pairs must be a list of pairs of str, .* or one pair, not None"),
        ("the cat", TypeError, "pairs must be a list of pairs of str, .* or one pair, not str"),
        (3, TypeError, "pairs must be .*, not int"),
        (["the cat"], ValueError, rf"pairs must be {PAIR} 1 text$"),
        (("a", "b", "c"), ValueError, rf"pairs must be {PAIR} 3 texts"),
        ([("a", "b"), ("c",)], ValueError, rf"pairs\[1\] must be {PAIR} 1 text$"),
        ([("a", "b"), ()], ValueError, rf"pairs\[1\] must be {PAIR} 0 texts"),
        ([("a", "b"), "ab"], TypeError, rf"pairs\[1\] must be {PAIR} str"),
        ([("a", "b"), None], TypeError, rf"pairs\[1\] must be {PAIR} NoneType"),
        (["a", None], TypeError, rf"pairs\[0\] must be {PAIR} str"),
        ([("a", 3)], TypeError, r"pairs\[0\] must be a pair of str, not of int"),
        ([(b"a", "b")], TypeError, r"pairs\[0\] must be a pair of str, not of bytes"),
    ],
)
def test_wrong_pairs_are_named(rerankers, pairs, kind, error):
    with pytest.raises(kind, match=rf"^Reranker.predict: {error}"):
        rerankers["bert"].predict(pairs)


@pytest.mark.parametrize(
    ("given", "kind", "error"),
    [
        ({"query": None}, TypeError, "query must be a str, not NoneType"),
        ({"query": ["a"]}, TypeError, "query must be a str, not list"),
        ({"documents": "a"}, TypeError, r"documents must be a list of str, not a single one: rank\(query, \[text\]\)"),
        ({"documents": None}, TypeError, "documents must be a list of str, not NoneType"),
        ({"documents": ["a", 3]}, TypeError, r"documents\[1\] must be a str, not int"),
        ({"top_k": -1}, ValueError, "top_k must be an integer, 0 or more, not -1"),
        ({"top_k": 1.5}, (TypeError, ValueError), "top_k must be an integer, 0 or more, not 1.5"),
        ({"return_documents": "yes"}, TypeError, "return_documents must be True or False"),
        ({"activation": "tanh"}, ValueError, "activation must be one of 'identity', 'sigmoid', not 'tanh'"),
        ({"batch_tokens": 0}, ValueError, "batch_tokens must be a positive integer"),
        ({"truncate": None}, TypeError, "truncate must be True or False"),
        (
            {"truncate": False, "documents": ["a", "the cat " * 20]},
            ValueError,
            r"documents\[1\] has more than 24 tokens",
        ),
    ],
)
def test_wrong_arguments_of_rank_are_named(rerankers, given, kind, error):
    with pytest.raises(kind, match=rf"^Reranker.rank: {error}"):
        rerankers["bert"].rank(**{"query": "a", "documents": ["b"], **given})


def test_wrong_arguments_are_named_before_any_work(rerankers, monkeypatch):
    reranker = rerankers["bert"]
    monkeypatch.setattr(reranker, "model", None)  # which would be called
    pairs = [["a", "b"]] * 300
    for options, error in (
        ({"activation": 1}, "activation must be one of"),
        ({"apply_softmax": 2}, "apply_softmax must be True or False"),
        ({"batch_tokens": "9"}, "batch_tokens must be a positive integer"),
    ):
        with pytest.raises((TypeError, ValueError), match=rf"^Reranker.predict: {error}"):
            reranker.predict(pairs, **options)
    with pytest.raises(TypeError, match=r"^Reranker.predict: pairs\[300\]"):
        reranker.predict([*pairs, 3])


@pytest.mark.filterwarnings("default")
def test_a_warning_says_once_that_pairs_are_cut(folders):
    reranker = Reranker.from_pretrained(folders["bert"])
    long = ("find", "the cat " * 20)
    with pytest.raises(
        ValueError, match=r"^Reranker.predict: pairs\[1\] has more than 24 tokens; truncate=True cuts it"
    ):
        reranker.predict([("a", "b"), long], truncate=False)
    with pytest.warns(UserWarning, match=r"^Reranker.predict: pairs\[1\] has more than 24 .* are cut \(said") as seen:
        reranker.predict([("a", "b"), long])
    assert seen[0].filename == __file__  # where predict is called
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reranker.predict([long])  # says no more


def test_a_bar_is_drawn_if_asked(rerankers, capsys):
    pytest.importorskip("tqdm")
    rerankers["bert"].predict(PAIRS, show_progress=True)
    assert re.search(r"scoring: 100%.* 10/10 .*pair", capsys.readouterr().err)
    rerankers["bert"].predict(PAIRS * 40)
    assert not capsys.readouterr().err


def test_lone_surrogates_are_scored(rerankers):
    scores = rerankers["bert"].predict([("a \ud800", "b"), ("a ?", "b")])
    assert scores[0] == scores[1]


@pytest.mark.oracle
@pytest.mark.parametrize("name", CASES)
def test_beside_cross_encoder(folders, rerankers, name):
    if importlib.util.find_spec("sentence_transformers") is None:
        pytest.skip("sentence-transformers is not installed")
    from sentence_transformers import CrossEncoder

    rng = np.random.default_rng(1)
    words = ["cat", "dog", "root", "the", "?", "zz", "Find"]
    pairs = [tuple(" ".join(rng.choice(words, rng.integers(0, 30))) for _ in range(2)) for _ in range(60)]
    encoder = CrossEncoder(str(folders[name]))
    np.testing.assert_allclose(rerankers[name].predict(pairs), encoder.predict(pairs), atol=1e-5, rtol=0)
    if name in ONE:
        documents = [second for _, second in pairs]
        given, expected = rerankers[name].rank("the cat", documents), encoder.rank("the cat", documents)
        np.testing.assert_allclose([x["score"] for x in given], [x["score"] for x in expected], atol=1e-5, rtol=0)
