"""Records what transformers makes of sequences beyond max_position_embeddings, for tests/models/test_long.py.

The models are those that the other scripts recorded. Run with torch, transformers and sentence-transformers installed:
python -m tests.data.record_long
"""

import json
import tempfile
import warnings
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent
FILE = FOLDER / "long.json"
ENCODERS = ["modernbert", "nomic"]
DECODERS = ["llama", "llama-linear", "llama-yarn", "llama-llama3", "mistral", "qwen2-windows"]
LENGTH = 100  # the models have 32 or 40 positions
NEW_TOKENS = 40
TEXT = "the dog ran on a mat " * 12
MAX_SEQ_LENGTH = 50


def tokens():
    return np.random.default_rng(0).integers(4, 39, (1, LENGTH))


def sampled(x):
    """16 numbers of (LENGTH, n), all from rows beyond the positions."""
    far = np.asarray(x)[45:].reshape(-1)
    return far[np.linspace(0, far.size - 1, 16).astype(int)]


def write_sentence(folder):
    """A Llama of 32 positions whose directory says that texts are cut to more tokens."""
    from tests.support.sentence_cases import CASES, write_case

    write_case(folder, CASES["prompt llama weightedmean"])
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": MAX_SEQ_LENGTH}))
    return folder


def main():
    import torch
    import transformers
    from sentence_transformers import SentenceTransformer

    from tests.data.record_generative import FOLDER as GENERATIVE
    from tests.support.recorded import recorded, write

    warnings.filterwarnings("ignore")
    found = {}
    ids = torch.from_numpy(tokens())
    with tempfile.TemporaryDirectory() as top, torch.inference_mode():
        for case in ENCODERS + DECODERS:
            folder = Path(top) / case
            config, tensors, _, _ = recorded(case, *([GENERATIVE] if case in DECODERS else []))
            kind = transformers.AutoModelForCausalLM if case in DECODERS else transformers.AutoModel
            write(folder, config, tensors)
            model = kind.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
            result = model(ids)
            numbers = sampled((result.logits if case in DECODERS else result.last_hidden_state)[0])
            found[case] = {"numbers": [float(x) for x in numbers]}
            if case in DECODERS:
                written = model.generate(
                    ids[:, :10], attention_mask=torch.ones_like(ids[:, :10]), do_sample=False, max_new_tokens=NEW_TOKENS
                )
                found[case]["greedy"] = written[0, 10:].tolist()
        model = SentenceTransformer(str(write_sentence(Path(top) / "sentence")), device="cpu", local_files_only=True)
        assert model.max_seq_length == MAX_SEQ_LENGTH
        found["sentence"] = {"numbers": [float(x) for x in model.encode([TEXT])[0]]}
    lines = [f"{json.dumps(case)}: {json.dumps(values)}" for case, values in found.items()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
