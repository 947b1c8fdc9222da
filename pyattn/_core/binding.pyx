"""What the layers of one call share: memory, rotary positions, and which rows attend to which keys."""

cimport numpy as cnp

import numpy as np

from pyattn._core.rows cimport MAX_BYTES, Rows, bytes_of, contiguous

cnp.import_array()

# glibc gives freed memory back to the system beyond twice the largest array that it has seen freed, and what comes
# again costs a fault for each page: batches of sentences would take 1.05 to 1.09 times as long. This array, which
# nobody touches, makes that 32 MiB: more than a call on some thousand tokens needs.
np.empty(16 << 20, np.uint8)


cdef class Workspace:
    """Memory for intermediate results of a layer, kept for the next layer of the one call that has it at a time: new
    memory costs a fault for each page.

    watch is None, or what each attention of the call is shown to: layer.pyx.
    """
    def __init__(self):
        self.buffers = [None] * BUFFERS

    def __reduce__(self):
        return Workspace, ()  # a copy begins with none

    cdef Rows rows(self, int buffer, int dtype, Py_ssize_t count, Py_ssize_t width):
        """Uninitialised rows, valid until the buffer is asked for again."""
        if 1.0 * count * width * bytes_of(dtype) > MAX_BYTES:
            raise MemoryError(f"pyattn: no memory holds {count} rows of {width} features")
        cdef cnp.npy_intp size = max(<Py_ssize_t> 1, count * width * bytes_of(dtype))
        cdef cnp.ndarray memory = self.buffers[buffer]
        if memory is None or memory.shape[0] < size:
            self.buffers[buffer] = None
            memory = self.buffers[buffer] = cnp.PyArray_EMPTY(1, &size, cnp.NPY_UINT8, 0)
        return contiguous(cnp.PyArray_DATA(memory), count, width, dtype)


cdef class Binding:
    """Which rows attend to which keys, in one call: `batch` times the sequences that the starts, int64, describe.

    mask and bias are as attention's; bias_of_sequence says that bias is for each sequence from its first row. is_causal
    replaces the right side of a layer's window. past_len and new_len, int64 (batch,), are the numbers of tokens in a
    cache before and after the call: with both, keys and values of the rows are appended to the cache; with new_len
    alone it has them already.

    threads is an upper bound; operations below `small` floating-point operations run on the calling thread.
    """

    def __init__(
        self, Py_ssize_t batch, cnp.ndarray query_starts not None, cnp.ndarray key_starts not None,
        Workspace workspace not None,
    ):
        self.batch, self.query_starts, self.key_starts = batch, query_starts, key_starts
        self.workspace = workspace
        self.threads = 1


cdef class Memory:
    """What cross-attention attends to, in one call: rows of keys and of values, or a cache that has them, with the
    scales of one of int8; which rows attend to which of these keys; and the rotary positions of the queries and of the
    keys' rows, or None."""

    def __init__(
        self, Binding binding not None, tuple rows, cnp.ndarray cache, cnp.ndarray scales, tuple query_rotation,
        tuple key_rotation,
    ):
        self.binding, self.rows, self.cache, self.scales = binding, rows, cache, scales
        self.query_rotation, self.key_rotation = query_rotation, key_rotation
