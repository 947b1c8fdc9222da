"""The float64 truth, by pyattn.reference, of some of a case's rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.cases import Arrays, Case, RaggedCase
from bench.options import RETURNS

POSITIONAL = {"is_causal", "window", "alibi_slopes"}


def attention(case: Case, arrays: Arrays, rows: np.ndarray) -> np.ndarray:
    """The given query rows of every head, (batch, heads, rows, D)."""
    from pyattn import reference

    query, key, value = (array.astype(np.float64) for array in arrays)
    options = {name: option for name, option in case.keywords.items() if name not in RETURNS}
    offset = options.pop("query_offset", np.asarray(options.get("kv_lengths", case.S)) - case.L)
    # Where positions count, rows are asked for one by one: those of a chunk are next to one another.
    positional = POSITIONAL & options.keys()
    outputs = []
    for chunk in rows[:, None] if positional else [rows]:
        sliced = {name: _of_rows(option, chunk) for name, option in options.items() if name in ("mask", "bias")}
        position = {"query_offset": offset + chunk[0]} if positional else {}
        call = {**options, **sliced, **position}
        outputs.append(reference.scaled_dot_product_attention(query[..., chunk, :], key, value, **call)[0])
    return np.concatenate(outputs, axis=-2)


def _of_rows(mask: Any, rows: np.ndarray) -> Any:
    if hasattr(mask, "tocsr"):
        return mask[rows]
    return mask if mask.shape[-2] == 1 else mask[..., rows, :]


def ragged_attention(case: RaggedCase, arrays: Arrays, rows: np.ndarray) -> np.ndarray:
    """The given tokens of every head, (heads, rows, D): each sequence is a case of its own."""
    outputs = []
    for part in case.slices:
        length = part.stop - part.start
        one = Case(case.heads, length, length, case.D, case.options, case.dtype, key_heads=case.key_heads)
        sequence = tuple(array[part].swapaxes(0, 1)[None] for array in arrays)
        inside = rows[(rows >= part.start) & (rows < part.stop)] - part.start
        if len(inside):
            outputs.append(attention(one, sequence, inside)[0])
    return np.concatenate(outputs, axis=-2)
