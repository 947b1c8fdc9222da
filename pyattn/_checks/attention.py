"""Shapes and options of attention, which leave here as an AttentionCall: views where that is possible."""

from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike

from pyattn._checks.arrays import (
    Array,
    array,
    attention_arrays,
    first_wrong,
    integers,
    is_real,
    statistics_dtype,
    within,
)
from pyattn._checks.masks import Sparse, aligned_mask, structure
from pyattn._checks.numbers import MAX_ROWS, finite_scale, finite_softcap, flag, sides
from pyattn._checks.sequences import packed_starts
from pyattn._core.call import AttentionCall

MAX_WIDTH = 2**30  # D stays below: sizes of scratch memory fit 64 bits


class PackedOptions(TypedDict, total=False):
    """The options of attention that packed sequences have too."""

    is_causal: bool
    window: tuple[int | None, int | None] | None
    scale: float | None
    softcap: float | None
    alibi_slopes: ArrayLike | None
    sinks: ArrayLike | None
    kv_lengths: ArrayLike | None
    query_offset: ArrayLike | None


class AttentionOptions(PackedOptions, total=False):
    """The options of attention beside the mask; scaled_dot_product_attention says what they mean."""

    bias: Array | Sparse | None


def attention_call(
    function: str, query: Array, key: Array, value: Array | None, options: Mapping[str, Any]
) -> AttentionCall:
    """The call for query (..., H, L, D), key (..., Hkv, S, D), value (..., Hkv, S, Dv) or None, or without H.

    options holds a mask and AttentionOptions by name; what else it holds is passed over.
    """
    attention_shapes(function, query, key, value)
    shape, dtype = (*query.shape[:-1], key.shape[-2]), query.dtype
    batch = shape[:-3]
    call = AttentionCall(query, key, value)
    _set_logit_options(function, call, shape[:-2], options)
    mask, bias = options.get("mask"), options.get("bias")
    if hasattr(mask, "tocsr") or hasattr(bias, "tocsr"):
        sparse_bias = bias if hasattr(bias, "tocsr") else None
        call.bind_csr(*structure(function, mask, sparse_bias, shape[-2:], dtype))
    for name, x in (("mask", mask), ("bias", bias)):
        if x is not None and not hasattr(x, "tocsr"):
            call.bind(name, aligned_mask(function, x, shape, dtype, name))
    needed = f"a scalar or what broadcasts to {batch} = query.shape[:-3]" if batch else "a scalar"
    if (lengths := options.get("kv_lengths")) is not None:
        lengths = integers(function, "kv_lengths", lengths, batch, needed)
        within(function, "kv_lengths", lengths, 0, np.broadcast_to(shape[-1], batch), "S")
        call.bind("kv_lengths", lengths.astype(np.int64))
    if (offset := options.get("query_offset")) is not None:
        call.bind("query_offset", query_offsets(function, offset, batch, needed))
    return call


def packed_call(
    function: str,
    query: Array,
    key: Array,
    value: Array,
    cu_seqlens: tuple[Any, Any],
    options: Mapping[str, Any],
) -> AttentionCall:
    """The call for packed query (total_q, H, D), key (total_k, Hkv, D) and value (total_k, Hkv, Dv)."""
    packed_shapes(function, query, key, value)
    cu_seqlens_q, cu_seqlens_k = packed_starts(function, query, key, *cu_seqlens)
    sequences = len(cu_seqlens_q) - 1
    arrays = (x.swapaxes(0, 1) for x in (query, key, value))
    call = AttentionCall(*arrays, cu_seqlens_q=cu_seqlens_q, cu_seqlens_k=cu_seqlens_k)
    _set_logit_options(function, call, query.shape[1:2], options)
    if (lengths := options.get("kv_lengths")) is not None:
        lengths = integers(function, "kv_lengths", lengths, None, "")
        if lengths.shape != (sequences,):
            raise ValueError(
                f"{function}: kv_lengths has shape {lengths.shape}; accepted: one for each sequence, {(sequences,)}"
            )
        within(function, "kv_lengths", lengths, 0, np.diff(cu_seqlens_k), "the sequence's number of keys")
        call.bind("kv_lengths", lengths.astype(np.int64))
    if (offset := options.get("query_offset")) is not None:
        needed = f"a scalar or one for each sequence, {(sequences,)}"
        call.bind("query_offset", query_offsets(function, offset, (sequences,), needed))
    return call


def _set_logit_options(
    function: str, call: AttentionCall, leading: tuple[int, ...], options: Mapping[str, Any]
) -> None:
    """The options that packed sequences share with others, for heads of the shape `leading`."""
    query = call.operands["query"]
    statistics = statistics_dtype(query.dtype)
    call.scale = finite_scale(function, options.get("scale"), query.shape[-1], statistics)
    if (softcap := options.get("softcap")) is not None:
        call.softcap = finite_softcap(function, softcap, statistics)
    left, right = sides(function, options.get("window"))
    call.set_window(left, 0 if flag(function, "is_causal", options.get("is_causal", False)) else right)
    if (slopes := options.get("alibi_slopes")) is not None:
        # times any distance, in units of log2, a slope is still finite
        most = float(np.finfo(statistics).max) / 2**33
        slopes = _per_head(function, "alibi_slopes", slopes, leading, statistics)
        if not (abs(slopes) <= most).all():
            raise ValueError(
                f"{function}: alibi_slopes must be finite and at most {most:.1e} in magnitude, "
                f"not {first_wrong(slopes, ~(abs(slopes) <= most))}"
            )
        call.bind("alibi_slopes", slopes)
    if (sinks := options.get("sinks")) is not None:
        most = float(np.finfo(statistics).max) / 2
        sinks = _per_head(function, "sinks", sinks, leading, statistics)
        if not (sinks <= most).all():
            raise ValueError(
                f"{function}: sinks must be finite in {statistics}, or -inf for no sink, "
                f"not {first_wrong(sinks, ~(sinks <= most))}"
            )
        call.bind("sinks", sinks)


def _per_head(function: str, name: str, x: Any, leading: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """x, one number for each head, as a view of the shape `leading`."""
    x = array(function, name, x)
    if not is_real(x.dtype):
        raise TypeError(
            f"{function}: {name} has dtype {x.dtype}; real floating numbers are needed "
            f"(np.asarray({name}, np.float32) converts)"
        )
    with np.errstate(over="ignore"):  # what becomes inf is refused
        numbers = x.astype(dtype)
    try:
        return np.broadcast_to(numbers, leading)
    except ValueError:
        accepted = f"a scalar or what broadcasts to {leading}, the heads" if leading else "a scalar"
        raise ValueError(f"{function}: {name} has shape {x.shape}; accepted: {accepted}") from None


def query_offsets(function: str, query_offset: Any, shape: tuple[int, ...], needed: str) -> Array:
    """query_offset as int64, seen as `shape`."""
    offsets = integers(function, "query_offset", query_offset, shape, needed)
    wrong = (offsets >= MAX_ROWS) | (offsets <= -MAX_ROWS)
    if wrong.any():
        raise ValueError(
            f"{function}: query_offset must be below 2**30 in magnitude, not {first_wrong(offsets, wrong)}"
        )
    return offsets.astype(np.int64)


def attention_shapes(function: str, query: Array, key: Array, value: Array | None) -> None:
    """query (..., H, L, D), key (..., Hkv, S, D), value (..., Hkv, S, Dv), H a multiple of Hkv; L and S in bounds."""
    q, k = query.shape, key.shape
    v = k if value is None else value.shape
    remedy = ""
    if len(q) < 2 or len(q) != len(k) or len(q) != len(v):
        wrong = "query, key and value must have the same number of axes, at least 2"
        remedy = "; accepted: query (..., H, L, D), key (..., Hkv, S, D), value (..., Hkv, S, Dv)"
    elif q[-1] != k[-1]:
        wrong = "query and key must have the same last axis (D)"
    elif k[:-1] != v[:-1]:
        wrong = "key and value must agree on all axes but the last"
    elif q[:-3] != k[:-3]:
        wrong = "the axes in front of the heads (batch) must be the same"
        remedy = "; np.broadcast_to repeats an array without copying it"
    elif len(q) > 2 and not _multiple(q[-3], k[-3]):
        wrong = "query's heads must be a multiple of key's (axis -3)"
    elif max(q[-2], k[-2]) >= MAX_ROWS:
        wrong = "L and S (axis -2) must be below 2**30"
    elif q[-1] >= MAX_WIDTH:
        wrong = "D (axis -1) must be below 2**30"
    else:
        return
    raise ValueError(f"{function}: {wrong}: {_seen(query, key, value)}{remedy}")


def packed_shapes(function: str, query: Array, key: Array, value: Array) -> None:
    """query (total_q, H, D), key (total_k, Hkv, D), value (total_k, Hkv, Dv), H a multiple of Hkv; totals in bounds."""
    q, k, v = query.shape, key.shape, value.shape
    remedy = ""
    if not len(q) == len(k) == len(v) == 3:
        wrong = "query, key and value must have three axes"
        remedy = "; accepted: query (total_q, H, D), key (total_k, Hkv, D), value (total_k, Hkv, Dv)"
    elif q[2] != k[2]:
        wrong = "query and key must have the same last axis (D)"
    elif k[:2] != v[:2]:
        wrong = "key and value must agree on all axes but the last"
    elif not _multiple(q[1], k[1]):
        wrong = "query's heads must be a multiple of key's (axis 1)"
    elif max(q[0], k[0]) >= MAX_ROWS:
        wrong = "rows (axis 0) must be less than 2**30"
    elif q[2] >= MAX_WIDTH:
        wrong = "D (axis 2) must be below 2**30"
    else:
        return
    raise ValueError(f"{function}: {wrong}: {_seen(query, key, value)}{remedy}")


def _multiple(heads: int, key_heads: int) -> bool:
    return heads == key_heads or (key_heads > 0 and heads % key_heads == 0)


def _seen(query: Array, key: Array, value: Array | None) -> str:
    return f"query {query.shape}, key {key.shape}" + ("" if value is None else f", value {value.shape}")


def merge_parts(function: str, outputs: Any, lses: Any) -> tuple[list[Array], list[Array]]:
    """outputs (..., L, Dv) of one shape and dtype, as many lses (..., L) of the statistics' dtype."""
    for name, x in (("outputs", outputs), ("lses", lses)):
        if not (isinstance(x, list | tuple) or (isinstance(x, np.ndarray) and x.ndim)):
            raise TypeError(
                f"{function}: {name} must be a sequence of arrays, or arrays stacked on axis 0, not {type(x).__name__}"
            )
    if len(outputs) != len(lses) or len(outputs) < 1:
        raise ValueError(
            f"{function}: there are {len(outputs)} outputs and {len(lses)} lses; as many of both, one at least, "
            "are needed"
        )
    parts = attention_arrays(function, **{f"outputs[{i}]": x for i, x in enumerate(outputs)})
    sums = [array(function, f"lses[{i}]", x) for i, x in enumerate(lses)]
    shape, needed = parts[0].shape, statistics_dtype(parts[0].dtype)
    for i, (part, lse) in enumerate(zip(parts, sums, strict=True)):
        if part.ndim < 2 or part.shape != shape or lse.shape != shape[:-1]:
            raise ValueError(
                f"{function}: outputs[{i}] has shape {part.shape}, lses[{i}] {lse.shape}, outputs[0] {shape}; "
                "accepted: outputs (..., L, Dv), all of one shape, and lses (..., L)"
            )
        if lse.dtype != needed:
            raise TypeError(
                f"{function}: lses[{i}] has dtype {lse.dtype}; the lse of {part.dtype} outputs is {needed} "
                f"(lses[{i}].astype(np.{needed}) converts)"
            )
    return parts, sums
