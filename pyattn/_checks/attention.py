"""Shapes and options of attention, which leave here as an AttentionCall: views where that is possible."""

import math
from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike

from pyattn._checks.basics import (
    Array,
    array,
    attention_arrays,
    first_wrong,
    flag,
    integer,
    integers,
    is_real,
    number,
    statistics_dtype,
    within,
)
from pyattn._checks.masks import Sparse, aligned_mask, structure
from pyattn._core.call import AttentionCall

MOST_ROWS = 2**30  # L, S and query_offset stay below: positions and their differences fit 32 bits
MOST_WIDTH = 2**30  # D stays below: sizes of scratch memory fit 64 bits


class AttentionOptions(TypedDict, total=False):
    """The options of attention, as its functions take them."""

    mask: Array | Sparse | None
    bias: Array | Sparse | None
    is_causal: bool
    window: tuple[int | None, int | None] | None
    scale: float | None
    softcap: float | None
    alibi_slopes: ArrayLike | None
    sinks: ArrayLike | None
    kv_lengths: ArrayLike | None
    query_offset: ArrayLike | None


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
    elif max(q[-2], k[-2]) >= MOST_ROWS:
        wrong = "L and S (axis -2) must be below 2**30"
    elif q[-1] >= MOST_WIDTH:
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
    elif max(q[0], k[0]) >= MOST_ROWS:
        wrong = "rows (axis 0) must be less than 2**30"
    elif q[2] >= MOST_WIDTH:
        wrong = "D (axis 2) must be below 2**30"
    else:
        return
    raise ValueError(f"{function}: {wrong}: {_seen(query, key, value)}{remedy}")


def _multiple(heads: int, key_heads: int) -> bool:
    return heads == key_heads or (key_heads > 0 and heads % key_heads == 0)


def _seen(query: Array, key: Array, value: Array | None) -> str:
    return f"query {query.shape}, key {key.shape}" + ("" if value is None else f", value {value.shape}")


def attention_call(
    function: str, query: Array, key: Array, value: Array | None, options: Mapping[str, Any]
) -> AttentionCall:
    """The call for query (..., H, L, D), key (..., Hkv, S, D), value (..., Hkv, S, Dv) or None, or without H.

    options holds AttentionOptions; what else it holds is passed over.
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
    statistics = statistics_dtype(call.query.dtype)
    call.scale = finite_scale(function, options.get("scale"), call.query.shape[-1], statistics)
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


def finite_softcap(function: str, softcap: Any, dtype: np.dtype[Any]) -> float:
    """What scores are capped at."""
    limits = np.finfo(dtype)
    number(function, "softcap", softcap, "a real number or None")
    if not float(limits.tiny) <= softcap <= float(limits.max) / 2:  # so that 1 / softcap is finite as well
        raise ValueError(
            f"{function}: softcap must be positive and finite in {dtype}, not {softcap}; None switches it off"
        )
    return float(softcap)


def sides(function: str, window: Any) -> tuple[int, int]:
    """A window's (left, right) with -1 for None."""
    if window is None:
        return -1, -1
    accepted = "(left, right), each an integer >= 0 or None (unbounded): query i sees p - left <= j <= p + right"
    if isinstance(window, int | np.integer) and not isinstance(window, bool) and window >= 0:
        raise TypeError(
            f"{function}: window={window} is ambiguous; pass a pair: ({window}, {window}) to see as many keys on both "
            f"sides, ({window}, 0) for those before only"
        )
    if not isinstance(window, tuple | list):
        raise TypeError(f"{function}: window must be {accepted}; not {type(window).__name__}")
    if len(window) != 2:
        raise ValueError(f"{function}: window must be {accepted}; not {window!r}")
    for side in window:
        if side is None:
            continue
        if isinstance(side, bool) or not isinstance(side, int | np.integer):
            raise TypeError(f"{function}: window must be {accepted}; not {window!r}")
        if side < 0:
            raise ValueError(f"{function}: window must be {accepted}; not {window!r}")
    # no query and key are 2 * MOST_ROWS apart
    left, right = (-1 if side is None or side >= 2 * MOST_ROWS else int(side) for side in window)
    return left, right


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
    wrong = (offsets >= MOST_ROWS) | (offsets <= -MOST_ROWS)
    if wrong.any():
        raise ValueError(
            f"{function}: query_offset must be below 2**30 in magnitude, not {first_wrong(offsets, wrong)}"
        )
    return offsets.astype(np.int64)


def finite_scale(function: str, scale: Any, width: int, dtype: np.dtype[Any]) -> float:
    """The scale, 1 / sqrt(width) for None."""
    if scale is None:
        return 1 / math.sqrt(max(1, width))
    number(function, "scale", scale, "a real number or None")
    largest = float(np.finfo(dtype).max) / 2  # logits are in units of log2: larger by log2(e)
    if not (-largest <= scale < 0 or 0 < scale <= largest):
        raise ValueError(f"{function}: scale must be finite in {dtype} and not zero, not {scale}")
    return float(scale)


def batches(function: str, *shapes: tuple[int, ...]) -> tuple[int, tuple[int, int]]:
    """Batch size and lengths (L, S) of query, key and value of shapes (B, L), (B, S), (B, S), or without B."""
    query, key, value = shapes
    if len(query) not in (1, 2) or len(key) != len(query) or key != value or query[:-1] != key[:-1]:
        seen = ", ".join(str((*shape, "E")).replace("'", "") for shape in dict.fromkeys(shapes))
        raise ValueError(f"{function}: the inputs have shapes {seen}; accepted: (B, L, E) and (B, S, E), or without B")
    if max(query[-1], key[-1]) >= MOST_ROWS:
        raise ValueError(f"{function}: the inputs have {max(query[-1], key[-1])} rows; less than 2**30 are accepted")
    return (query[0] if len(query) == 2 else 1), (query[-1], key[-1])


def sequence_starts(
    function: str, cu_seqlens: Any, shape: tuple[int, ...], name: str = "cu_seqlens", what: str = "tokens"
) -> Array:
    """cu_seqlens as int64, for packed rows of the leading shape (total,)."""
    starts = array(function, name, cu_seqlens)
    if starts.dtype.kind not in "iu":
        raise TypeError(f"{function}: {name} must be integers, not {starts.dtype}")
    starts = np.array(starts, order="C")  # before it is looked at: another thread may write to the caller's
    if len(shape) != 1:
        raise ValueError(f"{function}: x must have two axes, (total tokens, E), not {len(shape) + 1}")
    if shape[0] >= MOST_ROWS:
        raise ValueError(f"{function}: there are {shape[0]} {what}; less than 2**30 are accepted")
    if (
        starts.ndim != 1
        or len(starts) < 1
        or starts[0] != 0
        or starts[-1] != shape[0]
        or (starts[1:] < starts[:-1]).any()
    ):
        raise ValueError(
            f"{function}: {name} must ascend from 0 to the number of {what}, {shape[0]}; they are {starts}"
        )
    return starts.astype(np.int64, copy=False)


def packed_starts(function: str, query: Array, key: Array, cu_seqlens_q: Any, cu_seqlens_k: Any) -> tuple[Array, Array]:
    """The first rows of the sequences in packed queries and keys."""
    query_starts = sequence_starts(function, cu_seqlens_q, query.shape[:1], "cu_seqlens_q", "rows of query")
    if cu_seqlens_k is None:
        if len(query) != len(key):
            raise ValueError(
                f"{function}: query has {len(query)} rows, key {len(key)}; pass cu_seqlens_k where they differ"
            )
        return query_starts, query_starts
    key_starts = sequence_starts(function, cu_seqlens_k, key.shape[:1], "cu_seqlens_k", "rows of key")
    if len(query_starts) != len(key_starts):
        raise ValueError(
            f"{function}: cu_seqlens_q has {len(query_starts)} numbers, cu_seqlens_k {len(key_starts)}; "
            "both need one more than there are sequences"
        )
    return query_starts, key_starts


def most_keys(function: str, top_k: Any, keys: int) -> int:
    """top_k, 0 for None."""
    if top_k is None:
        return 0
    if not 1 <= integer(function, "top_k", top_k, "an integer or None") <= keys:
        raise ValueError(f"{function}: top_k must be from 1 to S ({keys}), not {top_k}")
    return int(top_k)


def row_range(function: str, query_range: Any, length: int) -> tuple[int, int]:
    """query_range, all queries for None."""
    if query_range is None:
        return 0, length
    accepted = f"(start, stop), integers with 0 <= start <= stop <= L ({length})"
    if not isinstance(query_range, tuple | list):
        raise TypeError(f"{function}: query_range must be {accepted}; not {type(query_range).__name__}")
    if any(isinstance(end, bool) or not isinstance(end, int | np.integer) for end in query_range):
        raise TypeError(f"{function}: query_range must be {accepted}; not {query_range!r}")
    if len(query_range) != 2 or not 0 <= query_range[0] <= query_range[1] <= length:
        raise ValueError(f"{function}: query_range must be {accepted}; not {query_range!r}")
    return int(query_range[0]), int(query_range[1])


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
