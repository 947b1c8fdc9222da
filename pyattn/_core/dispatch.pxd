from pyattn._core.kernels cimport pyattn_kernels

cdef const pyattn_kernels *kernels_for(Py_ssize_t itemsize) noexcept
cdef const pyattn_kernels *kernels_of(dtype)

cdef int begin(int threads) noexcept  # of a call that may use so many: how many it takes, beside those that run
cdef void end() noexcept
