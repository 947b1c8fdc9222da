"""A process without torch: what an example has trained is judged by what pyattn and NumPy make of its files."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any


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
