cimport numpy as cnp
from libc.stdint cimport int64_t

from pyattn._core.kernels cimport pyattn_kernels
from pyattn._core.rows cimport Rows

cdef struct RowTask:  # one row in, one row out: what the functions of each_row are given
    const pyattn_kernels *kernels
    Rows input, out
    const void *parameters  # what else they need

ctypedef void (*row_function)(const RowTask *, Py_ssize_t row) noexcept nogil

# Calls a function for each of `count` rows; threads take `chunk` of them at a time.
cdef void each_row(row_function function, const RowTask *task, Py_ssize_t count, Py_ssize_t chunk, int threads) noexcept

# So many rows that a thread's share of them is worth its while.
cdef Py_ssize_t chunk_of(Py_ssize_t width) noexcept nogil

cdef struct Parameter:  # a norm's weight or bias; no data: it has none
    const char *data
    Py_ssize_t width
    int dtype

cdef struct Norm:  # LayerNorm, or RMSNorm, which is not centred; valid while its arrays live
    Parameter weight, bias
    double eps
    bint centred

# weight and bias may be None.
cdef Norm norm_of(cnp.ndarray weight, cnp.ndarray bias, double eps, bint centred) noexcept

# Normalises each of `heads` equal parts of each row into out, which may be input. Raises ValueError where the norm does
# not fit such parts.
cdef int normalise_rows(const Rows *input, const Norm *norm, const Rows *out, Py_ssize_t heads, int threads) except -1

# activation(a) b of each row [a, b].
cdef int gate_rows(const Rows *input, const Rows *out, int activation, int threads) except -1

# out, which may be x, = x + scale * branch; all are of float32 or float64.
cdef int add_scaled(const Rows *x, const Rows *branch, double scale, const Rows *out, int threads) except -1

cdef struct Rotation:
    const int64_t *positions  # of each row
    const char *cosines  # (positions, half) of compute type
    const char *sines
    Py_ssize_t half
    bint interleaved

# Rotates the first 2 half features of each head, in place.
cdef int rotate_rows(const Rows *rows, const Rotation *rotation, Py_ssize_t head_width, int threads) except -1
