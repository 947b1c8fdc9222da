"""What ``import pyattn`` costs over ``import numpy``: medians over fresh processes, in milliseconds."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Sequence

from tqdm import tqdm

from bench.attention_peers import NUMPY, PYATTN
from bench.report import environment, parse_options, write

MODULES = ("numpy", "pyattn")
PROCESSES, QUICK_PROCESSES = 20, 3


def import_ms(module: str) -> float:
    """Milliseconds of the import alone, in a new interpreter."""
    code = f"from time import perf_counter as now; start = now(); import {module}; print(now() - start)"
    return 1e3 * float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(__doc__, argv)
    processes = QUICK_PROCESSES if options.quick else PROCESSES
    samples: dict[str, list[float]] = {module: [] for module in MODULES}
    for module in MODULES:
        import_ms(module)  # brings the files into the page cache
    for _ in tqdm(range(processes), desc="import", unit="process", disable=None):
        for module in MODULES:
            samples[module].append(import_ms(module))
    medians = {module: statistics.median(times) for module, times in samples.items()}
    over = medians["pyattn"] - medians["numpy"]
    print(f"import numpy {medians['numpy']:.1f} ms, import pyattn {medians['pyattn']:.1f} ms: {over:.1f} ms over NumPy")
    result = {"environment": environment(options, [NUMPY, PYATTN]), "processes": processes}
    write(options, "import_time", {**result, "median_ms": medians, "over_numpy_ms": over})


if __name__ == "__main__":
    main()
