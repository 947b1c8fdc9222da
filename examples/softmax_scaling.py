"""Why attention divides by the square root of d: without it the softmax saturates, and gradients vanish.

Vaswani et al. 2017 (arXiv:1706.03762), section 3.2.1 with its footnote 4: of queries and keys whose numbers have mean 0
and variance 1, dot products have variance d. Here such ones meet 256 keys, scaled and unscaled. For each width d, the
entropy of the weights, the largest weight, and the norm of the logits' gradient for a random gradient of the output, in
the mean over rows and in the median row. NumPy and pyattn alone: attention_statistics, and the gradient of a mask that
is added, which is that of the logits.

    python -m examples.softmax_scaling [--quick]     # a minute; also writes softmax_scaling.png

Full run:

| d; scaled / unscaled | entropy | largest weight | mean gradient | median gradient |
| --- | --- | --- | --- | --- |
| 1 | 5.08 / 5.08 | 0.046 / 0.046 | 0.77 / 0.77 | 0.61 / 0.61 |
| 4 | 5.08 / 4.03 | 0.042 / 0.16 | 0.76 / 1.3 | 0.69 / 1.1 |
| 16 | 5.03 / 1.86 | 0.045 / 0.5 | 0.79 / 2 | 0.75 / 1.8 |
| 64 | 5.05 / 0.738 | 0.043 / 0.75 | 0.77 / 1.6 | 0.74 / 1.1 |
| 256 | 5.06 / 0.332 | 0.043 / 0.87 | 0.78 / 0.97 | 0.74 / 0.21 |
| 1024 | 5.05 / 0.155 | 0.043 / 0.94 | 0.78 / 0.52 | 0.75 / 0.0048 |

The article is right, with an addition: at first larger logits have larger gradients, and the mean over rows falls
slowly, as the few rows in which two keys compete keep theirs. But from d = 64 on an unscaled row in the middle has one
key that takes nearly all, and at 1,024 less than a hundredth of its gradient is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import pyattn
from examples.report import Options, Table, finish, parse_options

WIDTHS = (1, 4, 16, 64, 256, 1024)
KEYS, ROWS, VALUE_WIDTH = 256, 4096, 64
QUICK_ROWS = 64


@dataclass(frozen=True)
class Softness:
    """Means over all rows of weights."""

    width: int
    scaled: bool
    entropy: float  # nats; log(KEYS) where all weights are the same
    largest: float
    gradient: float  # norm of a row of the logits' gradient, for an output gradient of independent normal numbers
    median_gradient: float  # of that norm, no mean


def softness(width: int, scaled: bool, rows: int) -> Softness:
    rng = np.random.default_rng(width)
    query, key = (rng.standard_normal((1, 1, n, width), dtype=np.float32) for n in (rows, KEYS))
    value, grad = (rng.standard_normal((1, 1, n, VALUE_WIDTH), dtype=np.float32) for n in (KEYS, rows))
    scale = width**-0.5 if scaled else 1.0
    told = pyattn.attention_statistics(query, key, scale=scale, entropy=True, top_k=1)
    zeros = np.zeros((rows, KEYS), np.float32)
    out, lse = pyattn.scaled_dot_product_attention(query, key, value, zeros, scale=scale, return_lse=True)
    grads = pyattn.attention_backward(grad, query, key, value, out, lse, zeros, scale=scale, also=("mask",))
    norms = np.linalg.norm(grads.mask, axis=-1)
    entropy, largest, gradient = (float(x.mean()) for x in (told.entropy, told.top_weights, norms))
    return Softness(width, scaled, entropy, largest, gradient, float(np.median(norms)))


def draw(found: Sequence[Softness], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(10, 4), dpi=100, layout="constrained")
    titles = {"median_gradient": "norm of the logits' gradient, median row", "entropy": "entropy of the weights, nats"}
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        for scaled, colour, label in ((True, "#0072B2", "q . k / sqrt(d)"), (False, "#D55E00", "q . k")):
            points = [(x.width, getattr(x, name)) for x in found if x.scaled == scaled]
            axes.plot(*zip(*points, strict=True), color=colour, marker="o", label=label)
        axes.set_xscale("log", base=4)
        axes.set_xticks(WIDTHS, [str(width) for width in WIDTHS])
        axes.set_yscale("log" if name == "median_gradient" else "linear")
        axes.set_xlabel("width d of queries and keys", loc="left")
        axes.set_title(title, loc="left", fontsize=11)
        axes.grid(axis="y", color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, loc="lower left")
    figure.savefig(path)
    pyplot.close(figure)


def run(options: Options) -> list[Softness]:
    rows = QUICK_ROWS if options.quick else ROWS
    return [softness(width, scaled, rows) for width in WIDTHS for scaled in (True, False)]


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(__doc__, argv)
    pyattn.set_num_threads(options.threads)
    found = run(options)
    rows = []
    for scaled, unscaled in zip(found[::2], found[1::2], strict=True):
        told = [
            f"{getattr(scaled, name):.{digits}g} / {getattr(unscaled, name):.{digits}g}"
            for name, digits in (("entropy", 3), ("largest", 2), ("gradient", 2), ("median_gradient", 2))
        ]
        rows.append([str(scaled.width), *told])
    table = Table(["d; scaled / unscaled", "entropy", "largest weight", "mean gradient", "median gradient"], rows)
    finish("softmax_scaling", options, table, {"found": [asdict(x) for x in found]})
    if options.out is not None:
        draw(found, options.out / "softmax_scaling.png")


if __name__ == "__main__":
    main()
