"""Qwen3: Yang et al. 2025 (arXiv:2505.09388)."""

from dataclasses import replace

from pyattn.models.config import ModelConfig
from pyattn.models.families import llama, qwen2
from pyattn.models.keys import biases_of, with_windows
from pyattn.models.spec import ModelSpec


def build(config: ModelConfig) -> ModelSpec:
    """Heads of queries and keys are normalised; layers after the first ones may see near tokens only."""
    layer = llama.decoder_layer(config, qk_norm=True, **biases_of(config))
    layers = with_windows(config, layer, qwen2.layer_types_of(config))
    return llama.decoder_spec(config, layers, {**llama.NAMES, **llama.NORMS_OF_HEADS})


GENERATIVE_FAMILIES = {
    "qwen3": replace(
        llama.LLAMA,
        build=build,
        defaults={**qwen2.QWEN2.defaults, "head_dim": 128, "attention_bias": False},
        nullable=("num_key_value_heads",),
    )
}
