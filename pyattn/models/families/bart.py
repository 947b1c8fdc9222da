"""BART: Lewis et al. 2019 (arXiv:1910.13461); mBART: Liu et al. 2020 (arXiv:2001.08210); Marian."""

import math
from dataclasses import replace
from typing import Any

from pyattn.models.config import ModelConfig
from pyattn.models.family import Family, Values
from pyattn.models.keys import integer, layer_names, layer_of, norm_of, switch
from pyattn.models.spec import InputSpec, LogitsSpec, ModelSpec, Names, StackSpec, TokenSpec

KEYS: dict[str, tuple[str, ...]] = {
    "hidden_size": ("d_model", "hidden_size"), "num_hidden_layers": ("decoder_layers",),
    "num_attention_heads": ("decoder_attention_heads",), "intermediate_size": ("decoder_ffn_dim",),
    "hidden_act": ("activation_function",), "encoder_layers": ("encoder_layers", "num_hidden_layers"),
    "encoder_attention_heads": ("encoder_attention_heads", "num_attention_heads"),
}  # fmt: skip
DEFAULTS = {
    "vocab_size": 50265, "max_position_embeddings": 1024, "encoder_layers": 12, "encoder_ffn_dim": 4096,
    "encoder_attention_heads": 16, "decoder_layers": 12, "decoder_ffn_dim": 4096, "decoder_attention_heads": 16,
    "activation_function": "gelu", "d_model": 1024, "scale_embedding": False, "tie_word_embeddings": True,
}  # fmt: skip

_MODULES = {"self_attn": "self_attn", "norm1": "self_attn_layer_norm", "linear1": "fc1", "linear2": "fc2"}
_OF_DECODER = {"multihead_attn": "encoder_attn", "norm2": "encoder_attn_layer_norm", "norm3": "final_layer_norm"}
LAYER_NAMES: Names = {
    **layer_names("encoder.layers.{}", "encoder.layers.{}", **_MODULES, norm2="final_layer_norm"),
    **layer_names("decoder.layers.{}", "decoder.layers.{}", **_MODULES, **_OF_DECODER),
}
FINAL_NORMS: Names = {"encoder.norm": "encoder.layer_norm", "decoder.norm": "decoder.layer_norm"}
POSITIONS: Names = {
    "embeddings.positions": "decoder.embed_positions.weight",
    "encoder_embeddings.positions": "encoder.embed_positions.weight",
}
_NAMES: Names = {
    **LAYER_NAMES,
    **POSITIONS,
    "words": "decoder.embed_tokens.weight",
    "encoder_embeddings.words": "encoder.embed_tokens.weight",
    "head.weight": "lm_head.weight",
    "head.bias": "final_logits_bias",
}
_BART: Names = {
    **_NAMES,
    "embeddings.norm": "decoder.layernorm_embedding",
    "encoder_embeddings.norm": "encoder.layernorm_embedding",
}
_MBART: Names = {**_BART, **FINAL_NORMS}


def two_sides(
    config: ModelConfig,
    names: Names,
    norm_placement: str,
    encoder_embeddings: InputSpec | None = None,
    first_position: int = 0,
    **of_tokens: Any,
) -> ModelSpec:
    """An encoder, of tokens unless it has other embeddings, and a decoder that attends to it.

    There are norms, and a bias of logits, where names have them.
    """
    scaled = config.values["scale_embedding"] is not None and switch(config.values, "scale_embedding")
    tokens = TokenSpec(
        config.hidden_size,
        positions=first_position + config.max_position_embeddings,
        first_position=first_position,
        scale=math.sqrt(config.hidden_size) if scaled else 1.0,
        norm=norm_of(config) if "embeddings.norm" in names else None,
    )
    tokens = replace(tokens, **of_tokens)
    decoder = layer_of(config, norm_placement=norm_placement, cross_attention=True)
    encoder = replace(
        decoder, cross_attention=False, nhead=config.encoder_attention_heads, dim_feedforward=config.encoder_ffn_dim
    )
    norm = norm_of(config) if "decoder.norm" in names else None
    return ModelSpec(
        names,
        encoder=StackSpec((encoder,) * config.encoder_layers, norm),
        encoder_embeddings=encoder_embeddings or replace(tokens, words=config.source_vocab_size or config.vocab_size),
        decoder=StackSpec((decoder,) * config.num_hidden_layers, norm),
        embeddings=tokens,
        logits=LogitsSpec(config.vocab_size, bool({"head", "head.bias"} & names.keys())),
    )


def build_marian(config: ModelConfig) -> ModelSpec:
    """Junczys-Dowmunt et al. 2018 (arXiv:1804.00344)."""
    spec = two_sides(config, _NAMES, "post", sinusoidal=True)
    own = ("shared.weight", "encoder.embed_tokens.weight") if config.source_vocab_size else ()
    return replace(spec, separate=frozenset(own))


def _vocabularies(values: Values, sizes: Values) -> dict[str, Any]:
    """The sides may have vocabularies of their own."""
    if switch(values, "share_encoder_decoder_embeddings"):
        return {}
    source = sizes["vocab_size"]
    target = integer(values, "decoder_vocab_size", least=1) if values["decoder_vocab_size"] else source
    return {"vocab_size": target, "source_vocab_size": source}


# Keys of older files that say what the family is; transformers passes over them now.
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "normalize_before": (False,),
    "normalize_embedding": (True,),
    "add_final_layer_norm": (False,),
    "static_position_embeddings": (False,),
}

BART = Family(
    build=lambda config: two_sides(config, _BART, "post", first_position=2),
    prefix="model.",
    defaults=DEFAULTS,
    keys=KEYS,
    supported=_SUPPORTED,
    constants={"layer_norm_eps": 1e-5},
    tied=("shared.weight", "decoder.embed_tokens.weight", "encoder.embed_tokens.weight", "lm_head.weight"),
    lacks=("final_logits_bias",),
)

GENERATIVE_FAMILIES = {
    "bart": BART,
    "mbart": replace(
        BART,
        build=lambda config: two_sides(config, _MBART, "pre", first_position=2),
        supported={**_SUPPORTED, "normalize_before": (True,), "add_final_layer_norm": (True,)},
    ),
    "marian": replace(
        BART,
        build=build_marian,
        defaults={
            **DEFAULTS, "vocab_size": 58101, "decoder_vocab_size": None, "share_encoder_decoder_embeddings": True,
        },
        supported=dict.fromkeys(("normalize_before", "normalize_embedding", "add_final_layer_norm"), (False,)),
        derive=_vocabularies,
    ),
}  # fmt: skip
