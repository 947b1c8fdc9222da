"""Caches of keys and values against plain arrays that grow."""

import numpy as np
import pytest
from scipy import sparse

import pyattn
from pyattn import KVCache
from tests.support import oracle

TOLERANCE = {"float32": 2e-6, "float64": 1e-14, "bfloat16": 2e-2, "int8": 3e-2}


def normal(shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def filled(dtype="float32", lengths=(40, 7, 23), capacity=50, heads=2, width=16, parts=(3, 1, 36), **options):
    """A cache, and the keys and values that were appended to it: of unlike lengths at last."""
    cache = KVCache(len(lengths), heads, capacity, width, dtype=dtype, **options)
    real = np.float64 if dtype == "float64" else np.float32
    key, value = normal((2, len(lengths), heads, max(lengths), width), real)
    first = 0
    for part in parts:
        here = np.clip(np.array(lengths) - first, 0, part)
        cache.append(key[:, :, first : first + part], value[:, :, first : first + part], lengths=here)
        first += part
    return cache, key, value


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("capacity", [40, 3000])
@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"window": (9, 0)}, {"softcap": 3.0}, {"sinks": [0.5]}])
@pytest.mark.parametrize("length", [1, 5])
def test_attends_to_what_was_appended(dtype, capacity, options, length):
    lengths = (capacity, 7, capacity * 3 // 5)
    cache, key, value = filled(dtype, lengths, capacity, parts=(3, 1, capacity - 4))
    query = normal((3, 4, length, 16), key.dtype, 5)
    found = cache.attend(query, **options)
    expected = pyattn.scaled_dot_product_attention(query, key, value, kv_lengths=lengths, **options)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE[dtype])
    np.testing.assert_array_equal(cache.lengths, lengths)
    for stored, x in ((cache.keys, key), (cache.values, value)):
        for row, whole, n in zip(stored, x, lengths, strict=True):
            np.testing.assert_allclose(row[:, :n], whole[:, :n], atol=abs(x).max() * TOLERANCE[dtype])


def test_masks_and_biases_are_of_all_keys():
    rng = np.random.default_rng(1)
    for dtype in ("float32", "int8"):
        cache, key, value = filled(dtype, (3000, 3000, 3000), 3000, parts=(3000,))
        query = normal((3, 4, 2, 16), seed=5)
        mask, bias = rng.random((2, 3000)) < 0.5, normal((3, 4, 2, 3000), seed=6)
        found = cache.attend(query, mask=mask, bias=bias)
        expected = pyattn.scaled_dot_product_attention(query, key, value, mask, bias=bias)
        np.testing.assert_allclose(found, expected, atol=TOLERANCE[dtype])


RNG = np.random.default_rng(3)
EVERY_OPTION = {
    "plain": {},
    "causal": {"is_causal": True},
    "offsets": {"is_causal": True, "query_offset": [2000, 5, 1024]},
    "an offset": {"window": (50, 10), "query_offset": np.int8(100)},
    "lse": {"return_lse": True, "sinks": [0.5, -np.inf, 9.0, 0.0]},
    "weights": {"return_weights": True, "softcap": 2.0},
    "both": {"return_weights": True, "return_lse": True, "sinks": [3.0]},
    "mask": {"mask": RNG.random((5, 3000)) < 0.5},
    "masks": {"mask": RNG.random((3, 5, 3000)) < 0.5},
    "a mask that is a list": {"mask": (RNG.random((5, 3000)) < 0.5).tolist()},
    "a mask of each row": {"mask": RNG.random((5, 1)) < 0.5},
    "floating mask": {"mask": normal((1, 4, 5, 3000))},
    "bias": {"bias": normal((3, 1, 1, 3000)), "alibi_slopes": [0.01, 0.0, 1.0, 0.1]},
    "dropout": {"dropout_p": 0.5, "dropout_seed": 3},
    "sparse": {"mask": sparse.random(5, 3000, 0.1, "csr", np.float32, rng=3)},
    "sparse bias": {"mask": (m := sparse.random(5, 3000, 0.1, "csr", np.float32, rng=3)), "bias": m},
}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", EVERY_OPTION)
@pytest.mark.parametrize("into", [False, True])
def test_every_option_is_the_functions(dtype, name, into):
    """More keys than one piece; what is stored is made reals, and so the function's results are these."""
    cache, _, _ = filled(dtype, (3000, 7, 1500), 3000, parts=(3000,))
    real = cache.keys.dtype
    query, options = normal((3, 4, 5, 16), real, 5), dict(EVERY_OPTION[name])
    for key in {"mask", "bias"} & options.keys():
        if getattr(options[key], "dtype", None) == np.float32:
            options[key] = options[key].astype(real)
    expected = pyattn.scaled_dot_product_attention(query, cache.keys, cache.values, kv_lengths=cache.lengths, **options)
    out = np.full((2, *query.shape), 7, real)[1] if into else None
    found = cache.attend(query, out=out, **options)
    expected, found = (x if isinstance(x, tuple) else (x,) for x in (expected, found))
    assert len(found) == len(expected)
    assert out is None or found[0] is out
    for x, y in zip(found, expected, strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_allclose(x, y, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kv_lengths": [1, 2, 3]}, TypeError, "^KVCache.attend: kv_lengths are the cache's; truncate makes"),
        ({"query_offset": [1, 2]}, ValueError, r"query_offset has shape \(2,\)"),
        ({"query_offset": np.uint64(2**64 - 1)}, ValueError, "query_offset must be below"),
        ({"query_offset": [0.5, 1, 2]}, TypeError, "query_offset has dtype float64"),
        ({"mask": np.ones((5, 1024), bool)}, ValueError, r"mask has shape \(5, 1024\)"),
        ({"mask": np.ones((5, 3000), int)}, TypeError, "an integer mask"),
        ({"bias": np.ones((5, 3000))}, TypeError, "bias has dtype float64"),
        ({"out": np.zeros((3, 4, 5, 15), np.float32)}, ValueError, "out has shape"),
        ({"out": np.zeros((3, 4, 5, 16))}, TypeError, "out must be an array of dtype float32"),
        ({"return_lse": 3}, TypeError, "return_lse must be True or False"),
        ({"scale": 0}, ValueError, "scale must be finite"),
        ({"query": np.zeros((3, 4, 5, 16))}, TypeError, "dtypes are mixed"),
        ({"query": np.zeros((3, 3, 5, 16), np.float32)}, ValueError, "heads must be a multiple"),
        ({"query": np.zeros((5, 16), np.float32)}, ValueError, "the same number of axes"),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_options_that_are_refused(dtype, options, error, message):
    cache, _, _ = filled(dtype, (3000, 7, 1500), 3000, parts=(3000,))
    out = np.full((3, 4, 5, 16), 7, np.float32)
    with pytest.raises(error, match=message) as raised:
        cache.attend(**{"query": normal((3, 4, 5, 16)), "out": out} | options)
    assert (out == 7).all()
    assert str(raised.value).startswith(("scaled_dot_product_attention: ", "KVCache.attend: "))


def test_float32_is_attended_to_where_it_lies():
    cache, key, value = filled()
    assert cache.keys.base is not None and np.shares_memory(cache.keys, cache._stored)
    query = normal((3, 4, 1, 16), seed=5)
    oracle.assert_attention(cache.attend(query), query, key, value, kv_lengths=np.array([40, 7, 23]))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_window_goes_on_without_end(dtype):
    cache = KVCache(2, 1, 12, 8, dtype=dtype, window=5)
    real = np.float64 if dtype == "float64" else np.float32
    key, value = normal((2, 2, 1, 100, 8), real)
    query = normal((2, 1, 100, 8), real, 3)
    for i in range(100):
        cache.append(key[:, :, i : i + 1], value[:, :, i : i + 1], lengths=[1, i % 2])
        found = cache.attend(query[:1, :, i : i + 1].repeat(2, axis=0), window=(4, 0))
        seen = slice(max(0, i - 4), i + 1)
        expected = pyattn.scaled_dot_product_attention(query[:1, :, i : i + 1], key[:1, :, seen], value[:1, :, seen])
        np.testing.assert_allclose(found[:1], expected, atol=TOLERANCE[dtype])
    np.testing.assert_array_equal(cache.lengths + cache.base, [100, 50])
    assert cache.keys.shape[2] <= 12


def test_truncate_and_reorder():
    cache, key, value = filled()
    cache.truncate([40, 5, 10])
    cache.reorder([2, 0])
    more = normal((2, 2, 2, 4, 16), seed=9)
    cache.append(*more)
    query = normal((2, 2, 1, 16), seed=5)
    for row, (source, n) in enumerate(((2, 10), (0, 40))):
        keys = np.concatenate([key[source, :, :n], more[0, row]], axis=1)
        values = np.concatenate([value[source, :, :n], more[1, row]], axis=1)
        expected = pyattn.scaled_dot_product_attention(query[row], keys, values)
        np.testing.assert_allclose(cache.attend(query)[row], expected, atol=2e-6)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda c, x: KVCache(0, 1, 1, 1), ValueError, "^KVCache: batch_size must be a positive integer, not 0"),
        (lambda c, x: KVCache(1, 1, 3, 1, window=4), ValueError, "^KVCache: capacity 3 is below window 4"),
        (lambda c, x: KVCache(1, 1, 3, 1, dtype="int4"), TypeError, "^KVCache: dtype must be"),
        (lambda c, x: c.append(x, x[:, :, :2]), ValueError, r"^KVCache.append: value has shape \(3, 2, 2, 16\)"),
        (lambda c, x: c.append(x[:2], x[:2]), ValueError, r"^KVCache.append: key has shape \(2, 2, 4, 16\)"),
        (lambda c, x: c.append(x > 0, x), TypeError, "^KVCache.append: key has dtype bool"),
        (lambda c, x: c.append(x.repeat(3, 2), x.repeat(3, 2)), ValueError, "would have 52 tokens, the cache holds 50"),
        (lambda c, x: c.append(x, x, lengths=[1, 2]), ValueError, r"^KVCache.append: lengths has shape \(2,\)"),
        (lambda c, x: c.append(x, x, lengths=[1, 2, 5]), ValueError, "^KVCache.append: lengths must be from 0 to"),
        (
            lambda c, x: c.truncate([41, 1, 1]),
            ValueError,
            "^KVCache.truncate: lengths must be from 0 to the sequence's",
        ),
        (lambda c, x: c.reorder([3]), ValueError, r"^KVCache.reorder: rows must be in \[0, 3\)"),
        (lambda c, x: c.reorder([0, 1, 2, 2]), ValueError, "^KVCache.reorder: rows has shape"),
        (lambda c, x: c.reorder([0.5]), TypeError, "^KVCache.reorder: rows has dtype float64"),
    ],
)
def test_bad_input_writes_nothing(call, kind, message):
    cache, _, _ = filled()
    before = cache._stored.copy()
    with pytest.raises(kind, match=message):
        call(cache, normal((3, 2, 4, 16)))
    np.testing.assert_array_equal(cache._stored, before)
    np.testing.assert_array_equal(cache.lengths, [40, 7, 23])
