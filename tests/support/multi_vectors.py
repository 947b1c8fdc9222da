"""Small ColBERTs, as tests/data/record_multi_vector.py recorded them."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

FOLDER = Path(__file__).parents[1] / "data"
RECORD = json.loads((FOLDER / "multi_vector.json").read_text())
TENSORS = load_file(FOLDER / "multi_vector.safetensors")
CASES, QUERIES, DOCUMENTS = RECORD["cases"], RECORD["queries"], RECORD["documents"]


def write(folder, name, /, **changes):
    """The directory of a case; changes: of its files, by what their names begin with."""
    folder.mkdir(exist_ok=True)
    for file, values in CASES[name]["files"].items():
        (folder / file).parent.mkdir(exist_ok=True)
        for start, change in changes.items():
            if file.startswith(start):
                values = values | change if isinstance(change, dict) else change
        (folder / file).write_text(json.dumps(values))
    for owner in ("stanford" if name == "stanford" else "fixed", name):  # the model, then what is the case's own
        parts = {}
        for key, x in TENSORS.items():
            if key.startswith(f"weights/{owner}/"):
                path, _, tensor = key.removeprefix(f"weights/{owner}/").rpartition("/")
                parts.setdefault(path, {})[tensor] = x.astype(np.float32)
        for path, tensors in parts.items():
            save_file(tensors, folder / path / "model.safetensors")
    return folder


def vectors(name, kind):
    """What sentence-transformers gave for each of the queries or documents."""
    lengths = CASES[name]["lengths"][kind == "documents"]
    return np.split(TENSORS[f"{kind}/{name}"], np.cumsum(lengths)[:-1])
