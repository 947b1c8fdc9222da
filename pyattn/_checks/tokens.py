"""What decoding is given: token ids, one sequence or many of different lengths, and real numbers within bounds."""

from typing import Any

import numpy as np

from pyattn._checks.basics import Array, array, integers, number


def real(function: str, name: str, value: Any, lowest: float, highest: float) -> float:
    """value as a float from lowest to highest."""
    if not lowest <= number(function, name, value) <= highest:
        raise ValueError(f"{function}: {name} must be from {lowest:g} to {highest:g}, not {value}")
    return float(value)


def token_ids(function: str, name: str, values: Any) -> Array:
    """values (length,) as int64, none of them negative."""
    x = array(function, name, values)
    if not x.size and x.ndim == 1:
        return np.zeros(0, np.int64)  # an empty list has no integers to tell its dtype
    ids: Array = integers(function, name, x, None, "").astype(np.int64)
    if ids.ndim != 1:
        raise ValueError(f"{function}: {name} has shape {ids.shape}; one axis of token ids is needed")
    if ids.min() < 0:
        raise ValueError(f"{function}: {name} must not be negative, but one is {ids.min()}")
    return ids


def token_sequences(function: str, name: str, values: Any) -> list[Array]:
    """values, sequences of token ids of any lengths, as int64 arrays."""
    if not isinstance(values, list | tuple) and not (isinstance(values, np.ndarray) and values.ndim == 2):
        seen = f"an array of shape {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
        raise TypeError(
            f"{function}: {name} must be a list of arrays of token ids, or an array of two axes, not {seen}"
        )
    if isinstance(values, np.ndarray):
        values = array(function, name, values)
    return [token_ids(function, f"{name}[{i}]", x) for i, x in enumerate(values)]
