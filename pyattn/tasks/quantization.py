"""Vectors in fewer bits, for searches in less memory, as sentence-transformers computes them."""

from typing import Any

import numpy as np

from pyattn import _checks
from pyattn._checks import Array

__all__ = ["quantize_embeddings"]

PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")
_SCALED = ("int8", "uint8")  # from the lowest and the highest value of each feature


def quantize_embeddings(
    embeddings: Any, precision: str, ranges: Any = None, calibration_embeddings: Any = None
) -> Array | list[Array]:
    """Embeddings with a number of 8 bits, or a single bit, for each feature.

    "uint8": clip(floor((x - lowest) / step), 0, 255) with step = (highest - lowest) / 255 of the feature, 1 where that
    is 0; "int8": 128 less. "ubinary": a bit that says whether x > 0, eight to a byte, the first one the highest;
    "binary": these bytes less 128. The bits are those of sentence_transformers.util.quantize_embeddings.

    Args:
        embeddings: (n, width) or (width,), float32, float64 or float16; or a list of such arrays, as a
            `MultiVectorEncoder` gives: they are quantised by the same ranges.
        precision: "float32", "int8", "uint8", "binary" or "ubinary".
        ranges: (2, width), the lowest and the highest value of each feature, for "int8" and "uint8"; None: those of the
            calibration_embeddings.
        calibration_embeddings: (m, width); None: the embeddings, of which at least two are needed then, and some
            hundred are better: later ones fit those that have been stored only if their ranges are the same.

    Returns:
        (n, width) or (width,), of the named dtype; for "binary" int8 and for "ubinary" uint8, with ceil(width / 8)
        bytes in place of the features; of a list, a list.

    Raises:
        TypeError: embeddings, ranges or calibration_embeddings are not of floating numbers.
        ValueError: the precision is unknown; shapes do not fit; ranges would be those of a single embedding, are not
            finite, or are given for a precision that has none; an embedding has a NaN.

    Example:
        >>> vectors = np.array([[0.1, -0.2], [0.5, 0.6], [-0.3, 0.2]], np.float32)
        >>> quantize_embeddings(vectors, "uint8")
        array([[127,   0],
               [255, 255],
               [  0, 127]], dtype=uint8)
        >>> quantize_embeddings(vectors, "ubinary").ravel()
        array([128, 192,  64], dtype=uint8)
    """
    name = "quantize_embeddings"
    _checks.choice(name, "precision", precision, PRECISIONS)
    if isinstance(embeddings, list) and embeddings and np.ndim(embeddings[0]) == 2:
        matrices = [_floats(name, f"embeddings[{i}]", x, (2,)) for i, x in enumerate(embeddings)]
        if len({x.shape[1] for x in matrices}) > 1:
            raise ValueError(f"{name}: embeddings have different widths")
        if precision in _SCALED and ranges is None and calibration_embeddings is None:
            calibration_embeddings = np.concatenate(matrices)
        ranges = checked_ranges(name, precision, ranges, calibration_embeddings, matrices[0])
        return [quantized(name, x, precision, ranges) for x in matrices]
    if isinstance(embeddings, list) and not embeddings:
        return []
    x = _floats(name, "embeddings", embeddings, (1, 2))
    return quantized(name, x, precision, checked_ranges(name, precision, ranges, calibration_embeddings, x))


def checked_ranges(function: str, precision: str, ranges: Any, calibration: Any, like: Array) -> Array | None:
    """ranges, or those of the calibration, for the features of `like`; None where none are needed, or can be had yet:
    those of the embeddings themselves."""
    given = {"ranges": ranges, "calibration_embeddings": calibration}
    names = [name for name, value in given.items() if value is not None]
    if precision not in _SCALED:
        if names:
            raise ValueError(f"{function}: {names[0]} are for precision int8 and uint8, not {precision!r}")
        return None
    if not names:
        return None
    if len(names) > 1:
        raise ValueError(f"{function}: ranges and calibration_embeddings are both given; one of them is accepted")
    x = _floats(function, names[0], given[names[0]], (2,))
    width = like.shape[-1]
    if x.shape[1] != width or not len(x) or (ranges is not None and len(x) != 2):
        needed = f"(2, {width})" if ranges is not None else f"(1 or more, {width})"
        raise ValueError(f"{function}: {names[0]} have shape {x.shape}; {needed} is needed")
    if ranges is None:
        if len(x) == 1:
            raise _single(function, precision)
        x = np.stack([x.min(0), x.max(0)])
    return _finite(function, names[0], x)


def quantized(function: str, x: Array, precision: str, ranges: Array | None) -> Array:
    """x (n, width) or (width,), floats, by ranges that are checked; None: its own."""
    if precision == "float32":
        return x.astype(np.float32, copy=False)
    if np.isnan(x).any():
        raise ValueError(f"{function}: an embedding has a NaN, for which precision {precision!r} has no number")
    if precision not in _SCALED:
        packed = np.packbits(x > 0, axis=-1)
        return packed if precision == "ubinary" else (packed - 128).astype(np.int8)
    kind = np.dtype(precision)
    if ranges is None:
        if x.ndim == 2 and not len(x):
            return np.zeros(x.shape, kind)
        refuse_single(function, precision, None, 1 if x.ndim == 1 else len(x))
        ranges = _finite(function, "embeddings", np.stack([x.min(0), x.max(0)]))
    lowest = ranges[0]
    steps = (ranges[1] - lowest) / 255
    steps[steps == 0] = 1
    with np.errstate(over="ignore"):  # beyond the ranges by far; it is cut
        values = np.clip(np.floor((x - lowest) / steps), 0, 255)
    return np.asarray(values - 128 if precision == "int8" else values).astype(kind)


def refuse_single(function: str, precision: str, ranges: Array | None, count: int) -> None:
    """Refuses to find ranges in one embedding."""
    if precision in _SCALED and ranges is None and count == 1:
        raise _single(function, precision)


def _single(function: str, precision: str) -> ValueError:
    return ValueError(f"{function}: {precision} needs ranges, which a single embedding does not tell; pass ranges=")


def _floats(function: str, name: str, x: Any, axes: tuple[int, ...]) -> Array:
    array: Array = _checks.real_array(function, name, x)
    if array.ndim not in axes:
        raise ValueError(f"{function}: {name} must have {' or '.join(map(str, axes))} axes, not shape {array.shape}")
    return array


def _finite(function: str, name: str, ranges: Array) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        ranges = ranges.astype(np.float32)
        fits = np.isfinite(ranges[1] - ranges[0]) & (ranges[1] >= ranges[0])
    if not fits.all():
        feature = int(np.argmin(fits))
        seen = f"from {ranges[0, feature]} to {ranges[1, feature]}"
        raise ValueError(f"{function}: {name} must be finite and ascend, but feature {feature} is {seen}")
    return ranges
