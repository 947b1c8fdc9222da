"""What tests/data/record_positions.py has recorded."""

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.numpy import load_file

PATH = Path(__file__).parents[1] / "data" / "positions.safetensors"
TENSORS = load_file(PATH)
with safe_open(PATH, "numpy") as file:
    ROTARY = json.loads(file.metadata()["rotary"])
