"""What the benchmarks share beside the measuring: options, the machine's description, tables, result files."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.held import hold, is_held
from bench.peers import Peer
from bench.roofline import Roof
from bench.timing import Timing

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Options:
    """The command-line options of every benchmark."""

    threads: int
    quick: bool
    isa: str | None  # that the contenders are held to, None for the machine's best
    out: Path | None  # the folder of the result files, None to write none


def add_options(parser: argparse.ArgumentParser) -> None:
    cpus = available_cpus()
    parser.add_argument(
        "--threads", type=positive, default=cpus, metavar="N", help="threads of a contender (%(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="small cases, few rounds; a look, not a result")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the results (bench/results; --quick: none)")
    parser.add_argument(
        "--isa",
        default=os.environ.get("PYATTN_ISA") or None,
        help="hold all who can be to this instruction set, such as avx2; results in a folder of that name (PYATTN_ISA)",
    )


def results_folder(isa: str | None) -> Path:
    return RESULTS / isa if isa else RESULTS


def positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, not {text!r}")
    return number


def parse_options(description: str | None, argv: Sequence[str] | None = None) -> Options:
    """Parse a benchmark's command line; ``description`` is the docstring of its module."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    return options_of(parser.parse_args(argv))


def options_of(given: argparse.Namespace) -> Options:
    """The benchmark's process is held to the instruction set from here on."""
    if given.isa:
        hold(given.isa)
    folder = None if given.quick else results_folder(given.isa)
    return Options(given.threads, given.quick, given.isa, given.out or folder)


def available_cpus() -> int:
    """CPUs that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment(options: Options, peers: Sequence[Peer] = ()) -> dict[str, Any]:
    """The circumstances that a result depends on."""
    import pyattn

    versions = {peer.modules[0]: peer.version for peer in peers}
    return {
        "cpu": _cpu_name(),
        "isa": pyattn.info()["isa"],
        "threads": options.threads,
        "python": platform.python_version(),
        "versions": versions,
        "not_held": [name for name in versions if not is_held(name)],
    }


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The rows under their header in aligned columns, the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *rest = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        return "  ".join([first.strip().ljust(widths[0]), *rest])

    return "\n".join([line(header), "  ".join("-" * width for width in widths), *map(line, rows)])


@dataclass(frozen=True)
class Goal:
    """What a measured value should be at least, or at most; NaN where there was nothing to measure."""

    case: str
    what: str
    value: float
    bound: float
    at_most: bool = False

    @property
    def met(self) -> bool:
        return self.value <= self.bound if self.at_most else self.value >= self.bound


def goals_table(goals: Sequence[Goal]) -> str:
    rows = []
    for goal in goals:
        found = ["-", "-"] if math.isnan(goal.value) else [f"{goal.value:.2f}", yes(goal.met)]
        rows.append([goal.case, goal.what, found[0], f"{'<=' if goal.at_most else '>='} {goal.bound:g}", found[1]])
    return table(["case", "goal", "measured", "needed", "met"], rows)


def yes(met: bool) -> str:
    return "yes" if met else "NO"


def goals_as_results(goals: Sequence[Goal]) -> list[dict[str, Any]]:
    return [{**asdict(goal), "met": goal.met} for goal in goals]


@dataclass(frozen=True)
class Row:
    """One of ours, as the table of all rows and the comparison with earlier results read it; seconds of a call."""

    name: str
    best_s: float
    median_s: float
    slowest_s: float
    bound: str
    of_roofline: float
    best_peer: str  # "" for none
    over_best_peer: float | None  # how many times as fast


def row_of(name: str, timing: Timing, limit: Roof, peers: Mapping[str, float]) -> Row:
    """Beside the best seconds of peers that do the same."""
    # Where ours are above it too, as int8 may be, the peak is not theirs.
    most = 1.05 * max(1.0, limit.fraction(timing.best_s)) if limit.bound == "products" else math.inf
    peers = {name: seconds for name, seconds in peers.items() if is_held(name, limit.fraction(seconds) > most)}
    best = min(peers, key=peers.__getitem__, default="")
    bound = f"{limit.bound}, cached" if limit.cached else limit.bound
    over = peers[best] / timing.best_s if best else None
    times = timing.best_s, timing.median_s, timing.slowest_s
    return Row(name, *times, bound, limit.fraction(timing.best_s), best, over)


def of_roofline(fraction: float, bound: str) -> str:
    """The column of that name: the one figure that all rows of all benchmarks have."""
    return f"{fraction:.0%} {bound}"


def write(options: Options, name: str, result: dict[str, Any]) -> None:
    """Write ``result`` as the JSON file ``name`` of the results folder, if there is to be one."""
    if options.out is None:
        return
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{name}.json"
    path.write_text(json.dumps(result, indent=2, default=asdict) + "\n")
    print(f"wrote {os.path.relpath(path)}")
