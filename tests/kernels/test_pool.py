"""The threads of csrc/pool.h, without a driver: every turn is taken once, whoever calls beside."""

import subprocess
from pathlib import Path

import pytest

from tests.kernels.test_kernels import COMPILER, ROOT, pytestmark  # noqa: F401 (marks this file too)


@pytest.mark.parametrize("sanitizer", ["", "-fsanitize=thread"])
@pytest.mark.parametrize(
    "options",
    [[], ["-fopenmp"], ["-U__linux__"]],
    ids=["alone", "beside OpenMP", "as on other systems"],
)
def test_every_turn_is_taken_once(tmp_path, sanitizer, options):
    source, program = Path(__file__).with_name("pool.c"), tmp_path / "pool"
    options = ["-std=c11", "-O1", "-g", f"-I{ROOT / 'csrc'}", *options, *filter(None, [sanitizer]), "-pthread"]
    built = subprocess.run([COMPILER, *options, str(source), "-o", str(program)], capture_output=True, text=True)
    if built.returncode:
        pytest.skip(f"the compiler refuses {options}")
    done = subprocess.run([program], capture_output=True, text=True, timeout=100)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("this system's addresses are not those that the sanitizer knows")
    assert done.returncode == 0, done.stderr
