"""Positions in a grid, such as the patches of an image."""

import math

import numpy as np
from numpy.typing import DTypeLike

from pyattn import _checks
from pyattn._checks import Array
from pyattn._module import Layer, Seed, initial
from pyattn._namespaces import in_namespace
from pyattn.positional.absolute import waves


def sinusoidal_grid_encoding(
    height: int, width: int, features: int, *, form: str = "mae", base: float = 10000.0, dtype: DTypeLike = np.float32
) -> Array:
    """Sinusoidal positions in two dimensions: one half of the features tells the row, the other the column.

    Each half is the encoding of Vaswani et al. 2017 (arXiv:1706.03762), section 3.5; the two forms are those of the
    code of Masked Autoencoders, He et al. 2021 (arXiv:2111.06377), and of DETR, Carion et al. 2020 (arXiv:2005.12872),
    appendix A.4. Computed in float64.

    Args:
        height, width: of the grid, 0 or more.
        features: a multiple of 4.
        form: "mae" has the column first, sines in front of cosines, and counts from 0. "detr" has the row first, sines
            and cosines in turn, and positions 2 pi (i + 1) / (n + 1e-6), n the size of the grid.
        base: longest wavelength over 2 pi, positive.
        dtype: float32 or float64.

    Returns:
        (height, width, features); reshaped to (height * width, features) it is added to patches in order of rows.

    Raises:
        ValueError: a size, features, form or base is none of these.
        TypeError: dtype is not supported.

    Example:
        >>> sinusoidal_grid_encoding(2, 2, 4).round(4)[1]
        array([[0.    , 1.    , 0.8415, 0.5403],
               [0.8415, 0.5403, 0.8415, 0.5403]], dtype=float32)
    """
    name = "sinusoidal_grid_encoding"
    sizes = _checks.count(name, "height", height), _checks.count(name, "width", width)
    if _checks.count(name, "features", features) % 4:
        raise ValueError(f"{name}: features must be a multiple of 4, not {features}")
    mae = _checks.choice(name, "form", form, ("mae", "detr")) == "mae"
    base = _checks.positive(name, "base", base)
    dtype = _checks.layer_dtype(name, dtype)
    half = features // 2
    encoding = np.empty((*sizes, features), dtype)
    row, column = (encoding[..., half:], encoding[..., :half]) if mae else (encoding[..., :half], encoding[..., half:])
    for size, part, axis in zip(sizes, (row, column), (1, 0), strict=True):
        places = np.arange(size) if mae else 2 * math.pi * np.arange(1, size + 1) / (size + 1e-6)
        part[...] = np.expand_dims(waves(places, half, base, halves=mae, endpoint=False, dtype=dtype), axis)
    return encoding


@in_namespace
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
    (positions,) = _checks.attention_arrays(name, with_16_bits=False, positions=positions)
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


class LearnedPositionalGrid(Layer):
    """One learned vector for each place of a grid, resized for grids of other sizes.

    Dosovitskiy et al. 2020 (arXiv:2010.11929), sections 3.1 and 3.2.

    Parameter `weight` (height, width, features), float32 or float64. antialias: as in interpolate_positions.

    Example:
        >>> grid = LearnedPositionalGrid(14, 14, 384)
        >>> grid(16, 20).shape
        (320, 384)
    """

    def __init__(
        self,
        height: int,
        width: int,
        features: int,
        *,
        antialias: bool = False,
        dtype: DTypeLike = np.float32,
        rng: Seed = None,
    ) -> None:
        name = "LearnedPositionalGrid"
        sizes = {"height": height, "width": width, "features": features}
        shape = tuple(_checks.size(name, key, value) for key, value in sizes.items())
        self.antialias = _checks.flag(name, "antialias", antialias)
        self._parameters = {"weight": initial(shape, shape[-1], rng, _checks.layer_dtype(name, dtype))}

    def __call__(self, height: int, width: int) -> Array:
        """The vectors (height * width, features) of a grid, row after row.

        Raises:
            ValueError: a size is not a positive integer.
        """
        weight = self._parameters["weight"]
        sizes = tuple(_checks.size("LearnedPositionalGrid", *pair) for pair in (("height", height), ("width", width)))
        grid = weight if sizes == weight.shape[:2] else interpolate_positions(weight, *sizes, antialias=self.antialias)
        return grid.reshape(-1, weight.shape[-1]).copy()
