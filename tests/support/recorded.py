"""Small models of every family, as tests/data/record_*.py recorded them."""

import json

from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from pyattn import models
from tests.data.record_families import CASES, FOLDER

INDEX = "model.safetensors.index.json"


def recorded(case, directory=FOLDER):
    """The configuration, tensors, inputs and transformers' outputs of a case."""
    with safe_open(directory / f"{case}.safetensors", "numpy") as file:
        config = json.loads(file.metadata()["config"])
    parts = {"state": {}, "input": {}, "output": {}}
    for name, x in load_file(directory / f"{case}.safetensors").items():
        kind, _, rest = name.partition(".")
        parts[kind][rest] = x
    return config, parts["state"], parts["input"], parts["output"]


def write(folder, config, tensors):
    """A model directory; "generation" of config is a file of its own."""
    folder.mkdir(exist_ok=True)
    values = {key: value for key, value in config.items() if key != "generation"}
    (folder / "config.json").write_text(json.dumps(values))
    if "generation" in config:
        (folder / "generation_config.json").write_text(json.dumps(config["generation"]))
    save_file(tensors, folder / "model.safetensors")
    return folder


def load(folder, case, **options):
    task = CASES[case][0]
    return models.load_task(folder, task, **options) if task else models.load(folder, **options)


def split(folder, count=3):
    """Puts the tensors of a directory's model.safetensors into shards, as transformers names them."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    file.unlink()
    names, shards = sorted(tensors), {}
    for number in range(count):
        shard = f"model-{number + 1:05}-of-{count:05}.safetensors"
        part = {name: tensors[name] for name in names[number::count]}
        save_file(part, folder / shard, {"format": "pt"})
        shards |= dict.fromkeys(part, shard)
    total = sum(x.nbytes for x in tensors.values())
    write_index(folder, dict(sorted(shards.items())), {"metadata": {"total_parameters": 1, "total_size": total}})
    return folder


def write_index(folder, shards, others=None):
    (folder / INDEX).write_text(json.dumps({**(others or {}), "weight_map": shards}))
