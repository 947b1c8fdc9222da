"""Records what sentence-transformers' SparseEncoder makes of directories, for tests/tasks/test_sparse_encoder.py.

Run with torch, transformers and sentence-transformers installed: python -m tests.data.record_sparse

sparse.json has the files of small directories and the vectors of TEXTS, as [word, weight] pairs; sparse.safetensors has
the weights, in float16.
"""

import json
import shutil
import tempfile
import warnings
from pathlib import Path

from safetensors.numpy import load_file, save_file

FOLDER = Path(__file__).parent
WORDS = ["the", "cat", "dog", "sat", "ran", "on", "a", "mat", "root", "find", "?", "!"]
BRACKETS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXTS = ["the cat sat on a mat", "", "find the root ?", "dog", "the dog ran " * 12, "zzz THE  cat !"]
FEW = 3  # active dimensions
ACTIVATION = {"log1p": "log1p_relu"}


def half(model):
    """Random parameters that float16 holds, so that files are small."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            centre = float(parameter.ndim == 1 and parameter.numel() > 0 and parameter.mean() == 1)  # of norms
            parameter.copy_((centre + torch.randn_like(parameter) * 0.4).half())


def make(top):
    """Directories as sentence-transformers writes them, name -> folder."""
    import torch
    import transformers
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    torch.manual_seed(0)
    words = {word: i for i, word in enumerate([*BRACKETS, *WORDS])}
    sizes = {"vocab_size": len(words), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 20, "max_position_embeddings": 32, "pad_token_id": 0}
    configs = {
        "bert": transformers.BertConfig(**sizes),
        "distilbert": transformers.DistilBertConfig(
            vocab_size=len(words), dim=16, n_layers=1, n_heads=2, hidden_dim=20, max_position_embeddings=32
        ),
    }
    found = {}
    for name, config in configs.items():
        model = transformers.AutoModelForMaskedLM.from_config(config)
        half(model)
        found[name] = top / name
        model.save_pretrained(found[name])
        transformers.BertTokenizer(vocab=words, model_max_length=24).save_pretrained(found[name])
    for name, strategy, activation in (("max", "max", "relu"), ("sum", "sum", "relu"), ("log1p", "max", "log1p_relu")):
        modules = [
            Transformer(str(found["bert"]), transformer_task="fill-mask", max_seq_length=20),
            SpladePooling(strategy, activation_function=activation),
        ]
        prompts = {"query": "find ", "web": "the "} if name == "max" else None
        most = 5 if name == "log1p" else None
        encoder = SparseEncoder(modules=modules, prompts=prompts, max_active_dims=most)
        encoder.similarity_fn_name = "cosine" if name == "sum" else "dot"
        found[name] = top / name
        encoder.save_pretrained(str(found[name]), create_model_card=False)
    return found


def pairs(vectors):
    return [[[i, round(float(x), 7)] for i, x in enumerate(row) if x] for row in vectors.to_dense().numpy()]


def answers(folder):
    from sentence_transformers import SparseEncoder

    encoder = SparseEncoder(str(folder))
    vectors = encoder.encode(TEXTS)
    given = {
        "vectors": vectors,
        "query": encoder.encode_query(TEXTS),
        "document": encoder.encode_document(TEXTS),
        "few": encoder.encode(TEXTS, max_active_dims=FEW),
    }
    if "web" in encoder.prompts:
        given["web"] = encoder.encode(TEXTS, prompt_name="web")
    scores = encoder.similarity(vectors, vectors).numpy().round(6).tolist()
    return {name: pairs(x) for name, x in given.items()} | {"similarity": scores}


def main():
    warnings.filterwarnings("ignore")
    top = Path(tempfile.mkdtemp())
    cases, tensors = {}, {}
    for name, folder in make(top).items():
        files = {str(file.relative_to(folder)): json.loads(file.read_text()) for file in sorted(folder.rglob("*.json"))}
        if name in ("bert", "distilbert"):
            stored = load_file(folder / "model.safetensors")
            tensors |= {f"{name}/{key}": x.astype("float16") for key, x in stored.items()}
        weights = name if name == "distilbert" else "bert"
        cases[name] = {"weights": weights, "files": files, "answers": answers(folder)}
    record = {"texts": TEXTS, "few": FEW, "cases": cases}
    (FOLDER / "sparse.json").write_text(json.dumps(record, separators=(",", ":")) + "\n")
    save_file(tensors, FOLDER / "sparse.safetensors")
    shutil.rmtree(top)


if __name__ == "__main__":
    main()
