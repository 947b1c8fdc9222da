"""Which lines of C and Cython ran in a build with PYATTN_COVERAGE=1.

Run in the folder of the build: python -m tests.tools.lines
"""

import itertools
import json
import re
import subprocess
from collections import Counter, defaultdict
from pathlib import Path

OURS = ("csrc/", "pyattn/_core/")


def origins(file):
    """For each line of what Cython generated, the file and line it was made from, as the comments before it say."""
    found, origin = [], None
    for line in Path(file).read_text().splitlines():
        if comment := re.match(r'\s*/\* "(.+)":(\d+)$', line):
            origin = comment[1], int(comment[2])
        elif line.startswith("/* #### Code section"):
            origin = None
        found.append(origin)
    return found


def counts():
    """file: {line: how often it ran}, over all objects that the file was compiled into."""
    found = defaultdict(Counter)
    for data in sorted(Path("build").rglob("*.gcda")):
        told = subprocess.run(["gcov", "--json-format", "--stdout", str(data)], check=True, capture_output=True).stdout
        for file in json.loads(told)["files"]:
            name = file["file"]
            generated = origins(name) if name.startswith("pyattn/_core/") else None
            for line in file["lines"]:
                number = line["line_number"]
                origin = generated[number - 1] if generated else (name, number)
                if origin and origin[0].startswith(OURS):
                    found[origin[0]][origin[1]] += line["count"]
    return found


def ranges(numbers):
    """1, 2, 3, 7 as 1-3, 7."""
    groups = itertools.groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0])
    ends = [(run[0][1], run[-1][1]) for run in (list(group) for _, group in groups)]
    return ", ".join(f"{first}-{last}" if last > first else str(first) for first, last in ends)


def main():
    print(f"{'File':<28}{'Lines':>7}{'Miss':>6}{'Cover':>7}  Missing")
    for file, lines in sorted(counts().items()):
        missed = [line for line, count in lines.items() if not count]
        print(f"{file:<28}{len(lines):>7}{len(missed):>6}{1 - len(missed) / len(lines):>7.0%}  {ranges(missed)}")


if __name__ == "__main__":
    main()
