"""A BERT encoder as a graph of ONNX Runtime's own fused operators: what its transformer optimizer arrives at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bench.runtimes import onnx_model, onnx_session, quantized


def bert_session(
    config: Mapping[str, Any],
    weights: Mapping[str, np.ndarray],
    threads: int,
    precision: str = "float32",
    with_types: bool = False,
) -> Any:
    """A session from "ids" and "mask", int32 (batch, length), to "output", float32 (batch, length, hidden).

    With types, those of tokens are a third input, "types"; else all tokens are of the first segment.

    ``config`` and ``weights`` are config.json and model.safetensors of a TextEncoder with the erf GELU.
    Precision "int8" is ONNX Runtime's own dynamic quantization of the graph.
    """
    from onnx import helper

    constants: dict[str, np.ndarray] = {}
    nodes: list[Any] = []

    def add(op: str, inputs: list[str], output: str, *, domain: str = "com.microsoft", **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [output], domain=domain, **attributes))
        return output

    def constant(name: str, array: np.ndarray) -> str:
        constants[name] = np.ascontiguousarray(array)
        return name

    def weight(name: str) -> str:
        return constant(name, weights[name])

    def transposed(name: str) -> str:
        return constant(name, weights[name].T)

    def norm(name: str) -> list[str]:
        return [weight(f"{name}.LayerNorm.weight"), weight(f"{name}.LayerNorm.bias")]

    epsilon = {"epsilon": config["layer_norm_eps"]}
    words = weight("embeddings.word_embeddings.weight")
    segments, places = (weights[f"embeddings.{x}_embeddings.weight"] for x in ("token_type", "position"))
    if with_types:
        given = ["ids", "types", words, constant("positions", places), constant("segments", segments)]
    else:
        given = ["ids", "", words, constant("positions", places + segments[0]), ""]
    embedded = [*given, *norm("embeddings")]
    hidden = add("EmbedLayerNormalization", embedded, "embedded", **epsilon)
    nodes[-1].output.append("unused_mask_index")

    for index in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{index}"
        heads = [f"{layer}.attention.self.{part}" for part in ("query", "key", "value")]
        joined = [
            constant(f"{layer}.qkv.weight", np.concatenate([weights[f"{head}.weight"] for head in heads]).T),
            constant(f"{layer}.qkv.bias", np.concatenate([weights[f"{head}.bias"] for head in heads])),
        ]
        x = add("Attention", [hidden, *joined, "mask"], f"{layer}.mixed", num_heads=config["num_attention_heads"])
        out = f"{layer}.attention.output"
        x = add("MatMul", [x, transposed(f"{out}.dense.weight")], f"{layer}.projected", domain="")
        skip = [x, hidden, *norm(out), weight(f"{out}.dense.bias")]
        hidden = add("SkipLayerNormalization", skip, f"{layer}.attended", **epsilon)

        up, down = f"{layer}.intermediate", f"{layer}.output"
        x = add("MatMul", [hidden, transposed(f"{up}.dense.weight")], f"{layer}.widened", domain="")
        x = add("BiasGelu", [x, weight(f"{up}.dense.bias")], f"{layer}.activated")
        x = add("MatMul", [x, transposed(f"{down}.dense.weight")], f"{layer}.narrowed", domain="")
        skip = [x, hidden, *norm(down), weight(f"{down}.dense.bias")]
        hidden = add("SkipLayerNormalization", skip, f"{layer}.hidden", **epsilon)
    nodes[-1].output[0] = "output"

    tokens = np.int32, ["batch", "length"]
    output = np.float32, ["batch", "length", config["hidden_size"]]
    inputs = {"ids": tokens, "mask": tokens} | ({"types": tokens} if with_types else {})
    model = onnx_model(nodes, inputs, {"output": output}, constants)
    return onnx_session(quantized(model) if precision == "int8" else model, threads)
