"""What the benchmarks of whole models share: contenders in several precisions, timed over several workloads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tqdm import tqdm

from bench.timing import Timed, Timing, interleave

Key = tuple[str, str]  # a contender's name and its precision
OURS = "pyattn"


def timings(calls: Mapping[str, Mapping[Key, Timed]], rounds: int, title: str) -> dict[str, dict[Key, Timing]]:
    """Of the contenders' calls for each workload."""
    with tqdm(total=rounds * len(calls), unit="round", desc=title, disable=None) as progress:
        return {name: interleave(each, progress, rounds=rounds) for name, each in calls.items()}


def described(found: Mapping[Key, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What a result file holds of the contenders."""
    return {" ".join(key): {"name": key[0], "precision": key[1], **x} for key, x in found.items()}


def of_best_peer(
    results: Mapping[str, Mapping[str, Any]], ours: Mapping[str, Any], speed: Callable[[Mapping[str, Any]], float]
) -> str:
    """Our speed over the fastest peer's of the same precision, or of float32 beside our bfloat16; "-" for a peer."""
    precisions = {"bfloat16": ("bfloat16", "float32")}.get(ours["precision"], (ours["precision"],))
    speeds = [speed(x) for x in results.values() if x["name"] != OURS and x["precision"] in precisions]
    return f"{speed(ours) / max(speeds):.2f}x" if speeds and ours["name"] == OURS else "-"
