"""The families of encoders of images; tables as in families.py."""

from collections.abc import Mapping
from typing import Any

from pyattn.models.family import FEED_FORWARD, Derive, Family, Names, integer, same, switch

_IMAGE = same("hidden_size", "num_hidden_layers", "num_attention_heads", "hidden_act", "layer_norm_eps")
_IMAGE |= same("image_size", "patch_size", "num_channels")
_IMAGE_NAMES: Names = {
    "embeddings.class_token": "embeddings.cls_token",
    "embeddings.positions": "embeddings.position_embeddings",
    "embeddings.patches": "embeddings.patch_embeddings.projection",
    "encoder.layers.{}.self_attn.in_proj": (
        "encoder.layer.{}.attention.attention.query",
        "encoder.layer.{}.attention.attention.key",
        "encoder.layer.{}.attention.attention.value",
    ),
    "encoder.layers.{}.self_attn.out_proj": "encoder.layer.{}.attention.output.dense",
    "encoder.norm": "layernorm",
}


def _bias_of_queries(values: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    return {} if switch(values, "qkv_bias") else {"without_bias": frozenset(["self_attn.in_proj"])}


def _vit(prefix: str, **more: str) -> Family:
    return Family(
        prefix,
        {**_IMAGE, "intermediate_size": ("intermediate_size",)},
        {
            **_IMAGE_NAMES,
            **FEED_FORWARD,
            **more,
            "encoder.layers.{}.norm1": "encoder.layer.{}.layernorm_before",
            "encoder.layers.{}.norm2": "encoder.layer.{}.layernorm_after",
        },
        norm_first=True,
        derive=_bias_of_queries,
        ignored=("pooler.", "classifier.", "cls_classifier.", "distillation_classifier.", "embeddings.mask_token"),
    )


def _dinov2(values: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    ratio = values["mlp_ratio"]
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio < 1000:
        raise ValueError(f"mlp_ratio must be a positive number, not {ratio!r}")
    inner = max(1, int(fields["hidden_size"] * ratio))
    derived = _bias_of_queries(values, fields) | {"intermediate_size": inner}
    if switch(values, "use_swiglu_ffn"):
        derived |= {"intermediate_size": (int(inner * 2 / 3) + 7) // 8 * 8, "gated": True, "hidden_act": "silu"}
    return derived


def _registers(values: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    return _dinov2(values, fields) | {"num_register_tokens": integer(values, "num_register_tokens", least=0)}


def _dino(prefix: str, derive: Derive, antialias: bool, **more: str) -> Family:
    return Family(
        prefix,
        _IMAGE,
        {
            **_IMAGE_NAMES,
            **more,
            "encoder.layers.{}.norm1": "encoder.layer.{}.norm1",
            "encoder.layers.{}.norm2": "encoder.layer.{}.norm2",
            "encoder.layers.{}.linear1": "encoder.layer.{}.mlp.fc1",
            "encoder.layers.{}.linear2": "encoder.layer.{}.mlp.fc2",
        },
        names_if_gated={
            "encoder.layers.{}.linear1": "encoder.layer.{}.mlp.weights_in",
            "encoder.layers.{}.linear2": "encoder.layer.{}.mlp.weights_out",
        },
        scales={
            "encoder.layers.{}.self_attn.out_proj": "encoder.layer.{}.layer_scale1.lambda1",
            "encoder.layers.{}.linear2": "encoder.layer.{}.layer_scale2.lambda1",
        },
        norm_first=True,
        fixed={"antialias": antialias},
        derive=derive,
        ignored=("classifier.", "embeddings.mask_token"),
    )


IMAGE_FAMILIES: dict[str, Family] = {
    "vit": _vit("vit."),
    "deit": _vit("deit.", **{"embeddings.distillation_token": "embeddings.distillation_token"}),
    "dinov2": _dino("dinov2.", _dinov2, antialias=False),
    "dinov2_with_registers": _dino(
        "dinov2_with_registers.",
        _registers,
        antialias=True,
        **{"embeddings.register_tokens": "embeddings.register_tokens"},
    ),
}
