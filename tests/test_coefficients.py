"""The coefficients in csrc/ are those that csrc/coefficients.py derives."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

CSRC = Path(__file__).parents[1] / "csrc"


@pytest.fixture(scope="module")
def derive():
    for module in ("mpmath", "scipy"):
        pytest.importorskip(module)
    spec = importlib.util.spec_from_file_location("coefficients", CSRC / "coefficients.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_exp2_of_float64(derive):
    written = (CSRC / "vmath.h").read_text()
    for low, terms in ((-1 / 2, 11), (-1 / 32, 6)):
        coefficients = [float(c).hex() for c in derive.exp2_power(low, terms)]
        assert len(coefficients) == terms and all(c in written for c in coefficients), coefficients


def test_exp2_of_float32(derive):
    """The search ends within a rounding of what was written, whatever library solves its equations."""
    row = re.search(r"#elif REAL_BITS == 32\n(.*)", (CSRC / "vmath.h").read_text())[1]
    written = [float.fromhex(c) for c in re.findall(r"0x[\da-f.]+p-\d+", row)]
    _, coefficients = derive.minimax(lambda t: 2.0**t - 1, lambda t: 2.0**-t, -0.5, 0.5, 5, points=1000, rounds=1500)
    np.testing.assert_allclose(coefficients[::-1], written, rtol=1e-5)


def test_tail_of_gelu(derive):
    erfc = pytest.importorskip("scipy.special").erfc
    function = (CSRC / "vmath.h").read_text().partition("vec gelu_tail(vec x) {")[2]
    table = function.partition("c[] = {")[2].partition("}")[0]
    written = [float.fromhex(c.strip().removesuffix("f")) for c in table.split(",")]
    expected = derive.pieces(lambda x: x * erfc(x / np.sqrt(2)) / 2, 0.5, 5 / 31, 32)
    np.testing.assert_allclose(written, np.float32(expected).ravel(), rtol=1e-5)
