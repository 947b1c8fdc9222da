"""What all pictures share: checks of what is drawn, where it is drawn, and labels of tokens that can be read."""

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pyattn import _checks
from pyattn._checks import Array
from pyattn._extras import import_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.transforms import Bbox

COLOUR_MAP = "viridis"  # colour-blind readers and printers in grey tell its steps apart
BLUE, ORANGE = "#0072B2", "#D55E00"  # of Okabe and Ito, for the same reason
ROUNDING = 1e-3  # by which computed weights may pass 1, and sums of them 0
LONGEST_LABEL = 24  # characters
POINTS = 7  # the size of labels
LINE = 1.2  # of a label's size that it takes

# --- what is drawn


def numbers(function: str, name: str, x: Any, axes: str, least: float = 0, most: float = math.inf) -> Array:
    """x as an array with the axes that are named, such as "(L, S)", whose numbers are from `least` to `most`."""
    x = _checks.array(function, name, x)
    if not (x.dtype.kind in "iu" or _checks.is_real(x.dtype)):
        raise _checks.wrong_dtype(function, name, x, "real numbers are needed")
    if x.ndim != axes.count(",") + 1 or not x.size:
        raise _checks.wrong_shape(function, name, x, f"{axes}, none of them 0")
    result: Array = x.astype(np.float64 if x.dtype.itemsize > 2 and x.dtype != np.float32 else np.float32, copy=False)
    wrong = ~((result >= least) & (result <= most) & np.isfinite(result))
    if wrong.any():
        bounds = f" from {least:g}" * (least > -math.inf) + f" to {most:g}" * (most < math.inf)
        raise _checks.wrong_value(function, name, result, wrong, f"finite numbers{bounds}")
    return result


def labels(function: str, name: str, tokens: Any, count: int, meaning: str) -> list[str]:
    """As many strings, each as it can stand on one line."""
    if isinstance(tokens, str) or not isinstance(tokens, Sequence):
        raise TypeError(f"{function}: {name} must be a list of strings, not {type(tokens).__name__}")
    if wrong := [token for token in tokens if not isinstance(token, str)]:
        raise TypeError(f"{function}: {name} must be strings, not {type(wrong[0]).__name__}")
    if len(tokens) != count:
        raise ValueError(f"{function}: there are {len(tokens)} {name}, and {count} {meaning}")
    return [_label(token) for token in tokens]


def _label(token: str) -> str:
    shown = "".join(x if x.isprintable() else repr(x)[1:-1] for x in token)
    return shown if len(shown) <= LONGEST_LABEL else f"{shown[: LONGEST_LABEL - 1]}…"


# --- where it is drawn


def figure_for(
    function: str,
    figure: Any,
    inches: tuple[float, float],
    layout: Literal["constrained", "compressed"] = "constrained",
) -> "Figure | SubFigure":
    """The given figure, or a new one."""
    import_extra("matplotlib", function, "plot")
    from matplotlib.figure import Figure, SubFigure

    from pyattn.explain.figures import Picture

    if figure is None:
        return Picture(figsize=inches, layout=layout)
    if not isinstance(figure, Figure | SubFigure):
        raise TypeError(f"{function}: figure must be a Figure or SubFigure of matplotlib, not {type(figure).__name__}")
    return figure


def axes_for(function: str, ax: Any, inches: tuple[float, float]) -> "Axes":
    """The given axes, or those of a new figure."""
    import_extra("matplotlib", function, "plot")
    from matplotlib.axes import Axes

    if ax is None:
        return figure_for(function, None, inches).subplots()
    if not isinstance(ax, Axes):
        raise TypeError(f"{function}: ax must be Axes of matplotlib, not {type(ax).__name__}")
    return ax


def below(ax: "Axes", share: float) -> "Axes":
    """Axes in the lower share of ax's room, which ax leaves to them, whatever lays the figure out."""
    locator = partial(_upper_part, share=share)
    ax.set_axes_locator(locator)
    ax.apply_aspect(locator(ax, None))  # now, so that `name_tokens` knows the room
    return ax.inset_axes((0, -share / (1 - share), 1, share / (1 - share)))


def _upper_part(ax: "Axes", renderer: Any, share: float) -> "Bbox":
    from matplotlib.transforms import Bbox

    left, bottom, width, height = ax.get_position(original=True).bounds
    return Bbox.from_bounds(left, bottom + share * height, width, (1 - share) * height)


def fitting(axis: "Axis") -> int:
    """How many labels can be read beside one another, those of an x axis standing upright."""
    from matplotlib.axis import XAxis

    room = axis.axes.bbox
    inches = (room.width if isinstance(axis, XAxis) else room.height) / axis.axes.figure.dpi
    return max(1, int(inches * 72 / (POINTS * LINE)))


def longest(tokens: Sequence[str] | None) -> float:
    """Inches of the longest label."""
    return 0.25 if tokens is None else 0.6 * POINTS / 72 * max(map(len, tokens)) + 0.1


def name_tokens(axis: "Axis", tokens: Sequence[str] | None, places: Sequence[float]) -> None:
    """Ticks at the places: the tokens, or as many at even distances as there is room for; numbers for None.

    Those of an x axis stand upright, unless all are short.
    """
    from matplotlib.axis import XAxis
    from matplotlib.ticker import MaxNLocator

    axis.set_tick_params(labelsize=POINTS, length=2)
    if tokens is None:
        axis.set_major_locator(MaxNLocator(min(6, fitting(axis)), integer=True))
        return
    step = math.ceil(len(places) / fitting(axis))
    turned = 90 if isinstance(axis, XAxis) and max(map(len, tokens)) > 2 else 0
    axis.set_ticks(places[::step], tokens[::step], fontsize=POINTS, rotation=turned, parse_math=False)
