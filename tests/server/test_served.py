"""`pyattn serve` and gunicorn over loopback: the openai client, many clients at once, wrk, and how servers end."""

import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from tests.support.served import SECONDS, body_of, ended, served, until

pytestmark = [
    pytest.mark.server,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX"),
]

TEXTS = ["the cat sat on a mat", "find the root of a function.", "Dog", "a dog ran on a mat", "solve the equation", ""]


@pytest.fixture(scope="module")
def server(folder, reranker_folder):
    with served("--model", folder, "--reranker", reranker_folder) as (process, address):
        yield process, address
        assert ended(process) == 0


def post(address, path, body, **headers):
    """Status and answer."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=SECONDS)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"} | headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def count(address, name):
    """A counter of /metrics."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=SECONDS)
    try:
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
    finally:
        connection.close()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def test_the_openai_client(server, encoder):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{server[1]}/v1", api_key="none", max_retries=0, timeout=SECONDS)
    with client:
        for options in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
            answer = client.embeddings.create(input=TEXTS, model="any", **options)
            rows = [x.embedding for x in answer.data]
            if isinstance(rows[0], str):
                continue  # which it leaves to those who ask for it themselves
            assert np.array(rows, np.float32).tobytes() == encoder.encode(TEXTS).tobytes(), options
        assert answer.usage.prompt_tokens == sum(map(len, encoder.token_ids(TEXTS)))
        assert answer.model == "tiny-embedder"
        answer = client.embeddings.create(input=TEXTS[0], model="any", dimensions=5, user="me")
        vectors = encoder.encode(TEXTS[:1], normalize=True, truncate_dim=5)
        assert np.array(answer.data[0].embedding, np.float32).tobytes() == vectors.tobytes()
        answer = client.embeddings.create(input=encoder.token_ids(TEXTS), model="any")
        found = np.array([x.embedding for x in answer.data], np.float32)
        assert found.tobytes() == encoder.encode(TEXTS).tobytes()
        answer = client.embeddings.create(input=TEXTS, model="any", extra_body={"prompt_name": "query"})
        found = np.array([x.embedding for x in answer.data], np.float32)
        assert found.tobytes() == encoder.encode_query(TEXTS).tobytes()
        assert [model.id for model in client.models.list()] == ["tiny-embedder", "tiny-reranker"]
        with pytest.raises(openai.BadRequestError, match="dimensions must be an integer from 1 to 24, not 25") as error:
            client.embeddings.create(input="a", model="any", dimensions=25)
        assert error.value.param == "dimensions" and error.value.code == "invalid_value"


def test_errors_that_the_openai_client_knows(folder):
    openai = pytest.importorskip("openai")
    settings = ["--model", folder, "--payload-limit", "2KB", "--max-client-batch-size", "4"]
    with served(*settings, environment={"PYATTN_API_KEY": "secret"}) as (process, address):
        options = {"base_url": f"{address}/v1", "max_retries": 0, "timeout": SECONDS}
        with openai.OpenAI(api_key="wrong", **options) as client, pytest.raises(openai.AuthenticationError):
            client.embeddings.create(input="a", model="any")
        with openai.OpenAI(api_key="secret", **options) as client:
            assert len(client.embeddings.create(input=["a"] * 4, model="any").data) == 4
            for inputs in (["a"] * 5, "a" * 3000, "a" * 10**7):  # the last is still being sent when it is refused
                with pytest.raises(openai.APIStatusError) as error:
                    client.embeddings.create(input=inputs, model="any")
                assert error.value.status_code == 413
            assert len(client.embeddings.create(input="a", model="any").data) == 1
        assert ended(process) == 0


def test_eight_clients_have_the_bits_of_the_notebook(server, encoder, reranker):
    """Whoever shares their batches: each sends other texts in another order, of other sizes, some of them scores."""
    rng = np.random.default_rng(0)
    words = ["the", "cat", "dog", "sat", "ran", "on", "a", "mat", "root", "find", "solve"]
    texts = [" ".join(rng.choice(words, rng.integers(1, 10))) for _ in range(40)]
    vectors, scores = encoder.encode(texts), reranker.predict([(texts[0], text) for text in texts])
    before = count(server[1], "pyattn_batch_seconds_count"), count(server[1], "pyattn_batch_texts_sum")

    def work(seed):
        rng = np.random.default_rng(seed)
        connection = http.client.HTTPConnection(urlsplit(server[1]).netloc, timeout=SECONDS)
        for turn in range(30):
            chosen = rng.choice(len(texts), rng.integers(1, 6))
            given = [texts[i] for i in chosen]
            if turn % 5 == 4:
                connection.request("POST", "/rerank", body_of(query=texts[0], texts=given))
                answer = json.loads(connection.getresponse().read())
                found = np.empty(len(given), np.float32)
                found[[x["index"] for x in answer]] = [x["score"] for x in answer]
                assert found.tobytes() == scores[chosen].tobytes()
            else:
                connection.request("POST", "/v1/embeddings", body_of(input=given))
                answer = json.loads(connection.getresponse().read())
                found = np.array([x["embedding"] for x in answer["data"]], np.float32)
                assert found.tobytes() == vectors[chosen].tobytes()
        connection.close()
        return True

    with ThreadPoolExecutor(8) as clients:
        assert all(clients.map(work, range(8)))
    batches = count(server[1], "pyattn_batch_seconds_count") - before[0]
    assert batches < 8 * 30  # they did share some


def test_wrk_finds_no_error(server, tmp_path):
    wrk = shutil.which("wrk")
    if wrk is None:
        pytest.skip("needs wrk")
    script = tmp_path / "post.lua"
    script.write_text(f"""
wrk.method, wrk.body = "POST", [[{json.dumps({"input": TEXTS})}]]
wrk.headers["Content-Type"] = "application/json"
done = function(summary)
  local e = summary.errors
  print("RESULT " .. summary.requests .. " " .. e.connect + e.read + e.write + e.status + e.timeout)
end
""")
    command = [wrk, "-t1", "-c8", "-d2s", "--timeout", "30s", "-s", str(script), f"{server[1]}/v1/embeddings"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    requests, errors = map(int, done.stdout.partition("RESULT ")[2].split())
    assert requests > 0 and errors == 0, done.stdout


def test_a_client_that_goes_while_others_wait(server, encoder):
    """Connections that are cut at any point leave the others' answers as they are."""
    host, port = urlsplit(server[1]).netloc.split(":")
    body = body_of(input=TEXTS * 5)
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for sent in (head[:30], head, head + body[:50], head + body):
        for _ in range(5):
            with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
                connection.sendall(sent)
        status, answer = post(server[1], "/v1/embeddings", body_of(input=TEXTS))
        found = np.array([x["embedding"] for x in answer["data"]], np.float32)
        assert status == 200 and found.tobytes() == encoder.encode(TEXTS).tobytes()
    until(lambda: count(server[1], "pyattn_requests_in_flight") == 0)


def test_what_was_taken_is_answered_before_the_end(folder):
    """SIGTERM while clients send one request after another: none that was taken is lost, and the status is 0."""
    with served("--model", folder) as (process, address):
        answered = []

        def work(number):
            with closing(http.client.HTTPConnection(urlsplit(address).netloc, timeout=SECONDS)) as connection:
                while True:
                    try:  # refused: the server listens no more; or closed while it waited for this request
                        connection.request("POST", "/v1/embeddings", body_of(input=TEXTS * 5))
                        response = connection.getresponse()
                    except ConnectionError:
                        return
                    answered.append((response.status, len(json.loads(response.read())["data"])))

        with ThreadPoolExecutor(4) as clients:
            futures = [clients.submit(work, number) for number in range(4)]
            until(lambda: len(answered) > 20)
            process.send_signal(signal.SIGTERM)
            for future in futures:
                future.result(SECONDS)
        assert process.wait(SECONDS) == 0
        assert set(answered) == {(200, len(TEXTS) * 5)}


def test_a_port_that_is_taken(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-W", "ignore", "-m", "pyattn", "serve", "--model", str(folder), "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode != 0 and "address already in use" in done.stderr


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
def test_gunicorn_with_preload(folder, encoder):
    """The application is made in the parent, whose weights the workers share; each begins its own thread."""
    pytest.importorskip("gunicorn")
    pytest.importorskip("uvicorn_worker")
    made = f"pyattn.server:application({str(folder)!r}, max_client_batch_size=8)"
    options = ["--preload", "--workers", "2", "--bind", "127.0.0.1:0", "--worker-class", "uvicorn_worker.UvicornWorker"]
    with served(*options, made, command=("-m", "gunicorn")) as (process, address):
        workers = set()
        expected = encoder.encode(TEXTS).tobytes()

        def work(number):
            status, answer = post(address, "/v1/embeddings", body_of(input=TEXTS))
            return status, np.array([x["embedding"] for x in answer["data"]], np.float32).tobytes()

        with ThreadPoolExecutor(4) as clients:
            for _ in range(20):
                assert set(clients.map(work, range(8))) == {(200, expected)}
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                workers |= {x for x in children if len(list(Path(f"/proc/{x}/task").iterdir())) > 1}
                if len(workers) == 2:
                    break
        assert len(workers) == 2
        assert post(address, "/v1/embeddings", body_of(input=["a"] * 9))[0] == 413
        assert ended(process) == 0
