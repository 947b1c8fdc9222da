"""How many threads calls take, after forks, within limits and beside one another. Every child has a time limit."""

import asyncio
import copy
import os
import subprocess
import sys
import sysconfig
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import pyattn
from pyattn import _threads
from pyattn.layers import linear

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
needs_openmp = pytest.mark.skipif(not pyattn.info()["openmp"], reason="built without OpenMP")
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

SETUP = """
import os, sys, threading
import numpy as np
import pyattn
rng = np.random.default_rng(0)
query, key, value = rng.standard_normal((3, 8, 300, 64), dtype=np.float32)
layer = pyattn.TransformerEncoderLayer(64, 2, 128, rng=0)
def work():
    return pyattn.scaled_dot_product_attention(query, key, value), layer(query)
def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b))
def tasks():
    return len(os.listdir("/proc/self/task"))
def exit_of(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


def run(code, **environment):
    """A new process that runs the code; one that hangs fails."""
    command = [sys.executable, "-W", "ignore", "-c", SETUP + code]
    done = subprocess.run(command, env=os.environ | environment, timeout=120, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_fork
@linux
@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_a_forked_child_has_its_threads(threads):
    """Used before, forked, used in the child and in its own child: right, on as many threads, and so in the parent."""
    run(f"""
pyattn.set_num_threads({threads})
expected = work()
child = os.fork()
if child == 0:
    before = tasks()
    right = same(work(), expected) and before == 1 and tasks() == {threads}
    grandchild = os.fork()
    if grandchild == 0:
        os._exit(0 if same(work(), expected) and tasks() == {threads} else 4)
    os._exit(0 if right and exit_of(grandchild) == 0 else 3)
assert exit_of(child) == 0
assert same(work(), expected) and tasks() == {threads}
""")


@needs_fork
@linux
def test_forks_from_threads_and_while_others_compute():
    run("""
pyattn.set_num_threads(3)
expected = work()
stop = False
def busy():
    while not stop:
        assert same(work(), expected)
def forks(failures):
    for _ in range(20):
        work()
        child = os.fork()
        if child == 0:
            os._exit(0 if same(work(), expected) and tasks() == 3 else 3)
        failures.append(exit_of(child))
workers = [threading.Thread(target=busy) for _ in range(2)]
failures = []
for worker in workers:
    worker.start()
forker = threading.Thread(target=forks, args=(failures,))
forker.start()
forker.join()
stop = True
for worker in workers:
    worker.join()
assert failures == [0] * 20, failures
assert same(work(), expected)
""")


@needs_fork
@pytest.mark.skipif(not hasattr(os, "kill"), reason="needs signals")
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_signals_handler_forks_during_a_call(threads):
    """Parent and child both finish the call, and those after it."""
    run(f"""
import signal
pyattn.set_num_threads({threads})
expected = work()
long = rng.standard_normal((1, 12000, 64), dtype=np.float32)
whole = pyattn.scaled_dot_product_attention(long, long, long)
children = []
signal.signal(signal.SIGALRM, lambda *_: children.append(os.fork()))
signal.setitimer(signal.ITIMER_REAL, 0.05)
right = True
while not children:
    right &= np.array_equal(pyattn.scaled_dot_product_attention(long, long, long), whole)
right &= all(same(work(), expected) for _ in range(2))
if children == [0]:
    os._exit(0 if right else 3)
assert right and exit_of(children[0]) == 0
""")


@needs_fork
def test_a_child_that_was_never_used_before_the_fork():
    run("""
child = os.fork()
if child == 0:
    pyattn.set_num_threads(4)
    first = work()
    os._exit(0 if same(work(), first) else 3)
assert exit_of(child) == 0
""")


POOLS = """
def task(i):
    return work()[0][0, i].tolist()
if __name__ == "__main__":
    pyattn.set_num_threads(2)
    expected = [task(i) for i in range(4)]
    from concurrent.futures import ProcessPoolExecutor
    import multiprocessing
    context = multiprocessing.get_context(sys.argv[1])
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        assert list(pool.map(task, range(4))) == expected
    with context.Pool(2) as pool:
        assert pool.map(task, range(4)) == expected
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_process_pools(method, tmp_path):
    import multiprocessing

    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    file = tmp_path / "pools.py"
    file.write_text(SETUP + POOLS)
    command = [sys.executable, "-W", "ignore", str(file), method]
    done = subprocess.run(command, timeout=120, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_joblib():
    pytest.importorskip("joblib")
    run("""
import joblib
expected = pyattn.gelu(query)
found = joblib.Parallel(n_jobs=2, timeout=100)(joblib.delayed(pyattn.gelu)(query) for _ in range(4))
assert all(np.array_equal(x, expected) for x in found)
""")


@linux
def test_calls_at_once_share_threads():
    """Beside a call that runs on four, another makes none."""
    run("""
pyattn.set_num_threads(4)
x = np.broadcast_to(query[:, :1], (8, 200_000, 64))
daemon = threading.Thread(target=pyattn.scaled_dot_product_attention, args=(x, x, x), daemon=True)
daemon.start()
while tasks() < 5:
    pass
found = []
def other():
    before = tasks()
    work()
    found.append(tasks() - before)
worker = threading.Thread(target=other)
worker.start()
worker.join()
os._exit(0 if found == [0] and daemon.is_alive() else 3)
""")


@linux
@needs_openmp
def test_threads_stand_where_openmp_binds_them():
    """One to each place; the main thread stands in the first from the start, and the others would share it."""
    cpus = sorted(os.sched_getaffinity(0))
    run(
        f"""
assert os.sched_getaffinity(0) == {{ {cpus[0]} }} and pyattn.get_num_threads() == {len(cpus)}
expected = work()
bound = [os.sched_getaffinity(int(task)) for task in os.listdir("/proc/self/task")]
assert sorted(map(sorted, bound)) == [[cpu] for cpu in {cpus}], bound
pyattn.set_num_threads(1)
assert same(work(), expected)
""",
        OMP_PROC_BIND="true",
        OMP_NUM_THREADS="",
        PYATTN_NUM_THREADS="",
        OPENBLAS_NUM_THREADS="1",
    )


LAYERS = {
    "linear": lambda: pyattn.Linear(32, 40, rng=0),
    "attention": lambda: pyattn.MultiHeadAttention(32, 2, rotary_base=100.0, rng=0),
    "float32": lambda: pyattn.TransformerEncoderLayer(32, 2, 64, rng=0),
    "bfloat16": lambda: pyattn.TransformerEncoderLayer(32, 2, 64, gated=True, dtype="bfloat16", rng=0),
    "int8": lambda: pyattn.TransformerEncoderLayer(32, 2, 64, norm_first=True, dtype="int8", rng=0),
    "stack": lambda: pyattn.TransformerEncoder(LAYERS["float32"](), 3),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_serves_many_threads_from_its_first_call_on(name):
    """Parameters are made in that call; threads call, read and copy the layer at once."""
    x = np.random.default_rng(0).standard_normal((3, 70, 32), dtype=np.float32)
    expected = LAYERS[name]()(x)

    def calls(number):
        together.wait()
        if number == 0:
            twin = copy.deepcopy(layer)
            twin.load_state_dict(layer.state_dict())
            return [twin(x)]
        return [layer(x) for _ in range(3)]

    for _ in range(5):
        layer, together = LAYERS[name](), threading.Barrier(6)
        with ThreadPoolExecutor(6) as pool:
            for found in pool.map(calls, range(6)):
                for got in found:
                    np.testing.assert_array_equal(got, expected)


def test_what_is_loaded_during_a_first_call_stays(monkeypatch):
    layer = pyattn.Linear(3, 2, rng=0)
    loaded = {"weight": np.ones((2, 3), np.float32), "bias": np.zeros(2, np.float32)}

    def slow(*arguments):
        layer.load_state_dict(loaded)
        return initial(*arguments)

    initial = linear.initial  # type: ignore[attr-defined]
    monkeypatch.setattr(linear, "initial", slow)
    x = np.ones((1, 3), np.float32)
    for _ in range(2):
        np.testing.assert_array_equal(layer(x), [[3, 3]])


def test_a_copy_begun_before_a_first_call():
    layer = pyattn.Linear(3, 2, rng=0)
    state = layer.__getstate__()
    expected = layer.state_dict()
    twin = pyattn.Linear.__new__(pyattn.Linear)
    twin.__setstate__(copy.deepcopy(state))
    np.testing.assert_array_equal(twin.state_dict()["weight"], expected["weight"])


def test_a_number_set_while_the_default_is_looked_up_stays(monkeypatch):
    def slow():
        pyattn.set_num_threads(3)
        return 1, "slow"

    for name in ("PYATTN_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(_threads, "_chosen", None)
    monkeypatch.setattr(_threads, "_default", None)
    monkeypatch.setattr(_threads, "_usable_cpus", slow)
    monkeypatch.setattr(_threads.runtime, "thread_limit", lambda: 0)  # type: ignore[attr-defined]
    pyattn.get_num_threads()
    assert pyattn.get_num_threads() == 3


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="needs free-threaded Python")
def test_importing_does_not_bring_the_lock_of_the_interpreter_back():
    run("assert work() and not sys._is_gil_enabled()", PYTHON_GIL="")


def test_the_lock_of_the_interpreter_is_released():
    """While one thread computes, another runs Python."""
    x = np.random.default_rng(0).standard_normal((4, 2000, 64), dtype=np.float32)
    done = threading.Event()

    def compute():
        for _ in range(3):
            pyattn.scaled_dot_product_attention(x, x, x)
        done.set()

    worker = threading.Thread(target=compute)
    worker.start()
    steps = 0
    while not done.is_set():
        steps += 1
    worker.join()
    assert steps > 1000


def test_num_threads_is_of_its_block_and_thread():
    before = pyattn.get_num_threads()
    with pyattn.num_threads(3):
        assert pyattn.get_num_threads() == 3
        with pyattn.num_threads(1):
            assert pyattn.get_num_threads() == 1
        with ThreadPoolExecutor(1) as pool:  # free-threaded Python 3.14 gives new threads their maker's context
            inherits = getattr(sys.flags, "thread_inherit_context", False)
            assert pool.submit(pyattn.get_num_threads).result() == (3 if inherits else before)
        assert pyattn.get_num_threads() == 3
    assert pyattn.get_num_threads() == before
    with pytest.raises(RuntimeError), pyattn.num_threads(2):
        raise RuntimeError
    assert pyattn.get_num_threads() == before

    async def task(count):
        with pyattn.num_threads(count):
            await asyncio.sleep(0.01)
            return pyattn.get_num_threads()

    async def both():
        return await asyncio.gather(task(2), task(5))

    assert asyncio.run(both()) == [2, 5]


@pytest.mark.parametrize("bad", [0, -1, 1025, 2.0, True, "2", None])
def test_odd_numbers_of_threads(bad):
    for name in ("set_num_threads", "num_threads"):
        with pytest.raises(ValueError, match=f"^{name}: threads must be an integer from 1 to 1024, not"):
            call = getattr(pyattn, name)(bad)
            call.__enter__()


@needs_openmp
def test_threadpoolctl_limits():
    pytest.importorskip("threadpoolctl")
    run("""
import threadpoolctl
pyattn.set_num_threads(4)
assert "openmp" in [library["user_api"] for library in threadpoolctl.threadpool_info()]
with threadpoolctl.threadpool_limits(1):
    assert pyattn.get_num_threads() == 1
    with pyattn.num_threads(3):
        assert pyattn.get_num_threads() == 1
assert pyattn.get_num_threads() == 4
""")


@pytest.mark.parametrize(
    ("environment", "threads"),
    [
        ({"PYATTN_NUM_THREADS": "3", "OMP_NUM_THREADS": "2"}, 3),
        ({"OMP_NUM_THREADS": "2,4"}, 2),
        ({"OMP_NUM_THREADS": ""}, None),
    ],
)
def test_the_environment_chooses(environment, threads):
    variables = {"PYATTN_NUM_THREADS": "", "OMP_NUM_THREADS": ""} | environment
    found = run("print(*__import__('pyattn')._threads.chosen_threads(), sep='|')", **variables)
    number, why = found.strip().split("|")
    if threads is None:
        assert "CPUs" in why
    else:
        assert int(number) == threads and why in environment


def tree(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, 3),
        ("0::/a/b\n", {"a/b/cpu.max": "400000 100000\n", "a/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/of/the/host\n", {"cpu.max": "200000 100000\n"}, 2),  # a container sees its own group as the root
        ("0::/a\n", {"a/cpu.max": "max 100000\n"}, None),
        ("0::/a\n", {"a/cpu.max": "nonsense\n"}, None),
        ("0::/a\n", {}, None),
        ("4:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": "250000\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, 2.5),
        ("4:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": "-1\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, None),
        ("3:memory:/a\n", {"a/cpu.max": "100000 100000\n"}, None),
        ("", {"cpu.max": "100000 100000\n"}, None),
    ],
)
def test_quotas_of_containers(tmp_path, groups, files, quota):
    (tmp_path / "groups").write_text(groups)
    assert _threads._quota(tree(tmp_path / "root", files), tmp_path / "groups") == quota
    assert _threads._quota(tmp_path / "root", tmp_path / "absent") is None


def test_hardware_threads_of_one_core_count_once(tmp_path):
    files = {
        f"cpu{i}/topology/{name}": f"{value}\n"
        for i in range(8)
        for name, value in (("physical_package_id", i // 4), ("core_id", i % 2))
    }
    root = tree(tmp_path, files)
    assert _threads._physical_cores(set(range(8)), root) == 4
    assert _threads._physical_cores({0, 2}, root) == 1
    assert _threads._physical_cores({0, 9}, root) == 2  # unknown: all count


def test_a_quota_bounds_the_default(monkeypatch):
    monkeypatch.setattr(_threads, "_physical_cores", lambda cpus: 16)
    for quota, threads in ((None, 16), (0.5, 1), (1.5, 2), (4, 4), (64, 16)):
        monkeypatch.setattr(_threads, "_quota", lambda quota=quota: quota)
        number, why = _threads._usable_cpus()
        assert number == threads and ("quota" in why) == (threads < 16)


@pytest.mark.skipif(not hasattr(os, "kill"), reason="needs signals")
@pytest.mark.parametrize(
    "call",
    [
        "pyattn.scaled_dot_product_attention(x, x, x)",
        "pyattn.scaled_dot_product_attention(x[:1, :1], x, x)",  # pieces of one block, apart
        "pyattn.varlen_attention(x.swapaxes(0, 1), x.swapaxes(0, 1), x.swapaxes(0, 1), [0, 5, 30000])",
        "pyattn.attention_statistics(x, x, received=True, entropy=True)",
        "pyattn.attention_backward(x, x, x, x, x, x[..., 0])",
        "linear(rows)",
    ],
)
def test_long_calls_can_be_interrupted(call):
    """An interrupt ends a call of many seconds within one; what comes after is right."""
    run(f"""
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background would ignore it
x = rng.standard_normal((8, 30000, 64), dtype=np.float32)
linear = pyattn.Linear(2000, 4000)
rows = rng.standard_normal((1, 2000), dtype=np.float32).repeat(100000, axis=0) if "rows" in {call!r} else None
if rows is not None:
    linear(rows[:1])  # its parameters are made in the first call
if "[:1, :1]" in {call!r}:
    x = np.broadcast_to(x[:1, :1], (1, 2**28, 64))
expected = work()
pyattn.set_num_threads(2)
sent = []
def interrupt():
    time.sleep(0.5)
    sent.append(time.perf_counter())
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt).start()
try:
    {call}
except KeyboardInterrupt:
    assert time.perf_counter() - sent[0] < 1, time.perf_counter() - sent[0]
else:
    raise SystemExit("not interrupted")
assert same(work(), expected)
""")


@pytest.mark.skipif(not hasattr(os, "kill"), reason="needs signals")
def test_an_interrupted_step_leaves_the_caches_as_they_were():
    run("""
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)
layer = pyattn.TransformerDecoderLayer(256, 4, 1024, cross_attention=False, rng=0)
decoder = pyattn.TransformerDecoder(layer, 4)
x = rng.standard_normal((1, 40, 256), dtype=np.float32)
long = np.broadcast_to(x[:, :1], (1, 60000, 256))
whole = decoder(x, is_causal=True)
state = decoder.start(capacity=70000)
first = decoder.step(x[:, :20], state)
def interrupt():
    time.sleep(1)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt).start()
try:
    decoder.step(long, state)
except KeyboardInterrupt:
    pass
else:
    raise SystemExit("not interrupted")
assert state.lengths.tolist() == [20], state.lengths
assert same(np.concatenate([first, decoder.step(x[:, 20:], state)], axis=1), whole)
""")
