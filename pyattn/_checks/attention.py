"""Shapes and options of attention, which leave here as an AttentionCall: views where that is possible."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pyattn._checks.arrays import (
    Array,
    array,
    attention_arrays,
    integers,
    real_array,
    statistics_dtype,
    within,
    wrong_dtype,
    wrong_shape,
    wrong_value,
)
from pyattn._checks.masks import aligned_mask, structure
from pyattn._checks.numbers import MAX_ROWS, dropout, finite_scale, finite_softcap, flag, sides
from pyattn._checks.sequences import packed_starts
from pyattn._core.call import AttentionCall

MAX_WIDTH = 2**30  # D stays below: sizes of scratch memory fit 64 bits


def attention_call(
    function: str, query: Array, key: Array, value: Array | None, options: Mapping[str, Any]
) -> AttentionCall:
    """The call for query (..., H, L, D), key (..., Hkv, S, D), value (..., Hkv, S, Dv) or None, or without H.

    options holds those of functional.AttentionOptions, and a mask, by name; what else it holds is passed over.
    """
    attention_shapes(function, query, key, value)
    shape, dtype = (*query.shape[:-1], key.shape[-2]), query.dtype
    call = AttentionCall(query, key, value)
    _set_options(function, call, options)
    mask, bias = options.get("mask"), options.get("bias")
    if hasattr(mask, "tocsr") or hasattr(bias, "tocsr"):
        sparse_bias = bias if hasattr(bias, "tocsr") else None
        call.bind_csr(*structure(function, mask, sparse_bias, shape[-2:], dtype))
    for name, x in (("mask", mask), ("bias", bias)):
        if x is not None and not hasattr(x, "tocsr"):
            call.bind(name, aligned_mask(function, x, shape, dtype, name))
    return call


def packed_call(
    function: str, query: Array, key: Array, value: Array, cu_seqlens: tuple[Any, Any], options: Mapping[str, Any]
) -> AttentionCall:
    """The call for packed query (total_q, H, D), key (total_k, Hkv, D) and value (total_k, Hkv, Dv)."""
    attention_shapes(function, query, key, value, packed=True)
    cu_seqlens_q, cu_seqlens_k = packed_starts(function, query, key, *cu_seqlens)
    arrays = (x.swapaxes(0, 1) for x in (query, key, value))
    call = AttentionCall(*arrays, cu_seqlens_q=cu_seqlens_q, cu_seqlens_k=cu_seqlens_k)
    _set_options(function, call, options)
    return call


def _set_options(function: str, call: AttentionCall, options: Mapping[str, Any]) -> None:
    """The options that packed sequences share with others."""
    query = call.operands["query"]
    statistics = statistics_dtype(query.dtype)
    scale = finite_scale(function, options.get("scale"), query.shape[-1], statistics)
    softcap = options.get("softcap")
    softcap = 0.0 if softcap is None else finite_softcap(function, softcap, statistics)
    left, right = sides(function, options.get("window"))
    right = 0 if flag(function, "is_causal", options.get("is_causal", False)) else right
    call.set_numbers(scale, softcap, left, right)
    call.set_dropout(*dropout(function, options.get("dropout_p", 0.0), options.get("dropout_seed")))
    if (slopes := options.get("alibi_slopes")) is not None:
        # times any distance, in units of log2, a slope is still finite
        most = float(np.finfo(statistics).max) / 2**33
        slopes = _per_head(function, "alibi_slopes", slopes, query.shape[:-2], statistics)
        if not (fits := abs(slopes) <= most).all():
            accepted = f"finite and at most {most:.1e} in magnitude"
            raise wrong_value(function, "alibi_slopes", slopes, ~fits, accepted)
        call.bind("alibi_slopes", slopes)
    if (sinks := options.get("sinks")) is not None:
        sinks = _per_head(function, "sinks", sinks, query.shape[:-2], statistics)
        if not (fits := sinks <= float(np.finfo(statistics).max) / 2).all():
            raise wrong_value(function, "sinks", sinks, ~fits, f"finite in {statistics}, or -inf for no sink")
        call.bind("sinks", sinks)
    if options.get("kv_lengths") is not None or options.get("query_offset") is not None:
        _set_positions(function, call, options)


def _set_positions(function: str, call: AttentionCall, options: Mapping[str, Any]) -> None:
    """kv_lengths and query_offset: one for each batch element, or packed sequence."""
    packed = call.operands.get("cu_seqlens")
    batch = (len(packed[1]) - 1,) if packed else call.operands["query"].shape[:-3]
    needed = f"one for each sequence, {batch}" if packed else f"what broadcasts to {batch} = query.shape[:-3]"
    needed = f"a scalar or {needed}" if batch else "a scalar"
    if (lengths := options.get("kv_lengths")) is not None:
        keys = np.diff(packed[1]) if packed else np.broadcast_to(call.operands["key"].shape[-2], batch)
        lengths = integers(function, "kv_lengths", lengths, None if packed else batch, needed)
        if lengths.shape != batch:
            raise wrong_shape(function, "kv_lengths", lengths, needed.removeprefix("a scalar or "))
        within(function, "kv_lengths", lengths, 0, keys, "the sequence's number of keys" if packed else "S")
        call.bind("kv_lengths", lengths.astype(np.int64))
    if (offset := options.get("query_offset")) is not None:
        offset = integers(function, "query_offset", offset, batch, needed)
        if (wrong := (offset >= MAX_ROWS) | (offset <= -MAX_ROWS)).any():
            raise wrong_value(function, "query_offset", offset, wrong, "below 2**30 in magnitude")
        call.bind("query_offset", offset.astype(np.int64))


def _per_head(function: str, name: str, x: Any, leading: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """x, one number for each head, as a view of the shape `leading`."""
    x = real_array(function, name, x)
    with np.errstate(over="ignore"):  # what becomes inf is refused
        numbers = x.astype(dtype)
    try:
        return np.broadcast_to(numbers, leading)
    except ValueError:
        accepted = f"a scalar or what broadcasts to {leading}, the heads" if leading else "a scalar"
        raise wrong_shape(function, name, x, accepted) from None


def attention_shapes(function: str, query: Array, key: Array, value: Array | None, packed: bool = False) -> None:
    """query (..., H, L, D), key (..., Hkv, S, D), value (..., Hkv, S, Dv), H a multiple of Hkv; L and S in bounds.

    packed: (L, H, D), (S, Hkv, D) and (S, Hkv, Dv).
    """
    q, k = query.shape, key.shape
    v = k if value is None else value.shape
    heads, rows = (1, 0) if packed else (-3, -2)
    remedy = ""
    if not len(q) == len(k) == len(v) or (len(q) != 3 if packed else len(q) < 2):
        wrong = f"query, key and value must have {'three axes' if packed else 'the same number of axes, at least 2'}"
        query_shape, key_shape = ("total_q, H", "total_k, Hkv") if packed else ("..., H, L", "..., Hkv, S")
        remedy = f"; accepted: query ({query_shape}, D), key ({key_shape}, D), value ({key_shape}, Dv)"
    elif q[-1] != k[-1]:
        wrong = "query and key must have the same last axis (D)"
    elif k[:-1] != v[:-1]:
        wrong = "key and value must agree on all axes but the last"
    elif q[:-3] != k[:-3]:
        wrong = "the axes in front of the heads (batch) must be the same"
        remedy = "; np.broadcast_to repeats an array without copying it"
    elif len(q) > 2 and q[heads] != k[heads] and (k[heads] == 0 or q[heads] % k[heads]):
        wrong = f"query's heads must be a multiple of key's (axis {heads})"
    elif max(q[rows], k[rows]) >= MAX_ROWS:
        wrong = "rows (axis 0) must be less than 2**30" if packed else "L and S (axis -2) must be below 2**30"
    elif q[-1] >= MAX_WIDTH:
        wrong = "D (axis -1) must be below 2**30"
    else:
        return
    seen = f"query {q}, key {k}" + ("" if value is None else f", value {v}")
    raise ValueError(f"{function}: {wrong}: {seen}{remedy}")


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
            remedy = f"the lse of {part.dtype} outputs is {needed} (lses[{i}].astype(np.{needed}) converts)"
            raise wrong_dtype(function, f"lses[{i}]", lse, remedy)
    return parts, sums
