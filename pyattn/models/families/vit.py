"""ViT: Dosovitskiy et al. 2020 (arXiv:2010.11929); DeiT: Touvron et al. 2020 (arXiv:2012.12877)."""

from dataclasses import replace

from pyattn.models.config import ModelConfig
from pyattn.models.families.bert import FEED_FORWARD, LAYER
from pyattn.models.family import Family
from pyattn.models.keys import layer_names, layer_of, norm_of, switch
from pyattn.models.spec import ModelSpec, Names, PatchSpec, StackSpec

DEFAULTS = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "hidden_act": "gelu", "image_size": 224,
    "patch_size": 16, "num_channels": 3, "qkv_bias": True,
}  # fmt: skip
_ATTENTION = tuple(f"attention.{x}" for x in ("attention.query", "attention.key", "attention.value", "output.dense"))
NAMES: Names = {
    "embeddings.class_token": "embeddings.cls_token",
    "embeddings.positions": "embeddings.position_embeddings",
    "embeddings.patches": "embeddings.patch_embeddings.projection",
    **layer_names(*LAYER, self_attn=_ATTENTION),
    "encoder.norm": "layernorm",
}
_VIT: Names = {**NAMES, **FEED_FORWARD, **layer_names(*LAYER, norm1="layernorm_before", norm2="layernorm_after")}
_DEIT: Names = {**_VIT, "embeddings.distillation_token": "embeddings.distillation_token"}


def image_spec(
    config: ModelConfig, names: Names, registers: int = 0, antialias: bool = False, gated: bool = False
) -> ModelSpec:
    """Layers over the patches of an image and the tokens that names have."""
    layer = layer_of(config, norm_placement="pre", gated=gated, in_proj_bias=switch(config.values, "qkv_bias"))
    if any(side < patch for side, patch in zip(config.image_size, config.patch_size, strict=True)):
        raise ValueError(f"image_size {config.image_size} is smaller than a patch, {config.patch_size}")
    tokens = tuple(x for x in ("class_token", "distillation_token") if f"embeddings.{x}" in names)
    sizes = (config.hidden_size, config.num_channels, config.image_size, config.patch_size)
    return ModelSpec(
        names,
        encoder=StackSpec((layer,) * config.num_hidden_layers, norm_of(config)),
        embeddings=PatchSpec(*sizes, tokens, registers, antialias),
    )


_FAMILY = Family(
    build=lambda config: image_spec(config, _VIT),
    prefix="vit.",
    defaults={**DEFAULTS, "intermediate_size": 3072, "layer_norm_eps": 1e-12},
    ignored=("pooler.", "classifier.", "cls_classifier.", "distillation_classifier.", "embeddings.mask_token"),
)

IMAGE_FAMILIES = {
    "vit": _FAMILY,
    "deit": replace(_FAMILY, prefix="deit.", build=lambda config: image_spec(config, _DEIT)),
}
