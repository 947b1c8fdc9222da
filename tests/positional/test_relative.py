import numpy as np
import pytest

from pyattn import RelativePositionBias, alibi_slopes, relative_position_buckets, scaled_dot_product_attention
from tests.support.recorded_positions import TENSORS


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


@pytest.mark.parametrize("heads", [1, 6, 8, 12, 20])
def test_alibi_slopes_as_bloom_has_them(heads):
    slopes = alibi_slopes(heads)
    assert slopes.dtype == np.float32
    np.testing.assert_allclose(slopes, TENSORS[f"bloom.{heads}"], rtol=1e-6)


def test_alibi_slopes_of_a_power_of_two_are_the_articles():
    np.testing.assert_array_equal(alibi_slopes(8, dtype=np.float64), 0.5 ** np.arange(1, 9))
    np.testing.assert_allclose(alibi_slopes(16, dtype=np.float64), 2.0 ** (-np.arange(1, 17) / 2), rtol=1e-15)


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_relative_position_bias_as_t5_has_it(kind):
    layer = RelativePositionBias(32, 128, 3, bidirectional=kind == "encoder")
    layer.load_state_dict({"weight": TENSORS["t5.weight"]})
    np.testing.assert_array_equal(layer(9, 40), TENSORS[f"t5.{kind}"])


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (1, 1), (1, 50), (7, 20), (20, 7)])
@pytest.mark.parametrize("offset", [None, 0, 3, -4, 1000])
def test_relative_position_bias_of_every_pair(shape, offset):
    layer = RelativePositionBias(8, 10, 2, rng=0, dtype=np.float64)
    bias = layer(*shape, query_offset=offset)
    queries, keys = shape
    places = (keys - queries if offset is None else offset) + np.arange(queries)
    buckets = relative_position_buckets(np.arange(keys) - places[:, None], 8, 10)
    assert bias.shape == (1, 2, *shape)
    np.testing.assert_array_equal(bias[0], layer.state_dict()["weight"][buckets].transpose(2, 0, 1))


def test_relative_position_bias_is_a_view_that_attention_takes():
    layer = RelativePositionBias(32, 128, 4, rng=0)
    _, _, of_query, of_key = layer(3000, 5000).strides
    assert of_query == -of_key
    query, key, value = np.random.default_rng(0).standard_normal((3, 2, 4, 40, 8)).astype(np.float32)
    bias = layer(40, 40)
    np.testing.assert_array_equal(
        scaled_dot_product_attention(query, key, value, bias=bias),
        scaled_dot_product_attention(query, key, value, bias=bias.copy()),
    )


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
        (lambda: relative_position_buckets([1], bidirectional=2), TypeError, "bidirectional must be True or False"),
        (lambda: alibi_slopes(0), ValueError, "^alibi_slopes: num_heads must be a positive integer, not 0"),
        (lambda: alibi_slopes(2, dtype=int), TypeError, "^alibi_slopes: dtype must be float32 or float64"),
        (lambda: RelativePositionBias(3, 8, 2), ValueError, "^RelativePositionBias: num_buckets must be at least 4"),
        (lambda: RelativePositionBias(8, 2, 2), ValueError, "^RelativePositionBias: max_distance must be above 2"),
        (lambda: RelativePositionBias(8, 8, 0), ValueError, "num_heads must be a positive integer, not 0"),
        (lambda: RelativePositionBias(8, 8, 1)(-1, 2), ValueError, "queries must be an integer, 0 or more, not -1"),
        (lambda: RelativePositionBias(8, 8, 1)(1, 2, query_offset=0.5), TypeError, "query_offset has dtype float64"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
