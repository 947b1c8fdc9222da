"""Work of many requests, gathered into batches and computed by one thread, while the event loop answers others.

Requests put their work into a queue. The thread takes what is there when it is free, tokenizes it, and computes whole
requests, in the order in which they came, up to max_batch_tokens: while it computes, the next batch gathers by itself.

Clients that send one text after another send the next when they are answered. If their batch is small the thread waits
for them, up to max_wait_ms: 8 sentences together take less time than one of them and then the other 7. A lone client
is waited for by nobody. Of 8 clients on two cores, batches of 4, in turn, gave 0.85 of the throughput of batches of 8,
though while one half is computed the other is answered and read: the cores are busy already.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from pyattn._checks import Array
from pyattn._threads import get_num_threads

_log = logging.getLogger("pyattn.server")
# Tokens a thread, about, beyond which more texts make a batch no faster for each of them. (To end batches there, so
# that those before are answered meanwhile, gave no more: 8 clients of 200 tokens come by turns anyway.)
_ENOUGH = 256


class Task(Protocol):
    """What batches are made of; options say what may share a call."""

    def prepare(self, options: Any, inputs: list[Any]) -> list[Any]:
        """Something for each input, with which it is computed, such as its tokens."""

    def estimate(self, given: Any) -> int:
        """About how many tokens an input has."""

    def cost(self, prepared: Any) -> int:
        """The tokens of what has been prepared."""

    def compute(self, options: Any, prepared: list[Any]) -> Array:
        """The result of each of these."""


class Work:
    """The inputs of a request, and where their results arrive."""

    __slots__ = ("cost", "future", "inputs", "is_dropped", "options", "prepared", "task")

    def __init__(self, task: Task, options: Hashable, inputs: list[Any], future: "asyncio.Future[Any]") -> None:
        self.task, self.options, self.inputs, self.future = task, options, inputs, future
        self.is_dropped = False
        self.prepared: list[Any] = []
        self.cost = 0

    def drop(self) -> None:
        """Nobody waits for the results: they are not computed unless that has begun. From the event loop."""
        self.is_dropped = True
        self.future.cancel()


class Batcher:
    """A thread that computes; it begins with `start`, so that a process may fork before.

    observe: is told the texts, tokens and seconds of each batch.
    """

    def __init__(self, max_batch_tokens: int, max_wait: float, observe: Callable[[int, int, float], object]) -> None:
        self._most, self._max_wait, self._observe = max_batch_tokens, max_wait, observe
        self._enough = _ENOUGH * get_num_threads()
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._ready: deque[Work] = deque()  # tokenized, not computed yet; the thread's own
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._open = 0  # requests without results; the event loop's own
        self._active = 0  # the most of these when results of the last batch were there

    @property
    def is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """From the event loop in which results are to arrive."""
        self._loop = asyncio.get_running_loop()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="pyattn-server", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Ends the thread when all that was submitted is computed."""
        self._queue.put(None)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def submit(self, task: Task, options: Hashable, inputs: list[Any]) -> Work:
        """From the event loop: puts inputs in the queue."""
        work = Work(task, options, inputs, self._loop.create_future())
        work.future.add_done_callback(self._close)
        self._open += 1
        self._queue.put(work)
        return work

    def _close(self, future: "asyncio.Future[Any]") -> None:
        self._open -= 1

    # --- in the thread

    def _run(self) -> None:
        while self._take():
            batch, cost = self._batch()
            if batch:
                begin = time.perf_counter()
                self._active = 0
                self._in_groups(batch, _compute)
                self._observe(sum(len(work.inputs) for work in batch), cost, time.perf_counter() - begin)
        # What is left was submitted after the end.
        self._settle([(work, None, RuntimeError("the server has stopped")) for work in self._ready])

    def _take(self) -> bool:
        """Takes and tokenizes what has come, waiting if there is nothing to do; whether there will be more."""
        taken: list[Work] = []
        if not self._ready and not self._stopping:
            self._append(taken, self._queue.get())
            self._gather(taken)
        while not self._stopping:
            try:
                self._append(taken, self._queue.get_nowait())
            except Empty:
                break
        live = [work for work in taken if not work.is_dropped]
        self._in_groups(live, _prepare)
        self._ready.extend(work for work in live if work.prepared)
        return bool(self._ready) or not self._stopping

    def _gather(self, taken: list[Work]) -> None:
        """Waits for as many requests as there were lately, if they are few tokens."""
        end, tokens = time.perf_counter() + self._max_wait, 0
        while not self._stopping and len(taken) < self._active and (left := end - time.perf_counter()) > 0:
            tokens += sum(map(taken[-1].task.estimate, taken[-1].inputs))
            if tokens >= self._enough:
                return
            try:
                self._append(taken, self._queue.get(timeout=left))
            except Empty:
                return

    def _append(self, taken: list[Work], work: Work | None) -> None:
        if work is None:
            self._stopping = True
        else:
            taken.append(work)

    def _batch(self) -> tuple[list[Work], int]:
        """The next requests, up to so many tokens, and how many these are."""
        batch: list[Work] = []
        cost = 0
        while self._ready and (not batch or cost + self._ready[0].cost <= self._most):
            work = self._ready.popleft()
            if not work.is_dropped:
                batch.append(work)
                cost += work.cost
        return batch, cost

    def _in_groups(self, works: list[Work], step: Callable[[list[Work]], list[Any] | None]) -> None:
        """Takes a step with those that may share a call; where it fails, with each alone, to find who is at fault."""
        groups: dict[Hashable, list[Work]] = {}
        for work in works:
            groups.setdefault((id(work.task), work.options), []).append(work)
        for group in groups.values():
            self._step(group, step)

    def _step(self, group: list[Work], step: Callable[[list[Work]], list[Any] | None]) -> None:
        try:
            results = step(group)
        except BaseException as error:
            if len(group) > 1:
                for work in group:
                    self._step([work], step)
                return
            if not isinstance(error, TypeError | ValueError):
                _log.exception("a request could not be computed")
            self._settle([(group[0], None, error if isinstance(error, Exception) else RuntimeError(repr(error)))])
            return
        if results is not None:
            self._settle([(work, result, None) for work, result in zip(group, results, strict=True)])

    def _settle(self, results: list[tuple[Work, Any, Exception | None]]) -> None:
        self._active = max(self._active, self._open)  # before their clients can come again
        if results and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_deliver, results)


def _prepare(group: list[Work]) -> None:
    task = group[0].task
    prepared = task.prepare(group[0].options, [x for work in group for x in work.inputs])
    start = 0
    for work in group:
        work.prepared = prepared[start : start + len(work.inputs)]
        work.cost = sum(map(task.cost, work.prepared))
        start += len(work.inputs)


def _compute(group: list[Work]) -> list[Any]:
    """For each request the results of its inputs, and its tokens."""
    task = group[0].task
    results = task.compute(group[0].options, [x for work in group for x in work.prepared])
    found, start = [], 0
    for work in group:
        found.append((results[start : start + len(work.inputs)], work.cost))
        start += len(work.inputs)
    return found


def _deliver(results: list[tuple[Work, Any, Exception | None]]) -> None:
    for work, result, error in results:
        if work.future.done():  # dropped meanwhile
            continue
        if error is None:
            work.future.set_result(result)
        else:
            work.future.set_exception(error)
