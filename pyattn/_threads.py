"""How many threads a call uses."""

import contextlib
import math
import os
import re
import reprlib
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pyattn._core import runtime

# Work below this many floating-point operations runs on one thread: it ends within the two or three microseconds that
# another needs to take its part. The fastest of thousands of calls of attention, 4 heads of n x n x 32, took on one
# thread and on two (AVX-512) 13.0 and 15.1 us with n = 16, 131,072 operations, and 16.5 and 14.0 with n = 24, 294,912.
SMALL_WORK = 200_000

MAX_THREADS = 1024  # more than any machine uses well

OWN_VARIABLE, OPENMP_VARIABLE = "PYATTN_NUM_THREADS", "OMP_NUM_THREADS"

_chosen: tuple[int, str] | None = None  # by set_num_threads, and its name
_default: tuple[int, str] | None = None  # and why, once it is known
_rust_has_threads = False
_here: ContextVar[int | None] = ContextVar("pyattn_num_threads", default=None)


def get_num_threads() -> int:
    """Most threads of a call.

    The first of these that says it: num_threads, set_num_threads, PYATTN_NUM_THREADS, OMP_NUM_THREADS, else the CPUs
    that this process may use: those of its affinity, one for each physical core, and no more than its cgroup's quota.
    Where OMP_PROC_BIND binds OpenMP's threads to places, it is as many as these, and so are pyattn's bound.
    OMP_THREAD_LIMIT, and what OpenMP was limited to since the import, by threadpoolctl for example, are never exceeded.
    Where the system refuses a thread, a call takes as many as there are. Threads that wait for the next call look out
    for it for a millisecond, then sleep; at once with OMP_WAIT_POLICY=passive.

    A PYATTN_NUM_THREADS that is not an integer from 1 to 1024 is a ValueError of the import. Such an OMP_NUM_THREADS,
    which others read too, is passed over with a RuntimeWarning, once.
    """
    return chosen_threads()[0]


def chosen_threads() -> tuple[int, str]:
    """Most threads of a call, and why."""
    global _default
    here = _here.get()
    chosen = (_chosen or _default) if here is None else (here, "num_threads")
    if chosen is None:
        chosen = _default = _asked_for(OWN_VARIABLE) or _asked_for(OPENMP_VARIABLE) or _usable_cpus()
        text = os.environ.get(OPENMP_VARIABLE, "")
        if text.strip() and chosen[1] not in (OWN_VARIABLE, OPENMP_VARIABLE):
            warnings.warn(
                f"pyattn: {OPENMP_VARIABLE}={reprlib.repr(text)} is passed over: it must be an integer from 1 to "
                f"{MAX_THREADS}, or a list that begins with one",
                RuntimeWarning,
                stacklevel=2,
            )
    limit = runtime.thread_limit()
    return (limit, "limited by OpenMP's runtime") if 0 < limit < chosen[0] else chosen


def set_num_threads(threads: int) -> None:
    """Sets the most threads a call uses; results do not depend on it, to the bit.

    Raises:
        ValueError: threads is not an integer from 1 to 1024.
    """
    global _chosen
    _chosen = _checked("set_num_threads", threads), "set_num_threads"


@contextlib.contextmanager
def num_threads(threads: int) -> Iterator[None]:
    """Within a with statement, the most threads of calls from this Python thread, or asyncio task.

    Python threads that are started there are bound too where they inherit the context (free-threaded Python 3.14).

    Raises:
        ValueError: threads is not an integer from 1 to 1024.

    Example:
        >>> import pyattn
        >>> with pyattn.num_threads(1):
        ...     pyattn.get_num_threads()
        1
    """
    token = _here.set(_checked("num_threads", threads))
    try:
        yield
    finally:
        _here.reset(token)


def threads_for(operations: float) -> int:
    """Threads for a call of so many floating-point operations."""
    return 1 if operations < SMALL_WORK else get_num_threads()


def rust_has_threads() -> bool:
    """Whether the tokenizers library has the threads that it makes for its first batch, or would be granted them.

    If it is refused one it panics, then and ever after.
    """
    global _rust_has_threads
    if not _rust_has_threads:
        wanted = max(os.cpu_count() or 1, _number(os.environ.get("RAYON_NUM_THREADS", "")) or 1)
        _rust_has_threads = runtime.granted(wanted) == wanted
    return _rust_has_threads


@contextlib.contextmanager
def one_ahead() -> Iterator[Callable[[Callable[[Any], Any], Any], Callable[[], Any]]]:
    """Gives begin(function, argument), which calls it in a thread of its own, and returns what waits for the result.

    Where the system refuses that thread, the call is made when its result is waited for.
    """
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        try:
            pool.submit(int)
        except RuntimeError:
            yield partial
        else:
            yield lambda function, argument: pool.submit(function, argument).result


def _checked(function: str, threads: int) -> int:
    if isinstance(threads, bool) or not isinstance(threads, int | np.integer) or not 1 <= threads <= MAX_THREADS:
        raise ValueError(f"{function}: threads must be an integer from 1 to {MAX_THREADS}, not {threads!r}")
    return int(threads)


def _number(text: str) -> int | None:
    """How many threads a text asks for; None if it is no such number."""
    digits = re.fullmatch(r"\s*0*([1-9][0-9]{0,3})\s*", text)
    return int(digits[1]) if digits is not None and int(digits[1]) <= MAX_THREADS else None


def _asked_for(variable: str) -> tuple[int, str] | None:
    text = os.environ.get(variable, "")
    # OpenMP allows a list, one number a nesting level
    number = _number(text if variable == OWN_VARIABLE else text.split(",")[0])
    if variable == OWN_VARIABLE and text.strip() and number is None:
        raise ValueError(f"pyattn: {variable} must be an integer from 1 to {MAX_THREADS}, not {reprlib.repr(text)}")
    return None if number is None else (number, variable)


def _usable_cpus() -> tuple[int, str]:
    places = runtime.places()
    if places > 0:  # this thread may then run on the first alone
        return min(places, MAX_THREADS), f"{places} places that OMP_PROC_BIND and OMP_PLACES name"
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = _physical_cores(cpus)
    quota = _quota()
    if quota is not None and math.ceil(quota) < cores:
        return max(1, math.ceil(quota)), f"cgroup quota of {quota:g} CPUs"
    what = "CPUs" if cores == len(cpus) else f"physical cores of {len(cpus)} CPUs"
    return min(cores, MAX_THREADS), f"{cores} {what} that this process may use"


def _physical_cores(cpus: set[int], root: Path = Path("/sys/devices/system/cpu")) -> int:
    """How many cores the CPUs belong to; hardware threads of one share its arithmetic."""
    cores = set()
    for cpu in cpus:
        try:
            topology = root / f"cpu{cpu}" / "topology"
            package, core = ((topology / name).read_text().strip() for name in ("physical_package_id", "core_id"))
        except (OSError, ValueError):
            return len(cpus)
        cores.add((package, core))
    return len(cores)


def _quota(root: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")) -> float | None:
    """The CPUs that the process's cgroups, or those above them, allow; None for no bound. Versions 1 and 2."""
    try:
        lines = [line.split(":", 2) for line in groups.read_text().splitlines()]
    except OSError:
        return None
    quotas = []
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / "cpu" if controllers else root
        files = ["cpu.cfs_quota_us", "cpu.cfs_period_us"] if controllers else ["cpu.max"]
        # In a container the path may be the host's; its root is then the container's own group.
        place = base / path.strip().lstrip("/")
        folders = (place, *place.parents)
        quotas += [_quota_of(folder, files) for folder in folders[: folders.index(base) + 1]]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota_of(folder: Path, names: list[str]) -> float | None:
    try:
        quota, period = " ".join((folder / name).read_text() for name in names).split()
        return float(quota) / float(period) if quota != "max" and float(quota) > 0 and float(period) > 0 else None
    except (OSError, ValueError):
        return None


_asked_for(OWN_VARIABLE)  # what is no number is an error of the import
