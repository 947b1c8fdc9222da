"""What a model's attention is seen to look at: the weights that the call itself used, by the reference's formulas."""

import threading

import numpy as np
import pytest

import pyattn
from pyattn import explain, reference
from tests.support.problems import normal

WIDTH, HEADS = 32, 4


def by_hand(attention, x, memory=None, mask=None, causal=False):
    """Weights (B, H, L, S) by the projections of a layer, for inputs (B, L, E)."""
    names = attention.state_dict()
    query, key, _ = np.split(names["in_proj_weight"].astype(np.float64), 3)
    query_bias, key_bias, _ = np.split(names["in_proj_bias"].astype(np.float64), 3)
    memory = x if memory is None else memory
    heads = [
        (rows.astype(np.float64) @ weight.T + bias).reshape(*rows.shape[:2], HEADS, -1).swapaxes(1, 2)
        for rows, weight, bias in ((x, query, query_bias), (memory, key, key_bias))
    ]
    return reference.softmax(*heads, mask, is_causal=causal).weights


@pytest.fixture
def encoder():
    return pyattn.TransformerEncoder(pyattn.TransformerEncoderLayer(WIDTH, HEADS, 64, rng=0), 3)


def test_weights_are_those_of_the_layers(encoder):
    x = normal((2, 7, WIDTH), np.float32)
    with explain.watch(encoder) as seen:
        out = encoder(x)
    assert [attended.layer for attended in seen] == [f"layers.{i}.self_attn" for i in range(3)]
    np.testing.assert_array_equal(out, encoder(x))
    assert len(seen) == 3  # nothing is seen behind the statement
    for layer, attended in zip(encoder.layers, seen, strict=True):
        expected = by_hand(layer.self_attn, x)
        assert attended.sequences == 2 and attended.heads == HEADS
        for sequence in range(2):
            np.testing.assert_allclose(attended.weights(sequence), expected[sequence], rtol=2e-5, atol=1e-6)
            found = attended.statistics(sequence, entropy=True, received=True, pooled=(2, 3))
            np.testing.assert_allclose(found.received, expected[sequence].sum(-2), rtol=2e-5)
            np.testing.assert_allclose(found.pooled.sum((-1, -2)), 7, rtol=1e-5)
        x = layer(x)


def test_padding_masks_and_causality_are_those_of_the_call(encoder):
    x = normal((2, 6, WIDTH), np.float32)
    live = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]], bool)
    with explain.watch(encoder, lambda name: "layers.0" in name) as seen:
        encoder(x, key_mask=live)
        encoder(x, is_causal=True)
        encoder(x, mask=np.tril(np.ones((6, 6), bool), 1), key_mask=live)
    packed, causal, masked = seen
    np.testing.assert_allclose(
        packed.weights(0), by_hand(encoder.layers[0].self_attn, x[:1, :4])[0], rtol=2e-5, atol=1e-6
    )
    assert packed.weights(1).shape == (HEADS, 6, 6)
    np.testing.assert_allclose(
        causal.weights(1), by_hand(encoder.layers[0].self_attn, x, causal=True)[1], rtol=2e-5, atol=1e-6
    )
    both = np.tril(np.ones((6, 6), bool), 1) & live[:, None, None]
    np.testing.assert_allclose(
        masked.weights(0), by_hand(encoder.layers[0].self_attn, x, mask=both)[0], rtol=2e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    "options",
    [
        {"rotary_base": 1e4},
        {"alibi": True},
        {"window": (1, 1)},
        {"softcap": 2.0},
        {"sinks": True},
        {"num_key_value_heads": 2},
        {"qk_norm": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_the_output_follows_from_what_is_seen(options, dtype):
    """Weights times values by hand are what the layer's attention gives."""
    x = normal((2, 9, WIDTH), np.float32)
    stack = pyattn.TransformerEncoder(
        pyattn.TransformerEncoderLayer(WIDTH, HEADS, 64, **options, dtype=dtype, rng=3), 1
    )
    if options.get("sinks"):
        stack.load_state_dict({**stack.state_dict(), "layers.0.self_attn.sinks": normal((HEADS,), np.float32)})
    with explain.watch(stack) as seen:
        stack(x)
    (attended,) = seen
    attention = stack.layers[0].self_attn
    state = attention.state_dict()
    shared = WIDTH * options.get("num_key_value_heads", HEADS) // HEADS
    value, bias = state["in_proj_weight"][-shared:], state["in_proj_bias"][-shared:]
    values = (x @ value.T + bias).reshape(2, 9, -1, WIDTH // HEADS).swapaxes(1, 2)
    values = values.repeat(HEADS // values.shape[1], axis=1)
    for sequence in range(2):
        rows = (attended.weights(sequence) @ values[sequence]).swapaxes(0, 1).reshape(9, WIDTH)
        expected = attention(x, x, x)[sequence]
        found = rows @ state["out_proj.weight"].T + state["out_proj.bias"]
        np.testing.assert_allclose(found, expected, atol={"float32": 1e-5}.get(dtype, 0.05) * abs(expected).max())


def test_steps_of_a_decoder_and_its_cross_attention():
    decoder = pyattn.TransformerDecoder(pyattn.TransformerDecoderLayer(WIDTH, HEADS, 64, rng=0), 2)
    y, memory = normal((2, 5, WIDTH), np.float32), normal((2, 8, WIDTH), np.float32, 1)
    with explain.watch(decoder) as whole:
        decoder(y, memory=memory, is_causal=True)
    state = decoder.start(memory, capacity=9)
    decoder.step(y[:, :3], state)
    with explain.watch(decoder) as steps:
        decoder.step(y[:, 3:], state)
    names = ["layers.0.self_attn", "layers.0.multihead_attn", "layers.1.self_attn", "layers.1.multihead_attn"]
    assert [x.layer for x in whole] == [x.layer for x in steps] == names
    for one, other in zip(whole, steps, strict=True):
        for sequence in range(2):
            np.testing.assert_allclose(one.weights(sequence)[:, 3:], other.weights(sequence), rtol=1e-4, atol=1e-6)
    assert whole[1].weights().shape == (HEADS, 5, 8)


def test_rollout_is_the_product_of_matrices(encoder):
    x = normal((2, 7, WIDTH), np.float32)
    with explain.watch(encoder) as seen:
        encoder(x)
    product = np.eye(7)
    for attended in seen:
        product = (attended.weights(1).mean(axis=0) + np.eye(7)) / 2 @ product
    np.testing.assert_allclose(explain.rollout(seen, [0, 5], 1), product[[0, 5]], rtol=1e-4, atol=1e-6)


def test_calls_of_other_models_and_threads_are_not_seen(encoder):
    other = pyattn.TransformerEncoder(pyattn.TransformerEncoderLayer(WIDTH, HEADS, 64, rng=0), 1)
    x = normal((1, 3, WIDTH), np.float32)
    with explain.watch(encoder) as seen:
        other(x)
        thread = threading.Thread(target=encoder, args=(x,))
        thread.start()
        thread.join()
    assert seen == []


def test_errors(encoder):
    with pytest.raises(TypeError, match="watch: model must be a model or layer of pyattn, not str"), explain.watch("x"):
        pass
    with pytest.raises(TypeError, match="watch: layers must be a function"), explain.watch(encoder, [1]):
        pass
    with pytest.raises(ValueError, match="rollout: seen has no layers"):
        explain.rollout([], [0])
    with explain.watch(encoder) as seen:
        encoder(normal((1, 3, WIDTH), np.float32))
    with pytest.raises(ValueError, match="Attended: sequence must be from 0 to 0, not 1"):
        seen[0].weights(1)
    with pytest.raises(ValueError, match="rollout: queries"):
        explain.rollout(seen, [3])
