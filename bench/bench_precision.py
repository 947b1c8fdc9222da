"""Attention in 16 bits: pyattn in bfloat16 and float16, beside itself in float32, and the peers, in GFLOP/s.

OpenVINO runs on arrays of 16 bits and, as it does by default on float32 models, on float32 arrays; goals count the
faster. Every answer is checked against the float64 reference, of the rounded inputs, before anything is timed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bench import oracle
from bench.attention_peers import JAX, OPENVINO, OPENVINO_FLOAT32_INPUTS, ORT_ATTENTION, PYATTN, TORCH
from bench.cases import Case
from bench.compare import QUICK_FLOPS, compare_all, names_of_contenders, peer_cells
from bench.report import Goal, goals_as_results, goals_table, of_roofline, parse_options, table, write
from bench.roofline import peaks_line

PEERS = [PYATTN, TORCH, ORT_ATTENTION, OPENVINO, OPENVINO_FLOAT32_INPUTS, JAX]
DTYPES = ("bfloat16", "float16")

# The shapes, and which part of its roofline in bfloat16 each should reach, where the machine multiplies in it.
SHAPES: dict[Case, float | None] = {
    Case(8, 2048, 2048, 64): 0.76,
    Case(8, 2048, 2048, 128): 0.79,
    Case(12, 512, 512, 64): 0.65,
    Case(96, 128, 128, 64): 0.50,
    Case(8, 2048, 2048, 64, ("causal",)): None,
}
OVER_PEERS = {"bfloat16": {TORCH: 4.5, OPENVINO: 1.4}}


def in_float32(case: Case) -> dict[str, Case]:
    return {"float32": replace(case, dtype="float32")}


def over_peer(contenders: dict[str, dict[str, float]], peer: str) -> float:
    """pyattn's speed over the fastest contender's whose name begins with ``peer``; NaN if there is none."""
    speeds = [found["gflops"] for name, found in contenders.items() if name.startswith(peer)]
    return contenders[PYATTN.name]["gflops"] / max(speeds) if speeds else float("nan")


def over_float32(result: dict[str, Any]) -> float:
    return result["contenders"][PYATTN.name]["gflops"] / result["beside"]["float32"]["gflops"]


def goals(case: Case, result: dict[str, Any], part: float | None, peaks: dict[str, float]) -> list[Goal]:
    """Of one case: ``part`` of the roofline counts only where the machine multiplies in bfloat16."""
    contenders = result["contenders"]
    found = []
    if case.dtype == "bfloat16" and part is not None and "fma_gflops_bfloat16" in peaks:
        found.append(Goal(case.name, "of the roofline", contenders[PYATTN.name]["of_roofline"], part))
    for peer, bound in OVER_PEERS.get(case.dtype, {}).items():
        found.append(Goal(case.name, f"times as fast as {peer.name}", over_peer(contenders, peer.name), bound))
    if case.dtype == "float16":
        found.append(Goal(case.name, "times as fast as float32", over_float32(result), 1.0))
    return found


def precision_table(results: Sequence[dict[str, Any]]) -> str:
    ours, *others = names_of_contenders(PEERS, results)
    rows = []
    for result in results:
        contender = result["contenders"][ours]
        median = result["gflop"] / contender["median_s"]
        fraction = of_roofline(contender["of_roofline"], result["bound"])
        row = [result["case"], f"{contender['gflops']:.0f}", f"{median:.0f}", fraction]
        rows.append([*row, f"{over_float32(result):.2f}x", *peer_cells(result, others)])
    return table(["case", ours, "median", "of roofline", "over float32", *others], rows)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(__doc__, argv)
    shapes = [shape for shape in SHAPES if not options.quick or shape.flops <= QUICK_FLOPS]
    cases = {replace(shape, dtype=dtype): SHAPES[shape] for dtype in DTYPES for shape in shapes}
    compared = compare_all(list(cases), PEERS, oracle.attention, options, in_float32)
    peaks = compared["peaks"]
    found = [
        goal
        for (case, part), result in zip(cases.items(), compared["results"], strict=True)
        for goal in goals(case, result, part, peaks)
    ]
    print(precision_table(compared["results"]))
    print("GFLOP/s of useful work in the best round, and how many times faster pyattn is.")
    print(peaks_line(peaks))
    print(goals_table(found))
    write(options, "precision", {**compared, "goals": goals_as_results(found)})


if __name__ == "__main__":
    main()
