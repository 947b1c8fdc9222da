"""The dtypes of weights: "float32", "float64", "bfloat16" and "int8".

With the last two, inputs of matrix products are rounded as the weights are; sums of products, norms, softmax and
residual connections are float32, and so are a layer's inputs and outputs. Arrays of bfloat16 are its bits, uint16.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyattn._checks import Array, array

BFLOAT16_BITS = np.dtype(np.uint16)
INT8 = np.dtype(np.int8)
MAX_INT8_INPUTS = 2**16  # the sum of so many products of at most 255 times 128 is below 2^31
_PART = 2**18  # elements that are rounded at a time


def to_bfloat16(x: Array) -> NDArray[np.uint16]:
    """The bits of bfloat16, x rounded to the nearest, ties to even; a NaN stays one."""
    x = np.ascontiguousarray(x, np.float32)
    result = np.empty(x.shape, np.uint16)
    source, out = x.reshape(-1).view(np.uint32), result.reshape(-1)
    for start in range(0, len(out), _PART):  # in parts, which need little memory beside x and the result
        bits = source[start : start + _PART]
        rounded = bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))
        rounded = np.where(bits & np.uint32(0x7FFFFFFF) > 0x7F800000, bits | np.uint32(0x400000), rounded)
        out[start : start + _PART] = rounded >> np.uint32(16)
    return result


def mask_to_bfloat16(mask: Array) -> NDArray[np.uint16]:
    """Converts a broadcast mask to bfloat16 without materialising its broadcast axes."""
    unbroadcast = mask[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in mask.strides)]
    return np.broadcast_to(to_bfloat16(unbroadcast), mask.shape)


def from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_int8(weight: Array) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Integers from -127 to 127 and the scales (..., outputs) that rows are multiplied by: the largest of each is 127.

    Symmetric quantisation of each output channel: Jacob et al. 2018 (arXiv:1712.05877), section 2.1, with zero-point 0.
    """
    weight = np.asarray(weight, np.float32)
    with np.errstate(invalid="ignore"):  # a row that is not finite has a scale that is not
        scales = np.maximum(weight.max(axis=-1, initial=0), -weight.min(axis=-1, initial=0)) / np.float32(127)
        # denormal ones are so coarse that quotients would pass 127
        scales = np.where(scales < np.finfo(np.float32).tiny, np.float32(0), scales)
        divisors = np.where(scales > 0, scales, np.float32(1))[..., None]
        elements = np.empty(weight.shape, np.int8)
        rows = max(1, _PART * len(weight) // max(1, weight.size))
        for part in (slice(start, start + rows) for start in range(0, len(weight), rows)):
            quotients = weight[part] / divisors[part]
            elements[part] = np.rint(quotients, out=quotients)
    return elements, scales


@dataclass(frozen=True, eq=False)
class Quantized:
    """A weight in int8: elements (outputs, inputs), int8, times scales (outputs,), float32.

    Raises:
        TypeError: elements or scales are no array, or have another dtype.
        ValueError: their shapes are others.
    """

    elements: NDArray[np.int8]
    scales: NDArray[np.float32]

    def __post_init__(self) -> None:
        for name, dtype in (("elements", INT8), ("scales", np.dtype(np.float32))):
            x = array("Quantized", name, getattr(self, name))
            if x.dtype != dtype:
                raise TypeError(f"Quantized: {name} has dtype {x.dtype}; {dtype} is needed")
            object.__setattr__(self, name, x)
        if self.elements.ndim != 2 or self.scales.shape != self.elements.shape[:1]:
            raise ValueError(
                f"Quantized: elements have shape {self.elements.shape}, scales {self.scales.shape}; (outputs, inputs) "
                "and (outputs,) are needed"
            )
        object.__setattr__(self, "scales", np.ascontiguousarray(self.scales))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.elements.shape

    @property
    def dtype(self) -> np.dtype[np.int8]:
        return self.elements.dtype

    def __getitem__(self, rows: slice) -> "Quantized":
        return Quantized(self.elements[rows], self.scales[rows])

    def values(self) -> NDArray[np.float32]:
        return self.elements * self.scales[:, None]


def quantized_if_near(weights: Sequence["Array | Quantized"], max_error: float) -> Sequence["Array | Quantized"]:
    """Weights in int8, unless the expected relative error (Frobenius norm) of all together exceeds max_error.

    The error of rounding is assumed to be uniform, of variance scale^2 / 12.
    """
    if all(isinstance(weight, Quantized) for weight in weights):
        return weights
    values = [values_of(weight) for weight in weights]
    rounded = [Quantized(*to_int8(weight)) for weight in values]
    error = sum(np.square(x.scales, dtype=np.float64).sum() * x.shape[1] / 12 for x in rounded)
    return rounded if error <= max_error**2 * sum(float(np.vdot(weight, weight)) for weight in values) else values


def concatenated(weights: Sequence["Array | Quantized"]) -> "Array | Quantized":
    """Weights stacked along their outputs; Quantized, or bits of bfloat16, if all are."""
    quantized = [weight for weight in weights if isinstance(weight, Quantized)]
    if len(quantized) < len(weights):
        bits = [x for x in weights if not isinstance(x, Quantized) and x.dtype == BFLOAT16_BITS]
        return np.concatenate(bits if len(bits) == len(weights) else [values_of(weight) for weight in weights])
    elements, scales = zip(*((weight.elements, weight.scales) for weight in quantized), strict=True)
    return Quantized(np.concatenate(elements), np.concatenate(scales))


def scaled(weight: "Array | Quantized", factors: Array) -> "Array | Quantized":
    """A weight, or a bias, whose rows are multiplied by factors (outputs,)."""
    if isinstance(weight, Quantized):
        return Quantized(weight.elements, weight.scales * factors)
    return weight * (factors[:, None] if weight.ndim == 2 else factors)


def elements_of(weight: "Array | Quantized", dtype: np.dtype[Any]) -> tuple[Array, Array | None]:
    """A weight as elements of dtype, and the scales that int8 is multiplied by, else None."""
    if isinstance(weight, Quantized):
        if dtype == INT8:
            return weight.elements, weight.scales
        weight = weight.values()
    if dtype == INT8:
        return to_int8(weight)
    if dtype == BFLOAT16_BITS:
        return to_bfloat16(weight), None
    return weight.astype(dtype, copy=False), None


def values_of(weight: "Array | Quantized") -> Array:
    """A weight in the compute type, whatever dtype it is in."""
    if isinstance(weight, Quantized):
        return weight.values()
    return from_bfloat16(weight) if weight.dtype == BFLOAT16_BITS else weight
