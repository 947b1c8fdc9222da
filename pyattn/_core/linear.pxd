cimport numpy as cnp

from pyattn._core.kernels cimport pyattn_kernels, pyattn_weight
from pyattn._core.memory cimport Memory
from pyattn._core.rows cimport Rows

cdef class Packed:
    cdef const pyattn_kernels *kernels
    cdef readonly object dtype
    cdef readonly cnp.ndarray bias
    cdef Memory memory
    cdef pyattn_weight weight  # points into both

cdef enum:
    MAX_PARTS = 3

cdef struct Weights:  # packed weights that read the same inputs, side by side; valid while their Packed objects live
    const pyattn_kernels *kernels
    pyattn_weight parts[MAX_PARTS]
    int count
    Py_ssize_t inputs, outputs  # outputs: of all parts together
    int element_dtype  # NumPy's type number of the weights
    int operand_dtype  # of what is best read: bits of bfloat16 for bfloat16 and int8 weights
    int compute_dtype  # of biases and residuals; inputs and outputs may be of this or of operand_dtype

# Fills weights. Raises ValueError where the parts do not fit one another.
cdef int join(list parts, Weights *weights) except -1

# out = activation(input weights^T + bias) + residual. residual may be NULL, or out. Raises ValueError where sizes do
# not fit, MemoryError, and what a signal's handler raises.
cdef int multiply(
    const Weights *weights, const Rows *input, const Rows *residual, const Rows *out, int activation, int threads
) except -1
