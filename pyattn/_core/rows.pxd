"""A matrix in memory, as the drivers hand it to one another: without a NumPy array for each part of it."""

cimport numpy as cnp

cdef extern from *:
    const double MAX_BYTES "(0.9 * PY_SSIZE_T_MAX)"  # products of sizes are compared with it as doubles

cdef struct Rows:  # each row contiguous
    char *data
    Py_ssize_t count, width  # rows, and elements of each
    Py_ssize_t stride  # bytes from one row to the next
    int dtype  # NumPy's type number; NPY_UINT16 for the bits of bfloat16


cdef inline Py_ssize_t bytes_of(int dtype) noexcept nogil:
    """Bytes of an element."""
    if dtype == cnp.NPY_FLOAT32:
        return 4
    return 8 if dtype == cnp.NPY_FLOAT64 else 1 if dtype == cnp.NPY_INT8 else 2


cdef inline char *data_of(cnp.ndarray x) noexcept:
    """Where an array begins; NULL for None."""
    return NULL if x is None else <char *> cnp.PyArray_DATA(x)


cdef inline Rows rows_of(cnp.ndarray x) noexcept:
    """A two-dimensional array, while it lives."""
    cdef Rows rows
    rows.data = <char *> cnp.PyArray_DATA(x)
    rows.count, rows.width = cnp.PyArray_DIMS(x)[0], cnp.PyArray_DIMS(x)[1]
    rows.stride = cnp.PyArray_STRIDES(x)[0]
    rows.dtype = cnp.PyArray_TYPE(x)
    return rows


cdef inline Rows contiguous(void *memory, Py_ssize_t count, Py_ssize_t width, int dtype) noexcept nogil:
    """Rows one after the other."""
    cdef Rows rows
    rows.data = <char *> memory
    rows.count, rows.width, rows.dtype = count, width, dtype
    rows.stride = width * bytes_of(dtype)
    return rows


cdef inline Rows part_of(
    const Rows *x, Py_ssize_t first, Py_ssize_t count, Py_ssize_t column, Py_ssize_t width
) noexcept nogil:
    """Rows first ... first + count, and of each the elements column ... column + width."""
    cdef Rows rows = x[0]
    rows.data += first * x.stride + column * bytes_of(x.dtype)
    rows.count, rows.width = count, width
    return rows
