"""What pyattn is and runs on: what a bug report needs."""

from typing import Any

import numpy as np

from pyattn._core import dispatch
from pyattn._threads import get_num_threads

__version__ = "0.1.0"


def info() -> dict[str, Any]:
    """Version, instruction set (chosen and available), threads and build options.

    dot_products are the dtypes of weights that the instruction set multiplies faster than float32; the others work too.

    Example:
        >>> sorted(info())
        ['compiler', 'dot_products', 'isa', 'isa_available', 'numpy', 'openmp', 'threads', 'version']
    """
    native = {"bfloat16": dispatch.native_bfloat16, "int8": dispatch.native_int8}
    return {
        "version": __version__,
        "isa": dispatch.isa,
        "isa_available": list(dispatch.isa_available),
        "dot_products": [name for name, fast in native.items() if fast],
        "threads": get_num_threads() if dispatch.openmp else 1,
        "openmp": dispatch.openmp,
        "compiler": dispatch.compiler,
        "numpy": np.__version__,
    }


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
    sizes = {"float32": 4, "float64": 8}
    sizes |= {"bfloat16": 2} if dispatch.native_bfloat16 else {}
    sizes |= {"int8": 1} if dispatch.native_int8 else {}
    peaks = {
        f"fma_gflops_{name}": dispatch.measure_multiply_add(size, threads, seconds) / 1e9
        for name, size in sizes.items()
    }
    return peaks | {"read_gbytes_per_s": dispatch.measure_read(threads, seconds, 1 << 29) / 1e9}
