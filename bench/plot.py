"""Time and memory of attention against the sequence length: pyattn, plain NumPy and the installed peers.

Writes attention.png, and the numbers in it as scaling.json. Contenders that store the scores stop where those would
pass 4 GiB. Memory is measured in a fresh process a point.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bench import oracle
from bench.apart import AllApart, Apart
from bench.attention_peers import ATTENTION
from bench.cases import SCALING
from bench.compare import QUICK_FLOPS, QUICK_ROUNDS, compare
from bench.memory import MIB, extra_bytes, in_fresh_process
from bench.peers import installed, limit_threads
from bench.report import Options, environment, parse_options, table, write

ROUNDS = 5

# The Okabe-Ito palette, which colour-blind readers can tell apart.
COLOURS = {
    "pyattn": "#D55E00",
    "numpy": "#000000",
    "torch": "#0072B2",
    "ort Attention": "#E69F00",
    "ort MHA": "#009E73",
    "openvino": "#CC79A7",
    "jax": "#56B4E9",
}

# Resident memory comes in pages and is counted in batches of them: below this there is nothing to see.
SMALLEST_BYTES = 2**16

# A line: its points, (length, value) with the length rising.
Lines = dict[str, list[tuple[int, float]]]


def measure(options: Options) -> list[dict[str, Any]]:
    """The compared cases, with "extra_bytes" added to each contender."""
    peers = {peer.name: peer for peer in installed(ATTENTION)}
    cases = [case for case in SCALING if not options.quick or case.flops <= QUICK_FLOPS]
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    results = []
    with AllApart() as contenders, tqdm(total=len(cases) * (rounds + 1), unit="round", disable=None) as progress:
        contenders |= {peer: Apart(options.threads) for peer in peers.values()}
        for case in cases:
            result = compare(case, contenders, oracle.attention, options, rounds, progress)
            for name, contender in result["contenders"].items():
                progress.set_postfix_str(f"memory of {name}")
                contender["extra_bytes"] = in_fresh_process(extra_bytes, peers[name], case, options.threads)
            progress.update()
            results.append(result)
    return results


def lines(results: Sequence[dict[str, Any]], quantity: str, unit: float) -> Lines:
    """The contenders' ``quantity`` in multiples of ``unit``, against the length."""
    found: Lines = {}
    for result in results:
        for name, contender in result["contenders"].items():
            found.setdefault(name, []).append((result["L"], contender[quantity] / unit))
    return found


def draw(results: Sequence[dict[str, Any]], threads: int, path: Path) -> None:
    """Write the picture of both quantities."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    first = results[0]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 5), dpi=100, layout="constrained")
    _panel(left, lines(results, "best_s", 1e-3), "time of a call, milliseconds")
    memory = lines(results, "extra_bytes", MIB)
    visible = {name: [(x, max(y, SMALLEST_BYTES / MIB)) for x, y in points] for name, points in memory.items()}
    _panel(right, visible, "memory beyond inputs and output, MiB")
    figure.suptitle(f"Exact attention, {first['heads']} heads of width {first['D']}, float32, {threads} threads")
    figure.savefig(path)
    pyplot.close(figure)


def _panel(axes: Any, curves: Lines, title: str) -> None:
    from matplotlib import ticker

    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    for name, points in curves.items():
        ours = name == "pyattn"
        axes.plot(*zip(*points, strict=True), color=COLOURS[name], linewidth=3 if ours else 1.5, zorder=2 + ours)
    lengths = sorted({x for points in curves.values() for x, _ in points})
    axes.set_xlim(lengths[0], lengths[-1] * 5)  # room for the labels
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.set_xlabel("sequence length", loc="left")
    axes.set_title(title, loc="left", fontsize=11)
    axes.grid(axis="y", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    _label_ends(axes, curves)


def _label_ends(axes: Any, curves: Lines) -> None:
    """Name each line beside its end, moved up as far as it takes to clear the label below; early ends, above them."""
    spacing = 0.05  # in heights of the panel
    to_panel = axes.transData + axes.transAxes.inverted()
    last = max(points[-1][0] for points in curves.values())
    free = 0.0
    for name, points in sorted(curves.items(), key=lambda item: item[1][-1][1]):
        x, y = to_panel.transform(points[-1])
        style = {
            "color": COLOURS[name],
            "weight": "bold" if name == "pyattn" else "normal",
            "transform": axes.transAxes,
        }
        if points[-1][0] < last:
            axes.text(x, y + 0.01, name, ha="right", va="bottom", **style)
        else:
            y = max(y, free)
            free = y + spacing
            axes.text(x + 0.015, y, name, va="center", **style)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(__doc__, argv)
    limit_threads(options.threads)
    results = measure(options)
    contenders = [peer for peer in ATTENTION if peer.name in results[0]["contenders"]]
    rows = [
        [peer.name, f"{result['L']}", f"{found['best_s'] * 1e3:.2f}", f"{found['extra_bytes'] / MIB:.1f}"]
        for peer in contenders
        for result in results
        if (found := result["contenders"].get(peer.name))
    ]
    print(table(["contender", "length", "ms", "extra MiB"], rows))
    write(options, "scaling", {"environment": environment(options, contenders), "results": results})
    if options.out is not None:
        draw(results, options.threads, options.out / "attention.png")


if __name__ == "__main__":
    main()
