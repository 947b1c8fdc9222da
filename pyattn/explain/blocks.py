"""Blocks of neighbouring tokens, by which pictures of long texts stay small."""

import math

import numpy as np

from pyattn._checks import Array
from pyattn.explain.attended import Attended


def starts(length: int, most: int) -> list[int]:
    """Where each block begins, and where the last one ends: at most `most`, but for a few of them of one size.

    Blocks of one token and of two would make stripes of even attention.
    """
    size = math.ceil(length / most)
    count = math.ceil(length / size)
    return [i * length // count for i in range(count + 1)]


def block_means(attended: Attended, sequence: int, most: tuple[int, int]) -> Array:
    """(H, rows, columns): what a query of each block gives to all keys of another, in the mean over its queries."""
    query, key, _ = attended.operands(sequence)
    rows, columns = (starts(len(x[0]), count) for x, count in zip((query, key), most, strict=True))
    pooled = attended.statistics(sequence, pooled=(len(rows) - 1, len(columns) - 1)).pooled
    means: Array = pooled / np.diff(rows)[:, None]  # type: ignore[operator]
    return means
