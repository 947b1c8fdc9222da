"""The backward pass: gradients of every option against those of the reference, which finite differences hold."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from scipy import sparse

import pyattn
from pyattn import attention_backward, reference, varlen_attention, varlen_attention_backward
from pyattn import scaled_dot_product_attention as sdpa
from tests.support import oracle
from tests.support.oracle import DTYPES, assert_same
from tests.support.problems import everything, examples, laid_out, normal, num_threads, problems, qkv
from tests.test_flash_grid import drawn, grid
from tests.test_flash_grid import name as case_name

SIZES = [0, 1, 2, 7, 15, 16, 17, 33, 47, 48, 49, 97, 127, 128, 129, 193, 257]
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
of_one_and_of_two = pytest.mark.parametrize("dtype", [x for x in DTYPES if x.name in ("float32", "bfloat16")], ids=str)


def learned(options):
    """The options that have gradients."""
    names = ("mask", "bias", "alibi_slopes", "sinks")
    given = {name: options[name] for name in names if options.get(name) is not None}
    return [name for name, x in given.items() if not hasattr(x, "tocsr") and (name != "mask" or x.dtype != bool)]


def summed_to(x, shape):
    """Over the axes along which an array of that shape was broadcast; without an axis of heads it had one of 1."""
    aligned = shape if len(shape) in (0, 2) or len(shape) >= x.ndim else (*shape[:-2], 1, *shape[-2:])
    x = x.sum(axis=tuple(range(x.ndim - len(aligned))))
    return x.sum(axis=tuple(i for i, n in enumerate(aligned) if n == 1), keepdims=True).reshape(shape)


def forward(arrays, options, seed=5):
    out, lse = sdpa(*arrays, return_lse=True, **options)
    return out, lse, normal(out.shape, out.dtype, seed), normal(lse.shape, lse.dtype, seed + 1)


def gradients(arrays, options, also=(), grad_lse=True, seed=5):
    out, lse, grad_out, of_lse = forward(arrays, options, seed)
    given = options | ({"grad_lse": of_lse} if grad_lse else {})
    return attention_backward(grad_out, *arrays, out, lse, also=also, **given)


def assert_right(arrays, options, seed=5):
    """Twice as far from the truth as the plain formula in the same dtype, at most, and a few roundings."""
    names = learned(options)
    found = gradients(arrays, options, names, seed=seed)
    _, _, grad_out, grad_lse = forward(arrays, options, seed)
    dtype = arrays[0].dtype
    statistics = oracle.statistics_dtype(dtype)
    work = np.float64 if dtype == np.float64 else np.float32
    exact, plain = (
        reference.attention_backward(grad_out, *arrays, grad_lse=grad_lse, dtype=d, **options)
        for d in (oracle.wider(dtype), dtype)
    )
    for name in ("query", "key", "value", *names):
        got = getattr(found, name)
        kind = "logits" if name in ("mask", "bias") else name
        option = options.get(name)
        assert got.dtype == (statistics if name in ("alibi_slopes", "sinks") else dtype), name
        truth, rough = (x[kind].astype(oracle.wider(dtype)) for x in (exact, plain))
        if option is not None:
            truth, rough = (summed_to(x, np.shape(option)) for x in (truth, rough))
        assert got.shape == truth.shape, name
        if truth.size == 0:
            continue
        largest = float(abs(truth).max())
        rounding = float(np.finfo(work).eps) * 64 + (0 if dtype == work else eps(dtype))  # out is rounded, too
        scores = score_error(arrays, options, work)
        bound = 2 * abs(rough - truth).max() + (rounding + scores) * largest
        if name in ("alibi_slopes", "sinks"):  # sums that cancel, of D, in which out is rounded
            products = abs(grad_out.astype(np.float64) * forward(arrays, options, seed)[0]).sum()
            farthest = 1 if name == "sinks" else arrays[0].shape[-2] + arrays[1].shape[-2] + 40
            bound += rounding * products * farthest
        worst = abs(got.astype(truth.dtype) - truth).max()
        assert worst <= bound, (name, worst, bound, largest)


def eps(dtype):
    return {"float16": 2.0**-10, "bfloat16": 2.0**-7}.get(dtype.name, float(np.finfo(np.float32).eps))


def score_error(arrays, options, work):
    """Of the weights: half a rounding of the largest logit, and of the lse, which is of that size."""
    logits = reference.softmax(
        *arrays[:2], options.get("mask"), **{k: x for k, x in options.items() if k != "mask"}
    ).logits
    finite = logits[np.isfinite(logits)]
    return float(np.finfo(work).eps) * float(abs(finite).max()) * 2 if finite.size else 0.0


# The reference


def test_the_reference_agrees_with_finite_differences():
    query, key, value = qkv(4, 5, 7, 3, 2, np.float64, key_heads=2)
    whole = everything(np.float64, 4, 5, 7)
    options = {name: whole[name] for name in ("bias", "softcap", "alibi_slopes", "sinks", "is_causal", "query_offset")}
    options["bias"] = np.where(np.isinf(options["bias"]), 0, options["bias"])
    grad_out, grad_lse = normal((4, 5, 2), np.float64), normal((4, 5), np.float64)
    found = reference.attention_backward(grad_out, query, key, value, grad_lse=grad_lse, **options)
    found = {"bias": found.pop("logits"), **found}
    arrays = {"query": query, "key": key, "value": value, **options}
    arrays = {name: np.array(x, np.float64) if name in found else x for name, x in arrays.items()}

    def loss():
        out, lse = reference.scaled_dot_product_attention(**arrays)
        return float((out * grad_out).sum() + (lse * grad_lse).sum())

    step = 1e-6
    for name, expected in found.items():
        x = arrays[name]
        for place in itertools.islice(np.ndindex(x.shape), 0, None, max(1, x.size // 12)):
            kept = x[place]
            x[place] = kept + step
            above = loss()
            x[place] = kept - step
            below = loss()
            x[place] = kept
            assert (above - below) / (2 * step) == pytest.approx(expected[place], rel=1e-5, abs=1e-7), (name, place)


# Right gradients


@each_dtype
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("axis", ["length", "keys", "width", "value_width"])
def test_boundary_sizes(dtype, size, axis):
    arrays = qkv(**{"length": 50, "keys": 131, "width": 19, axis: size}, dtype=dtype)
    assert_right(arrays, {"is_causal": (size + len(axis)) % 2 == 0})


@of_one_and_of_two
@pytest.mark.parametrize(("length", "keys"), [(1100, 70), (70, 1300), (1700, 1500)])
@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"window": (100, 30)}], ids=str)
def test_many_rows(length, keys, options, dtype):
    """Of several chunks of queries, and several spans of keys."""
    assert_right(qkv(4, length, keys, 32, 64, dtype, key_heads=2), options)


@each_dtype
def test_every_option_alone_and_all(dtype):
    whole = everything(dtype, 4, 60, 90, (2,))
    arrays = qkv(4, 60, 90, 24, 40, dtype, (2,), key_heads=2)
    forms = [{name: x} for name, x in whole.items()] + [{"mask": normal((60, 90), dtype)}, {"scale": -0.3}, whole]
    for options in forms:
        assert_right(arrays, options)


@each_dtype
def test_gradients_are_summed_over_what_was_broadcast(dtype):
    arrays = qkv(4, 33, 70, 16, dtype=dtype, batch=(2, 3), key_heads=2)
    shapes = [(33, 70), (1, 70), (33, 1), (2, 3, 33, 70), (1, 3, 4, 33, 1), (2, 1, 1, 1, 70), (2, 3, 4, 33, 70)]
    for seed, shape in enumerate(shapes):
        assert_right(arrays, {"bias": normal(shape, dtype, seed), "mask": normal(shape, dtype, seed + 9)})
    for shape in [(), (4,), (3, 4), (2, 1, 4), (1, 3, 1)]:
        assert_right(arrays, {"alibi_slopes": normal(shape) / 8, "sinks": normal(shape)})


@examples(100)
@given(problems())
def test_random_problems(problem):
    assert_right(problem.arrays, problem.options)


@pytest.mark.parametrize("case", grid(longest=300), ids=case_name)
def test_flash_attention_grid(case):
    """FlashAttention's sizes and options, and its rule."""
    assert_right(*drawn(case))


@pytest.mark.parametrize("ndim", [2, 3, 4])
def test_number_of_axes(ndim):
    arrays = [x[(0,) * (4 - ndim)] for x in qkv(2, 17, 33, 16, batch=(2,))]
    assert_right(arrays, {"sinks": np.float32(0.5), "bias": normal((17, 33))})


def test_masks_may_be_lists():
    arrays, options = qkv(2, 3, 4, 16), {"mask": normal((3, 4)) > 0, "bias": normal((3, 4))}
    lists = {"mask": options["mask"].tolist(), "bias": options["bias"]}
    for x, y in zip(gradients(arrays, lists, ["bias"]), gradients(arrays, options, ["bias"]), strict=True):
        assert (x is None and y is None) or assert_same(x, y) is None


def test_a_sparse_mask_is_its_dense_one(monkeypatch):
    from pyattn import gradients as module

    monkeypatch.setattr(module, "SPARSE_ROWS", 50)
    query, key, value = qkv(4, 120, 150, 16, batch=(2,), key_heads=2)
    live = sparse.csr_array(np.random.default_rng(0).random((120, 150)) < 0.2)
    bias = live.astype(np.float32)
    bias.data[:] = normal(bias.nnz)
    slopes = {"alibi_slopes": normal(4) / 8, "is_causal": True, "kv_lengths": np.array([150, 70])}
    for options in ({}, {"bias": bias}, {"bias": normal((2, 4, 120, 150)), **slopes}):
        names = learned(options)
        found = gradients((query, key, value), {"mask": live, **options}, names)
        dense = {"mask": live.toarray(), **options}
        if hasattr(options.get("bias"), "tocsr"):
            dense["bias"] = bias.toarray()
        for name, x, y in zip(found._fields, found, gradients((query, key, value), dense, names), strict=True):
            assert (x is None) == (y is None)
            if x is not None:
                np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-5, err_msg=name)


# Corners


@each_dtype
def test_rows_that_see_nothing_have_no_gradients(dtype):
    arrays = qkv(2, 20, 12, 16, dtype=dtype)
    for options in ({"is_causal": True}, {"kv_lengths": 0}, {"mask": np.zeros((20, 12), bool)}):
        found = gradients(arrays, options)
        assert all(np.isfinite(x.astype(np.float32)).all() for x in found[:3])
        assert (found.query[:, :8] == 0).all()
    assert (found.key == 0).all() and (found.value == 0).all()


def masked_forms(length, keys):
    """name: (which pairs are live, options that say so)."""
    i, j = np.arange(length)[:, None], np.arange(keys)
    triangle = j <= i + keys - length
    scattered = np.random.default_rng(0).random((length, keys)) < 0.5
    return {
        "causal": (triangle, {"is_causal": True}),
        "bool": (scattered, {"mask": scattered}),
        "real": (scattered, {"mask": np.where(scattered, 0, -np.inf).astype(np.float32)}),
        "lengths": (np.broadcast_to(j < keys - 10, (length, keys)), {"kv_lengths": keys - 10}),
        "soft cap": (triangle, {"is_causal": True, "softcap": 5.0}),
        "sparse": (scattered, {"mask": sparse.csr_array(scattered)}),
    }


@of_one_and_of_two
@pytest.mark.parametrize("form", masked_forms(2, 2))
@pytest.mark.parametrize("garbage", [np.nan, np.inf])
def test_masked_pairs_are_never_read(form, garbage, dtype):
    """A key that is not finite reaches the rows that see it alone; a row's, the keys that it sees."""
    live, options = masked_forms(100, 130)[form]
    if form == "real":
        options = {"mask": options["mask"].astype(dtype)}
    query, key, value = qkv(2, 100, 130, 16, dtype=dtype)

    def assert_near(x, y):
        rounding = 1e-4 if dtype == np.float32 else 1e-2
        np.testing.assert_allclose(x.astype(np.float32), y.astype(np.float32), rtol=rounding, atol=rounding / 100)

    out, lse, grad_out, _ = forward((query, key, value), options)
    clean = attention_backward(grad_out, query, key, value, out, lse, **options)
    sees = live[:, 123]
    dirty_key, dirty_value = key.copy(), value.copy()
    dirty_key[:, 123, 3] = dirty_value[:, 123, 2] = garbage
    for arrays in ((query, dirty_key, value), (query, key, dirty_value)):
        dirty = attention_backward(grad_out, *arrays, out, lse, **options)
        assert_near(dirty.query[:, ~sees], clean.query[:, ~sees])
        assert not np.isfinite(dirty.query[:, sees].astype(np.float32)).all(-1).any()
    hidden = ~live[7]
    dirty_query, dirty_grad = query.copy(), grad_out.copy()
    dirty_query[:, 7, 3] = dirty_grad[:, 7, 2] = garbage
    for q, grad in ((dirty_query, grad_out), (query, dirty_grad)):
        dirty = attention_backward(grad, q, key, value, out, lse, **options)
        for x, y in ((dirty.key, clean.key), (dirty.value, clean.value)):
            assert_near(x[:, hidden], y[:, hidden])


@each_dtype
@pytest.mark.parametrize("layout", ["transposed", "reversed", "gapped", "unaligned"])
def test_any_strides(dtype, layout):
    arrays = qkv(2, 33, 50, 32, dtype=dtype)
    out, lse, grad_out, grad_lse = forward(arrays, {})
    expected = attention_backward(grad_out, *arrays, out, lse, grad_lse=grad_lse)
    moved = [laid_out(x, layout) for x in (grad_out, *arrays, out)]
    for x, y in zip(attention_backward(*moved, lse, grad_lse=grad_lse), expected, strict=True):
        assert (x is None and y is None) or assert_same(x, y) is None


# The same bits


@of_one_and_of_two
def test_threads_and_company_make_no_difference(dtype):
    arrays = qkv(4, 1700, 300, 32, 48, dtype, batch=(2,), key_heads=2)
    options = everything(dtype, 4, 1700, 300, (2,))
    names = learned(options)
    with num_threads(1):
        expected = gradients(arrays, options, names)
    for threads in (2, 3):
        with num_threads(threads):
            for name, x in gradients(arrays, options, names)._asdict().items():
                if name != "mask":
                    assert_same(x, getattr(expected, name))
    out, lse, grad_out, grad_lse = forward(arrays, options)
    alone = [x[1:] for x in (grad_out, *arrays, out, lse)]
    part = {
        name: x[1:] if name in ("mask", "bias", "alibi_slopes", "sinks", "kv_lengths", "query_offset") else x
        for name, x in options.items()
    }
    for x, y in zip(attention_backward(*alone, grad_lse=grad_lse[1:], **part)[:3], expected[:3], strict=True):
        assert_same(x, y[1:])


@each_dtype
@pytest.mark.parametrize("causal", [False, True])
def test_packed_sequences_are_those_alone(dtype, causal):
    lengths, keys = [5, 0, 900, 49], [7, 3, 130, 49]
    starts_q, starts_k = np.cumsum([0, *lengths]), np.cumsum([0, *keys])
    query, key, value = normal((954, 4, 20), dtype, 1), normal((189, 2, 20), dtype, 2), normal((189, 2, 33), dtype, 3)
    options = {"is_causal": causal, "sinks": normal(4), "alibi_slopes": normal(4) / 8}
    out, lse = varlen_attention(query, key, value, starts_q, starts_k, return_lse=True, **options)
    grad_out, grad_lse = normal(out.shape, dtype, 4), normal(lse.shape, lse.dtype, 5)
    found = varlen_attention_backward(
        grad_out, query, key, value, out, lse, starts_q, starts_k, grad_lse=grad_lse, also=["sinks"], **options
    )
    of_sinks = 0
    for i in range(4):
        rows, cols = slice(*starts_q[i : i + 2]), slice(*starts_k[i : i + 2])
        alone = [np.swapaxes(x[rows], 0, 1) for x in (grad_out, query)]
        alone += [np.swapaxes(x[cols], 0, 1) for x in (key, value)]
        alone += [np.swapaxes(out[rows], 0, 1), lse[rows].T]
        expected = attention_backward(*alone, grad_lse=grad_lse[rows].T, also=["sinks"], **options)
        for x, y, part in zip(found[:3], expected[:3], (rows, cols, cols), strict=True):
            assert_same(x[part], np.swapaxes(y, 0, 1))
        of_sinks += expected.sinks
    np.testing.assert_allclose(found.sinks, of_sinks, rtol=1e-4, atol=1e-5)


# Errors


def test_errors_name_what_is_wrong():
    arrays = qkv(2, 5, 7, 8)
    out, lse, grad_out, grad_lse = forward(arrays, {})
    given = (grad_out, *arrays, out, lse)

    def error(kind, message, *args, **options):
        with pytest.raises(kind, match=message):
            attention_backward(*(args or given), **options)

    error(ValueError, r"^attention_backward: out has shape \(2, 4, 8\)", grad_out, *arrays, out[:, :4], lse)
    error(TypeError, "^attention_backward: lse has dtype float64", grad_out, *arrays, out, lse.astype(np.float64))
    error(TypeError, "^attention_backward: grad_out has dtype float16", grad_out.astype(np.float16), *arrays, out, lse)
    error(ValueError, "^attention_backward: grad_lse has shape", grad_lse=grad_lse[:1])
    error(ValueError, "^attention_backward: also has 'value'; accepted are mask", also=["value"])
    error(ValueError, "^attention_backward: also has 'bias', but bias is not given", also=["bias"])
    error(TypeError, "^attention_backward: also must be a sequence of names", also="bias")
    error(ValueError, "^attention_backward: a boolean mask has no gradient", also=["mask"], mask=np.ones((5, 7), bool))
    live = sparse.csr_array(np.ones((5, 7)))
    error(ValueError, "^attention_backward: a sparse mask has no gradient", also=["mask"], mask=live)
    error(
        ValueError,
        "^attention_backward: key and value must agree",
        grad_out,
        arrays[0],
        arrays[1][:, 1:],
        arrays[2],
        out,
        lse,
    )
    assert isinstance(pyattn.attention_backward(*given), pyattn.Gradients)
