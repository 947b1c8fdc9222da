"""`pyattn search`: the passages of texts or of an index that are nearest in meaning to a query."""

import json
import os
import re
import shutil
import sys
import textwrap
from argparse import Namespace

from pyattn.cli import embed
from pyattn.cli.shared import Parser, add_model, positive, printable
from pyattn.tasks.search_index import Hit, SearchIndex

_SNIPPET_LINES = 6
_RULER = re.compile(r"^[\W_]+$", re.MULTILINE)  # what underlines a heading

HELP = "print the passages of texts or of an index that are nearest in meaning to a query"
EPILOG = embed.EPILOG


def add_arguments(command: Parser) -> None:
    command.add_argument("query", metavar="QUERY", help="what to look for, in plain words")
    command.add_argument("paths", metavar="PATH", nargs="*", help="files and folders to search; or give --index")
    command.add_argument("--index", metavar="FILE", help="search an index that `pyattn embed` wrote")
    command.add_argument("-k", "--top", metavar="N", type=positive, default=5, help="passages to print (default: 5)")
    command.add_argument("--json", action="store_true", help="print JSON with the whole passages")
    add_model(command)


def run(arguments: Namespace) -> None:
    if not arguments.query.strip():
        raise ValueError("the query is empty; say in a few words what to look for")
    if bool(arguments.paths) == bool(arguments.index):
        raise ValueError("give either files and folders to search, or --index FILE")
    if arguments.index:
        index = SearchIndex.load(arguments.index)
        model, encoder = embed.load_encoder(arguments)
        if index.fingerprint != encoder.fingerprint:
            raise ValueError(
                f"{arguments.index} was made with the model {index.model}, which is not the one in use, {model} in "
                f"{arguments.dtype}: choose it with --model and --dtype, or make the index again with `pyattn embed`"
            )
    else:
        index, encoder = embed.build_index(arguments)
    [query] = encoder.encode_query([arguments.query], normalize=embed.normalization(encoder))
    hits = index.search(query, arguments.top)
    if arguments.json:
        results = [
            {"rank": rank, "score": hit.score, **hit.passage._asdict()} for rank, hit in enumerate(hits, start=1)
        ]
        print(json.dumps({"query": arguments.query, "model": index.model, "results": results}, indent=2))
    else:
        color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        width = shutil.get_terminal_size().columns
        print("\n\n".join(_layout(rank, hit, width, color) for rank, hit in enumerate(hits, start=1)))


def _layout(rank: int, hit: Hit, width: int, color: bool) -> str:
    """A hit for people: where it is, then the beginning of the passage, wrapped."""
    passage = hit.passage
    place = printable(f"{passage.file}:{passage.line}")
    if color:
        place = f"\x1b[1m{place}\x1b[0m"
    text = printable(_RULER.sub("", passage.text))
    snippet = textwrap.wrap(text, max(width, 40) - 4, max_lines=_SNIPPET_LINES, placeholder=" ...")
    head = f"{rank:>2}  {hit.score:.3f}  {place}  {printable(passage.name)}".rstrip()
    return "\n    ".join([head, *snippet])
