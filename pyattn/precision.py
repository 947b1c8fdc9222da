"""In what weights are held and multiplied: "float32", "float64", "bfloat16" or "int8".

In the last two, inputs of matrix products are rounded as the weights are, sums of products, norms, softmax and residual
connections are float32, and so are a layer's inputs and outputs. Bits of bfloat16 are held as uint16: NumPy has no such
dtype.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyattn._checks import Array

BFLOAT16_BITS = np.dtype(np.uint16)
INT8 = np.dtype(np.int8)


def to_bfloat16(x: Array) -> NDArray[np.uint16]:
    """The bits of bfloat16, x rounded to the nearest, ties to even; a NaN stays one."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))
    rounded = np.where(bits & np.uint32(0x7FFFFFFF) > 0x7F800000, bits | np.uint32(0x400000), rounded)
    return (rounded >> np.uint32(16)).astype(np.uint16)


def from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_int8(weight: Array) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Integers from -127 to 127 and the scales (outputs,) that they are multiplied by: the largest of a row is 127.

    Symmetric quantisation of each output channel: Jacob et al. 2018 (arXiv:1712.05877), section 2.1, with zero-point 0.
    """
    weight = np.asarray(weight, np.float32)
    scales = np.maximum(weight.max(axis=1, initial=0), -weight.min(axis=1, initial=0)) / np.float32(127)
    quotients = weight / np.where(scales > 0, scales, np.float32(1))[:, None]
    return np.rint(quotients, out=quotients).astype(np.int8), scales


def elements_of(weight: Array, dtype: np.dtype[Any]) -> tuple[Array, Array | None]:
    """A weight as elements of dtype, and the scales that they are multiplied by or None."""
    if dtype == INT8:
        return to_int8(weight)
    if dtype == BFLOAT16_BITS:
        return to_bfloat16(weight), None
    return weight.astype(dtype, copy=False), None


def values_of(elements: Array, scales: Array | None) -> Array:
    """The reverse of elements_of, but for what rounding took."""
    if elements.dtype == BFLOAT16_BITS:
        return from_bfloat16(elements)
    return elements if scales is None else elements * scales[:, None]
