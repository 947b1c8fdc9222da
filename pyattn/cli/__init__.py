"""The command `pyattn`: search by meaning, serve, transcribe speech, write and translate texts, show what runs.

Each subcommand is a module, which holds its help, its arguments and what it does.
"""

import io
import os
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence

from pyattn._info import __version__
from pyattn.cli import embed, generate, info, look, search, serve, transcribe, translate
from pyattn.cli.shared import Parser, printable

_SUBCOMMANDS = (search, embed, serve, look, transcribe, generate, translate, info)
_EPILOG = """\
examples:
  pyattn search "find the root of a function" docs/ notes.txt
  pyattn embed src/ docs/ -o project.npz
  pyattn search "find the root of a function" --index project.npz -k 3
  pyattn serve --model BAAI/bge-small-en-v1.5 --port 8000
  pyattn look "The bank of the river" -o page.html
  pyattn transcribe interview.wav --srt > interview.srt
  pyattn generate "Once upon a time" --model HuggingFaceTB/SmolLM2-135M
  pyattn translate "Wo ist der Bahnhof?" --model ./marian-de-en
  pyattn info --measure

Each command explains itself: pyattn search --help
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command of these arguments, or else of the process's.

    Returns the exit status: 0, 2 for an error of the user's (after one line about it on standard error), 130 when
    interrupted, 141 when the reader of the output has gone. Raises SystemExit with 2 after one line about arguments
    that do not parse, with 0 after --help and --version.
    """
    arguments = _parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # the terminal's encoding may lack some characters
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The interpreter flushes standard output once more on exit; that must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ImportError, OSError, ValueError) as error:
        message = str(error)
        if isinstance(error, OSError) and error.filename is not None:
            message = f"{error.filename}: {error.strerror}"
        print(f"pyattn {arguments.command}: {printable(message)}", file=sys.stderr)
        return 2
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="pyattn",
        description="Exact attention for NumPy; on top of it a search by meaning, and models that write texts.",
        epilog=_EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"pyattn {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in _SUBCOMMANDS:
        command = commands.add_parser(
            module.__name__.rpartition(".")[2],
            help=module.HELP,
            description=f"{module.HELP[0].upper()}{module.HELP[1:]}.",
            epilog=module.EPILOG,
            formatter_class=RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser
