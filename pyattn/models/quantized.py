"""What other tools make of weights: int8 with a scale for each row is read, the rest refused by the tool's name."""

from collections.abc import Mapping
from typing import Any

QUANTIZATION_KEYS = ("quantization_config", "compression_config")  # of config.json

ACCEPTED = (
    "not supported; read are float32, float16, bfloat16, float64, and int8 with one scale for each row, as "
    "compressed-tensors and bitsandbytes write it; load the model before that, with dtype='int8' if it is to be small"
)

_TOOLS = {name.lower(): name for name in ("GPTQ", "AWQ", "AQLM", "HQQ", "EETQ", "FP8", "MXFP4", "VPTQ", "SpQR", "GGUF")}

# Ends of names of what only a tool's files have
_MARKS = {
    "qweight": "GPTQ or AWQ",
    "qzeros": "GPTQ or AWQ",
    "weight_g_idx": "compressed-tensors, in an order of its own,",
    "g_idx": "GPTQ or AWQ",
    "weight_packed": "compressed-tensors, in less than 8 bits or in groups,",
    "weight_zero_point": "compressed-tensors, with zero points,",
    "weight_global_scale": "compressed-tensors, in less than 8 bits,",
    "input_scale": "compressed-tensors, with fixed scales of inputs,",
    "weight_scale_inv": "FP8",
    "SCB": "bitsandbytes",
    "absmax": "bitsandbytes, in 4 bits,",
    "quant_map": "bitsandbytes, in 4 bits,",
    "weight_scales": "EETQ",
    "codebooks": "AQLM",
    "W_q": "HQQ",
    "weight._data": "quanto",
    "weight._scale": "quanto",
    "_blocks": "MXFP4",
}


def check_quantization(config: Mapping[str, Any], source: str) -> None:
    """ValueError that names the tool unless the weights that a config.json describes may be such as are read."""
    for key in QUANTIZATION_KEYS:
        settings = config.get(key)
        if not settings:
            continue
        if not isinstance(settings, dict):
            raise ValueError(f"load: {source}: {key} must be an object, not {settings!r}")
        method = str(
            settings.get("quant_method") or ("bitsandbytes" if settings.get("load_in_8bit") else "no known tool")
        )
        if settings.get("load_in_4bit"):
            method = "bitsandbytes, in 4 bits,"
        refused = {"compressed-tensors": _beside_weights(settings), "bitsandbytes": ""}.get(method, method)
        if refused:
            raise ValueError(f"load: {source}: quantized by {_TOOLS.get(refused, refused)}: {ACCEPTED}")


def _beside_weights(settings: Mapping[str, Any]) -> str:
    """What a configuration of compressed-tensors says beside that weights are int8, which tensors themselves tell."""
    sparsity = settings.get("sparsity_config")
    if isinstance(sparsity, dict) and sparsity.get("format", "dense") != "dense":
        return f"compressed-tensors, sparse ({sparsity['format']}),"
    for key in ("kv_cache_scheme", "transform_config"):
        if settings.get(key):
            return f"compressed-tensors, with {key},"
    return ""


def tool_of(name: str, type: str) -> str | None:
    """The tool that makes tensors of such a name, or of such a type of safetensors."""
    if type.startswith(("F8_", "F6_", "F4")):
        return f"a tool that makes {type} of weights"
    return next((tool for end, tool in _MARKS.items() if name.endswith(end)), None)
