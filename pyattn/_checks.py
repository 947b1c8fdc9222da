"""Checks of arguments, before any work. Messages begin with the public function's name.

Attention's options leave here as the driver's keyword arguments: views of the caller's arrays where that is possible.
"""

import math
from collections.abc import Iterable
from typing import Any, Protocol, TypeAlias, TypedDict

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array: TypeAlias = NDArray[Any]

FLOATING = (np.dtype(np.float32), np.dtype(np.float64))  # of layers and activations; attention takes halves as well
FLOAT32, FLOAT64 = FLOATING

MOST_ROWS = 2**30  # L, S and query_offset stay below: positions and their differences fit 32 bits


class Sparse(Protocol):
    """A scipy.sparse array or matrix; scipy itself is never imported."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def tocsr(self) -> Any: ...


class _Scale(TypedDict):
    scale: float


class Options(_Scale, total=False):
    """Checked options of attention, as keyword arguments of the driver; what is not given is absent."""

    softcap: float
    left: int
    right: int
    mask: Array
    bias: Array
    structure: tuple[Array, Array, Array | None]
    slopes: Array
    sinks: Array
    kv_lengths: Array
    offsets: Array
    received_from: int
    received_to: int


def array(function: str, name: str, x: Any) -> Array:
    """x as an array; a ragged list is an error."""
    try:
        return np.asarray(x)
    except ValueError as error:
        raise ValueError(f"{function}: {name} is not an array: {error}") from None


def flag(function: str, name: str, value: Any) -> bool:
    if value is True or value is False:
        return value
    if not isinstance(value, np.bool_ | int | np.integer) or value not in (0, 1):
        raise TypeError(f"{function}: {name} must be True or False, not {value!r}")
    return bool(value)


def is_bfloat16(dtype: np.dtype[Any]) -> bool:
    """Whether dtype is ml_dtypes.bfloat16, which is never imported."""
    return dtype.kind == "V" and dtype.itemsize == 2 and dtype.isnative and dtype.name == "bfloat16"


def is_half(dtype: np.dtype[Any]) -> bool:
    return dtype == np.float16 or is_bfloat16(dtype)


def is_real(dtype: np.dtype[Any]) -> bool:
    """Whether numbers of dtype are real floating ones, in any precision."""
    return dtype.kind == "f" or is_bfloat16(dtype)


def statistics_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What attention of arrays of dtype computes in, and the dtype of lse and other statistics."""
    return FLOAT64 if dtype == FLOAT64 else FLOAT32


def floating(function: str, **arrays: Any) -> list[Array]:
    """The arguments as arrays of one and the same dtype, float32 or float64."""
    return _same_dtype(function, arrays, halves=False)


def attention_arrays(function: str, **arrays: Any) -> list[Array]:
    """The arguments as arrays of one and the same dtype: float32, float64, float16 or bfloat16."""
    return _same_dtype(function, arrays, halves=True)


def _same_dtype(function: str, arrays: dict[str, Any], halves: bool) -> list[Array]:
    result = [array(function, name, x) for name, x in arrays.items()]
    dtype = result[0].dtype
    mixed = False
    for name, x in zip(arrays, result, strict=True):
        if x.dtype not in FLOATING and not (halves and is_half(x.dtype)):
            accepted = "float32, float64, float16 or bfloat16" if halves else "float32 or float64"
            raise TypeError(
                f"{function}: {name} has dtype {x.dtype}; {accepted} in native byte order is needed "
                f"({name}.astype(np.float32) converts)"
            )
        mixed = mixed or x.dtype != dtype
    if mixed:
        seen = ", ".join(f"{name} {x.dtype}" for name, x in zip(arrays, result, strict=True))
        raise TypeError(f"{function}: dtypes are mixed ({seen}); all must be the same")
    return result


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
    else:
        return
    raise ValueError(f"{function}: {wrong}: {_seen(query, key, value)}{remedy}")


def _multiple(heads: int, key_heads: int) -> bool:
    return heads == key_heads or (key_heads > 0 and heads % key_heads == 0)


def _seen(query: Array, key: Array, value: Array | None) -> str:
    return f"query {query.shape}, key {key.shape}" + ("" if value is None else f", value {value.shape}")


def attention_options(
    function: str, query: Array, key: Array, *, mask: Any, bias: Any, kv_lengths: Any, query_offset: Any, **logits: Any
) -> Options:
    """All options for query (..., H, L, D) and key (..., Hkv, S, D); logits: the keywords of logit_options."""
    shape, dtype = (*query.shape[:-1], key.shape[-2]), query.dtype
    options = logit_options(function, query, shape[:-2], **logits)
    if mask is not None or bias is not None:
        sparse_mask, sparse_bias = hasattr(mask, "tocsr"), hasattr(bias, "tocsr")
        if sparse_mask or sparse_bias:
            options["structure"] = _structure(function, mask, bias if sparse_bias else None, shape[-2:], dtype)
        if mask is not None and not sparse_mask:
            options["mask"] = aligned_mask(function, mask, shape, dtype)
        if bias is not None and not sparse_bias:
            options["bias"] = aligned_mask(function, bias, shape, dtype, "bias")
    if kv_lengths is not None or query_offset is not None:
        batch = shape[:-3]
        leading = shape[:-2] or (1,)
        needed = f"a scalar or what broadcasts to {batch} = query.shape[:-3]" if batch else "a scalar"
        if kv_lengths is not None:
            lengths = _integers(function, "kv_lengths", kv_lengths, batch, needed)
            _within(function, "kv_lengths", lengths, 0, np.broadcast_to(shape[-1], batch), "S")
            options["kv_lengths"] = _for_heads(lengths, leading)
        if query_offset is not None:
            offsets = _offsets(function, query_offset, batch, needed)
            options["offsets"] = _for_heads(offsets, leading)
    if len(shape) == 2:  # the axis of heads, which lengths and offsets have already
        for name in ("mask", "bias", "slopes", "sinks"):
            if name in options:
                options[name] = options[name][None]
    return options


def packed_options(
    function: str,
    query: Array,
    query_starts: Array,
    key_starts: Array,
    *,
    kv_lengths: Any,
    query_offset: Any,
    **logits: Any,
) -> Options:
    """attention_options for packed query (total_q, H, D), one kv_length and query_offset for each sequence."""
    heads = query.shape[1]
    sequences = len(query_starts) - 1
    options = logit_options(function, query, (heads,), **logits)
    if kv_lengths is not None:
        lengths = _integers(function, "kv_lengths", kv_lengths, None, "")
        if lengths.shape != (sequences,):
            raise ValueError(
                f"{function}: kv_lengths has shape {lengths.shape}; accepted: one for each sequence, {(sequences,)}"
            )
        _within(function, "kv_lengths", lengths, 0, np.diff(key_starts), "the sequence's number of keys")
        options["kv_lengths"] = np.broadcast_to(lengths.astype(np.int64), (heads, sequences))
    if query_offset is not None:
        needed = f"a scalar or one for each sequence, {(sequences,)}"
        offsets = _offsets(function, query_offset, (sequences,), needed)
        options["offsets"] = np.broadcast_to(offsets.astype(np.int64), (heads, sequences))
    return options


def logit_options(
    function: str,
    query: Array,
    leading: tuple[int, ...],
    *,
    is_causal: Any,
    window: Any,
    scale: Any,
    softcap: Any,
    alibi_slopes: Any,
    sinks: Any,
) -> Options:
    """The options that packed sequences share with others, for heads of the shape `leading`."""
    statistics = statistics_dtype(query.dtype)
    options: Options = {"scale": finite_scale(function, scale, query.shape[-1], statistics)}
    if softcap is not None:
        options["softcap"] = _softcap(function, softcap, statistics)
    left, right = (-1, -1) if window is None else _window(function, window)
    if flag(function, "is_causal", is_causal):
        right = 0
    if left >= 0:
        options["left"] = left
    if right >= 0:
        options["right"] = right
    if alibi_slopes is not None:
        # times any distance, in units of log2, a slope is still finite
        most = float(np.finfo(statistics).max) / 2**33
        slopes = options["slopes"] = _per_head(function, "alibi_slopes", alibi_slopes, leading, statistics)
        if not (abs(slopes) <= most).all():
            raise ValueError(
                f"{function}: alibi_slopes must be finite and at most {most:.1e} in magnitude, "
                f"not {_first(slopes, ~(abs(slopes) <= most))}"
            )
    if sinks is not None:
        most = float(np.finfo(statistics).max) / 2
        values = options["sinks"] = _per_head(function, "sinks", sinks, leading, statistics)
        if not (values <= most).all():
            raise ValueError(
                f"{function}: sinks must be finite in {statistics}, or -inf for no sink, "
                f"not {_first(values, ~(values <= most))}"
            )
    return options


def _softcap(function: str, softcap: Any, dtype: np.dtype[Any]) -> float:
    if isinstance(softcap, bool | np.bool_) or not isinstance(softcap, int | float | np.floating | np.integer):
        raise TypeError(f"{function}: softcap must be a real number or None, not {type(softcap).__name__}")
    limits = np.finfo(dtype)
    if not float(limits.tiny) <= softcap <= float(limits.max) / 2:  # so that 1 / softcap is finite as well
        raise ValueError(
            f"{function}: softcap must be positive and finite in {dtype}, not {softcap}; None switches it off"
        )
    return float(softcap)


def _window(function: str, window: Any) -> tuple[int, int]:
    """(left, right) with -1 for None."""
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


def _integers(function: str, name: str, x: Any, shape: tuple[int, ...] | None, needed: str) -> Array:
    """x as an array of integers, of any dtype, seen as `shape` unless that is None."""
    x = array(function, name, x)
    if x.dtype.kind not in "iu":
        raise TypeError(f"{function}: {name} has dtype {x.dtype}; integers are needed")
    try:
        return x if shape is None else np.broadcast_to(x, shape)
    except ValueError:
        raise ValueError(f"{function}: {name} has shape {x.shape}; accepted: {needed}") from None


def _offsets(function: str, query_offset: Any, shape: tuple[int, ...], needed: str) -> Array:
    offsets = _integers(function, "query_offset", query_offset, shape, needed)
    wrong = (offsets >= MOST_ROWS) | (offsets <= -MOST_ROWS)
    if wrong.any():
        raise ValueError(f"{function}: query_offset must be below 2**30 in magnitude, not {_first(offsets, wrong)}")
    return offsets


def _within(function: str, name: str, x: Array, lowest: int, highest: Array, meaning: str) -> None:
    wrong = (x < lowest) | (x > highest)
    if wrong.any():
        seen, most = _first(x, wrong), highest[tuple(np.argwhere(wrong)[0])]
        raise ValueError(f"{function}: {name} must be from {lowest} to {meaning} ({most}), not {seen}")


def _first(x: Array, wrong: Array) -> str:
    """The first wrong value of x, and where it stands."""
    place = tuple(int(i) for i in np.argwhere(wrong)[0])
    return f"{x[place]}" + (f" (at index {', '.join(map(str, place))})" if place else "")


def _for_heads(x: Array, leading: tuple[int, ...]) -> Array:
    """Integers of the batch's shape for each head and the only sequence: (*leading, 1)."""
    return np.broadcast_to(x.astype(np.int64)[..., None, None], (*leading, 1))


def _structure(
    function: str, mask: Any, bias: Any, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> tuple[Array, Array, Array | None]:
    """indptr, indices of a sparse mask, and the data of a sparse bias of the same structure or None."""
    if not hasattr(mask, "tocsr"):
        seen = "None" if mask is None else "dense"
        raise TypeError(
            f"{function}: a sparse bias needs a sparse mask of the same structure, mask is {seen}; "
            "pass the bias as mask as well if its stored entries are what may be attended to"
        )
    indptr, indices, _ = _canonical_csr(function, "mask", mask, shape)
    if bias is None:
        return indptr, indices, None
    if not is_real(bias.dtype):
        raise TypeError(
            f"{function}: sparse bias has dtype {bias.dtype}; real floating numbers are needed "
            "(bias.astype(np.float32) converts)"
        )
    bias_indptr, bias_indices, data = _canonical_csr(function, "bias", bias, shape)
    if not (np.array_equal(indptr, bias_indptr) and np.array_equal(indices, bias_indices)):
        raise ValueError(
            f"{function}: sparse bias must have exactly the mask's structure; mask stores {len(indices)} entries, "
            f"bias {len(bias_indices)}"
            + (", at other places" if len(indices) == len(bias_indices) else "")
            + "; zeros may be stored explicitly"
        )
    with np.errstate(over="ignore"):
        return indptr, indices, np.ascontiguousarray(data, statistics_dtype(dtype))


def _canonical_csr(function: str, name: str, x: Any, shape: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """indptr (L + 1,), int64, indices (nnz,), int32 as scipy's mostly are, and data (nnz,).

    Indices ascend within rows and have no duplicates.
    """
    if tuple(x.shape) != shape:
        raise ValueError(
            f"{function}: sparse {name} has shape {tuple(x.shape)}; accepted: (L, S) = {shape}, shared by all batches "
            "and heads"
        )
    if x.dtype.kind not in "biuf":
        raise TypeError(f"{function}: sparse {name} has dtype {x.dtype}; real numbers or booleans are needed")
    csr = x.tocsr()
    indptr, indices, data = csr.indptr, csr.indices, csr.data
    # A caller may have written these arrays since scipy looked at them.
    if indptr.shape != (shape[0] + 1,) or indptr[0] != 0 or (indptr[1:] < indptr[:-1]).any():
        raise ValueError(
            f"{function}: sparse {name} is broken: its indptr must be {shape[0] + 1} numbers from 0 upwards"
        )
    stored = int(indptr[-1])
    indices, data = indices[:stored], data[:stored]
    if len(indices) < stored or len(data) < stored:
        raise ValueError(f"{function}: sparse {name} is broken: its indptr ends at {stored}, behind its last entry")
    if stored and (indices.min() < 0 or indices.max() >= shape[1]):
        raise ValueError(
            f"{function}: sparse {name} is broken: its indices are from {indices.min()} to {indices.max()}, "
            f"beyond {shape[1]} columns"
        )
    indptr, indices = np.ascontiguousarray(indptr, np.int64), np.ascontiguousarray(indices, np.int32)
    new = np.ones(stored + 1, bool)  # whether an entry is the first of its row or stands right of the one before it
    new[1:-1] = indices[1:] > indices[:-1]
    new[indptr] = True
    return (indptr, indices, data) if new.all() else _sorted_rows(indptr, indices, data)


def _sorted_rows(indptr: Array, indices: Array, data: Array) -> tuple[Array, Array, Array]:
    """Indices ascending within rows, those that stood there several times once, with the sum of their data."""
    rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    order = np.lexsort((indices, rows))
    rows, indices = rows[order], indices[order]
    new = np.ones(len(rows), bool)
    new[1:] = (rows[1:] != rows[:-1]) | (indices[1:] != indices[:-1])
    data = np.add.reduceat(data[order], np.flatnonzero(new))
    counts = np.bincount(rows[new], minlength=len(indptr) - 1)
    return np.concatenate([[0], np.cumsum(counts)]), indices[new], data


def aligned_mask(
    function: str, mask: Any, logits: tuple[int, ...], dtype: np.dtype[Any] | None = None, name: str = "mask"
) -> Array:
    """The mask, or the bias, broadcast without a copy to the logits' shape (..., H, L, S).

    A mask with one axis less than the logits, three or more, is one for each batch element, shared by its heads.
    """
    if hasattr(mask, "tocsr"):
        raise TypeError(
            f"{function}: a sparse {name} is for scaled_dot_product_attention and attention_statistics; "
            f"{name}.toarray() != 0 makes a boolean array"
        )
    mask = array(function, name, mask)
    shape = mask.shape
    _mask_dtype(function, name, mask.dtype, dtype)
    if 3 <= mask.ndim == len(logits) - 1:
        mask = np.expand_dims(mask, -3)
    try:
        if mask.ndim not in (2, len(logits)):
            raise ValueError
        return mask if mask.shape == logits else np.broadcast_to(mask, logits)
    except ValueError:
        pass
    accepted = [f"(L, S) = {logits[-2:]}"]
    if len(logits) > 3:
        accepted.append(f"(batch, L, S) = {logits[:-3] + logits[-2:]}")
    accepted.append(f"anything of {len(logits)} axes that broadcasts to {logits}")
    raise ValueError(f"{function}: {name} has shape {shape}; accepted: {', '.join(accepted)}")


def _mask_dtype(function: str, name: str, seen: np.dtype[Any], dtype: np.dtype[Any] | None) -> None:
    if (seen in FLOATING or is_half(seen)) if dtype is None else seen == dtype:
        return
    needed = dtype or "a supported one"
    if name == "bias":
        remedy = "a boolean array goes into mask" if seen == np.bool_ else f"bias.astype(np.{needed}) converts"
        raise TypeError(
            f"{function}: bias has dtype {seen}; query's dtype {needed} (added to the logits) is needed; {remedy}"
        )
    if seen.kind in "iu":
        raise TypeError(
            f"{function}: an integer mask ({seen}) is ambiguous, 1 means 'may attend' or 'blocked'; "
            "pass a boolean mask, True = may attend: mask != 0 if 1 means 'may attend', "
            "mask == 0 if 1 means 'blocked'"
        )
    if seen != np.bool_:
        raise TypeError(
            f"{function}: mask has dtype {seen}; bool (True = may attend) or query's dtype {needed} "
            "(added to the logits) is needed"
        )


def combined_mask(
    function: str, mask: Any, key_mask: Any, logits: tuple[int, ...], dtype: np.dtype[Any]
) -> Array | None:
    """mask and key_mask (batch, S) as one mask of the logits' shape (batch, H, L, S); a view unless both are given."""
    if mask is not None:
        mask = aligned_mask(function, mask, logits, dtype)
    if key_mask is None:
        return mask  # type: ignore[no-any-return]
    key_mask = array(function, "key_mask", key_mask)
    if key_mask.dtype != bool:
        raise TypeError(f"{function}: key_mask has dtype {key_mask.dtype}; bool (True = a real token) is needed")
    batch, keys = logits[0], logits[-1]
    if key_mask.shape != (batch, keys) and not (batch == 1 and key_mask.shape == (keys,)):
        raise ValueError(f"{function}: key_mask has shape {key_mask.shape}; (batch, S) = {(batch, keys)} is needed")
    live = key_mask.reshape(batch, 1, 1, keys)
    if mask is None:
        return np.broadcast_to(live, logits)
    heads = 1 if mask.strides[1] == 0 else logits[1]
    mask = mask[:, :heads]
    combined: Array = mask & live if mask.dtype == bool else np.where(live, mask, dtype.type(-np.inf))
    return np.broadcast_to(combined, logits)


def finite_scale(function: str, scale: Any, width: int, dtype: np.dtype[Any]) -> float:
    """The scale, 1 / sqrt(width) for None."""
    if scale is None:
        return 1 / math.sqrt(max(1, width))
    if isinstance(scale, bool | np.bool_) or not isinstance(scale, int | float | np.floating | np.integer):
        raise TypeError(f"{function}: scale must be a real number or None, not {type(scale).__name__}")
    largest = float(np.finfo(dtype).max) / 2  # logits are in units of log2: larger by log2(e)
    if not (-largest <= scale < 0 or 0 < scale <= largest):
        raise ValueError(f"{function}: scale must be finite in {dtype} and not zero, not {scale}")
    return float(scale)


def output(function: str, out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], inputs: dict[str, Any]) -> Array:
    """The caller's array for the result, or a new one for None; inputs are arguments that it must not overlap."""
    if out is None:
        return np.empty(shape, dtype)
    if not isinstance(out, np.ndarray) or out.dtype != dtype:
        seen = out.dtype if isinstance(out, np.ndarray) else type(out).__name__
        raise TypeError(f"{function}: out must be an array of dtype {dtype}, not {seen}")
    if out.shape != shape:
        raise ValueError(f"{function}: out has shape {out.shape}; the result has {shape}")
    if not out.flags.writeable:
        raise ValueError(f"{function}: out is read-only")
    if _overlaps_itself(out):
        raise ValueError(f"{function}: out overlaps itself: strides {out.strides} for shape {out.shape}")
    for name, x in inputs.items():
        # a sparse matrix is its arrays; what is no array yet is copied when it becomes one
        parts = list(vars(x).values()) if hasattr(x, "tocsr") and hasattr(x, "__dict__") else [x]
        if any(isinstance(part, np.ndarray) and _overlap(out, part) for part in parts):
            raise ValueError(f"{function}: out shares memory with {name}, which is read while out is written")
    return out


def _overlaps_itself(x: Array) -> bool:
    """Whether an axis steps by less than the axes inside it extend: never so for slices of an ordinary array."""
    extent = x.itemsize
    for stride, size in sorted(
        (abs(stride), size) for stride, size in zip(x.strides, x.shape, strict=True) if size > 1
    ):
        if x.size and stride < extent:
            return True
        extent += stride * (size - 1)
    return False


def _overlap(a: Array, b: Array) -> bool:
    if not np.may_share_memory(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=10_000)  # type: ignore[arg-type]  # any bound is accepted
    except np.exceptions.TooHardError:
        return True


def size(function: str, name: str, value: Any) -> int:
    """A layer's size: a positive integer."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{function}: {name} must be a positive integer, not {value!r}")
    return int(value)


def choice(function: str, name: str, value: Any, accepted: Iterable[Any]) -> Any:
    if value not in tuple(accepted):  # a tuple: what cannot be hashed is compared as well
        raise ValueError(f"{function}: {name} must be one of {', '.join(map(repr, accepted))}, not {value!r}")
    return value


def layer_dtype(function: str, dtype: DTypeLike) -> np.dtype[Any]:
    try:
        if np.dtype(dtype) in FLOATING:
            return np.dtype(dtype)
    except TypeError:  # not a dtype at all
        pass
    raise TypeError(f"{function}: dtype must be float32 or float64, not {getattr(dtype, '__name__', dtype)}")


def rows(function: str, x: Any, width: int, dtype: np.dtype[Any]) -> tuple[Array, tuple[int, ...]]:
    """x (..., width) as rows (n, width), each contiguous, and its leading shape; a view where that is possible."""
    x = array(function, "the input", x)
    if x.dtype != dtype:
        raise TypeError(f"{function}: the input has dtype {x.dtype}, the layer {dtype}; x.astype(np.{dtype}) converts")
    if x.ndim < 1 or x.shape[-1] != width:
        raise ValueError(f"{function}: the input has shape {x.shape}; (..., {width}) is needed")
    shape = x.shape[:-1]
    x = x.reshape(math.prod(shape), width)
    return (x if x.strides[1] == x.itemsize or width == 1 else np.ascontiguousarray(x)), shape


def batches(function: str, *shapes: tuple[int, ...]) -> tuple[int, tuple[int, int]]:
    """Batch size and lengths (L, S) of query, key and value of shapes (B, L), (B, S), (B, S), or without B."""
    query, key, value = shapes
    if len(query) not in (1, 2) or len(key) != len(query) or key != value or query[:-1] != key[:-1]:
        seen = ", ".join(str((*shape, "E")).replace("'", "") for shape in dict.fromkeys(shapes))
        raise ValueError(f"{function}: the inputs have shapes {seen}; accepted: (B, L, E) and (B, S, E), or without B")
    return (query[0] if len(query) == 2 else 1), (query[-1], key[-1])


def sequence_starts(
    function: str, cu_seqlens: Any, shape: tuple[int, ...], name: str = "cu_seqlens", what: str = "tokens"
) -> Array:
    """cu_seqlens as int64, for packed rows of the leading shape (total,)."""
    starts = array(function, name, cu_seqlens)
    if starts.dtype.kind not in "iu":
        raise TypeError(f"{function}: {name} must be integers, not {starts.dtype}")
    if len(shape) != 1:
        raise ValueError(f"{function}: x must have two axes, (total tokens, E), not {len(shape) + 1}")
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
    return np.array(starts, np.int64, order="C")


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
    if isinstance(top_k, bool) or not isinstance(top_k, int | np.integer):
        raise TypeError(f"{function}: top_k must be an integer or None, not {top_k!r}")
    if not 1 <= top_k <= keys:
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
    parts = _same_dtype(function, {f"outputs[{i}]": x for i, x in enumerate(outputs)}, halves=True)
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
