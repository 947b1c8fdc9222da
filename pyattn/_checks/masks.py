"""Masks and biases: dense, broadcast to the logits without a copy, and sparse ones in canonical form."""

from typing import Any, Protocol

import numpy as np

from pyattn._checks.arrays import Array, array, is_real, statistics_dtype, wrong_dtype, wrong_shape


class Sparse(Protocol):
    """A scipy.sparse array or matrix; scipy itself is never imported."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def tocsr(self) -> Any: ...


def structure(
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
        needed = "real floating numbers are needed (bias.astype(np.float32) converts)"
        raise wrong_dtype(function, "sparse bias", bias, needed)
    bias_indptr, bias_indices, data = _canonical_csr(function, "bias", bias, shape)
    if not (np.array_equal(indptr, bias_indptr) and np.array_equal(indices, bias_indices)):
        places = ", at other places" if len(indices) == len(bias_indices) else ""
        raise ValueError(
            f"{function}: sparse bias must have exactly the mask's structure; mask stores {len(indices)} entries, "
            f"bias {len(bias_indices)}{places}; zeros may be stored explicitly"
        )
    with np.errstate(over="ignore"):
        return indptr, indices, np.ascontiguousarray(data, statistics_dtype(dtype))


def _canonical_csr(function: str, name: str, x: Any, shape: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """indptr (L + 1,), int64, indices (nnz,), int32 as scipy's mostly are, and data (nnz,).

    Indices ascend within rows and have no duplicates.
    """
    if tuple(x.shape) != shape:
        raise wrong_shape(function, f"sparse {name}", x, f"(L, S) = {shape}, shared by all batches and heads")
    if x.dtype.kind not in "biuf":
        raise wrong_dtype(function, f"sparse {name}", x, "real numbers or booleans are needed")
    csr = x.tocsr()
    # A caller may have written these arrays since scipy looked at them, and may do so during the call.
    indptr, indices, data = csr.indptr.copy(), csr.indices.copy(), csr.data
    broken = f"{function}: sparse {name} is broken: its"
    if indptr.shape != (shape[0] + 1,) or indptr[0] != 0 or (indptr[1:] < indptr[:-1]).any():
        raise ValueError(f"{broken} indptr must be {shape[0] + 1} numbers from 0 upwards")
    stored = int(indptr[-1])
    indices, data = indices[:stored], data[:stored]
    if len(indices) < stored or len(data) < stored:
        raise ValueError(f"{broken} indptr ends at {stored}, after its last entry")
    if stored and (indices.min() < 0 or indices.max() >= shape[1]):
        raise ValueError(f"{broken} indices are from {indices.min()} to {indices.max()}, beyond {shape[1]} columns")
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
    return np.concatenate([[0], np.cumsum(counts)], dtype=np.int64), indices[new], data


def aligned_mask(function: str, mask: Any, logits: tuple[int, ...], dtype: np.dtype[Any], name: str = "mask") -> Array:
    """The mask, or the bias, broadcast without a copy to the logits' shape (..., H, L, S).

    A mask with one axis less than the logits, three or more, is one for each batch element, shared by its heads.
    """
    if hasattr(mask, "tocsr"):
        raise TypeError(
            f"{function}: a sparse {name} is for scaled_dot_product_attention and attention_statistics; "
            f"{name}.toarray() != 0 makes a boolean array"
        )
    given = array(function, name, mask)
    _check_dtype(function, name, given, dtype)
    mask = np.expand_dims(given, -3) if 3 <= given.ndim == len(logits) - 1 else given
    try:
        if mask.ndim not in (2, len(logits)):
            raise ValueError
        return mask if mask.shape == logits else np.broadcast_to(mask, logits)
    except ValueError:
        per_batch = f"(batch, L, S) = {logits[:-3] + logits[-2:]}, " if len(logits) > 3 else ""
        axes = f"anything of {len(logits)} axes that broadcasts to {logits}"
        raise wrong_shape(function, name, given, f"(L, S) = {logits[-2:]}, {per_batch}{axes}") from None


def _check_dtype(function: str, name: str, mask: Array, dtype: np.dtype[Any]) -> None:
    seen = mask.dtype
    if seen == dtype or (seen == np.bool_ and name == "mask"):
        return
    needed = f"query's dtype {dtype} (added to the logits) is needed"
    if name == "bias":
        remedy = "a boolean array goes into mask" if seen == np.bool_ else f"bias.astype(np.{dtype}) converts"
        raise wrong_dtype(function, "bias", mask, f"{needed}; {remedy}")
    if seen.kind in "iu":
        raise TypeError(
            f"{function}: an integer mask ({seen}) is ambiguous, 1 means 'may attend' or 'blocked'; "
            "pass a boolean mask, True = may attend: mask != 0 if 1 means 'may attend', "
            "mask == 0 if 1 means 'blocked'"
        )
    raise wrong_dtype(function, "mask", mask, f"bool (True = may attend) or {needed}")


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
        raise wrong_dtype(function, "key_mask", key_mask, "bool (True = a real token) is needed")
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
