"""LayerConfig: each of its fields against the formula in float64, n x n; layers and stacks, at once and by steps."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest

import pyattn
from pyattn import TransformerDecoder, TransformerEncoder
from pyattn.layers import LayerConfig, Rotary, TransformerDecoderLayer, TransformerEncoderLayer
from pyattn.positional import RelativePositionBias

WIDTH, HEADS, INNER = 48, 4, 40

# What Hugging Face's models of that name are made of, beside single fields.
QWEN3 = {"qk_norm": True, "norm": "rms", "norm_placement": "pre", "rotary": Rotary(1e4), "num_key_value_heads": 2}
QWEN3 |= {"gated": True, "activation": "silu", "in_proj_bias": False, "out_proj_bias": False, "linear_bias": False}
GEMMA2 = QWEN3 | {"qk_norm": False, "softcap": 5.0, "norm_placement": "sandwich", "unit_offset": True, "scale": 0.2}
OPTIONS = {
    "q/k norm, rms": {"qk_norm": True, "norm": "rms", "layer_norm_eps": 1e-3},
    "q/k norm, layer": {"qk_norm": True, "rotary": Rotary(100.0)},
    "softcap": {"softcap": 0.7},
    "sinks": {"sinks": True, "num_key_value_heads": 1},
    "ALiBi": {"alibi": True},
    "sandwich": {"norm_placement": "sandwich"},
    "1 + weight": {"norm": "rms", "unit_offset": True},
    "residual scale, pre": {"residual_scale": 0.25, "norm_placement": "pre"},
    "residual scale, post": {"residual_scale": 3.0},
    "some features rotate": {"rotary": Rotary(100.0, width=6)},
    "no first norm": {"norm_placement": "pre", "input_norm": False},
    "biases of q, k and v": {"out_proj_bias": False, "linear_bias": False, "norm_bias": False},
    "biases of the others": {"in_proj_bias": False},
    "Qwen 3": QWEN3,
    "Gemma 2": GEMMA2 | {"activation": "gelu_tanh", "head_dim": 16},
    "Gemma 3": GEMMA2 | {"qk_norm": True, "softcap": None, "window": (5, None), "rotary": Rotary(1e3)},
    "gpt-oss": QWEN3 | {"qk_norm": False, "sinks": True, "window": (4, None), "in_proj_bias": True},
    "Granite": QWEN3 | {"qk_norm": False, "residual_scale": 0.22},
    "BLOOM": {"alibi": True, "norm_placement": "pre", "activation": "gelu_tanh"},
}
TOLERANCES = {"float64": 1e-12, "float32": 2e-5, "bfloat16": 0.06, "int8": 0.12}


def normal(shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def config_of(name, **changes):
    return LayerConfig(WIDTH, HEADS, INNER, **OPTIONS[name] | changes)


def drawn(model, seed=1):
    """model with parameters that hide no mistake: norms of other than ones, sinks of other than zeros."""
    rng = np.random.default_rng(seed)
    model.load_state_dict({name: x + 0.3 * rng.standard_normal(x.shape) for name, x in model.state_dict().items()})
    return model


class Formula:
    """A layer in float64."""

    def __init__(self, layer, config):
        self.state = {name: x.astype(np.float64) for name, x in layer.state_dict().items()}
        self.config = config

    def norm(self, name, x):
        if f"{name}.weight" not in self.state:
            return x
        x = x - x.mean(-1, keepdims=True) if self.config.norm == "layer" else x
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + self.config.layer_norm_eps)
        return x * (self.state[f"{name}.weight"] + self.config.unit_offset) + self.state.get(f"{name}.bias", 0)

    def linear(self, name, x):
        return x @ self.state[f"{name}.weight"].T + self.state.get(f"{name}.bias", 0)

    def rotated(self, x):
        if self.config.rotary is None:
            return x
        width = self.config.rotary.width or x.shape[-1]
        angles = np.arange(x.shape[-2])[:, None] / self.config.rotary.base ** (np.arange(0, width, 2) / width)
        a, b, rest = np.split(x, [width // 2, width], axis=-1)
        sine, cosine = np.sin(angles), np.cos(angles)
        return np.concatenate([a * cosine - b * sine, b * cosine + a * sine, rest], axis=-1)

    def attention(self, name, queries, keys, causal, bias=0.0):
        config, cross = self.config, name == "multihead_attn"
        width = config.head_dim or WIDTH // HEADS
        shared = HEADS if cross else config.num_key_value_heads or HEADS
        parts = np.split(self.state[f"{name}.in_proj_weight"], [HEADS * width, (HEADS + shared) * width])
        biases = np.split(
            self.state.get(f"{name}.in_proj_bias", np.zeros((HEADS + 2 * shared) * width)),
            [HEADS * width, (HEADS + shared) * width],
        )
        q, k, v = (
            (x @ part.T + b).reshape(*x.shape[:2], -1, width).swapaxes(1, 2)
            for x, part, b in zip((queries, keys, keys), parts, biases, strict=True)
        )
        q, k = self.norm(f"{name}.q_norm", q), self.norm(f"{name}.k_norm", k)
        q, k = (q, k) if cross else (self.rotated(q), self.rotated(k))
        k, v = (np.repeat(x, HEADS // shared, axis=1) for x in (k, v))
        logits = q @ k.swapaxes(-1, -2) * (config.scale or width**-0.5)
        logits = logits if config.softcap is None else config.softcap * np.tanh(logits / config.softcap)
        distance = np.arange(logits.shape[-1]) - np.arange(logits.shape[-2])[:, None]
        if not cross:
            logits = logits + bias
            if config.alibi:
                logits = logits - pyattn.alibi_slopes(HEADS, dtype=np.float64)[:, None, None] * abs(distance)
            left, right = config.window or (None, None)
            seen = distance >= (-np.inf if left is None else -left)
            seen &= distance <= (0 if causal else np.inf if right is None else right)
            logits = np.where(seen, logits, -np.inf)
        if f"{name}.sinks" in self.state:
            sinks = np.broadcast_to(self.state[f"{name}.sinks"][:, None, None], (*logits.shape[:3], 1))
            logits = np.concatenate([logits, sinks], axis=-1)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        weights = (weights / weights.sum(-1, keepdims=True))[..., : k.shape[2]]
        return self.linear(f"{name}.out_proj", (weights @ v).swapaxes(1, 2).reshape(*queries.shape[:2], -1))

    def feed_forward(self, x):
        config, inner = self.config, self.linear("linear1", x)
        functions = {"relu": pyattn.relu, "silu": pyattn.silu, "gelu_tanh": lambda x: pyattn.gelu(x, "tanh")}
        activation = functions[config.activation]
        if config.gated:
            inner = activation(np.ascontiguousarray(inner[..., :INNER])) * inner[..., INNER:]
        else:
            inner = activation(inner)
        return self.linear("linear2", inner)

    def block(self, x, norm, function):
        config = self.config
        out = function(x if config.norm_placement == "post" else self.norm(norm, x))
        x = x + config.residual_scale * self.norm(f"post_{norm}", out)
        return self.norm(norm, x) if config.norm_placement == "post" else x

    def __call__(self, x, memory=None, causal=False, bias=0.0):
        x = self.block(x, "norm1", lambda x: self.attention("self_attn", x, x, causal, bias))
        if memory is not None:
            x = self.block(x, "norm2", lambda x: self.attention("multihead_attn", x, memory, False))
        return self.block(x, "norm3" if "norm3.weight" in self.state else "norm2", self.feed_forward)


def check(found, expected, dtype):
    assert abs(found - expected).max() / abs(expected).max() < TOLERANCES[dtype]


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", OPTIONS)
def test_an_encoder_layer_is_its_formula(name, dtype):
    config = config_of(name, dtype=dtype)
    layer = drawn(TransformerEncoderLayer.from_config(config, rng=0))
    x = normal((2, 17, WIDTH), dtype=layer.linear2.dtype)
    formula = Formula(layer, config)
    check(layer(x), formula(x.astype(np.float64)), dtype)
    check(layer(x, is_causal=True), formula(x.astype(np.float64), causal=True), dtype)
    packed = layer.forward_packed(np.concatenate([x[0], x[1, :5]]), [0, 17, 22])
    np.testing.assert_array_equal(packed[:17], layer(x)[0])
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        np.testing.assert_array_equal(twin(x), layer(x))


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", OPTIONS)
def test_a_decoder_layer_is_its_formula(name, dtype):
    config = config_of(name, dtype=dtype, cross_attention=True)
    layer = drawn(TransformerDecoderLayer.from_config(config, rng=0))
    x, memory = normal((2, 17, WIDTH)).astype(layer.linear2.dtype), normal((2, 9, WIDTH), 1).astype(layer.linear2.dtype)
    expected = Formula(layer, config)(x.astype(np.float64), memory.astype(np.float64), causal=True)
    found = layer(x, memory, is_causal=True)
    check(found, expected, dtype)
    stack = TransformerDecoder(layer, 1)
    np.testing.assert_array_equal(stack(x, memory, is_causal=True), found)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", OPTIONS)
def test_steps_are_the_whole(name, dtype):
    config = config_of(name, dtype=dtype, cross_attention=name != "gpt-oss")
    stack = drawn(TransformerDecoder.from_configs([config, dataclasses.replace(config, window=None)], rng=0))
    x, memory = normal((2, 17, WIDTH)), normal((2, 9, WIDTH), 1)
    x, memory = (y.astype(stack.layers[0].linear2.dtype) for y in (x, memory))
    memory = memory if config.cross_attention else None
    whole = stack(x, memory, is_causal=True)
    state = stack.start(memory, capacity=30, batch_size=2)
    parts = [stack.step(x[:, first:last], state) for first, last in ((0, 5), (5, 6), (6, 17))]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_layers_of_a_stack_differ():
    local = LayerConfig(WIDTH, HEADS, INNER, window=(3, 0), rotary=Rotary(10.0))
    configs = [local, dataclasses.replace(local, window=None, rotary=Rotary(1e4), gated=True), local]
    norm = pyattn.RMSNorm(WIDTH)
    stack = drawn(TransformerEncoder.from_configs(configs, norm, rng=0))
    x = normal((2, 9, WIDTH))
    expected = x.astype(np.float64)
    for layer, config in zip(stack.layers, configs, strict=True):
        expected = Formula(layer, config)(expected)
    check(stack(x), norm(expected.astype(np.float32)), "float32")
    assert len({layer._plan for layer in stack.layers}) == 3
    assert (stack.layers[0].linear1.state_dict()["weight"] != stack.layers[2].linear1.state_dict()["weight"]).all()


def test_layers_run_in_another_order():
    configs = [LayerConfig(WIDTH, HEADS, INNER)] * 2
    stack = TransformerEncoder.from_configs(configs, order=[1, 0, 0], rng=0)
    x = expected = normal((2, 9, WIDTH))
    for number in (1, 0, 0):
        expected = stack.layers[number](expected)
    np.testing.assert_array_equal(stack(x), expected)
    stack.layers = stack.layers[:1]
    with pytest.raises(ValueError, match="^TransformerEncoder: there are 1 layers; 2 are needed"):
        stack(x)


@pytest.mark.parametrize("kind", [TransformerEncoder, TransformerDecoder])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_a_bias_of_distances_is_in_all_layers(kind, dtype):
    config = LayerConfig(WIDTH, HEADS, INNER, dtype=dtype)
    bias = RelativePositionBias(8, 16, HEADS, kind is TransformerEncoder)
    stack = drawn(kind.from_configs([config] * 2, position_bias=bias, rng=0))
    assert stack.state_dict()["position_bias.weight"].shape == (8, HEADS)
    x = normal((2, 17, WIDTH), dtype=stack.layers[0].linear2.dtype)
    expected = x.astype(np.float64)
    for layer in stack.layers:
        expected = Formula(layer, config)(expected, causal=True, bias=bias(17, 17)[0].astype(np.float64))
    whole = stack(x, is_causal=True)
    check(whole, expected, dtype)
    if kind is TransformerDecoder:
        state = stack.start(capacity=17, batch_size=2)
        parts = [stack.step(x[:, first:last], state) for first, last in ((0, 5), (5, 6), (6, 17))]
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_attention_alone_has_the_options():
    options = {"softcap": 0.7, "sinks": True, "alibi": True, "qk_norm": True, "num_key_value_heads": 2}
    attention = drawn(pyattn.MultiHeadAttention(WIDTH, HEADS, rotary_base=100.0, dtype="float64", rng=0, **options))
    assert attention.state_dict()["sinks"].shape == (HEADS,)
    assert attention.state_dict()["q_norm.weight"].shape == attention.state_dict()["k_norm.weight"].shape == (12,)
    config = LayerConfig(WIDTH, HEADS, rotary=Rotary(100.0), norm="rms", layer_norm_eps=1e-6, **options)
    formula = Formula(attention, config)
    formula.state = {f"self_attn.{name}": value for name, value in formula.state.items()}
    x = normal((2, 9, WIDTH), dtype=np.float64)
    check(attention(x), formula.attention("self_attn", x, x, False), "float64")
    np.testing.assert_array_equal(attention(x), attention(x, x.copy(), x.copy()))


def test_public_arguments_are_those_of_the_config():
    options = {"softcap": 2.0, "sinks": True, "alibi": True, "qk_norm": True, "residual_scale": 0.5, "norm": "rms"}
    x = normal((2, 9, WIDTH))
    for kind in (TransformerEncoderLayer, TransformerDecoderLayer):
        more = {"cross_attention": False} if kind is TransformerDecoderLayer else {}
        config = LayerConfig(
            WIDTH, HEADS, INNER, norm_placement="sandwich", unit_offset=True, rotary=Rotary(9.0), **options
        )
        public = kind(
            *(WIDTH, HEADS, INNER),
            norm_first=True,
            sandwich_norm=True,
            unit_offset=True,
            rotary_base=9.0,
            rng=0,
            **options,
            **more,
        )
        np.testing.assert_array_equal(public(x), kind.from_config(config, rng=0)(x))


SCALING = "rotary.scaling must be a tuple of pairs (name, value) that can be hashed"

BAD = {
    "d_model": ({"d_model": 0}, ValueError, "d_model must be a positive integer, not 0"),
    "nhead": ({"nhead": 5}, ValueError, "d_model 48 must be a multiple of nhead 5"),
    "key heads": ({"num_key_value_heads": 3}, ValueError, "num_heads 4 must be a multiple of num_key_value_heads 3"),
    "head_dim": ({"head_dim": 0}, ValueError, "head_dim must be a positive integer, not 0"),
    "activation": ({"activation": "tanh"}, ValueError, "activation must be one of 'relu'"),
    "norm": ({"norm": "batch"}, ValueError, "norm must be one of 'layer', 'rms'"),
    "placement": ({"norm_placement": "none"}, ValueError, "norm_placement must be one of 'post', 'pre', 'sandwich'"),
    "gated": ({"gated": 2}, TypeError, "gated must be True or False, not 2"),
    "sinks": ({"sinks": "yes"}, TypeError, "sinks must be True or False, not 'yes'"),
    "softcap": ({"softcap": 0}, ValueError, "softcap must be positive and finite in float32, not 0"),
    "scale": ({"scale": 0.0}, ValueError, "scale must be finite in float32 and not zero"),
    "window": ({"window": 3}, TypeError, "window=3 is ambiguous"),
    "rotary": ({"rotary": 1e4}, TypeError, "rotary must be a Rotary or None, not float"),
    "rotary base": ({"rotary": Rotary(-1.0)}, ValueError, "rotary_base must be positive and finite, or None; not -1.0"),
    "odd width": ({"rotary": Rotary(1e4, width=5)}, ValueError, "rotary positions need heads of an even width, not 5"),
    "wide rotary": ({"rotary": Rotary(1e4, width=14)}, ValueError, "rotary.width 14 is more than a head's 12 features"),
    "no rotary base": ({"rotary": Rotary(None)}, TypeError, "rotary.base must be a number, not None"),
    "text rotary base": (
        {"rotary": Rotary("1e4")},
        TypeError,
        "rotary_base must be positive and finite, or None, not str",
    ),
    "scaling dict": ({"rotary": Rotary(1e4, {"rope_type": "linear"})}, TypeError, f"{SCALING}, not dict"),
    "scaling list": ({"rotary": Rotary(1e4, (("factor", [2.0]),))}, TypeError, f"{SCALING}, not (('factor', [2.0]),)"),
    "scaling names": ({"rotary": Rotary(1e4, ("linear",))}, TypeError, f"{SCALING}, not ('linear',)"),
    "rope_type": ({"rotary": Rotary(1e4, (("rope_type", "ntk"),))}, ValueError, "scaling's rope_type must be one of"),
    "factor": (
        {"rotary": Rotary(1e4, (("rope_type", "linear"), ("factor", -2.0)))},
        ValueError,
        "scaling's factor must be positive and finite, not -2.0",
    ),
    "eps": ({"layer_norm_eps": -1}, ValueError, "layer_norm_eps must be a finite number, 0 or more, not -1"),
    "residual_scale": ({"residual_scale": 0}, ValueError, "residual_scale must be positive and finite, not 0"),
    "unit_offset": ({"unit_offset": True}, ValueError, "unit_offset is of norm \"rms\", not 'layer'"),
    "input_norm": ({"input_norm": False}, ValueError, "input_norm=False is of norm_placement \"pre\", not 'post'"),
    "dtype": ({"dtype": "float16"}, TypeError, 'dtype must be "float32", "float64", "bfloat16" or "int8"'),
}


def test_a_config_can_be_hashed():
    assert LayerConfig(48, 4, window=[512, 0]).window == (512, 0)
    assert hash(LayerConfig(48, 4, window=[512, 0])) == hash(LayerConfig(48, 4, window=(512, 0)))


@pytest.mark.parametrize("wrong", BAD)
def test_a_config_is_refused_by_name(wrong):
    options, error, message = BAD[wrong]
    with pytest.raises(error) as raised:
        LayerConfig(**{"d_model": WIDTH, "nhead": HEADS} | options)
    assert str(raised.value).startswith(f"LayerConfig: {message}")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: TransformerEncoderLayer(48, 4, sandwich_norm=True),
            ValueError,
            "^TransformerEncoderLayer: sandwich_norm needs norm_first=True",
        ),
        (
            lambda: TransformerEncoderLayer.from_config(3),
            TypeError,
            r"^TransformerEncoderLayer.from_config: config must be a LayerConfig, not int",
        ),
        (
            lambda: TransformerEncoderLayer.from_config(LayerConfig(48, 4, cross_attention=True)),
            ValueError,
            "^TransformerEncoderLayer.from_config: config.cross_attention needs a decoder's layer",
        ),
        (lambda: TransformerEncoder.from_configs([]), ValueError, "^TransformerEncoder: layers is empty"),
        (
            lambda: TransformerEncoder.from_configs([LayerConfig(48, 4), LayerConfig(48, 2)]),
            ValueError,
            "^TransformerEncoder: layers.1 has width 48, 2 heads, .*; layers.0 has width 48, 4 heads",
        ),
        (
            lambda: TransformerEncoder.from_configs([LayerConfig(48, 4)], order=[0, 1]),
            ValueError,
            "^TransformerEncoder: there are 1 layers; 2 are needed",
        ),
        (
            lambda: TransformerEncoder.from_configs([LayerConfig(48, 4)], order=["a"]),
            TypeError,
            "^TransformerEncoder: order must be an integer, 0 or more, not 'a'",
        ),
        (
            lambda: TransformerEncoder.from_configs([LayerConfig(48, 4)], order=[]),
            ValueError,
            "^TransformerEncoder: order is empty; None runs each layer once",
        ),
        (
            lambda: TransformerEncoder.from_configs([LayerConfig(48, 4)], order=3),
            TypeError,
            "^TransformerEncoder: order must be the numbers of layers or None, not int",
        ),
        (
            lambda: TransformerDecoder.from_configs([LayerConfig(48, 4)], order=[0, -1]),
            ValueError,
            "^TransformerDecoder: order must be an integer, 0 or more, not -1",
        ),
        (
            lambda: TransformerDecoder.from_configs(
                [LayerConfig(48, 4)], position_bias=RelativePositionBias(8, 16, 2, False)
            ),
            ValueError,
            "^TransformerDecoder: position_bias is for 2 heads, the layers have 4",
        ),
        (
            lambda: TransformerEncoder.from_configs([LayerConfig(48, 4)], position_bias=3),
            TypeError,
            "^TransformerEncoder: position_bias must be a RelativePositionBias, not int",
        ),
    ],
)
def test_what_is_made_of_configs_is_checked(call, error, message):
    with pytest.raises(error, match=message):
        call()
