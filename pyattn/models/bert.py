"""BERT: word, position and segment embeddings, then post-norm encoder layers; configured by config.json."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from pyattn import _checks
from pyattn.layers import LayerNorm, TransformerEncoder, TransformerEncoderLayer
from pyattn.models._files import read_json, read_tensors, write_tensors
from pyattn.precision import Quantized, concatenated, values_of

# hidden_act in config.json -> activation of our layers
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}

_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
)

# Our name | Hugging Face's; several are stacked along the first axis | the shape of each, in config.json's terms
_PARAMETERS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("words", ("embeddings.word_embeddings.weight",), ("vocab_size", "hidden_size")),
    ("positions", ("embeddings.position_embeddings.weight",), ("max_position_embeddings", "hidden_size")),
    ("token_types", ("embeddings.token_type_embeddings.weight",), ("type_vocab_size", "hidden_size")),
    ("norm.weight", ("embeddings.LayerNorm.weight",), ("hidden_size",)),
    ("norm.bias", ("embeddings.LayerNorm.bias",), ("hidden_size",)),
    (
        "layers.{}.self_attn.in_proj_weight",
        (
            "encoder.layer.{}.attention.self.query.weight",
            "encoder.layer.{}.attention.self.key.weight",
            "encoder.layer.{}.attention.self.value.weight",
        ),
        ("hidden_size", "hidden_size"),
    ),
    (
        "layers.{}.self_attn.in_proj_bias",
        (
            "encoder.layer.{}.attention.self.query.bias",
            "encoder.layer.{}.attention.self.key.bias",
            "encoder.layer.{}.attention.self.value.bias",
        ),
        ("hidden_size",),
    ),
    (
        "layers.{}.self_attn.out_proj.weight",
        ("encoder.layer.{}.attention.output.dense.weight",),
        ("hidden_size", "hidden_size"),
    ),
    ("layers.{}.self_attn.out_proj.bias", ("encoder.layer.{}.attention.output.dense.bias",), ("hidden_size",)),
    ("layers.{}.norm1.weight", ("encoder.layer.{}.attention.output.LayerNorm.weight",), ("hidden_size",)),
    ("layers.{}.norm1.bias", ("encoder.layer.{}.attention.output.LayerNorm.bias",), ("hidden_size",)),
    (
        "layers.{}.linear1.weight",
        ("encoder.layer.{}.intermediate.dense.weight",),
        ("intermediate_size", "hidden_size"),
    ),
    ("layers.{}.linear1.bias", ("encoder.layer.{}.intermediate.dense.bias",), ("intermediate_size",)),
    ("layers.{}.linear2.weight", ("encoder.layer.{}.output.dense.weight",), ("hidden_size", "intermediate_size")),
    ("layers.{}.linear2.bias", ("encoder.layer.{}.output.dense.bias",), ("hidden_size",)),
    ("layers.{}.norm2.weight", ("encoder.layer.{}.output.LayerNorm.weight",), ("hidden_size",)),
    ("layers.{}.norm2.bias", ("encoder.layer.{}.output.LayerNorm.bias",), ("hidden_size",)),
)


@dataclass(frozen=True)
class BertConfig:
    """The fields of config.json that decide the computation; the others (dropout, training, ...) are ignored."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float
    hidden_act: str

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "config") -> "BertConfig":
        """Check the contents of a config.json; `source` names it in the ValueError for whatever is not supported."""
        for key, supported, default in (
            ("model_type", ("bert",), None),
            ("hidden_act", tuple(_ACTIVATIONS), None),
            ("position_embedding_type", ("absolute",), "absolute"),
            ("is_decoder", (False,), False),
        ):
            _checks.choice("load", f"{source}: {key}", values.get(key, default), supported)
        sizes = {key: _checks.size("load", f"{source}: {key}", values.get(key)) for key in _SIZES}
        if sizes["hidden_size"] % sizes["num_attention_heads"]:
            raise ValueError(
                f"load: {source}: hidden_size {sizes['hidden_size']} must be a multiple of "
                f"num_attention_heads {sizes['num_attention_heads']}"
            )
        eps = values.get("layer_norm_eps")
        if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 <= eps < 1:
            raise ValueError(f"load: {source}: layer_norm_eps must be a number in [0, 1), not {eps!r}")
        return cls(**sizes, layer_norm_eps=float(eps), hidden_act=values["hidden_act"])


class BertModel:
    """BERT encoder over packed tokens: all sequences one after another, without padding.

    Args:
        config: the sizes and the activation.
        tensors: float32 arrays under Hugging Face's names for BertModel, with or without the prefix "bert.". What is
            no part of the encoder is ignored: `embeddings.position_ids` (0, 1, 2, ...), `pooler.*` and `cls.*` (heads).
        source: where the tensors come from, for messages.
        dtype: "float32", "bfloat16" or "int8": in what the layers' weights are held and multiplied.

    Raises:
        ValueError: a tensor is missing, misshapen or not one of this encoder; the message names it.
    """

    def __init__(
        self,
        config: BertConfig,
        tensors: Mapping[str, NDArray[np.float32] | Quantized],
        source: str = "tensors",
        dtype: DTypeLike = "float32",
    ) -> None:
        self.config = config
        state = _to_our_names(config, tensors, source)
        self._words = values_of(state.pop("words"))
        self._positions = values_of(state.pop("positions"))
        self._token_types = values_of(state.pop("token_types"))
        self._norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self._norm.load_state_dict({"weight": state.pop("norm.weight"), "bias": state.pop("norm.bias")})
        layer = TransformerEncoderLayer(
            config.hidden_size,
            config.num_attention_heads,
            config.intermediate_size,
            activation=_ACTIVATIONS[config.hidden_act],
            layer_norm_eps=config.layer_norm_eps,
            dtype=dtype,
        )
        self._encoder = TransformerEncoder(layer, config.num_hidden_layers)
        self._encoder.load_state_dict(state)

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Writes config.json and model.safetensors, which `pyattn.models.load` reads; weights as they are held.

        Those of bfloat16 are BF16 there, which other libraries read too; those of int8 are I8, with their rows' scales
        (float32) beside them as `<name>_scale`.

        Raises:
            OSError: a file cannot be written.
        """
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        values = {"model_type": "bert", "architectures": ["BertModel"], **asdict(self.config)}
        (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n")
        state = {"words": self._words, "positions": self._positions, "token_types": self._token_types}
        state |= {f"norm.{name}": value for name, value in self._norm._held().items()} | self._encoder._held()
        write_tensors(folder / "model.safetensors", _to_their_names(self.config, state))

    @classmethod
    def from_directory(cls, directory: Path, dtype: DTypeLike = "float32") -> "BertModel":
        """The model of a directory that holds config.json and model.safetensors; errors as in `pyattn.models.load`."""
        config_file, weights_file = directory / "config.json", directory / "model.safetensors"
        config = BertConfig.from_dict(read_json(config_file, dict), str(config_file))
        return cls(config, read_tensors(weights_file, _belongs_to_encoder), str(weights_file), dtype)

    def __call__(
        self, token_ids: ArrayLike, cu_seqlens: ArrayLike, token_type_ids: ArrayLike | None = None
    ) -> NDArray[np.float32]:
        """The last layer's hidden state of every token.

        Args:
            token_ids: (total,) integers, the n sequences one after another.
            cu_seqlens: (n + 1,) integers: sequence i is token_ids[cu_seqlens[i]:cu_seqlens[i + 1]]. Its positions
                start at 0 and it attends to itself alone.
            token_type_ids: (total,) integers; None means 0 for all.

        Returns:
            (total, hidden_size) float32.

        Raises:
            TypeError: an argument is not made of integers.
            ValueError: shapes do not fit together, an id is outside its embedding table, or a sequence is longer than
                max_position_embeddings.
        """
        words = _as_indices("token_ids", token_ids, self.config.vocab_size)
        starts = _checks.sequence_starts("BertModel", cu_seqlens, words.shape)
        lengths = np.diff(starts)
        longest = lengths.max(initial=0)
        if longest > self.config.max_position_embeddings:
            raise ValueError(
                f"BertModel: a sequence has {longest} tokens; the model has positions for "
                f"{self.config.max_position_embeddings}"
            )

        x = self._words[words]
        x += self._positions[np.arange(words.size) - np.repeat(starts[:-1], lengths)]
        if token_type_ids is None:
            x += self._token_types[0]
        else:
            types = _as_indices("token_type_ids", token_type_ids, self.config.type_vocab_size)
            if types.shape != words.shape:
                raise ValueError(f"BertModel: token_type_ids has shape {types.shape}; token_ids has {words.shape}")
            x += self._token_types[types]
        return self._encoder.forward_packed(self._norm(x), starts)


def _to_their_names(config: BertConfig, state: Mapping[str, Any]) -> dict[str, Any]:
    tensors = {}
    for ours, names, _ in _parameters(config):
        length = state[ours].shape[0] // len(names)
        tensors.update({name: state[ours][i * length : (i + 1) * length] for i, name in enumerate(names)})
    return tensors


def _belongs_to_encoder(name: str) -> bool:
    """Whether a tensor of a checkpoint is one that the encoder needs, going by its name in Hugging Face's scheme."""
    name = name.removeprefix("bert.")
    return name != "embeddings.position_ids" and not name.startswith(("pooler.", "cls."))


def _parameters(config: BertConfig) -> Iterator[tuple[str, list[str], tuple[int, ...]]]:
    """The rows of _PARAMETERS for every layer of the model, their sizes as numbers."""
    for ours, theirs, sizes in _PARAMETERS:
        shape = tuple(getattr(config, size) for size in sizes)
        for layer in range(config.num_hidden_layers if "{}" in ours else 1):
            yield ours.format(layer), [name.format(layer) for name in theirs], shape


def _to_our_names(
    config: BertConfig, tensors: Mapping[str, NDArray[np.float32] | Quantized], source: str
) -> dict[str, Any]:
    given: dict[str, Any] = {
        # Checkpoints converted from TensorFlow call the scale and shift of a LayerNorm gamma and beta.
        name.removeprefix("bert.")
        .replace("LayerNorm.gamma", "LayerNorm.weight")
        .replace("LayerNorm.beta", "LayerNorm.bias"): tensor
        for name, tensor in tensors.items()
        if _belongs_to_encoder(name)
    }
    rows = list(_parameters(config))
    expected = {name: shape for _, names, shape in rows for name in names}
    if missing := expected.keys() - given.keys():
        raise ValueError(f"load: {source}: missing tensors: {_listed(missing)}")
    if extra := given.keys() - expected.keys():
        raise ValueError(f"load: {source}: tensors that a BERT encoder does not have: {_listed(extra)}")
    for name, shape in expected.items():
        if given[name].shape != shape:
            raise ValueError(f"load: {source}: {name} has shape {given[name].shape}; config.json asks for {shape}")
    return {
        ours: given[names[0]] if len(names) == 1 else concatenated([given[name] for name in names])
        for ours, names, _ in rows
    }


def _listed(names: Iterable[str], most: int = 4) -> str:
    ordered = sorted(names)
    more = len(ordered) - most
    return ", ".join(ordered[:most]) + (f" and {more} more" if more > 0 else "")


def _as_indices(name: str, values: ArrayLike, limit: int) -> NDArray[np.int64]:
    """`values` as a one-dimensional int64 array of numbers in [0, limit)."""
    array = np.asarray(values)
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"BertModel: {name} has dtype {array.dtype}; it must be of integers")
    if array.ndim != 1:
        raise ValueError(f"BertModel: {name} has shape {array.shape}; it must have one axis")
    if array.size and not 0 <= array.min() <= array.max() < limit:
        raise ValueError(f"BertModel: {name} must be in [0, {limit}), not in [{array.min()}, {array.max()}]")
    return array.astype(np.int64, copy=False)
