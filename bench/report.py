"""What the benchmarks share beside the measuring: options, the machine's description, tables, result files."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.peers import Peer

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Options:
    """The command-line options of every benchmark."""

    threads: int
    quick: bool
    out: Path | None  # the folder of the result files, None to write none


def add_options(parser: argparse.ArgumentParser) -> None:
    cpus = available_cpus()
    parser.add_argument(
        "--threads", type=positive, default=cpus, metavar="N", help="threads of a contender (%(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="small cases, few rounds; a look, not a result")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the results (bench/results; --quick: none)")


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
    return Options(given.threads, given.quick, given.out or (None if given.quick else RESULTS))


def available_cpus() -> int:
    """CPUs that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment(threads: int, peers: Sequence[Peer] = ()) -> dict[str, Any]:
    """The circumstances that a result depends on."""
    import pyattn

    return {
        "cpu": _cpu_name(),
        "isa": pyattn.info()["isa"],
        "threads": threads,
        "python": platform.python_version(),
        "versions": {peer.modules[0]: peer.version for peer in peers},
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


def write(options: Options, name: str, result: dict[str, Any]) -> None:
    """Write ``result`` as the JSON file ``name`` of the results folder, if there is to be one."""
    if options.out is None:
        return
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"wrote {os.path.relpath(path)}")
