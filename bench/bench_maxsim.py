"""Late interaction: a query of 32 tokens against 10,000 documents of 180.

pyattn reads documents in float32 and float16; NumPy and torch multiply in blocks of documents, whose products they
hold. All are timed in turns, in processes of their own, after their scores were checked. The roofline counts each
product of two tokens, and the documents read once; which of the two bounds it is, is said.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from bench.apart import Apart, Calls
from bench.report import Goal, environment, goals_as_results, goals_table, of_roofline, parse_options, table, write
from bench.roofline import Gauge, Work, peaks_line, roof
from bench.timing import Timing, interleave

QUERY, DOCUMENTS, TOKENS, WIDTH = 32, 10_000, 180, 128
BLOCK = 250  # documents whose products the peers hold at once
GOAL = 0.85  # of the roofline
TOLERANCE = 2e-4  # of sums of 32 products of unit vectors; of float16 ones, rounded
TOLERANCE_FLOAT16 = 2e-2


def arrays(quick: bool) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of a query, and of documents one after another."""
    rng, count = np.random.default_rng(0), DOCUMENTS // (10 if quick else 1)
    query = rng.standard_normal((QUERY, WIDTH), np.float32)
    documents = rng.standard_normal((count * TOKENS, WIDTH), np.float32)
    return tuple(x / np.linalg.norm(x, axis=1, keepdims=True) for x in (query, documents))


def calls(contender: str, quick: bool, threads: int) -> Calls:
    query, documents = arrays(quick)
    count = len(documents) // TOKENS
    if contender.startswith("pyattn"):
        import pyattn

        starts = np.arange(count + 1) * TOKENS
        held = documents.astype(np.float16) if contender.endswith("float16") else documents
        return {"score": lambda: pyattn.maxsim(query, held, None, starts)[0]}
    blocks = [slice(start, start + BLOCK) for start in range(0, count, BLOCK)]
    if contender == "torch":
        import torch

        torch.set_num_threads(threads)
        tokens, stacked = torch.from_numpy(query), torch.from_numpy(documents).view(count, TOKENS, WIDTH)

        def by_torch() -> np.ndarray:
            with torch.inference_mode():
                parts = [(stacked[block] @ tokens.T).amax(1).sum(1) for block in blocks]
                return torch.cat(parts).numpy()

        return {"score": by_torch}
    whole = documents.reshape(count, TOKENS, WIDTH)
    return {"score": lambda: np.concatenate([(whole[block] @ query.T).max(1).sum(1) for block in blocks])}


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(__doc__, argv)
    names = ["pyattn float32", "pyattn float16", "numpy", *(["torch"] if importlib.util.find_spec("torch") else [])]
    gauge, rounds = Gauge(options.threads), 2 if options.quick else 9
    processes = {name: Apart(options.threads) for name in names}
    for name, process in processes.items():
        process.make(calls, name, options.quick, options.threads)
    expected = processes["numpy"].result("score")
    for name, process in processes.items():
        far = float(np.abs(process.result("score") - expected).max())
        if far > (TOLERANCE_FLOAT16 if name.endswith("float16") else TOLERANCE):
            raise SystemExit(f"{name}: scores differ by {far:.2g}")
    timed = {name: lambda repeats, x=process: x.seconds("score", repeats) for name, process in processes.items()}
    with tqdm(total=rounds * len(names), unit="round", leave=False) as progress:
        found: dict[str, Timing] = interleave(timed, progress, rounds=rounds)
    for process in processes.values():
        process.close()
    peaks = gauge.peaks()
    pairs = len(expected) * TOKENS * QUERY
    rows, results, fractions = [], [], {}
    for name, timing in found.items():
        element = 2 if name.endswith("float16") else 4
        limit = roof(Work({"float32": 2.0 * pairs * WIDTH}, len(expected) * TOKENS * WIDTH * element), peaks)
        fractions[name] = limit.fraction(timing.best_s)
        rate = 2 * pairs * WIDTH / timing.best_s / 1e9
        rows.append([name, f"{timing.best_s * 1e3:.1f}", f"{rate:.0f}", of_roofline(fractions[name], limit.bound)])
        result: dict[str, Any] = {"name": name, "best_s": timing.best_s, "of_roofline": fractions[name]}
        results.append(result | {"bound": limit.bound, "median_s": timing.median_s})
    goals = [Goal("pyattn float32", "of the roofline", fractions["pyattn float32"], GOAL)]
    print(f"{QUERY} x {WIDTH} against {len(expected)} documents of {TOKENS}; {peaks_line(peaks)}")
    print(table(["", "ms", "GFLOP/s", "of roofline"], rows))
    print(goals_table(goals))
    outcome = {"environment": environment(options), "results": results, "goals": goals_as_results(goals)}
    write(options, "maxsim", outcome)


if __name__ == "__main__":
    main()
