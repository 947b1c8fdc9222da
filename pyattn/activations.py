"""Activation functions on arrays."""

from typing import Any

import numpy as np

from pyattn import _checks
from pyattn._checks import Array
from pyattn._core import rowwise
from pyattn._namespaces import in_namespace
from pyattn._threads import threads_for

ACTIVATIONS = rowwise.ACTIVATIONS  # the codes of csrc/kernels.h


def _activation(name: str, x: Any) -> Array:
    (x,) = _checks.attention_arrays(name, with_16_bits=False, x=x)
    rows = np.ascontiguousarray(x)
    out: Array = np.empty_like(rows)
    rowwise.activate(rows, out, ACTIVATIONS[name], threads_for(20.0 * x.size))
    return out.reshape(x.shape)


@in_namespace
def relu(x: Array) -> Array:
    """max(x, 0), elementwise, for float32 or float64 of any shape.

    Example:
        >>> relu(np.array([-1.0, 2.0]))
        array([0., 2.])
    """
    return _activation("relu", x)


@in_namespace
def gelu(x: Array, approximate: str = "none") -> Array:
    """x Phi(x), elementwise, for float32 or float64 of any shape.

    Hendrycks & Gimpel 2016 (arXiv:1606.08415). Phi is the normal distribution function: by erf, to float precision, for
    approximate="none"; (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2 for approximate="tanh".

    Raises:
        ValueError: approximate is neither.

    Example:
        >>> gelu(np.array([0.0, 1.0])).round(4)
        array([0.    , 0.8413])
    """
    _checks.choice("gelu", "approximate", approximate, ("none", "tanh"))
    return _activation("gelu" if approximate == "none" else "gelu_tanh", x)


@in_namespace
def silu(x: Array) -> Array:
    """x / (1 + exp(-x)), elementwise, for float32 or float64 of any shape: the same article, section 2.

    Example:
        >>> silu(np.array([0.0, 1.0])).round(4)
        array([0.    , 0.7311])
    """
    return _activation("silu", x)
