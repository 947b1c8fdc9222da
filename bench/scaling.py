"""What a machine of 64 cores in two NUMA nodes would make of measured rows, by the model of docs/scaling.md.

    T(P) = serial + sum over parts max(t_i / used_i(P), bytes_i / B_i(P)) + regions r(P)

    used_i(P) = turns_i / ceil(turns_i / P)        threads that a part with so many turns keeps busy
    B_i(P)    = min(used_i(P) b, nodes_i node)     b: of one core; node: of a node's memory; nodes_i: that hold the data
    r(P)      = r (P - 1), twice for the threads of another node

t_i are shares of the time on one thread; serial is what the times on one thread and on two leave by Amdahl's law; b, r
and these times are those of bench/results/threads.json, by `python -m bench --only threads`. r(P) is an upper bound: a
caller waits only for threads that took turns.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cases import BYTES
from bench.report import RESULTS, table

CORES, NODES = 64, 2
NODE_GBYTES_PER_S = 200.0  # two thirds of eight channels of DDR5-4800
PANEL, BLOCK, ROWS, SPLIT = 48, 48, 48, 1024  # outputs, queries and rows of a turn with AVX-512; keys of a split


@dataclass(frozen=True)
class Part:
    share: float  # of the time on one thread
    turns: int
    read_bytes: float = 0.0


@dataclass(frozen=True)
class Model:
    """A row: its name in the results, its parts, and how many parallel regions it has."""

    name: str
    parts: Sequence[Part]
    regions: int


@dataclass(frozen=True)
class Machine:
    core_bytes_per_s: float
    node_bytes_per_s: float
    region_s: float  # of one further thread


def products(width: int, layers: int, rows: int, dtype: str, logits: int = 0) -> list[Part]:
    """Queries, keys and values; the attention's output; the two of a feed-forward block: by their work."""
    sizes = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)] * layers
    sizes += [(logits, width)] * (logits > 0)
    total, blocks = sum(a * b for a, b in sizes), math.ceil(rows / ROWS)
    return [Part(a * b / total, blocks * math.ceil(a / PANEL), a * b * BYTES[dtype]) for a, b in sizes]


def steps(count: int, dtype: str) -> Model:
    once = products(768, 12, 1, dtype, 50257)
    parts = [Part(part.share / count, part.turns, part.read_bytes) for part in once * count]
    return Model(f"GPT-2's sizes, {count} steps, {dtype}", parts, count * (12 * 5 + 1))


# Regions of a layer: four products and attention, and two norms unless rows are few; of weights of fewer bits, one more
# before each product whose rows are not rounded by the caller, few as they are.
MODELS = [
    Model("attention 8 x 2048 x 2048 x 64", [Part(1.0, 8 * math.ceil(2048 / BLOCK))], 1),
    Model("attention 32 x 1 x 4096 x 128", [Part(1.0, 32 * 4096 // SPLIT, 2 * 32 * 4096 * 128 * 4)], 2),
    Model("attention 32/8 x 1 x 4096 x 128", [Part(1.0, 8 * 4096 // SPLIT, 2 * 8 * 4096 * 128 * 4)], 2),
    Model("linear 2048 x 384 x 1536", [Part(1.0, math.ceil(2048 / ROWS) * 1536 // PANEL)], 1),
    Model("linear 13 x 384 x 1536", [Part(1.0, 1536 // PANEL)], 1),
    Model("MiniLM, 128 paragraphs, float32", products(384, 6, 3500, "float32"), 6 * 7),
    Model("MiniLM, one sentence, float32", products(384, 6, 14, "float32"), 6 * 5),
    Model("MiniLM, one sentence, int8", products(384, 6, 14, "int8"), 6 * 6),
    steps(16, "float32"),
    steps(16, "bfloat16"),
]


def used(turns: int, threads: int) -> float:
    return turns / math.ceil(turns / threads)


def region_seconds(machine: Machine, threads: int) -> float:
    near = CORES // NODES
    return machine.region_s * (min(threads, near) - 1 + 2 * max(0, threads - near))


def serial_seconds(model: Model, machine: Machine, one: float, two: float) -> float:
    """From t(2) = serial + (t(1) - serial) / 2 + the regions of two threads; noise may make it less than nothing. None
    where two threads already take most of their time to read: what they lack there is bandwidth."""
    if sum(part.read_bytes for part in model.parts) / (2 * machine.core_bytes_per_s) > two / 3:
        return 0.0
    return min(one, max(0.0, 2 * (two - model.regions * region_seconds(machine, 2)) - one))


def seconds(model: Model, machine: Machine, one: float, serial: float, threads: int, nodes: int) -> float:
    """With so many threads, and data on so many nodes."""
    total = serial + model.regions * region_seconds(machine, threads)
    for part in model.parts:
        busy = used(part.turns, threads)
        bandwidth = min(busy * machine.core_bytes_per_s, nodes * machine.node_bytes_per_s)
        total += max((one - serial) * part.share / busy, part.read_bytes / bandwidth)
    return total


def least(model: Model, machine: Machine, one: float, serial: float) -> int:
    """The number of threads that takes the least time, where data lies on the first node."""
    return min(range(1, CORES + 1), key=lambda threads: seconds(model, machine, one, serial, threads, 1))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS / "threads.json", help="%(default)s")
    parser.add_argument("--node-gbytes-per-s", type=float, default=NODE_GBYTES_PER_S, help="%(default)s")
    given = parser.parse_args(argv)
    print(model_table(json.loads(given.results.read_text()), given.node_gbytes_per_s))


def model_rows(found: dict[str, Any], node_gbytes_per_s: float = NODE_GBYTES_PER_S) -> list[list[str]]:
    """Of each model that was measured: its serial part, and the speedups over one thread."""
    core = found["peaks"]["1"]["read_gbytes_per_s"]
    machine = Machine(1e9 * core, 1e9 * node_gbytes_per_s, found["region_s"])
    measured = {row["name"]: (row["before_s"], row["now_s"]) for row in found["results"]}
    rows = []
    for model in MODELS:
        if model.name not in measured:
            continue
        one, two = measured[model.name]
        serial = serial_seconds(model, machine, one, two)
        cases = [(CORES // NODES, 1), (CORES, 1), (CORES, NODES)]
        speedups = [f"{one / seconds(model, machine, one, serial, *case):.1f}" for case in cases]
        best = least(model, machine, one, serial)
        rows.append([model.name, f"{serial / one:.1%}", f"{one / two:.2f}", *speedups, f"{best}"])
    return rows


HEADER = ["", "serial", "2, measured", "32, one node", "64", "64, data on both nodes", "fastest with"]


def model_table(found: dict[str, Any], node_gbytes_per_s: float) -> str:
    return table(HEADER, model_rows(found, node_gbytes_per_s))


if __name__ == "__main__":
    main()
