"""Attention: pyattn against plain NumPy and the installed peers, in GFLOP/s of useful work.

Every answer is checked against the float64 reference before anything is timed.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench import oracle
from bench.attention_peers import ATTENTION as PEERS
from bench.cases import ATTENTION
from bench.compare import benchmark
from bench.report import parse_options


def main(argv: Sequence[str] | None = None) -> None:
    benchmark("attention", ATTENTION, PEERS, oracle.attention, parse_options(__doc__, argv))


if __name__ == "__main__":
    main()
