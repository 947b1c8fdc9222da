"""What pyattn is and runs on: what a bug report needs."""

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pyattn._checks import choice
from pyattn._core import runtime
from pyattn._threads import chosen_threads, get_num_threads

__version__ = "0.1.0"


def info() -> dict[str, Any]:
    """Version, instruction set (chosen and available), threads and build options.

    dot_products are the dtypes of weights that the instruction set multiplies faster than float32; the others work too.

    Example:
        >>> sorted(info())
        ['compiler', 'dot_products', 'isa', 'isa_available', 'numpy', 'openmp', 'threads', 'version']
    """
    native = {"bfloat16": runtime.native_bfloat16, "int8": runtime.native_int8}
    return {
        "version": __version__,
        "isa": runtime.isa,
        "isa_available": list(runtime.isa_available),
        "dot_products": [name for name, fast in native.items() if fast],
        "threads": get_num_threads(),
        "openmp": runtime.openmp,
        "compiler": runtime.compiler,
        "numpy": np.__version__,
    }


def show_config(mode: str = "stdout") -> dict[str, Any] | None:
    """What a bug report needs: info, why there are so many threads, the OpenMP runtimes of the process, the platform.

    Args:
        mode: "stdout" prints it, "dicts" returns it, as in numpy.show_config.

    Raises:
        ValueError: mode is neither.

    Example:
        >>> sorted(show_config("dicts"))
        ['build', 'instruction set', 'platform', 'threads', 'version']
    """
    import platform  # here: it would make importing pyattn slower

    choice("show_config", "mode", mode, ("stdout", "dicts"))
    facts = info()
    number, why = chosen_threads()
    config: dict[str, Any] = {
        "version": {"pyattn": facts["version"], "numpy": facts["numpy"], "python": platform.python_version()},
        "platform": {"system": platform.platform(), "machine": platform.machine(), "cpus": os.cpu_count()},
        "instruction set": {
            "chosen": facts["isa"],
            "available": facts["isa_available"],
            "dot products": facts["dot_products"],
            "PYATTN_ISA": os.environ.get("PYATTN_ISA"),
        },
        "threads": {"most of a call": number, "why": why, "OpenMP runtimes": _openmp_runtimes()},
        "build": {
            "compiler": facts["compiler"],
            "OpenMP": facts["openmp"],
            "debug": runtime.debug,
            "sanitized": runtime.sanitized,
        },
    }
    if mode == "dicts":
        return config
    for title, values in config.items():
        print(f"{title}:")
        for name, value in values.items():
            print(f"  {name}: {', '.join(map(str, value)) if isinstance(value, list) else value}")
    return None


def _openmp_runtimes(maps: Path = Path("/proc/self/maps")) -> list[str]:
    """The OpenMP runtimes that are loaded, where the system tells it; several in one process slow one another down."""
    try:
        files = {line[line.index("/") :] for line in maps.read_text().splitlines() if "/" in line}
    except OSError:
        return []
    return sorted(file for file in files if Path(file).name.startswith(("libgomp", "libomp", "libiomp")))


def measure(seconds: float = 0.5) -> dict[str, float]:
    """What this machine can do at most with get_num_threads() threads of the chosen instruction set.

    Multiply-adds in registers, in GFLOP/s (a multiply-add counts two), of bfloat16 and int8 only where the instruction
    set has dot products of them, and reading memory larger than any cache, in GB/s; `seconds` each.

    Raises:
        ValueError: seconds is not a number from 0 to 60.
    """
    if not isinstance(seconds, int | float) or not 0 <= seconds <= 60:
        raise ValueError(f"measure: seconds must be a number from 0 to 60, not {seconds!r}")
    threads = get_num_threads()
    names = ["float32", "float64", *info()["dot_products"]]
    works: dict[str, Callable[[int], float]]
    works = {f"fma_gflops_{name}": partial(runtime.multiply_add, name, threads) for name in names}
    works["read_gbytes_per_s"] = partial(runtime.read_memory, np.ones(1 << 29, np.uint8), threads)
    return {name: _most_per_second(work, seconds) / 1e9 for name, work in works.items()}


def _most_per_second(work: Callable[[int], float], seconds: float) -> float:
    """work(rounds) says how much it did; it is repeated for so many seconds, of as many rounds as can be timed."""
    rounds, best, end = 1, 0.0, time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        done = work(rounds)
        now = time.perf_counter()
        if now - start < 0.01:
            rounds *= 2
            continue
        best = max(best, done / (now - start))
        if now > end:
            return best
