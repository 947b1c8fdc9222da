"""`pyattn look`: a page that shows what the attention of a model looks at in a text."""

import os
from argparse import Namespace
from pathlib import Path

from pyattn import explain
from pyattn.cli.shared import Parser, add_model, printable, safe, standard_input
from pyattn.cli.texts import load_encoder
from pyattn.models import TextEncoder

HELP = "write a page that shows what attention looks at in a text"
EPILOG = """\
The page is one file for a browser, which needs no network: a layer and a head can
be chosen, and a token, whose weights are shown; it can be used by keyboard. TEXT
is the text itself; "-" stands for standard input. Of more than 96 tokens, as many
blocks of neighbours are shown, however long the text is.

The model is one that encodes texts; without --model, the one of `pyattn search`.

examples:
  pyattn look "The animal didn't cross the street because it was too tired" -o page.html
  pyattn look - -o page.html --model answerdotai/ModernBERT-base < chapter.txt
"""


def add_arguments(command: Parser) -> None:
    command.add_argument("text", metavar="TEXT", help='the text, or "-" for standard input')
    command.add_argument("-o", "--output", metavar="FILE", required=True, help="the page to write, a .html file")
    add_model(command)


def run(arguments: Namespace) -> None:
    output = Path(arguments.output)
    if output.suffix not in (".html", ".htm") or output.is_dir() or not os.access(output.parent, os.W_OK):
        raise ValueError(
            f"cannot write {output}: it must be a .html file in a folder that exists and can be written to"
        )
    text = standard_input() if arguments.text == "-" else arguments.text
    name, encoder = load_encoder(arguments)
    tokens, ids = encoder.tokens(text)
    if not isinstance(encoder.model, TextEncoder):
        raise ValueError(f"{name} is no encoder of texts, whose attention the page could show")
    with explain.watch(encoder.model) as seen:
        encoder.model(ids, [0, len(ids)])
    title = f"Attention of {printable(name)}"
    output.write_text(explain.page([safe(token) for token in tokens], seen, title=title), "utf-8")
    print(f"{output}: {len(tokens)} tokens, {len(seen)} layers of {seen[0].heads} heads")
