import ml_dtypes
import numpy as np
import pytest

from pyattn import RotaryEmbedding, num_threads, rotary_embedding, rotary_tables

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
EPS = {np.dtype(np.float64): 1e-15, np.dtype(np.float32): 1e-6, np.dtype(np.float16): 2e-3, BFLOAT16: 2e-2}


def turned(x, cosines, sines, interleaved=False):
    """Equation 34, in float64: x (..., L, D) by tables that broadcast to (..., L, width / 2)."""
    x = x.astype(np.float64)
    half = cosines.shape[-1]
    first, second = slice(half), slice(half, 2 * half)
    if interleaved:
        first, second = slice(0, 2 * half, 2), slice(1, 2 * half, 2)
    a, b = x[..., first].copy(), x[..., second].copy()
    x[..., first], x[..., second] = a * cosines - b * sines, b * cosines + a * sines
    return x


def problem(shape, half, dtype, rows=20):
    rng = np.random.default_rng(0)
    real = np.float64 if dtype == np.float64 else np.float32
    return rng.standard_normal(shape).astype(dtype), *rng.standard_normal((2, rows, half)).astype(real)


def test_rotary_tables():
    cosines, sines = rotary_tables(5, 6, base=100.0, dtype=np.float64)
    angles = np.arange(5)[:, None] / 100.0 ** (np.arange(3) / 3)
    np.testing.assert_allclose(cosines, np.cos(angles), atol=1e-15)
    np.testing.assert_allclose(sines, np.sin(angles), atol=1e-15)
    with pytest.raises(ValueError, match="^rotary_tables: width must be even, not 5"):
        rotary_tables(3, 5)
    for arguments, error in (((-1, 4), ValueError), ((4, 2.5), TypeError)):
        with pytest.raises(error, match="^rotary_tables: (length|width) must be an integer, 0 or more"):
            rotary_tables(*arguments)
    with pytest.raises(ValueError, match="^rotary_tables: offset must be an integer, 0 or more"):
        rotary_tables(3, 4, offset=-1)
    np.testing.assert_array_equal(rotary_tables(3, 6, offset=2), np.array(rotary_tables(5, 6))[:, 2:])


@pytest.mark.parametrize("dtype", EPS, ids=str)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("half", "width"), [(0, 3), (1, 2), (3, 7), (4, 8), (16, 33), (17, 40), (33, 66)])
def test_every_width(dtype, interleaved, half, width):
    x, cosines, sines = problem((2, 3, 5, width), half, dtype)
    given = x.copy()
    out = rotary_embedding(x, cosines, sines, interleaved=interleaved)
    assert out.dtype == dtype and out.shape == x.shape
    np.testing.assert_array_equal(x, given)
    expected = turned(x, cosines[:5].astype(np.float64), sines[:5].astype(np.float64), interleaved)
    np.testing.assert_allclose(out.astype(np.float64), expected, atol=10 * EPS[np.dtype(dtype)])
    np.testing.assert_array_equal(out[..., 2 * half :], x[..., 2 * half :])


@pytest.mark.parametrize("interleaved", [False, True])
def test_every_layout_turns_alike(interleaved):
    x, cosines, sines = problem((2, 3, 5, 8), 3, np.float64)
    positions = np.random.default_rng(1).integers(0, 20, (2, 5))
    expected = turned(x, cosines[positions][:, None], sines[positions][:, None], interleaved)
    options = {"interleaved": interleaved}

    def check(out, expected):
        np.testing.assert_allclose(out, expected, atol=1e-14)

    check(rotary_embedding(x, cosines, sines, positions, **options), expected)
    check(rotary_embedding(x, cosines, sines, positions.astype(np.uint8), **options), expected)
    check(rotary_embedding(x, cosines[positions], sines[positions], **options), expected)
    check(rotary_embedding(x[0], cosines, sines, positions[0], **options), expected[0])
    check(rotary_embedding(x[0, 1], cosines, sines, positions[0], **options), expected[0, 1])
    side_by_side = x.transpose(0, 2, 1, 3)
    rows = side_by_side.reshape(2, 5, 24)
    check(
        rotary_embedding(rows, cosines, sines, positions, num_heads=3, **options).reshape(2, 5, 3, 8),
        expected.transpose(0, 2, 1, 3),
    )
    check(  # packed sequences
        rotary_embedding(rows.reshape(10, 24), cosines, sines, positions.ravel(), num_heads=3, **options),
        expected.transpose(0, 2, 1, 3).reshape(10, 24),
    )
    strided = np.ascontiguousarray(side_by_side).transpose(0, 2, 1, 3)
    check(rotary_embedding(strided, cosines, sines, positions, **options), expected)
    check(rotary_embedding(strided, cosines[:, ::-1][:, ::-1], sines, positions, **options), expected)


@pytest.mark.parametrize("shape", [(0, 3, 5, 8), (2, 0, 5, 8), (2, 3, 0, 8), (0, 8)])
def test_nothing_to_turn(shape):
    x, cosines, sines = problem(shape, 3, np.float32)
    assert rotary_embedding(x, cosines, sines).shape == shape
    assert rotary_embedding(np.ones((2, 3, 0), np.float32), cosines[:, :0], sines[:, :0]).shape == (2, 3, 0)


def test_threads_do_not_matter():
    x, cosines, sines = problem((4, 8, 100, 64), 32, np.float32, rows=100)
    with num_threads(1):
        one = rotary_embedding(x, cosines, sines)
    with num_threads(3):
        np.testing.assert_array_equal(rotary_embedding(x, cosines, sines), one)


def test_products_depend_on_distances_only():
    query, key = np.random.default_rng(0).standard_normal((2, 1, 8))
    tables = rotary_tables(1000, 8, dtype=np.float64)

    def product(query_position, key_position, interleaved):
        options = {"interleaved": interleaved}
        return (
            rotary_embedding(query, *tables, [query_position], **options)
            @ rotary_embedding(key, *tables, [key_position], **options).T
        )

    for interleaved in (False, True):
        np.testing.assert_allclose(product(7, 3, interleaved), product(907, 903, interleaved), rtol=1e-10)
        assert abs(product(7, 3, interleaved) - product(7, 4, interleaved)) > 1e-3


@pytest.mark.parametrize("scaling", [None, {"type": "dynamic", "factor": 2.0, "max_position_embeddings": 16}])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_layer(scaling, interleaved, dtype):
    layer = RotaryEmbedding(6, base=100.0, scaling=scaling, interleaved=interleaved)
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 8)).astype(dtype)
    assert layer.state_dict() == {}
    real = np.float64 if dtype == np.float64 else np.float32
    for start in (0, 30, 3, 200, 10):  # whatever was asked for before
        positions = start + np.arange(5)
        tables = rotary_tables(start + 5, 6, base=100.0, scaling=scaling, dtype=real)
        expected = rotary_embedding(x, *tables, positions, interleaved=interleaved)
        np.testing.assert_array_equal(layer(x, positions=positions), expected)
        if start == 0:
            np.testing.assert_array_equal(layer(x), expected)
    rows = x.reshape(2, 15, 8)
    np.testing.assert_array_equal(layer(rows, num_heads=1), layer(rows[:, None])[:, 0])


X, TABLE = np.ones((2, 3, 5, 8), np.float32), np.ones((20, 4), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: rotary_embedding(X.astype(int), TABLE, TABLE), TypeError, "^rotary_embedding: x has dtype int64"),
        (
            lambda: rotary_embedding(X[0, 0, 0], TABLE, TABLE),
            ValueError,
            r"x has shape \(8,\); accepted: \(..., H, L, D\)",
        ),
        (lambda: rotary_embedding(X, TABLE.astype(int), TABLE), TypeError, "cosines has dtype int64"),
        (lambda: rotary_embedding(X, TABLE, TABLE[0]), ValueError, r"sines has shape \(4,\)"),
        (
            lambda: rotary_embedding(X, TABLE, TABLE[:9]),
            ValueError,
            r"shapes \(20, 4\) and \(9, 4\); the same is needed",
        ),
        (lambda: rotary_embedding(X[..., :7], TABLE, TABLE), ValueError, "a last axis of at most 3"),
        (
            lambda: rotary_embedding(X, TABLE[:4], TABLE[:4]),
            ValueError,
            r"positions must be in \[0, 4\), the tables' rows, not in \[0, 4\]",
        ),
        (
            lambda: rotary_embedding(X, TABLE, TABLE, [0, 1, 2, 3, 20]),
            ValueError,
            r"positions must be in \[0, 20\), the tables' rows, not in \[0, 20\]",
        ),
        (
            lambda: rotary_embedding(X, TABLE, TABLE, [0, 1, 2, 3, -1]),
            ValueError,
            r"positions must be in \[0, .*not in \[-1, 3\]",
        ),
        (lambda: rotary_embedding(X, TABLE, TABLE, [0.5] * 5), TypeError, "positions has dtype float64"),
        (lambda: rotary_embedding(X, TABLE, TABLE, [1, 2]), ValueError, r"what broadcasts to \(2, 5\)"),
        (
            lambda: rotary_embedding(X, TABLE[None], TABLE[None]),
            ValueError,
            r"cosines have shape \(1, 20, 4\); accepted: \(n, width / 2\), or what broadcasts to \(2, 5\)",
        ),
        (
            lambda: rotary_embedding(X, TABLE[None], TABLE[None], [0] * 5),
            ValueError,
            "with positions, cosines and sines",
        ),
        (lambda: rotary_embedding(X, TABLE, TABLE, num_heads=3), ValueError, "H = num_heads = 3"),
        (lambda: rotary_embedding(X, TABLE, TABLE, num_heads=0), ValueError, "num_heads must be a positive integer"),
        (lambda: rotary_embedding(X, TABLE, TABLE, interleaved=2), TypeError, "interleaved must be True or False"),
        (lambda: RotaryEmbedding(5), ValueError, "^RotaryEmbedding: width must be even, not 5"),
        (lambda: RotaryEmbedding(4, base=0), ValueError, "^RotaryEmbedding: base must be positive"),
        (lambda: RotaryEmbedding(4, scaling=[2]), TypeError, "^RotaryEmbedding: scaling must be a mapping"),
        (lambda: RotaryEmbedding(10)(X), ValueError, "^RotaryEmbedding: cosines and sines have shapes"),
        (
            lambda: RotaryEmbedding(8)(X, positions=[-1] * 5),
            ValueError,
            r"^RotaryEmbedding: positions must be in \[0, .*not in \[-1, -1\]",
        ),
        (lambda: RotaryEmbedding(8)(X, positions=0.5), TypeError, "^RotaryEmbedding: positions has dtype float64"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
