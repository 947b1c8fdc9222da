"""Splice junctions of primates' genes, and what tells them without a Transformer; for examples/biology.py."""

from __future__ import annotations

import lzma
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from examples.packages import debian_files

DATA = ("r-cran-mlbench", "usr/lib/R/site-library/mlbench/data/DNA.rda")
DONOR, ACCEPTOR, NEITHER = range(3)
JUNCTION = 30  # the site lies before this nucleotide of a piece
SHARED = 20  # nucleotides in a row that make two pieces relatives
REACH = 10  # places on either side of a site that matrices and pictures look at: all windows have them

Array = NDArray[Any]


def read_factors(data: bytes) -> Array:
    """(factors, rows): the numbers of an R data frame whose columns are all factors, from 0 on, as R stores it (RDX2).

    Each is an integer vector with attributes; what stands between them is passed over.
    """
    if not data.startswith(b"RDX2\nX\n"):
        raise ValueError("read_factors: this is no R data of version 2")
    vector = struct.pack(">i", 0x30D)  # the type of integers, with the flags of an object and of attributes
    place = data.index(vector)
    (rows,) = struct.unpack(">i", data[place + 4 : place + 8])
    found = []
    while place >= 0:
        found.append(np.frombuffer(data, ">i4", rows, place + 8))
        place = data.find(vector + struct.pack(">i", rows), place + 8 + 4 * rows)
    return np.stack(found).astype(np.int64) - 1


def read_pieces(path: Path) -> tuple[Array, Array]:
    """(pieces, 60) nucleotides, as places in LETTERS, and (pieces,) classes. A, C and G have a column each, T none."""
    *columns, classes = read_factors(lzma.decompress(path.read_bytes()))
    set_ = np.stack(columns, axis=1).reshape(len(classes), -1, 3)
    return np.where(set_.any(axis=2), set_.argmax(axis=2), 3), classes


def families(pieces: Array) -> Array:
    """A number for each piece, the same for those that share SHARED nucleotides in a row, directly or by others."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    words = np.lib.stride_tricks.sliding_window_view(pieces, SHARED, axis=1)
    codes = np.unique(words @ 4 ** np.arange(SHARED), return_inverse=True)[1].reshape(len(pieces), -1)
    owners = np.broadcast_to(np.arange(len(pieces))[:, None], codes.shape)
    size = len(pieces) + codes.max() + 1
    edges = coo_array((np.ones(codes.size, bool), (owners.ravel(), len(pieces) + codes.ravel())), (size, size))
    numbers: Array = connected_components(edges, directed=False)[1]
    return numbers[: len(pieces)]


def cut(pieces: Array, offsets: Array, length: int) -> Array:
    """The windows of that length that begin at each piece's offset."""
    return np.take_along_axis(pieces, offsets[:, None] + np.arange(length), axis=1)


@dataclass(frozen=True)
class Data:
    """Pieces and classes of training, and of the test windows, where they were cut, and classes."""

    pieces: Array
    classes: Array
    windows: Array
    offsets: Array
    test_classes: Array


def load_data(length: int, quick: bool) -> Data:
    """30 % of the families are the test; one window of each of their pieces, cut at random."""
    package, file = DATA
    pieces, classes = read_pieces(debian_files(package) / file)
    if quick:
        pieces, classes = pieces[::8], classes[::8]
    rng = np.random.default_rng(0)
    numbers = families(pieces)
    order = rng.permutation(np.unique(numbers))
    test = np.isin(numbers, order[: len(order) * 3 // 10])
    offsets = rng.integers(pieces.shape[1] - length + 1, size=test.sum())
    return Data(pieces[~test], classes[~test], cut(pieces[test], offsets, length), offsets, classes[test])


def kmer_counts(windows: Array) -> Array:
    """(windows, 1364): how often each word of 1 to 5 letters occurs."""
    counts = []
    for k in range(1, 6):
        words = np.lib.stride_tricks.sliding_window_view(windows, k, axis=1) @ 4 ** np.arange(k)
        counts.append(np.stack([np.bincount(row, minlength=4**k) for row in words]))
    return np.concatenate(counts, axis=1)


def letters_by_place(windows: Array) -> Array:
    return np.eye(4)[windows].reshape(len(windows), -1)


class WeightMatrices:
    """Of each window the best log odds, over its places, of a donor and of an acceptor, each a matrix of letters.

    The matrices are counted around the true sites of training, which only they are told: Staden 1984.
    """

    def __init__(self, pieces: Array, classes: Array) -> None:
        around = pieces[:, JUNCTION - REACH : JUNCTION + REACH]
        background = np.bincount(pieces.ravel(), minlength=4) / pieces.size
        counts = [(np.eye(4)[around[classes == kind]]).sum(axis=0) + 1 for kind in (DONOR, ACCEPTOR)]
        self.odds = [np.log(count / count.sum(axis=1, keepdims=True) / background) for count in counts]

    def __call__(self, windows: Array) -> Array:
        words = np.lib.stride_tricks.sliding_window_view(windows, 2 * REACH, axis=1)
        return np.stack([odds[np.arange(2 * REACH), words].sum(axis=2).max(axis=1) for odds in self.odds], axis=1)


def logistic(features: Callable[[Array], Array], data: Data, strength: float) -> Array:
    """Probabilities of the test's classes: logistic regression on features of four windows of each training piece."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows = np.repeat(np.arange(len(data.pieces)), 4)
    length = data.windows.shape[1]
    offsets = np.random.default_rng(1).integers(data.pieces.shape[1] - length + 1, size=len(rows))
    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
    model.fit(features(cut(data.pieces[rows], offsets, length)), data.classes[rows])
    probabilities: Array = model.predict_proba(features(data.windows))
    return probabilities
