"""How near a call comes to what the machine can do at most: the fraction of its roofline (doi:10.1145/1498765.1498785).

The roofline is the lower of the multiply-add peak and of read bandwidth times arithmetic intensity, both measured by
`pyattn.measure` in the same run. Said as time, no call ends before its useful multiply-adds are done at the peak of
their type, nor before what it works on is read once; the fraction is that least time over the measured one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from bench.apart import Apart, Calls

Peaks = Mapping[str, float]  # of pyattn.measure
PROCESSES = 2


@dataclass(frozen=True)
class Work:
    """Useful work: floating-point operations of live pairs and real tokens, by the type that multiplies, and the bytes
    of keys and values or of weights, each once. Queries, results, masks and biases are not counted."""

    flops: Mapping[str, float]
    read_bytes: float


@dataclass(frozen=True)
class Roof:
    """The least seconds of a call, and which of the two they are. What fits the last-level cache may be read faster."""

    seconds: float
    bound: str  # "products" or "reading"
    cached: bool = field(default=False)

    def fraction(self, seconds: float) -> float:
        return self.seconds / seconds


def roof(work: Work | Sequence[Work], peaks: Peaks) -> Roof:
    """Of work, or of parts that follow one another, where each has a bound of its own; the one named took longer."""
    parts = [work] if isinstance(work, Work) else work
    least, cached = {"products": 0.0, "reading": 0.0}, True
    for part in parts:
        products = sum(flops / fma_peak(dtype, peaks) for dtype, flops in part.flops.items()) / 1e9
        reading = part.read_bytes / peaks["read_gbytes_per_s"] / 1e9
        least["products" if products >= reading else "reading"] += max(products, reading)
        cached = cached and part.read_bytes <= cache_bytes()
    bound = max(least, key=least.__getitem__)
    return Roof(sum(least.values()), bound, cached and bound == "reading")


def fma_peak(dtype: str, peaks: Peaks) -> float:
    """Of the arithmetic that the machine has for the dtype: float32 where it has none for one of fewer bits."""
    return peaks.get(f"fma_gflops_{dtype}", peaks["fma_gflops_float32"])


class Gauge:
    """Measures the machine's peaks now and at the end of a run, each in processes that end, since where memory lies in
    one changes how fast it is read; the largest count."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.found: dict[str, float] = {}
        self._measure()

    def _measure(self) -> None:
        for _ in range(PROCESSES):
            process = Apart(self.threads)
            process.make(_calls)
            now = process.result("measure")
            process.close()
            self.found = {name: max(value, self.found.get(name, 0.0)) for name, value in now.items()}

    def peaks(self) -> Peaks:
        """Those of the run, at its end."""
        self._measure()
        return self.found


def _calls() -> Calls:
    import pyattn

    return {"measure": pyattn.measure}


def peaks_line(peaks: Peaks) -> str:
    peak = ", ".join(f"{name.removeprefix('fma_gflops_')} {x:.0f}" for name, x in peaks.items() if "gflops" in name)
    return f"Peaks of this run: multiply-adds, GFLOP/s: {peak}; reading memory: {peaks['read_gbytes_per_s']:.1f} GB/s"


@cache
def cache_bytes(folder: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """Size of the last-level cache; 0 where the system does not say."""
    levels = {int((x / "level").read_text()): (x / "size").read_text().strip() for x in folder.glob("index*")}
    size = levels[max(levels)] if levels else "0K"
    return int(size[:-1]) << {"K": 10, "M": 20, "G": 30}[size[-1]]
