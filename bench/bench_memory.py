"""The memory that a call needs beyond its inputs and what it returns, in MiB a thread, over options and their mixtures.

Each call is the first of its size in a process of its own, where its answer is then checked against the float64
reference. Fails if a call needs more than 2 MiB a thread, or gives a wrong answer. Not counted is the copy of a sparse
mask's structure, which is made before it is checked, so that nobody changes it in between.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from bench import oracle
from bench.attention_peers import PYATTN
from bench.bench_padding import VARLEN
from bench.cases import Case, RaggedCase
from bench.compare import Checker, answer
from bench.memory import MIB, extra_bytes, in_fresh_process
from bench.options import ALL
from bench.peers import Peer
from bench.report import Goal, environment, goals_as_results, parse_options, table, write

LIMIT = 2.0  # MiB a thread
HEADS, LENGTH, WIDTH = 4, 8192, 64
QUICK_STEP = 9  # a quick look is at each ninth case


def square(*options: str, dtype: str = "float32", key_heads: int = 0) -> Case:
    return Case(HEADS, LENGTH, LENGTH, WIDTH, options, dtype, key_heads=key_heads)


def decode(queries: int, *options: str, dtype: str = "float32", batch: int = 1, key_heads: int = 0) -> Case:
    return Case(HEADS, queries, LENGTH, WIDTH, options, dtype, batch, key_heads)


def ragged(*options: str, dtype: str = "float32") -> RaggedCase:
    lengths = (4096, 2048, 1024, 512, 256, 255, 1, 0)
    return RaggedCase(HEADS, max(lengths), max(lengths), WIDTH, options, dtype, len(lengths), lengths=lengths)


SINGLES = [
    *("causal", "window", "left window", "wide window", "band mask", "sparse mask", "sparse bias", "mask", "key mask"),
    *("bias", "softcap", "alibi", "sinks", "kv_lengths", "half kv_lengths", "offset", "lse", "weights"),
    *("entropy", "received", "top_k"),
]
MIXTURES = [
    *[("causal", other) for other in ("mask", "bias", "softcap", "alibi", "sinks", "half kv_lengths", "offset")],
    *[("causal", other) for other in ("lse", "weights", "entropy", "received", "top_k")],
    *[("sparse mask", other) for other in ("softcap", "alibi", "sinks", "lse", "received", "top_k")],
    *[("window", other) for other in ("bias", "alibi", "sinks", "top_k")],
    ("mask", "bias"),
    ("weights", "lse"),
    ("weights", "window"),
    ("causal", "left window", "lse"),
    ("mask", "bias", "causal"),
    ("softcap", "alibi", "sinks"),
    ("entropy", "received", "top_k"),
    ("entropy", "received", "top_k", "sparse mask"),
    ALL,
]
CASES: list[Case] = [
    square(),
    *[square(option) for option in SINGLES],
    *[square(*options) for options in MIXTURES],
    *[square(*o, dtype=dtype) for dtype in ("float64", "bfloat16", "float16") for o in ((), ("causal", "bias"))],
    square("softcap", "alibi", "sinks", dtype="bfloat16"),
    square("entropy", "received", "top_k", dtype="bfloat16"),
    square(key_heads=1),
    square("causal", key_heads=2),
    *[ragged(), ragged("causal"), ragged("window", "sinks"), ragged("alibi", "lse"), ragged(dtype="bfloat16")],
    *[decode(1), decode(1, batch=8), decode(1, key_heads=1), decode(1, dtype="bfloat16"), decode(1, dtype="float16")],
    *[decode(1, "bias", "sinks"), decode(1, "half kv_lengths", batch=8), decode(1, "top_k"), decode(4), decode(16)],
]


def measured(peer: Peer, case: Case, threads: int) -> tuple[int, str]:
    """The bytes, and what is wrong with the answer; for a process of its own."""
    extra = extra_bytes(peer, case, threads) - copied_bytes(case)
    checker = Checker(case, oracle.ragged_attention if isinstance(case, RaggedCase) else oracle.attention)
    call = peer.prepare(case, case.arrays(), threads)
    return extra, checker.complaint(checker.error(answer(case, call, checker.rows)))


def copied_bytes(case: Case) -> int:
    """Of a sparse mask's structure: its indices, where rows begin, and a byte for each entry while it is checked."""
    mask = case.keywords.get("mask")
    return mask.indices.nbytes + 2 * mask.indptr.nbytes + mask.nnz if hasattr(mask, "indptr") else 0


def result_of(case: Case, threads: int) -> dict[str, Any]:
    peer = VARLEN if isinstance(case, RaggedCase) else PYATTN
    try:
        extra, complaint = in_fresh_process(measured, peer, case, threads)
    except Exception as error:  # of whatever kind: the other cases are still to be seen
        extra, complaint = None, f"{type(error).__name__}: {error}"
    per_thread = float("nan") if extra is None else extra / threads / MIB
    return {"case": case.name, "extra_bytes": extra, "mib_per_thread": per_thread, "wrong": complaint}


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_options(__doc__, argv)
    cases = CASES[::QUICK_STEP] if options.quick else CASES
    results = []
    for case in (progress := tqdm(cases, desc="memory", unit="case", disable=None)):
        progress.set_postfix_str(case.name)
        results.append(result_of(case, options.threads))
    goals = [Goal(x["case"], "MiB a thread", x["mib_per_thread"], LIMIT, at_most=True) for x in results]
    failed = [goal for goal, result in zip(goals, results, strict=True) if result["wrong"] or not goal.met]
    rows = [
        [x["case"], f"{x['mib_per_thread']:.2f}", x["wrong"] or ("" if goal.met else "TOO MUCH")]
        for x, goal in zip(results, goals, strict=True)
    ]
    print(table(["case", "MiB a thread", ""], rows))
    print(f"{len(cases)} cases, {len(failed)} of them wrong or above {LIMIT:g} MiB a thread")
    result = {"environment": environment(options, [PYATTN]), "results": results}
    write(options, "memory", {**result, "goals": goals_as_results(goals)})
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
