"""Threads, instruction sets, import."""

import os
import platform
import shutil
import subprocess
import sys

import pytest

import pyattn
from pyattn._core import layer, runtime


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, timeout=120
    )


def test_info_names_what_was_chosen():
    info = pyattn.info()
    assert info["version"] == pyattn.__version__
    assert info["isa"] in info["isa_available"]
    assert info["threads"] == pyattn.get_num_threads() >= 1


@pytest.mark.parametrize("isa", pyattn.info()["isa_available"])
def test_isa_can_be_forced(isa):
    assert run("import pyattn; print(pyattn.info()['isa'])", PYATTN_ISA=isa).stdout.strip() == isa


def test_unknown_isa_names_the_choices():
    result = run("import pyattn", PYATTN_ISA="mmx")
    assert result.returncode == 1
    assert "PYATTN_ISA='mmx' is not available here; choose one of" in result.stderr


QEMU = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")
ATTENTION = """
import numpy as np, pyattn
from pyattn.reference import scaled_dot_product_attention
print(pyattn.info()["isa"])
query, key, value = np.sin(np.arange(3 * 2 * 49 * 33.0)).reshape(3, 2, 49, 33)
expected = scaled_dot_product_attention(query, key, value)[0]
for dtype, atol in (("float64", 1e-14), ("float32", 1e-6), ("float16", 1e-3)):
    inputs = (x.astype(dtype) for x in (query, key, value))
    np.testing.assert_allclose(pyattn.scaled_dot_product_attention(*inputs), expected, rtol=0, atol=atol)
"""


@pytest.mark.skipif(
    QEMU is None or platform.machine() != "x86_64", reason="needs an x86-64 machine and qemu-user-static"
)
@pytest.mark.parametrize(
    "cpu, isa, beyond",
    [("Nehalem", "baseline", "avx2"), ("Haswell,-f16c", "baseline", "avx2"), ("Haswell", "avx2", "avx512")],
)
def test_older_cpus(cpu, isa, beyond):
    def run_on_it(code, forced):
        command = [QEMU, "-cpu", cpu, sys.executable, "-c", code]
        environment = os.environ | {"PYATTN_ISA": forced}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)

    if run_on_it("import numpy", "").returncode:
        pytest.skip(f"this NumPy does not run on a {cpu}")
    result = run_on_it(ATTENTION, "")
    assert (result.returncode, result.stdout) == (0, isa + "\n"), result.stderr
    result = run_on_it("import pyattn", beyond)
    assert result.returncode == 1
    assert f"ImportError: pyattn: PYATTN_ISA={beyond!r} is not available here; choose one of" in result.stderr


def test_threads_from_the_environment():
    code = "import pyattn; print(pyattn.get_num_threads())"
    assert run(code, PYATTN_NUM_THREADS="3", OMP_NUM_THREADS="2").stdout == "3\n"
    assert run(code, PYATTN_NUM_THREADS="", OMP_NUM_THREADS="2,1").stdout == "2\n"
    expected = "pyattn: PYATTN_NUM_THREADS must be an integer from 1 to 1024, not 'x'"
    assert expected in run(code, PYATTN_NUM_THREADS="x").stderr


@pytest.mark.parametrize("bad", [0, -1, 1.5, True, "2", 1025, 2**70])
def test_bad_number_of_threads(bad):
    before = pyattn.get_num_threads()
    with pytest.raises(ValueError, match="^set_num_threads: threads must be an integer from 1 to 1024"):
        pyattn.set_num_threads(bad)
    assert pyattn.get_num_threads() == before


def test_measure_gives_positive_numbers():
    measured = pyattn.measure(0.02)
    always = {"fma_gflops_float32", "fma_gflops_float64", "read_gbytes_per_s"}
    native = {f"fma_gflops_{name}" for name in pyattn.info()["dot_products"]}
    assert set(measured) == always | native
    assert all(0 < value < 1e6 for value in measured.values())


@pytest.mark.parametrize("bad", [-1, float("nan"), float("inf"), "1"])
def test_measure_refuses_odd_times(bad):
    with pytest.raises(ValueError, match="^measure: seconds must be"):
        pyattn.measure(bad)


def test_show_config(capsys):
    config = pyattn.show_config(mode="dicts")
    assert capsys.readouterr() == ("", "")
    assert config["instruction set"]["chosen"] == pyattn.info()["isa"]
    assert config["threads"]["most of a call"] == pyattn.get_num_threads() and config["threads"]["why"]
    assert {"debug", "sanitized"} <= config["build"].keys()
    if pyattn.info()["openmp"] and sys.platform.startswith("linux"):
        assert config["threads"]["OpenMP runtimes"]
    assert pyattn.show_config() is None
    shown = capsys.readouterr().out
    for values in config.values():
        for name in values:
            assert f"  {name}: " in shown
    with pytest.raises(ValueError, match="^show_config: mode must be"):
        pyattn.show_config("yaml")


@pytest.mark.skipif(not runtime.debug, reason="others trust their callers")
def test_a_debug_build_sees_an_index_out_of_bounds():
    with pytest.raises(IndexError):
        layer.WeightsPlan([])  # type: ignore[attr-defined]


def test_import_loads_no_model_libraries():
    heavy = ("tokenizers", "safetensors", "huggingface_hub", "tqdm", "scipy", "torch", "numpy.random")
    code = "import numpy, sys; numpys = {*sys.modules}; import pyattn; "  # some versions of NumPy load their own random
    code += f"print([m for m in {heavy} if m in {{*sys.modules}} - numpys])"
    assert run(code).stdout == "[]\n"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("arguments", ["q, k, v", "q, k, v, mask", "q, k, v, bias", "q, k, v, is_causal=True"])
def test_memory_does_not_grow_with_the_sequence(arguments):
    code = f"""
import numpy as np, pyattn
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
pyattn.set_num_threads(2)
q, k, v = np.random.default_rng(0).standard_normal((3, 2, 4096, 64), dtype=np.float32)
mask = np.ones((4096, 4096), bool)
bias = np.ones((4096, 4096), np.float32) if "bias" in {arguments!r} else None
out = np.ones_like(q)
pyattn.scaled_dot_product_attention(q[:, :5], k[:, :5], v[:, :5])
before = peak()
pyattn.scaled_dot_product_attention({arguments}, out=out)
print(peak() - before)
"""
    result = run(code)
    assert int(result.stdout) <= 2 * 2048, result.stderr
