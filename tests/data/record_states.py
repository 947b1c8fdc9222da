"""Records the hidden states that transformers computes of decoders without a head, for tests/models/test_states.py.

Run with torch and transformers installed: python -m tests.data.record_states [CASE ...]
"""

import json
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "states"

_SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
_GEMMA3 = {**_SIZES, "query_pre_attn_scalar": 10, "sliding_window_pattern": 3}

# case -> (the class's beginning, the configuration)
CASES = {
    "qwen3": ("Qwen3", {**_SIZES, "attention_bias": True}),
    "gemma3": ("Gemma3Text", {**_GEMMA3, "sliding_window": 4}),
    "gemma3-bidirectional": ("Gemma3Text", {**_GEMMA3, "sliding_window": 5, "use_bidirectional_attention": True}),
    "gemma3-bidirectional-even": ("Gemma3Text", {**_GEMMA3, "sliding_window": 6, "use_bidirectional_attention": True}),
}
LENGTHS = [9, 1, 14, 4]


def make(case, seed):
    """config.json's contents, tensors by their names in files, inputs and outputs of one case."""
    import torch
    import transformers
    from safetensors.numpy import load_file

    from tests.data.record_generative import randomize

    family, changes = CASES[case]
    config = getattr(transformers, f"{family}Config")(**changes, attn_implementation="eager")
    model = getattr(transformers, f"{family}Model")(config).eval()
    rng = np.random.default_rng(seed)
    randomize(model.parameters(), rng)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tensors = load_file(Path(folder) / "model.safetensors")
        values = json.loads((Path(folder) / "config.json").read_text())
    ids = [rng.integers(1, 40, length) for length in LENGTHS]
    with torch.inference_mode():
        outputs = {str(i): model(torch.from_numpy(x[None])).last_hidden_state[0].numpy() for i, x in enumerate(ids)}
    return values, tensors, {str(i): x for i, x in enumerate(ids)}, outputs


def main():
    import transformers

    from tests.data.record_generative import save

    warnings.filterwarnings("ignore")
    transformers.utils.logging.disable_progress_bar()
    FOLDER.mkdir(exist_ok=True)
    for case in sys.argv[1:] or CASES:
        save(FOLDER / f"{case}.safetensors", *make(case, seed=0))
        print(case)


if __name__ == "__main__":
    main()
