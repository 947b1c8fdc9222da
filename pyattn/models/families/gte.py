"""GTE: Zhang et al. 2024 (arXiv:2407.19669), from its code, Alibaba-NLP/new-impl; Arctic-Embed 2.0 is one."""

from dataclasses import replace
from typing import Any

from pyattn import _checks
from pyattn.layers.config import Rotary
from pyattn.models.config import ModelConfig
from pyattn.models.families.bert import EMBEDDINGS, POOLED, TOKEN_HEADS, WORDS, encoder_spec
from pyattn.models.family import Family, Head, Values
from pyattn.models.keys import integer, layer_names, layer_of, positive, rotary_of, switch
from pyattn.models.spec import ModelSpec, Names

_LAYER = ("encoder.layers.{}", "encoder.layer.{}")
_BLOCKS = layer_names(*_LAYER, norm1="attn_ln", linear1="mlp.up_gate_proj", linear2="mlp.down_proj", norm2="mlp_ln")
_PACKED = layer_names(*_LAYER, self_attn=("attention.qkv_proj", "attention.o_proj"))
_APART = layer_names(*_LAYER, self_attn=tuple(f"attention.{x}_proj" for x in "qkvo"))
_NORMS = {"layer_norm": "layer", "rms_norm": "rms"}


def build(config: ModelConfig) -> ModelSpec:
    """BERT's layers with gated feed-forward blocks, whose first maps have no bias, and mostly rotary positions."""
    values = config.values
    kind = _checks.choice("load", "position_embedding_type", values["position_embedding_type"], ("rope", "absolute"))
    norm = _NORMS[_checks.choice("load", "layer_norm_type", values["layer_norm_type"], _NORMS)]
    names: Names = {**EMBEDDINGS, **_BLOCKS, **(_PACKED if switch(values, "pack_qkv") else _APART)}
    absent = {"embeddings.positions"} if kind == "rope" else set()
    absent |= set() if config.type_vocab_size else {"embeddings.token_types"}
    names = {name: x for name, x in names.items() if name not in absent}
    layer = layer_of(config, gated=True, rotary=_rotary(config) if kind == "rope" else None, norm=norm)
    return encoder_spec(config, names, (layer,) * config.num_hidden_layers)


def _rotary(config: ModelConfig) -> Rotary:
    """Fixed NTK scaling (https://kexue.fm/archives/9706) is a larger base, of angles that are divided evenly."""
    base, scaling = config.values["rope_theta"], config.values["rope_scaling"]
    kind = None if scaling is None else scaling.get("type", scaling.get("rope_type"))
    if scaling is None or (kind != "ntk" and config.model_type != "new"):
        return rotary_of(config, base)
    _checks.choice("load", "rope_scaling: type", kind, ("ntk",))
    if config.values["rope_parameters"] is not None:
        raise ValueError("rope_scaling and rope_parameters contradict one another")
    if unknown := [key for key, value in scaling.items() if key not in _SCALING and value is not None]:
        raise ValueError(f"rope_scaling has {', '.join(map(repr, unknown))}; {', '.join(_SCALING)} are supported")
    factor = positive("rope_scaling: factor", scaling.get("factor"), "a number from 1")
    if factor < 1:
        raise ValueError(f"rope_scaling: factor must be a number from 1, not {factor!r}")
    width = config.hidden_size // config.num_attention_heads
    base = positive("rope_theta, the base of rotary positions,", base)
    return Rotary(base * factor, (("factor", factor ** (2 / width)), ("rope_type", "linear")))


def _sizes(values: Values, sizes: Values) -> dict[str, Any]:
    """Some have no token types at all."""
    return {"type_vocab_size": integer({"type_vocab_size": 1, **values}, "type_vocab_size", least=0)}


_SCALING = ("type", "rope_type", "factor")
_DEFAULTS = {
    "vocab_size": 30528, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "hidden_act": "gelu", "max_position_embeddings": 2048, "layer_norm_eps": 1e-12,
    "layer_norm_type": "layer_norm", "position_embedding_type": "rope", "pack_qkv": True, "rope_theta": 10000.0,
    "rope_scaling": None, "rope_parameters": None, "tie_word_embeddings": True,
}  # fmt: skip
_MASKED = Head("lm_head.decoder", dense="lm_head.dense", norm="lm_head.norm")
# As its code says; how keys and values are packed in memory changes no result.
_NEW = Family(
    build=build,
    prefix="new.",
    defaults=_DEFAULTS,
    supported={"logn_attention_scale": (False,), "rope_parameters": ()},
    derive=_sizes,
    heads={**TOKEN_HEADS, "sequence-classification": POOLED, "masked-lm": _MASKED},
    tied=(WORDS, "lm_head.decoder.weight"),
    lacks=("mlp.up_gate_proj.bias",),
    swapped=("encoder.layers.{}.linear1",),
    ignored=("embeddings.position_ids", "embeddings.rotary_emb."),
)
# transformers' own, under whose name Arctic-Embed's code goes too: what either passes over is as usual.
_USUAL = {"position_embedding_type": ("rope",), "layer_norm_type": ("layer_norm",), "pack_qkv": (True,)}
TEXT_FAMILIES = {
    "new": _NEW,
    "gte": replace(
        _NEW,
        prefix="gte.",
        prefixes=("new.",),
        defaults={**_DEFAULTS, "vocab_size": 250048, "max_position_embeddings": 8192, "rope_theta": 160000.0},
        supported={"logn_attention_scale": (False,), **_USUAL},
        heads={
            "sequence-classification": POOLED,
            "token-classification": Head("classifier"),
            "masked-lm": replace(_MASKED, activation="gelu"),
        },
    ),
}
