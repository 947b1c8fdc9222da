"""Quantised embeddings: the bits that sentence-transformers gives, from `quantize_embeddings` and from encoders."""

from pathlib import Path

import numpy as np
import pytest

from pyattn.tasks.quantization import quantize_embeddings
from pyattn.tasks.sentence import SentenceEncoder
from tests.support.tiny_model import write_model

safetensors = pytest.importorskip("safetensors.numpy")
pytest.importorskip("tokenizers")

RECORDED = safetensors.load_file(Path(__file__).parent.parent / "data" / "quantization.safetensors")
X, RANGES = RECORDED["embeddings"], RECORDED["ranges"]
PRECISIONS = ("int8", "uint8", "binary", "ubinary")
SCALED = PRECISIONS[:2]
TEXTS = ["the cat sat on a mat", "", "find the root of a function.", "Dog", "root"]


def assert_same(x, y):
    assert x.dtype == y.dtype and x.shape == y.shape
    np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return SentenceEncoder.from_pretrained(write_model(tmp_path_factory.mktemp("model")))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_bits_of_sentence_transformers(precision):
    assert_same(quantize_embeddings(X, precision), RECORDED[f"{precision}.own"])
    assert_same(quantize_embeddings(X.astype(np.float64), precision), RECORDED[f"{precision}.wide"])
    matrices = quantize_embeddings([X[:2], X[2:3], X[3:]], precision)
    for i, matrix in enumerate(matrices):
        assert_same(matrix, RECORDED[f"{precision}.list.{i}"])


@pytest.mark.parametrize("precision", SCALED)
def test_ranges_that_are_given(precision):
    by_calibration = quantize_embeddings(X, precision, calibration_embeddings=RECORDED["calibration"])
    assert_same(by_calibration, RECORDED[f"{precision}.calibration"])
    assert_same(quantize_embeddings(X, precision, ranges=RANGES), RECORDED[f"{precision}.ranges"])
    assert_same(quantize_embeddings(X[0], precision, RANGES), RECORDED[f"{precision}.single"])
    far = np.full((1, 10), np.inf, np.float32)  # beyond any range, and so the ends of it
    np.testing.assert_array_equal(quantize_embeddings(far, precision, RANGES), 127 if precision == "int8" else 255)


def test_float32_is_left_as_it_is():
    assert_same(quantize_embeddings(X, "float32"), X)
    assert quantize_embeddings(X.astype(np.float64), "float32").dtype == np.float32


@pytest.mark.parametrize("precision", PRECISIONS)
def test_nothing(precision):
    width = 10 if precision in SCALED else 2
    empty = quantize_embeddings(np.zeros((0, 10), np.float32), precision)
    assert empty.shape == (0, width) and empty.dtype == (np.int8 if precision in ("int8", "binary") else np.uint8)
    assert quantize_embeddings([], precision) == []
    first, second = quantize_embeddings([np.zeros((0, 10), np.float32), X], precision)
    assert first.shape == (0, width) and first.dtype == second.dtype


def test_what_is_refused():
    with pytest.raises(ValueError, match="precision must be one of 'float32', 'int8'"):
        quantize_embeddings(X, "int4")
    with pytest.raises(TypeError, match="embeddings"):
        quantize_embeddings(RECORDED["uint8.own"], "uint8")
    with pytest.raises(ValueError, match=r"1 or 2 axes, not shape \(1, 12, 10\)"):
        quantize_embeddings(X[None], "uint8")
    for single in (X[0], X[:1], [X[:1]]):
        with pytest.raises(ValueError, match="uint8 needs ranges, which a single embedding does not tell"):
            quantize_embeddings(single, "uint8")
    with pytest.raises(ValueError, match=r"ranges have shape \(2, 9\); \(2, 10\) is needed"):
        quantize_embeddings(X, "uint8", RANGES[:, 1:])
    with pytest.raises(ValueError, match=r"ranges have shape \(12, 10\)"):
        quantize_embeddings(X, "uint8", X)
    with pytest.raises(ValueError, match="both given"):
        quantize_embeddings(X, "uint8", RANGES, X)
    with pytest.raises(ValueError, match="ranges are for precision int8 and uint8, not 'binary'"):
        quantize_embeddings(X, "binary", RANGES)
    with pytest.raises(ValueError, match="finite and ascend, but feature 0"):
        quantize_embeddings(X, "int8", RANGES[::-1])
    with pytest.raises(ValueError, match="different widths"):
        quantize_embeddings([X, X[:, :5]], "binary")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_nan_has_no_number(precision):
    broken = X.copy()
    broken[2, 3] = np.nan
    with pytest.raises(ValueError, match=r"NaN|finite"):
        quantize_embeddings(broken, precision)
    if precision in SCALED:
        with pytest.raises(ValueError, match="an embedding has a NaN"):
            quantize_embeddings(broken, precision, RANGES)
        broken[2, 3] = np.inf
        with pytest.raises(ValueError, match="finite"):
            quantize_embeddings(broken, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_encode(encoder, precision):
    """Cut, then of unit length if that is asked for, then quantised."""
    cut = encoder.encode(TEXTS, normalize=True, truncate_dim=9)
    for encode in (encoder.encode, encoder.encode_query, encoder.encode_document):
        rounded = encode(TEXTS, normalize=True, truncate_dim=9, precision=precision)
        assert_same(rounded, quantize_embeddings(cut, precision))
    assert encoder.encode([], precision=precision).shape == (0, 24 if precision in SCALED else 3)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_encode_stream(encoder, precision):
    """The whole set's ranges are not known to a stream: they are given, or the precision is refused."""
    vectors = encoder.encode(TEXTS)
    ranges = np.stack([vectors.min(0), vectors.max(0)]) if precision in SCALED else None
    streamed = list(encoder.encode_stream(iter(TEXTS), precision=precision, ranges=ranges))
    assert_same(np.array(streamed), encoder.encode(TEXTS, precision=precision))
    if precision in SCALED:
        with pytest.raises(ValueError, match=f"encode_stream: {precision} needs ranges"):
            encoder.encode_stream(iter(TEXTS), precision=precision)
        with pytest.raises(ValueError, match=f"encode: {precision} needs ranges"):
            encoder.encode(["dog"], precision=precision)
        assert_same(encoder.encode([TEXTS[0]], precision=precision, ranges=ranges)[0], streamed[0])


def test_settings_of_encode_that_are_refused(encoder):
    with pytest.raises(ValueError, match="encode: precision must be one of"):
        encoder.encode(TEXTS, precision="float16")
    with pytest.raises(ValueError, match=r"encode: ranges have shape \(2, 10\); \(2, 24\) is needed"):
        encoder.encode(TEXTS, precision="int8", ranges=RANGES)
    with pytest.raises(ValueError, match="ranges are for precision int8 and uint8, not 'float32'"):
        encoder.encode(TEXTS, ranges=RANGES)
