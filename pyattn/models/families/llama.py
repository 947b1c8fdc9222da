"""Llama: Touvron et al. 2023 (arXiv:2302.13971); names and parts of the decoders that were made after it."""

from collections.abc import Iterable
from typing import Any

from pyattn.layers.config import LayerConfig, Rotary
from pyattn.models.config import ModelConfig
from pyattn.models.family import Family, for_states
from pyattn.models.keys import (
    ROPE_DEFAULTS,
    TIED,
    layer_of,
    norm_of,
    projections,
    rotary,
    same,
    switch,
    whole_heads,
)
from pyattn.models.spec import LogitsSpec, ModelSpec, Names, StackSpec, TokenSpec

_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")
KEYS = same(*_SIZES, "intermediate_size", "hidden_act", "vocab_size", "max_position_embeddings") | TIED
KEYS |= {"layer_norm_eps": ("rms_norm_eps",)}
DEFAULTS: dict[str, Any] = {
    **ROPE_DEFAULTS, "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": None, "head_dim": None, "hidden_act": "silu",
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
}  # fmt: skip
NAMES: Names = {
    "words": "embed_tokens.weight",
    "head.weight": "lm_head.weight",
    "decoder.norm": "norm",
    "decoder.layers.{}.norm1": "layers.{}.input_layernorm",
    "decoder.layers.{}.norm3": "layers.{}.post_attention_layernorm",
    **projections("decoder.layers.{}.self_attn", "layers.{}.self_attn"),
    "decoder.layers.{}.self_attn.out_proj": "layers.{}.self_attn.o_proj",
    "decoder.layers.{}.linear1": ("layers.{}.mlp.gate_proj", "layers.{}.mlp.up_proj"),
    "decoder.layers.{}.linear2": "layers.{}.mlp.down_proj",
}
NO_BIASES = {"in_proj_bias": False, "out_proj_bias": False, "linear_bias": False}


def decoder_layer(config: ModelConfig, **choices: Any) -> LayerConfig:
    """RMSNorm in front of each block, SwiGLU, rotary positions, no biases."""
    usual = {"norm": "rms", "norm_placement": "pre", "gated": True, "rotary": rotary_of(config)}
    return layer_of(config, **{**usual, **NO_BIASES, **choices})


def decoder_spec(config: ModelConfig, layers: Iterable[LayerConfig], names: Names = NAMES) -> ModelSpec:
    return ModelSpec(
        names,
        decoder=StackSpec(tuple(layers), norm_of(config, "rms", bias=False)),
        decoder_embeddings=TokenSpec(config.hidden_size),
        logits=LogitsSpec(config.vocab_size),
    )


def rotary_of(config: ModelConfig) -> Rotary:
    """Rotary positions that are the same in all layers."""
    values = config.values
    whole_heads(values)
    parameters = values["rope_scaling"] or values["rope_parameters"] or {}
    return rotary(parameters, values["rope_theta"], config.max_position_embeddings, "dynamic")


def build(config: ModelConfig) -> ModelSpec:
    attention_bias = switch(config.values, "attention_bias")
    biases = {"in_proj_bias": attention_bias, "out_proj_bias": attention_bias}
    layer = decoder_layer(config, **biases, linear_bias=switch(config.values, "mlp_bias"))
    return decoder_spec(config, (layer,) * config.num_hidden_layers)


LLAMA = Family(
    build=build,
    prefix="model.",
    keys=KEYS,
    defaults={**DEFAULTS, "attention_bias": False, "mlp_bias": False},
    nullable=("head_dim", "num_key_value_heads"),
    tied=("embed_tokens.weight", "lm_head.weight"),
    ignored_ends=(".rotary_emb.inv_freq",),
)

GENERATIVE_FAMILIES = {"llama": LLAMA}
STATE_FAMILIES = {"llama": for_states(LLAMA)}
