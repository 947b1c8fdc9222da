"""Measures what the machine can do at most."""

import time

cimport numpy as cnp
from cython.parallel cimport prange
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from pyattn._core.kernels cimport PYATTN_ALIGNMENT, pyattn_kernels
from pyattn._core.runtime cimport kernels_of, team_of

cdef dict TYPES = {
    "float32": cnp.NPY_FLOAT32, "float64": cnp.NPY_FLOAT64, "bfloat16": cnp.NPY_UINT16, "int8": cnp.NPY_INT8,
}


def multiply_add(str dtype not None, int threads, double seconds):
    """Peak floating-point operations a second of `threads` threads: independent multiply-adds in registers.

    dtype: "float32", "float64", "bfloat16" or "int8".
    """
    cdef const pyattn_kernels *kernels = kernels_of(TYPES[dtype])
    cdef Py_ssize_t rounds = 1000
    cdef double operations, best = 0
    cdef int _i
    threads = team_of(threads)
    stop = time.perf_counter() + seconds
    while True:
        operations = 0
        start = time.perf_counter()
        with nogil:
            for _i in prange(threads, num_threads=threads, schedule="static", chunksize=1):
                operations += kernels.probe_multiply_add(rounds)
        now = time.perf_counter()
        if now - start < 0.01:
            rounds *= 2  # too short to time
            continue
        best = max(best, operations / (now - start))
        if now > stop:
            return best


def read(int threads, double seconds, Py_ssize_t size):
    """Bytes a second that `threads` threads read from `size` bytes of memory, larger than any cache."""
    cdef const pyattn_kernels *kernels = kernels_of(cnp.NPY_FLOAT32)
    threads = team_of(threads)
    cdef Py_ssize_t vector = kernels.lanes * 4
    cdef Py_ssize_t share = size // threads // PYATTN_ALIGNMENT * PYATTN_ALIGNMENT
    cdef char *memory = <char *> malloc(size)
    cdef double best = 0, total = 0
    cdef int i
    if memory == NULL:
        raise MemoryError(f"measure: cannot allocate {size} bytes")
    try:
        with nogil:
            memset(memory, 0, size)
        stop = time.perf_counter() + seconds
        while True:
            start = time.perf_counter()
            with nogil:
                for i in prange(threads, num_threads=threads, schedule="static", chunksize=1):
                    total += kernels.probe_read(memory + i * share, share // vector)
            now = time.perf_counter()
            best = max(best, share * threads / (now - start))
            if now > stop:
                return best
    finally:
        free(memory)
