"""DINOv2: Oquab et al. 2023 (arXiv:2304.07193); with registers: Darcet et al. 2023 (arXiv:2309.16588)."""

from dataclasses import replace
from typing import Any

from pyattn.models.config import ModelConfig
from pyattn.models.families.bert import LAYER
from pyattn.models.families.vit import DEFAULTS, NAMES, image_spec
from pyattn.models.family import Family, Values
from pyattn.models.keys import integer, layer_names, positive, switch
from pyattn.models.spec import ModelSpec, Names

_NAMES: Names = {
    **NAMES,
    **layer_names(*LAYER, norm1="norm1", norm2="norm2", linear1="mlp.fc1", linear2="mlp.fc2"),
}
_GATED: Names = layer_names(*LAYER, linear1="mlp.weights_in", linear2="mlp.weights_out")


def build(config: ModelConfig, names: Names = _NAMES, registers: int = 0, antialias: bool = False) -> ModelSpec:
    gated = switch(config.values, "use_swiglu_ffn")
    return image_spec(config, {**names, **(_GATED if gated else {})}, registers, antialias, gated)


def build_with_registers(config: ModelConfig) -> ModelSpec:
    registers = integer(config.values, "num_register_tokens", least=0)
    names = {**_NAMES, "embeddings.register_tokens": "embeddings.register_tokens"}
    return build(config, names, registers, antialias=True)


def _sizes(values: Values, sizes: Values) -> dict[str, Any]:
    inner = max(1, int(sizes["hidden_size"] * positive("mlp_ratio", values["mlp_ratio"], limit=1000)))
    if switch(values, "use_swiglu_ffn"):
        return {"intermediate_size": (int(inner * 2 / 3) + 7) // 8 * 8, "hidden_act": "silu"}
    return {"intermediate_size": inner}


_FAMILY = Family(
    build=build,
    prefix="dinov2.",
    defaults={**DEFAULTS, "patch_size": 14, "mlp_ratio": 4, "layer_norm_eps": 1e-6, "use_swiglu_ffn": False},
    derive=_sizes,
    scales={
        "encoder.layers.{}.self_attn.out_proj": "encoder.layer.{}.layer_scale1.lambda1",
        "encoder.layers.{}.linear2": "encoder.layer.{}.layer_scale2.lambda1",
    },
    ignored=("classifier.", "embeddings.mask_token"),
)

IMAGE_FAMILIES = {
    "dinov2": _FAMILY,
    "dinov2_with_registers": replace(
        _FAMILY,
        build=build_with_registers,
        prefix="dinov2_with_registers.",
        defaults={**_FAMILY.defaults, "patch_size": 16, "num_register_tokens": 4},
    ),
}
