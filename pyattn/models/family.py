"""What describes a family of models: the fields of its table, and readers of the keys of config.json."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pyattn.layers.config import Rotary

# hidden_act in config.json -> activation of our layers; transformers has the same function under several names.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}

Names = Mapping[str, str | tuple[str, ...]]
# Further fields of the configuration, from config.json, its absent keys with their defaults, and the fields that keys
# gave; ValueError without the file's name.
Derive = Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Head:
    """What turns hidden states into logits: out(norm(activation(dense(x)))), of each token or of each sequence.

    dense and norm are "" where there is none. activation is "tanh", one of the layers', or that of the model (None).
    out may be tied: where the file lacks its weight it is that of the words; out_bias is the bias's name, if its own.
    activation_key: the key of config.json that names the activation.
    bias_keys: dense, norm or out -> the key of config.json that says whether it has a bias.
    """

    out: str
    dense: str = ""
    activation: str | None = None
    norm: str = ""
    out_bias: str = ""
    of_sequence: bool = False
    activation_key: str = ""
    bias_keys: Mapping[str, str] = field(default_factory=dict)

    @property
    def modules(self) -> dict[str, str]:
        """dense, norm and out, as far as there are such, with their names in files."""
        named = {"dense": self.dense, "norm": self.norm, "out": self.out}
        return {part: module for part, module in named.items() if module}


@dataclass(frozen=True)
class Family:
    """A model_type, or several that differ in nothing that matters here but the defaults of their keys."""

    prefix: str  # of the model's tensors in files of models with a head
    keys: Mapping[str, tuple[str, ...]]  # field of the configuration -> keys of config.json, which mean the same
    names: Names
    heads: Mapping[str, Head] = field(default_factory=dict)
    norm_first: bool = False
    fixed: Mapping[str, Any] = field(default_factory=dict)  # fields that no key of config.json says
    nullable: tuple[str, ...] = ()  # fields whose keys may be null, which leaves them to `derive` and the others
    supported: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)  # what keys must be, if not null
    derive: Derive = lambda values, fields: {}
    scales: Mapping[str, str] = field(default_factory=dict)  # module -> what its outputs are multiplied by
    names_if_gated: Names = field(default_factory=dict)  # instead of those in names
    transposed: tuple[str, ...] = ()  # modules whose weights are (inputs, outputs) in files
    tied: tuple[str, ...] = ()  # names of one matrix: those that a file lacks are the first of them that it has
    lacks: tuple[str, ...] = ()  # ends of names of what is 0 where a file lacks it
    ignored: tuple[str, ...] = ()  # beginnings of names of what no result of ours depends on
    ignored_ends: tuple[str, ...] = ()

    @property
    def tied_head(self) -> str:
        """That of the tied names which is a matrix of its own where tie_word_embeddings is false."""
        return str(self.names.get("head.weight") or self.tied[-1])

    def ignores(self, name: str) -> bool:
        """Whether a tensor, its prefix removed, is of a head or of what no result depends on, going by its name."""
        heads = {module for head in self.heads.values() for module in (*head.modules.values(), head.out_bias)}
        outside = tuple(module.split(".")[0] + "." for module in heads - {""})
        return name.startswith((*outside, *self.ignored)) or name.endswith(self.ignored_ends)


# BERT's names, and those of what was made after it.
FEED_FORWARD: Names = {
    "encoder.layers.{}.linear1": "encoder.layer.{}.intermediate.dense",
    "encoder.layers.{}.linear2": "encoder.layer.{}.output.dense",
}


def same(*names: str) -> dict[str, tuple[str, ...]]:
    return {name: (name,) for name in names}


def integer(values: Mapping[str, Any], key: str, least: int) -> int:
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**30:
        raise ValueError(f"{key} must be an integer, {least} or more and below 2**30, not {value!r}")
    return value


def switch(values: Mapping[str, Any], key: str) -> bool:
    value = values.get(key)
    if not isinstance(value, bool):
        raise ValueError(f"{key} must be true or false, not {value!r}")
    return value


def choice(values: Mapping[str, Any], key: str, accepted: Iterable[str]) -> str:
    value: str = values[key]
    if value not in tuple(accepted):
        raise ValueError(f"{key} must be one of {', '.join(map(repr, accepted))}, not {value!r}")
    return value


def rotary(parameters: Any, default: Any, longest: int, *kinds: str) -> Rotary:
    """What rope_parameters say, and what they leave out: a base, and the most positions of the model."""
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind not in ("default", "linear", "yarn", "llama3", *kinds):
        accepted = ", ".join(map(repr, ("default", "linear", "yarn", "llama3", *kinds)))
        raise ValueError(f"rope_type must be one of {accepted}, not {kind!r}")
    whole_heads(parameters)
    if nested := [key for key, value in parameters.items() if isinstance(value, dict)]:
        raise ValueError(f"rope_parameters must be those of all layers, not of {', '.join(nested)}")
    base = parameters.get("rope_theta", default)
    if isinstance(base, bool) or not isinstance(base, int | float) or not 0 < base < 1e30:
        raise ValueError(f"rope_theta, the base of rotary positions, must be a positive number, not {base!r}")
    if kind == "default":
        return Rotary(float(base))
    scaling = {"max_position_embeddings": longest, **parameters}
    given = tuple(sorted((key, value) for key, value in scaling.items() if value is not None))
    hash(given)
    return Rotary(float(base), given)


def whole_heads(values: Mapping[str, Any]) -> None:
    if values.get("partial_rotary_factor") not in (None, 1):
        raise ValueError(f"partial_rotary_factor must be 1, not {values['partial_rotary_factor']!r}")


def layer_types(kinds: Any, layers: int) -> list[str]:
    """Of each layer, whether it sees all tokens or near ones; "attention" is an old name of the former."""
    if isinstance(kinds, list):
        kinds = ["full_attention" if kind == "attention" else kind for kind in kinds]
    known = ("full_attention", "sliding_attention")
    if not isinstance(kinds, list) or len(kinds) != layers or any(kind not in known for kind in kinds):
        raise ValueError(f"layer_types must be {layers} of 'full_attention' and 'sliding_attention'")
    return kinds
