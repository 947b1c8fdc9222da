"""Encodings of positions."""

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from pyattn import _checks
from pyattn._checks import Array
from pyattn.layers.base import Layer, Seed, initial


def sinusoidal_encoding(length: int, width: int, *, base: float = 10000.0, dtype: DTypeLike = np.float32) -> Array:
    """The sinusoidal position encoding of the founding article.

    Vaswani et al. 2017 (arXiv:1706.03762), section 3.5: PE[pos, 2i] = sin(pos / base^(2i / width)) and
    PE[pos, 2i + 1] = cos(pos / base^(2i / width)). An odd width ends with a sine. Computed in float64.

    Args:
        length: number of positions, 0 or more.
        width: number of features, 0 or more.
        base: longest wavelength over 2 pi, positive.
        dtype: float32 or float64.

    Returns:
        (length, width), to be added to token embeddings.

    Raises:
        ValueError: length or width is negative or not an integer, base is not positive and finite.
        TypeError: dtype is not supported.

    Example:
        >>> sinusoidal_encoding(2, 4).round(4)
        array([[0.    , 1.    , 0.    , 1.    ],
               [0.8415, 0.5403, 0.01  , 1.    ]], dtype=float32)
    """
    for name, x in (("length", length), ("width", width)):
        if isinstance(x, bool) or not isinstance(x, int | np.integer) or x < 0:
            raise ValueError(f"sinusoidal_encoding: {name} must be an integer, 0 or more, not {x!r}")
    if not isinstance(base, int | float | np.floating) or not 0 < base < np.inf:
        raise ValueError(f"sinusoidal_encoding: base must be positive and finite, not {base!r}")
    dtype = _checks.layer_dtype("sinusoidal_encoding", dtype)
    even = np.arange(0, width, 2)
    angles = np.arange(length)[:, None] / base ** (even / max(1, width))
    encoding = np.empty((length, width), dtype)
    encoding[:, 0::2] = np.sin(angles)
    encoding[:, 1::2] = np.cos(angles[:, : width // 2])
    return encoding


def rotary_tables(
    length: int, width: int, *, base: float = 10000.0, dtype: DTypeLike = np.float32
) -> tuple[Array, Array]:
    """Cosines and sines of the angles by which rotary positions turn pairs of features.

    RoFormer, Su et al. 2021 (arXiv:2104.09864), section 3.2.2: position p turns pair i of a head by
    p / base^(2i / width). Computed in float64.

    Args:
        length: number of positions, 0 or more.
        width: features of a head, even.
        base: longest wavelength over 2 pi, positive.
        dtype: float32 or float64.

    Returns:
        Cosines and sines, each (length, width / 2).

    Raises:
        ValueError: length is negative or not an integer, width is odd, base is not positive and finite.
        TypeError: dtype is not supported.

    Example:
        >>> cosines, sines = rotary_tables(3, 4)
        >>> sines.round(4)
        array([[0.    , 0.    ],
               [0.8415, 0.01  ],
               [0.9093, 0.02  ]], dtype=float32)
    """
    if isinstance(width, int | np.integer) and width % 2:
        raise ValueError(f"rotary_tables: width must be even, not {width}")
    encoding = sinusoidal_encoding(length, width, base=base, dtype=dtype)
    return np.ascontiguousarray(encoding[:, 1::2]), np.ascontiguousarray(encoding[:, 0::2])


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
    distance = _checks.integers(name, "relative_position", relative_position, None, "")
    sides = 2 if bidirectional else 1
    if _checks.size(name, "num_buckets", num_buckets) < 2 * sides:
        raise ValueError(f"{name}: num_buckets must be at least {2 * sides}, not {num_buckets}")
    count = num_buckets // sides
    exact = count // 2
    if _checks.size(name, "max_distance", max_distance) <= exact:
        raise ValueError(f"{name}: max_distance must be above {exact} for {num_buckets} buckets, not {max_distance}")
    # no farther than the last bucket begins, in integers that have room for both signs
    distance = np.clip(
        distance.astype(np.float64) if distance.dtype == np.uint64 else distance.astype(np.int64),
        -max_distance,
        max_distance,
    ).astype(np.int64)
    away = np.abs(distance) if bidirectional else np.maximum(-distance, 0)
    # In float32, as the models were trained: distances at the border of two buckets fall on the same side.
    ratio = np.log(np.maximum(away, 1).astype(np.float32) / np.float32(exact))
    wide = ratio / np.float32(math.log(max_distance / exact)) * np.float32(count - exact)
    far = np.minimum(exact + wide.astype(np.int64), count - 1)
    upper = np.where(distance > 0, count, 0) if bidirectional else 0
    return np.asarray(upper + np.where(away < exact, away, far), np.int64)


def interpolate_positions(positions: Array, height: int, width: int, *, antialias: bool = False) -> Array:
    """A learned grid of positions resized to another, as vision Transformers do for images of other sizes.

    Bicubic convolution, Keys 1981 (doi:10.1109/TASSP.1981.1163711), corners not aligned, as torch's
    interpolate(mode="bicubic") has it: a = -0.75 with borders repeated; if antialias, a = -0.5, widened where the grid
    becomes smaller, without what is beyond the borders. Computed in float64.

    Args:
        positions: (old height, old width, E), float32 or float64.
        height, width: of the grid that is wanted.
        antialias: which of the two.

    Returns:
        (height, width, E), of the dtype of positions.

    Raises:
        TypeError: positions is not of a supported dtype.
        ValueError: positions has not three axes; a size is not a positive integer.

    Example:
        >>> grid = np.arange(4, dtype=np.float32).reshape(2, 2, 1)
        >>> interpolate_positions(grid, 4, 2)[:, 0, 0]
        array([-0.2109375,  0.453125 ,  1.546875 ,  2.2109375], dtype=float32)
    """
    name = "interpolate_positions"
    (positions,) = _checks.floating(name, positions=positions)
    if positions.ndim != 3 or 0 in positions.shape:
        raise ValueError(f"{name}: positions has shape {positions.shape}; (height, width, E) is needed")
    sizes = _checks.size(name, "height", height), _checks.size(name, "width", width)
    weights = _antialiased if _checks.flag(name, "antialias", antialias) else _bicubic
    rows, columns = (weights(old, new) for old, new in zip(positions.shape, sizes, strict=False))
    resized: Array = np.einsum("ai,bj,ijc->abc", rows, columns, positions, optimize=True).astype(positions.dtype)
    return resized


def _bicubic(old: int, new: int) -> Array:
    """The matrix (new, old) that resamples along one axis."""
    place = (np.arange(new) + 0.5) * (old / new) - 0.5
    first = np.floor(place).astype(int)
    matrix = np.zeros((new, old))
    for offset in range(-1, 3):
        weights = _cubic(place - (first + offset), -0.75)
        np.add.at(matrix, (np.arange(new), np.clip(first + offset, 0, old - 1)), weights)
    return matrix


def _antialiased(old: int, new: int) -> Array:
    place = (np.arange(new)[:, None] + 0.5) * (old / new) - 0.5
    matrix = _cubic((np.arange(old) - place) / max(1.0, old / new), -0.5)
    weights: Array = matrix / matrix.sum(axis=1, keepdims=True)
    return weights


def _cubic(x: Array, a: float) -> Array:
    """Keys' equation 15."""
    x = np.abs(x)
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, (((x - 5) * x + 8) * x - 4) * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


class LearnedPositionalEmbedding(Layer):
    """One learned vector for each position: Gehring et al. 2017 (arXiv:1705.03122), section 3.1; BERT's and GPT's.

    Parameter `weight` (num_positions, width), as torch's nn.Embedding names it.

    Example:
        >>> embedding = LearnedPositionalEmbedding(512, 384)
        >>> embedding(np.arange(7)).shape
        (7, 384)
    """

    def __init__(self, num_positions: int, width: int, *, rng: Seed = None) -> None:
        name = "LearnedPositionalEmbedding"
        shape = (_checks.size(name, "num_positions", num_positions), _checks.size(name, "width", width))
        self._parameters = {"weight": initial(shape, width, rng)}

    def __call__(self, positions: Any) -> Array:
        """The vectors (..., width) of integer positions (...).

        Raises:
            TypeError: positions are not integers.
            ValueError: a position is negative or num_positions or more.
        """
        weight = self._parameters["weight"]
        positions = _checks.array("LearnedPositionalEmbedding", "positions", positions)
        if positions.dtype.kind not in "iu":
            raise TypeError(f"LearnedPositionalEmbedding: positions must be integers, not {positions.dtype}")
        if positions.size and not 0 <= positions.min() <= positions.max() < len(weight):
            raise ValueError(
                f"LearnedPositionalEmbedding: positions {positions.min()} ... {positions.max()} are outside "
                f"0 ... {len(weight) - 1}"
            )
        vectors: Array = np.take(weight, positions, axis=0)
        return vectors
