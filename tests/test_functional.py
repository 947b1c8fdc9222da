import inspect
import itertools

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from scipy import sparse

from bench import cases as bench_cases
from bench import options as bench_options
from pyattn import merge_attention, varlen_attention
from pyattn import scaled_dot_product_attention as sdpa
from tests.support import oracle
from tests.support.oracle import BFLOAT16, DTYPES, assert_same
from tests.support.problems import OPTIONS, everything, examples, laid_out, normal, problems, qkv

SIZES = [0, 1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 97, 127, 128, 129, 257]
ALL = {"return_lse": True, "return_weights": True}
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


# Right answers


@each_dtype
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("axis", ["length", "keys", "width", "value_width"])
def test_boundary_sizes(dtype, size, axis):
    arrays = qkv(**{"length": 50, "keys": 131, "width": 19, axis: size}, dtype=dtype)
    options = {"is_causal": (size + len(axis)) % 2 == 0}
    oracle.assert_attention(sdpa(*arrays, **ALL, **options), *arrays, **options)


@each_dtype
@pytest.mark.parametrize("keys", [1023, 1024, 1025, 2047, 2048, 2049, 3100])
def test_boundary_sizes_of_pieces(dtype, keys):
    arrays = qkv(1, 20, keys, 5, 9, dtype)
    for rows in (1, 20):
        fewer = arrays[0][:, :rows], *arrays[1:]
        oracle.assert_attention(sdpa(*fewer, **ALL), *fewer)


@pytest.mark.parametrize(("width", "value_width"), [(1025, 3), (2049, 1024), (3, 1025), (1024, 2050)])
@pytest.mark.parametrize("dtype", [np.float32, BFLOAT16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("length", [5, 60])
def test_widths_beyond_a_block(width, value_width, dtype, length):
    arrays = qkv(1, length, 140, width, value_width, dtype)
    oracle.assert_attention(sdpa(*arrays, is_causal=True, **ALL), *arrays, is_causal=True)


def test_random_problems_take_every_option():
    """And so do the benchmarks, but for a scale, which costs nothing."""
    apart = {"query", "key", "value", "out", "dropout_p", "dropout_seed", *ALL}
    known = inspect.signature(sdpa).parameters.keys() - apart
    assert known == {"mask", *OPTIONS} == {"scale", *everything(np.float32, 1, 1, 1)}
    case, rng = bench_cases.Case(1, 4, 4, 2), np.random.default_rng(0)
    assert known <= {"scale"}.union(*(make(case, rng) for make in bench_options.OPTIONS.values()))


@examples(200)
@given(problems())
def test_random_problems(problem):
    arrays, options = problem.arrays, problem.options
    oracle.assert_attention(sdpa(*arrays, **ALL, **options), *arrays, **options)


@each_dtype
@pytest.mark.parametrize("ndim", [2, 3, 4, 5])
def test_number_of_axes(dtype, ndim):
    shape = (2, 1, 3, 20, 8)[-ndim:]
    arrays = [normal(shape, dtype, seed=i) for i in range(3)]
    options = everything(dtype, *(3, 20, 20), batch=(2, 1))
    for name in ("mask", "bias"):
        options[name] = options[name][(0,) * (5 - ndim)]
    for name in ("alibi_slopes", "sinks"):
        options[name] = options[name][(0,) * (5 - ndim)]
    for name in ("kv_lengths", "query_offset"):
        options[name] = options[name][(0,) * min(2, 5 - ndim)]
    oracle.assert_attention(sdpa(*arrays, **ALL, **options), *arrays, **options)


def test_grouped_heads_read_the_right_key_head():
    query, key, value = normal((1, 6, 9, 4)), normal((1, 2, 11, 4), seed=1), normal((1, 2, 11, 4), seed=2)
    repeated = sdpa(query, np.repeat(key, 3, axis=1), np.repeat(value, 3, axis=1), **ALL)
    assert_same(sdpa(query, key, value, **ALL), repeated)


def test_causal_meets_the_last_key():
    arrays = qkv(1, 3, 5)
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]], bool)
    oracle.assert_attention(sdpa(*arrays, is_causal=True), *arrays, mask)
    arrays = qkv(1, 5, 3)
    assert not sdpa(*arrays, is_causal=True)[0, :2].any()


def test_causal_meets_the_last_key_of_a_length():
    arrays = qkv(1, 2, 6, batch=(3,))
    lengths = [6, 4, 1]
    for i, length in enumerate(lengths):
        mask = np.arange(6) <= np.arange(2)[:, None] + length - 2
        got = sdpa(*arrays, is_causal=True, kv_lengths=lengths)[i]
        oracle.assert_attention(got, *(x[i] for x in arrays), mask)


@each_dtype
@pytest.mark.parametrize("length", [1, 60])
def test_positions_far_away(dtype, length):
    arrays = qkv(1, length, 50, dtype=dtype)
    far = 2**30 - 1
    assert_same(sdpa(*arrays, is_causal=True, query_offset=far, **ALL), sdpa(*arrays, **ALL))
    assert_same(sdpa(*arrays, window=(2**40, None), query_offset=far, **ALL), sdpa(*arrays, **ALL))
    for options in ({"is_causal": True, "query_offset": -far}, {"window": (far - 60, 9), "query_offset": far}):
        out, lse, weights = sdpa(*arrays, **options, **ALL)
        assert not out.any()
        assert not weights.any()
        assert (lse == -np.inf).all()


@each_dtype
@pytest.mark.parametrize("length", [2, 17])
def test_rows_that_see_nothing_are_zero(dtype, length):
    arrays = qkv(length=length, dtype=dtype)
    mask = normal((length, 33)) > 0
    mask[::2] = False
    sinks = np.float32([-1, -np.inf])
    for form in (mask, np.where(mask, 0, -np.inf).astype(dtype), sparse.csr_array(mask)):
        out, lse, weights = sdpa(*arrays, form, **ALL)
        assert not out[:, ::2].any()
        assert not weights[:, ::2].any()
        assert (lse[:, ::2] == -np.inf).all()
        out, lse, weights = sdpa(*arrays, form, sinks=sinks, **ALL)
        assert not out[:, ::2].any()
        assert not weights[:, ::2].any()
        np.testing.assert_allclose(lse[:, ::2], np.broadcast_to(sinks[:, None], lse[:, ::2].shape), rtol=1e-6)
        oracle.assert_attention((out, lse, weights), *arrays, form, sinks=sinks)


@each_dtype
@pytest.mark.parametrize("length", [0, 1, 17])
def test_no_keys(dtype, length):
    arrays = qkv(length=length, keys=0, dtype=dtype, batch=(3,))
    options = everything(dtype, 2, length, 0, (3,)) | {"query_offset": 0}
    for chosen in ({}, {"is_causal": True}, {"mask": sparse.csr_array((length, 0))}, options):
        out, lse, weights = sdpa(*arrays, **ALL, **chosen)
        assert weights.shape == (3, 2, length, 0)
        assert not out.any()
        sinks = chosen.get("sinks", np.full((3, 2), -np.inf))
        np.testing.assert_allclose(lse, np.broadcast_to(sinks[..., None], lse.shape), rtol=1e-6)
    for lengths in ([0, 0, 0], 0):
        out, lse = sdpa(*qkv(length=length, batch=(3,), dtype=dtype), kv_lengths=lengths, return_lse=True)
        assert not out.any()
        assert (lse == -np.inf).all()


def test_mask_forms_mean_the_same():
    arrays = qkv(3, 20, 30, batch=(2,))
    mask = normal((2, 20, 30)) > 0
    expected = sdpa(*arrays, np.broadcast_to(mask[:, None], (2, 3, 20, 30)))
    assert_same(sdpa(*arrays, mask), expected)
    assert_same(sdpa(*arrays, mask[:, None]), expected)
    assert_same(sdpa(*arrays, mask[:1]), sdpa(*arrays, mask[0]))
    real = np.where(mask, np.float32(0), np.float32(-np.inf))
    oracle.assert_attention(sdpa(*arrays, real), *arrays, mask)
    oracle.assert_attention(sdpa(*arrays, bias=real), *arrays, mask)
    oracle.assert_attention(sdpa(*arrays, mask, bias=real), *arrays, mask)


@pytest.mark.parametrize("length", [3, 70])
def test_positions_mean_masks(length):
    arrays = qkv(2, length, 90)
    i, j = np.arange(length)[:, None] + 40, np.arange(90)
    for left, right in itertools.product([None, 0, 20], [None, 0, 7]):
        mask = (j >= (-99 if left is None else i - left)) & (j <= (999 if right is None else i + right))
        got = sdpa(*arrays, window=(left, right), query_offset=40, **ALL)
        oracle.assert_attention(got, *arrays, mask)
        got = sdpa(*arrays, window=(left, right), is_causal=True, kv_lengths=np.uint8(77), query_offset=40, **ALL)
        oracle.assert_attention(got, *arrays, mask & (j <= i) & (j < 77))


@pytest.mark.parametrize("kind", ["array", "matrix"])
@pytest.mark.parametrize("form", ["csr", "csc", "coo", "lil", "dok", "bsr", "dia"])
def test_sparse_formats(form, kind):
    arrays = qkv(2, 40, 60)
    band = sparse.dia_matrix((np.ones((3, 60)), [-7, 0, 21]), shape=(40, 60))
    mask = getattr(sparse, f"{form}_{kind}")(band)
    oracle.assert_attention(sdpa(*arrays, mask, **ALL), *arrays, band.toarray() != 0)
    oracle.assert_attention(sdpa(*arrays, mask, is_causal=True, **ALL), *arrays, band.toarray() != 0, is_causal=True)


def test_sparse_masks_are_what_is_stored():
    """Zeros, False and NaN too, in any order, some of them twice."""
    arrays = qkv(2, 40, 60)
    rng = np.random.default_rng(0)
    rows, columns = rng.integers(0, 40, 300), rng.integers(0, 60, 300)
    live = np.zeros((40, 60), bool)
    live[rows, columns] = True
    for data in (np.zeros(300), np.zeros(300, bool), np.full(300, np.nan, np.float32), np.ones(300, np.int8)):
        mask = sparse.coo_array((data, (rows, columns)), shape=(40, 60))
        oracle.assert_attention(sdpa(*arrays, mask, **ALL), *arrays, live)
    order = np.argsort(rows, kind="stable")
    starts = np.searchsorted(rows[order], np.arange(41))
    unsorted = sparse.csr_array((rng.standard_normal(300), columns[order], starts), shape=(40, 60))
    oracle.assert_attention(sdpa(*arrays, unsorted, **ALL), *arrays, live)
    oracle.assert_attention(sdpa(*arrays, unsorted, bias=unsorted, **ALL), *arrays, live, bias=unsorted)


@each_dtype
@pytest.mark.parametrize("length", [3, 60])
def test_sparse_mask_with_a_dense_bias(dtype, length):
    arrays = qkv(2, length, 300, dtype=dtype)
    live = normal((length, 300)) > 0
    bias = normal((2, length, 300), dtype, seed=1)
    mask = sparse.csr_array(live)
    oracle.assert_attention(sdpa(*arrays, mask, bias=bias, **ALL), *arrays, live, bias=bias)


def test_sparse_mask_of_many_keys():
    """More entries a row than a block of keys, and than a piece, and rows without any."""
    rng = np.random.default_rng(0)
    for length, keys in ((3, 4000), (50, 700)):
        arrays = qkv(2, length, keys)
        live = rng.random((length, keys)) < rng.random((length, 1))
        live[1] = False
        live[2] = True
        mask = sparse.csr_array(live)
        oracle.assert_attention(sdpa(*arrays, mask, **ALL), *arrays, live)
        bias = mask.astype(np.float64)
        bias.data = rng.standard_normal(mask.nnz)
        options = {"bias": bias, "window": (keys // 2, keys // 3), "kv_lengths": keys - 5, "softcap": 2.0}
        oracle.assert_attention(sdpa(*arrays, mask, **options, **ALL), *arrays, live, **options)


@pytest.mark.oracle
def test_against_torch():
    torch = pytest.importorskip("torch")
    for causal, grouped in itertools.product([False, True], [False, True]):
        q, k, v = qkv(4, 67, 67, 40, batch=(2,), key_heads=2 if grouped else 4)
        theirs = torch.nn.functional.scaled_dot_product_attention(
            *map(torch.from_numpy, (q, k, v)), is_causal=causal, enable_gqa=grouped
        ).numpy()
        np.testing.assert_allclose(sdpa(q, k, v, is_causal=causal), theirs, atol=2e-6)


# Numbers of all sizes


@each_dtype
@pytest.mark.parametrize("length", [3, 17])
def test_huge_scores(dtype, length):
    query, key, value = qkv(length=length, dtype=dtype)
    query, key = (query * 100).astype(dtype), (key * 100).astype(dtype)  # logits of some 1e4
    bias = (1e4 * normal((length, 33))).astype(dtype)
    for options in ({}, {"softcap": 20.0}, {"is_causal": True}, {"bias": bias}, {"alibi_slopes": 1e3}, {"sinks": 1e4}):
        oracle.assert_attention(sdpa(query, key, value, **ALL, **options), query, key, value, **options)


@each_dtype
@pytest.mark.parametrize("length", [3, 17])
def test_the_most_negative_number_is_a_mask_that_still_ranks(dtype, length):
    arrays = qkv(length=length, dtype=dtype)
    mask = np.full((length, 33), ml_dtypes.finfo(dtype).min, dtype)
    mask[: length // 2, :5] = 0
    for options in ({"mask": mask}, {"bias": mask}):
        out, lse, weights = sdpa(*arrays, **options, **ALL)
        oracle.assert_attention((out, lse, weights), *arrays, **options)
        if dtype != np.float16:  # its numbers end where float32 can still add to them
            np.testing.assert_allclose(weights[:, length // 2 :].astype(float), 1 / 33, rtol=4e-3)


@each_dtype
@pytest.mark.parametrize("length", [3, 17])
def test_large_small_and_zero_numbers(dtype, length):
    """The largest of float16, subnormal numbers and zeros of both signs, as values and as keys."""
    info = ml_dtypes.finfo(dtype)
    large = float(info.max) if dtype == np.float16 else float(info.max) ** 0.8  # sums are made before the division
    query, key, value = qkv(length=length, dtype=dtype)
    for special, scale in (
        (np.where(value > 1, large, np.where(value < -1, -large, value)), 1 / large),
        (value.astype(float) * (float(info.smallest_normal) / 3), 1.0),
        (np.where(value > 0, 1, -1) * float(info.smallest_subnormal), 1.0),
        (np.where(value > 0, 0.0, -0.0), 1.0),
    ):
        special = special.astype(dtype)
        oracle.assert_attention(sdpa(query, key, special, **ALL), query, key, special)
        oracle.assert_attention(sdpa(query, special, value, scale=scale, **ALL), query, special, value, scale=scale)
    zeros = np.where(query > 0, 0.0, -0.0).astype(dtype)
    oracle.assert_attention(sdpa(zeros, key, value, **ALL), zeros, key, value)


@each_dtype
def test_infinite_scores_follow_the_reference(dtype):
    query, key, value = (x.copy() for x in qkv(1, 4, 40, dtype=dtype))
    key[0, 7] = np.inf
    oracle.assert_attention(sdpa(query, key, value, **ALL), query, key, value)
    # logits of -inf: no weight beside others, NaN alone, as exp(-inf - -inf); and still not masked
    query, key = np.abs(query), -np.abs(key)
    key[0, 7] = 0
    key[0, 30] = -np.inf
    oracle.assert_attention(sdpa(query, key, value, **ALL), query, key, value)
    value[0, 30] = np.nan
    assert np.isnan(sdpa(query, key, value)).all()
    key[0, :] = -np.inf
    live = np.broadcast_to(np.arange(40) != 30, (4, 40))
    assert np.isnan(sdpa(query, key, value, live)).all()


# What is masked is not read, what is not comes out


def visible_forms(length, keys):
    """name: (which keys each row sees, options that say so for a dtype)."""
    i, j = np.arange(length)[:, None], np.arange(keys)
    offset = keys - length
    triangle = j <= i + offset
    column = np.broadcast_to(j < keys - 10, (length, keys))
    band = (j >= i + offset - 40) & (j <= i + offset + 3)
    scattered = np.random.default_rng(0).random((length, keys)) < 0.5

    def real(live, dtype):
        return np.where(live, 0, -np.inf).astype(dtype)

    def sparse_bias(live, dtype):
        return {"mask": sparse.csr_array(live), "bias": sparse.csr_array(live.astype(np.float32))}

    return {
        "bool": (triangle, lambda dtype: {"mask": triangle}),
        "bool column": (column, lambda dtype: {"mask": column}),
        "real": (triangle, lambda dtype: {"mask": real(triangle, dtype)}),
        "bias": (scattered, lambda dtype: {"bias": real(scattered, dtype)}),
        "bool and bias": (scattered & band, lambda dtype: {"mask": band, "bias": real(scattered, dtype)}),
        "causal": (triangle, lambda dtype: {"is_causal": True}),
        "window": (band, lambda dtype: {"window": (40, 3)}),
        "lengths": (column, lambda dtype: {"kv_lengths": keys - 10}),
        "lengths, causal": (
            column & (j <= i + offset - 10),
            lambda dtype: {"kv_lengths": keys - 10, "is_causal": True, "softcap": 5.0},
        ),
        "sparse": (scattered, lambda dtype: {"mask": sparse.csr_array(scattered)}),
        "sparse, causal": (
            scattered & triangle,
            lambda dtype: {"mask": sparse.csr_array(scattered), "is_causal": True},
        ),
        "sparse bias": (band, lambda dtype: sparse_bias(band, dtype)),
    }


@pytest.mark.parametrize("form", visible_forms(1, 1))
@pytest.mark.parametrize("length", [3, 150])
@each_dtype
def test_masked_keys_and_values_are_never_read(dtype, form, length):
    visible, options = visible_forms(length, 150)[form]
    options = options(dtype)
    query, key, value = qkv(1, length, 150, 24, dtype=dtype)
    clean = sdpa(query, key, value, **options, **ALL)
    sees = visible[:, 141:].any(axis=1)
    for garbage in (np.nan, np.inf, -np.inf):
        dirty_key, dirty_value = key.copy(), value.copy()
        dirty_key[0, 141:, 3] = garbage
        dirty_value[0, 141:, 5] = garbage
        dirty = sdpa(query, dirty_key, dirty_value, **options, **ALL)
        for got, expected in zip(dirty, clean, strict=True):
            assert_same(got[0, ~sees], expected[0, ~sees])
        assert not np.isfinite(dirty[0][0, sees, 5]).any()
        assert (dirty[2][0][~visible] == 0).all()
        assert_same(sdpa(query, key, dirty_value, **options, **ALL)[1:], clean[1:])


# NaNs may carry bits: R's missing value does, and sums of them keep the bits. The last ones are those the kernels mark
# masked pairs with.
NANS = {
    np.dtype(np.float16): [0x7E00, 0x7C01, 0xFE55, 0x7FFF],
    BFLOAT16: [0x7FC0, 0x7F81, 0xFFC5, 0x7FFF],
    np.dtype(np.float32): [0x7FC00000, 0x7FC00001, 0xFFC000FF, 0x7FFFFFFF, 0x7FFDFFFF],
    np.dtype(np.float64): [0x7FF8000000000000, 0x7FF80000000007A2, 0xFFFFFFFFFFFFFFFF, 0x7FFDA5A500005A5A],
}


@pytest.mark.parametrize("form", visible_forms(1, 1))
@pytest.mark.parametrize("length", [3, 60])
@each_dtype
def test_live_nan_reaches_the_rows_that_see_it_and_no_other(dtype, form, length):
    visible, options = visible_forms(length, 60)[form]
    options = options(dtype)
    for bits, place in itertools.product(NANS[dtype], range(3)):
        arrays = [x.copy() for x in qkv(1, length, 60, dtype=dtype)]
        row = length - 2 if place == 0 else 45
        arrays[place].view(f"u{dtype.itemsize}")[0, row, 1] = bits
        touched = np.isnan(sdpa(*arrays, **options)).any(axis=(0, 2))
        expected = (np.arange(length) == row) & visible.any(axis=1) if place == 0 else visible[:, row]
        np.testing.assert_array_equal(touched, expected, err_msg=f"{bits:#x} in array {place}")


@each_dtype
@pytest.mark.parametrize("infinity", [np.inf, -np.inf])
def test_live_infinity_reaches_the_rows_that_see_it_and_no_other(dtype, infinity):
    for length, place in itertools.product((3, 60), range(3)):
        arrays = [x.copy() for x in qkv(1, length, 60, dtype=dtype)]
        arrays[place][0, 1, 1] = infinity
        options = {"is_causal": True, "query_offset": 0}
        oracle.assert_attention(sdpa(*arrays, **options, **ALL), *arrays, **options)
        if place == 2:
            assert (sdpa(*arrays, **options)[0, 1:, 1] == infinity).all()


def test_a_weight_of_zero_still_passes_on_nan():
    query, key, value = (x.copy() for x in qkv(1, 20, 140))
    query[...], key[...] = 10, 10
    key[0, 77] = -10  # its weight underflows
    value[0, 77, 2] = np.nan
    for rows in (1, 20):
        for options in ({}, {"kv_lengths": 139}):
            out = sdpa(query[:, :rows], key, value, **options)
            assert np.isnan(out[..., 2]).all()
            assert np.isfinite(np.delete(out, 2, axis=-1)).all()


# Packed sequences


def test_packed_with_no_sequences():
    arrays = [normal((0, 2, 8)) for _ in range(3)]
    assert varlen_attention(*arrays, [0]).shape == (0, 2, 8)
    out, lse = varlen_attention(normal((3, 2, 8)), *arrays[1:], [0, 1, 3], [0, 0, 0], return_lse=True)
    assert not out.any()
    assert (lse == -np.inf).all()


# Merging


@each_dtype
@pytest.mark.parametrize("cuts", [[0, 200], [0, 1, 64, 64, 150, 200]])
def test_merged_parts_are_the_whole(dtype, cuts):
    arrays = qkv(4, 9, 200, dtype=dtype, batch=(2,), key_heads=2)
    mask = normal((9, 200)) > 0
    mask[3] = False
    mask[4, 100:] = False
    parts = [slice(*ends) for ends in itertools.pairwise(cuts)]
    results = [sdpa(arrays[0], *(x[..., p, :] for x in arrays[1:]), mask[:, p], return_lse=True) for p in parts]
    outs, lses = zip(*results, strict=True)
    merged = merge_attention(outs, lses)
    oracle.assert_attention(merged, *arrays, mask)
    assert not merged[0][..., 3, :].any()
    assert (merged[1][..., 3] == -np.inf).all()
    assert_same(merge_attention(np.stack(outs), np.stack(lses)), merged)
    if len(parts) == 1:
        assert_same(merged, results[0])


@each_dtype
def test_merging_does_not_read_parts_that_saw_nothing(dtype):
    out, lse = sdpa(*qkv(dtype=dtype), return_lse=True)
    nothing = np.full_like(out, np.nan), np.full_like(lse, -np.inf)
    assert_same(merge_attention([nothing[0], out], [nothing[1], lse]), (out, lse))
    merged = merge_attention([nothing[0]] * 2, [nothing[1]] * 2)
    assert not merged[0].any()
    assert (merged[1] == -np.inf).all()
    assert np.isnan(merge_attention([nothing[0], out], [lse, lse])[0]).all()


def test_sinks_are_merged_once():
    arrays, sinks = qkv(2, 9, 50), np.float32([1, -1])
    parts = [sdpa(*arrays, mask=np.broadcast_to(np.arange(50) < 20, (9, 50)), sinks=sinks, return_lse=True)]
    parts.append(sdpa(*arrays, mask=np.broadcast_to(np.arange(50) >= 20, (9, 50)), return_lse=True))
    merged = merge_attention(*zip(*parts, strict=True))
    oracle.assert_attention(merged, *arrays, sinks=sinks)


# out and inputs


def test_out_is_written_in_place_with_any_strides():
    arrays = qkv(3, 20, 30, batch=(2,))
    expected = sdpa(*arrays)
    memory = np.zeros((2, 20, 3, 17), np.float32)
    out = memory[..., :16:2].transpose(0, 2, 1, 3)
    assert sdpa(*arrays, out=out) is out
    np.testing.assert_array_equal(out, expected)
    assert not memory[..., 1::2].any()
    assert not memory[..., 16].any()


@each_dtype
@pytest.mark.parametrize("length", [1, 20])
@pytest.mark.parametrize("layout", ["transposed", "reversed", "gapped", "unaligned"])
def test_out_of_any_layout(dtype, length, layout):
    arrays = qkv(3, length, 30, dtype=dtype, batch=(2,))
    out = laid_out(np.zeros(arrays[0].shape, dtype), layout)
    got, lse, weights = sdpa(*arrays, out=out, **ALL)
    assert got is out
    assert_same((out.copy(), lse, weights), sdpa(*arrays, **ALL))


@pytest.mark.parametrize("sizes", [{"length": 0}, {"value_width": 0}, {"heads": 0}])
def test_out_may_be_empty(sizes):
    arrays = qkv(**sizes)
    out = np.empty((*arrays[0].shape[:-1], arrays[2].shape[-1]), np.float32)
    assert sdpa(*arrays, out=out) is out


def test_out_may_lie_between_the_rows_of_an_input():
    memory = normal((2, 17, 16))
    query, out = memory[..., :8], memory[..., 8:]
    key, value = normal((2, 33, 8), seed=1), normal((2, 33, 8), seed=2)
    expected = sdpa(query.copy(), key, value)
    np.testing.assert_array_equal(sdpa(query, key, value, out=out), expected)


def test_inputs_are_not_written():
    arrays = qkv()
    options = everything(np.float32, 2, 17, 33)
    inputs = [*arrays, *(x for x in options.values() if isinstance(x, np.ndarray))]
    before = [x.copy() for x in inputs]
    for x in inputs:
        x.flags.writeable = False
    sdpa(*arrays, **options)
    for x, y in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(x, y)
