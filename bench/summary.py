"""What all benchmarks of a run come to: one table of all rows, and what became slower since the recorded results."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.report import of_roofline, table

Results = dict[str, dict[str, Any]]  # files of a folder, by the names of their benchmarks
SLOWER = 1.02  # the least ratio of medians that is listed

HOW = f"""\
Times are medians of rounds; rows up to {SLOWER:g} times as slow are left out. Beyond noise: each round of this run was
slower than every round of the recorded one. What differs from process to process, such as where memory lies, that does
not tell: run it again."""


def files(folder: Path) -> Results:
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def read(folder: Path) -> Results:
    """Those that have rows."""
    return {name: found for name, found in files(folder).items() if "rows" in found}


def recorded(folder: Path) -> Results:
    """The same as last committed, or as they are where there is no repository."""
    found = {}
    for path in folder.glob("*.json"):
        shown = subprocess.run(["git", "show", f"HEAD:./{path.name}"], cwd=folder, capture_output=True, text=True)
        found[path.stem] = json.loads(shown.stdout if shown.returncode == 0 else path.read_text())
    return {name: each for name, each in found.items() if "rows" in each}


def rows_of(results: Results) -> dict[str, dict[str, Any]]:
    return {f"{name}: {row['name']}": row for name, found in results.items() for row in found["rows"]}


def not_held(results: Results) -> str:
    """Which peers ran on more than the instruction set that the others were held to."""
    names = {name for found in results.values() for name in found["environment"]["not_held"]}
    return f"Not held to the instruction set, and not counted: {', '.join(sorted(names))}." if names else ""


def all_rows(results: Results) -> str:
    """One line a row: how near the roofline it is, and what the best peer is to it."""
    cells = []
    for name, row in rows_of(results).items():
        over = f"{row['over_best_peer']:.2f}x {row['best_peer']}" if row["best_peer"] else "-"
        cells.append([name, f"{row['median_s'] * 1e3:.4g}", of_roofline(row["of_roofline"], row["bound"]), over])
    return "\n".join([table(["row", "ms", "of roofline", "of the best peer"], cells), not_held(results)])


def compared(now: Results, before: Results) -> str:
    """The rows that became slower, the most so first; of another machine, those that are farther from the roofline."""
    unlike = [name for name in now.keys() & before.keys() if _machine(now[name]) != _machine(before[name])]
    lines = []
    if missing := [name for name in now if name not in before]:
        lines.append(f"No results are recorded for {', '.join(missing)}.")
    if unlike:
        told = {_machine(before[name]) for name in unlike}
        lines.append(
            f"Recorded on {' and '.join(map(str, told))}: those times are not comparable, and for "
            f"{', '.join(sorted(unlike))} fractions of the roofline are compared instead."
        )
    slower = []
    earlier = rows_of(before)
    for name, row in rows_of(now).items():
        if (then := earlier.get(name)) is None:
            continue
        alike = name.partition(":")[0] not in unlike
        ratio = row["median_s"] / then["median_s"] if alike else then["of_roofline"] / row["of_roofline"]
        if ratio > SLOWER:
            beyond = ("yes" if row["best_s"] > then["slowest_s"] else "") if alike else "not known"
            told = [f"{then['median_s'] * 1e3:.4g}", f"{row['median_s'] * 1e3:.4g}"] if alike else ["-", "-"]
            parts = [f"{then['of_roofline']:.0%}", f"{row['of_roofline']:.0%}"]
            slower.append((ratio, [name, *told, *parts, f"{ratio:.2f}", beyond]))
    both = len(rows_of(now).keys() & earlier.keys())
    lines.append(f"{len(slower)} of {both} rows are slower than the recorded results.")
    if slower:
        header = ["row", "then, ms", "now, ms", "of roofline", "now", "times as slow", "beyond noise"]
        lines += [table(header, [cells for _, cells in sorted(slower, reverse=True)]), HOW]
    return "\n".join(lines)


def _machine(found: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(found["environment"][key] for key in ("cpu", "isa", "threads"))
