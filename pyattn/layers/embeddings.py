"""Sums of rows: of tables, which gives the embeddings of tokens, and of packed sequences."""

import numpy as np

from pyattn._checks import Array
from pyattn._core import rowwise
from pyattn._threads import threads_for


def sum_of_rows(tables: list[Array], indices: list[Array], width: int) -> Array:
    """(n, width): the sum of row indices[t][i] of each float32 table t, (rows, width), in their order.

    Raises:
        ValueError: a table is of another width or dtype, or lacks a row: users may replace them.
    """
    out = np.empty((len(indices[0]), width), np.float32)
    rowwise.embed(tables, indices, out, threads_for(20.0 * out.size))
    return out


def sum_sequences(rows: Array, cu_seqlens: Array) -> Array:
    """(sequences, width) float32: the sum of each packed sequence's rows; zeros for an empty one."""
    sums = np.zeros((len(cu_seqlens) - 1, rows.shape[1]), np.float32)
    rowwise.sum_sequences(rows, cu_seqlens, sums, threads_for(rows.size))
    return sums
