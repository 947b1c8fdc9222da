"""A cluster of two processes of one thread, of which one is killed while it computes."""

import contextlib
import logging
import os
import signal
import time

import distributed


@contextlib.contextmanager
def two_workers():
    """A client of them; what distributed logs of their ends is not shown."""
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with (
        distributed.LocalCluster(**options, silence_logs=logging.CRITICAL) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def computed_beside_a_kill(client, collection):
    """The result of a collection of which one worker has computed some chunks, and is killed with them."""
    persisted = client.persist(collection)
    futures = distributed.futures_of(persisted)
    _finish(futures, 4)
    held = {worker for workers in client.who_has(futures).values() for worker in workers}
    victim = sorted(held)[0]
    pid = client.run(os.getpid, workers=[victim])[victim]
    assert sum(future.done() for future in futures) < len(futures)  # it is half way
    os.kill(pid, signal.SIGKILL)
    result = persisted.compute()
    assert victim not in client.scheduler_info()["workers"]
    return result


def _finish(futures, enough):
    deadline = time.monotonic() + 120
    while sum(future.done() for future in futures) < enough:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def slowly(x):
    time.sleep(0.1)
    return x
