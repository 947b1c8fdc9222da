"""Attention over dask arrays is the core's, as right, and computes no pair of chunks that positions hide."""

from itertools import product

import numpy as np
import pytest

import pyattn
from tests.support.oracle import BFLOAT16, assert_attention, assert_close, attention

pytest.importorskip("dask.array")

import dask
import dask.array

import pyattn.dask

attend = pyattn.dask.scaled_dot_product_attention

L, S = 37, 53


def arrays(dtype=np.float32, heads=(4, 4), lengths=(L, S), batch=(2,)):
    rng = np.random.default_rng(0)
    shapes = [(*batch, heads[0], lengths[0], 8), (*batch, heads[1], lengths[1], 8), (*batch, heads[1], lengths[1], 5)]
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def chunked(query, key, value, chunks=(1, 2, 10, 13)):
    batch, heads, queries, keys = chunks
    return (
        dask.array.from_array(query, chunks=(batch, heads, queries, 3)),
        dask.array.from_array(key, chunks=(2, 1, keys, 8)),
        dask.array.from_array(value, chunks=(2, 2, 20, 2)),
    )


def computed(*results):
    return dask.compute(*results, scheduler="sync")


def mask_of(*shape, share=0.7):
    return np.random.default_rng(1).random(shape) < share


OPTIONS = [
    {},
    {"is_causal": True},
    {"window": (4, 3), "softcap": 3.0},
    {"window": (None, 2), "scale": 0.7},
    {"is_causal": True, "window": (5, None), "sinks": np.arange(4.0)},
    {"alibi_slopes": pyattn.alibi_slopes(4)},
    {"kv_lengths": [0, 30], "is_causal": True, "alibi_slopes": pyattn.alibi_slopes(4)},
    {"kv_lengths": [53, 20], "sinks": [[1.0], [-np.inf]]},
    {"query_offset": [-20, 70], "is_causal": True},
    {"query_offset": 1000, "window": (5, 5), "sinks": 0.5},
]


@pytest.mark.parametrize("heads", [(4, 4), (4, 2)], ids=["heads", "shared"])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "plain")
def test_options(options, heads):
    query, key, value = arrays(heads=heads)
    out, lse = attend(*chunked(query, key, value), return_lse=True, split_every=2, **options)
    assert (out.shape, lse.shape) == ((2, 4, L, 5), (2, 4, L)) and out.dtype == lse.dtype == np.float32
    result, sums = computed(out, lse)
    assert_attention(result, query, key, value, **options)
    truth = attention(query, key, value, **options)[1]
    core = pyattn.scaled_dot_product_attention(query, key, value, return_lse=True, **options)[1]
    assert_close(sums, truth, core, 4 * np.finfo(np.float32).eps * (1 + abs(np.where(np.isfinite(truth), truth, 0))))


@pytest.mark.parametrize("shape", [(L, S), (2, L, S), (2, 1, L, S), (1, 4, 1, S), (2, 4, L, S)], ids=str)
@pytest.mark.parametrize("kind", ["mask", "bias", "both"])
def test_masks(shape, kind):
    query, key, value = arrays()
    mask = mask_of(*shape)
    mask[..., -1, :] = False  # rows that see nothing
    bias = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    options = {"mask": {"mask": mask}, "bias": {"bias": bias}, "both": {"mask": mask, "bias": bias}}[kind]
    given = {name: dask.array.from_array(x, chunks=7) for name, x in options.items()}
    for more in (given, options):
        (result,) = computed(attend(*chunked(query, key, value), is_causal=True, **more))
        assert_attention(result, query, key, value, is_causal=True, **options)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, BFLOAT16], ids=str)
def test_dtypes(dtype):
    query, key, value = arrays(dtype)
    bias = np.where(mask_of(L, S), 0.5, -np.inf).astype(dtype)
    out, lse = attend(*chunked(query, key, value), bias, return_lse=True, is_causal=True)
    result, sums = computed(out, lse)
    assert result.dtype == out.dtype == dtype and sums.dtype == lse.dtype
    assert_attention(result, query, key, value, bias, is_causal=True)


def test_arrays_without_batch_and_heads():
    query, key, value = (x[0] for x in arrays())
    heads = [dask.array.from_array(x, chunks=(2, 10, 8)) for x in (query, key, value)]
    assert_attention(computed(attend(*heads, mask_of(L, S)))[0], query, key, value, mask_of(L, S))
    one = [x[0] for x in (query, key, value)]
    assert_attention(computed(attend(*(x[0] for x in heads), is_causal=True))[0], *one, is_causal=True)


def test_a_query_in_memory():
    query, key, value = arrays(lengths=(1, S))
    chunks = chunked(query, key, value)
    assert_attention(computed(attend(query, *chunks[1:], is_causal=True))[0], query, key, value, is_causal=True)


@pytest.mark.parametrize("lengths", [(0, S), (L, 0)], ids=str)
def test_empty(lengths):
    query, key, value = arrays(lengths=lengths)
    result, lse = computed(*attend(*chunked(query, key, value), return_lse=True))
    assert result.shape == (2, 4, lengths[0], 5) and not result.any() and (lse == -np.inf).all()


def test_the_chunks_of_the_result_are_the_queries():
    query, key, value = chunked(*arrays())
    out, lse = attend(query, key, value, return_lse=True)
    assert out.chunks == (*query.chunks[:-1], (5,)) and lse.chunks == query.chunks[:-1]
    some = out[:, :, 5:12].mean(axis=-1) + lse[:, :, 5:12]
    whole, sums = pyattn.scaled_dot_product_attention(*arrays(), return_lse=True)
    np.testing.assert_allclose(computed(some)[0], (whole.mean(-1) + sums)[:, :, 5:12], atol=1e-5)


def calls_of(monkeypatch, *given, **options):
    """The numbers of queries and keys of each call of the core, in a computation, and its result."""
    seen = []
    core = pyattn.functional.scaled_dot_product_attention

    def call(query, key, value, **options):
        seen.append((query.shape[-2], key.shape[-2], pyattn.get_num_threads()))
        return core(query, key, value, **options)

    monkeypatch.setattr("pyattn.functional.scaled_dot_product_attention", call)
    computed(attend(*given, **options))
    return seen


@pytest.mark.parametrize(
    ("options", "pairs"),
    [
        ({}, 16),
        ({"is_causal": True}, 10),
        ({"window": (5, 0)}, 7),
        ({"window": (5, 5)}, 10),
        ({"window": (11, 0)}, 7 + 2),  # the first query of a chunk of 10 sees the chunk before the last
        ({"kv_lengths": [20, 11]}, 8),
        ({"kv_lengths": 0}, 4),  # one each, for rows of zeros
        ({"is_causal": True, "query_offset": [-40, 0]}, 10),
        ({"is_causal": True, "query_offset": 1000}, 16),
    ],
    ids=str,
)
def test_hidden_pairs_of_chunks_are_not_computed(options, pairs, monkeypatch):
    query, key, value = (dask.array.from_array(x, chunks=(2, 4, 10, 8)) for x in arrays(lengths=(40, 40)))
    seen = calls_of(monkeypatch, query, key, value, threads=1, **options)
    assert seen == [(10, 10, 1)] * pairs


def test_keys_that_are_hidden_are_not_read():
    """Chunks of keys that cannot be computed, where causality hides them."""

    def refuse(block, block_id):
        if block_id[2] == 2:
            raise OSError("must not be read")
        return block

    query, key, value = arrays(lengths=(26, 39))
    chunks = chunked(query, key, value)
    keys, values = (
        x.rechunk((2, 4, 13, -1)).map_blocks(refuse, dtype=np.float32, meta=np.empty((0,) * 4, np.float32))
        for x in chunks[1:]
    )
    (result,) = computed(attend(chunks[0], keys, values, is_causal=True, query_offset=0))
    assert_attention(result, query, key, value, is_causal=True, query_offset=0)


@pytest.mark.parametrize("parts", [1, 2, 4, 5, 16, 17])
def test_the_tree(parts):
    """Every part is merged once, with as many as split_every at a time."""
    query, key, value = arrays(lengths=(3, 2 * parts))
    for split_every in (2, 4):
        out = attend(*chunked(query, key, value, (2, 4, 3, 2)), split_every=split_every)
        tasks = {name: task for name, task in out.dask.items() if name[0].startswith("attention-merged")}
        groups = [task[1] for name, task in tasks.items() if name[-2] > 0]
        assert all(len(group) <= split_every for group in groups)
        assert sorted(name for group in groups for name in group) == sorted(tasks)[: len(tasks) - 1]
        assert_attention(computed(out)[0], query, key, value)


def test_what_hidden_keys_hold_is_never_read():
    query, key, value = arrays()
    mask = np.ones((L, S), bool)
    mask[:, 20:35] = False
    key[:, :, 20:35], value[:, :, 20:35] = np.nan, np.inf
    assert_attention(computed(attend(*chunked(query, key, value), mask))[0], query, key, value, mask)


def test_the_same_call_has_the_same_keys():
    x = chunked(*arrays())
    one, other, causal = attend(*x), attend(*x), attend(*x, is_causal=True)
    assert one.name == other.name != causal.name


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dropout_p": 0.1}, TypeError, "dropout_p is not for arrays of dask: which weights"),
        ({"return_weights": True}, TypeError, "return_weights is not for arrays of dask: the weights"),
        ({"out": np.empty(3)}, TypeError, "out is not for arrays of dask: .* not written to"),
        ({"causal": True}, TypeError, "there is no option 'causal'"),
        ({"mask": np.ones((2, 3), bool)}, ValueError, "mask has shape"),
        ({"mask": np.ones((L, S), int)}, TypeError, "an integer mask .* is ambiguous"),
        ({"mask": [[True]]}, TypeError, "mask must be an array of dask or NumPy, not list"),
        ({"window": 3}, TypeError, "window=3 is ambiguous"),
        ({"softcap": -1.0}, ValueError, "softcap must be positive"),
        ({"kv_lengths": [1, 54]}, ValueError, "kv_lengths must be"),
        ({"alibi_slopes": np.ones(3)}, ValueError, "alibi_slopes has shape"),
        ({"split_every": 1}, ValueError, "split_every must be an integer, 2 or more"),
        ({"threads": 0}, ValueError, "threads must be an integer from 1 to 1024"),
        ({"return_lse": "yes"}, TypeError, "return_lse must be True or False"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=f"^scaled_dot_product_attention: {message}"):
        attend(*chunked(*arrays()), **options)


def test_bad_arrays():
    query, key, value = chunked(*arrays())
    with pytest.raises(TypeError, match="^scaled_dot_product_attention: dtypes are mixed"):
        attend(query, key.astype(np.float64), value)
    with pytest.raises(ValueError, match="query's heads must be a multiple of key's"):
        attend(query, key[:, :3], value[:, :3])
    with pytest.raises(ValueError, match="key and value must agree on all axes but the last"):
        attend(query, key[:, :, :9], value)
    with pytest.raises(ValueError, match="key has chunks of unknown size; its compute_chunk_sizes"):
        attend(query[0, 0], key[0, 0][key[0, 0, :, 0] > 0], value[0, 0])
    sparse = pytest.importorskip("scipy.sparse").csr_array(np.eye(L, S))
    with pytest.raises(TypeError, match=r"a sparse mask is not for arrays of dask; mask.toarray\(\) makes a dense one"):
        attend(query, key, value, sparse)


def test_random_chunks():
    rng = np.random.default_rng(3)
    query, key, value = arrays(lengths=(29, 31))
    for causal, left, right in product([False, True], [None, 6], [None, 9]):
        sizes = [tuple(np.diff([0, *np.sort(rng.choice(np.arange(1, n), 4, replace=False)), n])) for n in (29, 31)]
        x = dask.array.from_array(query, chunks=(1, 4, tuple(map(int, sizes[0])), 8))
        keys, values = (dask.array.from_array(y, chunks=(2, 2, tuple(map(int, sizes[1])), -1)) for y in (key, value))
        options = {"is_causal": causal, "window": (left, right), "query_offset": [int(rng.integers(-9, 20)), 0]}
        assert_attention(computed(attend(x, keys, values, **options))[0], query, key, value, **options)


@pytest.mark.server
@pytest.mark.slow
def test_a_worker_that_is_killed():
    pytest.importorskip("distributed")
    from tests.dask.cluster import computed_beside_a_kill, slowly, two_workers

    query, key, value = arrays()
    queries, keys, values = chunked(query, key, value, (2, 4, 5, 13))
    slow = queries.map_blocks(slowly, dtype=np.float32, meta=np.empty((0,) * 4, np.float32))
    with two_workers() as client:
        result = computed_beside_a_kill(client, attend(slow, keys, values, is_causal=True))
    assert_attention(result, query, key, value, is_causal=True)
