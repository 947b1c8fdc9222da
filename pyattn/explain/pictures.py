"""Pictures of weights beside what they belong to: a text, an image, a sound, a long document."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from pyattn import _checks
from pyattn._checks import Array
from pyattn.explain.blocks import starts
from pyattn.explain.drawing import (
    BLUE,
    COLOUR_MAP,
    ORANGE,
    POINTS,
    axes_for,
    below,
    fitting,
    labels,
    name_tokens,
    numbers,
)
from pyattn.statistics import AttentionStatistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROUNDING = 1e-3  # by which computed weights may pass 1, and sums of them 0
MOST_POINTS = 512  # of a line along a document
NAMED = 5  # keys that receive most


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
        alpha: how much the highest value covers, from 0 to 1; the lowest covers nothing.
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


def plot_along(
    statistics: AttentionStatistics,
    *,
    head: int | None = None,
    tokens: Sequence[str] | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """What happens along a document of any length: the attention that each key receives, and each query's entropy.

    Received weights, above, have a logarithmic scale: a few tokens receive much of all attention. They sum to the
    number of queries, so that 1 is an even share. Entropy, below, is 0 where a query attends to one key, and ln n where
    it attends to all n alike. Of more than 512 tokens, the line shows means of as many blocks of neighbours. A band
    reaches from the lowest to the highest value of these, and of all heads.

    Args:
        statistics: of a sequence that attends to itself, such as `Attended.statistics(entropy=True, received=True)`.
        head: which one is shown; None: the mean over all.
        tokens: the n words or pieces; the five that receive most are named, or all where these can be read.
        ax: Axes of matplotlib to draw into; None: those of a new figure, `ax.figure`, which pyplot does not know.

    Returns:
        The axes of the received weights; those of the entropy are `ax.child_axes[0]`.

    Raises:
        TypeError, ValueError: statistics are none, lack received or entropy, or have other axes than (H, n); head is
            none of theirs; tokens are no strings, or not as many as keys; ax is none.
        ImportError: matplotlib is missing: pip install "pyattn[plot]".

    Example:
        >>> import numpy as np, pyattn, pyattn.explain
        >>> query, key = np.random.default_rng(0).standard_normal((2, 4, 2000, 16), dtype=np.float32)
        >>> told = pyattn.attention_statistics(query, key, entropy=True, received=True)
        >>> axes = pyattn.explain.plot_along(told)
        >>> len(axes.lines[0].get_xdata())
        512
    """
    name = "plot_along"
    received, entropy = _told(name, statistics, head)
    length = received.shape[1]
    names = None if tokens is None else labels(name, "tokens", tokens, length, "keys")
    ax = axes_for(name, ax, (8.0, 4.2))

    breadth = below(ax, 0.45)
    panels = (
        (ax, received, "received", 1.0, "even share"),
        (breadth, entropy, "entropy, nats", np.log(length), "ln n"),
    )
    for panel, values, meaning, bound, called in panels:
        _along(panel, values)
        panel.axhline(bound, color="0.4", linewidth=0.8, linestyle="--")
        panel.text(
            1.005, bound, called, transform=panel.get_yaxis_transform(), fontsize=POINTS, color="0.4", va="center"
        )
        panel.set_xlim(-0.5, length - 0.5)
        panel.set_ylabel(meaning, fontsize=POINTS + 1)
        panel.tick_params(labelsize=POINTS)
        panel.spines[["top", "right"]].set_visible(False)
    ax.set_title(_explained(*received.shape), loc="left", fontsize=POINTS + 1)
    ax.set_yscale("log")
    ax.set_ylim(*_decades(received))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.tick_params(bottom=False, labelbottom=False)
    breadth.set_ylim(0, 1.1 * max(float(entropy.max()), np.log(length), 0.1))
    breadth.set_xlabel("token", fontsize=POINTS + 1)
    is_readable = names is not None and length <= fitting(breadth.xaxis)
    name_tokens(breadth.xaxis, names if is_readable else None, range(length))
    if names is not None and not is_readable:
        _name_highest(ax, received.mean(axis=0), names)
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


def _told(function: str, statistics: Any, head: Any) -> list[Array]:
    """What keys received, and the entropy of queries, of the heads that are shown: (H, n)."""
    if not isinstance(statistics, AttentionStatistics):
        raise TypeError(
            f"{function}: statistics must be what attention_statistics returns, not {type(statistics).__name__}"
        )
    if lacking := [name for name in ("received", "entropy") if getattr(statistics, name) is None]:
        raise ValueError(
            f"{function}: statistics lack {' and '.join(lacking)}, which attention_statistics gives when it is asked"
        )
    told = [
        numbers(function, f"statistics.{x}", getattr(statistics, x), "(H, n)", least=-ROUNDING)
        for x in ("received", "entropy")
    ]
    heads, length = told[0].shape
    if (queries := told[1].shape[1]) != length:
        raise ValueError(
            f"{function}: statistics are of {queries} queries and {length} keys; both must be one document's"
        )
    if head is None:
        return told
    place = _checks.count(function, "head", head, 0, heads - 1)
    return [values[place : place + 1] for values in told]


def _along(panel: "Axes", values: Array) -> None:
    """The mean of (H, n) in blocks of neighbours, and a band from the lowest to the highest."""
    bounds = np.array(starts(values.shape[1], MOST_POINTS))
    places = (bounds[:-1] + bounds[1:] - 1) / 2
    lowest = np.minimum.reduceat(values.min(axis=0), bounds[:-1])
    highest = np.maximum.reduceat(values.max(axis=0), bounds[:-1])
    means = np.add.reduceat(values.mean(axis=0), bounds[:-1]) / np.diff(bounds)
    panel.fill_between(places, lowest, highest, color=BLUE, alpha=0.25, linewidth=0)
    panel.plot(places, means, color=BLUE, linewidth=1)


def _explained(heads: int, length: int) -> str:
    over = [f"{heads} heads"] * (heads > 1) + [f"neighbours, {MOST_POINTS} blocks of them"] * (length > MOST_POINTS)
    return f"line: the mean over {' and '.join(over)}; band: from the lowest to the highest" if over else ""


def _decades(received: Array) -> tuple[float, float]:
    """The limits of a logarithmic scale: around 1, and no more than five decades below it."""
    seen = received[received > 0]
    return max(1e-5, min(0.1, float(seen.min(initial=1)) / 1.5)), max(10.0, float(seen.max(initial=1)) * 3)


def _name_highest(ax: "Axes", values: Array, names: Sequence[str]) -> None:
    """Names at the highest values, as far apart as they have to be to be read."""
    room = len(values) / 12
    chosen: list[int] = []
    for i in np.argsort(-values, kind="stable").tolist():
        if all(abs(i - other) >= room for other in chosen):
            chosen.append(i)
        if len(chosen) == NAMED:
            break
    for i in chosen:
        ax.annotate(
            names[i],
            (i, values[i]),
            xytext=(0, 8),
            textcoords="offset points",
            ha="left" if i < room else "right" if i >= len(values) - room else "center",
            fontsize=POINTS,
            color=ORANGE,
            arrowprops={"arrowstyle": "-", "color": ORANGE, "linewidth": 0.8},
            parse_math=False,
        )
