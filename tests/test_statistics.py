import itertools

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from pyattn import attention_statistics
from tests.support import oracle
from tests.support.oracle import assert_same, results
from tests.support.problems import examples, normal, problems, qkv

each_dtype = pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)


@examples(150)
@given(problems(), st.data())
def test_random_problems(problem, data):
    (query, key, value), options = problem.arrays, problem.options
    length, keys = query.shape[-2], key.shape[-2]
    start = data.draw(st.integers(0, length))
    asked = {
        "entropy": data.draw(st.booleans()),
        "received": data.draw(st.booleans()),
        "query_range": data.draw(st.sampled_from([None, (start, data.draw(st.integers(start, length)))])),
        "top_k": data.draw(st.integers(1, min(keys, 9)) | st.just(keys)) if keys and data.draw(st.booleans()) else None,
    }
    value = value if data.draw(st.booleans()) else None
    found = attention_statistics(query, key, value, **options, **asked)
    judged = {name: asked[name] for name in ("top_k", "query_range")}
    oracle.assert_statistics(found, query, key, value, **options, **judged)
    assert (found.out is None) == (value is None)
    assert (found.entropy is None) == (not asked["entropy"])
    assert (found.received is None) == (not asked["received"])
    assert (found.top_keys is None) == (found.top_weights is None) == (asked["top_k"] is None)


@examples(100)
@given(problems(), st.data())
def test_pooled_is_what_keys_receive_from_some_queries(problem, data):
    (query, key, _), options = problem.arrays, problem.options
    length, keys = query.shape[-2], key.shape[-2]
    if not length or not keys:
        return
    rows, columns = (data.draw(st.integers(1, n)) for n in (length, keys))
    asked = {"pooled": (rows, columns), "entropy": data.draw(st.booleans())}
    found = attention_statistics(query, key, **options, **asked)
    assert found.pooled.shape == (*query.shape[:-2], rows, columns) and found.pooled.dtype == found.lse.dtype
    starts = np.arange(columns) * keys // columns
    for row in {0, rows // 2, rows - 1}:
        part = (row * length // rows, (row + 1) * length // rows)
        received = attention_statistics(query, key, **options, received=True, query_range=part).received
        expected = np.add.reduceat(received, starts, axis=-1)
        np.testing.assert_allclose(found.pooled[..., row, :], expected, rtol=1e-5, atol=1e-6)


def test_a_long_text_is_pooled_into_a_small_picture():
    """Windows are a band: each row of blocks has all its weight there."""
    query, key, _ = qkv(1, 3000, 3000, 16)
    found = attention_statistics(query, key, is_causal=True, window=(99, 0), pooled=(30, 30)).pooled[0]
    np.testing.assert_allclose(found.sum(-1), 100, rtol=1e-5)
    assert not np.triu(found, 1).any() and not np.tril(found, -2).any()


def test_pooled_beside_a_value_at_a_position():
    """Blocks are computed without the value, of which nothing is asked of them."""
    query, key, value = qkv(2, 9, 14, 16)
    alone, beside = (
        attention_statistics(query, key, x, is_causal=True, query_offset=3, pooled=(2, 3)).pooled for x in (None, value)
    )
    assert_same(beside, alone)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint64])
def test_pooled_of_lengths_of_any_integers(dtype):
    query, key, _ = (x[None] for x in qkv(2, 40, 60, 16))
    found, expected = (
        attention_statistics(query, key, is_causal=True, kv_lengths=np.array([20], kind), pooled=(4, 3)).pooled
        for kind in (dtype, np.int64)
    )
    assert_same(found, expected)


@pytest.mark.parametrize("pooled", [3, (3,), (0, 1), (1, 9), (6, 1), (1.0, 2), "ab", (True, 1)])
def test_pooled_refuses(pooled):
    query, key, _ = qkv(1, 5, 8, 16)
    accepted = r"attention_statistics: pooled must be \(1 to 5 \(L\), 1 to 8 \(S\)\), integers; not"
    with pytest.raises((TypeError, ValueError), match=accepted):
        attention_statistics(query, key, pooled=pooled)


@each_dtype
def test_received_adds_up(dtype):
    """The rows' sums, and those of the ranges, are the whole's."""
    query, key, _ = qkv(2, 90, 200, dtype=dtype)
    for options in ({}, {"is_causal": True}, {"mask": sparse.csr_array(normal((90, 200)) > 0)}):
        whole = attention_statistics(query, key, **options, received=True).received
        cuts = [0, 1, 40, 40, 90]
        parts = [
            attention_statistics(query, key, **options, received=True, query_range=cut).received
            for cut in itertools.pairwise(cuts)
        ]
        assert not parts[2].any()
        np.testing.assert_allclose(sum(parts), whole, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(whole.sum(-1), 90, rtol=1e-3)


@each_dtype
@pytest.mark.parametrize("length", [2, 40])
def test_equal_weights_are_ranked_by_key(dtype, length):
    """Keys that are equal have equal logits, wherever they lie."""
    query, key, _ = qkv(2, length, 300, 16, dtype=dtype)
    key = key[:, np.random.default_rng(0).integers(0, 7, 300)]
    mask = normal((length, 300)) > 0
    for options in ({}, {"mask": mask}, {"mask": sparse.csr_array(mask)}):
        found = attention_statistics(query, key, **options, top_k=300)
        oracle.assert_statistics(found, query, key, **options, top_k=300)
        keys, weights = found.top_keys, found.top_weights
        ties = (weights[..., 1:] == weights[..., :-1]) & (keys[..., 1:] >= 0)
        assert ties.any()
        assert (keys[..., 1:] > keys[..., :-1])[ties].all()
    same = attention_statistics(query * 0, key, top_k=300)
    np.testing.assert_array_equal(same.top_keys, np.broadcast_to(np.arange(300), same.top_keys.shape))


@each_dtype
def test_fewer_live_keys_than_asked_for(dtype):
    query, key, _ = qkv(2, 30, 40, dtype=dtype)
    for options in (
        {"is_causal": True, "query_offset": -3},
        {"mask": sparse.csr_array(np.tri(30, 40, -4, dtype=bool))},
    ):
        found = attention_statistics(query, key, **options, top_k=20, entropy=True)
        np.testing.assert_array_equal(
            (found.top_keys[0] >= 0).sum(-1), np.clip(np.arange(30) - 2 - (len(options) == 1), 0, 20)
        )
        assert (found.max[:, :3] == -np.inf).all()
        assert (found.lse[:, :3] == -np.inf).all()
        assert not found.entropy[:, :3].any()
        oracle.assert_statistics(found, query, key, **options, top_k=20)


@each_dtype
def test_known_entropies(dtype):
    close = {"rtol": 2 * oracle.COARSE if dtype == oracle.BFLOAT16 else 1e-6}
    query, key, _ = qkv(1, 20, 64, dtype=dtype)
    same = attention_statistics(query * 0, key, entropy=True)
    np.testing.assert_allclose(same.entropy, np.log(64), **close)
    assert not same.max.any()
    alone = attention_statistics(query, key, mask=np.eye(20, 64, dtype=bool), entropy=True)
    np.testing.assert_allclose(1 + alone.entropy, 1, **close)
    # with a sink that takes half of the weight, half of a uniform row's terms are left
    sunk = attention_statistics(query * 0, key, sinks=np.log([64.0]), entropy=True)
    np.testing.assert_allclose(sunk.entropy, np.log(128) / 2, **close)


@each_dtype
def test_many_keys_of_equal_weight(dtype):
    """Where adding one to the next would lose as much as can be."""
    query, key, _ = qkv(2, 9, 3000, dtype=dtype)
    found = attention_statistics(query * 0, key, entropy=True, received=True, top_k=3)
    oracle.assert_statistics(found, query * 0, key, top_k=3)


@each_dtype
def test_garbage_behind_a_mask_is_not_read(dtype):
    query, key, value = qkv(2, 50, 60, dtype=dtype)
    asked = {"entropy": True, "received": True, "top_k": 4}
    options = {"kv_lengths": 50, "is_causal": True}
    clean = results(attention_statistics(query, key, value, **options, **asked))
    for garbage in (np.nan, np.inf, -np.inf):
        dirty = [x.copy() for x in (key, value)]
        for x in dirty:
            x[:, 50:, 3] = garbage
        assert_same(results(attention_statistics(query, *dirty, **options, **asked)), clean)


@each_dtype
def test_nan_in_a_row_stays_in_it(dtype):
    query, key, _ = (x.copy() for x in qkv(1, 30, 40, dtype=dtype))
    clean = attention_statistics(query, key, is_causal=True, query_offset=0, entropy=True, received=True)
    query[0, 9, 1] = np.nan
    dirty = attention_statistics(query, key, is_causal=True, query_offset=0, entropy=True, received=True)
    others = np.arange(30) != 9
    for name in ("lse", "max", "entropy"):
        assert np.isnan(getattr(dirty, name)[0, 9]), name
        assert_same(getattr(dirty, name)[:, others], getattr(clean, name)[:, others])
    np.testing.assert_array_equal(np.isnan(dirty.received[0]), np.arange(40) <= 9)


@each_dtype
def test_huge_scores(dtype):
    query, key, _ = qkv(length=20, dtype=dtype)
    query, key = (query * 100).astype(dtype), (key * 100).astype(dtype)
    for options in ({}, {"is_causal": True}, {"bias": np.full((20, 33), ml_dtypes.finfo(dtype).min, dtype)}):
        found = attention_statistics(query, key, **options, entropy=True, received=True, top_k=3)
        oracle.assert_statistics(found, query, key, **options, top_k=3)


def test_no_queries_and_no_keys():
    for length, keys in ((0, 5), (5, 0), (0, 0)):
        query, key, value = qkv(2, length, keys)
        found = attention_statistics(query, key, value, entropy=True, received=True)
        assert found.out.shape == (2, length, 8)
        assert (found.max == -np.inf).all()
        assert not found.entropy.any()
        assert found.received.shape == (2, keys)
        assert not found.received.any()


@pytest.mark.parametrize("ndim", [2, 3, 4, 5])
def test_number_of_axes(ndim):
    shape = (2, 1, 3, 20, 8)[-ndim:]
    arrays = [normal(shape, seed=i) for i in range(3)]
    found = attention_statistics(*arrays, is_causal=True, entropy=True, received=True, top_k=2)
    oracle.assert_statistics(found, *arrays, is_causal=True, top_k=2)
