"""Nomic BERT: Nussbaum et al. 2024 (arXiv:2402.01613)."""

from typing import Any

from pyattn.models.config import ModelConfig
from pyattn.models.families.bert import DEFAULTS, POOLED, WORDS, encoder_spec
from pyattn.models.family import Family, Head
from pyattn.models.keys import ROPE_DEFAULTS, TIED, layer_of, rotary, same, whole_heads
from pyattn.models.spec import ModelSpec, Names

_NAMES: Names = {
    "embeddings.words": WORDS,
    "embeddings.token_types": "embeddings.token_type_embeddings.weight",
    "embeddings.norm": "emb_ln",
    "encoder.layers.{}.self_attn.in_proj": "encoder.layers.{}.attn.Wqkv",
    "encoder.layers.{}.self_attn.out_proj": "encoder.layers.{}.attn.out_proj",
    "encoder.layers.{}.norm1": "encoder.layers.{}.norm1",
    "encoder.layers.{}.linear1": ("encoder.layers.{}.mlp.fc12", "encoder.layers.{}.mlp.fc11"),
    "encoder.layers.{}.linear2": "encoder.layers.{}.mlp.fc2",
    "encoder.layers.{}.norm2": "encoder.layers.{}.norm2",
}


def build(config: ModelConfig) -> ModelSpec:
    values = config.values
    whole_heads(values)
    width = config.hidden_size // config.num_attention_heads
    if values.get("head_dim") not in (None, width):
        raise ValueError(f"head_dim must be hidden_size / num_attention_heads, {width}, not {values['head_dim']!r}")
    parameters = values["rope_scaling"] or values["rope_parameters"] or {}
    base = values.get("rotary_emb_base", values["rope_theta"])
    layer = layer_of(
        config,
        gated=True,
        rotary=rotary(parameters, base, config.max_position_embeddings),
        in_proj_bias=False,
        out_proj_bias=False,
        linear_bias=False,
    )
    return encoder_spec(config, _NAMES, (layer,) * config.num_hidden_layers)


_DEFAULTS: dict[str, Any] = {
    **DEFAULTS, **ROPE_DEFAULTS, "vocab_size": 30528, "hidden_act": "silu", "max_position_embeddings": 2048,
    "rope_theta": 1000.0,
}  # fmt: skip

TEXT_FAMILIES = {
    "nomic_bert": Family(
        build=build,
        prefix="nomic_bert.",
        keys={
            "hidden_size": ("hidden_size", "n_embd"),
            "num_hidden_layers": ("num_hidden_layers", "n_layer"),
            "num_attention_heads": ("num_attention_heads", "n_head"),
            "intermediate_size": ("intermediate_size", "n_inner"),
            "hidden_act": ("hidden_act",),
            "layer_norm_eps": ("layer_norm_eps", "layer_norm_epsilon"),
            "max_position_embeddings": ("max_position_embeddings", "n_positions"),
            **same("vocab_size", "type_vocab_size"),
            **TIED,
        },
        defaults=_DEFAULTS,
        supported={
            "prenorm": (False,),
            "qkv_proj_bias": (False,),
            "mlp_fc1_bias": (False,),
            "mlp_fc2_bias": (False,),
            "activation_function": ("swiglu",),
            "rotary_emb_fraction": (1.0,),
            "rotary_emb_interleaved": (False,),
            "rotary_emb_scale_base": (),
            "rotary_scaling_factor": (),
            "use_rms_norm": (False,),
            "parallel_block": (False,),
        },
        heads={
            "sequence-classification": POOLED,
            "token-classification": Head("classifier"),
            "masked-lm": Head(
                "cls.predictions.decoder",
                dense="cls.predictions.transform.dense",
                norm="cls.predictions.transform.layer_norm",
                out_bias="cls.predictions.bias",
            ),
        },
        tied=(WORDS, "cls.predictions.decoder.weight"),
    )
}
