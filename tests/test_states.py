"""Objects that were not made for each other: refused by name, before memory is touched."""

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

import pyattn
from pyattn import KVCache, LayerNorm, Linear, _checks
from pyattn._checks import masks
from pyattn.models.cached_sequences import CachedSequences, Memory
from pyattn.precision import Quantized
from tests.support.mismatches import main as mismatches
from tests.support.small_stacks import decoder, encoder, normal
from tests.support.tiny_generator import write_generator

ROOT = Path(__file__).parents[1]


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
    state = model.start(capacity=9)
    state.bias_by_distance = lambda first, last: np.zeros((4, last - first), np.float32)
    assert model.step(normal((1, 0, 16)), state).shape == (1, 0, 16)


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
