"""How many threads a call uses."""

import os

import numpy as np

# Work below this many floating-point operations runs on one thread: it ends within the two or three microseconds that
# another thread needs to take its part.
SMALL_WORK = 200_000

# More than any machine uses well; OpenMP ends the process when the system refuses it a thread.
MOST_THREADS = 1024

_chosen: int | None = None


def get_num_threads() -> int:
    """Most threads of a call: set_num_threads, else PYATTN_NUM_THREADS, else OMP_NUM_THREADS, else usable CPUs."""
    global _chosen
    if _chosen is None:
        _chosen = _from_environment() or _usable_cpus()
    return _chosen


def set_num_threads(threads: int) -> None:
    """Sets the most threads a call uses; results do not depend on it, to the bit.

    Raises:
        ValueError: threads is not an integer from 1 to 1024.
    """
    global _chosen
    if isinstance(threads, bool) or not isinstance(threads, int | np.integer) or not 1 <= threads <= MOST_THREADS:
        raise ValueError(f"set_num_threads: threads must be an integer from 1 to {MOST_THREADS}, not {threads!r}")
    _chosen = int(threads)


def threads_for(operations: float) -> int:
    """Threads for a call of so many floating-point operations."""
    return 1 if operations < SMALL_WORK else get_num_threads()


def _from_environment() -> int | None:
    for name in ("PYATTN_NUM_THREADS", "OMP_NUM_THREADS"):
        text = os.environ.get(name, "").split(",")[0].strip()  # OpenMP allows a list, one number a nesting level
        if text:
            if not text.isdecimal() or not 1 <= int(text) <= MOST_THREADS:
                raise ValueError(f"get_num_threads: {name} must be an integer from 1 to {MOST_THREADS}, not {text!r}")
            return int(text)
    return None


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _after_fork() -> None:
    """OpenMP's threads do not survive a fork: a forked child that asked for them would wait forever."""
    global _chosen
    _chosen = 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
