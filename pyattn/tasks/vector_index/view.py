"""What one search of a vector index sees, whatever is added meanwhile: its files, mapped into memory."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyattn.tasks.passages import Passage
from pyattn.tasks.vector_index import files
from pyattn.tasks.vector_index.files import Header
from pyattn.tasks.vector_index.graph import Graph

_CHUNK = 2**14  # rows that are compared at once
_NOT_FINITE = "a product of vector with one of its vectors is not finite"


@dataclass(frozen=True)
class View:
    """Rows: vectors, lines of passages and where these end; which are not deleted; a graph of the first rows."""

    vectors: NDArray[np.float32]
    texts: NDArray[np.uint8]
    ends: NDArray[np.uint64]
    live: NDArray[np.bool_]
    graph: Graph | None

    @cached_property
    def count(self) -> int:
        """Of rows that are not deleted."""
        return int(np.count_nonzero(self.live))

    @cached_property
    def bits(self) -> NDArray[np.uint8]:
        """live, the least significant bit first."""
        return np.packbits(self.live, bitorder="little")

    def nearest(
        self, query: NDArray[np.float32], candidates: int, k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Rows and their products with a query, in order: all, or what the graph finds and those that lie beyond it."""
        if self.graph is not None and candidates < self.count:
            held = len(self.graph)
            beyond = held + np.flatnonzero(self.live[held:])
            found = np.sort(self.graph.search(query, min(candidates, held), self.bits))
            if len(found) + len(beyond) >= k:
                scores = np.concatenate([self.vectors[found] @ query, self._scores(query, held)[beyond - held]])
                return np.concatenate([found, beyond]), _finite(scores)
        rows = np.flatnonzero(self.live)
        return rows, _finite(self._scores(query, 0)[rows])

    def _scores(self, query: NDArray[np.float32], start: int) -> NDArray[np.float32]:
        """The products of a query with the rows from `start` on."""
        scores = np.empty(len(self.vectors) - start, np.float32)
        for i in range(0, len(scores), _CHUNK):
            np.matmul(self.vectors[start + i : start + i + _CHUNK], query, out=scores[i : i + _CHUNK])
        return scores

    def passage(self, row: int) -> Passage:
        start = int(self.ends[row - 1]) if row else 0
        try:
            return files.passage_of(self.texts[start : int(self.ends[row])].tobytes())
        except ValueError as error:
            raise ValueError(f"passage {row} is damaged: {error}") from error


def _finite(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(scores).all():
        raise ValueError(_NOT_FINITE)
    return scores


def read_view(directory: Path, header: Header) -> View:
    """What the files of a header hold."""
    live_file = directory / f"live-{header.state}"
    bits = files.read_checked(live_file, header.live_sha256)
    if len(bits) != -(-header.rows // 8):
        raise ValueError(f"{live_file.name} has {len(bits)} bytes for {header.rows} rows")
    live = np.unpackbits(np.frombuffer(bits, np.uint8), count=header.rows, bitorder="little").astype(bool)
    graph = None
    if header.graph:
        path = directory / f"graph-{header.graph}"
        if files.sha256_of(path) != header.graph_sha256:  # before faiss sees it
            raise ValueError(f"{path.name} is damaged: its SHA-256 is not that of {files.HEADER}")
        graph = Graph.load(path, header.width, header.graph_rows)
    return map_view(directory, header, live, graph)


def map_view(directory: Path, header: Header, live: NDArray[np.bool_], graph: Graph | None) -> View:
    vectors = files.mapped(directory / f"vectors-{header.base}", "<f4", header.rows * header.width)
    texts = files.mapped(directory / f"passages-{header.base}", np.uint8, header.text_bytes)
    ends = files.mapped(directory / f"ends-{header.base}", "<u8", header.rows)
    return View(vectors.reshape(header.rows, header.width), texts, ends, live, graph)
