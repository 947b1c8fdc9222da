from pyattn._core.kernels cimport pyattn_kernels

cdef const pyattn_kernels *kernels_for(Py_ssize_t itemsize) noexcept
cdef const pyattn_kernels *kernels_of(dtype)

cdef int begin_call(int threads) noexcept  # of those it may use, how many it takes beside others
cdef void end_call() noexcept

cdef struct Watch:  # for signals, during a call: zeros to begin with
    double due
    bint stopped
    void *error

cdef bint stopped(Watch *watch, int thread) noexcept nogil  # to be asked before each task: whether to skip the rest
cdef int raise_error(Watch *watch) except -1  # afterwards: what a signal's handler raised
