"""What several subcommands share: the parser, arguments, standard input, and text for a terminal."""

import argparse
import sys
from typing import Any, NoReturn

GENERATIVE_MODEL = """\
MODEL is a directory that holds config.json, model.safetensors, tokenizer.json
(or Marian's source.spm, target.spm and vocab.json), and perhaps
generation_config.json, which says how tokens are chosen unless the options here
do; or the id of a repository on the Hugging Face hub that has them.
"""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, which names the help."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, not {text!r}")
    return int(text)


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


def add_cache(command: Parser) -> None:
    told = "hold keys and values in int8: less memory, and faster after thousands of tokens, to 2 digits"
    command.add_argument("--cache-dtype", choices=("int8",), help=told)


def add_beams(command: Parser) -> None:
    told = "beams of the search (default: the model's; 1 is greedy)"
    command.add_argument("--beams", metavar="N", type=positive, dest="num_beams", help=told)


def add_writing(command: Parser) -> None:
    command.add_argument("--tokens", metavar="N", type=positive, dest="max_new_tokens", help="write at most N tokens")
    add_beams(command)
    add_model(command, required=True)
    add_cache(command)


def writing_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of `TextGenerator` that the arguments say."""
    names = ("max_new_tokens", "num_beams", "temperature", "top_p", "seed")
    return {name: value for name, value in vars(arguments).items() if name in names and value is not None}


def standard_input() -> str:
    if sys.stdin.isatty():
        print("reading standard input; Ctrl-D ends it", file=sys.stderr)
    return sys.stdin.read()


def safe(text: str) -> str:
    """The text with its line breaks and tabs, without other control characters: no file and no model may use them."""
    return "".join(character for character in text if character.isprintable() or character in "\n\t")


def printable(text: str) -> str:
    """The text on one line and without control characters."""
    return safe(" ".join(text.split()))
