"""Weights in shards: the same model as from one file, a tensor at a time; and indexes that are not whole."""

import json
import shutil
import tracemalloc

import numpy as np
import pytest

import pyattn
from pyattn import models
from pyattn.models.tensors import find_weights, read_tensors, stored_tensors, weight_files
from tests.data.record_generative import FOLDER as GENERATIVE
from tests.data.record_quantized import FOLDER as QUANTIZED
from tests.support.recorded import INDEX, load, recorded, split, write, write_index
from tests.support.tiny_model import CONFIG, random_tensors, write_model

pytest.importorskip("safetensors.numpy")
from safetensors.numpy import load_file, save_file


def shards_of(folder):
    return json.loads((folder / INDEX).read_text())["weight_map"]


@pytest.fixture
def folder(tmp_path):
    return split(write(tmp_path, CONFIG, random_tensors()))


def out(folder):
    return models.load(folder)([1, 2, 3], lengths=[3])


@pytest.mark.parametrize("case", ["bert", "albert-groups", "modernbert-masked-lm", "vit", "dinov2-swiglu"])
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_encoders(case, dtype, tmp_path):
    config, tensors, inputs, _ = recorded(case)
    whole = load(write(tmp_path, config, tensors), case, dtype=dtype)
    parts = load(split(tmp_path), case, dtype=dtype)
    given = (inputs["0"],) if "0" in inputs else (inputs["ids"][:1],)
    np.testing.assert_array_equal(parts(*given), whole(*given))


@pytest.mark.parametrize(
    ("case", "directory"),
    [("llama-tied", GENERATIVE), ("gpt2", GENERATIVE), ("t5", GENERATIVE), ("whisper", GENERATIVE)]
    + [(case, QUANTIZED) for case in ("compressed-w8a8", "compressed-w8a16", "bitsandbytes")],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_models_that_generate(case, directory, dtype, tmp_path):
    """Scales of int8 may be in other shards than what they scale."""
    config, tensors, *_ = recorded(case, directory)
    whole = models.load(write(tmp_path, config, tensors), dtype=dtype)
    parts = models.load(split(tmp_path, 4), dtype=dtype)
    assert parts.weight_dtypes == whole.weight_dtypes
    ours, theirs = parts.state_dict(), whole.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name])


def test_a_sentence_encoder_knows_its_shards(tmp_path):
    one = pyattn.SentenceEncoder.from_pretrained(write_model(tmp_path / "one"))
    encoder = pyattn.SentenceEncoder.from_pretrained(split(write_model(tmp_path / "parts")))
    np.testing.assert_array_equal(encoder.encode(["the cat"]), one.encode(["the cat"]))
    before = encoder.fingerprint
    shard = sorted((tmp_path / "parts").glob("*.safetensors"))[-1]
    save_file({name: x + 1 for name, x in load_file(shard).items()}, shard)
    assert pyattn.SentenceEncoder.from_pretrained(tmp_path / "parts").fingerprint != before


def test_one_file_is_preferred_to_shards(folder):
    save_file(random_tensors(seed=1), folder / "model.safetensors")
    models_out = out(folder)
    (folder / INDEX).unlink()
    np.testing.assert_array_equal(models_out, out(folder))


@pytest.mark.parametrize("others", [{}, {"metadata": None}, {"metadata": {"total_size": 7}}, {"metadata": {}}])
def test_only_the_map_of_an_index_counts(others, folder):
    expected = out(folder)
    write_index(folder, shards_of(folder), others)
    np.testing.assert_array_equal(out(folder), expected)


def test_a_tensor_that_the_index_passes_over_or_puts_elsewhere_is_found(folder):
    """As transformers finds it: the index says which shards there are."""
    expected, shards = out(folder), shards_of(folder)
    (one, first), (other, second), *_ = shards.items()
    write_index(folder, shards | {one: second, other: first})
    np.testing.assert_array_equal(out(folder), expected)
    write_index(folder, {name: shard for name, shard in shards.items() if name != one})
    np.testing.assert_array_equal(out(folder), expected)


def test_a_missing_shard_is_named(folder):
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"^load: .*/model-00002-of-00003\.safetensors is missing; {INDEX} names"
    ):
        models.load(folder)


def test_a_shard_that_is_cut_is_named(folder):
    shard = folder / "model-00003-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"^load: .*/{shard.name} is not a whole safetensors file"):
        models.load(folder)


def test_a_tensor_in_no_shard_is_named(folder):
    name = "encoder.layer.1.output.dense.bias"
    shard = folder / shards_of(folder)[name]
    save_file({other: x for other, x in load_file(shard).items() if other != name}, shard)
    with pytest.raises(ValueError, match=rf"^load: .*/{INDEX}: {name} is not in {shard.name}, nor in another shard"):
        models.load(folder)


def test_what_is_no_part_of_the_model_may_lack(folder):
    expected = out(folder)
    write_index(folder, shards_of(folder) | {"cls.predictions.bias": "model-00002-of-00003.safetensors"})
    np.testing.assert_array_equal(out(folder), expected)


def test_a_tensor_in_two_shards_is_named(folder):
    for number in (1, 3):
        shard = folder / f"model-0000{number}-of-00003.safetensors"
        save_file(load_file(shard) | {"encoder.twice": np.zeros(3, np.float32)}, shard)
    message = (
        rf"^load: .*/{INDEX}: encoder\.twice is in model-00001-of-00003\.safetensors and model-00003-of-00003\.saf"
    )
    with pytest.raises(ValueError, match=message):
        models.load(folder)


@pytest.mark.parametrize(
    "shard", ["../x.safetensors", "/x.safetensors", "a/x.safetensors", "", ".", "..", "x.bin", "x"]
)
def test_a_shard_elsewhere_is_refused(shard, folder):
    (folder.parent / "x.safetensors").write_bytes((folder / "model-00001-of-00003.safetensors").read_bytes())
    write_index(folder, shards_of(folder) | {"x": shard})
    with pytest.raises(ValueError, match=rf"^load: .*/{INDEX}: a shard must be a \.safetensors file beside it, not '"):
        models.load(folder)


@pytest.mark.parametrize("shards", [None, {}, [], "x.safetensors", {"x": 1}, {"x": None}, {"x": ["x.safetensors"]}])
def test_a_map_that_is_none_is_refused(shards, folder):
    write_index(folder, shards)
    with pytest.raises(ValueError, match=rf"^load: .*/{INDEX}: weight_map must be an object"):
        models.load(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_an_index_that_is_no_object_is_refused(content, folder):
    (folder / INDEX).write_bytes(content)
    with pytest.raises(ValueError, match=rf"^load: .*/{INDEX} (is not valid JSON|must hold a JSON object)"):
        models.load(folder)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("pytorch_model.bin", "a pickle, which is never read"),
        ("pytorch_model-00001-of-00002.bin", "a pickle, which is never read"),
        ("consolidated.safetensors", "weights under Mistral's own names"),
        ("consolidated.00.pth", "a pickle, which is never read"),
        ("model.fp16.safetensors", "a variant of the weights"),
        ("tf_model.h5", "TensorFlow's weights"),
        ("flax_model.msgpack", "Flax's weights"),
        ("llama-7b.Q4_K_M.gguf", "llama.cpp's weights"),
        ("model.onnx", "a graph of ONNX"),
        ("adapter_model.safetensors", "an adapter without its model"),
    ],
)
def test_weights_of_other_kinds_are_named_with_the_remedy(name, what, tmp_path):
    (write(tmp_path, CONFIG, random_tensors()) / "model.safetensors").rename(tmp_path / name)
    message = rf"model\.safetensors is missing, and {INDEX} as well; there is {name} \({what}\); .*save_pretrained"
    with pytest.raises(FileNotFoundError, match=f"^load: .*{message}"):
        models.load(tmp_path)


@pytest.mark.parametrize("keep", [True, False])
def test_an_adapter_is_refused(keep, tmp_path):
    """It changes every result, also beside the weights of the model that it is for."""
    write(tmp_path, CONFIG, random_tensors())
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    if not keep:
        (tmp_path / "model.safetensors").rename(tmp_path / "adapter_model.safetensors")
    with pytest.raises(
        ValueError, match=r"^load: .*adapter_config\.json: adapters \(LoRA\) are not .*merge_and_unload"
    ):
        models.load(tmp_path)


@pytest.mark.parametrize("named", ["other.safetensors", "../model.safetensors", 3, ""])
def test_weights_under_another_name_are_refused(named, tmp_path):
    write(tmp_path, CONFIG | {"transformers_weights": named}, random_tensors())
    with pytest.raises(
        ValueError, match=r"^load: .*config\.json: transformers_weights must be 'model\.safetensors', not"
    ):
        models.load(tmp_path)


def test_a_file_that_changes_meanwhile_is_refused(folder):
    stored = stored_tensors(folder / INDEX)
    shutil.copy(folder / "config.json", folder / "model-00001-of-00003.safetensors")
    with pytest.raises(ValueError, match=r"^load: .*model-00001-of-00003\.safetensors was cut while it was read: "):
        {name: tensor.read() for name, tensor in stored.items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("halves", [False, True])
def test_memory_is_the_models_and_a_shards(dtype, halves, tmp_path):
    """Of four shards with 4 MiB each in float32, read into what is held in a half or a quarter of that.

    Of weights of 16 bits, which become float32 on their way, it is that of a shard in float32.
    """
    sizes = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 5, "num_attention_heads": 4}
    config, tensors, *_ = recorded("llama", GENERATIVE)
    config, rng = (
        config | sizes | {"vocab_size": 1000, "num_key_value_heads": 4, "head_dim": 64},
        np.random.default_rng(0),
    )
    shapes = {"q_proj": (256, 256), "k_proj": (256, 256), "v_proj": (256, 256), "o_proj": (256, 256)}
    shapes |= {"gate_proj": (704, 256), "up_proj": (704, 256), "down_proj": (256, 704)}
    made = {
        name: rng.standard_normal((1000, 256), np.float32) for name in ("model.embed_tokens.weight", "lm_head.weight")
    }
    for name in tensors:
        parts = name.split(".")
        if "layers.0" in name:
            shape = shapes.get(parts[-2], (256,))
            made |= {name.replace("layers.0", f"layers.{i}"): rng.standard_normal(shape, np.float32) for i in range(5)}
    made["model.norm.weight"] = np.ones(256, np.float32)
    if halves:
        made = {name: x.astype(np.float16) for name, x in made.items()}
    split(write(tmp_path, config, made), 4)
    shard = max(file.stat().st_size for file in tmp_path.glob("*.safetensors")) * (2 if halves else 1)
    del made
    models.load(tmp_path, dtype=dtype)  # what is made once
    tracemalloc.start()
    try:
        model = models.load(tmp_path, dtype=dtype)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert model.config.num_hidden_layers == 5
    exact = 17.5 * 2**20  # of float32
    int8 = 0.4 if "int8" in pyattn.info()["dot_products"] else 0.6  # elsewhere its elements are held in 16 bits
    assert held < exact * {"float32": 0.6 if halves else 1.1, "bfloat16": 0.6, "int8": int8}[dtype]
    assert peak < held + shard


def test_the_files_of_weights(folder):
    index = find_weights(folder, {})
    assert index == folder / INDEX
    assert weight_files(index) == [folder / f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert read_tensors(index, lambda name: name.endswith("bias")).keys() == {
        name for name in random_tensors() if name.endswith("bias")
    }
