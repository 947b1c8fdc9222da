"""Directories of sentence-transformers, as tests/data/record_sentence.py and record_embedders.py recorded them."""

import json
from pathlib import Path

from safetensors.numpy import load_file, save_file

FOLDER = Path(__file__).parents[1] / "data"
RECORD = json.loads((FOLDER / "sentence.json").read_text())
TENSORS = load_file(FOLDER / "sentence.safetensors")
TEXTS, CASES = RECORD["texts"], RECORD["cases"]


def write_case(folder, case, record=RECORD, tensors=TENSORS):
    """The directory of a case: that of its base, with its changes."""
    for name, content in record["files"][case["base"]].items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".safetensors":
            save_file({key: tensors[stored] for key, stored in content.items()}, file)
        else:
            file.write_text(json.dumps(content))
    for name, change in case["changes"].items():
        file = folder / name
        if change is None:
            file.unlink()
        elif isinstance(change, list):
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(change[0]))
        else:
            values = json.loads(file.read_text()) | change
            file.write_text(json.dumps({key: x for key, x in values.items() if x != "ABSENT"}))
    return folder
