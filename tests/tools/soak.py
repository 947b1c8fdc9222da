"""Random calls from several Python threads at once, judged by the oracle, until the time is up; counts what went wrong.

    make soak                    ten minutes
    make soak SOAK_SECONDS=30

Ends with 1 if an answer was wrong, if a second call of the same arguments gave other bits, or if the process grew.
"""

import argparse
import sys
import threading
import time

import numpy as np
from tqdm import tqdm

import pyattn
from pyattn import _threads
from tests.support import oracle
from tests.support.problems import everything, laid_out
from tests.tools.soak_encode import resident

NAMES = ("plain", "transposed", "reversed", "gapped", "repeated", "unaligned")
GROWTH = 16 << 10  # KiB that the process may grow in the second half: pools of threads, and arenas of the allocator


def problem(rng):
    """Arrays and options of one call of attention."""
    dtype = oracle.DTYPES[rng.integers(4)]
    key_heads, group = rng.integers(1, 4), rng.integers(1, 4)
    length, keys = (int(rng.choice([rng.integers(1, 70), rng.integers(1, 300)])) for _ in range(2))
    width, value_width = int(rng.integers(1, 80)), int(rng.integers(1, 80))
    heads = int(key_heads * group)
    shapes = [(heads, length, width), (int(key_heads), keys, width), (int(key_heads), keys, value_width)]
    arrays = [laid_out(rng.standard_normal(shape).astype(dtype), rng.choice(NAMES)) for shape in shapes]
    every = everything(dtype, heads, length, keys, rng=rng)
    every |= {"window": tuple(rng.integers(0, keys + 1, 2)), "kv_lengths": rng.integers(0, keys + 1)}
    return arrays, {name: value for name, value in every.items() if rng.random() < 0.25}


def check(rng):
    arrays, options = problem(rng)
    found = pyattn.scaled_dot_product_attention(*arrays, **options, return_lse=True, return_weights=True)
    oracle.assert_attention(found, *arrays, **options)
    with pyattn.num_threads(int(rng.integers(1, 9))):
        oracle.assert_same(pyattn.scaled_dot_product_attention(*arrays, **options), found[0])


def worker(number, deadline, state, lock, progress):
    rng = np.random.default_rng([state["seed"], number])
    while time.monotonic() < deadline:
        try:
            check(rng)
        except AssertionError as error:
            with lock:
                state["mismatches"] += 1
                print(f"mismatch: {error}", file=sys.stderr)
        with lock:
            state["calls"] += 2
            progress.n = round(time.monotonic() - state["start"], 1)
            progress.refresh()
            if state["before"] is None and time.monotonic() > state["start"] + (deadline - state["start"]) / 2:
                state["before"] = resident(trim=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600, help="how long (%(default)s)")
    parser.add_argument("--threads", type=int, default=4, help="Python threads that call at once (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the random calls (%(default)s)")
    given = parser.parse_args()
    np.seterr(all="ignore")
    _threads.SMALL_WORK = 0
    start = time.monotonic()
    state = {"calls": 0, "mismatches": 0, "before": None, "start": start, "seed": given.seed}
    lock = threading.Lock()
    with tqdm(total=given.seconds, unit="s", desc="soak", disable=None) as progress:
        arguments = (start + given.seconds, state, lock, progress)
        workers = [threading.Thread(target=worker, args=(i, *arguments)) for i in range(given.threads)]
        for thread in workers:
            thread.start()
        for thread in workers:
            thread.join()
    growth = resident(trim=True) - (state["before"] or resident())
    print(f"{state['calls']} calls, {state['mismatches']} mismatches, {growth} KiB more than after half of the time")
    return int(state["mismatches"] > 0 or growth > GROWTH)


if __name__ == "__main__":
    sys.exit(main())
