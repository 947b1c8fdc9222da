from pyattn._core.kernels cimport pyattn_kernels

cdef const pyattn_kernels *kernels_for(Py_ssize_t itemsize) noexcept
cdef const pyattn_kernels *kernels_of(dtype)
