"""Blocks of neighbouring tokens, by which pictures of long texts stay small."""

import numpy as np

from pyattn._checks import Array
from pyattn.explain.attended import Attended


def starts(length: int, most: int) -> list[int]:
    """Where each of `most` blocks, or of `length` where that is less, begins, and where the last one ends."""
    count = min(length, most)
    return [i * length // count for i in range(count + 1)]


def block_means(attended: Attended, sequence: int, most: tuple[int, int]) -> Array:
    """(H, rows, columns): what a query of each block gives to all keys of another, in the mean over its queries."""
    query, key, _ = attended.operands(sequence)
    rows, columns = (starts(len(x[0]), count) for x, count in zip((query, key), most, strict=True))
    pooled = attended.statistics(sequence, pooled=(len(rows) - 1, len(columns) - 1)).pooled
    means: Array = pooled / np.diff(rows)[:, None]  # type: ignore[operator]
    return means
