"""`pyattn embed`: texts read into an index."""

import os
from argparse import Namespace
from pathlib import Path

from pyattn.cli import indexing
from pyattn.cli.arguments import Parser, add_model

HELP = "read texts into an index, so that they can be searched again at once"
DESCRIPTION = "Reads files and folders into an index for `pyattn search --index`."
EPILOG = indexing.EPILOG


def add_arguments(command: Parser) -> None:
    command.add_argument("paths", metavar="PATH", nargs="+", help="files and folders to read")
    command.add_argument("-o", "--output", metavar="FILE", required=True, help="the index to write, a .npz file")
    add_model(command)


def run(arguments: Namespace) -> None:
    output = Path(arguments.output)
    # This is checked before the work, not after it; and a text that is named by mistake is not overwritten.
    if output.suffix != ".npz" or output.is_dir() or not os.access(output.parent, os.W_OK):
        raise ValueError(f"cannot write {output}: it must be a .npz file in a folder that exists and can be written to")
    index, _ = indexing.build_index(arguments)
    index.save(output)
    files = len({passage.file for passage in index.passages})
    print(f"{output}: {len(index.passages)} passages of {files} files, {index.vectors.shape[1]} dimensions")
