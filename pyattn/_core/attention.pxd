"""The driver of attention."""

from pyattn._core.tasks cimport Call

cdef double operations(const Call *call) noexcept nogil
cdef int run_attention(Call *call, int threads) except -1
