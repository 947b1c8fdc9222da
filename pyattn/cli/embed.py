"""`pyattn embed`: texts read into an index, which `pyattn search` searches."""

import os
from argparse import Namespace
from pathlib import Path

from pyattn.cli import growing
from pyattn.cli.shared import Parser, add_model
from pyattn.cli.texts import HELP_ON_TEXTS, build_index

HELP = "read texts into an index, so that they can be searched again at once"
EPILOG = f"""\
{HELP_ON_TEXTS}
An index is a file, project.npz, which is read whole and compares all passages:
for some ten thousand of them. Or it is a folder, project.index, for a corpus that
grows: a search reads what it needs of it, and --update encodes only the files
that have changed, by their sizes and times, or else by their contents. Who
searches meanwhile has the old index, until the new one is whole. Files are told
apart by the names that PATH gives them. Beyond 5,000 passages such a folder needs
faiss (pip install "pyattn[index]").

examples:
  pyattn embed src/ docs/ -o project.npz
  pyattn search "find the root of a function" --index project.npz -k 3
  pyattn embed src/ docs/ -o project.index             # the first time
  pyattn embed src/ docs/ -o project.index --update    # when files have changed
  pyattn search "find the root of a function" --index project.index
"""


def add_arguments(command: Parser) -> None:
    command.add_argument("paths", metavar="PATH", nargs="+", help="files and folders to read")
    told = "the index to write: a .npz file, or a .index folder"
    command.add_argument("-o", "--output", metavar="FILE", required=True, help=told)
    change = command.add_mutually_exclusive_group()
    told = "make a .index folder what PATH holds now: encode what has changed, delete what has gone"
    change.add_argument("--update", action="store_true", help=told)
    told = "add files to a .index folder, or put changed ones in the place of the old; delete nothing else"
    change.add_argument("--append", action="store_true", help=told)
    add_model(command)


def run(arguments: Namespace) -> None:
    output = Path(arguments.output)
    # This is checked before the work, not after it; and a text that is named by mistake is not overwritten.
    is_file, is_folder = (output.suffix == suffix for suffix in (".npz", ".index"))
    wrong_kind = output.exists() and output.is_dir() != is_folder
    if not (is_file or is_folder) or wrong_kind or not os.access(output.parent, os.W_OK):
        raise ValueError(
            f"cannot write {output}: it must be a .npz file or a .index folder, in a folder that exists and can be "
            "written to"
        )
    if is_folder:
        growing.run(arguments, output)
        return
    if arguments.update or arguments.append:
        raise ValueError(f"{output} is written anew each time; --update and --append are for a folder, project.index")
    index, _ = build_index(arguments)
    index.save(output)
    files = len({passage.file for passage in index.passages})
    print(f"{output}: {len(index.passages)} passages of {files} files, {index.vectors.shape[1]} dimensions")
