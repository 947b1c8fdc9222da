"""What describes a family of models: its keys of config.json, the tensors of its files, and how a model is built."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from pyattn.models.spec import ModelSpec

# hidden_act in config.json -> activation of our layers; transformers has the same function under several names.
ACTIVATIONS = {
    "gelu": "gelu", "gelu_python": "gelu", "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh", "gelu_python_tanh": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu",
    "silu": "silu", "swish": "silu",
}  # fmt: skip

Values: TypeAlias = Mapping[str, Any]  # by name: the contents of config.json, or sizes of the configuration


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


@dataclass(frozen=True, kw_only=True)
class Family:
    """A model_type, or several that differ in the defaults of their keys alone.

    build: the model of a ModelConfig; ValueError without the file's name.
    prefix: in front of the model's tensors in files of models with a head; prefixes: others, which older files have.
    defaults: what keys of config.json are where the file leaves them out, as transformers' configuration classes have
    it. keys: field of the configuration -> keys, which mean the same, where they are not the one of defaults that is
    called as the field is. nullable: fields whose keys may be null, which leaves them to `derive` and to their
    defaults. supported: what keys must be, if not null. constants: fields that no key says.
    derive: fields that no key says as they are, from the contents of config.json, absent keys with their defaults, and
    the fields that keys said; ValueError without the file's name.
    heads: by task. scales: module -> the tensor that its outputs are multiplied by. transposed: modules whose weights
    are (inputs, outputs) in files; swapped: such as have the halves of their outputs the other way round there.
    tied: names of one matrix; those that a file lacks are the first of them that it has. The last is that of a matrix
    of its own where tie_word_embeddings is false.
    lacks: ends of names of what is 0 where a file lacks it. ignored, ignored_ends: beginnings and ends of names of what
    no result of ours depends on.
    """

    build: Callable[[Any], ModelSpec]
    prefix: str
    prefixes: tuple[str, ...] = ()
    defaults: Values
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    nullable: tuple[str, ...] = ()
    supported: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    constants: Values = field(default_factory=dict)
    derive: Callable[[Values, Values], dict[str, Any]] = lambda values, sizes: {}
    heads: Mapping[str, Head] = field(default_factory=dict)
    scales: Mapping[str, str] = field(default_factory=dict)
    transposed: tuple[str, ...] = ()
    swapped: tuple[str, ...] = ()
    tied: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    ignored_ends: tuple[str, ...] = ()

    def ignores(self, name: str) -> bool:
        """Whether a tensor, its prefix removed, is of a head or of what no result depends on, going by its name."""
        heads = {module for head in self.heads.values() for module in (*head.modules.values(), head.out_bias)}
        outside = tuple(module.split(".")[0] + "." for module in heads - {""})
        return name.startswith((*outside, *self.ignored)) or name.endswith(self.ignored_ends)


def for_states(family: Family, *parts: str, **changes: Any) -> Family:
    """The family of what gives hidden states: files may have tensors of a head and of such parts, which it has not."""
    absent = ("lm_head.", *parts)

    def build(config: Any) -> ModelSpec:
        spec = family.build(config)
        names = {name: x for name, x in spec.names.items() if not name.startswith(("head.", *parts))}
        if "decoder." in parts:
            spec = replace(spec, decoder=None, embeddings=None)
        return replace(spec, names=names, logits=None)

    return replace(
        family,
        build=build,
        tied=tuple(name for name in family.tied if not name.startswith(absent)),
        ignored=(*family.ignored, *absent),
        **changes,
    )
