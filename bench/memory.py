"""The memory that one attention call needs beyond its inputs and what it returns (Linux with glibc only).

A process measures one call, the first of its size: later ones may be served from memory kept back.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bench.cases import Case, RaggedCase, returned_arrays
from bench.peers import Peer, limit_threads

MIB = 2**20
WARM_UP_LENGTH = 64

Result = TypeVar("Result")


def status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return 1024 * int(value.split()[0])
    raise KeyError(field)


def _resident_bytes(array: np.ndarray) -> int:
    """How much of the array's memory is there: pages that nobody wrote, as of zeros, are not."""
    page = os.sysconf("SC_PAGE_SIZE")
    first = array.ctypes.data // page
    count = (array.ctypes.data + array.nbytes - 1) // page + 1 - first
    with Path("/proc/self/pagemap").open("rb", buffering=0) as file:
        file.seek(8 * first)
        entries = np.frombuffer(file.read(8 * count), np.uint64)
    return min(array.nbytes, page * int((entries >> np.uint64(63)).sum()))


def _shrunk(case: Case) -> Case:
    """The same kind of call, of at most WARM_UP_LENGTH rows and keys."""
    if isinstance(case, RaggedCase):
        lengths = tuple(min(length, WARM_UP_LENGTH) for length in case.lengths)
        return replace(case, L=WARM_UP_LENGTH, S=WARM_UP_LENGTH, lengths=lengths)
    return replace(case, L=min(case.L, WARM_UP_LENGTH), S=min(case.S, WARM_UP_LENGTH))


def extra_bytes(peer: Peer, case: Case, threads: int) -> int:
    """Peak resident memory of the first call over the memory before it, less what it returned."""
    limit_threads(threads)
    small = _shrunk(case)
    peer.prepare(small, small.arrays(), threads)()  # code and threads are not the call's
    call = peer.prepare(case, case.arrays(), threads)
    ctypes.CDLL(None).malloc_trim(0)  # what the warm-up freed is no longer there for the call to use
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from the present
    before = status_bytes("VmRSS")
    result = call()
    peak = status_bytes("VmHWM")
    return max(0, peak - before - sum(map(_resident_bytes, returned_arrays(result))))


def in_fresh_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """What ``function``, of a module's top level, returns in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        return executor.submit(function, *arguments).result()
