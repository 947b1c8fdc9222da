"""A BERT small enough to write in a test, as a model directory, and a plain NumPy version of what it computes."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = ["the", "cat", "dog", "sat", "ran", "on", "a", "mat", "root", "find", "of", "function", "solve", "equation"]
VOCABULARY = {token: number for number, token in enumerate([*SPECIAL, *WORDS, *"bcdefghijklmnopqrstuvwxyz.,"])}

CONFIG = {
    "model_type": "bert",
    "vocab_size": 48,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 16,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
}

Tensors = dict[str, NDArray[np.float32]]


def random_tensors(config: dict = CONFIG, seed: int = 0) -> Tensors:
    """Tensors under Hugging Face's names, large enough that every one of them matters to the result."""
    rng = np.random.default_rng(seed)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    shapes = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], hidden),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], hidden),
        "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], hidden),
    }
    norms = ["embeddings.LayerNorm"]
    for layer in range(config["num_hidden_layers"]):
        name = f"encoder.layer.{layer}"
        denses = {f"attention.self.{part}": (hidden, hidden) for part in ("query", "key", "value")}
        denses |= {"attention.output.dense": (hidden, hidden)}
        denses |= {"intermediate.dense": (inner, hidden), "output.dense": (hidden, inner)}
        for part, shape in denses.items():
            shapes |= {f"{name}.{part}.weight": shape, f"{name}.{part}.bias": shape[:1]}
        norms += [f"{name}.attention.output.LayerNorm", f"{name}.output.LayerNorm"]
    tensors = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    for norm in norms:
        tensors[f"{norm}.weight"] = rng.uniform(0.5, 1.5, hidden).astype(np.float32)
        tensors[f"{norm}.bias"] = rng.normal(0, 0.3, hidden).astype(np.float32)
    return tensors


def reference_bert(config: dict, tensors: Tensors, token_ids: NDArray, token_type_ids: NDArray) -> NDArray[np.float64]:
    """The last hidden state of one sequence, in float64: (length, hidden)."""
    weights = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    heads = config["num_attention_heads"]
    erf = np.vectorize(math.erf, otypes=[np.float64])

    def dense(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + config["layer_norm_eps"])
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def per_head(x):
        return x.reshape(len(x), heads, -1).swapaxes(0, 1)

    x = weights["embeddings.word_embeddings.weight"][token_ids]
    x = x + weights["embeddings.position_embeddings.weight"][: len(token_ids)]
    x = x + weights["embeddings.token_type_embeddings.weight"][token_type_ids]
    x = norm(x, "embeddings.LayerNorm")
    for layer in range(config["num_hidden_layers"]):
        name = f"encoder.layer.{layer}"
        query, key, value = (per_head(dense(x, f"{name}.attention.self.{part}")) for part in ("query", "key", "value"))
        scores = np.exp(query @ key.swapaxes(1, 2) / math.sqrt(query.shape[-1]))
        attended = (scores / scores.sum(-1, keepdims=True) @ value).swapaxes(0, 1).reshape(x.shape)
        x = norm(x + dense(attended, f"{name}.attention.output.dense"), f"{name}.attention.output.LayerNorm")
        inner = dense(x, f"{name}.intermediate.dense")
        inner = inner * (1 + erf(inner / math.sqrt(2))) / 2
        x = norm(x + dense(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm")
    return x


def write_json(file: Path, value: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value))


def write_model(
    directory: Path,
    *,
    config: dict = CONFIG,
    tensors: Tensors | None = None,
    pooling: str = "mean_tokens",
    max_seq_length: int | None = 12,
    seed: int = 0,
) -> Path:
    """A whole sentence-transformers directory; its tokenizer knows the words and single letters of VOCABULARY."""
    for name in ("safetensors", "tokenizers"):  # free-threaded Pythons may lack them
        pytest.importorskip(name)
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import Lowercase
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing

    write_json(directory / "config.json", config)
    save_file(random_tensors(config, seed) if tensors is None else tensors, directory / "model.safetensors")

    tokenizer = Tokenizer(WordPiece(VOCABULARY, unk_token="[UNK]"))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(token, VOCABULARY[token]) for token in ("[CLS]", "[SEP]")]
    )
    # As published tokenizers often do, and as must be overridden.
    tokenizer.enable_padding(length=14)
    tokenizer.enable_truncation(4)
    tokenizer.save(str(directory / "tokenizer.json"))

    prefix = "sentence_transformers.models."
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": prefix + kind} for i, (path, kind) in enumerate(kinds.items())
    ]
    write_json(directory / "modules.json", modules)
    modes = {f"pooling_mode_{mode}": mode == pooling for mode in ("cls_token", "mean_tokens", "max_tokens")}
    modes |= {f"pooling_mode_{pooling}": True}
    write_json(directory / "1_Pooling" / "config.json", {"word_embedding_dimension": config["hidden_size"], **modes})
    if max_seq_length is not None:
        write_json(directory / "sentence_bert_config.json", {"max_seq_length": max_seq_length, "do_lower_case": False})
    return directory
