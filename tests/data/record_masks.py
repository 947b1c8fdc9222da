"""Records what transformers' encoders of texts make of attention masks, for tests/models/test_masks.py.

The models are those that record_families.py recorded. Run with torch and transformers installed:
python -m tests.data.record_masks
"""

import tempfile
import warnings
from pathlib import Path

import numpy as np

from tests.data.record_families import CASES as FAMILIES
from tests.data.record_families import classes_of

FILE = Path(__file__).parent / "masks.safetensors"
ENCODERS = ["bert", "roberta", "xlm-roberta", "camembert", "distilbert", "mpnet", "albert-groups", "electra"]
ENCODERS += ["modernbert", "nomic", "gte", "new", "jina"]
CASES = ENCODERS + [case for case in FAMILIES if case.endswith("sequence-classification")]
# Where tokens are: everywhere, padding behind, in front, between tokens, around them and where the first one should be
ROWS = ["11111111111111", "11111110000000", "00000111111111", "11100111110011", "00011010011100", "01111111111111"]
MASK = np.array([[int(x) for x in row] for row in ROWS])


def inputs(padding):
    """Ids without that of padding, and with it: at masked places, and at some that are not."""
    ids = np.random.default_rng(0).integers(4, 40, MASK.shape)
    padded = np.where(MASK, ids, padding)
    padded[0, 4:6] = padded[1, 2] = padded[3, 5] = padding
    return {"plain": ids, "padded": padded}


def padding_of(config):
    return config["pad_token_id"]


def main():
    import torch
    from safetensors.numpy import save_file

    from tests.support.recorded import recorded, write

    warnings.filterwarnings("ignore")
    stored = {}
    for case in CASES:
        config, tensors, _, _ = recorded(case)
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), config, tensors)
            model = classes_of(case)[1].from_pretrained(folder, attn_implementation="eager").eval()
        for kind, ids in inputs(padding_of(config)).items():
            with torch.inference_mode():
                result = model(torch.from_numpy(ids), attention_mask=torch.from_numpy(MASK))
            hidden = result.logits if FAMILIES[case][0] else result.last_hidden_state[torch.from_numpy(MASK == 1)]
            stored[f"{case}.{kind}"] = np.ascontiguousarray(hidden.numpy())
        print(case)
    save_file(stored, FILE)


if __name__ == "__main__":
    main()
