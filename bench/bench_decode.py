"""Decoding: one or a few queries over many keys, in GB/s of keys and values, each counted once.

The roofline is what the machine can read from memory, measured in the same run; keys and values that fit the cache can
be read faster. The peers take grouped heads in their own way; "torch folded" and OpenVINO get the queries of a group as
queries of their key head. Every answer is checked against the float64 reference before anything is timed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench import oracle
from bench.attention_peers import OPENVINO, ORT_ATTENTION, ORT_GQA, PYATTN, TORCH, TORCH_FOLDED
from bench.cases import Case
from bench.compare import compare_all, names_of_contenders
from bench.report import Goal, goals_as_results, goals_table, of_roofline, parse_options, table, write
from bench.roofline import peaks_line

PEERS = [PYATTN, TORCH, TORCH_FOLDED, ORT_ATTENTION, ORT_GQA, OPENVINO]

HEADS, KEYS, WIDTH = 32, 4096, 128
CASES = [
    Case(HEADS, 1, KEYS, WIDTH, dtype=dtype, batch=batch, key_heads=key_heads)
    for dtype in ("float32", "bfloat16", "float16")
    for batch in (1, 8)
    for key_heads in (HEADS, HEADS // 4)
] + [Case(HEADS, queries, KEYS, WIDTH, key_heads=key_heads) for queries in (4, 16) for key_heads in (HEADS, HEADS // 4)]

OF_ROOFLINE, OVER_TORCH = 0.85, 2.0  # the goals


def gbytes_per_s(case: Case, contender: dict[str, float]) -> float:
    return case.key_value_bytes / contender["best_s"] / 1e9


def decode_table(cases: Sequence[Case], results: Sequence[dict[str, Any]]) -> str:
    ours, *others = names_of_contenders(PEERS, results)
    rows = []
    for case, result in zip(cases, results, strict=True):
        speeds = {name: gbytes_per_s(case, contender) for name, contender in result["contenders"].items()}
        best = speeds[ours]
        fraction = of_roofline(result["contenders"][ours]["of_roofline"], result["bound"])
        row = [case.name, f"{case.key_value_bytes / 2**20:.0f}", f"{best:.1f}", fraction]
        rows.append(row + [f"{speeds[x]:.1f} {best / speeds[x]:5.2f}x" if x in speeds else "-" for x in others])
    return table(["case", "MiB", ours, "of roofline", *others], rows)


def goals(case: Case, contenders: dict[str, dict[str, float]]) -> list[Goal]:
    """Of one query a sequence."""
    if case.L > 1:
        return []
    ours, torch = contenders[PYATTN.name], contenders.get(TORCH.name, {"best_s": float("nan")})
    return [
        Goal(case.name, "of the roofline", ours["of_roofline"], OF_ROOFLINE),
        Goal(case.name, "times as fast as torch", torch["best_s"] / ours["best_s"], OVER_TORCH),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(__doc__, argv)
    cases = [case for case in CASES if case.batch == 1] if options.quick else CASES
    compared = compare_all(cases, PEERS, oracle.attention, options)
    found = []
    for case, result in zip(cases, compared["results"], strict=True):
        result["key_value_bytes"] = case.key_value_bytes
        found += goals(case, result["contenders"])
    print(decode_table(cases, compared["results"]))
    print("GB/s of keys and values in the best round, and how many times faster pyattn is.")
    print(peaks_line(compared["peaks"]))
    print(goals_table(found))
    write(options, "decode", {**compared, "goals": goals_as_results(found)})


if __name__ == "__main__":
    main()
