"""Sums of rows of tables: the embeddings of tokens."""

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
