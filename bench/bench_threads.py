"""pyattn on one thread and on all: the speedup of each row, and what the parallel regions of a layer cost.

The rows are those of `python -m bench.beside`; answers must be the same bits. A region's cost is that of one whose
threads have nothing to do. docs/scaling.md says what follows from both for machines of many cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from bench.apart import Apart, Calls
from bench.beside import HERE, ROUNDS, all_measured
from bench.report import Options, environment, parse_options, table, write
from bench.roofline import Gauge

QUICK_ONLY = "384"  # encoder layers, and products of their width
REPEATS = 20_000


def region_calls(threads: int) -> Calls:
    from pyattn._core import runtime

    return {"region": lambda: runtime.multiply_add("float32", threads, 1)}


def region_seconds(threads: int) -> float:
    """Of one region of so many threads, over the same on one."""
    found = []
    contender = Apart(threads)
    for number in (1, threads):
        contender.make(region_calls, number)
        contender.seconds("region", REPEATS)
        found.append(min(contender.seconds("region", REPEATS) for _ in range(ROUNDS)))
    contender.close()
    return found[1] - found[0]


def run(options: Options) -> None:
    gauges = {threads: Gauge(threads) for threads in (1, options.threads)}
    region = region_seconds(options.threads)
    only, rounds = (QUICK_ONLY, 2) if options.quick else ("", ROUNDS)
    measured = all_measured(Apart(1, HERE), Apart(options.threads, HERE), only, rounds)
    peaks = {str(threads): gauge.peaks() for threads, gauge in gauges.items()}
    results, cells = [], []
    for row in measured:
        if row.before_s is None or row.now_s is None or not row.same_bits:
            raise SystemExit(f"{row.name}: {row.why or 'other bits on more threads'}")
        results.append({**asdict(row), "speedup": row.before_s / row.now_s})
        cells.append([row.name, f"{row.before_s * 1e3:.4g}", f"{row.now_s * 1e3:.4g}", f"{results[-1]['speedup']:.2f}"])
    print(table(["", "1 thread, ms", f"{options.threads} threads, ms", "speedup"], cells))
    speedups = [f"{name} {x / peaks['1'][name]:.2f}" for name, x in peaks[str(options.threads)].items()]
    print(f"Of the peaks: {', '.join(speedups)}. A parallel region without work takes {region * 1e6:.2f} us.")
    found = {"environment": environment(options), "peaks": peaks, "region_s": region, "results": results}
    write(options, "threads", found)


def main(argv: Sequence[str] | None = None) -> None:
    run(parse_options(__doc__, argv))


if __name__ == "__main__":
    main()
