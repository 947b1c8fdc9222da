import copy
import itertools
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

import pyattn
from pyattn import LayerNorm, Linear, MultiHeadAttention, TransformerEncoder, TransformerEncoderLayer
from pyattn.layers import sequences
from pyattn.layers.sequences import Sequences

DTYPES = [np.float32, np.float64]


def normal(shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def gelu(x):
    special = pytest.importorskip("scipy.special")
    return x * special.erfc(-x / np.sqrt(2)) / 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [0, 1, 7, 8, 9, 97])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (15, 17), (16, 48), (33, 49), (64, 97), (384, 144)])
def test_linear(dtype, rows, inputs, outputs):
    layer = Linear(inputs, outputs, dtype=dtype, rng=1)
    state = layer.state_dict()
    x = normal((rows, inputs), dtype)
    exact = x.astype(np.longdouble) @ state["weight"].astype(np.longdouble).T + state["bias"]
    bound = (inputs + 2) * np.finfo(dtype).eps * (np.abs(x) @ np.abs(state["weight"]).T + np.abs(state["bias"]))
    assert (np.abs(layer(x) - exact) <= bound).all()


@pytest.mark.parametrize("activation", [None, "relu", "gelu", "gelu_tanh", "silu"])
def test_linear_activation_and_residual(activation):
    layer = Linear(20, 50, activation=activation, rng=1)
    plain = Linear(20, 50)
    plain.load_state_dict(layer.state_dict())
    x, residual = normal((9, 20)), normal((9, 50), seed=1)
    functions = {
        None: lambda x: x,
        "relu": pyattn.relu,
        "gelu": pyattn.gelu,
        "gelu_tanh": lambda x: pyattn.gelu(x, "tanh"),
        "silu": pyattn.silu,
    }
    expected = functions[activation](plain(x))
    np.testing.assert_allclose(layer(x), expected, atol=1e-6)
    np.testing.assert_array_equal(layer._apply(x, residual), layer(x) + residual)
    out = residual.copy()
    assert layer._apply(x, out, out) is out
    np.testing.assert_array_equal(out, layer(x) + residual)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 2, 15, 16, 17, 384, 1000])
@pytest.mark.parametrize("bias", [True, False])
def test_layer_norm(dtype, width, bias):
    layer = LayerNorm(width, 1e-12, bias, dtype=dtype)
    names = ["weight", "bias"] if bias else ["weight"]
    state = {name: normal(width, dtype, i) for i, name in enumerate(names)}
    layer.load_state_dict(state)
    x = normal((33, width), dtype) * 3 + 100  # a large mean must not cost the digits of the variance
    wide = x.astype(np.longdouble)
    centred = wide - wide.mean(axis=1, keepdims=True)
    exact = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-12) * state["weight"]
    if bias:
        exact = exact + state["bias"]
    tolerance = np.finfo(dtype).eps * 100 * (30 if width > 1 else 1)
    np.testing.assert_allclose(layer(x), exact.astype(dtype), atol=tolerance)


# Of more shapes and masks than tests/test_torch_recorded.py has, where torch is installed.
@pytest.mark.oracle
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("bias", [True, False])
def test_encoder_agrees_with_torch(norm_first, activation, bias):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layer = {"activation": activation, "norm_first": norm_first, "bias": bias}
    theirs = torch.nn.TransformerEncoder(
        torch.nn.TransformerEncoderLayer(48, 4, 100, 0.0, batch_first=True, **layer),
        2,
        torch.nn.LayerNorm(48) if norm_first else None,
        enable_nested_tensor=False,
    ).eval()
    for parameter in theirs.parameters():  # norms of ones and zeros would hide mistakes
        torch.nn.init.normal_(parameter, 0.0 if parameter.ndim > 1 else 0.5, 0.15)
    ours = TransformerEncoder(TransformerEncoderLayer(48, 4, 100, **layer), 2, LayerNorm(48) if norm_first else None)
    state = {name: value.numpy() for name, value in theirs.state_dict().items()}
    ours.load_state_dict(state)
    for name, value in ours.state_dict().items():
        np.testing.assert_array_equal(value, state[name])
    x = normal((3, 40, 48))
    live = np.arange(40) < np.array([[40], [1], [23]])
    with torch.inference_mode():
        plain = theirs(torch.from_numpy(x)).numpy()
        padded = theirs(torch.from_numpy(x), src_key_padding_mask=torch.from_numpy(~live)).numpy()
        triangle = torch.from_numpy(~np.tri(40, dtype=bool))
        causal = theirs(torch.from_numpy(x), mask=triangle).numpy()
        single = theirs(torch.from_numpy(x[0])).numpy()
    np.testing.assert_allclose(ours(x), plain, atol=1e-5)
    np.testing.assert_allclose(ours(x, key_mask=live)[live], padded[live], atol=1e-5)
    np.testing.assert_allclose(ours(x, np.tri(40, dtype=bool), key_mask=live)[live][:40], causal[0], atol=1e-5)
    np.testing.assert_allclose(ours(x, is_causal=True), causal, atol=1e-5)
    np.testing.assert_allclose(ours(x, np.tri(40, dtype=bool)), causal, atol=1e-5)
    np.testing.assert_allclose(ours(x[0]), single, atol=1e-5)


@pytest.mark.oracle
@pytest.mark.parametrize(("kdim", "vdim"), [(None, None), (30, 20)])
@pytest.mark.parametrize("bias", [True, False])
def test_attention_agrees_with_torch(kdim, vdim, bias):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    theirs = torch.nn.MultiheadAttention(48, 4, bias=bias, kdim=kdim, vdim=vdim, batch_first=True).eval()
    if bias:
        torch.nn.init.normal_(theirs.in_proj_bias)
    ours = MultiHeadAttention(48, 4, bias, kdim, vdim)
    ours.load_state_dict({name: value.numpy() for name, value in theirs.state_dict().items()})
    query, key, value = normal((2, 9, 48)), normal((2, 21, kdim or 48), seed=1), normal((2, 21, vdim or 48), seed=2)
    live = np.arange(21) < np.array([[21], [13]])
    mask = normal((9, 21)) > -1
    mask[:, 0] = True
    tensors = [torch.from_numpy(x) for x in (query, key, value)]
    with torch.inference_mode():
        plain = theirs(*tensors, need_weights=False)[0].numpy()
        masked = theirs(
            *tensors, need_weights=False, attn_mask=torch.from_numpy(~mask), key_padding_mask=torch.from_numpy(~live)
        )[0].numpy()
    np.testing.assert_allclose(ours(query, key, value), plain, atol=1e-5)
    np.testing.assert_allclose(ours(query, key, value, mask, key_mask=live), masked, atol=1e-5)
    real = np.where(mask, 0, -np.inf).astype(np.float32)
    np.testing.assert_allclose(ours(query, key, value, real, key_mask=live), masked, atol=1e-5)


def test_self_attention_is_cross_attention_to_itself():
    layer = MultiHeadAttention(48, 4, rng=0)
    x = normal((2, 9, 48))
    np.testing.assert_array_equal(layer(x), layer(x, x.copy(), x.copy()))
    np.testing.assert_array_equal(layer(x, x), layer(x))


def turned(x, base):
    """Rotary positions of heads (H, L, D), as complex numbers: feature i with i + D / 2."""
    half = x.shape[-1] // 2
    pairs = x[..., :half] + 1j * x[..., half:]
    angles = np.arange(x.shape[1])[:, None] / base ** (np.arange(half) / half)
    pairs = pairs * np.exp(1j * angles)
    return np.concatenate([pairs.real, pairs.imag], axis=-1)


def plain_attention(layer, x, allowed=None, bias=0.0):
    """Self-attention of one sequence (L, E) in float64, n x n."""
    state = {name: value.astype(np.float64) for name, value in layer.state_dict().items()}
    projected = x @ state["in_proj_weight"].T + state["in_proj_bias"]
    query, key, value = (part.reshape(len(x), layer.num_heads, -1).swapaxes(0, 1) for part in np.split(projected, 3, 1))
    if layer.rotary is not None:
        query, key = turned(query, layer.rotary.base), turned(key, layer.rotary.base)
    logits = query @ key.swapaxes(1, 2) / np.sqrt(query.shape[-1]) + bias
    if allowed is not None:
        logits = np.where(allowed, logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    out = (weights / weights.sum(-1, keepdims=True) @ value).swapaxes(0, 1).reshape(len(x), -1)
    return out @ state["out_proj.weight"].T + state["out_proj.bias"]


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "int8"])
@pytest.mark.parametrize("window", [None, (3, 5), (None, 0)])
@pytest.mark.parametrize("width", [12, 20, 64])
def test_rotary_positions_and_windows(dtype, window, width):
    layer = MultiHeadAttention(2 * width, 2, window=window, rotary_base=100.0, dtype=dtype, rng=0)
    layer.load_state_dict({name: 4 * value for name, value in layer.state_dict().items()})
    x = normal((3, 50, 2 * width), layer.out_proj.dtype)
    distance = np.arange(50) - np.arange(50)[:, None]
    allowed = np.ones((50, 50), bool)
    if window is not None:
        allowed = (distance >= -(50 if window[0] is None else window[0])) & (distance <= window[1])
    expected = np.stack([plain_attention(layer, sample, allowed) for sample in x.astype(np.float64)])
    error = abs(layer(x) - expected).max() / abs(expected).max()
    assert error < {"float32": 1e-5, "float64": 1e-13, "bfloat16": 0.03, "int8": 0.05}[dtype]
    causal = np.stack([plain_attention(layer, s, allowed & (distance <= 0)) for s in x.astype(np.float64)])
    error = abs(layer(x, is_causal=True) - causal).max() / abs(causal).max()
    assert error < {"float32": 1e-5, "float64": 1e-13, "bfloat16": 0.03, "int8": 0.05}[dtype]
    if window is None and dtype == "float32":  # another sequence has positions of its own
        np.testing.assert_array_equal(layer(x, x.copy(), x.copy()), layer(x))
        assert layer(x[:, :7], x, x).shape == (3, 7, 2 * width)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bias_by_distance_of_packed_sequences(dtype):
    """In a layer whose feed-forward block adds nothing, without norms: x + attention."""
    layer = TransformerEncoderLayer(32, 4, 8, norm_first=True, dtype=dtype, rng=0)
    nothing = {name: 0 * value for name, value in layer.linear2.state_dict().items()}
    layer.linear2.load_state_dict(nothing)
    layer.norm1 = None
    lengths = [33, 0, 1, 200, 9]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    table = normal((4, 2 * 200 - 1))
    x = normal((sum(lengths), 32), seed=1)
    out = layer._forward_rows(x, Sequences(1, starts, relative_bias=table, zero=199)) - x
    for first, last in itertools.pairwise(starts):
        if first == last:
            continue
        distance = np.arange(last - first) - np.arange(last - first)[:, None]
        expected = plain_attention(layer.self_attn, x[first:last].astype(np.float64), bias=table[:, 199 + distance])
        assert abs(out[first:last] - expected).max() < {"float32": 1e-5, "bfloat16": 0.02}[dtype]


@pytest.mark.parametrize("options", [{}, {"window": (1, 1)}, {"rotary_base": 100.0}, {"window": (0, None)}])
def test_padding_between_tokens_keeps_their_places(options):
    """Whether it comes as a key_mask alone, which lets padding be dropped, or with a mask, which does not."""
    encoder = TransformerEncoder(TransformerEncoderLayer(16, 2, 8, rng=0, **options), 2)
    x = normal((4, 6, 16))
    live = np.array([[1, 1, 0, 0, 1, 1], [1] * 6, [0, 1, 1, 1, 0, 0], [0] * 6], bool)
    everything = np.ones((6, 6), bool)
    np.testing.assert_allclose(encoder(x, key_mask=live), encoder(x, everything, key_mask=live), atol=2e-6)
    again, some = encoder(x[:3], everything, key_mask=live[1:]), encoder(x[:3], key_mask=live[1:])
    np.testing.assert_allclose(some, again, atol=2e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "int8"])
@pytest.mark.parametrize("activation", ["gelu", "silu", "relu", "gelu_tanh"])
@pytest.mark.parametrize("norm_first", [False, True])
def test_gated_feed_forward(dtype, activation, norm_first):
    layer = TransformerEncoderLayer(24, 2, 37, activation, norm_first=norm_first, gated=True, dtype=dtype, rng=0)
    x = normal((9, 24), layer.linear2.dtype)
    wide = TransformerEncoderLayer(24, 2, 37, activation, norm_first=norm_first, gated=True, dtype="float64")
    wide.load_state_dict(layer.state_dict())
    state, functions = wide.state_dict(), {"gelu": gelu, "relu": pyattn.relu, "silu": pyattn.silu}
    functions["gelu_tanh"] = lambda x: pyattn.gelu(x, "tanh")
    rows = x.astype(np.float64)
    middle = rows + wide.self_attn(wide.norm1(rows) if norm_first else rows)
    middle = middle if norm_first else wide.norm1(middle)
    inner = (wide.norm2(middle) if norm_first else middle) @ state["linear1.weight"].T + state["linear1.bias"]
    inner = functions[activation](np.ascontiguousarray(inner[:, :37])) * inner[:, 37:]
    expected = middle + inner @ state["linear2.weight"].T + state["linear2.bias"]
    expected = expected if norm_first else wide.norm2(expected)
    error = abs(layer(x) - expected).max() / abs(expected).max()
    assert error < {"float32": 2e-6, "float64": 1e-14, "bfloat16": 0.02, "int8": 0.04}[dtype]


def encoder(seed=0):
    return TransformerEncoder(TransformerEncoderLayer(48, 4, 100, "gelu", rng=seed), 2)


def test_mask_and_key_mask_together():
    """Against the two as one mask, for masks that differ by head; padding comes out as 0."""
    layer = TransformerEncoderLayer(48, 4, 100, rng=0)
    x = normal((3, 9, 48))
    live = np.arange(9) < np.array([[9], [4], [1]])
    for mask in (normal((9, 9)) > -1, normal((3, 9, 9)) > -1, normal((3, 4, 9, 9)) > -1, normal((1, 4, 9, 9))):
        full = np.broadcast_to(mask if mask.ndim != 3 else mask[:, None], (3, 4, 9, 9))
        absent = False if mask.dtype == bool else np.float32(-np.inf)
        expected = layer(x, np.where(live[:, None, None, :], full, absent))
        out = layer(x, mask, key_mask=live)
        np.testing.assert_array_equal(out[live], expected[live])
        assert not out[~live].any()


@pytest.mark.parametrize("width", [None, 6])
@pytest.mark.parametrize("options", [{}, {"is_causal": True}])
@pytest.mark.parametrize(("queries", "keys"), [(5, 9), (9, 5), (7, 7), (1, 6)])
def test_rotary_positions_are_those_of_masks(queries, keys, options, width):
    """The last query stands at the last key, for windows, causality and rotary positions alike."""
    layer = MultiHeadAttention(16, 2, head_dim=width, window=(4, 2), rotary_base=10.0, rng=0)
    whole = normal((2, max(queries, keys), 16))
    query, key = whole[:, len(whole[0]) - queries :], whole[:, len(whole[0]) - keys :]
    found = layer(query, key, **options)
    # as rows of one sequence that attend to what key has
    mask = np.broadcast_to(np.arange(whole.shape[1]) >= whole.shape[1] - keys, (whole.shape[1],) * 2)
    np.testing.assert_allclose(found, layer(whole, mask=mask, **options)[:, -queries:], atol=2e-6)


@pytest.mark.parametrize("loaded", [False, True])
def test_copies_and_pickles_keep_the_parameters(loaded):
    layer = TransformerEncoderLayer(16, 2, 24, rng=0)
    if loaded:
        layer.load_state_dict(layer.state_dict())
    x = normal((2, 5, 16))
    expected = layer(x)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        np.testing.assert_array_equal(twin(x), expected)


def test_pickles_pass_between_instruction_sets(tmp_path):
    code = "import pickle, sys, numpy, pyattn; "
    write = "layer = pyattn.Linear(33, 50, rng=0); layer.state_dict(); pickle.dump(layer, open(sys.argv[1], 'wb'))"
    read = "layer = pickle.load(open(sys.argv[1], 'rb')); numpy.save(sys.argv[1], layer.state_dict()['weight'])"
    names = pyattn.info()["isa_available"]
    path = str(tmp_path / "layer.npy")
    for isa, action in ((names[0], write), (names[-1], read)):
        subprocess.run([sys.executable, "-c", code + action, path], env=os.environ | {"PYATTN_ISA": isa}, check=True)
    np.testing.assert_array_equal(np.load(path), Linear(33, 50, rng=0).state_dict()["weight"])


def test_a_seed_fixes_the_parameters_whatever_is_used_first():
    first, second = (TransformerEncoderLayer(16, 2, 24, rng=0) for _ in range(2))
    second.linear2.state_dict()
    for name, value in first.state_dict().items():
        np.testing.assert_array_equal(value, second.state_dict()[name])


def test_copies_of_the_layer_are_independent():
    model = encoder()
    state = model.state_dict()
    assert (state["layers.0.linear1.weight"] == state["layers.1.linear1.weight"]).all()
    state["layers.1.linear1.weight"] = state["layers.1.linear1.weight"] + 1
    model.load_state_dict(state)
    again = model.state_dict()
    assert (again["layers.0.linear1.weight"] != again["layers.1.linear1.weight"]).all()


def test_float64_layers():
    state = encoder().state_dict()
    wide = TransformerEncoder(TransformerEncoderLayer(48, 4, 100, "gelu", dtype=np.float64), 2)
    wide.load_state_dict(state)
    narrow = encoder(1)
    narrow.load_state_dict(state)
    x = normal((2, 9, 48), np.float64)
    assert wide(x).dtype == np.float64
    np.testing.assert_allclose(wide(x), narrow(x.astype(np.float32)), atol=1e-5)


BAD = {
    "missing": (lambda m, s: s.pop("layers.0.norm1.bias"), r"missing \['layers.0.norm1.bias'\], unknown nothing"),
    "unknown": (lambda m, s: s.update(extra=s["layers.0.norm1.bias"]), r"missing nothing, unknown \['extra'\]"),
    "shape": (
        lambda m, s: s.update({"layers.1.linear1.bias": np.zeros(3)}),
        r"layers.1.linear1.bias \(3,\) instead of \(100,\)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_state_dicts_change_nothing(name):
    damage, message = BAD[name]
    model = encoder()
    before = model.state_dict()
    state = {key: value + 1 for key, value in before.items()}
    damage(model, state)
    with pytest.raises(ValueError, match=f"^TransformerEncoder.load_state_dict: .*{message}"):
        model.load_state_dict(state)
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[key])


def test_load_state_dict_takes_other_dtypes_and_not_strict():
    model, state = encoder(), encoder(1).state_dict()
    model.load_state_dict({name: value.astype(np.float64) for name, value in state.items()})
    np.testing.assert_array_equal(model.state_dict()["layers.0.norm1.weight"], state["layers.0.norm1.weight"])
    model.load_state_dict(state | {"extra": np.zeros(3)}, strict=False)
    with pytest.raises(TypeError, match="layers.0.linear1.weight has dtype int64; real floating numbers are needed"):
        model.load_state_dict(state | {"layers.0.linear1.weight": np.zeros((100, 48), int)})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Linear(0, 3), ValueError, "^Linear: in_features must be a positive integer, not 0"),
        (lambda: Linear(3, 2.5), TypeError, "^Linear: out_features must be a positive integer, not 2.5"),
        (
            lambda: Linear(3, 3, activation="tanh"),
            ValueError,
            "^Linear: activation must be one of .*'gelu'.*not 'tanh'",
        ),
        (
            lambda: Linear(3, 3, dtype=np.float16),
            TypeError,
            '^Linear: dtype must be "float32", "float64", "bfloat16" or "int8", not .float16',
        ),
        (lambda: Linear(3, 3)(normal((2, 4))), ValueError, r"^Linear: the input has shape \(2, 4\); \(..., 3\)"),
        (
            lambda: Linear(3, 3)(normal((2, 3), np.float64)),
            TypeError,
            "^Linear: the input has dtype float64, the layer float32",
        ),
        (lambda: Linear(3, 3)(np.float32(1)), ValueError, r"shape \(\)"),
        (lambda: LayerNorm(3)(normal((2, 4))), ValueError, r"^LayerNorm: the input has shape \(2, 4\)"),
        (lambda: LayerNorm(3, eps=-1), ValueError, "^LayerNorm: eps"),
        (lambda: MultiHeadAttention(10, 2, rotary_base=1e4), ValueError, "heads of an even width, not 5"),
        (lambda: MultiHeadAttention(8, 2, rotary_base=0), ValueError, "^MultiHeadAttention: rotary_base must be pos"),
        (lambda: MultiHeadAttention(8, 2, window=3), TypeError, "^MultiHeadAttention: window=3 is ambiguous"),
        (lambda: MultiHeadAttention(10, 3), ValueError, "^MultiHeadAttention: embed_dim 10 must be a multiple"),
        (
            lambda: MultiHeadAttention(4, 2)(normal((2, 3, 4)), normal((3, 3, 4))),
            ValueError,
            r"shapes \(2, 3, E\), \(3, 3, E\)",
        ),
        (
            lambda: MultiHeadAttention(4, 2)(normal((2, 3, 4)), key_mask=np.ones((2, 2), bool)),
            ValueError,
            r"key_mask has shape \(2, 2\); \(batch, S\) = \(2, 3\)",
        ),
        (
            lambda: MultiHeadAttention(4, 2)(normal((2, 3, 4)), key_mask=np.ones((2, 3), int)),
            TypeError,
            "key_mask has dtype int64",
        ),
        (lambda: TransformerEncoderLayer(4, 2, 8, "swish"), ValueError, "^TransformerEncoderLayer: activation"),
        (lambda: TransformerEncoder(3, 2), TypeError, "encoder_layer must be a TransformerEncoderLayer, not int"),
        (lambda: TransformerEncoder(TransformerEncoderLayer(48, 4, 8), 1, 5), TypeError, "norm must be a LayerNorm"),
        (
            lambda: TransformerEncoder(TransformerEncoderLayer(48, 4, 8), 1, LayerNorm(16)),
            ValueError,
            "^TransformerEncoder: norm is for 16 float32, the layers for 48 float32",
        ),
        (lambda: MultiHeadAttention(4, 2, kdim=0), ValueError, "^MultiHeadAttention: kdim must be a positive integer"),
        (lambda: TransformerEncoderLayer(0, 2), ValueError, "^TransformerEncoderLayer: d_model must be"),
        (lambda: encoder()(normal((3, 48)), is_causal=normal(3)), TypeError, "is_causal must be True or False"),
        (lambda: encoder().forward_packed(normal((3, 48)), 3), ValueError, "must ascend"),
        (lambda: encoder().load_state_dict(None), TypeError, "state_dict must map names to arrays, not be NoneType"),
        (lambda: encoder()(normal((2, 3, 4, 48))), ValueError, r"accepted: \(B, L, E\)"),
        (lambda: encoder()(normal((3, 48)), np.ones((3, 3), int)), TypeError, "^TransformerEncoder: an integer mask"),
        (lambda: encoder().forward_packed(normal((3, 48)), [0, 2]), ValueError, "must ascend from 0 to .* 3"),
        (lambda: encoder().forward_packed(normal((3, 48)), [0, 2, 1, 3]), ValueError, "must ascend"),
        (lambda: encoder().forward_packed(normal((3, 48)), [0.0, 3.0]), TypeError, "cu_seqlens must be integers"),
        (lambda: encoder().forward_packed(normal((1, 3, 48)), [0, 3]), ValueError, "two axes"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_rotary_tables_are_shared_and_grow():
    """There is one for all layers that have them alike, whatever lengths they have seen."""
    sequences._kept_tables.cache_clear()
    models = [pyattn.TransformerEncoder(TransformerEncoderLayer(16, 2, 8, rotary_base=1e4, rng=0), 2) for _ in range(2)]
    for length in (3, 300, 20, 700):
        x = np.ones((1, length, 16), np.float32)
        np.testing.assert_array_equal(models[0](x), models[1](x))
    assert sequences._kept_tables.cache_info().currsize == 1
    rotary = models[0].layers[0].self_attn.rotary
    (kept,) = sequences._kept_tables(rotary.base, rotary.scaling, 8, np.dtype(np.float32))
    assert len(kept[0]) == 1024
