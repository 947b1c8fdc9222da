"""Small sparse encoders, as tests/data/record_sparse.py recorded them."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

FOLDER = Path(__file__).parents[1] / "data"
RECORD = json.loads((FOLDER / "sparse.json").read_text())
TENSORS = load_file(FOLDER / "sparse.safetensors")
CASES, TEXTS = RECORD["cases"], RECORD["texts"]


def write(folder, name, /, **changes):
    """The directory of a case; changes: of its files, by their names before ".json", or of the pooling's."""
    folder.mkdir(exist_ok=True)
    for file, values in CASES[name]["files"].items():
        (folder / file).parent.mkdir(exist_ok=True)
        change = changes.get(file.removesuffix(".json").rpartition("/")[2] if "/" not in file else "pooling")
        values = values | change if isinstance(change, dict) else values if change is None else change
        (folder / file).write_text(json.dumps(values))
    weights = CASES[name]["weights"] + "/"
    tensors = {key.removeprefix(weights): x.astype(np.float32) for key, x in TENSORS.items() if key.startswith(weights)}
    save_file(tensors, folder / "model.safetensors")
    return folder
