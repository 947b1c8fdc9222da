import tracemalloc

import ml_dtypes
import numpy as np
import pytest

from pyattn import relative_attention, scaled_dot_product_attention
from pyattn.positional import attention
from tests.support.marks import portable
from tests.support.recorded_positions import TENSORS


def formula(query, key, value, keys, values=None, *, live=True, clipped=True, scale=None, offset=None):
    """Equations 3 and 4 in float64, n x n x D."""
    query, key, value, keys = (x.astype(np.float64) for x in (query, key, value, keys))
    key, value = (np.repeat(x, query.shape[-3] // x.shape[-3], axis=-3) for x in (key, value))
    length, count = query.shape[-2], key.shape[-2]
    k = keys.shape[-2] // 2
    places = (count - length if offset is None else offset) + np.arange(length)
    distance = np.arange(count) - places[:, None]
    near = (clipped | (abs(distance) <= k))[..., None]
    number = np.clip(distance, -k, k) + k
    relative = np.where(near, keys[..., number, :], 0)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    logits = scale * (query[..., None, :] * (key[..., None, :, :] + relative)).sum(axis=-1)
    logits = np.where(live, logits, -np.inf)
    top = logits.max(axis=-1, keepdims=True, initial=-1e300)
    weights = np.exp(logits - top)
    weights /= np.maximum(weights.sum(axis=-1, keepdims=True), 1e-300)
    out = weights @ value
    if values is not None:
        out += (weights[..., None] * np.where(near, values.astype(np.float64)[..., number, :], 0)).sum(axis=-2)
    return out


def problem(length, count, k, dtype=np.float64, heads=(4, 2), per_head=False):
    rng = np.random.default_rng(length + 100 * count)
    draw = lambda *shape: rng.standard_normal(shape).astype(dtype)  # type: ignore[attr-defined]  # noqa: E731
    rows = (heads[0], 2 * k + 1) if per_head else (2 * k + 1,)
    arrays = draw(2, heads[0], length, 8), draw(2, heads[1], count, 8), draw(2, heads[1], count, 5)
    return (*arrays, draw(*rows, 8), draw(*rows, 5))


@pytest.mark.parametrize("clipped", [True, False])
@pytest.mark.parametrize("k", [0, 1, 4, 60])
@pytest.mark.parametrize(("length", "count"), [(1, 1), (1, 40), (33, 33), (70, 70), (20, 50), (50, 20)])
def test_the_articles_formula(length, count, k, clipped):
    query, key, value, keys, values = problem(length, count, k)
    for given in ((keys,), (keys, values)):
        out = relative_attention(query, key, value, *given, clipped=clipped)
        np.testing.assert_allclose(out, formula(query, key, value, *given, clipped=clipped), atol=1e-13)


@pytest.mark.parametrize("clipped", [True, False])
@pytest.mark.parametrize("offset", [None, 0, -100, -30, -3, 5, 30, 100])
def test_wherever_queries_stand(offset, clipped):
    arrays = problem(40, 50, 3, per_head=True)
    out = relative_attention(*arrays, query_offset=offset, clipped=clipped)
    np.testing.assert_allclose(out, formula(*arrays, offset=offset, clipped=clipped), atol=1e-13)


def test_chunks_do_not_matter(monkeypatch):
    arrays = problem(100, 90, 3)
    whole = relative_attention(*arrays, is_causal=True)
    monkeypatch.setattr(attention, "CHUNK", 1)
    monkeypatch.setattr(attention, "FEWEST", 7)
    np.testing.assert_allclose(relative_attention(*arrays, is_causal=True), whole, atol=1e-13)


def test_masks_windows_and_scale():
    arrays = problem(40, 50, 3)
    rng = np.random.default_rng(0)
    distance = np.arange(50) - (10 + np.arange(40)[:, None])
    mask = rng.random((2, 4, 40, 50)) < 0.6
    mask[0, :, 7] = False
    out = relative_attention(*arrays, mask)
    np.testing.assert_allclose(out, formula(*arrays, live=mask), atol=1e-13)
    assert (out[0, :, 7] == 0).all()
    for given in (mask[:, 0], mask[0, 0], mask[:, :1, :1]):
        aligned = given[:, None] if given.ndim == 3 else given
        np.testing.assert_allclose(relative_attention(*arrays, given), formula(*arrays, live=aligned), atol=1e-13)
    added = np.where(mask, 0.0, -np.inf)
    np.testing.assert_allclose(relative_attention(*arrays, added), out, atol=1e-13)
    causal = relative_attention(*arrays, is_causal=True, scale=0.1)
    np.testing.assert_allclose(causal, formula(*arrays, live=distance <= 0, scale=0.1), atol=1e-13)
    windowed = relative_attention(*arrays, mask, window=(2, 5))
    live = mask & (distance >= -2) & (distance <= 5)
    np.testing.assert_allclose(windowed, formula(*arrays, live=live), atol=1e-13)


def test_what_is_masked_is_not_read():
    query, key, value, keys, values = problem(40, 50, 3)
    live = np.arange(50) < 45
    arrays = query, key, value, keys, values, live[None]
    clean = relative_attention(*arrays, query_offset=0)
    key[..., 45:, :], value[..., 45:, :] = np.nan, np.inf
    np.testing.assert_array_equal(relative_attention(*arrays, query_offset=0), clean)
    query[0, 0, 3] = np.inf
    broken = relative_attention(*arrays, query_offset=0)
    assert np.isnan(broken[0, 0, 3]).all()
    broken[0, 0, 3] = clean[0, 0, 3]
    np.testing.assert_array_equal(broken, clean)


@pytest.mark.parametrize(("dtype", "eps"), [(np.float32, 2e-6), (np.float16, 4e-3), (ml_dtypes.bfloat16, 4e-2)])
def test_dtypes(dtype, eps):
    arrays = problem(40, 50, 3, dtype)
    out = relative_attention(*arrays, is_causal=True)
    assert out.dtype == dtype
    live = np.arange(50) <= 10 + np.arange(40)[:, None]
    np.testing.assert_allclose(out.astype(np.float64), formula(*arrays, live=live), atol=eps, rtol=eps)
    mask = np.where(live, 0, -np.inf).astype(dtype)
    np.testing.assert_array_equal(relative_attention(*arrays, mask).astype(float), out.astype(float))


def test_fewer_axes_and_none():
    arrays = query, key, value, keys, values = problem(12, 15, 2, heads=(1, 1))
    expected = relative_attention(*arrays)
    np.testing.assert_allclose(
        relative_attention(*(x[0] for x in (query, key, value)), keys, values), expected[0], atol=1e-14
    )
    np.testing.assert_allclose(
        relative_attention(*(x[0, 0] for x in (query, key, value)), keys, values), expected[0, 0], atol=1e-14
    )
    zero = relative_attention(query, key, value, np.zeros_like(keys))
    np.testing.assert_allclose(zero, scaled_dot_product_attention(query, key, value), atol=1e-14)
    assert relative_attention(query[:, :, :0], key, value, keys, values).shape == (2, 1, 0, 5)
    assert (relative_attention(query, key[:, :, :0], value[:, :, :0], keys, values) == 0).all()
    assert relative_attention(query[:0], key[:0], value[:0], keys, values).shape == (0, 1, 12, 5)


def test_vits_attention():
    """Two heads share tables for distances up to 4; padding is masked."""
    state = {name.removeprefix("vits.state."): x for name, x in TENSORS.items() if name.startswith("vits.state.")}
    x = TENSORS["vits.input"][0]
    query, key, value = (
        (x @ state[f"{name}_proj.weight"].T + state[f"{name}_proj.bias"]).reshape(11, 2, 4).transpose(1, 0, 2)
        for name in "qkv"
    )
    tables = state["emb_rel_k"], state["emb_rel_v"]
    mask = TENSORS["vits.padding"].astype(bool)[None]
    out = relative_attention(query, key, value, *tables, mask, clipped=False)
    out = out.transpose(1, 0, 2).reshape(11, 8) @ state["out_proj.weight"].T + state["out_proj.bias"]
    np.testing.assert_allclose(out, TENSORS["vits.output"][0], atol=1e-5)


@portable
def test_memory_grows_with_the_length_only():
    rng = np.random.default_rng(0)
    tables = rng.standard_normal((2, 9, 4), dtype=np.float32)
    peaks = []
    for length in (4096, 16384):
        arrays = rng.standard_normal((3, 8, length, 4), dtype=np.float32)
        tracemalloc.start()
        relative_attention(*arrays, *tables, window=(50, 50))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 6 * peaks[0]
    assert peaks[1] < 16384 * 16384


Q, T = np.ones((2, 4, 6, 8), np.float32), np.ones((5, 8), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: relative_attention(Q, Q, Q, T[:4]), ValueError, r"relative_keys has shape \(4, 8\); \(2 k \+ 1, 8\)"),
        (
            lambda: relative_attention(Q, Q, Q, T[:, :7]),
            ValueError,
            r"relative_keys has shape \(5, 7\); \(2 k \+ 1, 8\)",
        ),
        (lambda: relative_attention(Q, Q, Q, T[0]), ValueError, r"relative_keys has shape \(8,\)"),
        (lambda: relative_attention(Q, Q, Q, T, T[:3]), ValueError, r"relative_values has shape \(3, 8\); \(5, 8\)"),
        (lambda: relative_attention(Q, Q, Q, np.stack([T] * 3)), ValueError, "or one such table for each query head"),
        (lambda: relative_attention(Q, Q, Q, T.astype(float)), TypeError, "^relative_attention: dtypes are mixed"),
        (lambda: relative_attention(Q, Q[:, :3], Q[:, :3], T), ValueError, "heads must be a multiple"),
        (lambda: relative_attention(Q, Q, Q, T, clipped=3), TypeError, "clipped must be True or False"),
        (lambda: relative_attention(Q, Q, Q, T, query_offset=[1, 2]), ValueError, "query_offset has shape .*a scalar"),
        (lambda: relative_attention(Q, Q, Q, T, query_offset=2**40), ValueError, "query_offset must be below"),
        (lambda: relative_attention(Q, Q, Q, T, mask=np.ones((6, 6), int)), TypeError, "integer mask"),
        (lambda: relative_attention(Q, Q, Q, T, scale=0), ValueError, "^relative_attention: scale must be finite"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_sparse_masks_are_refused():
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(TypeError, match="^relative_attention: a sparse mask is for scaled_dot_product_attention"):
        relative_attention(Q, Q, Q, T, mask=sparse.eye_array(6, format="csr"))
