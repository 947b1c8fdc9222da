"""The graph of a vector index: faiss's HNSW (Malkov and Yashunin, 2016, arXiv:1603.09320) over vectors of 8 bits.

TABLE
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyattn import _threads
from pyattn._extras import import_extra

_NEIGHBORS = 16  # of each vector; twice as many on the lowest level
_BUILD_EFFORT = 128  # vectors that are considered as neighbors of a new one
_CHUNK = 2**16  # rows that are read at once
_TRAINING = 2**16  # rows whose least and greatest elements are the range of the 8 bits


def _faiss() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the types that SWIG makes, on Python 3.12 and later
        return import_extra("faiss", "an index of so many passages", "index")


class Graph:
    """Vectors that are numbered from 0 and found by their dot products, nearly."""

    def __init__(self, index: Any) -> None:
        self._index = index

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @classmethod
    def of(cls, vectors: NDArray[np.float32]) -> "Graph":
        """A new graph of vectors (n, width), n > 0."""
        faiss = _faiss()
        kind = faiss.ScalarQuantizer.QT_8bit
        index = faiss.IndexHNSWSQ(vectors.shape[1], kind, _NEIGHBORS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = _BUILD_EFFORT
        index.train(np.ascontiguousarray(vectors[:: -(-len(vectors) // _TRAINING)]))
        graph = cls(index)
        graph.add(vectors)
        return graph

    def add(self, vectors: NDArray[np.float32]) -> None:
        """Adds vectors (n, width), by as many threads as `pyattn.set_num_threads` says."""
        faiss = _faiss()
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(_threads.get_num_threads())
        try:
            for start in range(0, len(vectors), _CHUNK):
                self._index.add(np.ascontiguousarray(vectors[start : start + _CHUNK]))
        finally:
            faiss.omp_set_num_threads(threads)

    def search(self, vector: NDArray[np.float32], count: int, live: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The numbers of the `count` vectors nearest to one, fewer where no more are found, in no order.

        live: one bit for each vector, the least significant first; those of 0 are passed through, but not found.
        """
        faiss = _faiss()
        chosen = faiss.IDSelectorBitmap(live)
        parameters = faiss.SearchParametersHNSW(efSearch=count, sel=chosen)
        _, found = self._index.search(vector[None], count, params=parameters)
        numbers: NDArray[np.int64] = found[0][found[0] >= 0]
        return numbers

    def save(self, path: Path) -> None:
        _faiss().write_index(self._index, str(path))

    @classmethod
    def load(cls, path: Path, width: int, rows: int, *, growing: bool = False) -> "Graph":
        """The graph that `save` wrote, mapped into memory; or read, so that it can grow. ValueError for another one.

        faiss refuses links that lead outside the graph, and sizes that contradict each other.
        """
        faiss = _faiss()
        try:
            index = faiss.read_index(str(path), 0 if growing else faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            reason = str(error).rpartition("Error: ")[2]
            raise ValueError(f"{path.name} cannot be read by faiss ({reason})") from error
        if not isinstance(index, faiss.IndexHNSWSQ):
            raise ValueError(f"{path.name} holds a {type(index).__name__}, not an IndexHNSWSQ")
        if (index.d, index.ntotal, index.metric_type) != (width, rows, faiss.METRIC_INNER_PRODUCT):
            raise ValueError(f"{path.name} holds {index.ntotal} vectors of {index.d}, not {rows} of {width}")
        index.hnsw.efConstruction = _BUILD_EFFORT
        return cls(index)
