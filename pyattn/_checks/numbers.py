"""Single arguments: flags, numbers, choices."""

import math
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

MAX_ROWS = 2**30  # L, S and query_offset stay below: positions and their differences fit 32 bits


def flag(function: str, name: str, value: Any) -> bool:
    if value is True or value is False:
        return value
    if not isinstance(value, np.bool_ | int | np.integer) or value not in (0, 1):
        raise TypeError(f"{function}: {name} must be True or False, not {value!r}")
    return bool(value)


def choice(function: str, name: str, value: Any, accepted: Iterable[Any]) -> Any:
    # a tuple: what cannot be hashed is compared as well; but an array is equal to nothing
    if hasattr(value, "__array__") or value not in tuple(accepted):
        raise ValueError(f"{function}: {name} must be one of {', '.join(map(repr, accepted))}, not {value!r}")
    return value


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool | np.bool_)


def integer(function: str, name: str, value: Any, accepted: str = "an integer") -> int:
    """An integer, NumPy's as well, but no bool."""
    if not _is_integer(value):
        raise _wrong_type(function)(f"{function}: {name} must be {accepted}, not {value!r}")
    return int(value)


def number(function: str, name: str, value: Any, accepted: str = "a real number") -> float | int:
    """A real number, NumPy's as well, but no bool."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.floating | np.integer):
        raise _wrong_type(function)(f"{function}: {name} must be {accepted}, not {type(value).__name__}")
    return value  # type: ignore[return-value]  # of NumPy's numbers


def _wrong_type(function: str) -> type[Exception]:
    """TypeError for an argument; what a file says is a value, whatever its type."""
    return ValueError if function.split(":")[0] == "load" else TypeError


def size(function: str, name: str, value: Any) -> int:
    """A layer's size: a positive integer that C can hold."""
    if integer(function, name, value, "a positive integer") < 1:
        raise ValueError(f"{function}: {name} must be a positive integer, not {value!r}")
    if value > sys.maxsize:
        raise ValueError(f"{function}: {name} must be at most {sys.maxsize}, not {value}")
    return int(value)


def count(function: str, name: str, value: Any, lowest: int = 0, highest: int | None = None) -> int:
    """An integer, `lowest` or more, up to `highest` if that is given."""
    accepted = f"an integer, {lowest} or more" if highest is None else f"an integer from {lowest} to {highest}"
    if integer(function, name, value, accepted) < lowest or (highest is not None and value > highest):
        raise ValueError(f"{function}: {name} must be {accepted}, not {value!r}")
    return int(value)


def real(function: str, name: str, value: Any, lowest: float, highest: float) -> float:
    """value as a float from lowest to highest."""
    if not lowest <= number(function, name, value) <= highest:
        raise ValueError(f"{function}: {name} must be from {lowest:g} to {highest:g}, not {value}")
    return float(value)


def positive(function: str, name: str, value: Any) -> float:
    """A positive finite number."""
    if not 0 < number(function, name, value, "positive and finite") < math.inf:
        raise ValueError(f"{function}: {name} must be positive and finite, not {value!r}")
    return float(value)


def finite_scale(function: str, scale: Any, width: int, dtype: np.dtype[Any]) -> float:
    """The scale, 1 / sqrt(width) for None."""
    if scale is None:
        return 1 / math.sqrt(max(1, width))
    number(function, "scale", scale, "a real number or None")
    largest = float(np.finfo(dtype).max) / 2  # logits are in units of log2: larger by log2(e)
    if not (-largest <= scale < 0 or 0 < scale <= largest):
        raise ValueError(f"{function}: scale must be finite in {dtype} and not zero, not {scale}")
    return float(scale)


def finite_softcap(function: str, softcap: Any, dtype: np.dtype[Any]) -> float:
    """What scores are capped at."""
    limits = np.finfo(dtype)
    number(function, "softcap", softcap, "a real number or None")
    if not float(limits.tiny) <= softcap <= float(limits.max) / 2:  # so that 1 / softcap is finite as well
        raise ValueError(
            f"{function}: softcap must be positive and finite in {dtype}, not {softcap}; None switches it off"
        )
    return float(softcap)


def dropout(
    function: str, probability: Any, seed: Any, names: tuple[str, str] = ("dropout_p", "dropout_seed")
) -> tuple[float, int]:
    """The probability that a number is dropped, and what decides, 64 bits."""
    probability = float(number(function, names[0], probability))
    if not 0 <= probability < 1:
        raise ValueError(f"{function}: {names[0]} must be at least 0 and below 1, not {probability}")
    if seed is None:
        if probability > 0:
            raise ValueError(f"{function}: {names[0]} needs a {names[1]}, an integer from 0 to 2**64 - 1")
        return probability, 0
    if not 0 <= (seed := integer(function, names[1], seed)) < 2**64:
        raise ValueError(f"{function}: {names[1]} must be an integer from 0 to 2**64 - 1, not {seed}")
    return probability, seed


def sides(function: str, window: Any) -> tuple[int, int]:
    """A window's (left, right) with -1 for None."""
    if window is None:
        return -1, -1
    accepted = "(left, right), each an integer >= 0 or None (unbounded): query i sees p - left <= j <= p + right"
    if _is_integer(window) and window >= 0:
        raise TypeError(
            f"{function}: window={window} is ambiguous; pass a pair: ({window}, {window}) to see as many keys on both "
            f"sides, ({window}, 0) for those before only"
        )
    if not isinstance(window, tuple | list):
        raise TypeError(f"{function}: window must be {accepted}; not {type(window).__name__}")
    if len(window) != 2:
        raise ValueError(f"{function}: window must be {accepted}; not {window!r}")
    for side in window:
        if side is not None and (not _is_integer(side) or side < 0):
            error = ValueError if _is_integer(side) else TypeError
            raise error(f"{function}: window must be {accepted}; not {window!r}")
    # no query and key are 2 * MAX_ROWS apart
    left, right = (-1 if side is None or side >= 2 * MAX_ROWS else int(side) for side in window)
    return left, right


def counts(function: str, name: str, value: Any, most: Mapping[str, int]) -> tuple[int, ...]:
    """As many integers as there are sizes, by name, each from 1 to that."""
    accepted = f"({', '.join(f'1 to {size} ({axis})' for axis, size in most.items())}), integers"
    if not isinstance(value, tuple | list) or not all(map(_is_integer, value)):
        raise TypeError(f"{function}: {name} must be {accepted}; not {value!r}")
    if len(value) != len(most) or not all(1 <= x <= size for x, size in zip(value, most.values(), strict=True)):
        raise ValueError(f"{function}: {name} must be {accepted}; not {value!r}")
    return tuple(map(int, value))


def row_range(function: str, query_range: Any, length: int) -> tuple[int, int]:
    """query_range, all queries for None."""
    if query_range is None:
        return 0, length
    accepted = f"(start, stop), integers with 0 <= start <= stop <= L ({length})"
    if not isinstance(query_range, tuple | list):
        raise TypeError(f"{function}: query_range must be {accepted}; not {type(query_range).__name__}")
    if not all(map(_is_integer, query_range)):
        raise TypeError(f"{function}: query_range must be {accepted}; not {query_range!r}")
    if len(query_range) != 2 or not 0 <= query_range[0] <= query_range[1] <= length:
        raise ValueError(f"{function}: query_range must be {accepted}; not {query_range!r}")
    return int(query_range[0]), int(query_range[1])
