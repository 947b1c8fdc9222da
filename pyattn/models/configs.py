"""The configurations of models of each sort, which differ in the families that they may be of."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyattn.models.config import ModelConfig
from pyattn.models.families import GENERATIVE_FAMILIES, IMAGE_FAMILIES, STATE_FAMILIES, TEXT_FAMILIES


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(ModelConfig):
    """An encoder's, of texts or images."""

    families = TEXT_FAMILIES | IMAGE_FAMILIES


@dataclass(frozen=True, kw_only=True)
class GenerativeConfig(ModelConfig):
    """A decoder's, and that of the encoder in front of it if encoder_layers is not 0."""

    families = GENERATIVE_FAMILIES
    causal = (True,)  # transformers reads is_causal of every decoder


@dataclass(frozen=True, kw_only=True)
class StateConfig(ModelConfig):
    """A generative model's, of which only one stack of layers is run; is_causal: false makes a decoder an encoder."""

    families = STATE_FAMILIES
    causal = (True, False)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "config") -> "StateConfig":
        config = super().from_dict(values, source)
        if not config.is_causal and any(layer.window is not None for x in config.spec.stacks for layer in x.layers):
            raise ValueError(f"load: {source}: is_causal false is not supported together with sliding_window")
        return config
