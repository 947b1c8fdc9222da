"""Weights in bfloat16 and int8: the sums are what their elements say, and outputs stay near those of float32."""

import copy
import tracemalloc

import numpy as np
import pytest

import pyattn
from pyattn import Linear, MultiHeadAttention, TransformerEncoder, TransformerEncoderLayer
from pyattn._core import linear
from pyattn.precision import from_bfloat16, mask_to_bfloat16, to_bfloat16, to_int8

EPS = np.finfo(np.float32).eps
# How float32 weights are stored that are of a format: as float16 where there is an instruction that widens it.
STORED = {None: 0, "float16": 2, "bfloat16": 3}  # PYATTN_FLOAT32, ... of kernels.h
STORED |= {"float16": 0} if pyattn.info()["isa"] == "baseline" else {}
SIZES = [(1, 1, 1), (1, 3, 5), (3, 16, 48), (8, 64, 49), (9, 65, 97), (17, 130, 33), (100, 96, 200)]


def normal(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def rounded(x):
    return from_bfloat16(to_bfloat16(x))


def test_bfloat16_rounding():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    bits = np.arange(2**16, dtype=np.uint32) << 16
    x = (bits[:, None] | np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)).view(np.float32).ravel()
    x = np.concatenate([x[~np.isnan(x)], [np.nan]]).astype(np.float32)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(rounded(x), x.astype(ml_dtypes.bfloat16).astype(np.float32))


@pytest.mark.parametrize(
    ("weight", "format"),
    [
        ([[0.1, 0.2]], None),
        ([[0.5, -0.0], [65504, 2**-24]], "float16"),
        ([[1 + 2**-10]], "float16"),
        ([[65536, 1]], "bfloat16"),
        ([[2.0**-30], [3]], "bfloat16"),
        ([[0.5, -1.5]], "bfloat16"),
        ([[np.inf, 1]], "bfloat16"),
        ([[1 + 2**-10], [65536]], None),  # each is of another format
        ([[1 + 2**-11]], None),
        ([[0.5], [0.1]], None),
        ([[np.nan]], "bfloat16"),
    ],
)
def test_narrowest_format(weight, format):
    weight = np.float32(weight)
    assert linear.Packed(weight).format == STORED[format]
    assert linear.Packed(weight, narrow=False).format == STORED[None]
    np.testing.assert_array_equal(linear.Packed(weight).unpack()[0], weight)


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SIZES)
@pytest.mark.parametrize("format", ["float16", "bfloat16"])
def test_weights_stored_in_16_bits_change_no_bit(rows, inputs, outputs, format):
    weight = normal((outputs, inputs), 1)
    weight = weight.astype(np.float16).astype(np.float32) if format == "float16" else rounded(weight)
    x, bias = normal((rows, inputs)), normal(outputs, 2)
    whole, narrow = (linear.Packed(weight, bias, narrow=narrow) for narrow in (False, True))
    results = np.empty((2, rows, outputs), np.float32)
    for packed, out in zip((whole, narrow), results, strict=True):
        linear.linear(x, [packed], None, out, 0, 2)
        np.testing.assert_array_equal(packed.unpack()[0], weight)
    exact_in_both = (
        narrow.format == STORED["bfloat16"] and format == "float16" and weight.size < 4
    )  # then bfloat16 is taken
    assert whole.format == STORED[None] and (narrow.format == STORED[format] or exact_in_both)
    np.testing.assert_array_equal(results[0].view(np.uint32), results[1].view(np.uint32))
    layer = Linear(inputs, outputs)
    layer.load_state_dict({"weight": weight, "bias": bias})
    for copied in (layer, copy.deepcopy(layer)):
        np.testing.assert_array_equal(copied(x), results[0])
        np.testing.assert_array_equal(copied.state_dict()["weight"], weight)


@pytest.mark.parametrize("format", ["float16", "bfloat16"])
def test_parts_of_different_formats(format):
    """Side by side, with an activation and a residual, from weights of any strides: the bits of float32's."""
    narrow = (
        normal((100, 33), 1).astype(np.float16).astype(np.float32)
        if format == "float16"
        else rounded(normal((100, 33)))
    )
    weights = [narrow[::2], normal((60, 33), 2), np.asfortranarray(narrow[:, ::-1])]
    x, residual = normal((20, 33), 3), normal((20, 210), 4)
    results = np.empty((2, 20, 210), np.float32)
    for narrowed, out in zip((False, True), results, strict=True):
        parts = [linear.Packed(weight, None, narrow=narrowed) for weight in weights]
        linear.linear(x, parts, residual, out, 2, 2)
    np.testing.assert_array_equal(results[0], results[1])


def test_callers_may_raise_on_floating_point_errors():
    layer = Linear(64, 64)
    weight = normal((64, 64)) * np.float32(1e-7)
    with np.errstate(all="raise"):
        layer.load_state_dict({"weight": weight, "bias": weight[0]})
    np.testing.assert_array_equal(layer.state_dict()["weight"], weight)


def test_weights_of_16_bits_take_half_the_memory():
    weight = normal((1000, 1000))
    sizes = [memory_of(Linear(1000, 1000), x) for x in (weight, rounded(weight))]
    assert sizes[1] < 0.6 * sizes[0]


def memory_of(layer, weight):
    layer.load_state_dict({"weight": weight, "bias": np.zeros(len(weight), np.float32)})
    tracemalloc.start()
    try:
        layer.load_state_dict({"weight": weight, "bias": np.zeros(len(weight), np.float32)})
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def test_int8_uses_the_whole_range():
    weight = normal((5, 7)) * np.float32([[1], [1e-30], [0], [1e30], [3]])
    elements, scales = to_int8(weight)
    assert elements.dtype == np.int8 and abs(elements[[0, 1, 3, 4]]).max(axis=1).tolist() == [127] * 4
    assert scales[2] == 0 and not elements[2].any()
    assert (abs(elements * scales[:, None] - weight) <= 0.5001 * scales[:, None]).all()


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SIZES)
@pytest.mark.parametrize("activation", [None, "relu"])
def test_bfloat16_linear(rows, inputs, outputs, activation):
    layer = Linear(inputs, outputs, dtype="bfloat16", activation=activation, rng=1)
    x, state = normal((rows, inputs)), layer.state_dict()
    np.testing.assert_array_equal(rounded(state["weight"]), state["weight"])
    exact = rounded(x).astype(np.float64) @ state["weight"].T.astype(np.float64) + state["bias"]
    bound = (inputs + 2) * EPS * (abs(rounded(x)) @ abs(state["weight"]).T + abs(state["bias"]))
    if activation == "relu":
        exact = np.maximum(exact, 0)
    assert (abs(layer(x) - exact) <= bound).all()


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SIZES)
@pytest.mark.parametrize("activation", [None, "relu"])
def test_int8_linear(rows, inputs, outputs, activation):
    weight, bias = normal((outputs, inputs), 1), normal(outputs, 2)
    layer = Linear(inputs, outputs, dtype="int8", activation=activation)
    layer.load_state_dict({"weight": weight, "bias": bias})
    x = normal((rows, inputs), 3) * np.float32(10) ** np.linspace(-20, 20, rows, dtype=np.float32)[:, None]
    x[0] = 0
    elements, scales = to_int8(weight)
    most = abs(x).max(axis=1, keepdims=True)
    quantized = np.rint(x * np.divide(np.float32(127), most, out=np.zeros_like(most), where=most > 0))
    sums = quantized.astype(np.int64) @ elements.T.astype(np.int64)
    exact = sums * (scales.astype(np.float64) * (most / np.float32(127))) + bias
    if activation == "relu":
        exact = np.maximum(exact, 0)
    np.testing.assert_allclose(layer(x), exact, rtol=8 * EPS, atol=8 * EPS * abs(bias).max())


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_what_is_not_finite_stays_in_its_row(dtype):
    layer = Linear(70, 50, dtype=dtype, rng=0)
    x = normal((20, 70))
    clean = layer(x)
    x[3, 5], x[11, 69] = np.nan, np.inf
    out = layer(x)
    others = np.delete(np.arange(20), [3, 11])
    np.testing.assert_array_equal(out[others], clean[others])
    assert not np.isfinite(out[[3, 11]]).any()


@pytest.mark.parametrize(("dtype", "least"), [("bfloat16", 0.9999), ("int8", 0.999)])
def test_encoder_stays_near_float32(dtype, least):
    layers = {name: TransformerEncoderLayer(64, 4, 256, "gelu", dtype=name, rng=0) for name in ("float32", dtype)}
    exact, coarse = (TransformerEncoder(layer, 3) for layer in layers.values())
    coarse.load_state_dict(exact.state_dict())
    x = normal((4, 30, 64))
    a, b = exact(x), coarse(x)
    assert b.dtype == np.float32
    cosines = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    assert least < cosines.min() < 1 - 1e-7  # and it did round


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_masks(dtype):
    attention = MultiHeadAttention(32, 4, dtype=dtype, rng=0)
    x, mask = normal((2, 9, 32)), np.tri(9, dtype=bool)
    causal = attention(x, is_causal=True)
    np.testing.assert_array_equal(attention(x, mask=mask), causal)
    np.testing.assert_allclose(attention(x, mask=np.where(mask, np.float32(0), -np.inf)), causal, atol=0.02)


def test_a_repeated_mask_is_not_made_out():
    mask = np.broadcast_to(normal((1, 1, 6, 5)), (3, 4, 6, 5))
    rounded_mask = mask_to_bfloat16(mask)
    assert rounded_mask.strides[:2] == (0, 0)
    np.testing.assert_array_equal(rounded_mask, to_bfloat16(mask))


def test_weights_that_are_not_finite():
    weight = normal((4, 6))
    weight[1, 2], weight[2, 3] = np.nan, np.inf
    layer = Linear(6, 4, bias=False, dtype="int8")
    layer.load_state_dict({"weight": weight})
    out = layer(normal((3, 6), 1))
    assert np.isfinite(out[:, [0, 3]]).all() and np.isnan(out[:, [1, 2]]).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_copies_and_states(dtype):
    layer = Linear(33, 70, dtype=dtype, rng=0)
    other = Linear(33, 70, dtype=dtype, rng=1)
    x = normal((5, 33))
    np.testing.assert_array_equal(copy.deepcopy(layer)(x), layer(x))
    other.load_state_dict(layer.state_dict())
    np.testing.assert_allclose(other(x), layer(x), rtol=1e-5, atol=1e-6)


def test_sums_of_bytes_do_not_overflow():
    for sign in (1, -1):
        layer = Linear(2**16, 1, bias=False, dtype="int8")
        layer.load_state_dict({"weight": np.full((1, 2**16), sign, np.float32)})
        np.testing.assert_allclose(layer(np.ones((1, 2**16), np.float32)), sign * 2.0**16, rtol=1e-6)
    with pytest.raises(ValueError, match=r"^Linear: in_features is 65537; int8 takes at most 65536"):
        Linear(2**16 + 1, 1, dtype="int8")


def test_names_of_dtypes():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for dtype in ("bfloat16", ml_dtypes.bfloat16, np.dtype(ml_dtypes.bfloat16)):
        assert Linear(2, 2, dtype=dtype).weight_dtype == np.uint16
    assert Linear(2, 2, dtype=np.int8).weight_dtype == np.int8
    for wrong in ("int4", np.int16, np.float16, "complex64", None, 8):
        with pytest.raises(TypeError, match="^Linear: dtype must be .*bfloat16"):
            Linear(2, 2, dtype=wrong)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_save_and_load(tmp_path, dtype):
    pytest.importorskip("safetensors")
    pytest.importorskip("tokenizers")
    from tests.support.tiny_model import write_model

    texts = ["the cat sat on a mat", "find the root of a function."]
    encoder = pyattn.SentenceEncoder.from_pretrained(write_model(tmp_path / "plain"), dtype=dtype)
    encoder.save_pretrained(tmp_path / "saved")
    again = pyattn.SentenceEncoder.from_pretrained(tmp_path / "saved", dtype=dtype)
    np.testing.assert_array_equal(again.encode(texts), encoder.encode(texts))
    assert (again.pooling, again.max_seq_length) == (encoder.pooling, encoder.max_seq_length)
    wide = pyattn.SentenceEncoder.from_pretrained(tmp_path / "saved")
    np.testing.assert_allclose(wide.encode(texts), encoder.encode(texts), atol=0 if dtype == "float32" else 0.05)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("plain", "saved")]
    assert dtype == "float32" or sizes[1] < 0.9 * sizes[0]


def test_int8_without_scales_is_refused(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    pytest.importorskip("tokenizers")
    from tests.support.tiny_model import write_model

    encoder = pyattn.SentenceEncoder.from_pretrained(write_model(tmp_path / "plain"), dtype="int8")
    encoder.save_pretrained(tmp_path / "saved")
    file = tmp_path / "saved" / "model.safetensors"
    name = "encoder.layer.0.output.dense.weight"
    tensors = numpy.load_file(file)
    assert tensors[name].dtype == np.int8 and tensors[f"{name}_scale"].dtype == np.float32
    query = "encoder.layer.0.attention.self.query.weight"
    words = "embeddings.word_embeddings.weight"
    mixed = dict(tensors)  # any matrix may be of int8, and one of those that are multiplied together
    mixed[query] = mixed[query] * mixed.pop(f"{query}_scale")[:, None]
    mixed[words], mixed[f"{words}_scale"] = to_int8(mixed[words])
    numpy.save_file(mixed, file)
    again = pyattn.SentenceEncoder.from_pretrained(tmp_path / "saved", dtype="int8")
    np.testing.assert_allclose(again.encode(["a cat"]), encoder.encode(["a cat"]), atol=0.02)
    scales = tensors.pop(f"{name}_scale")
    for scale in (None, scales[1:], scales[None], scales.astype(np.int8)):
        wrong = {} if scale is None else {f"{name}_scale": scale}
        numpy.save_file(tensors | wrong, file)
        with pytest.raises(ValueError, match=rf"^load: .*model.safetensors: {name} is of int8 .*{name}_scale"):
            pyattn.SentenceEncoder.from_pretrained(tmp_path / "saved")
