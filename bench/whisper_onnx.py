"""Whisper as two graphs of the ONNX Runtime operators that are fastest on CPUs, and a greedy decoder around them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import runtimes
from bench.runtimes import Kind, onnx_model, onnx_session

Config = Mapping[str, Any]
Tensors = Mapping[str, np.ndarray]
EPSILON = {"epsilon": 1e-5}


class _Graph:
    """Nodes and constants as they come; methods return the name of an output."""

    def __init__(self, tensors: Tensors) -> None:
        self.tensors = tensors
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}

    def add(self, op: str, inputs: Sequence[str], *outputs: str, fused: bool = False, **attributes: Any) -> str:
        """A node of ONNX, or if fused of com.microsoft."""
        from onnx import helper

        outputs = outputs or (f"{op}_{len(self.nodes)}",)
        domain = "com.microsoft" if fused else ""
        self.nodes.append(helper.make_node(op, inputs, outputs, domain=domain, **attributes))
        return outputs[0]

    def constant(self, name: str, array: Any) -> str:
        self.constants[name] = np.ascontiguousarray(array)
        return name

    def weight(self, name: str) -> str:
        return self.constant(name, self.tensors[name])

    def both(self, name: str) -> list[str]:
        return [self.weight(f"{name}.weight"), self.weight(f"{name}.bias")]

    def product(self, x: str, *names: str, scale: float = 1.0) -> str:
        """Linear layers side by side, without their biases."""
        weight = np.concatenate([self.tensors[f"{name}.weight"] for name in names]).T * np.float32(scale)
        return self.add("MatMul", [x, self.constant(f"{names[0]}.product", weight)])

    def bias(self, *names: str, scale: float = 1.0) -> str:
        """The biases of linear layers side by side; those of keys have none."""
        parts = [self.tensors.get(f"{x}.bias", np.zeros(len(self.tensors[f"{x}.weight"]), np.float32)) for x in names]
        return self.constant(f"{names[0]}.biases", np.concatenate(parts) * np.float32(scale))

    def linear(self, x: str, *names: str, scale: float = 1.0) -> str:
        return self.add("Add", [self.product(x, *names, scale=scale), self.bias(*names, scale=scale)])

    def widened(self, x: str, layer: str) -> str:
        return self.add("BiasGelu", [self.product(x, f"{layer}.fc1"), self.bias(f"{layer}.fc1")], fused=True)

    def heads(self, x: str, count: int, *outputs: str) -> str:
        """(1, n, count * size) to (1, count, n, size)."""
        x = self.add("Reshape", [x, self.constant(f"{count} heads", np.array([1, 0, count, -1]))])
        return self.add("Transpose", [x], *outputs, perm=[0, 2, 1, 3])


def _layers(root: str, count: int) -> Iterator[tuple[int, str, str]]:
    """Each layer's index and name, and the name of the norm that comes after it."""
    for i in range(count):
        after = "layer_norm" if i + 1 == count else f"layers.{i + 1}.self_attn_layer_norm"
        yield i, f"{root}.layers.{i}", f"{root}.{after}"


def _cross(config: Config) -> dict[str, Kind]:
    """What each layer of the decoder sees of the sound; with keys transposed one query's MatMul repacks nothing."""
    heads, frames, layers = (config[x] for x in ("decoder_attention_heads", "max_source_positions", "decoder_layers"))
    size = config["d_model"] // heads
    kinds = {f"cross_key_{i}": (np.float32, [1, heads, size, frames]) for i in range(layers)}
    return kinds | {f"cross_value_{i}": (np.float32, [1, heads, frames, size]) for i in range(layers)}


def _past(config: Config, name: str) -> dict[str, Kind]:
    """Keys and values of the text, with room for the longest."""
    heads, room = config["decoder_attention_heads"], config["max_target_positions"]
    kind = np.float32, [1, heads, room, config["d_model"] // heads]
    return {f"{name}_{part}_{i}": kind for part in ("key", "value") for i in range(config["decoder_layers"])}


def encoder_model(tensors: Tensors, config: Config) -> Any:
    """From "mel", (1, bins, frames), to what the decoder's layers see of it.

    SkipLayerNormalization is the slower here; ONNX Runtime itself makes Gemm of each MatMul with its bias.
    """
    graph, root = _Graph(tensors), "model.encoder"
    x = "mel"
    for conv, stride in (("conv1", 1), ("conv2", 2)):
        x = graph.add("Conv", [x, *graph.both(f"{root}.{conv}")], pads=[1, 1], strides=[stride])
        x = graph.add("Gelu", [x], fused=True)
    x = graph.add("Transpose", [x], perm=[0, 2, 1])
    total = graph.add("Add", [x, graph.weight(f"{root}.embed_positions.weight")])
    x = graph.add("LayerNormalization", [total, *graph.both(f"{root}.layers.0.self_attn_layer_norm")], **EPSILON)
    for _, layer, after in _layers(root, config["encoder_layers"]):
        parts = [f"{layer}.self_attn.{part}_proj" for part in "qkv"]
        mixed = [*(graph.product(x, part) for part in parts), graph.bias(*parts)]
        x = graph.add("MultiHeadAttention", mixed, fused=True, num_heads=config["encoder_attention_heads"])
        total = graph.add("Add", [graph.linear(x, f"{layer}.self_attn.out_proj"), total])
        x = graph.add("LayerNormalization", [total, *graph.both(f"{layer}.final_layer_norm")], **EPSILON)
        total = graph.add("Add", [graph.linear(graph.widened(x, layer), f"{layer}.fc2"), total])
        x = graph.add("LayerNormalization", [total, *graph.both(after)], **EPSILON)
    outputs, heads = _cross(config), config["decoder_attention_heads"]
    across = graph.add("Transpose", [x], perm=[0, 2, 1])
    for i, layer, _ in _layers("model.decoder", config["decoder_layers"]):
        key = graph.add("MatMul", [graph.weight(f"{layer}.encoder_attn.k_proj.weight"), across])
        shape = graph.constant("keys", np.array(outputs[f"cross_key_{i}"][1]))
        graph.add("Reshape", [key, shape], f"cross_key_{i}")
        graph.heads(graph.linear(x, f"{layer}.encoder_attn.v_proj"), heads, f"cross_value_{i}")
    inputs = {"mel": (np.float32, [1, config["num_mel_bins"], 2 * config["max_source_positions"]])}
    return onnx_model(graph.nodes, inputs, outputs, graph.constants)


def decoder_model(tensors: Tensors, config: Config) -> Any:
    """From "tokens" at "positions" to the "logits" after the last; "last" is its position, "length" one more.

    Where past and present are the same memory new keys and values are written into it, and nothing is copied.
    """
    graph, root, heads = _Graph(tensors), "model.decoder", config["decoder_attention_heads"]
    scale = (config["d_model"] // heads) ** -0.5

    def skip(x: str, residual: str, layer: str, norm: str) -> tuple[str, str]:
        """The norm of a linear layer of x with the residual, and their sum."""
        inputs, total = [graph.product(x, layer), residual, *graph.both(norm), graph.bias(layer)], f"{layer}.sum"
        return graph.add("SkipLayerNormalization", inputs, norm, "", "", total, fused=True, **EPSILON), total

    words, places = (graph.weight(f"{root}.embed_{x}.weight") for x in ("tokens", "positions"))
    embedded = ["tokens", "", words, places, "", *graph.both(f"{root}.layers.0.self_attn_layer_norm"), "", "positions"]
    outputs = ["normed", "unused_mask_index", total := "embedded"]
    x = graph.add("EmbedLayerNormalization", embedded, *outputs, fused=True, **EPSILON)
    for i, layer, after in _layers(root, config["decoder_layers"]):
        joined = graph.linear(x, *(f"{layer}.self_attn.{part}_proj" for part in "qkv"))
        inputs = [joined, "", "", f"past_key_{i}", f"past_value_{i}", "last", "length"]
        outputs = [f"{layer}.mixed", f"present_key_{i}", f"present_value_{i}"]
        x = graph.add("GroupQueryAttention", inputs, *outputs, fused=True, num_heads=heads, kv_num_heads=heads)
        x, total = skip(x, total, f"{layer}.self_attn.out_proj", f"{layer}.encoder_attn_layer_norm")
        x = graph.heads(graph.linear(x, f"{layer}.encoder_attn.q_proj", scale=scale), heads)
        x = graph.add("Softmax", [graph.add("MatMul", [x, f"cross_key_{i}"])])
        x = graph.add("Transpose", [graph.add("MatMul", [x, f"cross_value_{i}"])], perm=[0, 2, 1, 3])
        x = graph.add("Reshape", [x, graph.constant("joined", np.array([1, -1, config["d_model"]]))])
        x, total = skip(x, total, f"{layer}.encoder_attn.out_proj", f"{layer}.final_layer_norm")
        x, total = skip(graph.widened(x, layer), total, f"{layer}.fc2", after)
    x = graph.add("Gather", [x, graph.constant("at the end", np.array([-1]))], axis=1)
    graph.add("MatMul", [x, graph.constant("head", tensors[f"{root}.embed_tokens.weight"].T)], "logits")
    kinds = {name: (np.int32, [1, "n"]) for name in ("tokens", "positions")}
    kinds |= {name: (np.int32, [1]) for name in ("last", "length")} | _cross(config) | _past(config, "past")
    logits = {"logits": (np.float32, [1, 1, config["vocab_size"]])}
    return onnx_model(graph.nodes, kinds, logits | _past(config, "present"), graph.constants)


class Whisper:
    """A model directory's encoder and decoder, and the memory between them, which is bound once."""

    def __init__(self, model: Path, threads: int) -> None:
        from safetensors.numpy import load_file

        config = json.loads((model / "config.json").read_text())
        tensors = {name: x.astype(np.float32) for name, x in load_file(model / "model.safetensors").items()}
        runtimes.spinning = True  # between its two sessions
        self._encoder = onnx_session(encoder_model(tensors, config), threads)
        self._decoder = onnx_session(decoder_model(tensors, config), threads)
        self._encoding, self._step = self._encoder.io_binding(), self._decoder.io_binding()
        kinds = {"logits": (np.float32, (1, 1, config["vocab_size"]))} | _cross(config) | _past(config, "past")
        self._arrays = {name: np.zeros(shape, dtype) for name, (dtype, shape) in kinds.items()}
        for name, array in self._arrays.items():
            if name != "logits":
                _bind(self._step.bind_input, name, array)
            if name.startswith("cross"):
                _bind(self._encoding.bind_output, name, array)
            else:
                _bind(self._step.bind_output, name.replace("past", "present"), array)

    def encode(self, features: np.ndarray) -> None:
        """Looks at a window, float32 (1, bins, frames)."""
        _bind(self._encoding.bind_input, "mel", features)
        self._encoder.run_with_iobinding(self._encoding)

    def logits(self, tokens: Sequence[int], start: int) -> np.ndarray:
        """Of what comes after ``tokens``, which begin at position ``start``; the next call overwrites them."""
        end = start + len(tokens)
        given = {"tokens": [tokens], "positions": [range(start, end)], "last": [end - 1], "length": [end]}
        arrays = {name: np.array(x, np.int32) for name, x in given.items()}
        for name, array in arrays.items():
            _bind(self._step.bind_input, name, array)
        self._decoder.run_with_iobinding(self._step)
        return self._arrays["logits"][0, 0]

    def generate(
        self,
        features: np.ndarray,
        prompt: Sequence[int],
        suppressed: Sequence[int],
        begin_suppressed: Sequence[int],
        eos: int,
        max_length: int,
    ) -> list[int]:
        """The likeliest token again and again, until ``eos`` or so many with the prompt, which is left out."""
        self.encode(features)
        tokens, start = list(prompt), 0
        while len(tokens) < max_length:
            logits = self.logits(tokens[start:], start)
            logits[suppressed] = -np.inf
            if not start:
                logits[begin_suppressed] = -np.inf
            start = len(tokens)
            if (token := int(logits.argmax())) == eos:
                break
            tokens.append(token)
        return tokens[len(prompt) :]


def _bind(bind: Any, name: str, array: np.ndarray) -> None:
    """``array``'s own memory, which must outlive the runs, to an input or an output."""
    bind(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
