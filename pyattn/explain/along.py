"""What happens along a document of any length."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyattn import _checks
from pyattn._checks import Array
from pyattn.explain.blocks import starts
from pyattn.explain.drawing import (
    BLUE,
    ORANGE,
    POINTS,
    ROUNDING,
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

MOST_POINTS = 512  # of a line
NAMED = 5  # keys that receive most


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
    it attends to all n alike. Of more than 512 tokens, the line shows means of blocks of neighbours, no more. A band
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
        500
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
    blocks = len(starts(length, MOST_POINTS)) - 1
    over = [f"{heads} heads"] * (heads > 1) + [f"neighbours, {blocks} blocks of them"] * (blocks < length)
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
