"""Hidden states of decoders without a head against transformers: recorded by tests/data/record_states.py, and anew."""

from itertools import pairwise

import numpy as np
import pytest

from pyattn.models.token_states import TokenStates
from tests.data.record_states import CASES, FOLDER, make
from tests.support.recorded import recorded, write

pytest.importorskip("safetensors.numpy")

TOLERANCE = 1e-5


def largest_difference(model, inputs, outputs):
    """Between our results, of all sequences at once, and theirs of one after the other."""
    sequences = [inputs[i] for i in sorted(inputs)]
    starts = np.cumsum([0, *map(len, sequences)])
    states = model(np.concatenate(sequences), starts)
    parts = [states[start:end] for start, end in pairwise(starts)]
    return max(abs(part - outputs[i]).max() for part, i in zip(parts, sorted(inputs), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_transformers_as_recorded(case, tmp_path):
    config, tensors, inputs, outputs = recorded(case, FOLDER)
    model = TokenStates.from_directory(write(tmp_path, config, tensors))
    assert largest_difference(model, inputs, outputs) < TOLERANCE


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore")  # theirs
def test_agrees_with_transformers_as_installed(case, tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    config, tensors, inputs, outputs = make(case, seed=1)
    model = TokenStates.from_directory(write(tmp_path, config, tensors))
    assert largest_difference(model, inputs, outputs) < TOLERANCE


@pytest.mark.parametrize("case", CASES)
def test_every_tensor_matters(case, tmp_path):
    """Each tensor, moved a little, moves the result by far more than the tolerance."""
    config, tensors, inputs, outputs = recorded(case, FOLDER)
    for name, tensor in tensors.items():
        ramp = np.linspace(0.05, 0.3, tensor.size, dtype=np.float32).reshape(tensor.shape)
        moved = TokenStates.from_directory(write(tmp_path, config, {**tensors, name: tensor + ramp}))
        assert largest_difference(moved, inputs, outputs) > 20 * TOLERANCE, name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("case", CASES)
def test_saved_and_loaded(case, dtype, tmp_path):
    config, tensors, inputs, _ = recorded(case, FOLDER)
    model = TokenStates.from_directory(write(tmp_path, config, tensors), dtype)
    model.save_pretrained(tmp_path / "saved")
    again = TokenStates.from_directory(tmp_path / "saved", dtype)
    ids = inputs["0"]
    np.testing.assert_array_equal(again(ids, [0, len(ids)]), model(ids, [0, len(ids)]))


def test_a_window_on_both_sides_is_seen(tmp_path):
    """A token behind changes those before it in a bidirectional model alone."""
    for case, seen in (("gemma3", False), ("gemma3-bidirectional", True)):
        config, tensors, inputs, _ = recorded(case, FOLDER)
        model = TokenStates.from_directory(write(tmp_path, config, tensors))
        ids = inputs["0"].copy()
        before = model(ids, [0, len(ids)])
        ids[-1] = ids[-1] % 39 + 1
        assert (model(ids, [0, len(ids)])[0] != before[0]).any() == seen
