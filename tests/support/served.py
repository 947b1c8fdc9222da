"""Servers for tests: applications in this process, and `pyattn serve` in another."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

SECONDS = 60  # until a server that has not started or ended is given up


def needs_server():
    for name in ("starlette", "uvicorn", "orjson", "prometheus_client", "tokenizers", "safetensors"):
        pytest.importorskip(name)


@contextlib.contextmanager
def client_of(application, **options):
    """Starlette's client of an application that runs."""
    with contextlib.suppress(ImportError):  # else it takes httpx, with a warning
        import httpx2  # noqa: F401
    testclient = pytest.importorskip("starlette.testclient", exc_type=(ImportError, RuntimeError))
    with testclient.TestClient(application, **options) as client:
        yield client


class Gate:
    """Stands before a method: calls wait until it opens."""

    def __init__(self, thing, name):
        self._method, self._open = getattr(thing, name), threading.Event()
        self.calls, self.entered = [], threading.Semaphore(0)
        setattr(thing, name, self)

    def __call__(self, inputs, **options):
        self.calls.append(len(inputs))
        self.entered.release()
        assert self._open.wait(SECONDS)
        return self._method(inputs, **options)

    def open(self):
        self._open.set()


def error_of(response, status):
    """The error that an answer tells, in the shape of OpenAI's."""
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    error = response.json()["error"]
    assert list(error) == ["message", "type", "param", "code"] and len(error["message"]) > 10
    return error


@contextlib.asynccontextmanager
async def running(application):
    """An application whose lifespan has started, in this event loop."""
    async with application.router.lifespan_context(application):
        yield application


class Call:
    """A request to an application, of which the test decides when its body comes and when its client goes."""

    def __init__(self, application, path, body=b"", *, method="POST", headers=()):
        self._incoming = asyncio.Queue()
        self.sent = []
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        if body is not None:
            self.receive({"type": "http.request", "body": body, "more_body": False})
        self.task = asyncio.create_task(application(scope, self._incoming.get, self._send))

    def receive(self, message):
        self._incoming.put_nowait(message)

    def leave(self):
        self.receive({"type": "http.disconnect"})

    async def _send(self, message):
        self.sent.append(message)

    async def answer(self):
        """Status and body."""
        await asyncio.wait_for(self.task, SECONDS)
        return self.sent[0]["status"], b"".join(message.get("body", b"") for message in self.sent[1:])


def body_of(**values):
    return json.dumps(values).encode()


@contextlib.contextmanager
def served(*arguments, environment=None, command=("-m", "pyattn", "serve", "--port", "0")):
    """A server in a process of its own: the process, and where it listens. It is killed if it has not ended."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", *command, *map(str, arguments)],
        env=os.environ | {"OMP_WAIT_POLICY": "passive", "PYTHONUNBUFFERED": "1"} | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    log = []
    found = threading.Event()

    def read():
        for line in process.stdout:
            log.append(line)
            if re.search(r"https?://127\.0\.0\.1:\d+", line):
                found.set()
        found.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        assert found.wait(SECONDS), "".join(log)
        address = re.search(r"https?://127\.0\.0\.1:\d+", "".join(log))
        assert address is not None, "".join(log)
        yield process, address[0]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(SECONDS)
        reader.join(SECONDS)
        process.stdout.close()


def ended(process):
    """The status of a process that is told to end."""
    process.send_signal(signal.SIGTERM)
    return process.wait(SECONDS)


def until(condition):
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
