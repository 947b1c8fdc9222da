"""`pyattn search`: the passages of texts or of an index that are nearest in meaning to a query."""

import json
import os
import re
import shutil
import sys
import textwrap
import warnings
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyattn.cli import texts
from pyattn.cli.shared import Parser, add_model, positive, printable
from pyattn.tasks.passages import Passage
from pyattn.tasks.reranker import Reranker
from pyattn.tasks.search_index import Hit, SearchIndex
from pyattn.tasks.sentence import SentenceEncoder
from pyattn.tasks.vector_index import VectorIndex

_SNIPPET_LINES = 6
_RULER = re.compile(r"^[\W_]+$", re.MULTILINE)  # what underlines a heading

HELP = "print the passages of texts or of an index that are nearest in meaning to a query"
EPILOG = f"""\
{texts.HELP_ON_TEXTS}
--rerank MODEL has a second model, a cross-encoder, read the query together with
each of the best passages that the vectors find, and orders these anew: slower,
and more exact. MODEL is a directory, or the id of a repository on the hub, such
as cross-encoder/ms-marco-MiniLM-L6-v2. The number printed is then its score; JSON
has both, "score" of the vectors and "rerank_score". --dtype is for both models.

examples:
  pyattn search "find the root of a function" docs/ notes.txt
  pyattn embed src/ docs/ -o project.npz
  pyattn search "find the root of a function" --index project.npz -k 3
  pyattn search "why is it slow?" --index project.npz \\
      --rerank cross-encoder/ms-marco-MiniLM-L6-v2 --candidates 100
"""
_CANDIDATES = 50


@dataclass(frozen=True)
class _Result:
    """What is printed of a passage."""

    score: float
    passage: Passage
    rerank_score: float | None = None

    @property
    def shown(self) -> float:
        return self.score if self.rerank_score is None else self.rerank_score

    def entry(self, rank: int) -> dict[str, Any]:
        scores = {"score": self.score} | ({} if self.rerank_score is None else {"rerank_score": self.rerank_score})
        return {"rank": rank, **scores, **self.passage._asdict()}


def add_arguments(command: Parser) -> None:
    command.add_argument("query", metavar="QUERY", help="what to look for, in plain words")
    command.add_argument("paths", metavar="PATH", nargs="*", help="files and folders to search; or give --index")
    command.add_argument("--index", metavar="FILE", help="search an index that `pyattn embed` wrote, a file or folder")
    command.add_argument("-k", "--top", metavar="N", type=positive, default=5, help="passages to print (default: 5)")
    command.add_argument("--json", action="store_true", help="print JSON with the whole passages")
    told = "a reranker, which reads the best passages together with the query and orders them anew"
    command.add_argument("--rerank", metavar="MODEL", help=told)
    told = f"with --rerank, as many passages are read by it (default: {_CANDIDATES}, and no fewer than --top)"
    command.add_argument("--candidates", metavar="N", type=positive, help=told)
    add_model(command)


def run(arguments: Namespace) -> None:
    if not arguments.query.strip():
        raise ValueError("the query is empty; say in a few words what to look for")
    if bool(arguments.paths) == bool(arguments.index):
        raise ValueError("give either files and folders to search, or --index FILE")
    if arguments.candidates and not arguments.rerank:
        raise ValueError("--candidates is the number of passages that --rerank MODEL reads; give that too")
    count = arguments.candidates or max(_CANDIDATES, arguments.top)
    if count < arguments.top:
        raise ValueError(f"--candidates {count} is fewer than the {arguments.top} passages to print (--top)")
    reranker = Reranker.from_pretrained(arguments.rerank, dtype=arguments.dtype) if arguments.rerank else None
    index, encoder = _index(arguments)
    [query] = encoder.encode_query([arguments.query], normalize=texts.normalization(encoder))
    hits = index.search(query, count if reranker else arguments.top)
    results = [_Result(*hit) for hit in hits] if reranker is None else _reranked(reranker, arguments, hits)
    if arguments.json:
        entries = [result.entry(rank) for rank, result in enumerate(results, start=1)]
        models = {"model": index.model} | ({"reranker": arguments.rerank} if reranker else {})
        print(json.dumps({"query": arguments.query, **models, "results": entries}, indent=2))
    else:
        color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        width = shutil.get_terminal_size().columns
        print("\n\n".join(_layout(rank, result, width, color) for rank, result in enumerate(results, start=1)))


def _index(arguments: Namespace) -> tuple[SearchIndex | VectorIndex, SentenceEncoder]:
    """What is searched, and the encoder that made it."""
    path = arguments.index
    if not path:
        return texts.build_index(arguments)
    index = VectorIndex.open(path) if Path(path).is_dir() else SearchIndex.load(path)
    model, encoder = texts.load_encoder(arguments)
    texts.check_model(index, path, encoder, model, arguments.dtype)
    return index, encoder


def _reranked(reranker: Reranker, arguments: Namespace, hits: list[Hit]) -> list[_Result]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # long passages are read as far as the model goes, as vectors are
        ranked = reranker.rank(arguments.query, [hit.passage.text for hit in hits], arguments.top)
    chosen = [(hits[entry["corpus_id"]], entry["score"]) for entry in ranked]
    return [_Result(hit.score, hit.passage, score) for hit, score in chosen]


def _layout(rank: int, result: _Result, width: int, color: bool) -> str:
    """A result for people: where it is, then the beginning of the passage, wrapped."""
    passage = result.passage
    place = printable(f"{passage.file}:{passage.line}")
    if color:
        place = f"\x1b[1m{place}\x1b[0m"
    text = printable(_RULER.sub("", passage.text))
    snippet = textwrap.wrap(text, max(width, 40) - 4, max_lines=_SNIPPET_LINES, placeholder=" ...")
    head = f"{rank:>2}  {result.shown:.3f}  {place}  {printable(passage.name)}".rstrip()
    return "\n    ".join([head, *snippet])
