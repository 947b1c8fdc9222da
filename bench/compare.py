"""Check every contender's answer on a case, then time them against one another, each in a process of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from tqdm import tqdm

from bench.apart import AllApart, Apart, Calls, FailedError
from bench.cases import Arrays, Case, LinearCase
from bench.peers import Peer, installed, limit_threads
from bench.report import Options, Row, environment, of_roofline, row_of, table, write
from bench.roofline import Gauge, peaks_line, roof
from bench.timing import ROUNDS, Timed, Timing, interleave

AnyCase = Case | LinearCase
# (case, arrays, rows) to the float64 truth of those rows; the case is of the benchmark's own kind.
Oracle = Callable[[Any, Arrays, np.ndarray], np.ndarray]

# Largest error allowed, over the largest magnitude of the answer. Who rounds float32 to bfloat16 is at 1e-2.
TOLERANCE = {"float32": 1e-5, "float64": 1e-13, "float16": 4e-3, "bfloat16": 2e-2, "int8": 4e-2}
CHECKED_ROWS = 32

QUICK_ROUNDS = 3
QUICK_FLOPS = 2.5e9

# Seconds that one contender may take of a case.
BUDGET = 10.0
CANNOT = "cannot do this case"
THIS = ""  # the name of a case beside those that its result is compared with


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
        self.case, self.rows = case, sample_rows(case.rows)
        self.truth = oracle(case, case.arrays(), self.rows)

    def error(self, answer: np.ndarray) -> float:
        """The relative error of these rows of an answer."""
        return relative_error(answer, self.truth)

    def complaint(self, error: float) -> str:
        """Empty if the error is allowed."""
        allowed = TOLERANCE[self.case.dtype]
        return "" if error <= allowed else f"relative error {error:.1e}, allowed {allowed:.0e}"


def answer(case: AnyCase, call: Callable[[], Any], rows: np.ndarray) -> np.ndarray:
    """Rows of what the call gives."""
    return case.answer(call())[..., rows, :]


def calls(peer: Peer, cases: Mapping[str, AnyCase], threads: int) -> Calls:
    """A contender's, by name, of the cases that it can do; and for each, rows of the answer."""
    made: dict[str, Callable[[], Any]] = {}
    for name, case in cases.items():
        call = peer.prepare(case, case.arrays(), threads)
        if call is not None:
            made |= {name: call, f"{name} answer": partial(answer, case, call, sample_rows(case.rows))}
    return made


def examined(
    peer: Peer, contender: Apart, checkers: Mapping[str, Checker], threads: int
) -> Iterator[tuple[str, float, str]]:
    """Of each case by name, the error of the contender's answer, and a complaint if that cannot be timed."""
    # new cases, as made: what is kept in these need not travel
    cases = {name: dataclasses.replace(checker.case) for name, checker in checkers.items()}
    try:
        made = contender.make(calls, peer, cases, threads)
        for name, checker in checkers.items():
            error = checker.error(contender.result(f"{name} answer")) if name in made else float("nan")
            yield name, error, checker.complaint(error) if name in made else CANNOT
    except FailedError as failure:
        yield THIS, float("nan"), str(failure)


def compare(
    case: AnyCase,
    contenders: Mapping[Peer, Apart],
    oracle: Oracle,
    options: Options,
    rounds: int,
    progress: tqdm,
    beside: Mapping[str, AnyCase] | None = None,
) -> dict[str, Any]:
    """One case's result: seconds and GFLOP/s of every contender, and why the others were left out.

    The first is pyattn, without whose right answer there is nothing to compare. It takes its turns at the cases
    ``beside`` as well, for ratios to those.
    """
    ours = next(iter(contenders))
    cases = {THIS: case, **(beside or {})}
    checkers = {name: Checker(each, oracle) for name, each in cases.items()}
    timed: dict[str, Timed] = {}
    errors: dict[str, float] = {}
    left_out: dict[str, str] = {}
    progress.set_description(case.name)
    for peer, contender in contenders.items():
        progress.set_postfix_str(f"checking {peer.name}")
        asked = checkers if peer == ours else {THIS: checkers[THIS]}
        for name, error, complaint in examined(peer, contender, asked, options.threads):
            label = name or peer.name
            if complaint:
                left_out[label] = complaint
                if complaint != CANNOT:
                    progress.write(f"{case.name}: {label} is left out: {complaint}")
            else:
                timed[label], errors[label] = partial(contender.seconds, name), error
    if wrong := left_out.keys() & {ours.name, *cases}:
        raise SystemExit(f"{case.name}: no right answer to time: {', '.join(f'{x}: {left_out[x]}' for x in wrong)}")

    timings = interleave(timed, progress, rounds=rounds, budget=BUDGET)

    def described(name: str, measured: AnyCase) -> dict[str, float]:
        return {**speed(timings[name], measured.flops), "relative_error": errors[name]}

    return {
        "case": case.name,
        **dataclasses.asdict(case),
        "gflop": case.flops / 1e9,
        "contenders": {peer.name: described(peer.name, case) for peer in contenders if peer.name in timings},
        "beside": {name: described(name, other) for name, other in cases.items() if name != THIS},
        "left_out": left_out,
    }


def speed(timing: Timing, flops: float) -> dict[str, float]:
    return {**dataclasses.asdict(timing), "gflops": flops / timing.best_s / 1e9}


def compare_all(
    cases: Sequence[AnyCase],
    peers: Sequence[Peer],
    oracle: Oracle,
    options: Options,
    beside: Callable[[Any], Mapping[str, AnyCase]] = lambda case: {},
) -> dict[str, Any]:
    """What a result file holds: the environment, the machine's peaks, the results of all cases, and our rows."""
    limit_threads(options.threads)
    peers = installed(peers)
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    gauge = Gauge(options.threads)
    with AllApart() as contenders, tqdm(total=len(cases) * rounds, unit="round", disable=None) as progress:
        contenders |= {peer: Apart(options.threads) for peer in peers}
        results = [compare(case, contenders, oracle, options, rounds, progress, beside(case)) for case in cases]
    peaks = gauge.peaks()
    rows: list[Row] = []
    for case, result in zip(cases, results, strict=True):
        limit = roof(case.work, peaks)
        for found in result["contenders"].values():
            found["of_roofline"] = limit.fraction(found["best_s"])
        result["bound"] = limit.bound
        rows += case_rows(result, peers, limit)
    return {"environment": environment(options, peers), "peaks": peaks, "results": results, "rows": rows}


def case_rows(result: dict[str, Any], peers: Sequence[Peer], limit: Any) -> list[Row]:
    """Of each contender that is pyattn, in one way or another."""
    found = result["contenders"]
    others = {peer.name: found[peer.name]["best_s"] for peer in peers if not peer.ours and peer.name in found}
    ours = [peer.name for peer in peers if peer.ours and peer.name in found]
    names = {name: result["case"] if name == ours[0] else f"{result['case']}, {name}" for name in ours}
    return [
        row_of(title, Timing(**{key: found[name][key] for key in Timing.__dataclass_fields__}), limit, others)
        for name, title in names.items()
    ]


def benchmark(name: str, cases: Sequence[AnyCase], peers: Sequence[Peer], oracle: Oracle, options: Options) -> None:
    """Compare ``peers``, pyattn first among them, over ``cases``; print a table and write the JSON file ``name``."""
    if options.quick:
        cases = [case for case in cases if case.flops <= QUICK_FLOPS]
    compared = compare_all(cases, peers, oracle, options)
    print(comparison_table(peers, compared["results"]))
    print("GFLOP/s of useful work in the best round, and how many times faster pyattn is.")
    print(peaks_line(compared["peaks"]))
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
    """pyattn's speed in the best and the median round and its fraction of the roofline, then the peers' and ratios."""
    ours, *others = names_of_contenders(peers, results)
    rows = []
    for result in results:
        contender = result["contenders"][ours]
        median = result["gflop"] / contender["median_s"]
        cells = [f"{contender['gflops']:.0f}", f"{median:.0f}", of_roofline(contender["of_roofline"], result["bound"])]
        rows.append([result["case"], *cells, *peer_cells(result, others)])
    return table(["case", ours, "median", "of roofline", *others], rows)
