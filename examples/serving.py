"""A process without torch: what an example has trained is judged by what pyattn and NumPy make of its files."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


def _call(function: Callable[..., Any], arguments: tuple[Any, ...], threads: int) -> Any:
    import pyattn

    pyattn.set_num_threads(threads)
    result = function(*arguments)
    if "torch" in sys.modules:
        raise RuntimeError(f"{function.__qualname__} has imported torch")
    return result


def without_torch(function: Callable[..., Any], *arguments: Any, threads: int) -> Any:
    """What a module's function returns in a new process, in which torch must not have been imported."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_call, function, arguments, threads).result()


def check_agreement(served: ArrayLike, trained: ArrayLike) -> None:
    """ValueError if what was served differs from what torch's model says by more than 1e-3 of the range of that."""
    ours, theirs = np.asarray(served, float), np.asarray(trained, float)
    error, size = abs(ours - theirs).max(), np.ptp(theirs)
    if not error <= 1e-3 * size:
        raise ValueError(f"check_agreement: what was served is off by {error:.3g}, in a range of {size:.3g}")
