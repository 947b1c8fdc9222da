"""maxsim against the formula in float64: sizes around tiles, neighbours, what is empty or no number, bad input."""

from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest

import pyattn
from pyattn import reference

RNG = np.random.default_rng(0)
LENGTHS = [5, 0, 1, 1, 0, 180, 700, 3, 8, 16, 0, 0]


def texts(lengths, width, dtype=np.float32):
    x = RNG.standard_normal((sum(lengths), width)) / np.sqrt(max(width, 1))
    return x.astype(dtype), np.concatenate([[0], np.cumsum(lengths)])


def parts(x, starts):
    return [x[a:b] for a, b in pairwise(starts)]


def assert_near(scores, queries, documents):
    """Each maximum is wrong by no more than its product, of which none is beyond a few units."""
    expected = reference.maxsim(queries, documents)
    assert scores.dtype == np.float32 and scores.shape == expected.shape
    for query, found, row in zip(queries, scores, expected, strict=True):
        np.testing.assert_allclose(found, row, rtol=0, atol=4e-6 * (len(query) + 1))


@pytest.mark.parametrize("width", [0, 1, 7, 16, 17, 96, 128, 129])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_formula(width, dtype):
    queries, query_starts = texts([32, 0, 1, 47, 500, 3, 384, 0], width, dtype)
    documents, starts = texts(LENGTHS, width, dtype)
    scores = pyattn.maxsim(queries, documents, query_starts, starts)
    wide = [x.astype(np.float32) for x in (queries, documents)]
    assert_near(scores, parts(wide[0], query_starts), parts(wide[1], starts))


@pytest.mark.parametrize("count", [1, 2, 5, 6, 7, 8, 9, 15, 16, 17, 31, 33, 48, 49])
def test_sizes_of_tiles(count):
    queries, _ = texts([count], 20)
    documents, starts = texts([count, 64, 1], 20)
    scores = pyattn.maxsim(queries, documents, None, starts)
    assert_near(scores, [queries], parts(documents, starts))


def test_bits_do_not_depend_on_neighbours():
    queries, query_starts = texts([32, 5, 300, 300, 70], 24)
    documents, starts = texts([180, 3, 3, 900, 12, 12, 12, 1], 24)
    scores = pyattn.maxsim(queries, documents, query_starts, starts)
    for q, query in enumerate(parts(queries, query_starts)):
        for d, document in enumerate(parts(documents, starts)):
            assert pyattn.maxsim(query, document) == scores[q, d]
    wide = pyattn.maxsim(queries.astype(np.float16), documents.astype(np.float16), query_starts, starts)
    rounded = [x.astype(np.float16).astype(np.float32) for x in (queries, documents)]
    np.testing.assert_array_equal(wide, pyattn.maxsim(*rounded, query_starts, starts))


def test_three_axes():
    queries, documents = RNG.standard_normal((2, 5, 24)).astype(np.float32), RNG.standard_normal((3, 9, 24))
    documents = documents.astype(np.float32)
    scores = pyattn.maxsim(queries, documents)
    np.testing.assert_array_equal(scores, pyattn.maxsim(queries.reshape(10, 24), documents, [0, 5, 10]))
    assert_near(scores, list(queries), list(documents))
    assert pyattn.maxsim(queries, documents[:, :0]).tolist() == [[-np.inf] * 3] * 2
    assert pyattn.maxsim(queries[:, :0], documents).tolist() == [[0.0] * 3] * 2
    assert pyattn.maxsim(queries[:0], documents).shape == (0, 3)
    assert pyattn.maxsim(queries, documents[:0]).shape == (2, 0)


def test_any_layout():
    queries, _ = texts([7], 24)
    documents, starts = texts([30, 10], 24)
    expected = pyattn.maxsim(queries, documents, None, starts)
    gapped = np.zeros((40, 50), np.float32)
    gapped[:, 3:27] = documents
    for x in (gapped[:, 3:27], documents.T.copy().T, documents[::-1].copy()[::-1], documents[:, ::-1].copy()[:, ::-1]):
        np.testing.assert_array_equal(pyattn.maxsim(queries, x, None, starts), expected)
    unaligned = np.frombuffer(b"x" + documents.tobytes(), np.float32, offset=1).reshape(40, 24)
    np.testing.assert_array_equal(pyattn.maxsim(queries, unaligned, None, starts), expected)


@pytest.mark.parametrize("length", [1, 7, 8, 40])
def test_what_is_not_finite(length):
    queries, query_starts = texts([3, 4], 16)
    queries[3:, 0] = abs(queries[3:, 0]) + 1
    for place in range(length):
        documents, starts = texts([20, length, 20], 16)
        documents[20 + place, 0] = np.nan
        scores = pyattn.maxsim(queries, documents, query_starts, starts)
        assert np.isnan(scores).tolist() == [[False, True, False]] * 2
        documents[20 + place, 0] = np.inf
        assert pyattn.maxsim(queries, documents, query_starts, starts)[1].tolist()[1] == np.inf
        documents[20 + place, 0] = -np.inf
        with np.errstate(all="ignore"):
            expected = reference.maxsim(parts(queries, query_starts), parts(documents, starts))
        assert np.isfinite(expected[1, 1]) == (length > 1)
        np.testing.assert_allclose(pyattn.maxsim(queries, documents, query_starts, starts)[1], expected[1], atol=1e-4)


def test_what_is_refused():
    x = np.zeros((4, 8), np.float32)
    for wrong in (np.zeros((4, 8)), np.zeros((4, 8), int), np.zeros((4, 8), ">f4")):
        with pytest.raises(TypeError, match="maxsim: queries has dtype"):
            pyattn.maxsim(wrong, x)
        with pytest.raises(TypeError, match="maxsim: documents has dtype"):
            pyattn.maxsim(x, wrong)
    with pytest.raises(ValueError, match="queries have 8 features, documents 7"):
        pyattn.maxsim(x, x[:, :7])
    for shape in ((8,), (1, 1, 4, 8)):
        with pytest.raises(ValueError, match=r"documents has shape .*cu_seqlens_d"):
            pyattn.maxsim(x, np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match="queries has shape"):
        pyattn.maxsim(x[None], x, [0, 4])
    for wrong in ([0, 3], [1, 4], [0, 3, 2, 4], [[0, 4]], []):
        with pytest.raises((TypeError, ValueError), match="maxsim: cu_seqlens_d must"):
            pyattn.maxsim(x, x, None, wrong)
    with pytest.raises(TypeError, match="cu_seqlens_q must be integers"):
        pyattn.maxsim(x, x, [0.0, 4.0])
