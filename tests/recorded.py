"""Small models of every family, as tests/data/record_*.py recorded them."""

import json

from data.record_families import CASES, FOLDER
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from pyattn import models


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
