"""Mistral: Jiang et al. 2023 (arXiv:2310.06825)."""

from dataclasses import replace

from pyattn.models.config import ModelConfig
from pyattn.models.families.llama import DEFAULTS, LLAMA, decoder_layer, decoder_spec
from pyattn.models.keys import with_windows
from pyattn.models.spec import ModelSpec

_DEFAULTS = {
    **DEFAULTS, "intermediate_size": 14336, "num_key_value_heads": 8, "max_position_embeddings": 131072,
    "sliding_window": 4096, "layer_types": None,
}  # fmt: skip


def build(config: ModelConfig) -> ModelSpec:
    """All layers see near tokens only, unless sliding_window is null or layer_types tell them apart (Ministral)."""
    values, types = config.values, config.values["layer_types"]
    if types is None:
        usual = "full_attention" if values["sliding_window"] is None else "sliding_attention"
        types = [usual] * config.num_hidden_layers
    return decoder_spec(config, with_windows(config, decoder_layer(config), types))


GENERATIVE_FAMILIES = {"mistral": replace(LLAMA, build=build, defaults=_DEFAULTS, nullable=("head_dim",))}
