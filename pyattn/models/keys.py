"""Readers of the keys of config.json, for the families' `build` and `derive`; their errors do not name the file."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from pyattn.layers.config import LayerConfig, Rotary
from pyattn.models.config import ModelConfig
from pyattn.models.spec import NormSpec

TIED = {"tied": ("tie_word_embeddings",)}
# Of rotary positions: older files have rope_scaling and rope_theta, newer ones both in rope_parameters.
ROPE_DEFAULTS = {"rope_theta": 10000.0, "rope_parameters": None, "rope_scaling": None, "partial_rotary_factor": 1.0}


def same(*names: str) -> dict[str, tuple[str, ...]]:
    """Fields that are called as their keys are."""
    return {name: (name,) for name in names}


def projections(attention: str, in_file: str, parts: Iterable[str] = ("q_proj", "k_proj", "v_proj")) -> dict[str, str]:
    """The names of an attention layer's projections of queries, keys and values."""
    return {f"{attention}.{x}_proj": f"{in_file}.{part}" for x, part in zip("qkv", parts, strict=True)}


def layer_of(config: ModelConfig, **choices: Any) -> LayerConfig:
    """A layer of the configuration's sizes, and of such choices."""
    sizes = {
        "d_model": config.hidden_size,
        "nhead": config.num_attention_heads,
        "dim_feedforward": config.intermediate_size,
        "num_key_value_heads": config.num_key_value_heads or None,
        "head_dim": config.head_dim or None,
        "activation": config.hidden_act,
        "layer_norm_eps": config.layer_norm_eps,
    }
    return LayerConfig(**{**sizes, **choices})


def norm_of(config: ModelConfig, type: str = "layer", bias: bool = True) -> NormSpec:
    return NormSpec(type, config.layer_norm_eps, bias)


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


def rotary(parameters: Any, default: Any, longest: int, *more_types: str) -> Rotary:
    """What rope_parameters say, and what they leave out: a base, and the most positions of the model."""
    rope_type, accepted = parameters.get("rope_type", parameters.get("type", "default")), [*_ROPE_TYPES, *more_types]
    if rope_type not in accepted:
        raise ValueError(f"rope_type must be one of {', '.join(map(repr, accepted))}, not {rope_type!r}")
    whole_heads(parameters)
    if nested := [key for key, value in parameters.items() if isinstance(value, dict)]:
        raise ValueError(f"rope_parameters must be those of all layers, not of {', '.join(nested)}")
    base = parameters.get("rope_theta", default)
    if isinstance(base, bool) or not isinstance(base, int | float) or not 0 < base < 1e30:
        raise ValueError(f"rope_theta, the base of rotary positions, must be a positive number, not {base!r}")
    if rope_type == "default":
        return Rotary(float(base))
    scaling = {"max_position_embeddings": longest, **parameters}
    items = tuple(sorted((key, value) for key, value in scaling.items() if value is not None))
    hash(items)
    return Rotary(float(base), items)


_ROPE_TYPES = ("default", "linear", "yarn", "llama3")


def rotaries(
    config: ModelConfig, parameters: Mapping[str, Any], bases: Mapping[str, Any], scaling: Mapping[str, Any]
) -> dict[str, Rotary]:
    """By the type of a layer: what rope_parameters say of it; older files have keys for its base and its scaling."""
    if not parameters.keys() <= bases.keys():
        raise ValueError(f"rope_parameters must be of {' and '.join(map(repr, bases))}")
    longest = config.max_position_embeddings
    return {x: rotary({**(parameters.get(x) or {}), **scaling[x]}, base, longest) for x, base in bases.items()}


def whole_heads(values: Mapping[str, Any]) -> None:
    if values.get("partial_rotary_factor") not in (None, 1):
        raise ValueError(f"partial_rotary_factor must be 1, not {values['partial_rotary_factor']!r}")


def layer_types(types: Any, layers: int) -> list[str]:
    """Of each layer, whether it sees all tokens or near ones; "attention" is an old name of the former."""
    if isinstance(types, list):
        types = ["full_attention" if x == "attention" else x for x in types]
    known = ("full_attention", "sliding_attention")
    if not isinstance(types, list) or len(types) != layers or any(x not in known for x in types):
        raise ValueError(f"layer_types must be {layers} of 'full_attention' and 'sliding_attention'")
    return types


def periodic_layer_types(config: ModelConfig, key: str, offset: int = 0) -> list[str]:
    """As layer_types says; where it is null, layer i sees all tokens if the number under the key divides i + offset."""
    types, layers = config.value("layer_types"), config.num_hidden_layers
    if types is None:
        every = integer(config.values, key, least=1)
        types = ["sliding_attention" if (i + offset) % every else "full_attention" for i in range(layers)]
    return layer_types(types, layers)


def with_windows(config: ModelConfig, layer: LayerConfig, types: Any) -> list[LayerConfig]:
    """A decoder's layers of such types: those of the type "sliding_attention" see sliding_window tokens back."""
    types = layer_types(types, config.num_hidden_layers)
    if "sliding_attention" not in types:
        return [layer] * len(types)
    near = replace(layer, window=(integer(config.values, "sliding_window", least=1) - 1, None))
    return [near if x == "sliding_attention" else layer for x in types]
