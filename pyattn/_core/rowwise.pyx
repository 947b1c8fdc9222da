"""Drives the kernels that run along rows. Arguments are trusted: contiguous, of one dtype, checked by the callers.

A norm's sizes are not: it is a part of layers that may be replaced by one that does not fit.
"""

cimport numpy as cnp
from cython.parallel cimport prange

from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

import numpy as np

from pyattn._core.dispatch cimport begin_call, end_call, kernels_for, kernels_of
from pyattn._core.kernels cimport pyattn_kernels

cnp.import_array()

cdef enum:
    ELEMENTS = 16384  # of a task
    MOST_TABLES = 3


cdef int check_part(cnp.ndarray part, cnp.ndarray rows, bint centred) except -1:
    """Refuses a weight or bias that is not of rows' features."""
    if part is None or part.shape[0] == rows.shape[1] and cnp.PyArray_TYPE(part) == cnp.PyArray_TYPE(rows):
        return 0
    name = "LayerNorm" if centred else "RMSNorm"
    raise ValueError(
        f"{name}: a norm of {part.shape[0]} {part.dtype} does not fit rows of {rows.shape[1]} {rows.dtype}"
    )


cpdef normalise(
    cnp.ndarray input, cnp.ndarray weight, cnp.ndarray bias, cnp.ndarray out, double eps, bint centred, int threads
):
    """Normalises each row of input (rows, width) into out, which may be input; weight and bias (width,) may be None.

    centred: the mean is taken away first.
    """
    check_part(weight, input, centred)
    check_part(bias, input, centred)
    cdef const pyattn_kernels *kernels = kernels_for(input.itemsize)
    cdef Py_ssize_t rows = input.shape[0], width = input.shape[1], stride = width * input.itemsize, i
    cdef const char *source = <const char *> cnp.PyArray_DATA(input)
    cdef const char *scale = NULL if weight is None else <const char *> cnp.PyArray_DATA(weight)
    cdef const char *shift = NULL if bias is None else <const char *> cnp.PyArray_DATA(bias)
    cdef char *target = <char *> cnp.PyArray_DATA(out)
    cdef Py_ssize_t chunk = max(1, ELEMENTS // max(1, width))
    threads = begin_call(threads)
    with nogil:
        for i in prange(rows, num_threads=threads, schedule="static", chunksize=chunk):
            kernels.normalise_row(source + i * stride, scale, shift, target + i * stride, width, eps, centred)
    end_call()


cpdef store(
    cnp.ndarray rows, Py_ssize_t column, cnp.ndarray cache, cnp.ndarray past, cnp.ndarray until, int threads
):
    """Copies rows into a cache (batch, heads, capacity, width): sequences had past[i] rows, and then have until[i].

    rows (batch L, ...) of the same type are L of each sequence, its heads side by side from `column` on; until - past
    of them are copied, L at most. past and until are int64 (batch,).
    """
    cdef Py_ssize_t batch = cache.shape[0], heads = cache.shape[1], width = cache.shape[3] * cache.itemsize
    cdef Py_ssize_t sequence = cnp.PyArray_STRIDES(cache)[0], head = cnp.PyArray_STRIDES(cache)[1]
    cdef Py_ssize_t place = cnp.PyArray_STRIDES(cache)[2], row = cnp.PyArray_STRIDES(rows)[0]
    cdef Py_ssize_t length = rows.shape[0] // max(<Py_ssize_t> 1, batch), offset = column * rows.itemsize, i, j
    cdef const char *source = <const char *> cnp.PyArray_DATA(rows) + offset
    cdef char *target = <char *> cnp.PyArray_DATA(cache)
    cdef const int64_t *first = <const int64_t *> cnp.PyArray_DATA(past)
    cdef const int64_t *last = <const int64_t *> cnp.PyArray_DATA(until)
    threads = begin_call(threads)
    with nogil:
        for i in prange(batch * heads, num_threads=threads, schedule="static"):
            for j in range(last[i // heads] - first[i // heads]):
                memcpy(
                    target + i // heads * sequence + i % heads * head + (first[i // heads] + j) * place,
                    source + (i // heads * length + j) * row + i % heads * width, width,
                )
    end_call()


def longest(cnp.ndarray starts not None):
    """The most rows of a sequence; starts are int64, contiguous."""
    cdef const int64_t *start = <const int64_t *> cnp.PyArray_DATA(starts)
    cdef Py_ssize_t i, most = 0
    for i in range(starts.shape[0] - 1):
        most = max(most, start[i + 1] - start[i])
    return most


def positions(cnp.ndarray starts not None, Py_ssize_t batch):
    """The place of each row in its sequence, for `batch` times the sequences that starts, int64, describes."""
    cdef Py_ssize_t sequences = starts.shape[0] - 1, i, j, _sample
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


def embed(list tables not None, list numbers not None, cnp.ndarray out not None, int threads):
    """out (n, width) = the sum of row numbers[t][i] of each table t, in their order.

    Tables (rows, width) are contiguous, of the dtype of out; numbers are contiguous int64 (n,), three of them at most.

    Raises ValueError unless that is so and the numbers are of rows: a model's configuration and embeddings are public,
    and users replace them.
    """
    cdef const pyattn_kernels *kernels = kernels_for(out.itemsize)
    cdef Py_ssize_t n = out.shape[0], width = out.shape[1], stride = width * out.itemsize, i, rows
    cdef const char *table[MOST_TABLES]
    cdef const int64_t *number[MOST_TABLES]
    cdef int count = len(tables), t
    cdef cnp.ndarray array
    cdef char *target = <char *> cnp.PyArray_DATA(out)
    cdef Py_ssize_t chunk = max(1, ELEMENTS // max(1, width))
    for t in range(count):
        array = tables[t]
        if array.ndim != 2 or array.shape[1] != width or array.dtype != out.dtype or \
                not cnp.PyArray_IS_C_CONTIGUOUS(array):
            raise ValueError(f"embeddings: a table is {array.dtype} {(<object> array).shape}; {out.dtype} "
                             f"(rows, {width}) is needed; the model's embeddings were replaced")
        table[t] = <const char *> cnp.PyArray_DATA(array)
        rows = array.shape[0]
        array = numbers[t]
        if array.ndim != 1 or array.shape[0] != n or cnp.PyArray_TYPE(array) != cnp.NPY_INT64 or \
                not cnp.PyArray_IS_C_CONTIGUOUS(array):
            raise ValueError(f"embeddings: numbers are {array.dtype} {(<object> array).shape}; int64 ({n},) is needed")
        number[t] = <const int64_t *> cnp.PyArray_DATA(array)
        for i in range(n):
            if number[t][i] < 0 or number[t][i] >= rows:
                raise ValueError(f"embeddings: row {number[t][i]} of a table of {rows} is needed; the model's "
                                 f"configuration or embeddings were replaced")
    threads = begin_call(threads)
    with nogil:
        for i in prange(n, num_threads=threads, schedule="static", chunksize=chunk):
            add_up(kernels, table, number, count, i, target + i * stride, width)
    end_call()


cdef void add_up(
    const pyattn_kernels *kernels, const char **table, const int64_t **number, int count, Py_ssize_t i, char *out,
    Py_ssize_t width,
) noexcept nogil:
    cdef Py_ssize_t stride = width * kernels.real_bytes
    cdef int t
    memcpy(out, table[0] + number[0][i] * stride, stride)
    for t in range(1, count):
        kernels.add_row(table[t] + number[t][i] * stride, out, width)


def sum_sequences(cnp.ndarray rows not None, cnp.ndarray starts not None, cnp.ndarray out not None, int threads):
    """out (sequences, width) = the sum of rows starts[i] ... starts[i + 1], in order; 0 of none. All contiguous."""
    cdef const pyattn_kernels *kernels = kernels_for(rows.itemsize)
    cdef Py_ssize_t sequences = out.shape[0], width = out.shape[1], stride = width * out.itemsize, i, j
    cdef const int64_t *start = <const int64_t *> cnp.PyArray_DATA(starts)
    cdef const char *source = <const char *> cnp.PyArray_DATA(rows)
    cdef char *target = <char *> cnp.PyArray_DATA(out)
    threads = begin_call(threads)
    with nogil:
        memset(target, 0, sequences * stride)
        for i in prange(sequences, num_threads=threads, schedule="guided"):
            for j in range(start[i], start[i + 1]):
                kernels.add_row(source + j * stride, target + i * stride, width)
    end_call()


def activation(cnp.ndarray input not None, cnp.ndarray out not None, int kind, int threads):
    """Applies an activation to each element of a contiguous input; out may be input."""
    cdef const pyattn_kernels *kernels = kernels_for(input.itemsize)
    cdef const char *source = <const char *> cnp.PyArray_DATA(input)
    cdef char *target = <char *> cnp.PyArray_DATA(out)
    cdef Py_ssize_t size = input.size, itemsize = input.itemsize, i
    threads = begin_call(threads)
    with nogil:
        for i in prange((size + ELEMENTS - 1) // ELEMENTS, num_threads=threads, schedule="static"):
            kernels.activation(
                source + i * ELEMENTS * itemsize, target + i * ELEMENTS * itemsize,
                min(size - i * ELEMENTS, <Py_ssize_t> ELEMENTS), kind,
            )
    end_call()


cpdef gate(cnp.ndarray input, cnp.ndarray out, int kind, int threads):
    """activation(a) b of contiguous rows [a, b] (rows, 2 width) into contiguous out (rows, width), of the same dtype.

    uint16 are the bits of bfloat16.
    """
    cdef const pyattn_kernels *kernels = kernels_of(input.dtype)
    cdef Py_ssize_t rows = out.shape[0], width = out.shape[1], stride = width * out.itemsize, i
    cdef const char *source = <const char *> cnp.PyArray_DATA(input)
    cdef char *target = <char *> cnp.PyArray_DATA(out)
    cdef Py_ssize_t chunk = max(1, ELEMENTS // max(1, width))
    threads = begin_call(threads)
    with nogil:
        for i in prange(rows, num_threads=threads, schedule="static", chunksize=chunk):
            kernels.gate(source + 2 * i * stride, target + i * stride, width, kind)
    end_call()


cpdef rotate(
    cnp.ndarray rows, cnp.ndarray positions, cnp.ndarray cosines, cnp.ndarray sines, int threads, Py_ssize_t head_width,
    bint interleaved=False,
):
    """Rotates the first 2 half features of heads by the angles of their positions.

    Heads stand side by side in rows (n, heads head_width), each row contiguous; head_width is 2 half or more.
    positions (n,) int64 are rows of cosines and sines, contiguous (positions, half) of reals; rows of uint16 are bits
    of bfloat16. interleaved: features 2 i and 2 i + 1 are a pair, else i and i + half.
    """
    cdef const pyattn_kernels *kernels = kernels_of(rows.dtype)
    cdef Py_ssize_t n = rows.shape[0], half = cosines.shape[1], stride = cnp.PyArray_STRIDES(rows)[0], i, place
    cdef Py_ssize_t heads = rows.shape[1] // max(<Py_ssize_t> 1, head_width), table = half * cosines.itemsize
    cdef Py_ssize_t step = head_width * rows.itemsize
    cdef const int64_t *numbers = <const int64_t *> cnp.PyArray_DATA(positions)
    cdef const char *cosine = <const char *> cnp.PyArray_DATA(cosines)
    cdef const char *sine = <const char *> cnp.PyArray_DATA(sines)
    cdef char *target = <char *> cnp.PyArray_DATA(rows)
    cdef Py_ssize_t chunk = max(1, ELEMENTS // max(<Py_ssize_t> 1, rows.shape[1]))
    threads = begin_call(threads)
    with nogil:
        for i in prange(n, num_threads=threads, schedule="static", chunksize=chunk):
            place = numbers[i] * table
            kernels.rotate(target + i * stride, cosine + place, sine + place, heads, step, half, interleaved)
    end_call()
