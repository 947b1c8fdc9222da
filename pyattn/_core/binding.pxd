cimport numpy as cnp

from pyattn._core.rows cimport Rows

cdef enum:  # the buffers of a workspace
    PROJECTED
    KEYS
    VALUES
    ATTENDED
    NORMED
    GATES
    HIDDEN
    BRANCH
    BUFFERS

cdef class Workspace:
    cdef readonly list buffers
    cdef public object watch

    cdef Rows rows(self, int buffer, int dtype, Py_ssize_t count, Py_ssize_t width)

cdef class Binding:
    cdef Py_ssize_t batch
    cdef readonly cnp.ndarray query_starts, key_starts
    cdef readonly Workspace workspace
    cdef public cnp.ndarray mask, bias, past_len, new_len
    cdef public bint is_causal, bias_of_sequence
    cdef public int threads
    cdef public double small

cdef class Memory:
    cdef Binding binding
    cdef cnp.ndarray cache, scales
    cdef tuple rows, query_rotation, key_rotation


cdef inline int threads_for(Binding binding, double operations) noexcept:
    """Threads for an operation of so many floating-point operations."""
    return 1 if operations < binding.small else binding.threads
