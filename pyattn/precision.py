"""In what weights are held and multiplied: "float32", "float64", "bfloat16" or "int8".

In the last two, inputs of matrix products are rounded as the weights are, sums of products, norms, softmax and residual
connections are float32, and so are a layer's inputs and outputs. Bits of bfloat16 are held as uint16: NumPy has no such
dtype.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyattn._checks import Array, array

BFLOAT16_BITS = np.dtype(np.uint16)
INT8 = np.dtype(np.int8)
MOST_INT8_INPUTS = 2**16  # 255 times 128 of them are below 2^31
_PART = 2**18  # elements that are rounded at a time


def to_bfloat16(x: Array) -> NDArray[np.uint16]:
    """The bits of bfloat16, x rounded to the nearest, ties to even; a NaN stays one."""
    x = np.ascontiguousarray(x, np.float32)
    made = np.empty(x.shape, np.uint16)
    given, out = x.reshape(-1).view(np.uint32), made.reshape(-1)
    for start in range(0, len(out), _PART):  # in parts, which need little memory beside x and the result
        bits = given[start : start + _PART]
        rounded = bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))
        rounded = np.where(bits & np.uint32(0x7FFFFFFF) > 0x7F800000, bits | np.uint32(0x400000), rounded)
        out[start : start + _PART] = rounded >> np.uint32(16)
    return made


def mask_to_bfloat16(mask: Array) -> NDArray[np.uint16]:
    """A mask, seen with axes along which it is repeated, in bfloat16: these are not made out."""
    once = mask[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in mask.strides)]
    return np.broadcast_to(to_bfloat16(once), mask.shape)


def from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_int8(weight: Array) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Integers from -127 to 127 and the scales (outputs,) that they are multiplied by: the largest of a row is 127.

    Symmetric quantisation of each output channel: Jacob et al. 2018 (arXiv:1712.05877), section 2.1, with zero-point 0.
    """
    weight = np.asarray(weight, np.float32)
    with np.errstate(invalid="ignore"):  # a row that is not finite has a scale that is not
        scales = np.maximum(weight.max(axis=1, initial=0), -weight.min(axis=1, initial=0)) / np.float32(127)
        divisors = np.where(scales > 0, scales, np.float32(1))[:, None]
        elements = np.empty(weight.shape, np.int8)
        rows = max(1, _PART // max(1, weight.shape[1]))
        for part in (slice(start, start + rows) for start in range(0, len(weight), rows)):
            quotients = weight[part] / divisors[part]
            elements[part] = np.rint(quotients, out=quotients)
    return elements, scales


@dataclass(frozen=True, eq=False)
class Quantized:
    """A weight as it is held: elements (outputs, inputs), int8, times scales (outputs,), float32.

    Raises:
        TypeError: an array is none, or of another dtype.
        ValueError: shapes are others.
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


def quantized_if_near(weights: Sequence["Array | Quantized"], most: float) -> Sequence["Array | Quantized"]:
    """Weights in int8, unless that moves them by more than so much of their length, all together.

    The error of rounding is taken for uniform, of variance scale^2 / 12.
    """
    if all(isinstance(weight, Quantized) for weight in weights):
        return weights
    reals = [values_of(weight) for weight in weights]
    rounded = [Quantized(*to_int8(weight)) for weight in reals]
    error = sum(np.square(x.scales, dtype=np.float64).sum() * x.shape[1] / 12 for x in rounded)
    return rounded if error <= most**2 * sum(float(np.vdot(weight, weight)) for weight in reals) else reals


def concatenated(weights: Sequence["Array | Quantized"]) -> "Array | Quantized":
    """Weights below one another; Quantized, or bits of bfloat16, if all are."""
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
    """A weight as elements of dtype, and the scales that they are multiplied by or None."""
    if isinstance(weight, Quantized):
        if dtype == INT8:
            return weight.elements, weight.scales
        weight = weight.values()
    if dtype == INT8:
        return to_int8(weight)
    if dtype == BFLOAT16_BITS:
        return to_bfloat16(weight), None
    return weight.astype(dtype, copy=False), None


def held(elements: Array, scales: Array | None) -> "Array | Quantized":
    """A weight of these elements: reals, bits of bfloat16, or Quantized."""
    return elements if scales is None else Quantized(elements, scales)


def values_of(weight: "Array | Quantized") -> Array:
    """The reals that a held weight stands for."""
    if isinstance(weight, Quantized):
        return weight.values()
    return from_bfloat16(weight) if weight.dtype == BFLOAT16_BITS else weight
