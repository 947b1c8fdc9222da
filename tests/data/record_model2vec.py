"""Records what is made of directories that model2vec writes, for tests/tasks/test_model2vec.py.

Run with torch, sentence-transformers and model2vec installed: python -m tests.data.record_model2vec

model2vec.json has the files; model2vec.safetensors their tensors, by case and name, and vectors of TEXTS: of
sentence-transformers, which reads all of these directories but that of int8 without weights, and of model2vec itself,
which leaves unknown tokens out.
"""

import json
import logging
import tempfile
import warnings
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

FOLDER = Path(__file__).parent
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "dog", "sat", "ran", "on", "a", "mat", "##s", "!"]
TEXTS = ["the cat sat on a mat", "", "The dogs ran!", "the dog ran " * 5, "zebra the dog", "zebra"]
KNOWN = 4  # texts without unknown words, the first ones


def models():
    """Arguments of model2vec's StaticModel, case by case."""
    rng = np.random.default_rng(0)
    table = rng.standard_normal((len(WORDS), 8)).astype(np.float32)
    folded = {"token_mapping": rng.integers(0, 5, len(WORDS)), "weights": rng.uniform(0.5, 2, len(WORDS))}
    single = {**folded, "weights": folded["weights"].astype(np.float32)}
    integers = (table * 40).clip(-127, 127).astype(np.int8)
    return {
        "plain": {"vectors": table, "normalize": True},
        "raw": {"vectors": table, "normalize": False},
        "half": {"vectors": table.astype(np.float16), "normalize": True},
        "int8": {"vectors": integers, "normalize": True},
        "folded": {"vectors": table[:5], "normalize": True, **single},
        "folded double": {"vectors": table[:5].astype(np.float64), "normalize": False, **folded},
        "folded int8": {"vectors": integers[:5], "normalize": False, **single},
        "short": {"vectors": table, "normalize": True, "max_length": 7},
        "endless": {"vectors": table, "normalize": True, "max_length": None},
    }


def main():
    from model2vec import StaticModel
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer, normalizers, pre_tokenizers
    from tokenizers import models as kinds

    warnings.filterwarnings("ignore")
    logging.disable()
    tokenizer = Tokenizer(kinds.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    told = {"model_type": "model2vec", "architectures": ["StaticModel"], "tokenizer_name": "tiny", "apply_pca": 8}
    told |= {"hidden_dim": 8, "seq_length": 1000000, "sif_coefficient": 1e-4}
    files, tensors = {}, {}
    for case, given in models().items():
        model = StaticModel(tokenizer=tokenizer, config=told, **given)
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            paths = sorted(x for x in Path(folder).iterdir() if x.suffix == ".json")
            files[case] = {x.name: json.loads(x.read_text()) for x in paths}
            stored = load_file(Path(folder) / "model.safetensors")
            files[case]["model.safetensors"] = {name: f"{case}/{name}" for name in stored}
            tensors |= {f"{case}/{name}": x for name, x in stored.items()}
            tensors[f"model2vec/{case}"] = model.encode(TEXTS)
            if case != "int8":
                tensors[f"answer/{case}"] = SentenceTransformer(folder, device="cpu").float().encode(TEXTS)
        print(case)
    (FOLDER / "model2vec.json").write_text(json.dumps({"texts": TEXTS, "files": files}, separators=(",", ":")) + "\n")
    save_file(tensors, FOLDER / "model2vec.safetensors")


if __name__ == "__main__":
    main()
