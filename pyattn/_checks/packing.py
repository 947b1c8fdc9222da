"""What models are given: integers that number rows of a table, and where sequences begin and end."""

from typing import Any

import numpy as np

from pyattn._checks.attention import sequence_starts
from pyattn._checks.basics import Array, array, integers


def indices(function: str, name: str, values: Any, limit: int) -> Array:
    """values as int64 with one axis or two, all in [0, limit)."""
    x = integers(function, name, values, None, "")
    if x.ndim not in (1, 2):
        raise ValueError(f"{function}: {name} has shape {x.shape}; it must have one axis, or two with padding")
    if x.size and not 0 <= x.min() <= x.max() < limit:
        raise ValueError(f"{function}: {name} must be in [0, {limit}), not in [{x.min()}, {x.max()}]")
    return x.astype(np.int64, copy=False)


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
    lengths: Array = integers(function, "lengths", given, None, "").astype(np.int64)
    most = shape[-1]
    fits = lengths.ndim == 1 and (len(shape) == 1 or len(lengths) == shape[0])
    if not fits or (lengths < 0).any() or (lengths > most).any() or (len(shape) == 1 and lengths.sum() != most):
        accepted = f"that add up to {most}" if len(shape) == 1 else f"of 0 to {most}, {shape[0]} of them"
        raise ValueError(f"{function}: lengths must be integers {accepted}; they are {lengths}")
    return lengths


def _mask(function: str, given: Any, shape: tuple[int, ...]) -> Array:
    mask = array(function, "attention_mask", given)
    if mask.dtype.kind not in "biuf":
        raise TypeError(f"{function}: attention_mask has dtype {mask.dtype}; booleans, or numbers 0 and 1 are needed")
    if mask.shape != shape:
        raise ValueError(f"{function}: attention_mask has shape {mask.shape}; token_ids has {shape}")
    real: Array = mask == 1
    if not (real | (mask == 0)).all():
        raise ValueError(f"{function}: attention_mask must be 0 or 1, not from {mask.min()} to {mask.max()}")
    return real
