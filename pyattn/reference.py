"""Attention as the articles write it, n x n in memory, in any floating dtype: the oracle of the tests, no fallback.

Arguments are those of pyattn.scaled_dot_product_attention and pyattn.attention_statistics, and are not checked. `dtype`
chooses the arithmetic and is that of the results; 16 bits are computed in float32 and rounded after each step.
"""

from collections import namedtuple
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from pyattn._checks import Array


class Softmax(NamedTuple):
    """Of every pair of a query and a key (..., H, L, S), and of every query (..., H, L)."""

    live: Array  # whether the query may attend to the key
    logits: Array  # -inf where it may not
    weights: Array  # 0 where it may not
    lse: Array


Statistics = namedtuple("Statistics", ["out", "lse", "max", "entropy", "received", "top_keys", "top_weights"])


def scaled_dot_product_attention(
    query: Array,
    key: Array,
    value: Array,
    mask: Any = None,
    *,
    return_weights: bool = False,
    dropout_p: float = 0.0,
    dropout_seed: int | None = None,
    dtype: DTypeLike = np.float64,
    **options: Any,
) -> tuple[Array, ...]:
    """softmax(scale Q K^T + mask) V, the logarithms of the softmax's denominators, and the softmax itself if asked for.

    Vaswani et al. 2017 (arXiv:1706.03762), equation 1; the options are those of `softmax`.
    """
    _, rounded = arithmetic(dtype)
    live, _, weights, lse = softmax(query, key, mask, dtype=dtype, **options)
    kept = kept_pairs(weights.shape, dropout_p, dropout_seed)
    value = repeated_heads(rounded(value), query)
    finite = np.isfinite(value)
    with np.errstate(all="ignore"):
        used = (weights * kept).astype(value.dtype)
        out = used @ np.where(finite, value, 0)
        # a masked value must not be read, not even as 0 * NaN
        for j in np.flatnonzero(~finite.all(axis=(*range(value.ndim - 2), -1))):
            term = used[..., j, None] * np.where(finite, 0, value)[..., None, j, :]
            out += np.where(live[..., j, None], term, 0)
        out = out.astype(dtype)
    return (out, lse, weights) if return_weights else (out, lse)


def attention_statistics(
    query: Array,
    key: Array,
    value: Array | None = None,
    mask: Any = None,
    *,
    top_k: int | None = None,
    query_range: tuple[int, int] | None = None,
    dtype: DTypeLike = np.float64,
    **options: Any,
) -> Statistics:
    """What pyattn.attention_statistics returns; entropy and received always."""
    out = None
    if value is not None:
        out = scaled_dot_product_attention(query, key, value, mask, dtype=dtype, **options)[0]
    live, logits, weights, lse = softmax(query, key, mask, dtype=dtype, **options)
    with np.errstate(all="ignore"):
        largest = logits.max(axis=-1, initial=-np.inf)
        entropy = -np.where(weights == 0, 0, weights * np.log(weights)).sum(axis=-1)
        received = weights[..., slice(*query_range) if query_range else slice(None), :].sum(axis=-2)
    top_keys = top_weights = None
    if top_k is not None:
        order = np.argsort(np.where(live, -weights, 1), axis=-1, kind="stable")[..., :top_k]  # masked keys last
        there = np.take_along_axis(live, order, axis=-1)
        top_keys = np.where(there, order, -1)
        top_weights = np.where(there, np.take_along_axis(weights, order, axis=-1), 0)
    return Statistics(out, lse, largest, entropy, received, top_keys, top_weights)


def attention_backward(
    grad_out: Array,
    query: Array,
    key: Array,
    value: Array,
    mask: Any = None,
    *,
    grad_lse: Array | None = None,
    dropout_p: float = 0.0,
    dropout_seed: int | None = None,
    dtype: DTypeLike = np.float64,
    **options: Any,
) -> dict[str, Array]:
    """The gradients of query, key, value, sinks (..., H), alibi_slopes (..., H), and of what is added to the logits.

    Dao et al. 2022 (arXiv:2205.14135), appendix B.4, of arrays that are finite.
    """
    compute, rounded = arithmetic(dtype)
    live, _, weights, lse = softmax(query, key, mask, dtype=dtype, **options)
    q, k, v, grad = rounded(query), *(repeated_heads(rounded(x), query) for x in (key, value)), rounded(grad_out)
    scale = np.asarray(options.get("scale") or 1 / np.sqrt(max(1, query.shape[-1])), compute)
    weights, kept = weights.astype(compute), kept_pairs(weights.shape, dropout_p, dropout_seed).astype(compute)
    delta = rounded((grad * rounded(kept * weights @ v)).sum(-1)) - (0 if grad_lse is None else rounded(grad_lse))
    with np.errstate(all="ignore"):
        logits = rounded(
            np.where(live, weights * (kept * rounded(grad @ np.swapaxes(v, -1, -2)) - delta[..., None]), 0)
        )
        scores = logits
        if (cap := options.get("softcap")) is not None:
            scores = logits * (1 - np.tanh(scale * (q @ np.swapaxes(k, -1, -2)) / cap) ** 2)
        sinks = np.asarray(options.get("sinks", -np.inf), compute)[..., None]
        to_sinks = -np.where(sinks == -np.inf, 0, np.exp(sinks - lse) * delta).sum(-1)
    found = {
        "query": scale * scores @ k,
        "key": _of_shared_heads(scale * np.swapaxes(scores, -1, -2) @ q, key),
        "value": _of_shared_heads(np.swapaxes(kept * weights, -1, -2) @ grad, value),
        "logits": logits,
        "sinks": to_sinks,
        "alibi_slopes": -(logits * np.abs(_positions(query, key, **options) - np.arange(key.shape[-2]))).sum((-1, -2)),
    }
    return {name: x.astype(dtype) for name, x in found.items()}


def maxsim(queries: list[Array], documents: list[Array], dtype: DTypeLike = np.float64) -> Array:
    """sum_i max_j queries[q][i] . documents[d][j], (queries, documents); the largest of none is -inf.

    Khattab and Zaharia 2020 (arXiv:2004.12832), section 3.3.
    """
    _, rounded = arithmetic(dtype)
    scores = np.zeros((len(queries), len(documents)), dtype)
    for q, query in enumerate(map(rounded, queries)):
        for d, document in enumerate(map(rounded, documents)):
            with np.errstate(all="ignore"):
                scores[q, d] = (query @ document.T).max(axis=1, initial=-np.inf).sum()
    return scores


def kept_pairs(shape: tuple[int, ...], probability: float, seed: int | None) -> Array:
    """What weights (..., H, L, S) are multiplied by: 0 where they are dropped, else 1 / (1 - probability).

    A pair has 32 bits, of the seed, the number of its head, those of its query and of its key, by steps of SplitMix64
    (Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195, figure 17) and the finalizer of MurmurHash3; it is dropped
    if they are below probability 2**32.
    """
    if not probability:
        return np.ones((1, 1))
    *leading, length, keys = shape

    def mixed(x: Any) -> Any:
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        return x ^ x >> np.uint64(31)

    with np.errstate(over="ignore"):
        heads = mixed(np.uint64(seed or 0) ^ mixed(np.arange(np.prod(leading, dtype=int), dtype=np.uint64)))
        rows = mixed(heads[:, None] + np.arange(length, dtype=np.uint64)) >> np.uint64(32)
        x = rows.astype(np.uint32)[..., None] ^ np.arange(keys, dtype=np.uint32) * np.uint32(0x9E3779B9)
        x = (x ^ x >> np.uint32(16)) * np.uint32(0x85EBCA6B)
        x = (x ^ x >> np.uint32(13)) * np.uint32(0xC2B2AE35)
        x ^= x >> np.uint32(16)
    kept: Array = np.where(x >= int(probability * 2**32), 1 / (1 - probability), 0).reshape(shape)
    return kept


def _positions(query: Array, key: Array, *, kv_lengths: Any = None, query_offset: Any = None, **_: Any) -> Array:
    """Of the queries, (..., 1, L, 1)."""
    length, axes = query.shape[-2], (1,) * min(3, query.ndim)
    lengths = np.asarray(key.shape[-2] if kv_lengths is None else kv_lengths)
    offset = np.asarray(lengths - length if query_offset is None else query_offset)
    return offset.reshape(offset.shape + axes) + np.arange(length)[:, None]


def _of_shared_heads(grads: Array, x: Array) -> Array:
    """Summed over the query heads that share a head of x."""
    if x.ndim == 2:
        return grads
    sharing = grads.shape[-3] // max(1, x.shape[-3])
    summed: Array = grads.reshape(*x.shape[:-2], sharing, *grads.shape[-2:]).sum(-3)
    return summed


def softmax(
    query: Array,
    key: Array,
    mask: Any = None,
    *,
    bias: Any = None,
    is_causal: bool = False,
    window: tuple[int | None, int | None] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi_slopes: ArrayLike | None = None,
    sinks: ArrayLike | None = None,
    kv_lengths: ArrayLike | None = None,
    query_offset: ArrayLike | None = None,
    dtype: DTypeLike = np.float64,
) -> Softmax:
    """The softmax over the keys. pyattn.scaled_dot_product_attention names the articles that the options are from."""
    compute, rounded = arithmetic(dtype)
    query, key = rounded(query), repeated_heads(rounded(key), query)
    length, keys = query.shape[-2], key.shape[-2]
    shape = (*query.shape[:-1], keys)
    if scale is None:
        scale = 1 / np.sqrt(max(1, query.shape[-1]))

    def per_batch(x: ArrayLike) -> Array:
        x = np.asarray(x, np.int64)
        return x.reshape(x.shape + (1,) * min(3, query.ndim))

    lengths = per_batch(keys if kv_lengths is None else kv_lengths)
    offset = lengths - length if query_offset is None else per_batch(query_offset)
    i, j = np.arange(length)[:, None], np.arange(keys)
    position = offset + i
    with np.errstate(all="ignore"):
        logits = rounded(np.asarray(scale, compute) * rounded(query @ np.swapaxes(key, -1, -2)))
        if softcap is not None:
            logits = rounded(softcap * np.tanh(logits / np.asarray(softcap, compute)))

        live = np.broadcast_to(j < lengths, shape)
        if is_causal:
            live = live & (j <= position)
        if window is not None and window[0] is not None:
            live = live & (j >= position - window[0])
        if window is not None and window[1] is not None:
            live = live & (j <= position + window[1])

        if bias is not None:
            bias = dense(bias, shape).astype(compute)
            logits, live = rounded(logits + bias), live & (bias != -np.inf)
        if alibi_slopes is not None:
            slopes = np.asarray(alibi_slopes, compute)[..., None, None]
            logits = rounded(logits - slopes * np.abs(position - j).astype(compute))
        if hasattr(mask, "tocsr"):
            live = live & stored(mask)
        elif mask is not None and np.asarray(mask).dtype == bool:
            live = live & dense(mask, shape)
        elif mask is not None:
            mask = dense(mask, shape).astype(compute)
            logits, live = rounded(logits + mask), live & (mask != -np.inf)

        column = np.asarray(-np.inf if sinks is None else sinks, compute)[..., None, None]
        column = np.broadcast_to(column, (*shape[:-1], 1))
        logits = np.concatenate([np.where(live, logits, -np.inf), column], axis=-1)
        counts = np.concatenate([live, column > -np.inf], axis=-1)  # a column of -inf is no sink
        top = logits.max(axis=-1, keepdims=True)
        weights = np.where(counts, rounded(np.exp(rounded(logits - top))), 0)
        total = rounded(weights.sum(axis=-1, keepdims=True))
        weights = np.where(counts, weights / total, 0)
        lse = np.where(top == -np.inf, -np.inf, top + np.log(total))[..., 0]
        return Softmax(live, *(x.astype(dtype) for x in (logits[..., :-1], weights[..., :-1], lse)))


def arithmetic(dtype: DTypeLike) -> tuple[np.dtype[Any], Any]:
    """The dtype to compute in, and the function that rounds what was computed to `dtype`."""
    dtype = np.dtype(dtype)
    compute = np.dtype(np.float32) if dtype.itemsize == 2 else dtype

    def rounded(x: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(x).astype(dtype).astype(compute)

    return compute, rounded


def repeated_heads(x: Array, query: Array) -> Array:
    """Keys or values with the heads of the query: query head h reads head h // (H / Hkv)."""
    return x if x.ndim == 2 else np.repeat(x, query.shape[-3] // max(1, x.shape[-3]), axis=-3)


def dense(x: Any, shape: tuple[int, ...]) -> Array:
    """A mask or bias that broadcasts to the logits' shape; what has one axis less has no axis of heads."""
    x = x.toarray() if hasattr(x, "tocsr") else np.asarray(x)
    return np.expand_dims(x, -3) if 3 <= x.ndim == len(shape) - 1 else x


def stored(mask: Any) -> Array:
    """Where a scipy.sparse array or matrix stores an entry, be it 0."""
    ones = mask.tocsr() if mask.format in ("dok", "lil") else mask.copy()
    ones.data[...] = 1
    return np.asarray(ones.toarray() != 0)
