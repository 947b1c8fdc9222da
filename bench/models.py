"""What the benchmarks of whole models share: contenders in several precisions, timed over several workloads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bench.apart import AllApart, Apart, Calls
from bench.cases import BYTES
from bench.peers import Peer
from bench.report import Row, of_roofline, row_of
from bench.roofline import Peaks, Work, roof
from bench.timing import Timing, interleave

Key = tuple[str, str]  # a contender's name and its precision
OURS = "pyattn"


def start(
    contenders: AllApart[Key],
    peers: Mapping[Peer, Sequence[str]],
    make: Callable[..., Calls],
    model: Path,
    threads: int,
) -> None:
    """Each peer in each of its precisions: ``make(peer.prepare, model, threads, precision)``."""
    import pyattn

    for peer, precisions in peers.items():
        for precision in precisions:
            if precision == "bfloat16" and not peer.ours and precision not in pyattn.info()["dot_products"]:
                print(f"{peer.name} bfloat16 is left out: some take minutes without instructions for it")
                continue
            contenders[peer.name, precision] = Apart(threads)
            contenders[peer.name, precision].make(make, peer.prepare, model, threads, precision)


def timings(contenders: AllApart[Key], names: Iterable[str], rounds: int, title: str) -> dict[str, dict[Key, Timing]]:
    """Of the contenders' calls of each name."""
    calls = {name: {key: partial(contender.seconds, name) for key, contender in contenders.items()} for name in names}
    with tqdm(total=rounds * len(calls), unit="round", desc=title, disable=None) as progress:
        return {name: interleave(each, progress, rounds=rounds) for name, each in calls.items()}


def described(found: Mapping[Key, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What a result file holds of the contenders."""
    return {" ".join(key): {"name": key[0], "precision": key[1], **x} for key, x in found.items()}


def judged(
    timed: Mapping[str, Mapping[Key, Timing]], work: Callable[[str, str], Work | Sequence[Work]], peaks: Peaks
) -> tuple[dict[Key, dict[str, Any]], list[Row]]:
    """What is to be said of each contender's calls, by workload, and our rows; work is of workload and precision."""
    found: dict[Key, dict[str, Any]] = {}
    rows = []
    for name, timings in timed.items():
        for key, timing in timings.items():
            limit = roof(work(name, key[1]), peaks)
            row = row_of(f"{name}, {key[1]}", timing, limit, _others(key, timings))
            found.setdefault(key, {})[name] = asdict(row)
            rows += [row] * (key[0] == OURS)
    return found, rows


def _others(key: Key, timings: Mapping[Key, Timing]) -> dict[str, float]:
    """For one of ours, the peers of the same precision, beside our bfloat16 those of float32 too."""
    weights = key[1].partition(" ")[0]
    precisions = {"bfloat16": ("bfloat16", "float32")}.get(weights, (weights,))
    peers = {x: timing.best_s for x, timing in timings.items() if x[0] != OURS and x[1] in precisions}
    return {" ".join(x): best for x, best in peers.items()} if key[0] == OURS else {}


def judged_cells(calls: Mapping[str, Any], workload: str) -> list[str]:
    """Under "of roofline" and "of the best peer": "-" for a peer."""
    call = calls[workload]
    over = f"{call['over_best_peer']:.2f}x" if call["over_best_peer"] else "-"
    return [of_roofline(call["of_roofline"], call["bound"]), over]


JUDGED = ["of roofline", "of the best peer"]
BYTES_IN_CACHE = {"float32": 4, "bfloat16": 2, "int8": 2}  # of a key's or value's number


def encoder_work(
    tokens: int, pairs: float, width: int, layers: int, precision: str, more_flops: float = 0.0, more_weights: int = 0
) -> Work:
    """Of a Transformer's layers, feed-forward blocks four times as wide as the rest: products of tokens, attention over
    pairs of a query and a key, weights read once. Attention of int8 weights is in bfloat16."""
    weights = layers * 12 * width**2
    flops = {precision: 2.0 * tokens * weights + more_flops}
    attention = "bfloat16" if precision == "int8" else precision
    flops[attention] = flops.get(attention, 0.0) + 4.0 * layers * width * pairs
    return Work(flops, (weights + more_weights) * BYTES[precision])
