"""Contenders in processes of their own: the thread pools of several runtimes in one process slow one another."""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from bench.peers import limit_threads
from bench.timing import Name, seconds

Calls = Mapping[str, Callable[[], Any]]


class FailedError(SystemExit):
    """Of a contender: what it says of its exception, or that its process ended."""


class Apart:
    """A process that makes calls by name and runs them, until `close`. They are timed there, answers travel.

    With a checkout, pyattn is that of its folder.
    """

    def __init__(self, threads: int, checkout: Path | None = None) -> None:
        self._arguments = threads, checkout
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, *self._arguments), daemon=True)
        self._process.start()
        theirs.close()

    def make(self, function: Callable[..., Calls], *arguments: Any) -> list[str]:
        """Calls in place of those before: what the function, of a module, returns there. Their names."""
        return self._ask("make", function, arguments)

    def result(self, name: str) -> Any:
        return self._ask("result", name)

    def seconds(self, name: str, repeats: int = 1) -> float:
        """Mean seconds of one of so many calls in a row."""
        return self._ask("seconds", name, repeats)

    def samples(self, name: str, budget: float) -> list[float]:
        """Seconds of each call, of as many as begin within so many seconds."""
        return self._ask("samples", name, budget)

    def close(self) -> None:
        self._pipe.close()
        self._process.join()

    def _ask(self, *question: Any) -> Any:
        with contextlib.suppress(BrokenPipeError):  # which receiving explains
            self._pipe.send(question)
        try:
            found = self._pipe.recv()
        except EOFError:
            self._process.join()
            found = FailedError(f"the process ended with {self._process.exitcode}")
            self._start()
        if isinstance(found, FailedError):
            raise found
        return found


class AllApart(dict[Name, Apart]):
    """Contenders whose processes end with the block."""

    def __enter__(self) -> AllApart[Name]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for contender in self.values():
            contender.close()


def _serve(pipe: Connection, threads: int, checkout: Path | None) -> None:
    if checkout is not None:
        sys.path.insert(0, str(checkout))
    limit_threads(threads)
    warnings.simplefilter("ignore")  # of runtimes, about their own ways
    if checkout is not None:
        import pyattn

        assert Path(pyattn.__file__).is_relative_to(checkout), pyattn.__file__
    server = _Server()
    while True:
        try:
            method, *arguments = pipe.recv()
        except EOFError:  # closed
            return
        try:
            found = getattr(server, method)(*arguments)
        except Exception as error:
            traceback.print_exc()
            found = FailedError(f"{type(error).__name__}: {error}".partition("\n")[0])
        pipe.send(found)


class _Server:
    def __init__(self) -> None:
        self.calls: Calls = {}

    def make(self, function: Callable[..., Calls], arguments: Sequence[Any]) -> list[str]:
        self.calls = {}  # the memory of those before is free
        self.calls = function(*arguments)
        return list(self.calls)

    def result(self, name: str) -> Any:
        return self.calls[name]()

    def seconds(self, name: str, repeats: int) -> float:
        return seconds(self.calls[name], repeats)

    def samples(self, name: str, budget: float) -> list[float]:
        found, end = [], time.perf_counter() + budget
        while not found or time.perf_counter() < end:
            found.append(seconds(self.calls[name]))
        return found
