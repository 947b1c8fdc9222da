cimport numpy as cnp

from pyattn._core.kernels cimport pyattn_kernels

cdef class Packed:
    cdef const pyattn_kernels *kernels
    cdef readonly object dtype
    cdef readonly cnp.ndarray bias
    cdef cnp.ndarray memory
    cdef char *data
    cdef readonly Py_ssize_t outputs, inputs
    cdef readonly int held

cpdef linear(
    cnp.ndarray input,
    list parts,
    cnp.ndarray residual,
    cnp.ndarray out,
    int activation,
    int threads,
)
