"""Positions that are added to tokens: sinusoidal and learned ones."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from pyattn import _checks
from pyattn._checks import Array
from pyattn._module import Layer, Seed, initial
from pyattn._namespaces import in_namespace


def sinusoidal_encoding(
    length: int,
    width: int,
    *,
    base: float = 10000.0,
    halves: bool = False,
    endpoint: bool = False,
    dtype: DTypeLike = np.float32,
) -> Array:
    """The sinusoidal position encoding of the founding article, or one of its two variations.

    Vaswani et al. 2017 (arXiv:1706.03762), section 3.5: PE[pos, 2i] = sin(pos / base^(2i / width)) and
    PE[pos, 2i + 1] = cos(pos / base^(2i / width)). An odd width ends with a sine. Computed in float64.

    The article's own code, tensor2tensor, has halves and endpoint, and so have Whisper and M2M-100; Marian halves only.

    Args:
        length: number of positions, 0 or more.
        width: number of features, 0 or more.
        base: longest wavelength over 2 pi, positive.
        halves: all sines stand in front of all cosines.
        endpoint: the longest wavelength is 2 pi base itself: the angles of the n sines are pos / base^(i / (n - 1)).
        dtype: float32 or float64.

    Returns:
        (length, width), to be added to token embeddings.

    Raises:
        ValueError: length or width is negative or not an integer, base is not positive and finite.
        TypeError: dtype is not supported, an option is not True or False.

    Example:
        >>> sinusoidal_encoding(2, 4).round(4)
        array([[0.    , 1.    , 0.    , 1.    ],
               [0.8415, 0.5403, 0.01  , 1.    ]], dtype=float32)
        >>> sinusoidal_encoding(2, 4, base=100.0, halves=True, endpoint=True).round(4)
        array([[0.    , 0.    , 1.    , 1.    ],
               [0.8415, 0.01  , 0.5403, 1.    ]], dtype=float32)
    """
    name = "sinusoidal_encoding"
    length, width = _checks.count(name, "length", length), _checks.count(name, "width", width)
    base = _checks.positive(name, "base", base)
    halves, endpoint = _checks.flag(name, "halves", halves), _checks.flag(name, "endpoint", endpoint)
    dtype = _checks.layer_dtype(name, dtype)
    return waves(np.arange(length), width, base, halves, endpoint, dtype)


def waves(places: Array, width: int, base: float, halves: bool, endpoint: bool, dtype: np.dtype[Any]) -> Array:
    """sinusoidal_encoding of checked arguments, and of any places (n,)."""
    sines = (width + 1) // 2
    exponents = np.arange(sines) / max(1, sines - 1) if endpoint else np.arange(0, width, 2) / max(1, width)
    angles = places[:, None] / base**exponents
    encoding = np.empty((len(places), width), dtype)
    first, second = (encoding[:, :sines], encoding[:, sines:]) if halves else (encoding[:, 0::2], encoding[:, 1::2])
    first[...] = np.sin(angles)
    second[...] = np.cos(angles[:, : width // 2])
    return encoding


class LearnedPositionalEmbedding(Layer):
    """One learned vector for each position: Gehring et al. 2017 (arXiv:1705.03122), section 3.1; BERT's and GPT's.

    Parameter `weight` (num_positions, width), as torch's nn.Embedding names it, of dtype: float32 or float64.

    Example:
        >>> embedding = LearnedPositionalEmbedding(512, 384)
        >>> embedding(np.arange(7)).shape
        (7, 384)
    """

    def __init__(self, num_positions: int, width: int, *, dtype: DTypeLike = np.float32, rng: Seed = None) -> None:
        name = "LearnedPositionalEmbedding"
        shape = (_checks.size(name, "num_positions", num_positions), _checks.size(name, "width", width))
        self._parameters = {"weight": initial(shape, width, rng, _checks.layer_dtype(name, dtype))}

    @in_namespace
    def __call__(self, positions: Any) -> Array:
        """The vectors (..., width) of integer positions (...).

        Raises:
            TypeError: positions are not integers.
            ValueError: a position is negative or num_positions or more.
        """
        name, weight = "LearnedPositionalEmbedding", self._parameters["weight"]
        positions = _checks.integers(name, "positions", positions)
        _checks.below(name, "positions", positions, len(weight))
        vectors: Array = np.take(weight, positions, axis=0)
        return vectors
