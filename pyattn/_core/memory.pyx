"""Memory of packed weights: blocks of huge pages, which weights share.

With few rows the time is that of reading weights, and small pages make it up to 1.3 times as long. NumPy asks the
system for huge ones from 4 MB on, which few weights have.

A block is returned to the system when the last of its weights is gone: one that stays holds up to BLOCK bytes that
others have left. Pages that no weight has touched take no memory.
"""

import contextlib
import mmap
import weakref

import numpy as np

cimport numpy as cnp
from libc.stdint cimport uintptr_t

from pyattn._core.kernels cimport PYATTN_ALIGNMENT
from pyattn._core.rows cimport data_of

cnp.import_array()

cdef extern from "Python.h":
    int PyTraceMalloc_Track(unsigned int domain, uintptr_t place, size_t size)
    int PyTraceMalloc_Untrack(unsigned int domain, uintptr_t place)

cdef enum:
    HUGE_PAGE = 2 << 20
    BLOCK = 8 * HUGE_PAGE
    SMALL = 1 << 16  # weights below have memory of their own: small models take no huge page
    DOMAIN = 0  # of tracemalloc: that of Python's own memory

PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}

# A block with room, which its weights alone keep alive, and where the room begins. A thread takes it out while it
# divides it; who comes meanwhile makes another.
cdef list with_room = []


cdef class Memory:
    """Uninitialised bytes, aligned."""

    def __cinit__(self, Py_ssize_t size):
        if size < SMALL:
            own = np.empty(size + PYATTN_ALIGNMENT, np.uint8)
            self.owner = own[to_multiple(own, PYATTN_ALIGNMENT):]
        else:
            self.owner = part_of_block(size)
        self.data = data_of(self.owner)
        if size >= SMALL:  # others are traced by NumPy
            self.traced = PyTraceMalloc_Track(DOMAIN, <uintptr_t> self.data, size) == 0

    def __dealloc__(self):
        if self.traced:
            PyTraceMalloc_Untrack(DOMAIN, <uintptr_t> self.data)


cdef Py_ssize_t to_multiple(cnp.ndarray memory, Py_ssize_t divisor):
    """Bytes before the first address that is a multiple."""
    return (divisor - <uintptr_t> data_of(memory) % divisor) % divisor


cdef object part_of_block(Py_ssize_t size):
    """An array of so many bytes, which keeps its block alive."""
    cdef Py_ssize_t start = 0, room = 0
    size = (size + PYATTN_ALIGNMENT - 1) // PYATTN_ALIGNMENT * PYATTN_ALIGNMENT
    with contextlib.suppress(IndexError):
        reference, start = with_room.pop()
        block = reference()
        room = 0 if block is None else len(block) - start
    if room < size:
        fresh = new_block(max(size, <Py_ssize_t> BLOCK))
        if room > len(fresh) - size:
            with_room.append((reference, start))
            return fresh[:size]
        block, start = fresh, 0
    with_room.append((weakref.ref(block), start + size))
    return block[start:start + size]


cdef object new_block(Py_ssize_t size):
    try:
        memory = mmap.mmap(-1, size + HUGE_PAGE, **PRIVATE)
    except OSError:
        raise MemoryError(f"Linear: no memory holds a weight of {size} bytes") from None
    with contextlib.suppress(OSError, AttributeError):  # the system has no huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8, size, to_multiple(np.frombuffer(memory, np.uint8), HUGE_PAGE))
