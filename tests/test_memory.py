"""No read or write beyond the caller's arrays, no leak, MemoryError where memory runs out, files written whole."""

import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import pyattn
from pyattn._core import runtime
from tests.support.marks import portable
from tests.tools import failing_malloc

ROOT = Path(__file__).parents[1]
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@pytest.fixture(scope="module")
def preloaded(tmp_path_factory):
    """The library of failing_malloc.c."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or platform.libc_ver()[0] != "glibc" or runtime.sanitized:
        pytest.skip("needs a C compiler, glibc, and its allocator")
    library = tmp_path_factory.mktemp("library") / "failing_malloc.so"
    source = ROOT / "tests" / "tools" / "failing_malloc.c"
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", str(source), "-o", str(library), "-ldl"], check=True)
    return library


def tool(name, *arguments, **environment):
    """A module of tests/tools, run in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", f"tests.tools.{name}", *arguments]
    environment = os.environ | environment
    return subprocess.run(command, cwd=ROOT, env=environment, timeout=300, text=True, capture_output=True)


def run(code, *arguments):
    command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    done = subprocess.run(command, timeout=300, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@linux
def test_nothing_beyond_the_arrays_is_touched():
    done = tool("guarded")
    assert done.returncode == 0 and done.stdout == "done\n", (done.returncode, done.stderr)


@linux
def test_the_guard_would_notice():
    """A read one element beyond the end, by NumPy itself, ends such a process."""
    code = """
import sys
import numpy as np
from tests.tools.guarded import guarded
x = guarded(np.zeros(100, np.float32), sys.argv[1] == "end")
beyond = np.lib.stride_tricks.as_strided(x, (101,)) if sys.argv[1] == "end" else x[:1][::-1]
beyond = np.lib.stride_tricks.as_strided(x, (2,), (-4,)) if sys.argv[1] == "start" else beyond
print(beyond.sum())
"""
    for side in ("end", "start"):
        done = subprocess.run([sys.executable, "-c", code, side], cwd=ROOT, timeout=60, capture_output=True)
        assert done.returncode == -signal.SIGSEGV


@pytest.mark.slow
@linux
def test_nothing_is_leaked():
    """Ten thousand calls of all kinds, refused ones among them, do not grow the process."""
    out = run("""
import numpy as np, pyattn
def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))
rng = np.random.default_rng(0)
x = rng.standard_normal((2, 20, 16), dtype=np.float32)
layer = pyattn.TransformerEncoderLayer(16, 2, 24, gated=True, rotary_base=100.0, dtype="int8", rng=0)
state = layer.state_dict()
def calls(count):
    for i in range(count):
        pyattn.scaled_dot_product_attention(x, x, x, is_causal=bool(i % 2), return_lse=True, return_weights=True)
        layer(x, key_mask=x[..., 0] > -1)
        if i % 50 == 0:
            layer.load_state_dict(state)
            pyattn.attention_statistics(x, x, x, entropy=True, received=True, top_k=3)
        for wrong in (x[..., :3], "text", x.astype(int)):
            try:
                pyattn.scaled_dot_product_attention(x, wrong, x)
            except (TypeError, ValueError):
                pass
calls(500)
before = resident()
calls(5000)
print(resident() - before)
""")
    assert int(out) < 500  # KiB


@pytest.mark.slow
@linux
@portable
def test_ragged_batches_do_not_grow_the_process():
    """The short form of tests/tools/soak_encode.py."""
    done = tool("soak_encode", "--batches", "400", "--early", "100", OMP_WAIT_POLICY="passive")
    assert done.returncode == 0, (done.stdout, done.stderr)


@linux
def test_weights_take_their_bytes_and_return_them():
    """Those that share blocks of huge pages do; small layers, which stay, are in none."""
    out = run("""
import numpy as np, pyattn
def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) / 1024
def made(count, outputs):
    layers = [pyattn.Linear(512, outputs, rng=i) for i in range(count)]
    return [layer for layer in layers if layer(np.ones((1, 512), np.float32)) is not None]
made(2, 600)
start = resident()
kept = made(30, 10)
small = resident()
layers = made(45, 700)
held = resident()
del layers
print(small - start, held - small, resident() - small)
""")
    small, held, left = map(float, out.split())  # MiB
    exact = 45 * 512 * 704 * 4 / 2**20
    assert small < 2 and exact < held + 1 < exact * 1.1 + 3 and left < 2


def test_weights_that_threads_pack_at_once_and_children_of_forks_lie_apart():
    """Each layer gives what it gave first, whoever packs others meanwhile, though they share blocks."""
    run("""
import os, sys, threading
import numpy as np, pyattn
x = np.random.default_rng(0).standard_normal((3, 256), dtype=np.float32)
found = {}
def make(first):
    for seed in range(first, first + 15):
        layer = pyattn.Linear(256, 100 + seed, rng=seed)
        found[seed] = layer, layer(x)
threads = [threading.Thread(target=make, args=(15 * i,)) for i in range(8)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
def check():
    assert all(np.array_equal(layer(x), first) for layer, first in found.values())
    assert all(np.array_equal(pyattn.Linear(256, 100 + seed, rng=seed)(x), first) for seed, (_, first) in found.items())
check()
if hasattr(os, "fork"):
    child = os.fork()
    make(200 if child else 300)
    check()
    if not child:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    check()
""")


@linux
def test_memory_that_runs_out():
    """Under a limit of the address space: MemoryError, and what comes after works."""
    run("""
import resource
import numpy as np, pyattn
x = np.random.default_rng(0).standard_normal((4, 300, 64), dtype=np.float32)
pyattn.set_num_threads(2)
layer = pyattn.Linear(64, 64, rng=0)
expected = pyattn.scaled_dot_product_attention(x, x, x), layer(x)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20), resource.RLIM_INFINITY))
many = np.broadcast_to(x[:1, :1], (1, 2**22, 64))
failed = 0
for call in (
    lambda: pyattn.scaled_dot_product_attention(many, x[:1], x[:1]),
    lambda: pyattn.scaled_dot_product_attention(many, x[:1], x[:1], return_weights=True),
    lambda: layer(many),
    lambda: pyattn.Linear(20000, 20000).state_dict(),
    lambda: pyattn.TransformerEncoderLayer(64, 2, 64)(many),
    lambda: pyattn.gelu(many),
):
    try:
        call()
    except MemoryError:
        failed += 1
    assert all(np.array_equal(a, b) for a, b in zip((pyattn.scaled_dot_product_attention(x, x, x), layer(x)), expected))
assert failed == 6, failed
""")


@pytest.mark.slow
@linux
@portable
@pytest.mark.parametrize("kind", [kind.__name__ for kind in failing_malloc.KINDS])
def test_any_allocation_may_fail(kind, preloaded, tmp_path):
    """MemoryError, whichever it is; and what comes after works."""
    environment = {"LD_PRELOAD": str(preloaded), "OMP_WAIT_POLICY": "passive"}
    done = tool("failing_malloc", str(preloaded), kind, str(tmp_path), **environment)
    assert done.returncode == 0 and done.stdout == "done\n", (done.returncode, done.stderr)


@linux
def test_sizes_of_all_kinds():
    done = tool("huge")
    assert done.returncode == 0 and done.stdout == "done\n", (done.returncode, done.stderr)


@pytest.mark.parametrize("shape", [(1, 2**31, 4), (1, 2**40, 4), (2**40, 2**20, 4), (2**31, 2**31, 4), (1, 4, 2**58)])
def test_sizes_that_no_memory_holds(shape):
    """Made by strides of 0: refused, or out of memory; never an overflow."""
    try:
        huge = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), shape, (0, 0, 0))
    except ValueError:
        pytest.skip("NumPy has no such array")
    for call in (pyattn.scaled_dot_product_attention, pyattn.attention_statistics):
        with pytest.raises((ValueError, MemoryError)):
            call(huge, huge, huge)


WRITER = """
import sys
import numpy as np
from pyattn.tasks.passages import Passage
from pyattn.tasks.search_index import SearchIndex
print("ready", flush=True)
number = 0
while True:
    number += 1
    passages = [Passage(f"text {number}", "file.py", i, "name") for i in range(300)]
    SearchIndex(passages, np.full((300, 64), number, np.float32), "model", str(number)).save(sys.argv[1])
"""


@pytest.mark.slow
@portable
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs signals")
def test_an_index_whose_writer_is_killed_is_whole(tmp_path):
    """At any moment: what is there is the old file or a new one, from one write."""
    from pyattn.tasks.search_index import SearchIndex

    rng = np.random.default_rng(0)
    path, seen = tmp_path / "index.npz", set()
    for _ in range(int(os.environ.get("PYATTN_KILLS", "12"))):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
        writer.stdout.readline()
        time.sleep(0.02 + rng.random() * 0.05)
        writer.kill()
        writer.wait()
        writer.stdout.close()
        if path.exists():
            index = SearchIndex.load(path)
            (number,) = set(index.vectors.ravel())
            assert index.fingerprint == str(int(number)) and len(index.passages) == 300
            assert {passage.text for passage in index.passages} == {f"text {int(number)}"}
            seen.add(int(number))
    assert seen
