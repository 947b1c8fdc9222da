"""Normalisation."""

from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from pyattn import _checks
from pyattn._checks import Array
from pyattn._core import rowwise
from pyattn._module import Layer, check_part
from pyattn._namespaces import in_namespace
from pyattn._threads import threads_for
from pyattn.layers.config import LayerConfig, check_eps


class Norm(Layer):
    """What the norms share: rows (..., width), each normalised on its own."""

    centred: ClassVar[bool]

    def __init__(self, width: int, eps: float, bias: bool, dtype: DTypeLike, unit_offset: bool = False) -> None:
        name = type(self).__name__
        self.width = _checks.size(name, "normalized_shape", width)
        self.eps = check_eps(name, "eps", eps)
        self.dtype = _checks.layer_dtype(name, dtype)
        self.unit_offset = _checks.flag(name, "unit_offset", unit_offset)
        zeros = np.zeros(width, self.dtype)
        weight = zeros if self.unit_offset else np.ones(width, self.dtype)
        self._parameters = {"weight": weight, "bias": zeros} if _checks.flag(name, "bias", bias) else {"weight": weight}

    @in_namespace
    def __call__(self, x: Array) -> Array:
        """x (..., width), normalised, in a new array. Errors are those of Linear."""
        rows, shape = _checks.rows(type(self).__name__, x, self.width, self.dtype)
        return self._apply(rows).reshape(*shape, self.width)

    def _apply(self, rows: Array, out: Array | None = None) -> Array:
        """__call__ for checked rows (n, width); out may be rows."""
        rows = np.ascontiguousarray(rows)
        out = np.empty_like(rows) if out is None else out
        weight, bias, eps, centred = self._arguments()
        rowwise.normalise(rows, weight, bias, out, eps, centred, threads_for(10.0 * rows.size))
        return out

    def _arguments(self) -> tuple[Array, Array | None, float, bool]:
        weight: Array = self._parameters["weight"]
        return weight + 1 if self.unit_offset else weight, self._parameters.get("bias"), self.eps, self.centred


class LayerNorm(Norm):
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis: Ba et al. 2016 (arXiv:1607.06450).

    Parameters: `weight` and, if bias, `bias`, both (width,), ones and zeros until they are loaded.

    Example:
        >>> LayerNorm(3)(np.array([[1, 2, 3]], np.float32)).round(3)
        array([[-1.225,  0.   ,  1.225]], dtype=float32)
    """

    centred = True

    def __init__(
        self, normalized_shape: int, eps: float = 1e-5, bias: bool = True, *, dtype: DTypeLike = np.float32
    ) -> None:
        super().__init__(normalized_shape, eps, bias, dtype)


class RMSNorm(Norm):
    """x / sqrt(mean of squares + eps) * weight over the last axis: Zhang & Sennrich 2019 (arXiv:1910.07467).

    Parameter: `weight` (width,), ones until it is loaded. unit_offset: 1 + weight multiplies instead (Gemma: Team et
    al. 2024, arXiv:2403.08295), and weight is zeros until it is loaded.

    Example:
        >>> RMSNorm(3)(np.array([[1, 2, 3]], np.float32)).round(3)
        array([[0.463, 0.926, 1.389]], dtype=float32)
    """

    centred = False

    def __init__(
        self, normalized_shape: int, eps: float = 1e-6, *, unit_offset: bool = False, dtype: DTypeLike = np.float32
    ) -> None:
        super().__init__(normalized_shape, eps, False, dtype, unit_offset)


def norm_of(config: LayerConfig, width: int) -> Norm:
    """A norm like those of a layer."""
    dtype = "float64" if config.dtype == "float64" else "float32"
    if config.norm == "layer":
        return LayerNorm(width, config.layer_norm_eps, config.norm_bias, dtype=dtype)
    return RMSNorm(width, config.layer_norm_eps, unit_offset=config.unit_offset, dtype=dtype)


def check_norm(function: str, name: str, norm: Any) -> Norm:
    return check_part(function, name, norm, Norm, "a LayerNorm or an RMSNorm")
