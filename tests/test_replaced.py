"""Parts of layers and models that were replaced: used if they fit, else refused by name, before memory is touched."""

import copy
import dataclasses
import pickle
import re

import numpy as np
import pytest

import pyattn
from pyattn import LayerNorm, Linear, _module, interpolate_positions
from pyattn._core import rowwise
from pyattn.models import embeddings
from pyattn.models.embeddings import MAX_GRIDS, PatchEmbeddings, TokenEmbeddings
from pyattn.models.spec import PatchSpec, TokenSpec
from tests.support.recorded import recorded
from tests.support.small_stacks import decoder, encoder, normal

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
    "no scale": (lambda m: setattr(m.layers[1].self_attn, "scale", None), TypeError, "^MultiHeadAttention: scale must"),
    "a left too far": (
        lambda m: setattr(m.layers[1].self_attn, "left", 2**80),
        ValueError,
        "^MultiHeadAttention: left must be",
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
        "^MultiHeadAttention: left must be an integer from -1 to 2147483647, not '2'",
    ),
    "scale": (
        lambda m: setattr(m.layers[1].self_attn, "scale", "x"),
        TypeError,
        "^MultiHeadAttention: scale must be a real number, not str",
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


def test_a_deleted_norm_is_missed():
    model = encoder()
    del model.layers[1].norm1
    with pytest.raises(AttributeError, match="norm1"):
        model(normal((2, 5, 16)))


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
        assert patches._added((rows, 3)).shape == (rows * 3, 16)
    assert len(patches._by_grid) == 2 and _module._revision is seen


def test_an_image_grid_is_made_anew_of_parameters_that_were_loaded_meanwhile(monkeypatch):
    patches = PatchEmbeddings(PatchSpec(16, 1, (8, 8), (2, 2)))
    patches._parameters = {"positions": normal((16, 16))}
    loaded = {"positions": normal((16, 16), seed=1)}

    def interpolate(*arguments, **options):
        monkeypatch.undo()
        patches._parameters, patches._by_grid = loaded, {}
        return interpolate_positions(*arguments, **options)

    monkeypatch.setattr(embeddings, "interpolate_positions", interpolate)
    old = patches._added((3, 3))
    twin = PatchEmbeddings(PatchSpec(16, 1, (8, 8), (2, 2)))
    twin._parameters = loaded
    new = twin._added((3, 3))
    np.testing.assert_array_equal(patches._added((3, 3)), new)
    assert not np.array_equal(old, new)
