"""Biases that tell how far a key stands from a query."""

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from pyattn import _checks
from pyattn._checks import Array
from pyattn._module import Layer, Seed, initial
from pyattn._namespaces import in_namespace


def alibi_slopes(num_heads: int, *, dtype: DTypeLike = np.float32) -> Array:
    """The slopes of ALiBi, for alibi_slopes of scaled_dot_product_attention.

    Press et al. 2021 (arXiv:2108.12409), section 3: a geometric sequence that begins at its ratio, 2^(-8 / num_heads).
    Where num_heads is no power of two, as in the authors' code: the slopes for the next lower power of two, then every
    other one of those for twice as many heads.

    Args:
        num_heads: number of query heads, 1 or more.
        dtype: float32 or float64.

    Returns:
        (num_heads,), positive.

    Raises:
        ValueError: num_heads is not a positive integer.
        TypeError: dtype is not supported.

    Example:
        >>> alibi_slopes(4)
        array([0.25      , 0.0625    , 0.015625  , 0.00390625], dtype=float32)
        >>> alibi_slopes(3)
        array([0.0625    , 0.00390625, 0.25      ], dtype=float32)
    """
    heads = _checks.size("alibi_slopes", "num_heads", num_heads)
    dtype = _checks.layer_dtype("alibi_slopes", dtype)
    power = 1 << (heads.bit_length() - 1)
    exponents = [8 * i / power for i in range(1, power + 1)] + [4 * i / power for i in range(1, 2 * (heads - power), 2)]
    slopes: Array = np.exp2(-np.array(exponents)).astype(dtype)
    return slopes


@in_namespace
def relative_position_buckets(
    relative_position: Any, num_buckets: int = 32, max_distance: int = 128, bidirectional: bool = True
) -> Array:
    """The bucket of each distance, for biases that are learned for one bucket each.

    T5, Raffel et al. 2020 (arXiv:1910.10683), section 2.1: near distances have a bucket each, farther ones share
    buckets whose width grows with the logarithm, and all from max_distance on share the last.

    Args:
        relative_position: integers, position of the key - position of the query.
        num_buckets: how many there are; if bidirectional half of them, the upper, are for keys after the query.
        max_distance: from there on all distances are in one bucket.
        bidirectional: False puts all keys after the query into bucket 0.

    Returns:
        int64, of the shape of relative_position, from 0 to num_buckets - 1.

    Raises:
        TypeError: relative_position is not of integers.
        ValueError: num_buckets is below 4 (2 if not bidirectional), or max_distance too small for so many.

    Example:
        >>> relative_position_buckets(np.array([-200, -9, -1, 0, 1, 9, 200]))
        array([15,  8,  1,  0, 17, 24, 31])
    """
    name = "relative_position_buckets"
    distance = _checks.integers(name, "relative_position", relative_position)
    count, exact = _sides(name, num_buckets, max_distance, bidirectional)
    # no farther than the last bucket begins, in integers that have room for both signs
    wide = np.float64 if distance.dtype == np.uint64 else np.int64
    distance = np.clip(distance.astype(wide), -max_distance, max_distance).astype(np.int64)
    away = np.abs(distance) if bidirectional else np.maximum(-distance, 0)
    # In float32, as the models were trained: distances at the border of two buckets fall on the same side.
    ratio = np.log(np.maximum(away, 1).astype(np.float32) / np.float32(exact))
    logarithm = ratio / np.float32(math.log(max_distance / exact)) * np.float32(count - exact)
    far = np.minimum(exact + logarithm.astype(np.int64), count - 1)
    upper = np.where(distance > 0, count, 0) if bidirectional else 0
    return np.asarray(upper + np.where(away < exact, away, far), np.int64)


def _sides(function: str, num_buckets: int, max_distance: int, bidirectional: bool) -> tuple[int, int]:
    """How many buckets a side has, and how many of them are of one distance."""
    sides = 2 if _checks.flag(function, "bidirectional", bidirectional) else 1
    if _checks.size(function, "num_buckets", num_buckets) < 2 * sides:
        raise ValueError(f"{function}: num_buckets must be at least {2 * sides}, not {num_buckets}")
    exact = num_buckets // sides // 2
    if _checks.size(function, "max_distance", max_distance) <= exact:
        raise ValueError(
            f"{function}: max_distance must be above {exact} for {num_buckets} buckets, not {max_distance}"
        )
    return num_buckets // sides, exact


def by_distance(table: Array, zero: int, queries: int, keys: int) -> Array:
    """table (H, distances) seen as (H, queries, keys): element i, j is that of column zero + j - i."""
    heads, step = table.strides
    shape = (len(table), queries, keys)
    return np.lib.stride_tricks.as_strided(table[:, zero:], shape, (heads, -step, step), writeable=False)


class RelativePositionBias(Layer):
    """A learned bias for each head and bucket of distances.

    T5, Raffel et al. 2020 (arXiv:1910.10683), section 2.1; buckets are those of relative_position_buckets.

    Parameter `weight` (num_buckets, num_heads), as `relative_attention_bias.weight` of T5 has it.

    Example:
        >>> import pyattn
        >>> position_bias = RelativePositionBias(32, 128, 8)
        >>> query, key, value = np.ones((3, 2, 8, 100, 64), np.float32)
        >>> pyattn.scaled_dot_product_attention(query, key, value, bias=position_bias(100, 100), scale=1.0).shape
        (2, 8, 100, 64)
    """

    def __init__(
        self,
        num_buckets: int,
        max_distance: int,
        num_heads: int,
        bidirectional: bool = True,
        *,
        dtype: DTypeLike = np.float32,
        rng: Seed = None,
    ) -> None:
        name = "RelativePositionBias"
        _sides(name, num_buckets, max_distance, bidirectional)
        self._buckets = int(num_buckets), int(max_distance), bool(bidirectional)
        shape = (self._buckets[0], _checks.size(name, "num_heads", num_heads))
        self._parameters = {"weight": initial(shape, shape[1], rng, _checks.layer_dtype(name, dtype))}

    def __call__(self, queries: int, keys: int, *, query_offset: int | None = None) -> Array:
        """What is added to logits, for `bias` of scaled_dot_product_attention.

        Args:
            queries, keys: how many there are, 0 or more.
            query_offset: the position of query 0, key 0 standing at 0. None: the last query stands at the last key.

        Returns:
            (1, H, queries, keys), read-only: a view of H (queries + keys) numbers.

        Raises:
            ValueError: queries or keys is negative or not an integer.
            TypeError: query_offset is not an integer.
        """
        name = "RelativePositionBias"
        queries, keys = _checks.count(name, "queries", queries), _checks.count(name, "keys", keys)
        offset = keys - queries if query_offset is None else query_offset
        first = 1 - queries - int(_checks.integers(name, "query_offset", offset, (), "a scalar"))
        table = self.by_distance(first, first + queries + keys)  # one more than there are: none is no special case
        return by_distance(table, max(0, queries - 1), queries, keys)[None]

    def by_distance(self, first: int, last: int) -> Array:
        """(H, last - first), contiguous: what is added to logits of keys first ... last - 1 after the query.

        Example:
            >>> position_bias = RelativePositionBias(32, 128, 8)
            >>> position_bias.by_distance(-2, 3).shape  # from 2 keys before the query to 2 after it
            (8, 5)
        """
        buckets = relative_position_buckets(np.arange(first, last), *self._buckets)
        return np.ascontiguousarray(self._parameters["weight"][buckets].T)
