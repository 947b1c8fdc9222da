"""Help, options and input that `pyattn generate` and `pyattn translate` share."""

import sys
from argparse import Namespace
from typing import Any

from pyattn.cli.arguments import Parser, add_model, positive

MODEL = """\
MODEL is a directory that holds config.json, model.safetensors, tokenizer.json
(or Marian's source.spm, target.spm and vocab.json), and perhaps
generation_config.json, which says how tokens are chosen unless the options here
do; or the id of a repository on the Hugging Face hub that has them.
"""


def add_options(command: Parser) -> None:
    command.add_argument("--tokens", metavar="N", type=positive, help="write at most N tokens")
    command.add_argument(
        "--beams", metavar="N", type=positive, help="beams of the search (default: the model's; 1 is greedy)"
    )
    add_model(command, required=True)


def options_of(arguments: Namespace) -> dict[str, Any]:
    """The options of `TextGenerator` that the arguments of `add_options` say."""
    options = {"max_new_tokens": arguments.tokens, "num_beams": arguments.beams}
    return {name: value for name, value in options.items() if value is not None}


def standard_input() -> str:
    if sys.stdin.isatty():
        print("reading standard input; Ctrl-D ends it", file=sys.stderr)
    return sys.stdin.read()
