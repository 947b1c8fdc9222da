"""Timing several contenders side by side."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from tqdm import tqdm

Name = TypeVar("Name")  # of a contender
Timed = Callable[[int], float]  # runs a call so many times in a row; mean seconds of one
ROUNDS = 9
# A round of one contender lasts at least this long, so that the clock's resolution and one interrupt do not count.
ROUND_SECONDS = 0.1
# Thread pools spin for a while after their last task; this pause keeps one contender's off the next one's cores.
SETTLE_SECONDS = 0.05


@dataclass(frozen=True)
class Timing:
    """Of a call, over all rounds."""

    best_s: float
    median_s: float
    slowest_s: float


def seconds(call: Callable[[], object], repeats: int = 1) -> float:
    """Mean seconds of one of ``repeats`` calls in a row."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def interleave(
    calls: Mapping[Name, Timed],
    progress: tqdm,
    *,
    rounds: int = ROUNDS,
    budget: float = math.inf,
) -> dict[Name, Timing]:
    """Time the contenders in turn, round after round, so that a noisy neighbour hits all alike.

    Each contender must have run once already. One that has used up ``budget`` seconds sits out the remaining rounds,
    but never has fewer than two. ``progress`` advances by one a round.
    """
    repeats = {name: math.ceil(ROUND_SECONDS / call(1)) for name, call in calls.items()}
    samples: dict[Name, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            done = samples[name]
            if len(done) >= 2 and sum(done) * repeats[name] > budget:
                continue
            progress.set_postfix_str(str(name))
            time.sleep(SETTLE_SECONDS)
            call(1)  # wakes the threads and fills the caches that another contender has emptied
            done.append(call(repeats[name]))
        progress.update()
    return {name: Timing(min(done), statistics.median(done), max(done)) for name, done in samples.items()}
