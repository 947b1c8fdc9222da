"""Beside what servers run: forking web servers, parallel test runners, other OpenMP runtimes. All with time limits."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import pyattn
from tests.support.tiny_model import CONFIG, random_tensors, write_model

pytestmark = [pytest.mark.server, pytest.mark.slow]
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
needs_openmp = pytest.mark.skipif(not pyattn.info()["openmp"], reason="built without OpenMP")

# 19 MB of weights
LARGE = CONFIG | {"hidden_size": 256, "num_attention_heads": 8, "intermediate_size": 1024, "num_hidden_layers": 6}

# Encodes once in the parent, whose vectors every worker must give again.
APPLICATION = """
import json, os
from pathlib import Path
import numpy as np
import pyattn
folder = Path(__file__).parent
encoder = pyattn.SentenceEncoder.from_pretrained(folder / "model")
texts = ["the cat sat on a mat", "find the root of a function", "a dog ran", "solve the equation"] * 2
np.save(folder / "parent.npy", encoder.encode(texts))
(folder / "parent").write_text(str(os.getpid()))

def private():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Private_Dirty"))

def application(environ, start_response):
    vectors = encoder.encode(texts)
    answer = {"worker": os.getpid(), "parent": os.getppid(), "threads": len(os.listdir("/proc/self/task"))}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(answer | {"private": private(), "vectors": vectors.tobytes().hex()}).encode()]
"""


def answer_of(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/")
        response = connection.getresponse()
        assert response.status == 200
        return json.loads(response.read())
    finally:
        connection.close()


@linux
@needs_openmp
@pytest.mark.parametrize("config", [CONFIG, LARGE], ids=["tiny", "large"])
def test_a_preloaded_web_server(config, tmp_path):
    """Workers give the parent's vectors, on their own threads, from the weights that they share with it."""
    pytest.importorskip("gunicorn")
    tensors = random_tensors(config)
    write_model(tmp_path / "model", config=config, tensors=tensors)
    (tmp_path / "application.py").write_text(APPLICATION)
    options = ["--preload", "--workers", "2", "--timeout", "120", "--chdir", str(tmp_path)]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port, number = listening.getsockname()[1], listening.fileno()
        server = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", *options, "--bind", f"fd://{number}", "application"],
            env=os.environ | {"PYATTN_NUM_THREADS": "2"},
            pass_fds=[number],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            answers = []
            with ThreadPoolExecutor(4) as clients:
                for _ in range(20):  # until both workers have answered
                    answers += clients.map(answer_of, [port] * 8)
                    if len({answer["worker"] for answer in answers}) == 2:
                        break
            server.terminate()
            log, _ = server.communicate(timeout=60)
            assert server.returncode == 0, log
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGKILL)
                print(server.communicate()[0])
    assert len({answer["worker"] for answer in answers}) == 2
    assert {answer["parent"] for answer in answers} == {int((tmp_path / "parent").read_text())}
    assert {answer["vectors"] for answer in answers} == {np.load(tmp_path / "parent.npy").tobytes().hex()}
    if config is LARGE:
        weights = sum(tensor.nbytes for tensor in tensors.values())
        assert {answer["threads"] for answer in answers} == {2}
        assert max(answer["private"] for answer in answers) < weights / 2


def test_parallel_test_runners():
    """Some of these tests in two processes of pytest-xdist at once."""
    pytest.importorskip("xdist")
    here = Path(__file__).parent
    files = [here / "test_activations.py", here / "positional" / "test_rotary.py"]
    command = [sys.executable, "-m", "pytest", "-n", "2", "-p", "no:cacheprovider", *map(str, files)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=here.parent, env=environment, timeout=300, text=True, capture_output=True)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout + done.stderr


SETUP = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import pyattn
rng = np.random.default_rng(0)
x = rng.standard_normal((8, 300, 64), dtype=np.float32)
layer = pyattn.TransformerEncoderLayer(64, 2, 128, rng=0)
pyattn.set_num_threads(2)
def work():
    return pyattn.scaled_dot_product_attention(x, x, x), layer(x)
def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
def exit_of(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""

OTHERS = {
    "sklearn": """
import threadpoolctl
from sklearn.metrics import pairwise_distances_argmin_min
rows = np.random.default_rng(1).standard_normal((2000, 16), dtype=np.float32)
def other():
    return pairwise_distances_argmin_min(rows, rows[::-1] + 1)
def other_in_child():
    with threadpoolctl.threadpool_limits(1):
        return other()
""",
    "torch": """
import torch
torch.set_num_threads(2)
rows = torch.from_numpy(np.random.default_rng(1).standard_normal((1000, 500), dtype=np.float32))
def other():
    return torch.softmax(rows, 1).numpy(), (rows * rows).sum(0).numpy()
def other_in_child():
    torch.set_num_threads(1)
    return other()
""",
}

# After a fork the other libraries wait for threads that the child does not have, unless they are to use only one.
TURNS = """
expected, others = work(), other()
for _ in range(10):
    assert same(work(), expected) and same(other(), others)
with ThreadPoolExecutor(4) as pool:
    found = [pool.submit(call) for _ in range(10) for call in (work, other)]
    assert all(same(future.result(), right) for future, right in zip(found, [expected, others] * 10, strict=True))
child = os.fork()
if child == 0:
    before = len(os.listdir("/proc/self/task"))
    right = same(work(), expected) and before == 1 and len(os.listdir("/proc/self/task")) == 2
    os._exit(0 if right and same(other_in_child(), others) and same(work(), expected) else 3)
assert exit_of(child) == 0
assert same(work(), expected) and same(other(), others)
"""


@linux
@needs_openmp
@pytest.mark.parametrize("first", ["pyattn", "other"])
@pytest.mark.parametrize("name", OTHERS)
def test_another_openmp_runtime(name, first):
    """A process with two of them: by turns, at the same time, and in a child that was forked after both were used."""
    pytest.importorskip(name)
    code = SETUP + OTHERS[name] if first == "pyattn" else f"import {name}\n" + SETUP + OTHERS[name]
    command = [sys.executable, "-W", "ignore", "-c", code + TURNS]
    passive = os.environ | {"OMP_WAIT_POLICY": "passive"}  # waiting threads of one would keep the cores from the other
    done = subprocess.run(command, env=passive, timeout=120, text=True, capture_output=True)
    assert done.returncode == 0, (done.returncode, done.stderr)


PARALLEL = """
void in_parallel(void (*call)(void)) {
#pragma omp parallel num_threads(2)
  {
#pragma omp master
    call();
  }
}
"""

FORKS = """
import ctypes
expected = work()
codes = []
def fork():
    child = os.fork()
    if child == 0:
        pyattn.set_num_threads(4)
        with pyattn.num_threads(3):
            right = same(work(), expected) and len(os.listdir("/proc/self/task")) == 3
        grandchild = os.fork()
        if grandchild == 0:
            os._exit(0 if same(work(), expected) and len(os.listdir("/proc/self/task")) == 4 else 4)
        right = right and exit_of(grandchild) == 0 and same(work(), expected)
        os._exit(0 if right else 3)
    codes.append(exit_of(child))
ctypes.CDLL(sys.argv[1]).in_parallel(ctypes.CFUNCTYPE(None)(fork))
assert codes == [0], codes
assert same(work(), expected) and pyattn.get_num_threads() == 2
"""


@linux
@needs_openmp
def test_a_fork_in_a_parallel_region(tmp_path):
    """OpenMP's threads do not survive it, though its runtime believes in them; ours are made again."""
    name = pyattn.info()["compiler"].partition(" ")[0]
    compiler = shutil.which(os.environ.get("CC", name))
    if compiler is None or name not in compiler:
        pytest.skip("needs the compiler whose OpenMP pyattn uses")
    source, library = tmp_path / "parallel.c", tmp_path / "parallel.so"
    source.write_text(PARALLEL)
    subprocess.run([compiler, "-fopenmp", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    command = [sys.executable, "-W", "ignore", "-c", SETUP + FORKS, str(library)]
    done = subprocess.run(command, timeout=120, text=True, capture_output=True)
    assert done.returncode == 0, (done.returncode, done.stderr)
