import math

import numpy as np
import pytest

from pyattn import LearnedPositionalGrid, interpolate_positions, sinusoidal_grid_encoding


@pytest.mark.parametrize("features", [0, 4, 12])
@pytest.mark.parametrize("form", ["mae", "detr"])
def test_sinusoidal_grid(form, features):
    height, width = 3, 5
    encoding = sinusoidal_grid_encoding(height, width, features, form=form, base=100.0, dtype=np.float64)
    assert encoding.shape == (height, width, features)
    half, quarter = features // 2, features // 4
    for y in range(height):
        for x in range(width):
            for i in range(features):
                if form == "mae":
                    place, pair, is_sine = (x, y)[i // half], i % quarter, i % half < quarter
                else:
                    place = ((y + 1) / (height + 1e-6), (x + 1) / (width + 1e-6))[i // half] * 2 * math.pi
                    pair, is_sine = i % half // 2, i % 2 == 0
                angle = place / 100.0 ** (2 * pair / half)
                expected = math.sin(angle) if is_sine else math.cos(angle)
                assert encoding[y, x, i] == pytest.approx(expected, abs=1e-13)


def test_sinusoidal_grid_options():
    assert sinusoidal_grid_encoding(0, 2, 4).shape == (0, 2, 4)
    assert sinusoidal_grid_encoding(1, 2, 4).dtype == np.float32


@pytest.mark.oracle
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


def test_learned_grid():
    grid = LearnedPositionalGrid(4, 5, 3, rng=0)
    weight = np.random.default_rng(0).standard_normal((4, 5, 3)).astype(np.float32)
    grid.load_state_dict({"weight": weight})
    same = grid(4, 5)
    np.testing.assert_array_equal(same, weight.reshape(20, 3))
    same[...] = 0  # is the caller's own
    np.testing.assert_array_equal(grid.state_dict()["weight"], weight)
    np.testing.assert_array_equal(grid(2, 9), interpolate_positions(weight, 2, 9).reshape(18, 3))
    smooth = LearnedPositionalGrid(4, 5, 3, antialias=True)
    smooth.load_state_dict({"weight": weight})
    np.testing.assert_array_equal(smooth(2, 9), interpolate_positions(weight, 2, 9, antialias=True).reshape(18, 3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: interpolate_positions(np.ones((3, 3)), 2, 2), ValueError, r"positions has shape \(3, 3\)"),
        (lambda: interpolate_positions(np.ones((3, 3, 1)), 0, 2), ValueError, "height must be a positive integer"),
        (lambda: interpolate_positions(np.ones((3, 3, 1), int), 2, 2), TypeError, "positions has dtype int64"),
        (
            lambda: sinusoidal_grid_encoding(2, 2, 6),
            ValueError,
            "^sinusoidal_grid_encoding: features must be a multiple",
        ),
        (lambda: sinusoidal_grid_encoding(-1, 2, 4), ValueError, "height must be an integer, 0 or more, not -1"),
        (
            lambda: sinusoidal_grid_encoding(1, 2, 4, form="vit"),
            ValueError,
            "form must be one of 'mae', 'detr', not 'vit'",
        ),
        (lambda: sinusoidal_grid_encoding(1, 2, 4, base=-1), ValueError, "base must be positive and finite"),
        (lambda: sinusoidal_grid_encoding(1, 2, 4, dtype=int), TypeError, "dtype must be float32 or float64"),
        (
            lambda: LearnedPositionalGrid(4, 0, 8),
            ValueError,
            "^LearnedPositionalGrid: width must be a positive integer",
        ),
        (lambda: LearnedPositionalGrid(4, 4, 8)(4, -1), ValueError, "^LearnedPositionalGrid: width must be a positive"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
