from pyattn._core.tasks cimport Call

cdef int run_gradients(Call *call, int threads) except -1
