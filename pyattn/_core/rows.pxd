"""A matrix whose rows are contiguous, as the drivers take it."""

cimport numpy as cnp

cdef struct Rows:
    char *data
    Py_ssize_t count, width  # rows, and elements of each
    Py_ssize_t stride  # bytes from one row to the next
    int dtype  # NumPy's type number


cdef inline Py_ssize_t bytes_of(int dtype) noexcept nogil:
    return 8 if dtype == cnp.NPY_FLOAT64 else 4 if dtype == cnp.NPY_FLOAT32 else 2


cdef inline Rows rows_of(cnp.ndarray x) noexcept:
    """The rows of an array with two axes."""
    cdef Rows rows
    rows.data = <char *> cnp.PyArray_DATA(x)
    rows.count, rows.width = cnp.PyArray_DIMS(x)[0], cnp.PyArray_DIMS(x)[1]
    rows.stride = cnp.PyArray_STRIDES(x)[0]
    rows.dtype = cnp.PyArray_TYPE(x)
    return rows


cdef inline Rows part_of(
    const Rows *x, Py_ssize_t first, Py_ssize_t count, Py_ssize_t column, Py_ssize_t width
) noexcept nogil:
    cdef Rows rows = x[0]
    rows.data += first * x.stride + column * bytes_of(x.dtype)
    rows.count, rows.width = count, width
    return rows


cdef inline Rows contiguous(void *memory, Py_ssize_t count, Py_ssize_t width, int dtype) noexcept nogil:
    cdef Rows rows
    rows.data = <char *> memory
    rows.count, rows.width = count, width
    rows.stride = width * bytes_of(dtype)
    rows.dtype = dtype
    return rows
