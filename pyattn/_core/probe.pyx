"""What pyattn.measure times: multiply-adds, and reading memory."""

cimport numpy as cnp
from cython.parallel cimport prange

from pyattn._core.kernels cimport PYATTN_ALIGNMENT, pyattn_kernels
from pyattn._core.rows cimport data_of
from pyattn._core.runtime cimport kernels_of, team_of

cnp.import_array()

cdef dict TYPES = {
    "float32": cnp.NPY_FLOAT32, "float64": cnp.NPY_FLOAT64, "bfloat16": cnp.NPY_UINT16, "int8": cnp.NPY_INT8,
}


def multiply_add(str dtype not None, int threads, Py_ssize_t rounds):
    """Independent multiply-adds in registers of each thread; returns how many floating-point operations they were."""
    cdef const pyattn_kernels *kernels = kernels_of(TYPES[dtype])
    cdef double operations = 0
    cdef int _i
    threads = team_of(threads)
    with nogil:
        for _i in prange(threads, num_threads=threads, schedule="static", chunksize=1):
            operations += kernels.probe_multiply_add(rounds)
    return operations


def read(cnp.ndarray memory not None, int threads, Py_ssize_t rounds):
    """Reads bytes, each thread a share of them, so many times; returns how many were read."""
    cdef const pyattn_kernels *kernels = kernels_of(cnp.NPY_FLOAT32)
    cdef const char *start = data_of(memory)
    cdef double total = 0
    cdef int i, _round
    threads = team_of(threads)
    cdef Py_ssize_t share = memory.size // threads // PYATTN_ALIGNMENT * PYATTN_ALIGNMENT
    with nogil:
        for _round in range(rounds):
            for i in prange(threads, num_threads=threads, schedule="static", chunksize=1):
                total += kernels.probe_read(start + i * share, share // (4 * kernels.lanes))
    return rounds * share * threads
