"""What concerns rows as parts of sequences. Arguments are trusted; cu_seqlens are int64 and contiguous."""

cimport numpy as cnp
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

import numpy as np

from pyattn._core.runtime cimport kernels_of
from pyattn._core.rows cimport Rows, bytes_of, rows_of
from pyattn._core.rowwise cimport RowTask, chunk_of, each_row

cnp.import_array()


cdef Cache cache_of(cnp.ndarray cache) noexcept:
    cdef Cache result
    result.data = <char *> cnp.PyArray_DATA(cache)
    result.batch, result.heads = cnp.PyArray_DIMS(cache)[0], cnp.PyArray_DIMS(cache)[1]
    result.capacity, result.width = cnp.PyArray_DIMS(cache)[2], cnp.PyArray_DIMS(cache)[3]
    result.sequence, result.head = cnp.PyArray_STRIDES(cache)[0], cnp.PyArray_STRIDES(cache)[1]
    result.row, result.dtype = cnp.PyArray_STRIDES(cache)[2], cnp.PyArray_TYPE(cache)
    return result


cdef struct Store:
    const Cache *cache
    const int64_t *past_len
    const int64_t *new_len
    Py_ssize_t length, bytes  # rows of a sequence, and bytes of a head's


cdef void store_head(const RowTask *task, Py_ssize_t number) noexcept nogil:
    cdef const Store *store = <const Store *> task.parameters
    cdef const Cache *cache = store.cache
    cdef Py_ssize_t sequence = number // cache.heads, head = number % cache.heads, past = store.past_len[sequence], j
    cdef const char *source = task.input.data + sequence * store.length * task.input.stride + head * store.bytes
    cdef char *target = cache.data + sequence * cache.sequence + head * cache.head + past * cache.row
    for j in range(store.new_len[sequence] - past):
        memcpy(target + j * cache.row, source + j * task.input.stride, store.bytes)


cdef void store_rows(
    const Rows *rows, const Cache *cache, const int64_t *past_len, const int64_t *new_len,
    int threads,
) noexcept:
    cdef Py_ssize_t batch = cache.batch, heads = batch * cache.heads
    cdef Store store
    cdef RowTask task
    store.cache, store.past_len, store.new_len = cache, past_len, new_len
    store.length = rows.count // max(<Py_ssize_t> 1, batch)
    store.bytes = cache.width * bytes_of(cache.dtype)
    task.input, task.parameters = rows[0], &store
    each_row(store_head, &task, heads, max(<Py_ssize_t> 1, heads // max(1, threads)), threads)


def store(
    cnp.ndarray rows not None, cnp.ndarray cache not None, cnp.ndarray past_len not None, cnp.ndarray new_len not None,
    int threads,
):
    """Copies rows into a cache (batch, heads, capacity, width): sequences had past_len[i] rows, then have new_len[i].

    rows (batch L, ...) of the same type are L of each sequence, its heads side by side; new_len - past_len of them
    are copied, L at most. past_len and new_len are int64 (batch,).
    """
    cdef Rows read = rows_of(rows)
    cdef Cache written = cache_of(cache)
    store_rows(&read, &written, <const int64_t *> cnp.PyArray_DATA(past_len),
               <const int64_t *> cnp.PyArray_DATA(new_len), threads)


def longest(cnp.ndarray cu_seqlens not None):
    """The most rows of a sequence."""
    cdef const int64_t *start = <const int64_t *> cnp.PyArray_DATA(cu_seqlens)
    cdef Py_ssize_t i, result = 0
    for i in range(cu_seqlens.shape[0] - 1):
        result = max(result, start[i + 1] - start[i])
    return result


def positions(cnp.ndarray cu_seqlens not None, Py_ssize_t batch):
    """The place of each row in its sequence, for `batch` times the sequences that cu_seqlens describes."""
    cdef Py_ssize_t sequences = cu_seqlens.shape[0] - 1, i, j, _sample
    cdef const int64_t *start = <const int64_t *> cnp.PyArray_DATA(cu_seqlens)
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
    each_row(sum_sequence, &task, out.shape[0], chunk_of(rows.size // max(<Py_ssize_t> 1, out.shape[0])), threads)
