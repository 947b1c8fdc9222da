"""Weights that other tools have quantized: int8 per row against what the tools themselves make of it, as recorded by
tests/data/record_quantized.py; what is not read is refused by the tool's name."""

import json

import numpy as np
import pytest

from pyattn import models
from pyattn.models.tensors import read_tensors
from pyattn.precision import Quantized, to_int8
from tests.data.record_quantized import CASES, FOLDER
from tests.support.recorded import recorded, write
from tests.support.tiny_model import CONFIG, random_tensors

pytest.importorskip("safetensors.numpy")
from safetensors.numpy import load_file, save_file

WEIGHT = "encoder.layer.0.output.dense.weight"


@pytest.fixture(params=CASES)
def case(request, tmp_path):
    """A directory as the tool wrote it, ids, and the logits of a plain model with the weights that it stands for."""
    config, tensors, inputs, outputs = recorded(request.param, FOLDER)
    return write(tmp_path / "given", config, tensors), inputs["ids"], outputs["logits"]


def test_int8_of_other_tools_is_read(case):
    folder, ids, logits = case
    assert abs(models.load(folder)(ids) - logits).max() < 1e-5


def test_int8_of_other_tools_is_held_as_it_is(case):
    """No number of it is rounded again: all that differs is that inputs are rounded."""
    folder, ids, logits = case
    model = models.load(folder, dtype="int8")
    assert abs(model(ids) - logits).max() < 0.1 < abs(logits).max() / 30
    assert set(model.weight_dtypes.values()) == {"int8"}
    given, held = read_tensors(folder / "model.safetensors", lambda name: True), model._stored()
    quantized = {name: tensor for name, tensor in given.items() if isinstance(tensor, Quantized)}
    assert len(quantized) == 7
    for name, tensor in quantized.items():
        np.testing.assert_array_equal(held[name.removeprefix("model.")].elements, tensor.elements)
        np.testing.assert_array_equal(held[name.removeprefix("model.")].scales, tensor.scales)


def test_it_is_saved_in_our_own_way(case, tmp_path):
    folder, ids, _ = case
    for dtype in ("float32", "int8"):
        model = models.load(folder, dtype=dtype)
        model.save_pretrained(tmp_path / "saved")
        assert "quantization_config" not in json.loads((tmp_path / "saved" / "config.json").read_text())
        np.testing.assert_array_equal(models.load(tmp_path / "saved", dtype=dtype)(ids), model(ids))


def test_all_elements_of_int8_count(tmp_path):
    """-128 too, which no weight of ours has; scales of any shape and type that is one for each row."""
    tensors = random_tensors()
    elements = np.random.default_rng(0).integers(-128, 128, tensors[WEIGHT].shape).astype(np.int8)
    elements[0] = -128
    scales = np.linspace(0.001, 0.002, len(elements)).astype(np.float16)
    exact = models.TextEncoder(
        models.EncoderConfig.from_dict(CONFIG),
        tensors | {WEIGHT: elements * scales.astype(np.float32)[:, None]},
    )([1, 2, 3], lengths=[3])
    for shape in ((-1,), (-1, 1)):
        folder = write(tmp_path, CONFIG, tensors | {WEIGHT: elements, WEIGHT + "_scale": scales.reshape(shape)})
        np.testing.assert_allclose(models.load(folder)([1, 2, 3], lengths=[3]), exact, atol=1e-6, rtol=0)
        out = models.load(folder, dtype={"*": "bfloat16", "layers.0.linear2": "int8"})([1, 2, 3], lengths=[3])
        assert np.linalg.norm(out - exact) < 0.05 * np.linalg.norm(exact)


@pytest.mark.parametrize(
    ("settings", "tool"),
    [
        ({"quant_method": "gptq", "bits": 4}, "GPTQ"),
        ({"quant_method": "awq", "bits": 4}, "AWQ"),
        ({"quant_method": "fp8"}, "FP8"),
        ({"quant_method": "mxfp4"}, "MXFP4"),
        ({"quant_method": "aqlm"}, "AQLM"),
        ({"quant_method": "hqq"}, "HQQ"),
        ({"quant_method": "eetq"}, "EETQ"),
        ({"quant_method": "torchao"}, "torchao"),
        ({"quant_method": "quanto"}, "quanto"),
        ({"quant_method": "something new"}, "something new"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes, in 4 bits,"),
        ({"load_in_4bit": True}, "bitsandbytes, in 4 bits,"),
        ({"bits": 4}, "no known tool"),
        (
            {"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-24-bitmask"}},
            r"compressed-tensors, sparse \(sparse-24-bitmask\),",
        ),
        (
            {"quant_method": "compressed-tensors", "kv_cache_scheme": {"num_bits": 8}},
            "compressed-tensors, with kv_cache",
        ),
        ({"quant_method": "compressed-tensors", "transform_config": {"a": 1}}, "compressed-tensors, with transform_"),
    ],
)
@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
def test_what_config_json_says_is_refused_by_the_tools_name(key, settings, tool, tmp_path):
    folder = write(tmp_path, CONFIG | {key: settings}, random_tensors())
    with pytest.raises(ValueError, match=rf"^load: .*config\.json: quantized by {tool}.*: not supported; read are"):
        models.load(folder)


@pytest.mark.parametrize("settings", ["gptq", ["gptq"], 4])
def test_settings_that_are_none_are_refused(settings, tmp_path):
    folder = write(tmp_path, CONFIG | {"quantization_config": settings}, random_tensors())
    with pytest.raises(ValueError, match=r"^load: .*config\.json: quantization_config must be an object"):
        models.load(folder)


@pytest.mark.parametrize("settings", [None, {}, {"quant_method": "compressed-tensors"}, {"load_in_8bit": True}])
def test_settings_that_change_nothing_are_no_error(settings, tmp_path):
    folder = write(tmp_path, CONFIG | {"quantization_config": settings}, random_tensors())
    plain = models.load(write(tmp_path / "plain", CONFIG, random_tensors()))
    np.testing.assert_array_equal(models.load(folder)([1, 2], lengths=[2]), plain([1, 2], lengths=[2]))


MODULE = WEIGHT.removesuffix(".weight")


@pytest.mark.parametrize(
    ("tensors", "tool"),
    [
        ({"qweight": np.zeros((3, 24), np.int32), "qzeros": np.zeros((1, 3), np.int32)}, "GPTQ or AWQ"),
        (
            {"weight": np.zeros((24, 20), np.uint8), "weight.absmax": np.zeros(8, np.float32)},
            "bitsandbytes, in 4 bits,",
        ),
        ({"weight": np.zeros((24, 40), np.int8), "SCB": np.zeros(3, np.float32)}, "bitsandbytes"),
        ({"weight": np.zeros((24, 40), np.int8), "weight_scales": np.zeros(40, np.float16)}, "EETQ"),
        ({"weight._data": np.zeros((24, 40), np.int8), "weight._scale": np.zeros((24, 1), np.float32)}, "quanto"),
        ({"W_q": np.zeros((24, 20), np.uint8)}, "HQQ"),
        (
            {
                "weight_packed": np.zeros((24, 5), np.int32),
                "weight_shape": np.array([24, 40]),
                "weight_scale": np.ones((24, 1), np.float32),
            },
            "compressed-tensors, in less than 8 bits or in groups,",
        ),
        (
            {
                "weight_packed": np.zeros((24, 10), np.int32),
                "weight_shape": np.array([24, 40]),
                "weight_scale": np.ones((24, 2), np.float32),
            },
            "compressed-tensors, in less than 8 bits or in groups,",
        ),
        (
            {
                "weight": np.zeros((24, 40), np.int8),
                "weight_scale": np.ones((24, 1), np.float32),
                "weight_zero_point": np.zeros((24, 1), np.int8),
            },
            "compressed-tensors, with zero points,",
        ),
        (
            {
                "weight": np.zeros((24, 40), np.int8),
                "weight_scale": np.ones((24, 1), np.float32),
                "input_scale": np.ones(1, np.float32),
            },
            "compressed-tensors, with fixed scales of inputs,",
        ),
    ],
)
def test_tensors_tell_where_config_json_does_not(tensors, tool, tmp_path):
    """By the names that tools give them."""
    others = {name: x for name, x in random_tensors().items() if name != WEIGHT}
    folder = write(tmp_path, CONFIG, others | {f"{MODULE}.{name}": x for name, x in tensors.items()})
    with pytest.raises(ValueError, match=rf"^load: .*{MODULE}\..*quantized by {tool}: not supported; read are"):
        models.load(folder)


def test_eight_bits_of_float_are_refused(tmp_path):
    write(tmp_path, CONFIG, random_tensors())
    header = {WEIGHT: {"dtype": "F8_E4M3", "shape": [24, 40], "data_offsets": [0, 960]}}
    text = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(960))
    with pytest.raises(ValueError, match=rf"^load: .*{WEIGHT}: quantized by a tool that makes F8_E4M3 of weights: not"):
        models.load(tmp_path)


@pytest.mark.parametrize("order", [np.array(1, np.uint8), np.array([0, 1], np.uint8), np.array("x", "S1").view("u1")])
def test_rows_in_another_order_are_refused(order, tmp_path):
    tensors = random_tensors()
    tensors[WEIGHT], scales = to_int8(tensors[WEIGHT])
    tensors |= {f"{MODULE}.SCB": scales * 127, f"{MODULE}.weight_format": order}
    with pytest.raises(ValueError, match=rf"^load: .*{MODULE}\.weight_format is \[.*\]; \[0\] is needed"):
        models.load(write(tmp_path, CONFIG, tensors))


@pytest.mark.parametrize(
    "shape", [[24], [24.0, 40.0], [24, 40, 1], [24, 41], [25, 40], [0, 0], [-24, -40], [2**62, 2**62]]
)
def test_a_packed_shape_that_does_not_fit_is_refused(shape, tmp_path):
    tensors = {name: x for name, x in random_tensors().items() if name != WEIGHT}
    tensors |= {
        f"{WEIGHT}_packed": np.zeros((24, 10), np.int32),
        f"{WEIGHT}_shape": np.array(shape),
        f"{WEIGHT}_scale": np.ones((24, 1), np.float32),
    }
    with pytest.raises(
        ValueError, match=r"^load: .*quantized by compressed-tensors, in less than 8 bits or in groups,"
    ):
        models.load(write(tmp_path, CONFIG, tensors))


def test_types_of_tensors_that_are_not_wanted_do_not_matter(tmp_path):
    others = {
        "embeddings.position_ids": np.arange(16)[None],
        "cls.predictions.mask": np.zeros(3, bool),
        "pooler.dense.weight": np.zeros((24, 24), np.int8),
    }
    plain = models.load(write(tmp_path / "plain", CONFIG, random_tensors()))
    model = models.load(write(tmp_path / "more", CONFIG, random_tensors() | others))
    np.testing.assert_array_equal(model([1, 2], lengths=[2]), plain([1, 2], lengths=[2]))
    assert load_file(tmp_path / "more" / "model.safetensors").keys() > random_tensors().keys()
    save_file(random_tensors() | {WEIGHT: random_tensors()[WEIGHT].astype(np.int64)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=rf"^load: .*{WEIGHT} has type I64; accepted are F32, F16, BF16, F64, I8"):
        read_tensors(tmp_path / "x.safetensors", lambda name: True)
