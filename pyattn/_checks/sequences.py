"""Sequences: token ids, where sequences begin and end, which of their tokens are real."""

from typing import Any

import numpy as np

from pyattn._checks.arrays import Array, array, below, integers, wrong_dtype
from pyattn._checks.numbers import MAX_ROWS


def indices(function: str, name: str, values: Any, limit: int) -> Array:
    """values as int64 with one axis or two, all in [0, limit)."""
    x = integers(function, name, values)
    if x.ndim not in (1, 2):
        raise ValueError(f"{function}: {name} has shape {x.shape}; it must have one axis, or two with padding")
    below(function, name, x, limit)
    return x.astype(np.int64, copy=False)


def token_ids(function: str, name: str, values: Any) -> Array:
    """values (length,) as int64, none of them negative."""
    x = array(function, name, values)
    if not x.size and x.ndim == 1:
        return np.zeros(0, np.int64)  # an empty list has no integers to tell its dtype
    ids: Array = integers(function, name, x).astype(np.int64)
    if ids.ndim != 1:
        raise ValueError(f"{function}: {name} has shape {ids.shape}; one axis of token ids is needed")
    if ids.min() < 0:
        raise ValueError(f"{function}: {name} must not be negative, but one is {ids.min()}")
    return ids


def token_sequences(function: str, name: str, values: Any) -> list[Array]:
    """values, sequences of token ids of any lengths, as int64 arrays."""
    if not isinstance(values, list | tuple) and not (isinstance(values, np.ndarray) and values.ndim == 2):
        seen = f"an array of shape {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
        raise TypeError(
            f"{function}: {name} must be a list of arrays of token ids, or an array of two axes, not {seen}"
        )
    if isinstance(values, np.ndarray):
        values = array(function, name, values)
    return [token_ids(function, f"{name}[{i}]", x) for i, x in enumerate(values)]


def batches(function: str, *shapes: tuple[int, ...]) -> tuple[int, tuple[int, int]]:
    """Batch size and lengths (L, S) of query, key and value of shapes (B, L), (B, S), (B, S), or without B."""
    query, key, value = (*shapes, shapes[-1], shapes[-1])[:3]  # those that are not given have the last shape
    if len(query) not in (1, 2) or len(key) != len(query) or key != value or query[:-1] != key[:-1]:
        seen = ", ".join(str((*shape, "E")).replace("'", "") for shape in dict.fromkeys(shapes))
        raise ValueError(f"{function}: the inputs have shapes {seen}; accepted: (B, L, E) and (B, S, E), or without B")
    if max(query[-1], key[-1]) >= MAX_ROWS:
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
    if shape[0] >= MAX_ROWS:
        raise ValueError(f"{function}: there are {shape[0]} {what}; less than 2**30 are accepted")
    ends_fit = starts.ndim == 1 and len(starts) and starts[0] == 0 and starts[-1] == shape[0]
    if not ends_fit or (starts[1:] < starts[:-1]).any():
        raise ValueError(f"{function}: {name} must ascend from 0 to the number of {what}, {shape[0]}; not {starts}")
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


def packing(
    function: str, shape: tuple[int, ...], cu_seqlens: Any, attention_mask: Any, lengths: Any
) -> tuple[Array | None, Array]:
    """Which tokens of the shape (n, L) are real, or None for packed ones, (total,); and where sequences start."""
    given = {"cu_seqlens": cu_seqlens, "attention_mask": attention_mask, "lengths": lengths}
    names = [name for name, value in given.items() if value is not None]
    accepted = ["cu_seqlens", "lengths"] if len(shape) == 1 else ["attention_mask", "lengths"]
    if len(names) > 1 or not set(names) <= set(accepted) or (len(shape) == 1 and not names):
        needed = "one of" if len(shape) == 1 else "at most one of"
        raise ValueError(
            f"{function}: token_ids of shape {shape} go with {needed} {' and '.join(accepted)}; given are "
            f"{' and '.join(names) or 'none'}"
        )
    if len(shape) == 1 and lengths is None:
        return None, sequence_starts(function, cu_seqlens, shape)
    if lengths is not None:
        lengths = _lengths(function, lengths, shape)
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return (None if len(shape) == 1 else np.arange(shape[1]) < lengths[:, None]), starts
    live = np.ones(shape, bool) if attention_mask is None else _mask(function, attention_mask, shape)
    return live, np.concatenate([[0], np.cumsum(live.sum(axis=1))]).astype(np.int64)


def _lengths(function: str, given: Any, shape: tuple[int, ...]) -> Array:
    lengths: Array = integers(function, "lengths", given).astype(np.int64)
    most = shape[-1]
    fits = lengths.ndim == 1 and (len(shape) == 1 or len(lengths) == shape[0])
    if not fits or (lengths < 0).any() or (lengths > most).any() or (len(shape) == 1 and lengths.sum() != most):
        accepted = f"that add up to {most}" if len(shape) == 1 else f"of 0 to {most}, {shape[0]} of them"
        raise ValueError(f"{function}: lengths must be integers {accepted}; they are {lengths}")
    return lengths


def _mask(function: str, given: Any, shape: tuple[int, ...]) -> Array:
    mask = array(function, "attention_mask", given)
    if mask.dtype.kind not in "biuf":
        raise wrong_dtype(function, "attention_mask", mask, "booleans, or numbers 0 and 1 are needed")
    if mask.shape != shape:
        raise ValueError(f"{function}: attention_mask has shape {mask.shape}; token_ids has {shape}")
    real: Array = mask == 1
    if not (real | (mask == 0)).all():
        raise ValueError(f"{function}: attention_mask must be 0 or 1, not from {mask.min()} to {mask.max()}")
    return real
