import math

import numpy as np
import pytest

from pyattn import LearnedPositionalEmbedding, sinusoidal_encoding
from pyattn.positional import interpolate_positions, relative_position_buckets, rotary_tables


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
    for arguments in ((-1, 4), (4, 2.5), (True, 4)):
        with pytest.raises(ValueError, match="^sinusoidal_encoding: (length|width) must be an integer"):
            sinusoidal_encoding(*arguments)
    with pytest.raises(ValueError, match="base must be positive"):
        sinusoidal_encoding(3, 4, base=0)
    with pytest.raises(TypeError, match="dtype must be float32 or float64, not int"):
        sinusoidal_encoding(3, 4, dtype=int)


def test_learned_embedding_looks_rows_up():
    embedding = LearnedPositionalEmbedding(10, 4, rng=0)
    table = np.arange(40, dtype=np.float32).reshape(10, 4)
    embedding.load_state_dict({"weight": table})
    np.testing.assert_array_equal(embedding([[0, 9], [3, 3]]), table[[[0, 9], [3, 3]]])
    assert embedding(np.zeros(0, int)).shape == (0, 4)
    for bad in ([10], [-1]):
        with pytest.raises(ValueError, match=r"^LearnedPositionalEmbedding: positions .* outside 0 ... 9"):
            embedding(bad)
    with pytest.raises(TypeError, match="positions must be integers"):
        embedding([0.5])
    with pytest.raises(ValueError, match="positive integer"):
        LearnedPositionalEmbedding(0, 4)


def test_rotary_tables():
    cosines, sines = rotary_tables(5, 6, base=100.0, dtype=np.float64)
    angles = np.arange(5)[:, None] / 100.0 ** (np.arange(3) / 3)
    np.testing.assert_allclose(cosines, np.cos(angles), atol=1e-15)
    np.testing.assert_allclose(sines, np.sin(angles), atol=1e-15)
    with pytest.raises(ValueError, match="^rotary_tables: width must be even, not 5"):
        rotary_tables(3, 5)


def test_relative_position_buckets_as_t5_has_them():
    """In the article's words: half the buckets exact, the rest logarithmic up to max_distance, beyond it the last."""
    distance = np.arange(-300, 301)
    both, one = relative_position_buckets(distance), relative_position_buckets(distance, bidirectional=False)
    assert (both[distance > 0] >= 16).all() and (both[distance <= 0] < 16).all()
    np.testing.assert_array_equal(both[distance > 0] - 16, both[distance < 0][::-1])
    near = abs(distance) < 8
    np.testing.assert_array_equal(both[near], abs(distance[near]) + 16 * (distance[near] > 0))
    assert (both[distance <= -128] == 15).all() and (both[distance == -90] == 14).all()
    assert (np.diff(both[distance <= 0]) <= 0).all() and set(both) == set(range(32)) - {16}
    assert (one[distance >= 0] == 0).all() and (one[distance <= -128] == 31).all()
    np.testing.assert_array_equal(one[(distance <= 0) & (distance > -16)], np.arange(15, -1, -1))


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16, np.uint16, np.int64, np.uint64])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_buckets_of_any_integers(kind, bidirectional):
    limits = np.iinfo(kind)
    numbers = [int(limits.min), int(limits.min) + 1, 0, 1, 3, 100, int(limits.max) - 1, int(limits.max)]
    found = relative_position_buckets(np.array(numbers, kind), bidirectional=bidirectional)
    clipped = np.array([max(-1000, min(1000, number)) for number in numbers])
    np.testing.assert_array_equal(found, relative_position_buckets(clipped, bidirectional=bidirectional))
    assert found.min() >= 0 and found.max() < 32


def test_interpolated_positions():
    grid = np.random.default_rng(0).standard_normal((4, 5, 3)).astype(np.float32)
    for antialias in (False, True):
        np.testing.assert_allclose(interpolate_positions(grid, 4, 5, antialias=antialias), grid, atol=1e-6)
        flat = interpolate_positions(np.ones((3, 4, 2)), 7, 2, antialias=antialias)
        np.testing.assert_allclose(flat, 1, rtol=1e-12)
    torch = pytest.importorskip("torch")
    theirs = torch.from_numpy(grid.transpose(2, 0, 1)[None])
    for size in ((4, 5), (9, 13), (3, 2), (1, 20)):
        for antialias in (False, True):
            options = {"mode": "bicubic", "align_corners": False, "antialias": antialias}
            expected = torch.nn.functional.interpolate(theirs, size, **options)[0].numpy().transpose(1, 2, 0)
            resized = interpolate_positions(grid, *size, antialias=antialias)
            np.testing.assert_allclose(resized, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: relative_position_buckets([0.5]),
            TypeError,
            "^relative_position_buckets: relative_position has dtype",
        ),
        (lambda: relative_position_buckets([1], 3), ValueError, "num_buckets must be at least 4, not 3"),
        (
            lambda: relative_position_buckets([1], 32, 8),
            ValueError,
            "max_distance must be above 8 for 32 buckets, not 8",
        ),
        (lambda: interpolate_positions(np.ones((3, 3)), 2, 2), ValueError, r"positions has shape \(3, 3\)"),
        (lambda: interpolate_positions(np.ones((3, 3, 1)), 0, 2), ValueError, "height must be a positive integer"),
        (lambda: interpolate_positions(np.ones((3, 3, 1), int), 2, 2), TypeError, "positions has dtype int64"),
    ],
)
def test_bad_input_of_the_others(call, error, message):
    with pytest.raises(error, match=message):
        call()
