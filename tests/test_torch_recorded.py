"""Layers against torch's state dicts and outputs, recorded by tests/data/record_torch.py; torch need not be installed.

A folder without the recorded files fails.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from pyattn import LayerNorm, MultiHeadAttention, TransformerEncoder, TransformerEncoderLayer

pytest.importorskip("safetensors.numpy")
safetensors = pytest.importorskip("safetensors")

FILES = sorted((Path(__file__).parent / "data" / "torch").glob("*.safetensors"))
MODULES = {"MultiheadAttention", "TransformerEncoderLayer", "TransformerEncoder"}
TOLERANCE = 1e-5

recorded = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def configuration(path):
    with safetensors.safe_open(path, "numpy") as file:
        return json.loads(file.metadata()["config"])


def build(module, arguments):
    """Our layer for torch's module and arguments, with parameters that are still to be loaded."""
    if module == "MultiheadAttention":
        return MultiHeadAttention(**arguments)
    if module == "TransformerEncoderLayer":
        return TransformerEncoderLayer(**arguments)
    layer = arguments["layer"]
    norm = LayerNorm(layer["d_model"], bias=layer["bias"]) if arguments["norm"] else None
    return TransformerEncoder(TransformerEncoderLayer(**layer), arguments["num_layers"], norm)


def load(path):
    """Our layer for a recorded one, the state dict that torch saved, and the tensors by name, inputs and outputs."""
    config = configuration(path)
    tensors = safetensors.numpy.load_file(path)
    state = {name.removeprefix("state."): x for name, x in tensors.items() if name.startswith("state.")}
    return build(config["module"], config["arguments"]), state, tensors


def largest_difference(ours, tensors, output, without_padding=False):
    """From the recorded output; without_padding: but for the queries that are padding, where torch's is arbitrary."""
    theirs = tensors[f"output.{output}"]
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    difference = np.abs(ours - theirs)
    return (difference[~tensors["input.key_padding_mask"]] if without_padding else difference).max()


def inputs(tensors):
    return [tensors[f"input.{name}"] for name in ("query", "key", "value") if f"input.{name}" in tensors]


def test_there_is_a_recording_of_every_module():
    assert {configuration(path)["module"] for path in FILES} == MODULES


@recorded
def test_state_dict_comes_back_bit_for_bit(path):
    layer, state, _ = load(path)
    layer.load_state_dict(state)
    ours = layer.state_dict()
    assert ours.keys() == state.keys()
    for name, value in ours.items():
        assert (value.dtype, value.shape, value.tobytes()) == (np.float32, state[name].shape, state[name].tobytes())


@recorded
def test_agrees_with_torch(path):
    layer, state, tensors = load(path)
    layer.load_state_dict(state)
    arrays = inputs(tensors)
    mask, live = ~tensors["input.attn_mask"], ~tensors["input.key_padding_mask"]
    real = np.where(mask, 0, -np.inf).astype(np.float32)
    encodes = not isinstance(layer, MultiHeadAttention)
    assert largest_difference(layer(*arrays), tensors, "plain") <= TOLERANCE
    assert np.abs(layer(*[x[1] for x in arrays]) - tensors["output.plain"][1]).max() <= TOLERANCE
    assert largest_difference(layer(*arrays, key_mask=live), tensors, "padded", encodes) <= TOLERANCE
    # Where there are as many queries as keys, torch's triangle is ours.
    causal = [{"mask": mask}, {"mask": real}, *([{"is_causal": True}] if len(mask) == len(mask.T) else [])]
    for masks in causal:
        assert largest_difference(layer(*arrays, **masks), tensors, "causal") <= TOLERANCE
        assert largest_difference(layer(*arrays, **masks, key_mask=live), tensors, "both", encodes) <= TOLERANCE


@recorded
def test_every_parameter_matters_to_the_agreement(path):
    layer, state, tensors = load(path)
    for name, value in state.items():
        # Not one factor for all: where no bias stands between, a norm behind may undo that.
        factors = np.linspace(1, 1.1, value.size, dtype=np.float32).reshape(value.shape)
        layer.load_state_dict(state | {name: value * factors})
        difference = largest_difference(layer(*inputs(tensors)), tensors, "plain")
        assert difference > 10 * TOLERANCE, name
