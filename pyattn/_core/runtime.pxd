from libc.stdint cimport int64_t

from pyattn._core.kernels cimport pyattn_kernels

# The kernels for elements of NumPy's type number; NPY_UINT16 stands for the bits of bfloat16.
cdef const pyattn_kernels *kernels_of(int dtype) except NULL
# Those of attention of float32 whose keys and values are int8, with scales.
cdef const pyattn_kernels *kernels_of_int8_keys() except NULL

# Begins a call that may use so many threads; returns how many it takes.
cdef int begin_call(int threads) noexcept
cdef void end_call() noexcept

ctypedef void (*turn_function)(const void *context, Py_ssize_t number, int thread) noexcept nogil

# Calls turn(context, i, thread) for each i < count on the threads of a call; `piece` turns are taken at once.
cdef void run(int team, Py_ssize_t count, Py_ssize_t piece, turn_function turn, const void *context) noexcept nogil
cdef object no_scratch()  # the MemoryError of a call

cdef struct Watch:  # for signals, during a call
    bint handles  # whether the caller is the thread that handles them
    int64_t due
    bint stopped
    void *error

cdef Watch begin_watch() noexcept
cdef bint stopped(Watch *watch, int thread) noexcept nogil  # to be asked before each task: whether to skip the rest
cdef int raise_error(Watch *watch) except -1  # afterwards: what a signal's handler raised
