"""Heads: logits from the hidden states of an encoder of texts."""

import os
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyattn import _checks
from pyattn._checks import Array
from pyattn.layers import Layer, LayerNorm, Linear
from pyattn.models.encoders import TextEncoder
from pyattn.models.family import ACTIVATIONS, Head
from pyattn.models.naming import Tensors, listed, select, stand_ins
from pyattn.models.pretrained import EncoderConfig, WeightDtypes, write_directory
from pyattn.models.tensors import read
from pyattn.precision import values_of


class TaskModel(Layer):
    """An encoder of texts with a head: of a class for each sequence or token, of masked words, of an answer's place.

    The head's weights are float32, whatever the encoder's: logits keep their digits.

    Attributes:
        encoder: the `TextEncoder`.
        task: "sequence-classification", "token-classification", "masked-lm" or "question-answering".
        unused_tensors: as `Pretrained` has it.
        labels: what the columns of logits of the first two stand for, as config.json names them; else empty.
    """

    def __init__(
        self,
        config: EncoderConfig,
        tensors: Tensors,
        task: str,
        source: str = "tensors",
        dtype: WeightDtypes = "float32",
        strict: bool = True,
    ) -> None:
        heads = config.family.heads
        if not heads:
            raise ValueError(f"load: a {config.model_type} model has no head for a task; pyattn.models.load reads it")
        head = heads[_checks.choice("load", f"the task of a {config.model_type} model", task, heads)]
        self.task, self.config, self._head = task, config, head
        settings = f"config.json beside {source}"
        named = _names(config, head, settings)
        selection = select(config, tensors, source, strict, named)
        present = selection.tensors
        needed = {name for module in head.modules.values() for name in named[module]}
        of_head = {*needed, head.out_bias} - {*stand_ins(config, present).values()}
        of_encoder = {name: tensor for name, tensor in present.items() if name not in of_head}
        self.encoder = TextEncoder(config, replace(selection, tensors=of_encoder), source, dtype, strict)
        self.unused_tensors = self.encoder.unused_tensors
        own = {name: values_of(read(present[name])) for name in {*needed, head.out_bias} & present.keys()}
        if task == "masked-lm" and config.tie_word_embeddings:
            own.setdefault(f"{head.out}.weight", self.encoder.embeddings._parameters["words"])
        if head.out_bias in own:  # transformers 4 wrote no other, whatever was tied
            own.setdefault(f"{head.out}.bias", own[head.out_bias])
        if missing := needed - own.keys():
            raise ValueError(f"load: {source}: missing tensors of the head for {task}: {listed(missing)}")
        width = config.hidden_size
        self.dense: Linear | None = None
        if head.dense:
            activation = config.hidden_act if head.activation is None else head.activation
            if key := head.activation_key:
                said = _checks.choice("load", f"{settings}: {key}", config.values.get(key), ACTIVATIONS)
                activation = ACTIVATIONS[said]
            self.dense = _linear(own, head.dense, width, source, None if activation == "tanh" else activation)
            width = self.dense.out_features
        self.norm: LayerNorm | None = None
        if head.norm:
            self.norm = LayerNorm(width, config.layer_norm_eps, f"{head.norm}.bias" in own)
            _load(self.norm, own, head.norm, source)
        rows = {"masked-lm": config.vocab_size, "question-answering": 2}.get(task)
        self.out = _linear(own, head.out, width, source, rows=rows)
        self.labels: tuple[str, ...] = ()
        if task.endswith("classification"):
            labels = config.source.get("id2label")
            labels = labels if isinstance(labels, Mapping) else {}
            self.labels = tuple(str(labels.get(str(i), f"LABEL_{i}")) for i in range(self.out.out_features))

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Writes config.json and model.safetensors, which `pyattn.models.load_task` reads; see TextEncoder's.

        Raises:
            OSError: a file cannot be written.
        """
        prefix = self.config.family.prefix
        tensors = {prefix + name: tensor for name, tensor in self.encoder._stored().items()}
        for part, module in self._head.modules.items():
            name = prefix + module if module.startswith("pooler") else module
            tensors.update({f"{name}.{x}": value for x, value in getattr(self, part)._held().items()})
        write_directory(directory, self.config, tensors)

    def __call__(
        self,
        token_ids: ArrayLike,
        cu_seqlens: ArrayLike | None = None,
        token_type_ids: ArrayLike | None = None,
        *,
        attention_mask: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
    ) -> NDArray[np.float32]:
        """Logits.

        Args:
            token_ids, cu_seqlens, token_type_ids, attention_mask, lengths: as TextEncoder's.

        Returns:
            float32: (n, labels) of sequences; else of tokens, (total, C) or, of padded token_ids, (n, L, C) with 0 for
            padding, C being the labels, the vocabulary, or 2: how likely the answer starts and ends there.

        Raises:
            TypeError, ValueError: as TextEncoder; a sequence that is to be classified has no tokens.

        A sequence is classified by what its first place has, as in transformers, be that padding; unless config.json
        says "mean", that of its tokens.
        """
        name = "TaskModel"
        padding = {"attention_mask": attention_mask, "lengths": lengths}
        pooling = self.config.spec.pooling if self._head.of_sequence else ""
        x, starts, live = self.encoder._forward(name, token_ids, cu_seqlens, token_type_ids, pooling, **padding)
        if self._head.of_sequence:
            x, live = self._pooled(x, starts), None
        if self.dense is not None:
            x = self.dense._apply(x)
            x = np.tanh(x, out=x) if self._head.activation == "tanh" else x
        if self.norm is not None:
            x = self.norm._apply(x, out=x)
        return self.encoder._unpacked(self.out._apply(x), live)

    def _pooled(self, x: Array, starts: Array) -> Array:
        if self.config.spec.pooling == "mean" and len(starts) > 1:
            mean: Array = np.add.reduceat(x, starts[:-1]) / np.diff(starts)[:, None].astype(np.float32)
            return mean
        return np.ascontiguousarray(x[starts[:-1]])


def _names(config: EncoderConfig, head: Head, source: str) -> dict[str, list[str]]:
    """The modules of a head, and the names of their tensors; of a bias of its own too."""
    named = {}
    for part, module in head.modules.items():
        key = head.bias_keys.get(part, "")
        has_bias = not key or _checks.choice("load", f"{source}: {key}", config.values.get(key), (True, False))
        named[module] = [f"{module}.weight", *([f"{module}.bias"] if has_bias else [])]
    return named | ({head.out_bias: [head.out_bias]} if head.out_bias else {})


def _linear(
    tensors: Mapping[str, Array],
    module: str,
    inputs: int,
    source: str,
    activation: str | None = None,
    rows: int | None = None,
) -> Linear:
    """A dense layer of a head; rows: its outputs, None: as many as its weight has rows."""
    weight = tensors[f"{module}.weight"]
    rows = rows or (weight.shape[0] if weight.ndim == 2 and weight.size else 1)
    layer = Linear(inputs, rows, f"{module}.bias" in tensors, activation=activation)
    _load(layer, tensors, module, source)
    return layer


def _load(layer: Layer, tensors: Mapping[str, Array], module: str, source: str) -> None:
    values = {}
    for name, shape in layer._own_shapes().items():
        values[name] = tensors[f"{module}.{name}"]
        if values[name].shape != shape:
            raise ValueError(f"load: {source}: {module}.{name} has shape {values[name].shape}; {shape} is needed")
    layer.load_state_dict(values)
