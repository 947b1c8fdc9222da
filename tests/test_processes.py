"""What a process goes through: threads that compute while it ends, interrupts, threads refused, odd variables."""

import os
import platform
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import pyattn
from pyattn import _threads
from pyattn._core import runtime
from tests.test_threads import SETUP, linux, needs_fork, needs_openmp, run

pytestmark = pytest.mark.slow
EXITS = int(os.environ.get("PYATTN_EXITS", "4"))  # programs that end, of each kind

DAEMONS = """
import time
pyattn.set_num_threads(2)
long = np.broadcast_to(query[:1, :1], (4, 20000, 64))
linear, encoder = pyattn.Linear(64, 4000, rng=0), pyattn.TransformerEncoderLayer(64, 2, 4096, rng=0)
call = {
    "attention": lambda: pyattn.scaled_dot_product_attention(long, long, long),
    "gradients": lambda: pyattn.attention_backward(*[long] * 5, long[..., 0]),
    "linear": lambda: linear(long),
    "layer": lambda: encoder(long),
}[sys.argv[1]]
def compute():
    while True:
        call()
for _ in range(3):
    threading.Thread(target=compute, daemon=True).start()
time.sleep(0.5)
"""


@pytest.mark.parametrize("kind", ["attention", "gradients", "linear", "layer"])
@pytest.mark.parametrize(("end", "status"), [("", 0), ("sys.exit(3)", 3), ("raise KeyboardInterrupt", -2)])
def test_a_program_ends_while_daemons_compute(kind, end, status):
    """It ends as it would without them: nothing aborts, though Python gives its lock to none of them any more."""
    command = [sys.executable, "-W", "ignore", "-c", SETUP + DAEMONS + end, kind]
    programs = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for _ in range(EXITS if status == 0 else 1)]
    assert [program.wait(timeout=120) for program in programs] == [status] * len(programs)


def test_an_interrupt_while_another_thread_computes():
    run("""
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)
long = np.broadcast_to(query[:1, :1], (8, 60000, 64))
done = threading.Event()
def compute():
    pyattn.scaled_dot_product_attention(long, long, long)
    done.set()
threading.Thread(target=compute, daemon=True).start()
signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
signal.setitimer(signal.ITIMER_REAL, 0.3)
start = time.perf_counter()
try:
    done.wait()
except KeyboardInterrupt:
    assert not done.is_set() and time.perf_counter() - start < 2
else:
    raise SystemExit("not interrupted")
""")


@needs_fork
@pytest.mark.parametrize(
    "call",
    ["pyattn.scaled_dot_product_attention(long, long, long)", "pyattn.attention_backward(*[long] * 5, long[..., 0])"],
)
def test_the_thread_that_forked_handles_the_childs_signals(call):
    """Though it was not the main one before."""
    run(f"""
import signal
pyattn.set_num_threads(2)
long = np.broadcast_to(query[:1, :1], (8, 60000, 64))
def fork():
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        try:
            {call}
        except KeyboardInterrupt:
            os._exit(0)
        os._exit(3)
    statuses.append(exit_of(child))
statuses = []
forker = threading.Thread(target=fork)
forker.start()
forker.join()
assert statuses == [0], statuses
""")


@pytest.fixture
def fresh(monkeypatch):
    """As at the import: how many threads a call uses has not been asked for."""
    for name in (_threads.OWN_VARIABLE, _threads.OPENMP_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(_threads, "_chosen", None)
    monkeypatch.setattr(_threads, "_default", None)
    monkeypatch.setattr(_threads.runtime, "thread_limit", lambda: 2**31 - 1)  # type: ignore[attr-defined]
    return monkeypatch


STRANGE = ["all", "3500m", "0", "auto", "5000", "1025", "-1", "+", "9" * 5000, "\u0664", "\u00b2", "1e3", "0x4", ",4"]


@pytest.mark.parametrize("text", STRANGE)
def test_a_strange_variable_of_openmp_is_passed_over(fresh, text):
    default = pyattn.get_num_threads()
    fresh.setattr(_threads, "_default", None)
    fresh.setenv("OMP_NUM_THREADS", text)
    what = "OMP_NUM_THREADS=.* is passed over: it must be an integer from 1 to 1024, or a list that begins with one"
    with pytest.warns(RuntimeWarning, match=what) as caught:
        assert pyattn.get_num_threads() == default
    assert len(caught) == 1 and len(str(caught[0].message)) < 200
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pyattn.get_num_threads() == default  # the warning comes once


def test_a_warning_that_is_an_error_comes_once_too(fresh):
    fresh.setenv("OMP_NUM_THREADS", "all")
    x = np.random.default_rng(0).standard_normal((4, 300, 64), dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="'all' is passed over"):
            pyattn.scaled_dot_product_attention(x, x, x)
        pyattn.scaled_dot_product_attention(x, x, x)


@pytest.mark.parametrize(
    ("text", "threads"),
    [("4", 4), (" 4 ", 4), ("4,2", 4), ("4 , 2", 4), ("004", 4), ("1024", 1024), ("", 0), ("  ", 0)],
)
def test_numbers_of_threads_in_the_environment(fresh, text, threads):
    default = pyattn.get_num_threads()
    fresh.setattr(_threads, "_default", None)
    fresh.setenv("OMP_NUM_THREADS", text)
    assert pyattn.get_num_threads() == (threads or default)  # and no warning, which would be an error
    fresh.setattr(_threads, "_default", None)
    fresh.setenv("OMP_NUM_THREADS", "all")
    fresh.setenv("PYATTN_NUM_THREADS", text.split(",")[0])
    if threads:
        assert pyattn.get_num_threads() == threads  # and OpenMP's variable is not looked at
    else:
        with pytest.warns(RuntimeWarning):
            assert pyattn.get_num_threads() == default


@pytest.mark.parametrize("text", [*STRANGE, "4,2"])
def test_a_strange_variable_of_our_own_is_an_error(fresh, text):
    fresh.setenv("PYATTN_NUM_THREADS", text)
    with pytest.raises(ValueError, match="^pyattn: PYATTN_NUM_THREADS must be an integer from 1 to 1024, not '"):
        pyattn.get_num_threads()


def test_strange_variables_of_a_new_process():
    """A strange one of our own is an error of the import, and one of OpenMP's said once, by a call that wants it."""
    code = SETUP + "pyattn.gelu(query[:1, :1]); print('silent', file=sys.stderr); work(); work()"
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "all"}, text=True, capture_output=True, timeout=60
    )
    before, _, after = done.stderr.partition("silent")
    assert done.returncode == 0 and after.count("RuntimeWarning: pyattn: OMP_NUM_THREADS='all'") == 1, done.stderr
    assert "RuntimeWarning" not in before
    own = os.environ | {"PYATTN_NUM_THREADS": "all"}
    command = [sys.executable, "-c", "import pyattn"]
    done = subprocess.run(command, env=own, text=True, capture_output=True, timeout=60)
    assert "ValueError: pyattn: PYATTN_NUM_THREADS must be an integer from 1 to 1024, not 'all'" in done.stderr


@needs_openmp
@linux
@pytest.mark.parametrize("environment", [{"OMP_THREAD_LIMIT": "2"}, {"OMP_THREAD_LIMIT": "1"}, {"OMP_DYNAMIC": "true"}])
def test_other_variables_of_openmp(environment):
    limit = environment.get("OMP_THREAD_LIMIT")
    run(
        f"""
pyattn.set_num_threads(1)
expected = work()
pyattn.set_num_threads(3)
assert pyattn.get_num_threads() == {limit or 3}
for _ in range(3):
    assert same(work(), expected) and tasks() <= {limit or 3}
""",
        OPENBLAS_NUM_THREADS="1",
        **environment,
    )


@pytest.fixture(scope="module")
def refusing(tmp_path_factory):
    """The library of refusing_threads.c."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or platform.libc_ver()[0] != "glibc" or runtime.sanitized:
        pytest.skip("needs a C compiler and glibc")
    library = tmp_path_factory.mktemp("library") / "refusing_threads.so"
    source = Path(__file__).parent / "tools" / "refusing_threads.c"
    command = [compiler, "-O2", "-shared", "-fPIC", str(source), "-o", str(library), "-ldl", "-pthread"]
    subprocess.run(command, check=True)
    return library


REFUSED = """
import ctypes, time
from pyattn import _threads
allow = ctypes.CDLL(None).allow_threads
allow.argtypes, allow.restype = [ctypes.c_long], ctypes.c_long
ANY = 2**40
pyattn.set_num_threads(1)
"""


def run_refused(refusing, code):
    limits = {"LD_PRELOAD": str(refusing), "OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    return run(REFUSED + code, **limits)


@linux
def test_calls_of_all_kinds_whose_threads_are_refused(refusing):
    """Each computes the same on one thread; OpenMP itself would end the process."""
    run_refused(
        refusing,
        """
from pyattn._core import runtime
few, memory = query[:, :2], rng.standard_normal((1, 5000, 64), dtype=np.float32)
packed = query.swapaxes(0, 1)
decoder = pyattn.TransformerDecoder(pyattn.TransformerDecoderLayer(64, 2, 128, rng=0), 2)
linear, norm = pyattn.Linear(64, 200, rng=0), pyattn.LayerNorm(64)
def steps():
    state = decoder.start(query, capacity=20)
    return decoder.step(query[:, :5], state), decoder.step(query[:, 5:6], state)
calls = [
    work,
    lambda: pyattn.scaled_dot_product_attention(few[:1], memory, memory),
    lambda: pyattn.varlen_attention(packed, packed, packed, [0, 5, 300]),
    lambda: vars(pyattn.attention_statistics(query, key, value, received=True, entropy=True, top_k=2)).values(),
    lambda: linear(query), lambda: linear(query[0, :2]), lambda: norm(query), lambda: pyattn.gelu(query), steps,
]
expected = [call() for call in calls]
_threads.SMALL_WORK = 0
pyattn.set_num_threads(4)
allow(0)
for _ in range(2):
    assert all(same(call(), right) for call, right in zip(calls, expected)) and tasks() == 1
assert allow(0) > 0
assert runtime.read_memory(np.ones(1 << 20, np.uint8), 4, 9) > 0 and runtime.multiply_add("float32", 4, 9) > 0
assert tasks() == 1
child = os.fork()
if child == 0:
    os._exit(0 if same(work(), expected[0]) and tasks() == 1 else 3)
assert exit_of(child) == 0
""",
    )


@linux
def test_as_many_threads_as_are_granted(refusing):
    """And more when the system has them again; fewer in between make no difference."""
    run_refused(
        refusing,
        """
expected = work()
pyattn.set_num_threads(4)
allow(1)
assert same(work(), expected) and tasks() == 2
assert allow(ANY) == 1
for _ in range(3):
    assert same(work(), expected)
time.sleep(1.1)
assert same(work(), expected) and tasks() == 4
with pyattn.num_threads(2):
    work()
assert tasks() == 4  # they sleep
found = []
def other():
    before = tasks()
    assert same(work(), expected)
    found.append(tasks() - before)
allow(1)
thread = threading.Thread(target=other)
thread.start()
thread.join()
assert found == [0] and allow(ANY) == 0
""",
    )


@linux
def test_threads_are_made_once(refusing):
    """Calls of few tasks and of many leave the threads that there are: none is made a second time."""
    run_refused(
        refusing,
        """
linear = pyattn.Linear(64, 64, rng=0)
linear(query)
pyattn.set_num_threads(4)
_threads.SMALL_WORK = 0
work()
allow(0)
for rows in (1, 2, 3, 300):
    linear(query[0, :rows])
    pyattn.scaled_dot_product_attention(query[:2, :rows], key[:2], value[:2])
    work()
assert tasks() == 4 and allow(ANY) == 0
""",
    )


@linux
def test_python_threads_that_are_refused(refusing, tmp_path):
    """Those of SciPy, of the tokenizers library and of encode: done without."""
    pytest.importorskip("scipy")
    pytest.importorskip("tokenizers")
    from tests.support import tiny_model

    directory = tiny_model.write_model(tmp_path)
    run_refused(
        refusing,
        f"""
import scipy.fft
from pyattn.audio import log_mel
encoder = pyattn.SentenceEncoder.from_pretrained({str(directory)!r})
texts = ["the cat sat on a mat", "a dog ran"] * 3000
samples = rng.standard_normal(40000, dtype=np.float32)
_threads.SMALL_WORK = 0
pyattn.set_num_threads(4)
allow(0)
refused = encoder.encode(texts), log_mel(samples)
assert tasks() == 1 and allow(ANY) > 1
for _ in range(2):  # at once and later
    assert same((encoder.encode(texts), log_mel(samples)), refused)
    time.sleep(1.1)
assert tasks() > 1
""",
    )


@linux
@pytest.mark.skipif(runtime.sanitized, reason="the sanitizer needs address space without bounds")
@pytest.mark.parametrize("limit", ["processes", "memory"])
def test_limits_of_the_system(limit):
    """Of processes, which do not bind root; of the address space, where stacks have no room."""
    if limit == "processes" and os.geteuid() != 0:
        pytest.skip("only root can become a user who has no other processes")
    run(
        f"""
import resource, time
pyattn.set_num_threads(1)
expected = work()
pyattn.set_num_threads(8)
if {limit!r} == "processes":
    resource.setrlimit(resource.RLIMIT_NPROC, (3, 3))
    os.setuid(65534)
    most = 3
else:
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (40 << 20), resource.RLIM_INFINITY))
    most = 5
for _ in range(3):
    assert same(work(), expected) and 1 < tasks() <= most, tasks()
    time.sleep(0.6)
""",
        OPENBLAS_NUM_THREADS="1",
        MALLOC_ARENA_MAX="1",
    )
