"""Drives the kernels that run along rows. Arguments are trusted: contiguous, of one dtype, checked by the callers."""

cimport numpy as cnp
from cython.parallel cimport prange

from libc.stdint cimport int64_t

from pyattn._core.dispatch cimport kernels_for, kernels_of
from pyattn._core.kernels cimport pyattn_kernels

cnp.import_array()

cdef enum:
    ELEMENTS = 16384  # of a task


def layer_norm(
    cnp.ndarray input not None, cnp.ndarray weight, cnp.ndarray bias, cnp.ndarray out not None, double eps, int threads
):
    """Normalises each row of input (rows, width) into out, which may be input; weight and bias (width,) may be None."""
    cdef const pyattn_kernels *kernels = kernels_for(input.itemsize)
    cdef Py_ssize_t rows = input.shape[0], width = input.shape[1], stride = width * input.itemsize, i
    cdef const char *source = <const char *> cnp.PyArray_DATA(input)
    cdef const char *scale = NULL if weight is None else <const char *> cnp.PyArray_DATA(weight)
    cdef const char *shift = NULL if bias is None else <const char *> cnp.PyArray_DATA(bias)
    cdef char *target = <char *> cnp.PyArray_DATA(out)
    cdef Py_ssize_t chunk = max(1, ELEMENTS // max(1, width))
    with nogil:
        for i in prange(rows, num_threads=max(1, threads), schedule="static", chunksize=chunk):
            kernels.layer_norm(source + i * stride, scale, shift, target + i * stride, width, eps)


def activation(cnp.ndarray input not None, cnp.ndarray out not None, int kind, int threads):
    """Applies an activation to each element of a contiguous input; out may be input."""
    cdef const pyattn_kernels *kernels = kernels_for(input.itemsize)
    cdef const char *source = <const char *> cnp.PyArray_DATA(input)
    cdef char *target = <char *> cnp.PyArray_DATA(out)
    cdef Py_ssize_t size = input.size, itemsize = input.itemsize, i
    with nogil:
        for i in prange((size + ELEMENTS - 1) // ELEMENTS, num_threads=max(1, threads), schedule="static"):
            kernels.activation(
                source + i * ELEMENTS * itemsize, target + i * ELEMENTS * itemsize,
                min(size - i * ELEMENTS, <Py_ssize_t> ELEMENTS), kind,
            )


def gate(cnp.ndarray input not None, cnp.ndarray out not None, int kind, int threads):
    """activation(a) b of contiguous rows [a, b] (rows, 2 width) into contiguous out (rows, width), of the same dtype.

    uint16 are the bits of bfloat16.
    """
    cdef const pyattn_kernels *kernels = kernels_of(input.dtype)
    cdef Py_ssize_t rows = out.shape[0], width = out.shape[1], stride = width * out.itemsize, i
    cdef const char *source = <const char *> cnp.PyArray_DATA(input)
    cdef char *target = <char *> cnp.PyArray_DATA(out)
    cdef Py_ssize_t chunk = max(1, ELEMENTS // max(1, width))
    with nogil:
        for i in prange(rows, num_threads=max(1, threads), schedule="static", chunksize=chunk):
            kernels.gate(source + 2 * i * stride, target + i * stride, width, kind)


def rotate(
    cnp.ndarray rows not None, cnp.ndarray positions not None, cnp.ndarray cosines not None,
    cnp.ndarray sines not None, int threads,
):
    """Rotates heads side by side in rows (n, heads 2 half), each row contiguous, by the angles of their positions.

    positions (n,) int64 are rows of cosines and sines, contiguous (positions, half) of reals; rows of uint16 are bits
    of bfloat16.
    """
    cdef const pyattn_kernels *kernels = kernels_of(rows.dtype)
    cdef Py_ssize_t n = rows.shape[0], half = cosines.shape[1], stride = cnp.PyArray_STRIDES(rows)[0], i, place
    cdef Py_ssize_t heads = rows.shape[1] // max(<Py_ssize_t> 1, 2 * half), table = half * cosines.itemsize
    cdef const int64_t *numbers = <const int64_t *> cnp.PyArray_DATA(positions)
    cdef const char *cosine = <const char *> cnp.PyArray_DATA(cosines)
    cdef const char *sine = <const char *> cnp.PyArray_DATA(sines)
    cdef char *target = <char *> cnp.PyArray_DATA(rows)
    cdef Py_ssize_t chunk = max(1, ELEMENTS // max(<Py_ssize_t> 1, rows.shape[1]))
    with nogil:
        for i in prange(n, num_threads=max(1, threads), schedule="static", chunksize=chunk):
            place = numbers[i] * table
            kernels.rotate(target + i * stride, cosine + place, sine + place, heads, half)
