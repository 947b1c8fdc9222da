"""What each option of attention costs: the time of a call with it over the time of the plain call, in the same run.

Options that rule out pairs of a query and a key are also given as that ratio over the part of the pairs that is left:
1 would be a time in proportion to the useful work. "16 keys" is a sparse mask of so many random keys a query, which
torch also takes in its sparse matrices and, as PyTorch Geometric does, by gather and scatter. Peers take part where
they have the option or can express it as a mask. Every answer is checked against the float64 reference before anything
is timed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bench import oracle
from bench.attention_peers import JAX, OPENVINO, ORT_ATTENTION, ORT_MHA, PYATTN, TORCH, TORCH_GATHER, TORCH_SPARSE
from bench.cases import Case
from bench.compare import compare_all, names_of_contenders
from bench.options import ALL, title
from bench.report import Goal, goals_as_results, of_roofline, parse_options, table, write, yes

PLAIN = Case(8, 2048, 2048, 64)
QUICK_PLAIN = Case(8, 512, 512, 64)
PEERS = [PYATTN, TORCH, TORCH_SPARSE, TORCH_GATHER, ORT_ATTENTION, ORT_MHA, OPENVINO, JAX]

# The options of a call, and how long it may take as a multiple of the plain call's time.
GOALS: dict[tuple[str, ...], float] = {
    ("bias",): 1.10,
    ("head bias",): 1.10,
    ("mask",): 1.25,
    ("key mask",): 1.10,
    ("causal",): 1.10,
    ("offset", "causal"): 1.10,
    ("softcap",): 1.06,
    ("alibi",): 1.10,
    ("sinks",): 1.10,
    ("kv_lengths",): 1.10,
    ("lse",): 1.10,
    ("weights",): 1.10,
    ("window",): 0.15,
    ("left window",): 0.15,
    ("band mask",): 0.20,
    ("sparse mask",): 0.20,
    ("16 keys",): 3 * 16 / 2048,
    ("64 keys",): 3 * 64 / 2048,
    ("512 keys",): 3 * 512 / 2048,
    ALL: 1.25,
}


def plain(case: Case) -> Mapping[str, Case]:
    return {"plain": replace(case, options=())}


def ratio(result: dict[str, Any], quantity: str = "best_s") -> float:
    """pyattn's time over that of its plain call."""
    return result["contenders"][PYATTN.name][quantity] / result["beside"]["plain"][quantity]


def options_table(results: Sequence[dict[str, Any]], goals: Sequence[Goal]) -> str:
    ours, *others = names_of_contenders(PEERS, results)
    rows = []
    for result, goal in zip(results, goals, strict=True):
        contenders = result["contenders"]
        seconds = contenders[ours]["best_s"]
        live = result["live"]
        row = [
            title(result["options"]),
            f"{seconds * 1e3:.2f}",
            f"{goal.value:.2f}",
            f"{ratio(result, 'median_s'):.2f}",
            f"{goal.bound:.2f}",
            yes(goal.met),
            f"{live:.3f}" if live < 1 else "-",
            f"{goal.value / live:.2f}" if live < 1 else "-",
            of_roofline(contenders[ours]["of_roofline"], result["bound"]),
        ]
        times = [contenders[other]["best_s"] if other in contenders else None for other in others]
        rows.append(row + [f"{time * 1e3:.2f} {time / seconds:5.2f}x" if time else "-" for time in times])
    return table(
        ["option", "ms", "of plain", "median", "goal", "met", "live", "over live", "of roofline", *others], rows
    )


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(__doc__, argv)
    base = QUICK_PLAIN if options.quick else PLAIN
    cases = [replace(base, options=names) for names in GOALS]
    compared = compare_all(cases, PEERS, oracle.attention, options, plain)
    results = compared["results"]
    for case, result in zip(cases, results, strict=True):
        result["live"] = case.live_fraction
    goals = [
        Goal(result["case"], "time over plain", ratio(result), bound, at_most=True)
        for result, bound in zip(results, GOALS.values(), strict=True)
    ]
    print(options_table(results, goals))
    print(f"{base.name}. pyattn's best time, it and the median over the plain call's; then the peers' in ms, and how")
    print("many times faster pyattn is. Goals are for 'of plain'.")
    write(options, "options", {**compared, "goals": goals_as_results(goals)})


if __name__ == "__main__":
    main()
