"""The encoders and decoders that configurations of generative models describe."""

from typing import Any

from pyattn.layers import (
    LayerNorm,
    RMSNorm,
    TransformerDecoder,
    TransformerDecoderLayer,
    TransformerEncoder,
    TransformerEncoderLayer,
)
from pyattn.layers.norm import Norm
from pyattn.models.config import GenerativeConfig


def _norm(config: GenerativeConfig, side: str) -> Norm | None:
    if f"{side}.norm" not in config.family.names:
        return None
    if config.norm == "rms":
        return RMSNorm(config.hidden_size, config.layer_norm_eps)
    return LayerNorm(config.hidden_size, config.layer_norm_eps)


def _shared(config: GenerativeConfig, dtype: str) -> dict[str, Any]:
    """What the layers of both sides have in common."""
    return {
        "activation": config.hidden_act,
        "layer_norm_eps": config.layer_norm_eps,
        "norm_first": config.family.norm_first,
        "bias": config.bias,
        "gated": config.gated,
        "norm": config.norm,
        "head_dim": config.head_dim or None,
        "scale": config.scale,
        "dtype": dtype,
    }


def encoder_of(config: GenerativeConfig, dtype: str) -> TransformerEncoder:
    layer = TransformerEncoderLayer(
        config.hidden_size, config.encoder_attention_heads, config.encoder_ffn_dim, **_shared(config, dtype)
    )
    return TransformerEncoder(layer, config.encoder_layers, _norm(config, "encoder"))


def decoder_of(config: GenerativeConfig, dtype: str) -> TransformerDecoder:
    layer = TransformerDecoderLayer(
        config.hidden_size,
        config.num_attention_heads,
        config.intermediate_size,
        cross_attention=bool(config.encoder_layers),
        num_key_value_heads=config.num_key_value_heads or None,
        **_shared(config, dtype),
    )
    decoder = TransformerDecoder(layer, config.num_hidden_layers, _norm(config, "decoder"))
    for number, rotary in enumerate(config.rotaries):
        decoder.layers[number].self_attn.rotary = rotary
    for number, window in enumerate(config.windows):
        if window is not None:
            decoder.layers[number].self_attn.left = window
    return decoder
