"""Contenders in processes of their own: the thread pools of several runtimes in one process slow one another."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from bench.models import Key
from bench.peers import Peer, limit_threads

Calls = Mapping[str, Callable[[], Any]]


class Apart:
    """Calls by name, as ``make(*arguments)`` makes them in a process that `close` ends.

    ``make`` is a function of a module; names and results travel, so that a call that is timed should return little.
    """

    def __init__(self, threads: int, make: Callable[..., Calls], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, threads, make, arguments), daemon=True)
        self._process.start()
        theirs.close()
        self._receive()

    def result(self, name: str) -> Any:
        return self._ask(name, True)

    def run(self, name: str) -> None:
        """The call without its result, to be timed."""
        self._ask(name, False)

    def close(self) -> None:
        self._pipe.close()
        self._process.join()

    def _ask(self, name: str, wanted: bool) -> Any:
        with contextlib.suppress(BrokenPipeError):  # which receiving explains
            self._pipe.send((name, wanted))
        return self._receive()

    def _receive(self) -> Any:
        try:
            return self._pipe.recv()
        except EOFError:
            raise SystemExit("a contender failed; its error stands above") from None


class AllApart(dict[Key, Apart]):
    """Contenders whose processes end with the block."""

    def start(self, peers: Mapping[Peer, Sequence[str]], make: Callable[..., Calls], model: Path, threads: int) -> None:
        """Each peer in each of its precisions: ``make(peer.prepare, model, threads, precision)``."""
        for peer, precisions in peers.items():
            for precision in precisions:
                self[peer.name, precision] = Apart(threads, make, peer.prepare, model, threads, precision)

    def calls(self, names: Iterable[str]) -> dict[str, dict[Key, Callable[[], None]]]:
        """The calls of each of the names, to be timed."""
        return {name: {key: partial(contender.run, name) for key, contender in self.items()} for name in names}

    def __enter__(self) -> AllApart:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for contender in self.values():
            contender.close()


def _serve(pipe: Connection, threads: int, make: Callable[..., Calls], arguments: Sequence[Any]) -> None:
    limit_threads(threads)
    calls = make(*arguments)
    pipe.send(None)
    while True:
        try:
            name, wanted = pipe.recv()
        except EOFError:  # closed
            return
        result = calls[name]()
        pipe.send(result if wanted else None)
