"""Llama: Touvron et al. 2023 (arXiv:2302.13971); Mistral: Jiang et al. 2023 (arXiv:2310.06825); parts of others."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from pyattn.layers.config import LayerConfig
from pyattn.models.config import ModelConfig
from pyattn.models.family import Family
from pyattn.models.keys import NO_BIASES, ROPE_DEFAULTS, biases_of, layer_names, layer_of, rotary_of, with_windows
from pyattn.models.spec import LogitsSpec, ModelSpec, Names, NormSpec, StackSpec, TokenSpec

DEFAULTS = {
    **ROPE_DEFAULTS, "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": None, "head_dim": None, "hidden_act": "silu",
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
}  # fmt: skip
_MISTRAL = {
    **DEFAULTS, "intermediate_size": 14336, "num_key_value_heads": 8, "max_position_embeddings": 131072,
    "sliding_window": 4096, "layer_types": None,
}  # fmt: skip
NAMES: Names = {
    "words": "embed_tokens.weight",
    "head.weight": "lm_head.weight",
    "decoder.norm": "norm",
    **layer_names(
        "decoder.layers.{}", "layers.{}", norm1="input_layernorm", norm3="post_attention_layernorm",
        self_attn=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
        linear1=("mlp.gate_proj", "mlp.up_proj"), linear2="mlp.down_proj",
    ),
}  # fmt: skip
NORMS_OF_HEADS: Names = layer_names(
    "decoder.layers.{}.self_attn", "layers.{}.self_attn", q_norm="q_norm", k_norm="k_norm"
)


def decoder_layer(config: ModelConfig, **choices: Any) -> LayerConfig:
    """RMSNorm in front of each block, SwiGLU, rotary positions, no biases."""
    rotary = rotary_of(config, config.values["rope_theta"], "dynamic")
    usual = {"norm": "rms", "norm_placement": "pre", "gated": True, "rotary": rotary}
    return layer_of(config, **{**usual, **NO_BIASES, **choices})


def decoder_spec(config: ModelConfig, layers: Iterable[LayerConfig], names: Names = NAMES) -> ModelSpec:
    return ModelSpec(
        names,
        decoder=StackSpec(tuple(layers), NormSpec("rms", config.layer_norm_eps)),
        embeddings=TokenSpec(config.hidden_size),
        logits=LogitsSpec(config.vocab_size),
    )


def build_llama(config: ModelConfig) -> ModelSpec:
    layer = decoder_layer(config, **biases_of(config, linear_bias="mlp_bias"))
    return decoder_spec(config, (layer,) * config.num_hidden_layers)


def build_mistral(config: ModelConfig) -> ModelSpec:
    """All layers see near tokens only, unless sliding_window is null or layer_types tell them apart (Ministral)."""
    values, types = config.values, config.values["layer_types"]
    if types is None:
        usual = "full_attention" if values["sliding_window"] is None else "sliding_attention"
        types = [usual] * config.num_hidden_layers
    return decoder_spec(config, with_windows(config, decoder_layer(config), types))


LLAMA = Family(
    build=build_llama,
    prefix="model.",
    defaults={**DEFAULTS, "attention_bias": False, "mlp_bias": False},
    keys={"layer_norm_eps": ("rms_norm_eps",)},
    nullable=("head_dim", "num_key_value_heads"),
    tied=("embed_tokens.weight", "lm_head.weight"),
    ignored_ends=(".rotary_emb.inv_freq",),
)

GENERATIVE_FAMILIES = {
    "llama": LLAMA,
    "mistral": replace(LLAMA, build=build_mistral, defaults=_MISTRAL, nullable=("head_dim",)),
}
