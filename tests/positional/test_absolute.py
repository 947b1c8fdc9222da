import math

import numpy as np
import pytest

from pyattn import LearnedPositionalEmbedding, LearnedPositionalGrid, sinusoidal_encoding
from tests.support.recorded_positions import TENSORS


@pytest.mark.parametrize("width", [0, 1, 2, 5, 8])
def test_sinusoidal_encoding_is_the_papers_formula(width):
    encoding = sinusoidal_encoding(50, width, dtype=np.float64)
    assert encoding.shape == (50, width)
    for position in range(50):
        for i in range(width):
            angle = position / 10000 ** ((i - i % 2) / width)
            expected = math.sin(angle) if i % 2 == 0 else math.cos(angle)
            assert encoding[position, i] == pytest.approx(expected, abs=1e-14)


def test_sinusoidal_encoding_options():
    assert sinusoidal_encoding(0, 4).shape == (0, 4)
    assert sinusoidal_encoding(3, 4).dtype == np.float32
    assert sinusoidal_encoding(3, 4, base=100.0, dtype=float)[1, 2] == pytest.approx(math.sin(0.1))
    for arguments, error in (((-1, 4), ValueError), ((4, 2.5), TypeError), ((True, 4), TypeError)):
        with pytest.raises(error, match="^sinusoidal_encoding: (length|width) must be an integer"):
            sinusoidal_encoding(*arguments)
    with pytest.raises(ValueError, match="base must be positive"):
        sinusoidal_encoding(3, 4, base=0)
    with pytest.raises(TypeError, match="dtype must be float32 or float64, not int"):
        sinusoidal_encoding(3, 4, dtype=int)


@pytest.mark.parametrize("width", [0, 1, 2, 5, 8])
@pytest.mark.parametrize("endpoint", [False, True])
def test_sines_in_front_of_cosines(width, endpoint):
    encoding = sinusoidal_encoding(50, width, base=100.0, halves=True, endpoint=endpoint, dtype=np.float64)
    sines = -(-width // 2)
    for i in range(width):
        exponent = i % sines / max(1, sines - 1) if endpoint else 2 * (i % sines) / width
        expected = (np.sin if i < sines else np.cos)(np.arange(50) / 100.0**exponent)
        np.testing.assert_allclose(encoding[:, i], expected, atol=1e-13)


def test_whispers_positions():
    np.testing.assert_allclose(sinusoidal_encoding(6, 8, halves=True, endpoint=True), TENSORS["whisper"], atol=1e-6)


def test_learned_positions_are_of_the_dtype_asked_for():
    for make in (LearnedPositionalEmbedding, lambda *sizes, **options: LearnedPositionalGrid(2, *sizes, **options)):
        assert make(5, 4, rng=0).state_dict()["weight"].dtype == np.float32
        layer = make(5, 4, dtype="float64", rng=0)
        layer.load_state_dict({"weight": np.full(layer.state_dict()["weight"].shape, 0.1)})
        assert layer.state_dict()["weight"].ravel()[0] == 0.1
        with pytest.raises(TypeError, match="dtype must be float32 or float64"):
            make(5, 4, dtype="float16")


def test_learned_embedding_looks_rows_up():
    embedding = LearnedPositionalEmbedding(10, 4, rng=0)
    table = np.arange(40, dtype=np.float32).reshape(10, 4)
    embedding.load_state_dict({"weight": table})
    np.testing.assert_array_equal(embedding([[0, 9], [3, 3]]), table[[[0, 9], [3, 3]]])
    assert embedding(np.zeros(0, int)).shape == (0, 4)
    for bad in ([10], [-1]):
        with pytest.raises(ValueError, match=r"^LearnedPositionalEmbedding: positions must be in \[0, 10\), not in"):
            embedding(bad)
    with pytest.raises(TypeError, match="^LearnedPositionalEmbedding: positions has dtype float64; integers"):
        embedding([0.5])
    with pytest.raises(ValueError, match="positive integer"):
        LearnedPositionalEmbedding(0, 4)
