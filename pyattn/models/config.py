"""What decides the computation of an encoder, whatever its family: read from config.json by the family's table."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pyattn import _checks
from pyattn.models.families import ACTIVATIONS, FAMILIES, Family

MOST_LAYERS, MOST = 4096, 2**31 - 1


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes and choices under one name for all families; `source` is the config.json that from_dict read them from.

    hidden_act is the name of an activation of pyattn's layers, max_position_embeddings the longest sequence in tokens.
    """

    model_type: str
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    layer_norm_eps: float
    hidden_act: str
    # texts
    vocab_size: int = 0
    embedding_size: int = 0
    max_position_embeddings: int = 0
    first_position: int = 0  # the row of the first token's position
    projected: bool = False  # embeddings to hidden_size
    type_vocab_size: int = 0
    relative_buckets: int = 0
    # images: (height, width)
    image_size: tuple[int, int] = (0, 0)
    patch_size: tuple[int, int] = (0, 0)
    num_channels: int = 0
    num_register_tokens: int = 0
    antialias: bool = False  # of positions that are interpolated
    # layers
    gated: bool = False
    first_norm: bool = True  # whether the first layer has a norm in front of its attention
    distinct_layers: int = 0  # each of them is run num_hidden_layers / distinct_layers times in a row
    rotary_bases: tuple[float, ...] = ()  # of each layer
    windows: tuple[int | None, ...] = ()  # of each layer: a token sees so many on either side
    without_bias: frozenset[str] = frozenset()
    pooling: str = "cls"  # of sequences that a head classifies
    source: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def family(self) -> Family:
        return FAMILIES[self.model_type]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "config") -> "EncoderConfig":
        """Check the contents of a config.json; `source` names it in the ValueError for whatever is not supported."""
        model_type = _checks.choice("load", f"{source}: model_type", values.get("model_type"), FAMILIES)
        family = FAMILIES[model_type]
        for key, supported in family.supported.items():
            if key in values:
                _checks.choice("load", f"{source}: {key}", values[key], (supported,))
        fields: dict[str, Any] = dict(family.fixed)
        for name, keys in family.keys.items():
            key = next((key for key in keys if values.get(key) is not None), keys[0])
            value, what = values.get(key), f"{source}: {key}"
            if value is None and name in fields:
                continue
            if name == "hidden_act":
                fields[name] = ACTIVATIONS[_checks.choice("load", what, value, ACTIVATIONS)]
            elif name == "layer_norm_eps":
                fields[name] = _fraction(what, value)
            elif name in ("image_size", "patch_size"):
                pair = value if isinstance(value, list | tuple) and len(value) == 2 else (value, value)
                fields[name] = tuple(_checks.size("load", what, side) for side in pair)
            else:
                fields[name] = _checks.size("load", what, value)
                if fields[name] > (MOST_LAYERS if name == "num_hidden_layers" else MOST):
                    raise ValueError(f"load: {what} is {value}, which is more than any model's")
        try:
            fields |= family.derive(values, fields)
        except (LookupError, TypeError, AttributeError, ArithmeticError) as error:
            raise ValueError(f"load: {source} is not a whole configuration of {model_type} ({error!r})") from error
        except ValueError as error:
            raise ValueError(f"load: {source}: {error}") from None
        config = cls(
            model_type=model_type,
            source=dict(values),
            **{"embedding_size": fields["hidden_size"], "distinct_layers": fields["num_hidden_layers"]} | fields,
        )
        if config.hidden_size % config.num_attention_heads:
            raise ValueError(
                f"load: {source}: hidden_size {config.hidden_size} must be a multiple of "
                f"num_attention_heads {config.num_attention_heads}"
            )
        for base in config.rotary_bases:
            _checks.rotary_base(f"load: {source}", base, config.hidden_size // config.num_attention_heads)
        if any(np.less(config.image_size, config.patch_size)):
            raise ValueError(
                f"load: {source}: image_size {config.image_size} is smaller than a patch, {config.patch_size}"
            )
        return config


def _fraction(what: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"load: {what} must be a number in [0, 1), not {value!r}")
    return float(value)
