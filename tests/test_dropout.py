"""Dropout: the mask that the reference makes, in the forward and the backward pass, whatever is computed beside."""

import numpy as np
import pytest

from pyattn import attention_backward, reference, varlen_attention, varlen_attention_backward
from pyattn import scaled_dot_product_attention as sdpa
from tests.support import oracle
from tests.support.oracle import DTYPES, assert_same
from tests.support.problems import everything, normal, num_threads, qkv

DROPOUT = {"dropout_p": 0.3, "dropout_seed": 2**63 + 12345}
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@each_dtype
@pytest.mark.parametrize(("length", "keys"), [(1, 5), (1, 300), (7, 40), (16, 129), (60, 1), (130, 260), (50, 2100)])
def test_the_mask_is_the_references(dtype, length, keys):
    """Values of the unit matrix give the weights as they are used."""
    query, key, _ = qkv(4, length, keys, 16, dtype=dtype, batch=(2,), key_heads=2)
    value = np.broadcast_to(np.eye(keys), (2, 2, keys, keys)).astype(dtype)
    used, lse = sdpa(query, key, value, return_lse=True, **DROPOUT)
    plain, plain_lse = sdpa(query, key, value, return_lse=True)
    kept = reference.kept_pairs(used.shape, DROPOUT["dropout_p"], DROPOUT["dropout_seed"])
    np.testing.assert_array_equal(used == 0, (kept == 0) | (plain == 0))
    rounding = {"float16": 2.0**-9, "bfloat16": 2.0**-6}.get(dtype.name, 8 * np.finfo(np.float32).eps)
    np.testing.assert_allclose(*(x.astype(np.float64) for x in (used, plain * kept)), rtol=rounding, atol=1e-7)
    np.testing.assert_allclose(lse, plain_lse, rtol=1e-5, atol=1e-5)


def test_pairs_are_dropped_as_often_as_asked_and_apart():
    for probability in (0.1, 0.5, 0.9):
        kept = reference.kept_pairs((2, 3, 400, 500), probability, 7) > 0
        spread = np.sqrt(probability * (1 - probability))
        assert abs(kept.mean() - (1 - probability)) < 5 * spread / np.sqrt(kept.size)
        centred = (kept - kept.mean()) / spread
        for moved in (np.roll(centred, 1, axis) for axis in range(4)):
            assert abs((centred * moved).mean()) < 5 / np.sqrt(kept.size)
    assert (reference.kept_pairs((2, 9, 9), 0.5, 1) != reference.kept_pairs((2, 9, 9), 0.5, 2)).any()


@each_dtype
def test_every_option(dtype):
    arrays = qkv(4, 60, 90, 24, 40, dtype, (2,), key_heads=2)
    whole = everything(dtype, 4, 60, 90, (2,))
    for options in [{}, whole, *({name: x} for name, x in whole.items())]:
        out, lse = sdpa(*arrays, return_lse=True, **options, **DROPOUT)
        exact, plain = (
            reference.scaled_dot_product_attention(*arrays, dtype=d, **options, **DROPOUT)
            for d in (oracle.wider(dtype), dtype)
        )
        bits = 2.0**-7 if dtype.itemsize == 2 else np.finfo(dtype).eps * 64
        bound = 2 * abs(plain[0].astype(exact[0].dtype) - exact[0]).max() + bits * abs(exact[0]).max()
        assert abs(out.astype(exact[0].dtype) - exact[0]).max() <= bound
        grad_out = normal(out.shape, dtype, 5)
        found = attention_backward(grad_out, *arrays, out, lse, **options, **DROPOUT)
        exact, plain = (
            reference.attention_backward(grad_out, *arrays, dtype=d, **options, **DROPOUT)
            for d in (oracle.wider(dtype), dtype)
        )
        for name in ("query", "key", "value"):
            truth = exact[name]
            bound = 2 * abs(plain[name].astype(truth.dtype) - truth).max() + 2 * bits * abs(truth).max()
            assert abs(getattr(found, name).astype(truth.dtype) - truth).max() <= bound, name


@each_dtype
def test_threads_and_company_make_no_difference(dtype):
    query, key, value = qkv(4, 300, 1100, 32, dtype=dtype, key_heads=2)
    out, lse = sdpa(query, key, value, return_lse=True, **DROPOUT)
    grad_out = normal(out.shape, dtype, 5)
    grads = attention_backward(grad_out, query, key, value, out, lse, **DROPOUT)
    with num_threads(3):
        assert_same(sdpa(query, key, value, **DROPOUT), out)
        for x, y in zip(
            attention_backward(grad_out, query, key, value, out, lse, **DROPOUT)[:3], grads[:3], strict=True
        ):
            assert_same(x, y)
    assert_same(sdpa(query[:, :20], key, value, **DROPOUT), out[:, :20])
    both = [np.stack([x, x[..., ::-1]]) for x in (query, key, value)]
    assert_same(sdpa(*both, **DROPOUT)[0], out)
    starts_q, starts_k = [0, 300, 300 + 57], [0, 1100, 1100 + 33]
    packed = [
        np.concatenate([x.swapaxes(0, 1), normal((n, *x.shape[::2]), dtype, 9)])
        for x, n in ((query, 57), (key, 33), (value, 33))
    ]
    found, packed_lse = varlen_attention(*packed, starts_q, starts_k, return_lse=True, **DROPOUT)
    assert_same(found[:300].swapaxes(0, 1), out)
    grad = normal(found.shape, dtype, 6)
    grad[:300] = grad_out.swapaxes(0, 1)
    of_packed = varlen_attention_backward(grad, *packed, found, packed_lse, starts_q, starts_k, **DROPOUT)
    for x, y in zip(of_packed[:3], grads[:3], strict=True):
        assert_same(x[: y.shape[1]].swapaxes(0, 1), y)


def test_masked_pairs_are_never_read():
    query, key, value = qkv(2, 70, 90, 16)
    mask = np.random.default_rng(0).random((70, 90)) < 0.5
    mask[:, 17] = False
    out, lse = sdpa(query, key, value, mask, return_lse=True, **DROPOUT)
    dirty_key, dirty_value = key.copy(), value.copy()
    dirty_key[:, 17] = dirty_value[:, 17] = np.nan
    assert_same(sdpa(query, dirty_key, dirty_value, mask, **DROPOUT), out)
    grads = attention_backward(out, query, dirty_key, dirty_value, out, lse, mask, **DROPOUT)
    assert all(np.isfinite(x).all() for x in grads[:3])


@each_dtype
@pytest.mark.parametrize(("length", "keys"), [(1, 5), (40, 300), (1030, 700)])
@pytest.mark.parametrize("with_biases", [False, True])
def test_a_sparse_mask_drops_what_a_dense_one_does(dtype, length, keys, with_biases):
    """Gradients of more than 1,024 queries come in several parts; heads share keys, and sequences stand elsewhere."""
    sparse = pytest.importorskip("scipy.sparse")
    arrays = qkv(4, length, keys, 16, dtype=dtype, batch=(2,), key_heads=2)
    places = {"kv_lengths": [keys, keys - keys // 3], "query_offset": [keys - length, 3 - length], "sinks": [0.5] * 4}
    stored = sparse.random_array((length, keys), density=min(1, 40 / keys), rng=np.random.default_rng(1), format="csr")
    seen = stored.toarray() != 0
    options, dense = ({"mask": mask, "is_causal": True, **places} for mask in (stored != 0, seen))
    if with_biases:
        biases = stored.astype(np.float64 if dtype == np.float64 else np.float32)  # scipy has no others
        options, dense = {"mask": biases, "bias": biases}, {"mask": seen, "bias": biases.toarray().astype(dtype)}
    out, lse = sdpa(*arrays, return_lse=True, **options, **DROPOUT)
    other, other_lse = sdpa(*arrays, return_lse=True, **dense, **DROPOUT)
    rounding = {"float16": 2.0**-9, "bfloat16": 2.0**-6}.get(dtype.name, 1e-5)

    def assert_alike(x, y):
        np.testing.assert_allclose(*(z.astype(np.float64) for z in (x, y)), rtol=rounding, atol=2 * rounding)

    assert length == 1 or abs(out.astype(np.float64) - sdpa(*arrays, **options).astype(np.float64)).max() > 0.01
    assert_alike(out, other)
    assert_alike(lse, other_lse)
    with num_threads(3):
        assert_same(sdpa(*arrays, **options, **DROPOUT), out)
    grad_out = normal(out.shape, dtype, 5)
    found = attention_backward(grad_out, *arrays, out, lse, **options, **DROPOUT)
    for x, y in zip(found[:3], attention_backward(grad_out, *arrays, out, lse, **dense, **DROPOUT)[:3], strict=True):
        assert_alike(x, y)


def test_errors_name_what_is_wrong():
    arrays = qkv(2, 5, 7, 8)

    def error(kind, message, mask=None, **options):
        with pytest.raises(kind, match=f"^scaled_dot_product_attention: {message}"):
            sdpa(*arrays, mask, **options)

    error(ValueError, "dropout_p must be at least 0 and below 1, not 1.0", dropout_p=1.0, dropout_seed=1)
    error(TypeError, "dropout_p must be a real number, not str", dropout_p="0.1")
    error(ValueError, "dropout_p needs a dropout_seed", dropout_p=0.1)
    error(ValueError, r"dropout_seed must be an integer from 0 to 2\*\*64 - 1, not -1", dropout_p=0.1, dropout_seed=-1)
    error(TypeError, "dropout_seed must be an integer, not 1.5", dropout_p=0.1, dropout_seed=1.5)
    error(ValueError, "return_weights gives those without dropout", return_weights=True, **DROPOUT)
    assert_same(sdpa(*arrays, dropout_p=0.0), sdpa(*arrays))
