"""A call of attention: what it reads and writes, checked.

Functions make an AttentionCall of arrays. A layer fills a Call once, when it is loaded, and at each of its calls copies
it, binds pointers to the copy and runs that: copies serve many threads at once.
"""

cimport numpy as cnp
from libc.stdint cimport int64_t

from pyattn._core.kernels cimport pyattn_array, pyattn_kernels
from pyattn._core.tasks cimport Call


cdef void begin_call_of(Call *call, const pyattn_kernels *kernels, Py_ssize_t heads, Py_ssize_t key_heads) noexcept
cdef void set_window(Call *call, Py_ssize_t left, Py_ssize_t right) noexcept
cdef void bind_array(Call *call, int operand, int trailing, cnp.ndarray array, bint packed) noexcept


cdef inline void bind(
    Call *call, int operand, char *data, Py_ssize_t head, Py_ssize_t row, Py_ssize_t column, const Py_ssize_t *batch
) noexcept nogil:
    """Points an operand at data, or at nothing for NULL, with strides in bytes.

    batch are the strides of the axes in front of the heads, which stay where they are until the call has run.
    """
    cdef pyattn_array *array = &call.shared.operands[operand]
    array.data, array.head, array.row, array.column = data, head, row, column
    call.batch_strides[operand] = batch


cdef class AttentionCall:
    cdef Call call
    cdef int64_t cu_seqlens[4]  # of the only sequence: of its queries, then of its keys
    cdef readonly dict operands  # by name: what call points into
