"""Readers of the keys of config.json, for the families' `build` and `derive`; their errors do not name the file."""

from dataclasses import replace
from typing import Any

from pyattn import _checks
from pyattn.layers.config import LayerConfig, Rotary
from pyattn.models.config import ModelConfig
from pyattn.models.family import Values
from pyattn.models.spec import NormSpec

# Of rotary positions: older files have rope_scaling and rope_theta, newer ones both in rope_parameters.
ROPE_DEFAULTS = {"rope_theta": 10000.0, "rope_parameters": None, "rope_scaling": None, "partial_rotary_factor": 1.0}
_ROPE_TYPES = ("default", "linear", "yarn", "llama3")
NO_BIASES = {"in_proj_bias": False, "out_proj_bias": False, "linear_bias": False}


def layer_names(layer: str, in_file: str, /, **modules: str | tuple[str, ...]) -> dict[str, str | tuple[str, ...]]:
    """The names of modules in a layer, ours -> those in the file's layer.

    Of attention they are those of queries, keys, values and outputs, of the first three as one and outputs, or what
    stands in front of them where they are called as ours are.
    """
    names: dict[str, str | tuple[str, ...]] = {}
    for module, named in modules.items():
        if not module.endswith("attn"):
            names[f"{layer}.{module}"] = f"{in_file}.{named}" if isinstance(named, str) else _below(in_file, named)
            continue
        parts = ("in_proj", "out_proj") if len(named) == 2 else ("q_proj", "k_proj", "v_proj", "out_proj")
        theirs = _below(named, parts) if isinstance(named, str) else named
        names |= zip(_below(f"{layer}.{module}", parts), _below(in_file, theirs), strict=True)
    return names


def _below(module: str, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{module}.{name}" for name in names)


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


def norm_of(config: ModelConfig, bias: bool = True) -> NormSpec:
    return NormSpec("layer", config.layer_norm_eps, bias)


def integer(values: Values, key: str, least: int) -> int:
    return _checks.count("load", key, values.get(key), least, highest=2**30 - 1)


def positive(name: str, value: Any, accepted: str = "a positive number", limit: float = 1e30) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < limit:
        raise ValueError(f"{name} must be {accepted}, not {value!r}")
    return float(value)


def switch(values: Values, key: str) -> bool:
    value = values.get(key)
    if not isinstance(value, bool):
        raise ValueError(f"{key} must be true or false, not {value!r}")
    return value


def biases_of(config: ModelConfig, **keys: str) -> dict[str, bool]:
    """Which biases a layer has: those of attention, and others by the keys that say it."""
    keys = {"in_proj_bias": "attention_bias", "out_proj_bias": "attention_bias", **keys}
    return {name: switch(config.values, key) for name, key in keys.items()}


def rotary(parameters: Any, default: Any, longest: int, *more_types: str) -> Rotary:
    """What rope_parameters say, and what they leave out: a base, and the most positions of the model."""
    rope_type = parameters.get("rope_type", parameters.get("type", "default"))
    _checks.choice("load", "rope_type", rope_type, (*_ROPE_TYPES, *more_types))
    _check_whole_heads(parameters)
    if nested := [key for key, value in parameters.items() if isinstance(value, dict)]:
        raise ValueError(f"rope_parameters must be those of all layers, not of {', '.join(nested)}")
    base = positive("rope_theta, the base of rotary positions,", parameters.get("rope_theta", default))
    if rope_type == "default":
        return Rotary(base)
    scaling = {"max_position_embeddings": longest, **parameters}
    items = tuple(sorted((key, value) for key, value in scaling.items() if value is not None))
    hash(items)
    return Rotary(base, items)


def rotary_of(config: ModelConfig, base: Any, *more_types: str) -> Rotary:
    """Rotary positions that are the same in all layers."""
    values = config.values
    _check_whole_heads(values)
    parameters = values["rope_scaling"] or values["rope_parameters"] or {}
    return rotary(parameters, base, config.max_position_embeddings, *more_types)


def rotaries(config: ModelConfig, parameters: Values, bases: Values, scaling: Values) -> dict[str, Rotary]:
    """By the type of a layer: what rope_parameters say of it; older files have keys for its base and its scaling."""
    if not parameters.keys() <= bases.keys():
        raise ValueError(f"rope_parameters must be of {' and '.join(map(repr, bases))}")
    longest = config.max_position_embeddings
    return {x: rotary({**(parameters.get(x) or {}), **scaling[x]}, base, longest) for x, base in bases.items()}


def _check_whole_heads(values: Values) -> None:
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
    types, layers = config.values["layer_types"], config.num_hidden_layers
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
