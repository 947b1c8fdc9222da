"""What kernels are made of, without a driver, under each instruction set: arithmetic, transposes, tiles, the softmax.

kernels.c is compiled by the flags of setup.py, and judged by the same in float64, or wider.
"""

import ast
import ctypes
import math
import platform
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyattn._core import runtime
from pyattn.precision import to_bfloat16
from tests.support.marks import portable

ROOT = Path(__file__).parents[2]
ELEMENTS = ("F32", "F64", "F16", "BF16", "I8")
COMPILER = shutil.which((sysconfig.get_config_var("CC") or "cc").split()[0]) or shutil.which("cc")

pytestmark = [
    pytest.mark.skipif(COMPILER is None or runtime.sanitized, reason="needs a C compiler, and its usual runtime"),
    portable,  # goes through all instruction sets itself
]


def flags():
    """C_FLAGS of setup.py, and the flags of each instruction set of this machine."""
    names: dict[str, Any] = {}
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in (
            "C_FLAGS",
            "AVX2",
            "AVX512",
            "DOTS",
            "INSTRUCTION_SETS",
            "TILES",
            "TILE_FLAGS",
        ):
            exec(compile(ast.Module([node], []), "setup.py", "exec"), names)
    machine = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    sets = names["INSTRUCTION_SETS"].get(machine, {"baseline": []})
    return names["C_FLAGS"], sets | {names["TILES"]: names["TILE_FLAGS"]}


TILES = "avx512_amx"  # in which products of packed weights alone differ
CASES = [(isa, element) for isa in runtime.isa_available for element in ELEMENTS if isa != TILES]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def kernels(request, tmp_path_factory):
    """The library of kernels.c for an instruction set and an element type."""
    return compiled(*request.param, tmp_path_factory.mktemp("kernels"))


def compiled(isa, element, folder):
    common, sets = flags()
    library = folder / f"{isa}_{element}.so"
    source = Path(__file__).with_name("kernels.c")
    options = [*common, *sets[isa], f"-I{ROOT / 'csrc'}", f"-DELEMENT={element}", "-shared", "-fPIC"]
    subprocess.run([COMPILER, *options, str(source), "-o", str(library), "-lm"], check=True)
    loaded: Any = ctypes.CDLL(str(library))
    loaded.element = element
    loaded.real = np.float64 if constant(loaded, "real_bytes") == 8 else np.float32
    return loaded


def constant(kernels, name):
    return ctypes.c_int.in_dll(kernels, name).value


def pointers(*arrays):
    return [ctypes.c_void_p(array.ctypes.data) for array in arrays]


def each(kernels, name, x):
    """A function of each number; x is padded with its last to whole vectors."""
    lanes = constant(kernels, "lanes")
    padded = np.pad(x.astype(kernels.real), (0, -x.size % lanes), "edge")
    y = np.empty_like(padded)
    getattr(kernels, name)(*pointers(padded, y), ctypes.c_ssize_t(padded.size // lanes))
    return y[: x.size]


def bounds(kernels, float32, float64, coarse):
    """Of a function, the relative error that its comment promises; coarse: where results are rounded to fewer bits."""
    if kernels.real == np.float64:
        return float64
    return coarse if kernels.element in ("BF16", "I8") else float32


def test_exp2(kernels):
    smallest = -1022 if kernels.real == np.float64 else -126
    x = np.concatenate([np.linspace(smallest, 0, 20001), -np.logspace(-12, 1, 2000)]).astype(kernels.real)
    truth = np.exp2(x.astype(np.longdouble))
    bound = bounds(kernels, 2.5e-7, 4e-16, 1e-4)
    assert np.max(np.abs(each(kernels, "each_exp2", x) - truth) / truth) < bound
    special = each(kernels, "each_exp2", np.array([0.0, -np.inf, np.nan, -2000.0]))
    assert special[0] == 1 and special[1] == 0 and np.isnan(special[2]) and special[3] == 0


def test_tanh(kernels):
    x = np.concatenate([np.linspace(-25, 25, 20001), np.logspace(-30, 1, 2000)]).astype(kernels.real)
    truth = np.tanh(x.astype(np.longdouble))
    y = each(kernels, "each_tanh", x)
    near = np.abs(truth) > 0
    assert np.max(np.abs(y - truth)[near] / np.abs(truth[near])) < bounds(kernels, 3.5e-7, 7e-16, 3.5e-7)
    assert np.abs(y).max() == 1
    np.testing.assert_array_equal(each(kernels, "each_tanh", -x), -y)
    assert np.isnan(each(kernels, "each_tanh", np.array([np.nan]))).all()


def test_erfc(kernels):
    if kernels.real == np.float64:
        pytest.skip("the library's own is called")
    x = np.linspace(0, 7, 20001).astype(np.float32)
    truth = np.array([math.erfc(value / math.sqrt(2)) for value in x.astype(float)])
    # x erfc(x / sqrt(2)) is what GELU multiplies
    error = np.abs(each(kernels, "each_erfc", x) - truth) * x
    assert error.max() < bounds(kernels, 3e-7, None, 1e-4)


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu"])
def test_activations(kernels, name):
    x = np.concatenate([np.linspace(-20, 20, 20001), -np.logspace(-20, 1, 500)]).astype(kernels.real)
    wide = x.astype(np.float64)
    truth = {
        "gelu": lambda: wide * np.array([math.erfc(-value / math.sqrt(2)) / 2 for value in wide]),
        "gelu_tanh": lambda: wide / (1 + np.exp(-2 * math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3))),
        "silu": lambda: wide / (1 + np.exp(-wide)),
    }[name]()
    error = np.abs(each(kernels, f"each_{name}", x) - truth) / np.maximum(1, np.abs(truth))
    assert error.max() < bounds(kernels, 5e-7, 1e-15, 2e-4)


def test_transposes(kernels):
    lanes = constant(kernels, "lanes")
    x = np.random.default_rng(0).standard_normal((lanes, lanes)).astype(kernels.real)
    y = x.copy()
    kernels.transpose_reals(*pointers(y))
    np.testing.assert_array_equal(y, x.T)
    width = constant(kernels, "vector_bytes")
    x = np.random.default_rng(0).integers(0, 256, (16, width), np.uint8)
    y = x.copy()
    kernels.transpose_mask(*pointers(y))
    for begin in range(0, width, 16):
        np.testing.assert_array_equal(y[:, begin : begin + 16], x[:, begin : begin + 16].T)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 64, 129])
def test_tile(kernels, count):
    if kernels.element not in ("F32", "F64"):
        pytest.skip("other elements are converted before")
    rows, columns = constant(kernels, "tile_rows"), constant(kernels, "tile_vectors") * constant(kernels, "lanes")
    rng = np.random.default_rng(count)
    a, b, c = (
        rng.standard_normal(shape).astype(kernels.real) for shape in ((rows, count), (count, columns), (rows, columns))
    )
    truth = c + a.astype(np.longdouble) @ b.astype(np.longdouble)
    size = np.abs(c) + np.abs(a).astype(np.longdouble) @ np.abs(b)
    kernels.multiply(*pointers(a, b, c), ctypes.c_ssize_t(count))
    assert np.all(np.abs(c - truth) <= np.finfo(kernels.real).eps * (count + 1) * size)


@pytest.mark.skipif(TILES not in runtime.isa_available, reason="needs AMX")
@pytest.mark.parametrize("element", ["BF16", "I8"])
def test_tiles_of_amx(element, tmp_path):
    """Every number of rows, and of groups up to several steps; memory ends where a, b and the sums do."""
    kernels = compiled(TILES, element, tmp_path)
    rng = np.random.default_rng(0)
    each = 4 if element == "I8" else 2  # elements of a group
    for rows in range(1, 33):
        for groups in (1, 2, 15, 16, 17, 31, 32, 33, 50):
            vectors = 1 + (rows + groups) % 3
            a, b = (
                rng.integers(-128, 128, (rows, groups * each)),
                rng.integers(-128, 128, (groups * each, 16 * vectors)),
            )
            a += 128 * (element == "I8")  # whose left operand has no sign
            truth = a @ b
            if element == "I8":
                left, right = a.astype(np.uint8), b.astype(np.int8)
            else:  # integers up to 256 are numbers of bfloat16
                left, right = to_bfloat16(a.astype(np.float32)), to_bfloat16(b.astype(np.float32))
            packed = np.ascontiguousarray(right.reshape(groups, each, -1).swapaxes(1, 2))
            apart = np.full((rows, left.shape[1] + 8), 77, left.dtype)  # rows that lie apart, the last cut short
            apart[:, : left.shape[1]] = left
            flat = apart.reshape(-1)[: apart.size - 8].copy()
            sums = np.full((rows + 1, 16 * vectors), -1, np.int32 if element == "I8" else np.float32)
            arrays = pointers(flat, packed, sums)
            kernels.tiles(
                arrays[0], ctypes.c_ssize_t(apart.strides[0]), *arrays[1:], rows, vectors, ctypes.c_ssize_t(groups)
            )
            np.testing.assert_array_equal(sums[:rows], truth)  # sums below 2^24 are exact
            assert (sums[rows] == -1).all()


def tile_shape(kernels):
    """Rows and columns of a tile; other elements than float32 and float64 are converted before they come to one."""
    if kernels.element not in ("F32", "F64"):
        pytest.skip("other elements are converted before")
    return constant(kernels, "tile_rows"), constant(kernels, "tile_vectors") * constant(kernels, "lanes")


@pytest.mark.parametrize("count", [0, 1, 7, 64, 256])
def test_score_tile(kernels, count):
    """Scores, added to those of earlier features or not, and the largest of each query, which earlier keys may have."""
    tile_rows, columns = tile_shape(kernels)
    rng = np.random.default_rng(count)
    for rows, add in [(rows, add) for rows in range(1, tile_rows + 1) for add in (0, 1)]:
        key, q, before, largest = (
            rng.standard_normal(shape).astype(kernels.real)
            for shape in ((rows, count), (count, columns), (rows, columns), columns)
        )
        scores, most = before.copy(), largest.copy()
        kernels.score_keys(*pointers(key, q, scores, most), ctypes.c_ssize_t(count), rows, add)
        truth = add * before + key.astype(np.longdouble) @ q.astype(np.longdouble)
        size = add * np.abs(before) + np.abs(key).astype(np.longdouble) @ np.abs(q)
        assert np.all(np.abs(scores - truth) <= np.finfo(kernels.real).eps * (count + 1) * size)
        np.testing.assert_array_equal(most, np.maximum(largest, scores.max(axis=0)))


@pytest.mark.parametrize("mode", ["base_2", "fused", "subtract_first"])
@pytest.mark.parametrize("masked", [False, True])
def test_softmax(kernels, mode, masked):
    """Weights, sums and what rescales earlier sums, over two ranges of keys, the second of which raises some maxima."""
    _, columns = tile_shape(kernels)
    rng = np.random.default_rng(columns)
    to_log2 = kernels.real(1.0 if mode == "base_2" else 1 / np.log(2))
    word = np.int64 if kernels.real == np.float64 else np.int32
    mask = np.empty(constant(kernels, "lanes"), word)
    kernels.masked_logits(*pointers(mask))
    most, total = np.full(columns, -np.inf, kernels.real), np.full(columns, -0.0, kernels.real)
    rescale = np.empty(columns, kernels.real)
    seen, summed = np.full(columns, -np.inf), np.zeros(columns)  # what they are, in float64
    for count, shift in ((128, 0), (37, 3)):
        logits = (4 * rng.standard_normal((count, columns)) + shift * rng.integers(-1, 2, columns)).astype(kernels.real)
        hidden = masked & (rng.random((count, columns)) < 0.3)
        hidden[:, 0] = masked  # the first query sees nothing
        live = np.where(hidden, -np.inf, logits).astype(np.float64)
        weights = np.where(hidden, mask[0], logits.view(word)).view(kernels.real)
        old, seen = seen, np.maximum(seen, live.max(axis=0))
        base = np.where(np.isneginf(seen), 0, seen)
        truth = np.exp2((live - base) * np.float64(to_log2))
        summed = summed * np.exp2((old - base) * np.float64(to_log2)) + truth.sum(axis=0)
        kernels.soften(
            *pointers(weights, most, total, rescale),
            ctypes.c_ssize_t(count),
            int(masked),
            constant(kernels, mode),
            ctypes.c_double(to_log2),
        )
        np.testing.assert_array_equal(most, seen)
        bound = 40 * np.finfo(kernels.real).eps  # the exponents themselves are rounded
        np.testing.assert_allclose(weights, truth, rtol=bound, atol=1e-30)
        np.testing.assert_allclose(rescale, np.exp2((old - base) * np.float64(to_log2)), rtol=bound, atol=1e-30)
        np.testing.assert_allclose(total, summed, rtol=bound)
        assert np.signbit(weights[hidden]).all() and not np.signbit(weights[~hidden]).any()
        assert np.signbit(total).tolist() == [masked, *[False] * (columns - 1)]  # -0.0 of what saw nothing
