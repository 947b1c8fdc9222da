"""Operations on rows that models and tasks share: look-up in tables, and sums over packed sequences."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pyattn._checks import Array
from pyattn._core import rowwise, sequences
from pyattn._threads import threads_for


def embed(tables: Sequence[Array], indices: Sequence[Array]) -> NDArray[np.float32]:
    """(rows, width): row i is the sum of tables[t][indices[t][i]] over all tables; indices are int64, and trusted."""
    x = np.empty((len(indices[0]), tables[0].shape[1]), np.float32)
    rowwise.embed(list(tables), list(indices), x, threads_for(20.0 * x.size))
    return x


def sum_sequences(rows: Array, cu_seqlens: Array) -> NDArray[np.float32]:
    """(sequences, width): the sum of each packed sequence's rows; zeros for an empty one."""
    sums = np.zeros((len(cu_seqlens) - 1, rows.shape[1]), np.float32)
    sequences.sum_sequences(rows, cu_seqlens, sums, threads_for(rows.size))
    return sums
