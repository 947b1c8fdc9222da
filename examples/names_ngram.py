"""What examples.names compares its Transformer with: each letter by its most frequent rendering among its neighbours.

Letters are aligned with what they became by hard expectation maximization, as statistical translation aligns words
(Brown et al. 1993, model 1), but in order: each source letter becomes 0 to 3 letters of the target.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

PIECE = 3  # the most letters that one letter becomes
BASE = 32  # a piece is a number in this base, of letters that count from 1
ROUNDS = 6
SMOOTHING = 0.1


def _ids(texts: Sequence[str], alphabet: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Letters as numbers from 1 on, padded with 0; and the lengths."""
    lengths = np.array([len(text) for text in texts])
    ids = np.zeros((len(texts), int(lengths.max())), np.int64)
    ids[np.arange(ids.shape[1]) < lengths[:, None]] = [alphabet.index(x) + 1 for text in texts for x in text]
    return ids, lengths


def _pieces(targets: NDArray[np.int64]) -> NDArray[np.int64]:
    """(PIECE + 1, n, length + 1): the piece of so many letters that ends in front of each place."""
    codes = np.zeros((PIECE + 1, len(targets), targets.shape[1] + 1), np.int64)
    for size in range(1, PIECE + 1):
        codes[size, :, size:] = codes[size - 1, :, size - 1 : -1] * BASE + targets[:, size - 1 :]
    return codes


def _aligned(
    table: NDArray[np.float64], sources: NDArray[np.int64], ends: NDArray[np.int64], targets: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The sizes of the pieces by which each pair is likeliest, and whether there is any way.

    ``table``: the log-probability of a piece for a letter; of letter 0, that is padding, that of any but the empty one
    is -inf. ``ends``: the targets' lengths.
    """
    codes = _pieces(targets)
    places = np.arange(codes.shape[2])
    best = np.where(places == 0, 0.0, -np.inf) * np.ones((len(sources), 1))
    choices = np.zeros((*sources.shape, len(places)), np.int64)
    for i in range(sources.shape[1]):
        ways = np.full((PIECE + 1, *best.shape), -np.inf)
        for size in range(PIECE + 1):
            before = best[:, : len(places) - size]
            ways[size, :, size:] = before + table[sources[:, i, None], codes[size, :, size:]]
        choices[:, i], best = ways.argmax(axis=0), ways.max(axis=0)
    rows, place = np.arange(len(sources)), ends.copy()
    possible = np.isfinite(best[rows, place])
    sizes = np.zeros_like(sources)
    for i in reversed(range(sources.shape[1])):
        sizes[:, i] = np.where(possible, choices[rows, i, place], 0)
        place -= sizes[:, i]
    return sizes, possible


def align(sources: Sequence[str], targets: Sequence[str], alphabets: tuple[str, str]) -> list[list[str] | None]:
    """For each pair the piece of the target that each source letter became; None where the target is too long."""
    x, lengths = _ids(sources, alphabets[0])
    y, ends = _ids(targets, alphabets[1])
    codes, rows = _pieces(y), np.arange(len(x))
    counts = np.zeros((len(alphabets[0]) + 1, BASE**PIECE))
    for i in range(x.shape[1]):  # to begin with, a letter became what stands at its share of the target
        place = np.minimum(np.round((i + 1) * ends / lengths).astype(np.int64), ends)
        for size in range(PIECE + 1):
            np.add.at(counts, (x[:, i], codes[size, rows, place]), 1)
    for _ in range(ROUNDS):
        smooth = counts + SMOOTHING
        table = np.log(smooth / smooth.sum(axis=1, keepdims=True))
        table[0] = np.where(np.arange(BASE**PIECE) == 0, 0, -np.inf)
        sizes, possible = _aligned(table, x, ends, y)
        places = sizes.cumsum(axis=1)
        counts[:] = 0
        np.add.at(counts, (x[possible], codes[sizes, rows[:, None], places][possible]), 1)
    cuts = [[0, *row[:length]] for row, length in zip(places.tolist(), lengths.tolist(), strict=True)]
    return [
        [text[a:b] for a, b in pairwise(cut)] if found else None
        for text, cut, found in zip(targets, cuts, possible.tolist(), strict=True)
    ]


class NGrams:
    """Each letter's most frequent rendering in the longest context that was met ``least`` times or more."""

    def __init__(self, contexts: Sequence[tuple[int, int, bool]], least: int = 4) -> None:
        """``contexts``, the longest first: letters before, letters after, and whether the country counts."""
        self.contexts, self.least = contexts, least
        self.counts: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)

    def _keys(self, text: str, country: str) -> Iterator[list[tuple[str, ...]]]:
        padded, pad = f"##{text}##", 2
        for i in range(pad, pad + len(text)):
            yield [
                (padded[i - before : i], padded[i], padded[i + 1 : i + 1 + after], country if counts else "")
                for before, after, counts in self.contexts
            ]

    def learn(self, text: str, country: str, pieces: Sequence[str]) -> None:
        for keys, piece in zip(self._keys(text, country), pieces, strict=True):
            for key in keys:
                self.counts[key][piece] += 1

    def write(self, text: str, country: str) -> str:
        pieces = []
        for keys in self._keys(text, country):
            met = (key for key in keys if key in self.counts and self.counts[key].total() >= self.least)
            pieces.append(next((self.counts[key].most_common(1)[0][0] for key in met), ""))
        return "".join(pieces)
