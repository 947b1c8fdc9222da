"""The graph of a vector index: faiss's HNSW (Malkov and Yashunin, 2016, arXiv:1603.09320) over vectors of 8 bits.

Chosen among faiss-cpu 1.15.1 and usearch 2.26.6, with 16 neighbors and 128 considered, for 100,000 unit vectors of 384
(all-MiniLM-L6-v2 of 68,558 docstrings and 31,442 blends of two of them), 1,000 queries that are not among them, 100
candidates rescored by float32; two cores of an x86-64 machine with AVX-512, beside other work:

    graph of            recall@10   queries/s, two threads   file     build   append 10,000
    usearch i8          .992        2,800                    53 MB    52 s    6.2 s
    faiss 8 bits        .991        5,700                    53 MB    42 s    4.4 s     <- this one
    usearch float32     .991        2,100                    169 MB   40 s    5.6 s
    faiss float32       .992        2,300                    168 MB   23 s    5.8 s
    usearch bits        .955        18,500                   20 MB    9 s     1.3 s
    faiss bits          .955        5,000                    19 MB    22 s    2.4 s
    faiss IVF, 8 bits   .943        2,100 (64 of 1,264)      41 MB    29 s    0.4 s

What decided was that faiss checks what it reads, all links too: of 1,200 mutated files none ended the process (14, with
other headers, asked for more than 8 GB, 4 led to searches of more than 5 seconds), where usearch, which follows links
unchecked, ended it for 92 of 300. A SHA-256 of our own sees damage before the library does, but keeps out no stranger's
file. faiss-cpu (MIT) has wheels for Python 3.10 to 3.14 on Linux, macOS and Windows, and needs NumPy and packaging;
usearch (Apache-2.0) has them too, and brings 44 MB of numkong. usearch deletes from its graph; with faiss, deleted
vectors are passed over in each search, until `VectorIndex.compact`.
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
            path.stat()  # FileNotFoundError, if a writer has just removed it
            reason = str(error).rpartition("Error: ")[2]
            raise ValueError(f"{path.name} cannot be read by faiss ({reason})") from error
        if not isinstance(index, faiss.IndexHNSWSQ):
            raise ValueError(f"{path.name} holds a {type(index).__name__}, not an IndexHNSWSQ")
        if (index.d, index.ntotal, index.metric_type) != (width, rows, faiss.METRIC_INNER_PRODUCT):
            raise ValueError(f"{path.name} holds {index.ntotal} vectors of {index.d}, not {rows} of {width}")
        index.hnsw.efConstruction = _BUILD_EFFORT
        return cls(index)
