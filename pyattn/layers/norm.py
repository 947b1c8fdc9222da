"""Normalisation."""

import numpy as np
from numpy.typing import DTypeLike

from pyattn import _checks
from pyattn._checks import Array
from pyattn._core import rowwise
from pyattn._threads import threads_for
from pyattn.layers.base import Layer


class LayerNorm(Layer):
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis: Ba et al. 2016 (arXiv:1607.06450).

    Parameters: `weight` and, if bias, `bias`, both (width,), ones and zeros until they are loaded.

    Example:
        >>> LayerNorm(3)(np.array([[1, 2, 3]], np.float32)).round(3)
        array([[-1.225,  0.   ,  1.225]], dtype=float32)
    """

    def __init__(
        self, normalized_shape: int, eps: float = 1e-5, bias: bool = True, *, dtype: DTypeLike = np.float32
    ) -> None:
        width = _checks.size("LayerNorm", "normalized_shape", normalized_shape)
        if not isinstance(eps, int | float | np.floating) or not 0 <= eps < np.inf:
            raise ValueError(f"LayerNorm: eps must be a finite number, 0 or more, not {eps!r}")
        self.eps = float(eps)
        self.width = width
        self.dtype = _checks.layer_dtype("LayerNorm", dtype)
        weight, zeros = np.ones(width, self.dtype), np.zeros(width, self.dtype)
        self._parameters = {"weight": weight, "bias": zeros} if bias else {"weight": weight}

    def __call__(self, x: Array) -> Array:
        """x (..., width), normalised, in a new array.

        Raises:
            TypeError: x is not of the layer's dtype.
            ValueError: x has another last axis.
        """
        rows, shape = _checks.rows("LayerNorm", x, self.width, self.dtype)
        return self._apply(rows).reshape(*shape, self.width)

    def _apply(self, rows: Array, out: Array | None = None) -> Array:
        """__call__ for checked rows (n, width); out may be rows."""
        rows = np.ascontiguousarray(rows)
        out = np.empty_like(rows) if out is None else out
        weight, bias = self._parameters["weight"], self._parameters.get("bias")
        rowwise.layer_norm(rows, weight, bias, out, self.eps, threads_for(10.0 * rows.size))
        return out

    def _arguments(self) -> tuple[Array, Array | None, float]:
        return self._parameters["weight"], self._parameters.get("bias"), self.eps
