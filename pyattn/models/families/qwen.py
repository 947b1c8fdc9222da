"""Qwen2: Yang et al. 2024 (arXiv:2407.10671); Qwen3: Yang et al. 2025 (arXiv:2505.09388)."""

from dataclasses import replace
from typing import Any

from pyattn.models.config import ModelConfig
from pyattn.models.families.llama import DEFAULTS, LLAMA, NAMES, NORMS_OF_HEADS, decoder_layer, decoder_spec
from pyattn.models.keys import biases_of, integer, switch, with_windows
from pyattn.models.spec import ModelSpec

_QWEN2 = {
    **DEFAULTS, "vocab_size": 151936, "intermediate_size": 22016, "num_key_value_heads": 32,
    "max_position_embeddings": 32768, "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28,
    "layer_types": None,
}  # fmt: skip
_QWEN3 = {**_QWEN2, "head_dim": 128, "attention_bias": False}


def build_qwen2(config: ModelConfig) -> ModelSpec:
    """Queries, keys and values have biases."""
    layer = decoder_layer(config, in_proj_bias=True)
    return decoder_spec(config, with_windows(config, layer, _layer_types(config)))


def build_qwen3(config: ModelConfig) -> ModelSpec:
    """Heads of queries and keys are normalised."""
    layer = decoder_layer(config, qk_norm=True, **biases_of(config))
    layers = with_windows(config, layer, _layer_types(config))
    return decoder_spec(config, layers, {**NAMES, **NORMS_OF_HEADS})


def _layer_types(config: ModelConfig) -> Any:
    """Layers after the first ones may see near tokens only."""
    values, layers, types = config.values, config.num_hidden_layers, config.values["layer_types"]
    windowed = switch(values, "use_sliding_window") and values["sliding_window"] is not None
    if types is None:
        whole = integer(values, "max_window_layers", least=0) if windowed else layers
        return ["sliding_attention" if i >= whole else "full_attention" for i in range(layers)]
    if not windowed and "sliding_attention" in types:
        raise ValueError("layer_types has 'sliding_attention', but use_sliding_window or sliding_window rules it out")
    return types


GENERATIVE_FAMILIES = {
    "qwen2": replace(LLAMA, build=build_qwen2, defaults=_QWEN2),
    "qwen3": replace(LLAMA, build=build_qwen3, defaults=_QWEN3, nullable=("num_key_value_heads",)),
}
