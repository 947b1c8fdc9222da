import numpy as np
import pytest

import pyattn


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [0, 1, 7, 16, 17, 100_003])
def test_activations(dtype, count):
    torch_like = np.linspace(-30, 30, count).astype(dtype)
    wide = torch_like.astype(np.longdouble)
    special = pytest.importorskip("scipy.special")
    erfc = special.erfc(-wide.astype(float) / np.sqrt(2))
    expected = {
        pyattn.relu: np.maximum(wide, 0),
        pyattn.silu: wide / (1 + np.exp(-wide)),
        pyattn.gelu: wide * erfc / 2,
        lambda x: pyattn.gelu(x, "tanh"): wide / (1 + np.exp(-np.sqrt(8 / np.pi) * (wide + 0.044715 * wide**3))),
    }
    for function, truth in expected.items():
        got = function(torch_like)
        assert got.dtype == dtype
        assert np.abs(got - truth).max(initial=0) <= 8 * np.finfo(dtype).eps * max(1, np.abs(truth).max(initial=0))


def test_activations_keep_shape_and_pass_nan():
    x = np.array([[1.0, np.nan], [-np.inf, np.inf]], np.float32)
    for function in (pyattn.relu, pyattn.silu, pyattn.gelu):
        y = function(x.T)
        assert y.shape == (2, 2)
        assert np.isnan(y[1, 0])
        assert y[1, 1] == np.inf
        assert function(np.float32(1)).shape == ()
    np.testing.assert_array_equal(pyattn.relu(x)[1], [0, np.inf])
    for dtype in (np.float32, np.float64):  # the limit at -inf, where torch has inf times 0
        far = np.array([-10, -1e12, -3e38, -np.inf], dtype)
        np.testing.assert_allclose(pyattn.gelu(far), 0, rtol=0, atol=1e-20)
    with pytest.raises(ValueError, match="^gelu: approximate"):
        pyattn.gelu(x, "erf")
    with pytest.raises(TypeError, match="^relu: x has dtype int64"):
        pyattn.relu(np.arange(3))
