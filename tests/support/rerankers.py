"""Small rerankers, as tests/data/record_reranker.py recorded them."""

import json
from pathlib import Path

from safetensors.numpy import load_file, save_file

FOLDER = Path(__file__).parents[1] / "data"
RECORD = json.loads((FOLDER / "reranker.json").read_text())
TENSORS = load_file(FOLDER / "reranker.safetensors")
CASES, PAIRS, DOCUMENTS = RECORD["cases"], RECORD["pairs"], RECORD["documents"]


def write(folder, name, /, **changes):
    """The directory of a case; changes: of its files, by their names before ".json"."""
    folder.mkdir(exist_ok=True)
    case = CASES[name]
    for file, values in case["files"].items():
        (folder / file).parent.mkdir(exist_ok=True)
        if isinstance(values, str):
            (folder / file).write_text(changes.pop(file, values))
            continue
        change = changes.pop(file.removesuffix(".json"), None)
        values = values if change is None else values | change if isinstance(change, dict) else change
        (folder / file).write_text(json.dumps(values))
    for file, values in changes.items():
        (folder / f"{file}.json").write_text(json.dumps(values))
    weights = case["weights"] + "/"
    tensors = {key.removeprefix(weights): x for key, x in TENSORS.items() if key.startswith(weights)}
    save_file(tensors, folder / "model.safetensors")
    for path in {key.split("/")[1] for key in TENSORS if key.startswith(f"{name}/") and key.count("/") == 2}:
        own = f"{name}/{path}/"
        tensors = {key.removeprefix(own): x for key, x in TENSORS.items() if key.startswith(own)}
        save_file(tensors, folder / path / "model.safetensors")
    return folder
