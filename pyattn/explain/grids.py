"""Grids of matrices of weights: the heads of a layer, and all heads of all layers."""

import math
from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from pyattn import _checks
from pyattn._checks import Array
from pyattn.explain.attended import Attended
from pyattn.explain.blocks import block_means
from pyattn.explain.drawing import COLOUR_MAP, POINTS, figure_for, labels, longest, name_tokens, numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

WIDEST = 10.0  # inches of a new figure
ROOM = 0.15  # inches for a token
FLATTEST = 3  # how much longer one side of a matrix may be before its cells are no squares
MOST_BLOCKS = 1024


def plot_heads(
    weights: ArrayLike,
    tokens: Sequence[str] | None = None,
    key_tokens: Sequence[str] | None = None,
    *,
    titles: Sequence[str] | None = None,
    columns: int | None = None,
    figure: "Figure | SubFigure | None" = None,
) -> "Figure":
    """The heads of one layer side by side: queries go down, keys to the right, and bright is much.

    All heads share one scale. Its colours follow the weight's square root: most weights are small.

    Args:
        weights: (H, L, S), as `Attended.weights` gives them, or sums of them, as `attention_statistics(pooled=)` does.
        tokens: the L words or pieces that are the queries; None: their numbers. Where not all can be read, some are
            left out at even distances.
        key_tokens: the S of the keys; None: tokens, where there are as many queries as keys.
        titles: of the H heads; None: their numbers.
        columns: how many heads stand in a row; None: about as many as there are rows.
        figure: a Figure or SubFigure of matplotlib to draw into; None: a new one, which pyplot does not know.

    Returns:
        The figure; that of a SubFigure.

    Raises:
        TypeError, ValueError: weights have other axes, or are negative or not finite; tokens, key_tokens or titles are
            no strings, or not as many as there are; columns is no positive integer; figure is none.
        ImportError: matplotlib is missing: pip install "pyattn[plot]".

    Example:
        >>> import numpy as np, pyattn.explain
        >>> weights = np.eye(3)[None] * [[[0.9]], [[0.5]]] + np.array([0.05, 0.25])[:, None, None]
        >>> figure = pyattn.explain.plot_heads(weights, ["a", "small", "cat"])
        >>> [axes.get_title() for axes in figure.axes]
        ['head 0', 'head 1', '']
        >>> figure.savefig("heads.png")  # doctest: +SKIP
    """
    name = "plot_heads"
    weights = numbers(name, "weights", weights, "(H, L, S)")
    heads, queries, keys = weights.shape
    rows = None if tokens is None else labels(name, "tokens", tokens, queries, "queries")
    tops = rows if queries == keys else None
    if key_tokens is not None:
        tops = labels(name, "key_tokens", key_tokens, keys, "keys")
    names = [f"head {i}" for i in range(heads)] if titles is None else labels(name, "titles", titles, heads, "heads")
    columns = _columns(heads) if columns is None else min(heads, _checks.size(name, "columns", columns))
    lines = math.ceil(heads / columns)
    width = max(1.5, min(WIDEST / columns, ROOM * keys if tops else 2.2))
    is_square = keys <= FLATTEST * queries and queries <= FLATTEST * keys
    height = width * queries / keys if is_square else max(0.8, min(width, ROOM * queries if rows else 1.5))
    inches = columns * (width + 0.1) + 1.2 + longest(rows), lines * (height + 0.3) + 0.3 + longest(tops)
    drawn = figure_for(name, figure, inches, "compressed" if is_square else "constrained")

    norm = _norm(weights.max())
    panels = drawn.subplots(lines, columns, squeeze=False).ravel()
    for axes in panels[heads:]:
        axes.remove()
    panels = panels[:heads]
    for i, (axes, head, title) in enumerate(zip(panels, weights, names, strict=True)):
        image = axes.imshow(head, norm=norm, cmap=COLOUR_MAP, aspect="equal" if is_square else "auto")
        axes.set_title(title, fontsize=POINTS + 1, pad=3, parse_math=False)
        axes.set(xticks=[], yticks=[])
        if i % columns == 0:
            name_tokens(axes.yaxis, rows, range(queries))
        if i + columns >= heads:
            name_tokens(axes.xaxis, tops, range(keys))
    _explain_colours(drawn, image, panels, "weight")
    drawn.supxlabel("key", fontsize=POINTS + 1)
    drawn.supylabel("query", fontsize=POINTS + 1)
    return drawn.figure


def plot_layers(
    seen: Sequence[Attended],
    sequence: int = 0,
    *,
    pooled: tuple[int, int] = (32, 32),
    heads: Sequence[int] | None = None,
    figure: "Figure | SubFigure | None" = None,
) -> "Figure":
    """All heads of all layers at a glance: a line of small matrices for each layer, a column for each head.

    In each matrix, queries go down and keys to the right, in blocks of neighbours: a cell is the share of a query's
    attention that all keys of its block get, in the mean over the block's queries. Weights are pooled as they are
    computed, in memory that grows with the text, not with its square: 100,000 tokens make a picture as well.

    Args:
        seen: what `watch` gave.
        sequence: which one of the call's.
        pooled: the most blocks of queries and of keys; a shorter text has a block for each token.
        heads: which are shown, in this order; None: all.
        figure: a Figure or SubFigure of matplotlib to draw into; None: a new one, which pyplot does not know.

    Returns:
        The figure; that of a SubFigure. Its first Axes have an image for each head, layer by layer.

    Raises:
        TypeError, ValueError: seen has no layers, or other things; sequence or heads are none of them, or the sequence
            is empty; pooled is no pair of integers from 1 to 1024; figure is none.
        ImportError: matplotlib is missing: pip install "pyattn[plot]".

    Example:
        >>> import numpy as np, pyattn, pyattn.explain
        >>> encoder = pyattn.TransformerEncoder(pyattn.TransformerEncoderLayer(32, 4, 64, rng=0), 2)
        >>> with pyattn.explain.watch(encoder) as seen:
        ...     out = encoder(np.ones((1, 1000, 32), np.float32))
        >>> (axes,) = pyattn.explain.plot_layers(seen, pooled=(16, 16)).axes[:1]
        >>> len(axes.images), axes.images[0].get_array().shape
        (8, (16, 16))
    """
    name = "plot_layers"
    shown = _heads_of(name, seen, heads)
    most = _checks.counts(name, "pooled", pooled, {"blocks of queries": MOST_BLOCKS, "blocks of keys": MOST_BLOCKS})
    for attended in seen:
        query, key, _ = attended.operands(sequence)
        if not (query.size and key.size):
            raise ValueError(f"{name}: sequence {sequence} is empty in {attended.layer}")
    grid = [block_means(x, sequence, (most[0], most[1]))[places] for x, places in zip(seen, shown, strict=True)]
    width = max(len(places) for places in shown)
    side = min(0.9, (WIDEST - 2) / width)
    drawn = figure_for(name, figure, (max(3.5, width * side + 2), max(1.8, len(seen) * side + 0.8)))

    axes = drawn.subplots()
    norm = _norm(max(matrix.max() for matrix in grid))
    for line, matrices in enumerate(grid):
        for column, matrix in enumerate(matrices):
            image = axes.imshow(matrix, norm=norm, cmap=COLOUR_MAP, extent=_cell(column, line))
    axes.set(xlim=(0, width), ylim=(len(seen), 0))
    numbered = [str(i) for i in max(shown, key=len)]
    for axis, names in ((axes.xaxis, numbered), (axes.yaxis, _short([attended.layer for attended in seen]))):
        name_tokens(axis, names, [i + 0.5 for i in range(len(names))])
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("head", fontsize=POINTS + 1)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    drawn.suptitle("queries go down, keys to the right", fontsize=POINTS + 1)
    _explain_colours(drawn, image, [axes], "share of a query's attention")
    return drawn.figure


def _columns(heads: int) -> int:
    """The least number, no less than that of lines, which leaves no gap; where that is far off, one with a gap."""
    least = math.ceil(math.sqrt(heads))
    return next((n for n in range(least, 2 * least) if heads % n == 0), least)


def _norm(most: float) -> Any:
    from matplotlib.colors import PowerNorm

    return PowerNorm(0.5, vmin=0, vmax=most or 1)


def _explain_colours(figure: "Figure | SubFigure", image: Any, panels: Any, meaning: str) -> None:
    bar = figure.colorbar(image, ax=list(panels), fraction=0.05, pad=0.02, aspect=30)
    bar.set_label(meaning, fontsize=POINTS + 1)
    bar.ax.tick_params(labelsize=POINTS)


def _heads_of(function: str, seen: Any, heads: Any) -> list[Array]:
    """The heads that are shown of each layer."""
    if not isinstance(seen, Sequence) or not all(isinstance(x, Attended) for x in seen):
        raise TypeError(f"{function}: seen must be what pyattn.explain.watch gives, a list of Attended")
    if not seen:
        raise ValueError(f"{function}: seen has no layers; they are those of a call within pyattn.explain.watch")
    if heads is None:
        return [np.arange(attended.heads) for attended in seen]
    places = _checks.indices(function, "heads", heads, min(attended.heads for attended in seen))
    if places.ndim != 1 or not places.size:
        raise _checks.wrong_shape(function, "heads", places, "(n,), n > 0")
    return [places] * len(seen)


def _cell(column: int, line: int) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of a matrix, with a gap around it."""
    gap = 0.04
    return column + gap, column + 1 - gap, line + 1 - gap, line + gap


def _short(names: Sequence[str]) -> list[str]:
    """Names of layers without what all of them end with, and, but for the last part of it, begin with.

    Where a layer was called more than once, its place in the list stands before.
    """
    parts = [name.split(".") for name in names]
    first, last = _shared(parts), _shared([x[::-1] for x in parts])
    short = [".".join(x[max(0, first - 1) : len(x) - last] or x) for x in parts]
    return short if len({*names}) == len(names) else [f"{i}: {name}" for i, name in enumerate(short)]


def _shared(parts: Sequence[Sequence[str]]) -> int:
    """How many parts all begin with."""
    return sum(1 for _ in takewhile(lambda same: len({*same}) == 1, zip(*parts, strict=False)))
