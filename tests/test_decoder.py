"""Decoders: torch's numbers, step by step as all at once, and what becomes of sequences in between."""

import dataclasses

import numpy as np
import pytest

import pyattn
from pyattn import LayerNorm, MultiHeadAttention, RMSNorm, TransformerDecoder, TransformerDecoderLayer
from pyattn.layers import LayerConfig, Rotary
from pyattn.layers.sequences import Sequences


def normal(shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def decoder(norm_first=False, layers=3, **options):
    options = {"activation": "gelu", "norm_first": norm_first, "rng": 0} | options
    dtype = "float64" if options.get("dtype") == "float64" else "float32"
    norm = LayerNorm(48, dtype=dtype) if norm_first else None
    return TransformerDecoder(TransformerDecoderLayer(48, 4, 100, **options), layers, norm)


FORMS = {
    "post": {},
    "pre": {"norm_first": True},
    "float64": {"dtype": "float64"},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"dtype": "int8", "norm_first": True},
    "grouped": {"num_key_value_heads": 2, "norm_first": True},
    "llama": {
        "num_key_value_heads": 1,
        "head_dim": 16,
        "norm": "rms",
        "gated": True,
        "bias": False,
        "rotary_base": 1e4,
    },
    "alone": {"cross_attention": False, "norm_first": True},
    "window": {"cross_attention": False, "window": (3, 0), "rotary_base": 100.0, "num_key_value_heads": 2},
    "scaled": {"scale": 1.0, "head_dim": 8},
}


def inputs(model, batch=3, length=17, keys=23):
    dtype = model.layers[0].linear2.dtype
    memory = None if model.layers[0].multihead_attn is None else normal((batch, keys, 48), 1, dtype)
    return normal((batch, length, 48), 2, dtype), memory


def steps(model, x, memory, parts, capacity=64, **options):
    state = model.start(memory, capacity=capacity, batch_size=len(x), **options)
    ends = np.cumsum(parts)
    out = [model.step(x[:, end - part : end], state) for part, end in zip(parts, ends, strict=True)]
    return np.concatenate(out, axis=1), state


@pytest.mark.oracle
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("bias", [True, False])
def test_agrees_with_torch(norm_first, bias):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layer = torch.nn.TransformerDecoderLayer(
        48, 4, 100, 0.0, "gelu", batch_first=True, norm_first=norm_first, bias=bias
    )
    theirs = torch.nn.TransformerDecoder(layer, 3, torch.nn.LayerNorm(48) if norm_first else None).eval()
    for parameter in theirs.parameters():  # norms of ones and zeros would hide mistakes
        torch.nn.init.normal_(parameter, 0.0 if parameter.ndim > 1 else 0.5, 0.15)
    ours = decoder(norm_first, bias=bias)
    ours.load_state_dict({name: value.numpy() for name, value in theirs.state_dict().items()})
    x, memory = inputs(ours)
    live = np.arange(23) < np.array([[23], [5], [11]])
    with torch.inference_mode():
        tensors = [torch.from_numpy(x), torch.from_numpy(memory)]
        plain = theirs(*tensors).numpy()
        triangle = torch.from_numpy(~np.tri(17, dtype=bool))
        masked = theirs(*tensors, tgt_mask=triangle, memory_key_padding_mask=torch.from_numpy(~live)).numpy()
        single = theirs(*[tensor[0] for tensor in tensors]).numpy()
    np.testing.assert_allclose(ours(x, memory), plain, atol=1e-5)
    np.testing.assert_allclose(ours(x, memory, is_causal=True, memory_key_mask=live), masked, atol=1e-5)
    np.testing.assert_allclose(ours(x, memory, np.tri(17, dtype=bool), memory_key_mask=live), masked, atol=1e-5)
    np.testing.assert_allclose(ours(x[0], memory[0]), single, atol=1e-5)
    state = ours.start(memory, capacity=17, memory_lengths=[23, 5, 11])
    np.testing.assert_allclose(ours.step(x, state), masked, atol=1e-5)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore:enable_nested_tensor", "ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("norm_first", [False, True])
def test_the_whole_transformer_agrees_with_torch(norm_first):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    theirs = torch.nn.Transformer(48, 4, 2, 3, 100, 0.0, "gelu", batch_first=True, norm_first=norm_first).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, 0.0 if parameter.ndim > 1 else 0.5, 0.15)
    ours = pyattn.Transformer(48, 4, 2, 3, 100, "gelu", norm_first=norm_first)
    ours.load_state_dict({name: value.numpy() for name, value in theirs.state_dict().items()})
    src, tgt = normal((3, 23, 48), 1), normal((3, 17, 48), 2)
    live = np.arange(23) < np.array([[23], [5], [11]])
    padding = torch.from_numpy(~live)
    with torch.inference_mode():
        expected = theirs(
            torch.from_numpy(src),
            torch.from_numpy(tgt),
            tgt_mask=torch.from_numpy(~np.tri(17, dtype=bool)),
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
        ).numpy()
    found = ours(src, tgt, src_key_mask=live, memory_key_mask=live, tgt_is_causal=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_whole_transformer_is_its_parts():
    model = pyattn.Transformer(48, 4, 1, 2, 64, rng=0)
    src, tgt = normal((3, 9, 48), 1), normal((3, 5, 48), 2)
    memory = model.encoder(src)
    np.testing.assert_array_equal(model(src, tgt), model.decoder(tgt, memory))
    out, _ = steps(model.decoder, tgt, memory, [2, 3])
    np.testing.assert_array_equal(model(src, tgt, tgt_is_causal=True), out)


def attended(layer, query, keys, causal):
    """MultiHeadAttention by its formula, float64."""
    state = {name: value.astype(np.float64) for name, value in layer.state_dict().items()}
    heads, shared, width = layer.num_heads, layer.num_key_value_heads, layer.head_dim
    sizes = np.cumsum([heads * width, shared * width])
    weights = np.split(state["in_proj_weight"], sizes)
    biases = np.split(state.get("in_proj_bias", np.zeros(len(state["in_proj_weight"]))), sizes)
    q, k, v = (x @ w.T + b for x, w, b in zip((query, keys, keys), weights, biases, strict=True))
    q, k, v = (x.reshape(*x.shape[:2], -1, width).swapaxes(1, 2) for x in (q, k, v))
    k, v = (np.repeat(x, heads // shared, axis=1) for x in (k, v))
    logits = q @ k.swapaxes(2, 3) * layer.scale
    if causal:
        logits = np.where(np.tri(*logits.shape[2:], dtype=bool), logits, -np.inf)
    weights = np.exp(logits - logits.max(axis=3, keepdims=True))
    out = (weights / weights.sum(axis=3, keepdims=True)) @ v
    out = out.swapaxes(1, 2).reshape(*query.shape[:2], -1)
    return out @ state["out_proj.weight"].T + state.get("out_proj.bias", 0)


@pytest.mark.parametrize(("shared", "width", "scale"), [(4, None, None), (2, None, 0.7), (1, 20, None), (4, 8, 1.0)])
def test_heads_that_share_keys(shared, width, scale):
    layer = MultiHeadAttention(48, 4, num_key_value_heads=shared, head_dim=width, scale=scale, dtype="float64", rng=0)
    query, keys = normal((2, 9, 48), dtype=np.float64), normal((2, 13, 48), 1, np.float64)
    np.testing.assert_allclose(layer(query, keys), attended(layer, query, keys, False), atol=1e-12)
    np.testing.assert_allclose(layer(query, is_causal=True), attended(layer, query, query, True), atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("width", [1, 2, 15, 17, 384])
def test_rms_norm(dtype, width):
    layer = RMSNorm(width, 1e-6, dtype=dtype)
    weight = normal(width, 1, dtype)
    layer.load_state_dict({"weight": weight})
    x = normal((33, width), 2, dtype) * 3 + 1
    wide = x.astype(np.longdouble)
    exact = wide / np.sqrt((wide**2).mean(axis=1, keepdims=True) + 1e-6) * weight
    np.testing.assert_allclose(layer(x), exact.astype(dtype), atol=np.finfo(dtype).eps * 30)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("parts", [[17], [1] * 17, [5, 1, 11], [1, 16]])
def test_steps_are_the_whole(form, parts):
    """To the bit: what a token becomes does not depend on how many came with it."""
    model = decoder(**FORMS[form])
    x, memory = inputs(model)
    whole = model(x, memory, is_causal=True)
    for threads in (1, 3):
        with pyattn.num_threads(threads):
            out, state = steps(model, x, memory, parts)
        np.testing.assert_array_equal(out, whole)
    np.testing.assert_array_equal(state.lengths, [17, 17, 17])


@pytest.mark.parametrize("form", FORMS)
def test_sequences_of_unlike_lengths_and_beams(form):
    """Padding behind the tokens of a step changes nothing; rows go on as what they were made from."""
    model = decoder(**FORMS[form])
    x, memory = inputs(model)
    whole = model(x, memory, is_causal=True)
    lengths = np.array([5, 2, 4])
    state = model.start(memory, capacity=40, batch_size=6)
    state.reorder([0, 1, 2])  # without memory there are six from the start
    first = model.step(x[:, :5], state, lengths)
    for i, length in enumerate(lengths):
        np.testing.assert_array_equal(first[i, :length], whole[i, :length])
    rows = np.array([0, 1, 2])
    for order in ([0, 0, 1, 1, 2, 2], [1, 0, 3, 2, 4, 5], [2, 3, 5, 4], [3, 0, 1], [2, 1, 0, 1], [0]):
        state.reorder(order)
        rows, lengths = rows[order], lengths[order]
        out = model.step(np.stack([x[row, n : n + 2] for row, n in zip(rows, lengths, strict=True)]), state)
        for i, row in enumerate(rows):
            np.testing.assert_array_equal(out[i], whole[row, lengths[i] : lengths[i] + 2])
        lengths = lengths + 2
        np.testing.assert_array_equal(state.lengths, lengths)


def test_windows_need_no_more_than_twice_their_keys():
    """A state of any capacity holds what windows see, and goes on without end, in one step or many."""
    model = decoder(**FORMS["window"])
    x, _ = inputs(model, length=60)
    whole = model(x, is_causal=True)
    for parts in ([60], [7] * 8 + [4], [1] * 60):
        out, state = steps(model, x, None, parts, capacity=10**6)
        np.testing.assert_array_equal(out, whole)
        assert state._caches[0].capacity == 8
        np.testing.assert_array_equal(state.lengths, [60, 60, 60])


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("window", [None, (3, 0)])
@pytest.mark.parametrize("cross_attention", [False, True])
def test_a_layer_that_runs_twice_has_keys_of_each_time(cross_attention, window, dtype):
    config = LayerConfig(48, 4, 100, cross_attention=cross_attention, dtype=dtype)
    configs = [dataclasses.replace(config, window=window, rotary=Rotary(100.0)), config]
    model = TransformerDecoder.from_configs(configs, order=[1, 0, 0], rng=0)
    x, memory = inputs(model)
    whole = model(x, memory, is_causal=True)
    found, state = steps(model, x, memory, [5, 1, 9, 2])
    np.testing.assert_array_equal(found, whole)
    state.reorder([2, 0])
    twice = model.step(x[[2, 0], :1], state)
    np.testing.assert_array_equal(
        twice, model(np.concatenate([x, x[:, :1]], axis=1), memory, is_causal=True)[[2, 0], -1:]
    )
    model._order = (1, 0)
    with pytest.raises(ValueError, match="^TransformerDecoder.step: state was made before layers were replaced"):
        model.step(x[[2, 0], :1], state)


def test_memory_of_unlike_lengths():
    model = decoder(norm_first=True)
    x, memory = inputs(model)
    garbage = memory.copy()
    lengths = [23, 5, 0]
    for row, length in zip(garbage, lengths, strict=True):
        row[length:] = np.nan
    live = np.arange(23) < np.array(lengths)[:, None]
    whole = model(x, memory, is_causal=True, memory_key_mask=live)
    out, _ = steps(model, x, garbage, [4, 13], memory_lengths=lengths)
    np.testing.assert_array_equal(out, whole)


def test_a_step_that_fails_changes_nothing():
    model = decoder()
    x, memory = inputs(model)
    whole = model(x, memory, is_causal=True)
    state = model.start(memory, capacity=6)
    first = model.step(x[:, :4], state)
    with pytest.raises(ValueError, match="^TransformerDecoder.step: a sequence would have 7 tokens"):
        model.step(x[:, 4:7], state)
    original, model.layers[2]._forward_rows = model.layers[2]._forward_rows, None
    with pytest.raises(TypeError):
        model.step(x[:, 4:6], state)
    model.layers[2]._forward_rows = original
    np.testing.assert_array_equal(state.lengths, [4, 4, 4])
    second = model.step(x[:, 4:6], state)
    np.testing.assert_array_equal(np.concatenate([first, second], axis=1), whole[:, :6])


def test_the_layer_that_makes_nan_is_named_on_request():
    model = decoder()
    x, memory = inputs(model)
    state = model.start(memory, capacity=20)
    model.step(x[:, :4], state)
    whole = model.layers[1].state_dict()
    spoiled = whole | {"linear2.bias": np.full_like(whole["linear2.bias"], np.inf)}
    model.layers[1].load_state_dict(spoiled)
    assert np.isnan(model.step(x[:, 4:5], state)).all()  # without being asked
    model.check_finite = True
    for call in (lambda: model.step(x[:, 5:6], state), lambda: model(x, memory)):
        with pytest.raises(FloatingPointError, match=r"^TransformerDecoder: the output of layers\.1 has NaN or infin"):
            call()
    np.testing.assert_array_equal(state.lengths, [5, 5, 5])
    model.layers[1].load_state_dict(whole)
    bad = x.copy()
    bad[1, 2, 0] = np.nan
    with pytest.raises(FloatingPointError, match=r"the input has NaN or infinity in 1 of \d+ rows, first in \d+$"):
        model(bad, memory)
    assert np.isfinite(model(x, memory)).all()
    nowhere = np.full_like(memory, np.nan)
    for call in (lambda: model(x, nowhere), lambda: model.start(nowhere, capacity=4)):
        with pytest.raises(FloatingPointError, match="^TransformerDecoder: memory has NaN or infinity in 69 of 69"):
            call()
    model = decoder(norm_first=True)
    model.check_finite = True
    model.norm.load_state_dict({"weight": np.ones(48), "bias": np.full(48, np.nan)})
    with pytest.raises(FloatingPointError, match="^TransformerDecoder: the output of norm has NaN"):
        model(x, memory)
    encoder = pyattn.TransformerEncoder(pyattn.TransformerEncoderLayer(16, 2, 8, rng=0), 2)
    encoder.check_finite = True
    encoder.layers[0].load_state_dict(encoder.layers[0].state_dict() | {"linear1.bias": np.full(8, np.nan, np.float32)})
    with pytest.raises(FloatingPointError, match=r"^TransformerEncoder: the output of layers\.0 has NaN"):
        encoder(np.ones((1, 3, 16), np.float32))


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda m, x, y: m(x), ValueError, "^TransformerDecoder: memory is needed"),
        (lambda m, x, y: m.start(capacity=3), ValueError, "^TransformerDecoder.start: memory is needed"),
        (lambda m, x, y: m.start(y, capacity=0), ValueError, "^TransformerDecoder.start: capacity must be a positive"),
        (lambda m, x, y: m(x, y[:2]), ValueError, "^TransformerDecoder: the inputs have shapes"),
        (lambda m, x, y: m(x.astype(float), y), TypeError, "^TransformerDecoder: the input has dtype float64"),
        (lambda m, x, y: m(x, y, np.ones((3, 3), bool)), ValueError, "^TransformerDecoder: mask has shape"),
        (
            lambda m, x, y: m.start(y, capacity=3, memory_lengths=[1, 2, 24]),
            ValueError,
            "^TransformerDecoder.start: memory_lengths must be from 0 to the rows of memory",
        ),
        (
            lambda m, x, y: m.step(x[:2], m.start(y, capacity=30)),
            ValueError,
            r"^TransformerDecoder.step: x has shape \(2, 17, 48\); \(3, L, 48\) is needed",
        ),
        (
            lambda m, x, y: m.step(x, m.start(y, capacity=30), [1, 2, 18]),
            ValueError,
            "^TransformerDecoder.step: lengths must be from 0 to the number of tokens",
        ),
        (
            lambda m, x, y: m.start(y, capacity=9).reorder([0, 3]),
            ValueError,
            r"^KVCache.reorder: rows must be in \[0, 3\)",
        ),
        (lambda m, x, y: m.start(y, capacity=9).reorder([0, 1, 2, 2]), ValueError, "^KVCache.reorder: rows has shape"),
        (lambda m, x, y: decoder(cross_attention=1.5), TypeError, "^TransformerDecoderLayer: cross_attention must be"),
        (
            lambda m, x, y: decoder(norm="none"),
            ValueError,
            "^TransformerDecoderLayer: norm must be one of",
        ),
        (lambda m, x, y: decoder(num_key_value_heads=3), ValueError, "num_heads 4 must be a multiple of num_key_value"),
    ],
)
def test_bad_input(call, kind, message):
    model = decoder()
    with pytest.raises(kind, match=message):
        call(model, *inputs(model))


def test_positions_go_on_behind_the_cache():
    sequences = Sequences.padded(2, 3, past_len=np.array([4, 0]), first=np.array([0, 9]))
    np.testing.assert_array_equal(sequences.positions(), [4, 5, 6, 9, 10, 11])
