"""Pictures of weights beside what they belong to: a text, an image, a sound."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from pyattn import _checks
from pyattn._checks import Array
from pyattn.explain.drawing import (
    BLUE,
    COLOUR_MAP,
    ORANGE,
    POINTS,
    ROUNDING,
    axes_for,
    below,
    labels,
    name_tokens,
    numbers,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_lines(
    weights: ArrayLike,
    tokens: Sequence[str],
    key_tokens: Sequence[str] | None = None,
    *,
    least: float = 0.05,
    ax: "Axes | None" = None,
) -> "Axes":
    """Queries at the left, keys at the right, and a line between two for its weight: the stronger, the more.

    Args:
        weights: (L, S) of one head, or of the mean over some.
        tokens: the L words or pieces that are the queries. Where not all can be read, some are left out.
        key_tokens: the S of the keys; None: tokens.
        least: the smallest weight that has a line, from 0 to 1.
        ax: Axes of matplotlib to draw into; None: those of a new figure, `ax.figure`, which pyplot does not know.

    Returns:
        The axes.

    Raises:
        TypeError, ValueError: weights have other axes, or are not from 0 to 1; tokens or key_tokens are no strings, or
            not as many as there are; least is out of range; ax is none.
        ImportError: matplotlib is missing: pip install "pyattn[plot]".

    Example:
        >>> import numpy as np, pyattn.explain
        >>> axes = pyattn.explain.plot_lines(np.array([[0.02, 0.98], [0.5, 0.5]]), ["a", "cat"])
        >>> len(axes.collections[0].get_segments())
        3
    """
    name = "plot_lines"
    weights = numbers(name, "weights", weights, "(L, S)", most=1 + ROUNDING)
    lefts = labels(name, "tokens", tokens, weights.shape[0], "queries")
    if key_tokens is not None:
        rights = labels(name, "key_tokens", key_tokens, weights.shape[1], "keys")
    else:
        rights = labels(name, "tokens", tokens, weights.shape[1], "keys; key_tokens names them")
    least = _checks.real(name, "least", least, 0, 1)
    longest = max(weights.shape)
    ax = axes_for(name, ax, (4.5, min(14.0, max(1.5, 0.19 * longest + 0.4))))
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_rgb

    places = np.argwhere((weights >= least) & (weights > 0))
    places = places[np.argsort(weights[tuple(places.T)], kind="stable")]  # the strongest lie above the others
    strengths = np.minimum(1, weights[tuple(places.T)])
    heights = [_spread(count, longest) for count in weights.shape]
    segments = [((0, heights[0][i]), (1, heights[1][j])) for i, j in places]
    colours = np.column_stack([np.tile(to_rgb(BLUE), (len(places), 1)), 0.15 + 0.85 * strengths])
    ax.add_collection(LineCollection(segments, linewidths=0.5 + 3.5 * strengths, colors=colours, capstyle="round"))
    ax.set(xlim=(0, 1), ylim=(longest - 0.5, -0.5), xticks=[])
    right = ax.inset_axes((0, 0, 1, 1), facecolor="none", ylim=ax.get_ylim(), xticks=[])
    right.yaxis.tick_right()
    for axis, names, ys in ((ax.yaxis, lefts, heights[0]), (right.yaxis, rights, heights[1])):
        name_tokens(axis, names, ys)
        axis.set_tick_params(length=0, pad=3)
    for spines in (ax.spines, right.spines):
        spines[:].set_visible(False)
    ax.set_title("query", loc="left", fontsize=POINTS + 1)
    ax.set_title("key", loc="right", fontsize=POINTS + 1)
    return ax


def plot_heat(
    image: ArrayLike,
    values: ArrayLike,
    *,
    label: str = "attention",
    alpha: float = 0.8,
    ax: "Axes | None" = None,
) -> "Axes":
    """An image, and over it how much each patch counts: the more, the brighter, and the less of the image is seen.

    Args:
        image: (h, w) in any units, or (h, w, 3), red, green and blue, integers from 0 to 255 or other numbers from 0
            to 1. Not what was made of it for a model, which has other units.
        values: (rows, columns), a number for each patch, such as a row of the weights without that of the class token,
            in the shape of the patches. They are stretched over the whole image.
        label: of the colours.
        alpha: how much the highest value covers, from 0 to 1; 0 covers nothing, or the lowest value where that is less.
        ax: Axes of matplotlib to draw into; None: those of a new figure, `ax.figure`, which pyplot does not know.

    Returns:
        The axes.

    Raises:
        TypeError, ValueError: image or values have other axes, or units, or are not finite; alpha is out of range;
            label is no string; ax is none.
        ImportError: matplotlib is missing: pip install "pyattn[plot]".

    Example:
        >>> import numpy as np, pyattn.explain
        >>> axes = pyattn.explain.plot_heat(np.zeros((28, 42, 3)), [[0.1, 0.2, 0.1], [0.1, 0.4, 0.1]])
        >>> [picture.get_extent() for picture in axes.images]
        [[-0.5, 41.5, 27.5, -0.5], [-0.5, 41.5, 27.5, -0.5]]
    """
    name = "plot_heat"
    shown = _image(name, image)
    values = numbers(name, "values", values, "(rows, columns)", least=-np.inf)
    alpha = _checks.real(name, "alpha", alpha, 0, 1)
    if not isinstance(label, str):
        raise TypeError(f"{name}: label must be a string, not {type(label).__name__}")
    height, width = shown.shape[:2]
    ax = axes_for(name, ax, (4.4, max(1.5, min(10.0, 3.6 * height / width))))

    under = ax.imshow(shown, cmap="gray")
    low, high = min(0.0, float(values.min())), float(values.max())
    covered = (values - low) / (high - low) if high > low else np.zeros_like(values)
    heat = ax.imshow(
        values,
        cmap=COLOUR_MAP,
        vmin=low,
        vmax=high,
        alpha=alpha * covered,
        extent=under.get_extent(),
        interpolation="nearest",
    )
    ax.set(xticks=[], yticks=[])
    bar = ax.figure.colorbar(heat, ax=ax, fraction=0.046, pad=0.03)
    bar.set_label(label, fontsize=POINTS + 1)
    bar.ax.tick_params(labelsize=POINTS)
    return ax


def plot_alignment(
    spectrogram: ArrayLike,
    weights: ArrayLike,
    tokens: Sequence[str],
    *,
    seconds: float | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Which part of a sound each token looks at: weights above, the spectrogram below, at one scale of time.

    A dot marks where a token's weight is largest, and a line there goes down through the spectrogram.

    Args:
        spectrogram: (bins, frames of it), `pyattn.audio.log_mel(...).T`.
        weights: (tokens, frames), of one head that aligns or of the mean over such; Whisper's generation_config.json
            names them in alignment_heads, and a token is aligned by the query that it follows. Frames may be fewer than
            the spectrogram's: both cover the same time.
        tokens: as many words or pieces.
        seconds: how long that is; None: time counts frames of the spectrogram.
        ax: Axes of matplotlib to draw into; None: those of a new figure, `ax.figure`, which pyplot does not know.

    Returns:
        The axes of the weights; those of the spectrogram are `ax.child_axes[0]`.

    Raises:
        TypeError, ValueError: spectrogram or weights have other axes, or are not finite; weights are negative; tokens
            are no strings, or not as many as weights; seconds is not positive; ax is none.
        ImportError: matplotlib is missing: pip install "pyattn[plot]".

    Example:
        >>> import numpy as np, pyattn.explain
        >>> weights = np.array([[0.8, 0.1, 0.1, 0.0], [0.0, 0.2, 0.1, 0.7]])
        >>> axes = pyattn.explain.plot_alignment(np.zeros((80, 400)), weights, ["go", "forward"], seconds=4)
        >>> axes.lines[0].get_xdata()  # the middle of each one's frame
        array([0.5, 3.5])
    """
    name = "plot_alignment"
    spectrogram = numbers(name, "spectrogram", spectrogram, "(bins, frames of the spectrogram)", least=-np.inf)
    weights = numbers(name, "weights", weights, "(tokens, frames)")
    names = labels(name, "tokens", tokens, len(weights), "rows of weights")
    duration = float(spectrogram.shape[1]) if seconds is None else _checks.positive(name, "seconds", seconds)
    count, frames = weights.shape
    ax = axes_for(name, ax, (8.0, min(14.0, 2.4 + 0.16 * count)))

    sound = below(ax, 0.35)
    ax.imshow(weights, extent=(0, duration, count - 0.5, -0.5), vmin=0, cmap=COLOUR_MAP, aspect="auto")
    sound.imshow(spectrogram, extent=(0, duration, 0, len(spectrogram)), origin="lower", cmap="gray_r", aspect="auto")
    peaks = (weights.argmax(axis=1) + 0.5) * duration / frames
    ax.plot(peaks, np.arange(count), "o", color="white", markeredgecolor=ORANGE, markersize=4, clip_on=False)
    sound.vlines(peaks, 0, len(spectrogram), color=ORANGE, linewidth=1)
    name_tokens(ax.yaxis, names, range(count))
    ax.set(xlim=(0, duration), xticks=[])
    sound.set(xlim=(0, duration), ylim=(0, len(spectrogram)), yticks=[])
    sound.tick_params(labelsize=POINTS)
    sound.set_xlabel("frame" if seconds is None else "seconds", fontsize=POINTS + 1)
    sound.set_ylabel("spectrogram", fontsize=POINTS + 1)
    return ax


def _image(function: str, image: Any) -> Array:
    """(h, w), or (h, w, 3) from 0 to 1."""
    x = _checks.array(function, "image", image)
    if x.ndim == 2:
        return numbers(function, "image", x, "(h, w)", least=-np.inf)
    if x.ndim != 3 or x.shape[2] != 3:
        raise _checks.wrong_shape(function, "image", x, "(h, w) and (h, w, 3)")
    most = 255 if x.dtype.kind in "iu" else 1
    return numbers(function, "image", x, "(h, w, 3)", most=most) / most


def _spread(count: int, room: int) -> list[float]:
    """The places of so many tokens, evenly over the room of more."""
    return [(i + 0.5) * room / count - 0.5 for i in range(count)]
