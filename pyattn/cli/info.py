"""`pyattn info`: the version, the machine and the build."""

import json
from argparse import Namespace
from typing import Any

from pyattn import _info
from pyattn.cli.shared import Parser

HELP = "show the version, the instruction sets, the threads and the build"
EPILOG = """\
PYATTN_ISA=avx2 and PYATTN_NUM_THREADS=4 in the environment choose an instruction
set and the number of threads.

examples:
  pyattn info
  pyattn info --measure --json
"""


def add_arguments(command: Parser) -> None:
    command.add_argument("--measure", action="store_true", help="measure arithmetic and memory speed, in a few seconds")
    command.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: Namespace) -> None:
    facts = _info.info() | (_info.measure() if arguments.measure else {})
    if arguments.json:
        print(json.dumps(facts, indent=2))
    else:
        width = max(map(len, facts))
        for key, value in facts.items():
            print(f"{key:{width}}  {_shown(value)}")


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1f}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)
