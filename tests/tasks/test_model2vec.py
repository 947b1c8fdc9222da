"""Directories that model2vec writes, as tests/data/record_model2vec.py recorded what is made of them."""

import json

import numpy as np
import pytest

pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")

from safetensors.numpy import load_file, save_file

from pyattn import SentenceEncoder
from tests.data.record_model2vec import KNOWN
from tests.support.sentence_cases import FOLDER, write_case

RECORD = json.loads((FOLDER / "model2vec.json").read_text())
TENSORS = load_file(FOLDER / "model2vec.safetensors")
TEXTS, CASES = RECORD["texts"], RECORD["files"]
LONGEST = {"short": 7, "endless": None}

pytestmark = pytest.mark.filterwarnings("ignore:encode.*texts:UserWarning")  # "short" cuts some


def directory(folder, case):
    return write_case(folder, {"base": case, "changes": {}}, RECORD, TENSORS)


@pytest.mark.parametrize("case", CASES)
def test_vectors_are_those_of_sentence_transformers_and_of_model2vec(case, tmp_path):
    """model2vec leaves unknown tokens out, which sentence-transformers has rows of, and may cut texts before."""
    encoder = SentenceEncoder.from_pretrained(directory(tmp_path, case))
    vectors = encoder.encode(TEXTS)
    assert vectors.dtype == np.float32 and encoder.max_seq_length == LONGEST.get(case, 512)
    theirs = TENSORS[f"model2vec/{case}"]
    if case != "short":
        atol = 2e-3 if theirs.dtype == np.float16 else 1e-5  # it computes in halves
        np.testing.assert_allclose(vectors[:KNOWN], theirs[:KNOWN], atol=atol, rtol=1e-6)
    if case != "int8":  # which sentence-transformers does not read
        np.testing.assert_allclose(vectors, TENSORS[f"answer/{case}"], atol=1e-5, rtol=1e-6)
        assert abs(vectors[KNOWN:] - theirs[KNOWN:]).max() > 1e-3


@pytest.mark.parametrize("case", CASES)
def test_what_is_saved_gives_the_same_vectors(case, tmp_path):
    encoder = SentenceEncoder.from_pretrained(directory(tmp_path / "model", case))
    encoder.save_pretrained(tmp_path / "saved")
    again = SentenceEncoder.from_pretrained(tmp_path / "saved")
    np.testing.assert_allclose(again.encode(TEXTS), encoder.encode(TEXTS), atol=1e-6, rtol=1e-6)
    together = encoder.encode(TEXTS)
    np.testing.assert_array_equal(np.concatenate([encoder.encode([text]) for text in TEXTS]), together)


def test_a_directory_without_modules_is_named(tmp_path):
    (directory(tmp_path, "plain") / "modules.json").unlink()
    with pytest.raises(
        ValueError, match=r"^load: .*config\.json: directories of model2vec are read by a modules\.json"
    ):
        SentenceEncoder.from_pretrained(tmp_path)


def test_int8_is_refused_where_it_is_no_matrix_or_has_scales(tmp_path):
    file = directory(tmp_path, "int8") / "model.safetensors"
    save_file({"embeddings": np.ones(14, np.int8)}, file)
    with pytest.raises(ValueError, match=r"^load: .*model\.safetensors: embeddings must be .*shape \(tokens, width\)"):
        SentenceEncoder.from_pretrained(tmp_path)
    save_file({"embeddings": np.ones((14, 8), np.int8), "embeddings_scale": np.ones(14, np.float32)}, file)
    with pytest.raises(ValueError, match=r"^load: .*model\.safetensors: embeddings must be floats of shape"):
        SentenceEncoder.from_pretrained(tmp_path)
