"""Arguments that several subcommands have, and the parser of all."""

import argparse
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, which names the help."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def add_model(command: Parser, **options: Any) -> None:
    """--model and --dtype. options: of `add_argument` for --model."""
    command.add_argument(
        "--model", metavar="MODEL", **{"help": "model directory, or an id on the Hugging Face hub"} | options
    )
    command.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "int8"),
        default="float32",
        help="number type of the weights: bfloat16 and int8 are faster, to 3 and 2 digits (default: float32)",
    )


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, not {text!r}")
    return int(text)
