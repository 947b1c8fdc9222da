"""Check every contender's answer on a case, then time them against one another."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from tqdm import tqdm

from bench.cases import Arrays, Case, LinearCase
from bench.peers import Call, Peer, installed, limit_threads
from bench.report import Options, environment, table, write
from bench.timing import ROUNDS, Timing, interleave, seconds

AnyCase = Case | LinearCase
# (case, arrays, rows) to the float64 truth of those rows; the case is of the benchmark's own kind.
Oracle = Callable[[Any, Arrays, np.ndarray], np.ndarray]

# Largest error allowed, over the largest magnitude of the answer. Who rounds float32 to bfloat16 is at 1e-2.
TOLERANCE = {"float32": 1e-5, "float64": 1e-13, "float16": 4e-3, "bfloat16": 2e-2}
CHECKED_ROWS = 32

QUICK_ROUNDS = 3
QUICK_FLOPS = 2.5e9

# Seconds that one contender may take of a case.
BUDGET = 10.0


def sample_rows(rows: int) -> np.ndarray:
    """The rows to check: all of a few, else the first, the last and a seeded sample."""
    if rows <= CHECKED_ROWS:
        return np.arange(rows)
    inner = np.random.default_rng(0).choice(np.arange(1, rows - 1), CHECKED_ROWS - 2, replace=False)
    return np.sort(np.append(inner, [0, rows - 1]))


def relative_error(answer: np.ndarray, truth: np.ndarray) -> float:
    """Largest error over the largest magnitude of ``truth``; NaN if the answer holds one."""
    return float(np.abs(answer - truth).max() / np.abs(truth).max())


class Checker:
    """Knows the truth of some rows of a case, and why an answer is not it."""

    def __init__(self, case: AnyCase, oracle: Oracle) -> None:
        self.case, self.arrays = case, case.arrays()
        self.rows = sample_rows(case.rows)
        self.truth = oracle(case, self.arrays, self.rows)

    def error(self, result: Any) -> float:
        """The relative error of what a contender's call returned."""
        return relative_error(self.case.answer(result)[..., self.rows, :], self.truth)

    def complaint(self, error: float) -> str:
        """Empty if the error is allowed."""
        allowed = TOLERANCE[self.case.dtype]
        return "" if error <= allowed else f"relative error {error:.1e}, allowed {allowed:.0e}"


def compare(
    case: AnyCase,
    peers: Sequence[Peer],
    oracle: Oracle,
    threads: int,
    rounds: int,
    progress: tqdm,
    beside: Mapping[str, AnyCase] | None = None,
) -> dict[str, Any]:
    """One case's result: seconds and GFLOP/s of every contender, and why the others were left out.

    ``peers`` starts with pyattn, without whose right answer there is nothing to compare. It takes its turns at the
    cases ``beside`` as well, for ratios to those.
    """
    ours = peers[0]
    beside = beside or {}
    calls: dict[str, Call] = {}
    errors: dict[str, float] = {}
    left_out: dict[str, str] = {}

    def admit(name: str, peer: Peer, checker: Checker) -> None:
        progress.set_postfix_str(f"checking {name}")
        call = peer.prepare(checker.case, checker.arrays, threads)
        if call is None:
            left_out[name] = "cannot do this case"
            return
        error = checker.error(call())
        if complaint := checker.complaint(error):
            left_out[name] = complaint
            progress.write(f"{case.name}: {name} is left out: {complaint}")
        else:
            calls[name], errors[name] = call, error

    progress.set_description(case.name)
    checker = Checker(case, oracle)
    for peer in peers:
        admit(peer.name, peer, checker)
    for name, other in beside.items():
        admit(name, ours, Checker(other, oracle))
    if wrong := left_out.keys() & {ours.name, *beside}:
        raise SystemExit(f"{case.name}: no right answer to time: {', '.join(f'{x}: {left_out[x]}' for x in wrong)}")

    timings = interleave(
        {name: partial(seconds, call) for name, call in calls.items()}, progress, rounds=rounds, budget=BUDGET
    )

    def described(name: str, measured: AnyCase) -> dict[str, float]:
        return {**speed(timings[name], measured.flops), "relative_error": errors[name]}

    return {
        "case": case.name,
        **dataclasses.asdict(case),
        "gflop": case.flops / 1e9,
        "contenders": {peer.name: described(peer.name, case) for peer in peers if peer.name in timings},
        "beside": {name: described(name, other) for name, other in beside.items()},
        "left_out": left_out,
    }


def speed(timing: Timing, flops: float) -> dict[str, float]:
    return {"best_s": timing.best, "median_s": timing.median, "gflops": flops / timing.best / 1e9}


def measured_peaks(*others: dict[str, float]) -> dict[str, float]:
    """The machine's peaks as seen by this process: the larger of now and the ``others``."""
    import pyattn

    now = pyattn.measure()
    return {key: max([value, *(other[key] for other in others)]) for key, value in now.items()}


def fma_peak(dtype: str, peaks: dict[str, float]) -> float:
    """Of the arithmetic that the machine has for the dtype: float32 where it has none for one of 16 bits."""
    return peaks.get(f"fma_gflops_{dtype}", peaks["fma_gflops_float32"])


def compare_all(
    cases: Sequence[AnyCase],
    peers: Sequence[Peer],
    oracle: Oracle,
    options: Options,
    beside: Callable[[Any], Mapping[str, AnyCase]] = lambda case: {},
) -> dict[str, Any]:
    """What a result file holds: the environment, the machine's peaks and the results of all cases."""
    limit_threads(options.threads)
    peers = installed(peers)
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    before = measured_peaks()
    with tqdm(total=len(cases) * rounds, unit="round", disable=None) as progress:
        results = [compare(case, peers, oracle, options.threads, rounds, progress, beside(case)) for case in cases]
    peaks = measured_peaks(before)
    for result in results:
        for contender in result["contenders"].values():
            contender["of_fma_peak"] = contender["gflops"] / fma_peak(result["dtype"], peaks)
    return {"environment": environment(options.threads, peers), "peaks": peaks, "results": results}


def benchmark(name: str, cases: Sequence[AnyCase], peers: Sequence[Peer], oracle: Oracle, options: Options) -> None:
    """Compare ``peers``, pyattn first among them, over ``cases``; print a table and write the JSON file ``name``."""
    if options.quick:
        cases = [case for case in cases if case.flops <= QUICK_FLOPS]
    compared = compare_all(cases, peers, oracle, options)
    print(comparison_table(peers, compared["results"]))
    peak = ", ".join(f"{case} {fma_peak(case, compared['peaks']):.0f}" for case in sorted({x.dtype for x in cases}))
    print(f"GFLOP/s of useful work in the best round, and how many times faster pyattn is. FMA peak: {peak}")
    write(options, name, compared)


def names_of_contenders(peers: Sequence[Peer], results: Sequence[dict[str, Any]]) -> list[str]:
    """The peers with a time in any of the results."""
    return [peer.name for peer in peers if any(peer.name in result["contenders"] for result in results)]


def peer_cells(result: dict[str, Any], others: Sequence[str]) -> list[str]:
    """Of each of the others GFLOP/s, and how many times faster pyattn is."""
    contenders = result["contenders"]
    ours = next(iter(contenders.values()))
    speeds = [contenders[other]["gflops"] if other in contenders else None for other in others]
    return [f"{gflops:.0f} {ours['gflops'] / gflops:5.2f}x" if gflops else "-" for gflops in speeds]


def comparison_table(peers: Sequence[Peer], results: Sequence[dict[str, Any]]) -> str:
    """pyattn's speed in the best and the median round and its share of the peak, then the peers' and their ratios."""
    ours, *others = names_of_contenders(peers, results)
    rows = []
    for result in results:
        contender = result["contenders"][ours]
        median = result["gflop"] / contender["median_s"]
        row = [result["case"], f"{contender['gflops']:.0f}", f"{median:.0f}", f"{contender['of_fma_peak']:.0%}"]
        rows.append(row + peer_cells(result, others))
    return table(["case", ours, "median", "of peak", *others], rows)
