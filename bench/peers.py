"""A contender, and what all of them share. Each benchmark says which it has, attention's are in attention_peers."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

# What a call returns holds the answer: the case's ``answer`` finds it.
Call = Callable[[], Any]


@dataclass(frozen=True)
class Peer:
    """One contender. ``prepare(case, arrays, threads)`` returns the call to time, or None for a case it cannot do.

    What a deployment does once (conversion, compilation, packing of weights, transposition to the peer's own layout) is
    in ``prepare``; what it does for each input is the call.
    """

    name: str
    modules: tuple[str, ...]  # what must be installed; the first one carries the version
    prepare: Callable[..., Any]

    @property
    def ours(self) -> bool:
        return self.modules == ("pyattn",)

    @property
    def missing(self) -> list[str]:
        return [module for module in self.modules if importlib.util.find_spec(module) is None]

    @property
    def version(self) -> str:
        return importlib.import_module(self.modules[0]).__version__


def installed(peers: Sequence[Peer]) -> list[Peer]:
    """The peers that can run here; says which cannot, and why."""
    for peer in peers:
        if peer.missing:
            print(f"{peer.name} is left out: {' and '.join(peer.missing)} not installed")
    return [peer for peer in peers if not peer.missing]


def limit_threads(threads: int) -> None:
    """Set the thread count wherever it is read from the environment, and that of NumPy's BLAS, already loaded.

    Must come before the import of any contender. XLA has no flag for the size of its pool; PJRT_NPROC sets it.
    """
    import threadpoolctl

    for variable in ("PYATTN_NUM_THREADS", "OMP_NUM_THREADS", "PJRT_NPROC", "RAYON_NUM_THREADS"):
        os.environ[variable] = str(threads)
    threadpoolctl.threadpool_limits(threads)
