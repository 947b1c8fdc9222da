"""What concerns rows as parts of sequences. Arguments are trusted; cu_seqlens are contiguous."""

cimport numpy as cnp
from libc.stdint cimport int64_t
from libc.string cimport memset

import numpy as np

from pyattn._core.runtime cimport kernels_of
from pyattn._core.rows cimport as_int64, rows_of
from pyattn._core.rowwise cimport RowTask, each_row

cnp.import_array()


def longest(cnp.ndarray cu_seqlens not None):
    """The most rows of a sequence."""
    cdef cnp.ndarray starts = as_int64(cu_seqlens)
    cdef const int64_t *start = <const int64_t *> cnp.PyArray_DATA(starts)
    cdef Py_ssize_t i, result = 0
    for i in range(cu_seqlens.shape[0] - 1):
        result = max(result, start[i + 1] - start[i])
    return result


def positions(cnp.ndarray cu_seqlens not None, Py_ssize_t batch):
    """The place of each row in its sequence, for `batch` times the sequences that cu_seqlens describes."""
    cdef Py_ssize_t sequences = cu_seqlens.shape[0] - 1, i, j, _sample
    cdef cnp.ndarray starts = as_int64(cu_seqlens)
    cdef const int64_t *start = <const int64_t *> cnp.PyArray_DATA(starts)
    cdef Py_ssize_t total = start[sequences]
    cdef cnp.ndarray result = np.empty(batch * total, np.int64)
    cdef int64_t *place = <int64_t *> cnp.PyArray_DATA(result)
    with nogil:
        for _sample in range(batch):
            for i in range(sequences):
                for j in range(start[i + 1] - start[i]):
                    place[start[i] + j] = j
            place += total
    return result


cdef void sum_sequence(const RowTask *task, Py_ssize_t number) noexcept nogil:
    cdef const int64_t *start = <const int64_t *> task.parameters
    cdef char *out = task.out.data + number * task.out.stride
    cdef Py_ssize_t j
    memset(out, 0, task.out.stride)
    for j in range(start[number], start[number + 1]):
        task.kernels.add_row(task.input.data + j * task.input.stride, out, task.out.width)


def sum_sequences(cnp.ndarray rows not None, cnp.ndarray cu_seqlens not None, cnp.ndarray out not None, int threads):
    """out (sequences, width) = the sum of rows cu_seqlens[i] ... cu_seqlens[i + 1], in order; 0 of none. Contiguous."""
    cdef RowTask task
    task.kernels = kernels_of(cnp.PyArray_TYPE(rows))
    task.input, task.out, task.parameters = rows_of(rows), rows_of(out), cnp.PyArray_DATA(cu_seqlens)
    each_row(sum_sequence, &task, out.shape[0], rows.size // max(<Py_ssize_t> 1, out.shape[0]), threads)
