"""Rotary positions: pairs of features that turn with the position."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from pyattn import _checks
from pyattn._checks import Array
from pyattn._core import rowwise
from pyattn._module import Layer
from pyattn._namespaces import in_namespace
from pyattn._threads import threads_for
from pyattn.positional.scaling import BY_LENGTH, frequencies_for, rope_type


def rotary_tables(
    length: int,
    width: int,
    *,
    base: float = 10000.0,
    scaling: Mapping[str, Any] | None = None,
    offset: int = 0,
    sequence_length: int | None = None,
    dtype: DTypeLike = np.float32,
) -> tuple[Array, Array]:
    """Cosines and sines of the angles by which rotary positions turn pairs of features.

    RoFormer, Su et al. 2021 (arXiv:2104.09864), section 3.2.2: position p turns pair i of a head by
    p / base^(2i / width). Computed in float64.

    Args:
        length: number of positions, 0 or more.
        width: features of a head that turn, even.
        base: longest wavelength over 2 pi, positive.
        scaling: for sequences longer than those of the training, as rotary_frequencies has it.
        offset: the first position, 0 or more.
        sequence_length: that of the whole sequence, on which "dynamic" and "longrope" depend. None: offset + length.
        dtype: float32 or float64.

    Returns:
        Cosines and sines, each (length, width / 2).

    Raises:
        TypeError, ValueError: as rotary_frequencies; length or offset is negative or no integer; dtype is unsupported.

    Example:
        >>> cosines, sines = rotary_tables(3, 4)
        >>> sines.round(4)
        array([[0.    , 0.    ],
               [0.8415, 0.01  ],
               [0.9093, 0.02  ]], dtype=float32)
    """
    name = "rotary_tables"
    length, offset = _checks.count(name, "length", length), _checks.count(name, "offset", offset)
    whole = offset + length if sequence_length is None else sequence_length
    frequencies, factor = frequencies_for(name, width, base, scaling, whole)
    dtype = _checks.layer_dtype(name, dtype)
    angles = np.empty((length, len(frequencies)))  # first: arange of nearly 2^63 numbers has none
    np.multiply(np.arange(offset, offset + length)[:, None], frequencies, out=angles)
    return (factor * np.cos(angles)).astype(dtype), (factor * np.sin(angles)).astype(dtype)


@in_namespace
def rotary_embedding(
    x: Array,
    cosines: Array,
    sines: Array,
    positions: ArrayLike | None = None,
    *,
    interleaved: bool = False,
    num_heads: int | None = None,
) -> Array:
    """Queries or keys turned by rotary positions.

    RoFormer, Su et al. 2021 (arXiv:2104.09864), equation 34: the pair (a, b) of features of a head becomes
    (a cos - b sin, b cos + a sin), as in ONNX's RotaryEmbedding. A head's features after twice the tables' width stay.

    Args:
        x: (..., H, L, D), (L, D) or, with num_heads, (..., L, H D); float32, float64, float16 or bfloat16, any strides.
        cosines, sines: (n, width / 2), or (..., L, width / 2) with the axes in front of x's heads, row l for position l
            of the sequence; real floating. width is at most D.
        positions: integers that broadcast to (..., L), axes as in front of x's heads: rows of (n, width / 2) tables.
            None: 0 ... L - 1.
        interleaved: features 2 i and 2 i + 1 are a pair (the article, GPT-J); otherwise i and i + width / 2 (Llama).
        num_heads: None, or H for heads that stand side by side.

    Returns:
        A new array of x's shape and dtype; computed in float32, or float64 for that.

    Raises:
        TypeError: a dtype is not supported; positions are not integers.
        ValueError: shapes do not fit; a position is negative or beyond the tables.

    Example:
        >>> cosines, sines = rotary_tables(100, 64)
        >>> keys = np.ones((2, 8, 3, 64), np.float32)
        >>> rotary_embedding(keys, cosines, sines, [[5, 6, 7], [0, 1, 2]]).shape
        (2, 8, 3, 64)
    """
    return _rotated("rotary_embedding", x, cosines, sines, positions, interleaved, num_heads)


def _rotated(
    name: str, x: Array, cosines: Array, sines: Array, positions: ArrayLike | None, interleaved: bool, heads: int | None
) -> Array:
    (x,) = _checks.attention_arrays(name, x=x)
    batch, length, head_width = _layout(name, x, heads)
    interleaved = _checks.flag(name, "interleaved", interleaved)
    dtype = _checks.statistics_dtype(x.dtype)
    cosines, sines = _table(name, "cosines", cosines, dtype), _table(name, "sines", sines, dtype)
    half = cosines.shape[-1]
    if cosines.shape != sines.shape or 2 * half > head_width:
        raise ValueError(
            f"{name}: cosines and sines have shapes {cosines.shape} and {sines.shape}; the same is needed, and a last "
            f"axis of at most {head_width // 2}, half of a head's features"
        )
    if cosines.ndim > 2 and positions is None:
        places = np.arange(math.prod(batch) * length).reshape(*batch, length)
        try:
            cosines, sines = (
                np.ascontiguousarray(np.broadcast_to(table, (*places.shape, half)).reshape(places.size, half))
                for table in (cosines, sines)
            )
        except ValueError:
            accepted = f"(n, width / 2), or what broadcasts to {places.shape} and width / 2"
            raise ValueError(f"{name}: cosines have shape {cosines.shape}; accepted: {accepted}") from None
    else:
        places = _places(name, positions, cosines, (*batch, length))
    if heads is None and x.ndim > 2:
        places = np.broadcast_to(places[..., None, :], x.shape[:-1])
    is_float16 = x.dtype == np.float16
    result = np.array(x, dtype if is_float16 else x.dtype, order="C")
    rows = result.reshape(places.size, -1 if places.size else 0)
    if _checks.is_bfloat16(x.dtype):
        rows = rows.view(np.uint16)
    places = np.ascontiguousarray(places, np.int64).reshape(-1)
    rowwise.rotate(rows, places, cosines, sines, threads_for(4.0 * x.size), head_width, interleaved)
    return result.astype(x.dtype) if is_float16 else result


def _layout(name: str, x: Array, num_heads: int | None) -> tuple[tuple[int, ...], int, int]:
    """The axes in front of the heads, L and D."""
    heads = 1 if num_heads is None else _checks.size(name, "num_heads", num_heads)
    if x.ndim < 2 or x.shape[-1] % heads:
        alone = "(..., H, L, D), (L, D) or, with num_heads, (..., L, H D)"
        accepted = alone if num_heads is None else f"(..., L, H D), H = num_heads = {heads}"
        raise ValueError(f"{name}: x has shape {x.shape}; accepted: {accepted}")
    return x.shape[: -3 if num_heads is None else -2], x.shape[-2], x.shape[-1] // heads


def _table(name: str, key: str, table: Any, dtype: np.dtype[Any]) -> Array:
    table = _checks.real_array(name, key, table)
    if table.ndim < 2:
        raise ValueError(f"{name}: {key} has shape {table.shape}; (n, width / 2) or (..., L, width / 2) is needed")
    return np.ascontiguousarray(table, dtype)


def _places(name: str, positions: ArrayLike | None, table: Array, shape: tuple[int, ...]) -> Array:
    """The row of each position, of the shape (..., L)."""
    if table.ndim > 2:
        raise ValueError(f"{name}: with positions, cosines and sines must be (n, width / 2), not {table.shape}")
    positions = np.arange(shape[-1]) if positions is None else positions
    places = _checks.integers(name, "positions", positions, shape, f"what broadcasts to {shape}")
    _checks.below(name, "positions", places, len(table), ", the tables' rows")
    return places


class RotaryEmbedding(Layer):
    """Rotary positions with tables that grow with the positions asked for. Without parameters.

    RoFormer, Su et al. 2021 (arXiv:2104.09864), section 3.2.2; width, base and scaling as in rotary_tables, interleaved
    as in rotary_embedding. For "dynamic" and "longrope" the sequence is as long as the largest position says.

    Example:
        >>> rotary = RotaryEmbedding(64, base=500000.0)
        >>> query = np.ones((2, 8, 3, 64), np.float32)
        >>> rotary(query, positions=[97, 98, 99]).shape
        (2, 8, 3, 64)
    """

    def __init__(
        self, width: int, *, base: float = 10000.0, scaling: Mapping[str, Any] | None = None, interleaved: bool = False
    ) -> None:
        name = "RotaryEmbedding"
        frequencies_for(name, width, base, scaling, None)
        self.interleaved = _checks.flag(name, "interleaved", interleaved)
        self._options: dict[str, Any] = {"width": int(width), "base": base, "scaling": scaling and dict(scaling)}
        self._by_length = rope_type(name, scaling or {}) in BY_LENGTH
        self._tables: dict[np.dtype[Any], tuple[Array, Array]] = {}

    @in_namespace
    def __call__(self, x: Array, *, positions: ArrayLike | None = None, num_heads: int | None = None) -> Array:
        """x turned: shapes, dtypes and errors as in rotary_embedding, positions any from 0 on."""
        name = "RotaryEmbedding"
        (x,) = _checks.attention_arrays(name, x=x)
        length = _layout(name, x, num_heads)[1]
        if positions is not None:
            positions = _checks.integers(name, "positions", positions)
            length = int(positions.max()) + 1 if positions.size else 0
        dtype = _checks.statistics_dtype(x.dtype)
        tables = self._tables.get(dtype)
        rows = 0 if tables is None else len(tables[0])
        if tables is None or rows < length or (self._by_length and rows != length):
            rows = length if self._by_length else max(length, 2 * rows)
            tables = self._tables[dtype] = rotary_tables(rows, dtype=dtype, **self._options)
        return _rotated(name, x, *tables, positions, self.interleaved, num_heads)
