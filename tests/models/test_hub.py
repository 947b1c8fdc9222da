"""What is fetched from the hub is what is read: the same results from a hub that gives the listed files alone."""

import sys
from fnmatch import fnmatchcase

import numpy as np
import pytest

import pyattn
from pyattn import models
from pyattn.models.files import FILES
from tests.data.record_generative import FOLDER as GENERATIVE
from tests.data.record_quantized import FOLDER as QUANTIZED
from tests.support.recorded import recorded, split, write
from tests.support.tiny_generator import write_generator
from tests.support.tiny_model import write_model

hub = pytest.importorskip("huggingface_hub")
pytest.importorskip("tokenizers")

# The same weights for other libraries, of which a repository may have many times as many
DECOYS = [
    "pytorch_model.bin",
    "pytorch_model-00001-of-00002.bin",
    "tf_model.h5",
    "flax_model.msgpack",
    "model.fp16.safetensors",
    "consolidated.safetensors",
    "model-q4.gguf",
    "onnx/model.onnx",
    "onnx/config.json",
    "openvino/openvino_model.bin",
    "original/model.safetensors",
    "original/model-00001-of-00002.safetensors",
    "original/params.json",
    "checkpoint-100/model.safetensors",
    "README.md",
    ".gitattributes",
    "modeling_bert.py",
    "1_Pooling/pytorch_model.bin",
]


def hidden(folder, dtype="float32"):
    return models.load(folder, dtype=dtype)([1, 2, 3], lengths=[3])


def logits(folder):
    return models.load(folder)([[1, 2, 3]])


def of_task(folder):
    return models.load_task(folder, "token-classification")([1, 2, 3], lengths=[3])


def of_image(folder):
    return models.load(folder)(np.ones((1, 3, 20, 20), np.float32))


def sentences(folder):
    encoder = pyattn.SentenceEncoder.from_pretrained(folder)
    return encoder.encode(["the cat sat", "a " * 20], truncate=True), encoder.fingerprint


def written(folder):
    return pyattn.TextGenerator.from_pretrained(folder)(["w5 w6"], max_new_tokens=4)


def write_recorded(folder, case, directory=None):
    config, tensors, *_ = recorded(case, *([] if directory is None else [directory]))
    return write(folder, config, tensors)


# name -> what writes a directory, and what is made of one
DIRECTORIES = {
    "text": (lambda folder: write_recorded(folder, "modernbert"), hidden),
    "task": (lambda folder: write_recorded(folder, "bert-token-classification"), of_task),
    "image": (lambda folder: write_recorded(folder, "vit"), of_image),
    "shards": (lambda folder: split(write_recorded(folder, "llama", GENERATIVE)), logits),
    "int8": (lambda folder: write_recorded(folder, "compressed-w8a16", QUANTIZED), logits),
    "sentences": (write_model, sentences),
    "sentences in shards": (lambda folder: split(write_model(folder)), sentences),
    "generator": (lambda folder: write_generator(folder, "gpt2"), written),
    "translator": (lambda folder: write_generator(folder, "bart"), written),
}


def is_listed(name):
    return any(fnmatchcase(name, pattern) for pattern in FILES)


@pytest.fixture(params=DIRECTORIES)
def directory(request, tmp_path):
    """A directory with everything that a repository may have, and what is made of it."""
    make, use = DIRECTORIES[request.param]
    folder = make(tmp_path / "source")
    for name in DECOYS:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"never read")
    return folder, use


LISTENERS = []  # of what is opened; a hook stays for as long as the process
sys.addaudithook(
    lambda event, given: [opened.append(str(given[0])) for opened in LISTENERS if event == "open"] and None
)


@pytest.mark.filterwarnings("ignore:.*has more than")
def test_what_is_fetched_is_what_is_read(directory, tmp_path, monkeypatch):
    folder, use = directory
    LISTENERS.append(opened := [])
    from_disk = use(folder)
    LISTENERS.clear()
    opened = {name.removeprefix(f"{folder}/") for name in opened if name.startswith(f"{folder}/")}
    assert {"config.json"} < opened
    assert not [name for name in opened if not is_listed(name)]

    def snapshot_download(repository, allow_patterns):
        assert repository == "someone/some-model"
        copy = tmp_path / "copy"
        for file in folder.rglob("*"):
            name = str(file.relative_to(folder))
            if file.is_file() and any(fnmatchcase(name, pattern) for pattern in allow_patterns):
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                (copy / name).write_bytes(file.read_bytes())
        assert not [name for name in DECOYS if (copy / name).exists()]
        return str(copy)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    from_hub = use("someone/some-model")
    if isinstance(from_disk, np.ndarray):
        np.testing.assert_array_equal(from_hub, from_disk)
    else:
        assert str(from_hub) == str(from_disk)


@pytest.mark.parametrize(
    "name",
    [
        "sentence_roberta_config.json",
        "model-00001-of-00163.safetensors",
        "model.safetensors-00001-of-00002.safetensors",
        "0_Transformer/config.json",
        "0_Transformer/model-00002-of-00002.safetensors",
        "0_Transformer/tokenizer.json",
        "2_Dense/model.safetensors",
        "12_LayerNorm/config.json",
    ],
)
def test_files_of_all_kinds_are_listed(name):
    assert is_listed(name)


@pytest.mark.parametrize("name", DECOYS)
def test_nothing_else_is_listed(name):
    assert not is_listed(name)


def test_the_documentation_names_every_file():
    told = " ".join(models.__doc__.split())
    for pattern, what in FILES.items():
        assert f"{pattern}: {what}" in told
