"""Attention to keys and values that depend on their distance from the query."""

import math
from typing import Any

import numpy as np

from pyattn import _checks
from pyattn._checks import Array
from pyattn._core.call import AttentionCall
from pyattn._namespaces import in_namespace
from pyattn._threads import threads_for

CHUNK = 1 << 21  # logits of a chunk of queries
FEWEST = 32  # queries of a chunk


@in_namespace
def relative_attention(
    query: Array,
    key: Array,
    value: Array,
    relative_keys: Array,
    relative_values: Array | None = None,
    mask: Array | None = None,
    *,
    clipped: bool = True,
    is_causal: bool = False,
    window: tuple[int | None, int | None] | None = None,
    scale: float | None = None,
    query_offset: int | None = None,
) -> Array:
    """Attention with a key and a value for each distance, which are added to those of the tokens.

    Shaw et al. 2018 (arXiv:1803.02155), equations 3 and 4: with r = clip(j - p, -k, k) for key j and a query at
    position p, softmax_j(scale q (k_j + relative_keys[k + r])) (v_j + relative_values[k + r]). Exact; in chunks of
    queries, so that memory grows with L + S, not with L S.

    Args:
        query: (..., H, L, D), or (L, D), float32, float64, float16 or bfloat16.
        key: (..., Hkv, S, D) of the same dtype, H a multiple of Hkv.
        value: (..., Hkv, S, Dv) of the same dtype.
        relative_keys: (2 k + 1, D), or (H, 2 k + 1, D), of the same dtype: of the key k before the query to k after it.
        relative_values: None, or (2 k + 1, Dv), or (H, 2 k + 1, Dv).
        mask: as in scaled_dot_product_attention, not sparse.
        clipped: False: keys farther than k have no relative key and value, as in the encoder of VITS (Kim et al. 2021,
            arXiv:2106.06103, section 2.5.2), where k is 4.
        is_causal, window, scale: as in scaled_dot_product_attention.
        query_offset: the position of query 0. None means S - L.

    Returns:
        (..., H, L, Dv) in query's dtype; 16 bits are computed in float32. A row that may attend to nothing is 0.

    Raises:
        TypeError, ValueError: as scaled_dot_product_attention; the tables do not fit, or have an even number of rows.

    Example:
        >>> import pyattn
        >>> rng = np.random.default_rng(0)
        >>> query, key, value = rng.standard_normal((3, 8, 100, 64), dtype=np.float32)
        >>> keys, values = rng.standard_normal((2, 2 * 16 + 1, 64), dtype=np.float32)
        >>> pyattn.relative_attention(query, key, value, keys, values, is_causal=True).shape
        (8, 100, 64)
    """
    name = "relative_attention"
    tables: dict[str, Any] = {"relative_keys": relative_keys}
    if relative_values is not None:
        tables["relative_values"] = relative_values
    query, key, value, *given = _checks.attention_arrays(name, query=query, key=key, value=value, **tables)
    _checks.attention_shapes(name, query, key, value)
    for what, table, width in zip(tables, given, (query.shape[-1], value.shape[-1]), strict=False):
        shape = *given[0].shape[-2:-1], width
        wrong = table.ndim not in (2, 3) or table.shape[-2] % 2 == 0 or table.shape[-2:] != shape
        if wrong or (table.ndim == 3 and table.shape[:1] not in ((1,), query.shape[-3:-2])):
            needed = f"({'2 k + 1' if what == 'relative_keys' else shape[0]}, {width})"
            raise ValueError(
                f"{name}: {what} has shape {table.shape}; {needed}, or one such table for each query head, is needed"
            )
    clipped = _checks.flag(name, "clipped", clipped)
    if hasattr(mask, "tocsr"):
        raise TypeError(f"{name}: a sparse mask is for scaled_dot_product_attention; mask.toarray() != 0 is accepted")
    dtype = query.dtype
    wide = _checks.statistics_dtype(dtype)
    if mask is not None and (mask := _checks.array(name, "mask", mask)).dtype == dtype:
        mask = mask.astype(wide, copy=False)
    query, key, value, *given = (x.astype(wide, copy=False) for x in (query, key, value, *given))
    if query.ndim == 2:
        given = [table[0] if table.ndim == 3 else table for table in given]
    length, keys = query.shape[-2], key.shape[-2]
    offset = keys - length if query_offset is None else query_offset
    offset = int(_checks.integers(name, "query_offset", offset, (), "a scalar"))
    options = {"mask": mask, "is_causal": is_causal, "window": window, "scale": scale, "query_offset": offset}
    call = _checks.attention_call(name, query, key, value, options)
    out = np.empty((*query.shape[:-1], value.shape[-1]), dtype)
    heads = math.prod(query.shape[:-2])
    chunk = max(FEWEST, min(keys, CHUNK // max(1, 2 * heads * keys)))
    for first in range(0, length, chunk):
        rows = slice(first, min(first + chunk, length))
        part = call.of_queries(rows.start, rows.stop)
        with np.errstate(invalid="ignore", over="ignore"):  # inf and NaN come out in their rows
            out[..., rows, :] = _chunk(part, query[..., rows, :], value, given, offset + first, clipped)
    return out


def _chunk(call: AttentionCall, query: Array, value: Array, tables: list[Array], offset: int, clipped: bool) -> Array:
    """Of queries (..., H, n, D) that stand at offset and later."""
    *heads, queries, _ = query.shape
    keys = value.shape[-2]
    k = tables[0].shape[-2] // 2
    # A column holds what is of one distance. A row has more of them than keys: seen by keys, it begins further right.
    biases = np.zeros((*heads, queries, queries + keys), query.dtype)
    nearest = offset + queries - 1  # the column of distance 0
    near = slice(*(min(max(0, nearest + end), biases.shape[-1]) for end in (-k, k + 1)))
    seen = slice(near.start - nearest + k, near.stop - nearest + k)  # rows of the tables
    products = (call.scale * query) @ tables[0].swapaxes(-1, -2)
    biases[..., near] = products[..., seen]
    if clipped:
        biases[..., : near.start] = products[..., :1]
        biases[..., near.stop :] = products[..., -1:]
    out = np.empty((*query.shape[:-1], value.shape[-1]), query.dtype)
    call.bind("bias", _by_key(biases, keys))
    if len(tables) > 1:
        weights = np.zeros_like(biases)
        call.bind("weights", _by_key(weights, keys))
    call.run(threads_for, out=out)
    if len(tables) > 1:
        of_distance = np.zeros((*weights.shape[:-1], 2 * k + 1), weights.dtype)
        of_distance[..., seen] = weights[..., near]
        if clipped:
            of_distance[..., 0] += weights[..., : near.start].sum(axis=-1)
            of_distance[..., -1] += weights[..., near.stop :].sum(axis=-1)
        out += of_distance @ tables[1]
    return out


def _by_key(by_distance: Array, keys: int) -> Array:
    """A view (..., n, keys) of what has a column for each distance: (..., n, n + keys)."""
    *heads, queries, _ = by_distance.shape
    *outer, row, step = by_distance.strides
    corner = by_distance[..., max(0, queries - 1) :]
    return np.lib.stride_tricks.as_strided(corner, (*heads, queries, keys), (*outer, row - step, step))
