cimport numpy as cnp

from pyattn._core.kernels cimport pyattn_kernels
from pyattn._core.rows cimport Rows

cdef struct RowTask:  # one row in, one row out: what the functions of each_row are given
    const pyattn_kernels *kernels
    Rows input, out
    const void *parameters  # what else they need

ctypedef void (*row_function)(const RowTask *, Py_ssize_t row) noexcept nogil

# Calls a function for each of `count` rows of so many elements; threads take as many at a time as are worth it.
cdef void each_row(row_function function, const RowTask *task, Py_ssize_t count, Py_ssize_t width, int threads) noexcept

# LayerNorm, or RMSNorm, which is not centred, of each of `heads` equal parts of each row into out, which may be input.
# weight and bias may be None. Raises ValueError where they do not fit such parts.
cdef int normalise_rows(
    const Rows *input, cnp.ndarray weight, cnp.ndarray bias, double eps, bint centred, const Rows *out,
    Py_ssize_t heads, int threads,
) except -1

# activation(a) b of each row [a, b]; all are of one dtype, bits of bfloat16 too.
cdef int gate_rows(const Rows *input, const Rows *out, int activation, int threads) except -1

# out, which may be x, = x + scale * branch; all are of float32 or float64.
cdef int add_scaled(const Rows *x, const Rows *branch, double scale, const Rows *out, int threads) except -1

# Rotates heads of rows in place, as `rotate` does.
cdef int rotate_rows(
    const Rows *rows, cnp.ndarray positions, cnp.ndarray cosines, cnp.ndarray sines, Py_ssize_t head_width,
    bint interleaved, int threads,
) except -1
