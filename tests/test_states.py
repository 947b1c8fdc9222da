"""Objects that were not made for each other, or were changed since: refused by name, before memory is touched."""

import copy
import dataclasses
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

import pyattn
from pyattn import KVCache, LayerNorm, Linear, TransformerDecoder, TransformerDecoderLayer, _checks, _module
from pyattn._checks import masks
from pyattn._core import rowwise
from pyattn.models.cached_sequences import CachedSequences, Memory
from pyattn.models.embeddings import MAX_GRIDS, PatchEmbeddings, TokenEmbeddings
from pyattn.models.spec import PatchSpec, TokenSpec
from pyattn.precision import Quantized
from tests.support.mismatches import main as mismatches
from tests.support.recorded import recorded
from tests.support.tiny_generator import write_generator

ROOT = Path(__file__).parents[1]


def normal(shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def decoder(layers=2, width=16, heads=4, norm=None, **options):
    options = {"cross_attention": False, "rng": 0} | options
    return TransformerDecoder(TransformerDecoderLayer(width, heads, 24, **options), layers, norm)


def encoder(layers=2, **options):
    return pyattn.TransformerEncoder(pyattn.TransformerEncoderLayer(16, 4, 24, rng=0, **options), layers)


OTHERS = {
    "the same sizes": {},
    "width": {"width": 32},
    "heads": {"heads": 8},
    "key heads": {"num_key_value_heads": 1},
    "head width": {"head_dim": 32},
    "more layers": {"layers": 3},
    "fewer layers": {"layers": 1},
    "float64": {"dtype": "float64"},
    "bfloat16": {"dtype": "bfloat16"},
    "memory": {"cross_attention": True},
    "window": {"window": (2, 0)},
    "rotary": {"rotary_base": 100.0},
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_state_of_another_decoder_is_refused(other):
    theirs = decoder(**OTHERS[other])
    width, dtype = theirs.layers[0].self_attn.embed_dim, theirs.layers[0].self_attn.out_proj.dtype
    memory = normal((1, 5, width)) if "memory" in other else None
    state = theirs.start(memory, capacity=9)
    message = "^TransformerDecoder.step: state was made by another decoder; start makes one that fits"
    with pytest.raises(ValueError, match=message):
        decoder().step(normal((1, 3, 16)), state)
    assert np.isfinite(theirs.step(normal((1, 3, width), dtype=dtype), state)).all()


@pytest.mark.parametrize("state", [None, {}, KVCache(1, 4, 9, 4), np.zeros(3)])
def test_what_is_no_state_is_refused(state):
    with pytest.raises(TypeError, match="^TransformerDecoder.step: state must be what start returned, not"):
        decoder().step(normal((1, 3, 16)), state)


def shorten(model):
    model.layers = model.layers[:1]


CHANGES = {
    "left": lambda m: setattr(m.layers[1].self_attn, "left", 5),
    "rotary": lambda m: setattr(m.layers[0].self_attn, "rotary", decoder(rotary_base=9.0).layers[0].self_attn.rotary),
    "attention": lambda m: setattr(m.layers[1], "self_attn", decoder(num_key_value_heads=1).layers[0].self_attn),
    "layer": lambda m: m.layers.__setitem__(1, decoder(head_dim=8).layers[0]),
    "layers": shorten,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_state_from_before_layers_were_replaced_is_refused(change):
    model = decoder()
    state = model.start(capacity=9)
    CHANGES[change](model)
    with pytest.raises(ValueError, match="^TransformerDecoder.step: state was made before layers were replaced"):
        model.step(normal((1, 3, 16)), state)
    assert np.isfinite(model.step(normal((1, 3, 16)), model.start(capacity=9))).all()


@pytest.mark.parametrize("norm", [None, LayerNorm(4), pyattn.RMSNorm(4, 1e-3), pyattn.RMSNorm(4, unit_offset=True)])
def test_a_state_of_keys_that_were_normalised_otherwise_is_refused(norm):
    model = decoder()
    model.layers[1].self_attn.q_norm = model.layers[1].self_attn.k_norm = pyattn.RMSNorm(4)
    state = model.start(capacity=9)
    model.layers[1].self_attn.k_norm = pyattn.RMSNorm(4)  # of the same kind
    model.step(normal((1, 3, 16)), state)
    model.layers[1].self_attn.q_norm = model.layers[1].self_attn.k_norm = norm
    with pytest.raises(ValueError, match="^TransformerDecoder.step: state was made before layers were replaced"):
        model.step(normal((1, 3, 16)), state)


def test_copies_of_a_decoder_go_on_with_its_states():
    model = decoder()
    x = normal((1, 6, 16))
    whole = model(x, is_causal=True)
    state = model.start(capacity=9)
    model.step(x[:, :2], state)
    twin, state = pickle.loads(pickle.dumps((model, state)))
    np.testing.assert_array_equal(twin.step(x[:, 2:4], state), whole[:, 2:4])
    np.testing.assert_array_equal(copy.deepcopy(twin).step(x[:, 4:], state), whole[:, 4:])


# A change of a stack or layer of width 16, and the error.
REPLACED = {
    "a layer's width": (lambda m: m.layers.__setitem__(1, encoder_layer(32)), ValueError, "layers.1 has width 32"),
    "a layer's heads": (lambda m: m.layers.__setitem__(1, encoder_layer(16, 8)), ValueError, "layers.1 .* 8 heads"),
    "a layer's dtype": (lambda m: m.layers.__setitem__(1, encoder_layer(16, dtype="float64")), ValueError, "float64"),
    "a layer's kind": (lambda m: m.layers.__setitem__(1, Linear(16, 16)), TypeError, "layers.1 must be a Transformer"),
    "no layers": (lambda m: m.layers.clear(), ValueError, "layers is empty"),
    "linear1's inputs": (lambda m: setattr(m.layers[1], "linear1", Linear(17, 24)), ValueError, "^Linear: a weight"),
    "linear1's outputs": (lambda m: setattr(m.layers[1], "linear1", Linear(16, 99)), ValueError, "^Linear: a weight"),
    "linear2": (lambda m: setattr(m.layers[1], "linear2", Linear(24, 99)), ValueError, "^Linear: a weight"),
    "linear2's dtype": (
        lambda m: setattr(m.layers[1], "linear2", Linear(24, 16, dtype="bfloat16")),
        ValueError,
        r"^Linear: a weight float32 \(24, 16\) does not make uint16",
    ),
    "gated": (lambda m: setattr(m.layers[1], "gated", True), ValueError, "^Linear: a weight"),
    "out_proj": (lambda m: setattr(m.layers[1].self_attn, "out_proj", Linear(15, 16)), ValueError, "^MultiHeadAttent"),
    "heads": (lambda m: setattr(m.layers[0].self_attn, "num_heads", 8), ValueError, "layers.1 has .*layers.0 has"),
    "all heads": (lambda m: [setattr(x.self_attn, "num_heads", 3) for x in m.layers], ValueError, "^MultiHeadAttenti"),
    "head_dim": (lambda m: setattr(m.layers[1].self_attn, "head_dim", 64), ValueError, "^MultiHeadAttention: 4 heads"),
    "no heads": (lambda m: setattr(m.layers[1].self_attn, "num_key_value_heads", 0), ValueError, "^MultiHeadAttention"),
    "norm1's width": (lambda m: setattr(m.layers[1], "norm1", LayerNorm(99)), ValueError, "^LayerNorm: a norm of 99"),
    "norm1's dtype": (
        lambda m: setattr(m.layers[1], "norm1", pyattn.RMSNorm(16, dtype="float64")),
        ValueError,
        "^RMSNorm: a norm of 16 float64 does not fit rows of 16 float32",
    ),
    "the last norm": (lambda m: setattr(m, "norm", LayerNorm(3)), ValueError, "^LayerNorm: a norm of 3 float32"),
    "widths of keys and values": (
        lambda m: setattr(m.layers[1], "self_attn", pyattn.MultiHeadAttention(16, 4, kdim=8, vdim=8)),
        ValueError,
        r"^MultiHeadAttention: projections from \[16, 8, 8\] features do not read the same rows; layers were replaced",
    ),
    "width of values": (
        lambda m: setattr(m.layers[1], "self_attn", pyattn.MultiHeadAttention(16, 4, vdim=8)),
        ValueError,
        r"^MultiHeadAttention: projections from \[16, 16, 8\] features do not read the same rows; layers were replaced",
    ),
    "sinks": (
        lambda m: setattr(m.layers[1].self_attn, "_parameters", {"sinks": np.zeros(4)}),
        ValueError,
        "^MultiHeadAttention: sinks of float64 do not fit attention in float32; layers were replaced",
    ),
    "rotary": (
        lambda m: setattr(m.layers[1].self_attn, "rotary", 5),
        TypeError,
        "^MultiHeadAttention: rotary must be a Rotary or None, not int",
    ),
    "left": (
        lambda m: setattr(m.layers[1].self_attn, "left", "2"),
        TypeError,
        "^MultiHeadAttention: left must be an integer, not '2'",
    ),
    "scale": (
        lambda m: setattr(m.layers[1].self_attn, "scale", "x"),
        TypeError,
        "^MultiHeadAttention: scale must be a real number or None, not str",
    ),
    "softcap": (
        lambda m: setattr(m.layers[1].self_attn, "softcap", -1.0),
        ValueError,
        "^MultiHeadAttention: softcap must be positive and finite",
    ),
    "a norm of queries": (
        lambda m: setattr(m.layers[1].self_attn, "q_norm", LayerNorm(4)),
        TypeError,
        "^MultiHeadAttention: k_norm must be a LayerNorm or an RMSNorm, not NoneType",
    ),
    "a projection": (
        lambda m: setattr(m.layers[1].self_attn, "out_proj", 5),
        TypeError,
        "^MultiHeadAttention: out_proj must be a Linear, not int",
    ),
    "linear1": (
        lambda m: setattr(m.layers[1], "linear1", None),
        TypeError,
        "^TransformerEncoderLayer: linear1 must be a Linear, not NoneType",
    ),
    "norm2": (
        lambda m: setattr(m.layers[1], "norm2", None),
        TypeError,
        "^TransformerEncoderLayer: norm2 must be a LayerNorm or an RMSNorm, not NoneType",
    ),
    "a residual scale": (
        lambda m: setattr(m.layers[1], "residual_scale", 0),
        ValueError,
        "^TransformerEncoderLayer: residual_scale must be positive and finite, not 0",
    ),
}


def encoder_layer(width, heads=4, **options):
    return pyattn.TransformerEncoderLayer(width, heads, 24, rng=0, **options)


@pytest.mark.parametrize("change", REPLACED)
def test_parts_that_do_not_fit_are_refused(change):
    model = encoder()
    replace, error, message = REPLACED[change]
    replace(model)
    with pytest.raises(error, match=message) as raised:
        model(normal((2, 5, 16)))
    assert re.match(r"(Transformer|Linear|LayerNorm|RMSNorm|MultiHead)\w*: ", str(raised.value))


@pytest.mark.parametrize("change", REPLACED)
def test_parts_that_are_replaced_after_a_call_are_refused(change):
    """A plan made by an earlier call does not outlive what it was made of."""
    model = encoder()
    model(normal((2, 5, 16)))
    replace, error, message = REPLACED[change]
    replace(model)
    with pytest.raises(error, match=message):
        model(normal((2, 5, 16)))


HONOURED = {
    "scale": lambda m: setattr(m.layers[1].self_attn, "scale", 3.0),
    "left": lambda m: setattr(m.layers[1].self_attn, "left", 1),
    "rotary": lambda m: setattr(m.layers[1].self_attn, "rotary", decoder(rotary_base=9.0).layers[0].self_attn.rotary),
    "alibi": lambda m: setattr(m.layers[1].self_attn, "alibi", True),
    "linear1": lambda m: setattr(m.layers[1], "linear1", Linear(16, 24, rng=7)),
    "norm_first": lambda m: setattr(m.layers[1], "norm_first", True),
    "norm1": lambda m: setattr(m.layers[1], "norm1", None),
    "eps": lambda m: setattr(m.layers[1].norm2, "eps", 1.0),
    "parameters": lambda m: m.layers[1].load_state_dict(encoder_layer(16).state_dict() | {"norm1.bias": np.ones(16)}),
    "one part's parameters": lambda m: m.layers[1].linear2.load_state_dict(Linear(24, 16, rng=5).state_dict()),
    "layer": lambda m: m.layers.__setitem__(1, encoder_layer(16, norm="rms")),
}


@pytest.mark.parametrize("change", HONOURED)
def test_parts_that_are_replaced_after_a_call_are_used(change):
    model, other = encoder(), encoder()
    x = normal((2, 5, 16))
    before = model(x)
    HONOURED[change](model)
    HONOURED[change](other)
    np.testing.assert_array_equal(model(x), other(x))
    assert (model(x) != before).any()


def test_windows_of_attention_to_a_memory_are_refused():
    """Whole sequences and steps would place the queries differently."""
    model = decoder(cross_attention=True)
    memory = normal((1, 4, 16))
    state = model.start(memory, capacity=5)
    model.layers[1].multihead_attn.left = 2
    for call in (lambda: model(normal((1, 3, 16)), memory), lambda: model.layers[1](normal((1, 3, 16)), memory)):
        with pytest.raises(ValueError, match="^TransformerDecoderLayer: multihead_attn has a window or ALiBi"):
            call()
    with pytest.raises(ValueError, match="^TransformerDecoder.step: state was made before layers were replaced"):
        model.step(normal((1, 3, 16)), state)


def test_a_memory_of_keys_and_values_of_unlike_widths_is_refused():
    model = decoder(cross_attention=True)
    model.layers[1].multihead_attn = pyattn.MultiHeadAttention(16, 4, vdim=8)
    message = r"^MultiHeadAttention: projections from \[16, 16, 8\] features do not read the same rows; layers were"
    with pytest.raises(ValueError, match=message):
        model.start(normal((1, 4, 16)), capacity=5)


def test_a_copy_that_is_made_during_a_step_is_a_state():
    model, x = decoder(), normal((1, 3, 16))
    state, copied = model.start(capacity=9), []

    def meanwhile(first, last):
        copied.append(copy.deepcopy(state))
        return np.zeros((4, last - first), np.float32)

    state.bias_by_distance = meanwhile
    model.step(x, state)
    twin = copied[0]
    twin.bias_by_distance = None
    assert twin.lengths.tolist() == [0]
    np.testing.assert_allclose(model.step(x, twin), model.step(x, model.start(capacity=9)), atol=1e-6)


def test_layers_may_be_left_out():
    model, short = encoder(3), encoder(2)
    model.layers = model.layers[:2]
    np.testing.assert_array_equal(model(normal((2, 5, 16))), short(normal((2, 5, 16))))


@pytest.mark.parametrize(
    ("name", "value"), [("in_features", 99), ("out_features", 99), ("dtype", np.dtype(np.float64))]
)
def test_sizes_that_were_changed_are_refused(name, value):
    layer = Linear(16, 24, rng=0)
    layer(np.zeros((3, 16), np.float32))
    setattr(layer, name, value)
    with pytest.raises(ValueError, match="^Linear: a weight"):
        layer(np.zeros((3, layer.in_features), layer.dtype))


QUANTIZED = {
    "scales' shape": (np.zeros((24, 16), np.int8), np.ones(23, np.float32), ValueError, r"scales \(23,\)"),
    "a scale each": (np.zeros((24, 16), np.int8), np.ones((24, 1), np.float32), ValueError, r"scales \(24, 1\)"),
    "scales' dtype": (np.zeros((24, 16), np.int8), np.ones(24), TypeError, "scales has dtype float64; float32"),
    "elements' dtype": (np.zeros((24, 16)), np.ones(24, np.float32), TypeError, "elements has dtype float64; int8"),
    "bytes": (np.zeros((24, 16), np.uint8), np.ones(24, np.float32), TypeError, "elements has dtype uint8; int8"),
    "axes": (np.zeros(24, np.int8), np.ones(24, np.float32), ValueError, r"elements have shape \(24,\)"),
}


@pytest.mark.parametrize("wrong", QUANTIZED)
def test_quantized_weights_are_what_they_say(wrong):
    elements, scales, error, message = QUANTIZED[wrong]
    with pytest.raises(error, match=f"^Quantized: .*{message}"):
        Quantized(elements, scales)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "int8"])
def test_quantized_weights_of_any_strides_are_loaded(dtype):
    elements = np.random.default_rng(0).integers(-127, 128, (48, 32)).astype(np.int8)[::2, ::-2]
    scales = np.abs(normal(48))[::-2]
    expected = elements * scales[:, None]
    layer = Linear(16, 24, bias=False, dtype=dtype)
    layer.load_state_dict({"weight": Quantized(elements, scales)})
    np.testing.assert_allclose(layer.state_dict()["weight"], expected, rtol=0 if dtype == "int8" else 0.004)


def test_lengths_of_any_integers():
    """Those of 64 bits without sign became float64, whose bits were taken for lengths."""
    model, x = decoder(), normal((2, 5, 16))
    expected = model.step(x, model.start(capacity=9, batch_size=2), [3, 5])
    for dtype in (np.uint64, ">i2", np.uint8):
        state = model.start(capacity=9, batch_size=2)
        np.testing.assert_array_equal(model.step(x, state, np.array([3, 5], dtype)), expected)
        assert state.lengths.tolist() == [3, 5]
        cache = KVCache(2, 1, 9, 16)
        cache.append(x[:, None], x[:, None], lengths=np.array([3, 5], dtype))
        assert cache.lengths.dtype == np.int64


def test_biases_by_distance_are_looked_at():
    model = decoder()
    for wrong in (np.zeros((3, 5), np.float32), np.zeros((4, 4), np.float32), np.zeros((4, 5), int)):
        state = model.start(capacity=9)
        state.bias_by_distance = lambda first, last, wrong=wrong: wrong
        with pytest.raises(ValueError, match=r"^TransformerDecoder.step: bias_by_distance gave .*\(4, 5\) are needed"):
            model.step(normal((1, 3, 16)), state)


def test_one_call_at_a_time_has_a_state():
    model, x = decoder(), normal((1, 3, 16))
    state, errors = model.start(capacity=9), []

    def meanwhile(first, last):
        for call in (lambda: model.step(x, state), lambda: state.reorder([0])):
            with pytest.raises(ValueError, match="another call has the state") as raised:
                call()
            errors.append(str(raised.value).split(":")[0])
        return np.zeros((4, last - first), np.float32)

    state.bias_by_distance = meanwhile
    np.testing.assert_allclose(model.step(x, state), model.step(x, model.start(capacity=9)), atol=1e-5)
    assert errors[:2] == ["TransformerDecoder.step", "DecoderState.reorder"]
    state.bias_by_distance = None
    model.step(x, state)
    state.reorder([0])


def test_a_reorder_that_fails_midway_leaves_no_state_that_is_wrong(monkeypatch):
    model, x = decoder(), normal((2, 3, 16))
    state = model.start(capacity=9, batch_size=2)
    model.step(x, state)
    with pytest.raises(ValueError, match="rows must be in"):
        state.reorder([0, 2])
    model.step(x[:, :1], state)  # nothing has changed

    def fails(rows):
        raise MemoryError

    monkeypatch.setattr(state._caches[1], "reorder", fails)
    with pytest.raises(MemoryError):
        state.reorder([1, 0])
    with pytest.raises(
        ValueError, match="^TransformerDecoder.step: another call has the state, or a reorder of it was"
    ):
        model.step(x[:, :1], state)


# Steps of a decoder whose layers see 4 keys: how many tokens there are before, and how many come.
STEPS = [(0, 20), (1, 1), (3, 6), (5, 4), (7, 1), (8, 1), (8, 5), (6, 20), (8, 20), (30, 17)]


@pytest.mark.parametrize(("before", "more"), STEPS)
@pytest.mark.parametrize("windows", [1, 2])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, FloatingPointError])
def test_a_step_in_parts_is_whole_or_nothing(before, more, windows, error, monkeypatch):
    """Wherever it fails: keys that were dropped for it are there again."""
    model = decoder(rotary_base=100.0, window=(3, 0))
    if windows == 1:
        model.layers[1].self_attn.left = -1
    x = normal((2, 70, 16))
    lengths = [before, max(0, before - 2)]

    def begun():
        state = model.start(capacity=80, batch_size=2)
        model.step(x[:, :before], state, lengths)
        return state

    expected = begun()
    last = [model.step(x[:, :more], expected), model.step(x[:, 50:], expected)]
    original = model.layers[1]._forward_rows
    calls = at = 0

    def fails(*arguments):
        nonlocal calls
        calls += 1
        if calls == at:
            raise error
        return original(*arguments)

    state = begun()
    monkeypatch.setattr(model.layers[1], "_forward_rows", fails)
    while (at := at + 1) < 9:
        calls = 0
        there = [state._caches, [cache.base for cache in state._caches]]
        try:
            model.step(x[:, :more], state)
            break
        except error:
            assert state.lengths.tolist() == lengths
            assert state._caches is there[0] and [cache.base for cache in state._caches] == there[1]
    else:
        raise AssertionError("more parts than this test lets fail")
    assert at > 1
    monkeypatch.undo()
    np.testing.assert_array_equal(model.step(x[:, 50:], state), last[1])
    assert (state.lengths == expected.lengths).all()


def test_a_step_of_no_tokens():
    for options in ({}, {"window": (3, 0)}):
        model = decoder(**options)
        state = model.start(capacity=60)
        assert model.step(np.zeros((1, 0, 16), np.float32), state).shape == (1, 0, 16)
        state.reorder(np.zeros(0, int))
        assert model.step(np.zeros((0, 70, 16), np.float32), state).shape == (0, 70, 16)


def test_lengths_out_of_range_are_refused_in_parts():
    model = decoder(window=(3, 0))
    x = normal((2, 20, 16))
    for lengths in ([1, 21], [-1, 3], [50, 50]):
        state = model.start(capacity=60, batch_size=2)
        with pytest.raises(
            ValueError, match="^TransformerDecoder.step: lengths must be from 0 to the number of tokens"
        ):
            model.step(x, state, lengths)
        assert state.lengths.tolist() == [0, 0]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [pyattn.models.load(write_generator(folder / case, case)) for case in ("bart", "t5", "llama")]


# What is wrong with a memory of (2, 5, 16): its arrays, the error.
MEMORIES = {
    "width": (
        np.zeros((2, 5, 7), np.float32),
        [5, 5],
        ValueError,
        r"memory has shape \(2, 5, 7\).*bart needs \(B, S, 16",
    ),
    "axes": (np.zeros((5, 16), np.float32), [5, 5], ValueError, r"memory has shape \(5, 16\)"),
    "dtype": (np.zeros((2, 5, 16)), [5, 5], TypeError, "memory is float64, .* float32 and integers are needed"),
    "a list": ([[1.0]], [5, 5], TypeError, "memory is float64"),
    "floats": (np.zeros((2, 5, 16), np.float32), [5.0, 5.0], TypeError, "its lengths float64"),
    "long": (np.zeros((2, 5, 16), np.float32), [5, 6], ValueError, r"memory.lengths must be from 0 to S \(5\), not 6"),
    "negative": (np.zeros((2, 5, 16), np.float32), [-1, 5], ValueError, "memory.lengths must be from 0 to S"),
    "too many": (np.zeros((2, 5, 16), np.float32), [5, 5, 5], ValueError, r"its lengths \(3,\)"),
}


@pytest.mark.parametrize("wrong", MEMORIES)
def test_memories_that_do_not_fit_are_refused(models, wrong):
    bart = models[0]
    hidden, lengths, error, message = MEMORIES[wrong]
    memory = Memory(hidden, lengths)
    ids = np.ones((2, 3), int)
    for call, function in (
        (lambda: bart(ids, memory), ""),
        (lambda: bart.start(memory, capacity=9), ".start"),
        (lambda: bart.generate(memory=memory), ".generate"),
        (lambda: bart.stream(ids, memory=memory), ".stream"),
    ):
        with pytest.raises(error, match=f"^GenerativeModel{function}: .*{message}"):
            call()


def test_a_continuation_of_another_models_state_is_refused(models):
    bart, _, llama = models
    theirs = bart.start(bart.encode(np.ones((2, 4), int)), capacity=9)
    with pytest.raises(ValueError, match="^GenerativeModel.step: state was made by another decoder"):
        CachedSequences(llama, theirs._state).step(np.ones((2, 3), int))


def copies(x):
    return copy.deepcopy(x), pickle.loads(pickle.dumps(x))


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "int8"])
def test_copies_of_a_cache_go_their_own_ways(dtype):
    real = np.float64 if dtype == "float64" else np.float32
    cache, key = KVCache(2, 1, 20, 8, dtype=dtype), normal((2, 1, 5, 8), dtype=real)
    cache.append(key, key)
    cache.reorder([1])
    for twin in copies(cache):
        twin.append(key[:1], key[:1])
        np.testing.assert_allclose(twin.keys[:, :, 5:], key[:1], atol=0.03)
        np.testing.assert_array_equal(cache.lengths, [5])
    np.testing.assert_allclose(cache.keys, key[1:], atol=0.03)


@pytest.mark.parametrize("number", range(3))
def test_copies_of_a_continuation_go_their_own_ways(models, number):
    model = models[number]
    memory = None if model.encoder is None else model.encode(np.ones((2, 4), int))
    continuation = model.start(memory, batch_size=2, capacity=20)
    ids = np.array([[3, 4, 5], [6, 7, 8]])
    continuation.step(ids)
    twins = copies(continuation)
    expected = continuation.step(ids)
    for twin in twins:
        np.testing.assert_array_equal(twin.step(ids), expected)
    assert twins[0]._model is model  # its weights are not copied


def test_copies_of_what_else_is_public():
    x, places = normal((2, 4, 5, 16)), np.array([4, 3, 2, 1, 0])
    rotary = pyattn.RotaryEmbedding(16)
    rotary(x)
    layers = {
        "attention": (pyattn.MultiHeadAttention(16, 4, rotary_base=9.0, rng=0), (x[0],)),
        "encoder": (encoder(dtype="int8"), (x[0],)),
        "transformer": (pyattn.Transformer(16, 4, 1, 1, 24, rng=0), (x[0], x[1])),
        "norm": (LayerNorm(16), (x,)),
        "rotary": (rotary, (x,)),
        "embedding": (pyattn.LearnedPositionalEmbedding(9, 4, rng=0), (places,)),
        "grid": (pyattn.LearnedPositionalGrid(3, 3, 4, rng=0), (4, 2)),
        "bias": (pyattn.RelativePositionBias(8, 16, 4, rng=0), (3, 5)),
    }
    for name, (layer, arguments) in layers.items():
        for twin in copies(layer):
            np.testing.assert_array_equal(twin(*arguments), layer(*arguments), err_msg=name)
    quantized = Quantized(np.ones((3, 2), np.int8), np.ones(3, np.float32))
    statistics = pyattn.attention_statistics(x, x, entropy=True)
    for twin in copies((quantized, statistics)):
        np.testing.assert_array_equal(twin[0].values(), quantized.values())
        np.testing.assert_array_equal(twin[1].entropy, statistics.entropy)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_mixtures_corrupt_no_memory(seed):
    """In a process of its own, which corrupted memory would end by a signal."""
    command = [sys.executable, "-m", "tests.support.mismatches", str(seed), "1000"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[0]) > 100  # some do fit


def test_random_mixtures_of_models(models):
    mismatches(3, 300, models)


def bert_with(**changes):
    """A tiny BERT, some parts of which were replaced."""
    config, tensors, *_ = recorded("bert")
    model = pyattn.models.TextEncoder(pyattn.models.EncoderConfig.from_dict(config), tensors)
    for name, change in changes.items():
        setattr(model, name, change(getattr(model, name)))
    return model


@pytest.mark.parametrize("field", ["vocab_size", "type_vocab_size"])
def test_numbers_beyond_tables_of_a_changed_configuration_are_refused(field):
    model = bert_with(config=lambda config: dataclasses.replace(config, **{field: 10**9}))
    far = np.full((2, 5), 9 * 10**8)
    near = np.full((2, 5), 3)
    inputs = (far, None, None) if field == "vocab_size" else (near, None, far)
    with pytest.raises(ValueError, match="^embeddings: row 900000000 of a table of .* embeddings were"):
        model(*inputs)
    assert np.isfinite(bert_with()(near)).all()


@pytest.mark.parametrize("tables, indices", [(0, 0), (4, 4), (2, 1), (1, 2)])
def test_tables_of_embeddings_are_counted(tables, indices):
    table, rows, out = np.zeros((5, 8), np.float32), np.zeros(3, np.int64), np.zeros((3, 8), np.float32)
    message = f"^embeddings: there are {tables} tables and {indices} arrays of indices; 1 to 3 tables, and as many"
    with pytest.raises(ValueError, match=message):
        rowwise.embed([table] * tables, [rows] * indices, out, 1)


def test_a_norm_of_embeddings_of_another_width_is_refused():
    model = bert_with()
    model.embeddings.norm = LayerNorm(10**6)
    with pytest.raises(ValueError, match=r"^embeddings: a table is float32 .*; float32 \(rows, 1000000\) is needed"):
        model(np.full((1, 5), 3))


@pytest.mark.parametrize("case", ["mpnet"])
def test_layers_of_other_heads_than_a_relative_bias_are_refused(case):
    config, tensors, *_ = recorded(case)
    model = pyattn.models.TextEncoder(pyattn.models.EncoderConfig.from_dict(config), tensors)
    width = model.config.hidden_size
    layer = pyattn.TransformerEncoderLayer(width, width, model.config.intermediate_size)
    model.encoder.layers = [layer] * len(model.encoder.layers)
    with pytest.raises(
        ValueError, match=rf"^MultiHeadAttention: bias is for 1 sequences and .* are 1 and {width}; layers"
    ):
        model(np.full((1, 6), 5))


@pytest.mark.parametrize("heads", [2, 8])
def test_cross_attention_of_other_heads_than_a_mask_is_refused(heads):
    stack = decoder(layers=1, cross_attention=True)
    stack.layers[0].multihead_attn = pyattn.MultiHeadAttention(16, heads)
    mask = np.ones((3, 4, 5, 7), bool)
    with pytest.raises(
        ValueError, match=rf"^MultiHeadAttention: mask is for 3 sequences and 4 .* are 3 and {heads}; lay"
    ):
        stack(normal((3, 5, 16)), normal((3, 7, 16)), memory_mask=mask)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_biases_by_distance_of_another_dtype_are_converted(dtype):
    outs = []
    for given in ("float32", "float64"):
        stack = decoder(layers=1, dtype=dtype)
        state = stack.start(capacity=9)
        state.bias_by_distance = lambda first, last, given=given: np.ones((4, 1), given) * (np.arange(first, last) % 3)
        outs.append(stack.step(normal((1, 5, 16), dtype=dtype), state))
    np.testing.assert_array_equal(*outs)


def test_a_bias_by_distance_that_is_no_array_is_refused():
    stack = decoder(layers=1)
    state = stack.start(capacity=9)
    state.bias_by_distance = lambda first, last: None
    with pytest.raises(ValueError, match="^TransformerDecoder.step: bias_by_distance gave object"):
        stack.step(normal((1, 5, 16)), state)


def test_a_sparse_mask_is_taken_before_it_is_looked_at():
    mask = scipy.sparse.csr_array(np.eye(4, dtype=np.float32))
    indptr, indices, _ = masks.structure("f", mask, None, (4, 4), np.dtype(np.float32))
    assert not any(np.shares_memory(x, y) for x in (indptr, indices) for y in (mask.indptr, mask.indices))
    starts = np.array([0, 3], np.int64)
    assert not np.shares_memory(_checks.sequence_starts("f", starts, (3,)), starts)


def test_copies_and_loaded_layers_have_no_plans():
    """A plan holds the parameters that it was made with, and what it knows belongs to one layer."""
    model = decoder()
    state = model.start(capacity=9)
    x = normal((1, 3, 16))
    expected = model.step(x, state)
    assert all("_plan" in vars(layer) for layer in (model, *model.layers))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert not any("_plan" in vars(layer) for _, layer in twin._parts())
        np.testing.assert_array_equal(twin.step(x, twin.start(capacity=9)), expected)
    model.load_state_dict(model.state_dict())
    assert not any("_plan" in vars(layer) for _, layer in model._parts())


def test_positions_that_embeddings_compute_leave_plans_valid():
    tokens = TokenEmbeddings(TokenSpec(16, 9, positions=512, sinusoidal=True))
    patches = PatchEmbeddings(PatchSpec(16, 1, (8, 8), (2, 2)))
    patches._parameters = {"positions": normal((16, 16))}
    seen = _module._revision
    assert [len(tokens._positions(np.arange(length))) for length in (3, 300)] == [256, 512]
    for rows in range(1, MAX_GRIDS + 3):
        assert patches._positions((rows, 3)).shape == (rows * 3, 16)
    assert len(patches._by_grid) == 2 and _module._revision is seen
