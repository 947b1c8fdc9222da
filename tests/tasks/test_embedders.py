"""Whole directories as today's embedders have them, as tests/data/record_embedders.py recorded what they give."""

import json

import numpy as np
import pytest

pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")

from safetensors.numpy import load_file

from pyattn import Reranker, SentenceEncoder
from tests.support.sentence_cases import FOLDER, write_case

RECORD = json.loads((FOLDER / "embedders.json").read_text())
TENSORS = load_file(FOLDER / "embedders.safetensors")
TEXTS, CASES = RECORD["texts"], RECORD["cases"]
RERANKERS = RECORD["rerankers"]
LENGTHS = {"qwen3": 32768, "gemma": 2048, "gte": 8192, "arctic": 8192, "jina": 8192}


def directory(folder, name):
    return write_case(folder, {"base": name, "changes": {}}, RECORD, TENSORS)


@pytest.mark.parametrize("name", CASES)
def test_vectors_are_those_of_sentence_transformers(name, tmp_path):
    encoder = SentenceEncoder.from_pretrained(directory(tmp_path, name))
    assert encoder.max_seq_length == LENGTHS[name]
    for (method, options), answer in zip(CASES[name]["calls"], CASES[name]["answers"], strict=True):
        vectors = getattr(encoder, method)(TEXTS, **options)
        np.testing.assert_allclose(vectors, TENSORS[f"answer/{answer}"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("name", CASES)
def test_precisions_and_batches(name, dtype, tmp_path):
    """The same bits whoever shares a batch, near to those of sentence-transformers; saved and read again."""
    encoder = SentenceEncoder.from_pretrained(directory(tmp_path / "model", name), dtype=dtype)
    together = encoder.encode(TEXTS, normalize=True)
    np.testing.assert_array_equal(np.concatenate([encoder.encode([x], normalize=True) for x in TEXTS]), together)
    np.testing.assert_array_equal(np.stack(list(encoder.encode_stream(TEXTS, normalize=True))), together)
    theirs = TENSORS[f"answer/{CASES[name]['answers'][0]}"]
    theirs = theirs / np.linalg.norm(theirs, axis=1, keepdims=True)
    error = np.linalg.norm(together - theirs) / np.linalg.norm(theirs)
    assert error <= {"float32": 1e-5, "bfloat16": 0.05, "int8": 0.08}[dtype]
    encoder.save_pretrained(tmp_path / "saved")
    again = SentenceEncoder.from_pretrained(tmp_path / "saved", dtype=dtype)
    np.testing.assert_array_equal(again.encode(TEXTS, normalize=True), together)
    assert again.prompts == encoder.prompts


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("name", RERANKERS)
def test_rerankers_of_these_families(name, dtype, tmp_path):
    reranker = Reranker.from_pretrained(directory(tmp_path, name), dtype=dtype)
    pairs = [(TEXTS[2], text) for text in TEXTS if text]
    scores = reranker.predict(pairs)
    assert np.abs(scores - TENSORS[f"answer/{name}"]).max() <= {"float32": 1e-5, "bfloat16": 0.02, "int8": 0.03}[dtype]
    np.testing.assert_array_equal([reranker.predict(pair) for pair in pairs], scores)


def test_the_last_token_is_the_one_that_the_tokenizer_adds(tmp_path):
    """A text that is cut keeps it, and so does one that is empty."""
    encoder = SentenceEncoder.from_pretrained(directory(tmp_path, "qwen3"))
    end = encoder._first.tokenizer.token_to_id("<|endoftext|>")
    assert all(ids[-1] == end for ids in encoder._first.tokenize(TEXTS)[0])
    encoder.max_seq_length = 5
    assert [len(ids) for ids in encoder._first.tokenize([TEXTS[0], ""])[0]] == [5, 1]
    assert encoder._first.tokenize(TEXTS[:1])[0][0][-1] == end


def test_prompts_of_tasks(tmp_path):
    encoder = SentenceEncoder.from_pretrained(directory(tmp_path, "gemma"))
    written = encoder.encode([f"task: sentence similarity | query: {text}" for text in TEXTS])
    np.testing.assert_array_equal(encoder.encode(TEXTS, prompt_name="STS"), written)
    assert abs(encoder.encode_query(TEXTS) - encoder.encode_document(TEXTS)).max() > 1e-3
    with pytest.raises(ValueError, match=r"^encode: there is no prompt 'Reranker'; the names are 'query', 'document'"):
        encoder.encode(TEXTS, prompt_name="Reranker")


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("name", ["qwen3", "gemma"])
def test_sentence_transformers_reads_what_is_saved(name, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    encoder = SentenceEncoder.from_pretrained(directory(tmp_path / "model", name))
    encoder.save_pretrained(tmp_path / "saved")
    exact = {"model_kwargs": {"dtype": "float32"}}  # not bfloat16, which config.json names
    theirs = sentence_transformers.SentenceTransformer(str(tmp_path / "saved"), device="cpu", **exact)
    np.testing.assert_allclose(theirs.encode_query(TEXTS), encoder.encode_query(TEXTS), atol=1e-5, rtol=0)
