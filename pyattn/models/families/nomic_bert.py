"""Nomic BERT: Nussbaum et al. 2024 (arXiv:2402.01613)."""

from dataclasses import replace

from pyattn.models.config import ModelConfig
from pyattn.models.families.bert import BERT, POOLED, WORDS, encoder_spec
from pyattn.models.family import Head
from pyattn.models.keys import NO_BIASES, ROPE_DEFAULTS, layer_names, layer_of, rotary_of
from pyattn.models.spec import ModelSpec, Names

_NAMES: Names = {
    "embeddings.words": WORDS,
    "embeddings.token_types": "embeddings.token_type_embeddings.weight",
    "embeddings.norm": "emb_ln",
    **layer_names(
        "encoder.layers.{}", "encoder.layers.{}", self_attn=("attn.Wqkv", "attn.out_proj"), norm1="norm1",
        linear1=("mlp.fc12", "mlp.fc11"), linear2="mlp.fc2", norm2="norm2",
    ),
}  # fmt: skip
_KEYS = {
    "hidden_size": ("hidden_size", "n_embd"), "num_hidden_layers": ("num_hidden_layers", "n_layer"),
    "num_attention_heads": ("num_attention_heads", "n_head"), "intermediate_size": ("intermediate_size", "n_inner"),
    "layer_norm_eps": ("layer_norm_eps", "layer_norm_epsilon"),
    "max_position_embeddings": ("max_position_embeddings", "n_positions"),
}  # fmt: skip
_DEFAULTS = {
    **BERT.defaults, **ROPE_DEFAULTS, "vocab_size": 30528, "hidden_act": "silu", "max_position_embeddings": 2048,
    "rope_theta": 1000.0,
}  # fmt: skip
_SUPPORTED = {
    **dict.fromkeys(("prenorm", "qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias"), (False,)),
    **dict.fromkeys(("rotary_emb_interleaved", "use_rms_norm", "parallel_block"), (False,)),
    "activation_function": ("swiglu",),
    "rotary_emb_fraction": (1.0,),
    "rotary_emb_scale_base": (),
    "rotary_scaling_factor": (),
}
_MASKED = replace(BERT.heads["masked-lm"], norm="cls.predictions.transform.layer_norm")


def build(config: ModelConfig) -> ModelSpec:
    values = config.values
    base = values.get("rotary_emb_base", values["rope_theta"])
    layer = layer_of(config, gated=True, rotary=rotary_of(config, base), **NO_BIASES)
    width = config.hidden_size // config.num_attention_heads
    if values.get("head_dim") not in (None, width):
        raise ValueError(f"head_dim must be hidden_size / num_attention_heads, {width}, not {values['head_dim']!r}")
    return encoder_spec(config, _NAMES, (layer,) * config.num_hidden_layers)


TEXT_FAMILIES = {
    "nomic_bert": replace(
        BERT,
        build=build,
        prefix="nomic_bert.",
        defaults=_DEFAULTS,
        keys=_KEYS,
        supported=_SUPPORTED,
        heads={"sequence-classification": POOLED, "token-classification": Head("classifier"), "masked-lm": _MASKED},
        ignored=(),
    )
}
