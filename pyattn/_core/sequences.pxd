cimport numpy as cnp
from libc.stdint cimport int64_t

from pyattn._core.rows cimport Rows

cdef struct Cache:  # keys, or values, of sequences: (batch, heads, capacity, width); valid while its array lives
    char *data
    Py_ssize_t batch, heads, capacity, width
    Py_ssize_t sequence, head, row  # strides, in bytes
    int dtype

cdef Cache cache_of(cnp.ndarray cache) noexcept

# Copies rows into a cache. Each sequence has equally many of them, its heads side by side; sequence i had past_len[i]
# rows, and then has new_len[i].
cdef void store_rows(
    const Rows *rows, const Cache *cache, const int64_t *past_len, const int64_t *new_len,
    int threads,
) noexcept
