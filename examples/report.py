"""What the examples share beside the work: options, tables, result files, and the tables in their heads and in docs.

`python -m examples.report` writes the tables of examples/results into the docstrings of the scripts and into
docs/examples.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parent
RESULTS = EXAMPLES / "results"
PAGE = EXAMPLES.parent / "docs" / "examples.md"


@dataclass(frozen=True)
class Options:
    """The command-line options of every example."""

    quick: bool
    threads: int
    out: Path | None  # the folder of the results, None to write none


@dataclass(frozen=True)
class Table:
    """The figures of an example, as text."""

    columns: list[str]
    rows: list[list[str]]

    def __str__(self) -> str:
        """In Markdown."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def parse_options(description: str | None, argv: Sequence[str] | None = None) -> Options:
    """Parse an example's command line; ``description`` is the docstring of its module."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--quick", action="store_true", help="a little of the data, few steps; a look, not a result")
    parser.add_argument("--threads", type=int, default=cpus, metavar="N", help="of torch and pyattn (%(default)s)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the results (examples/results; --quick: none)"
    )
    given = parser.parse_args(argv)
    if given.threads < 1:
        parser.error(f"argument --threads: must be a positive integer, not {given.threads}")
    return Options(given.quick, given.threads, given.out or (None if given.quick else RESULTS))


def finish(name: str, options: Options, table: Table, figures: dict[str, Any]) -> None:
    """Print the table, and write it with all figures as NAME.json of the folder of results, if there is to be one."""
    print(f"\n{table}\n")
    if options.out is None:
        return
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{name}.json"
    path.write_text(json.dumps({"table": asdict(table), "threads": options.threads, **figures}, indent=2) + "\n")
    print(f"wrote {os.path.relpath(path)}")


def read_table(path: Path) -> Table:
    """That of a result file."""
    return Table(**json.loads(path.read_text())["table"])


def with_tables(text: str, name: str | None = None) -> str:
    """The text with the table of each result where `<!-- name -->` announces it, up to `<!-- end -->`.

    In a script's head, "Full run:" announces that of its own ``name``, and an empty line ends it.
    """
    for path in sorted(RESULTS.glob("*.json")):
        table = str(read_table(path))
        if name is None:
            text = re.sub(rf"(<!-- {path.stem} -->\n).*?(<!-- end -->)", rf"\g<1>{table}\n\g<2>", text, flags=re.S)
        elif name == path.stem:
            text = re.sub(r"(Full run:\n\n)(?:\|.*\n)*\n?", rf"\g<1>{table}\n\n", text, count=1)
    return text


def main() -> None:
    for path in (PAGE, *sorted(EXAMPLES.glob("*.py"))):
        text = path.read_text()
        written = with_tables(text, None if path == PAGE else path.stem)
        if written != text:
            path.write_text(written)
            print(f"wrote {os.path.relpath(path)}")


if __name__ == "__main__":
    main()
