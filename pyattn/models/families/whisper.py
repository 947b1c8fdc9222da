"""Whisper: Radford et al. 2022 (arXiv:2212.04356)."""

from dataclasses import replace

from pyattn.models.config import ModelConfig
from pyattn.models.families import bart
from pyattn.models.spec import FrameSpec, ModelSpec, Names

_NAMES: Names = {
    **bart.LAYER_NAMES,
    **bart.FINAL_NORMS,
    **bart.POSITIONS,
    "words": "decoder.embed_tokens.weight",
    "head.weight": "proj_out.weight",
    "encoder_embeddings.conv1": "encoder.conv1",
    "encoder_embeddings.conv2": "encoder.conv2",
}
_DEFAULTS = {
    "vocab_size": 51865, "num_mel_bins": 80, "encoder_layers": 4, "encoder_attention_heads": 6, "encoder_ffn_dim": 1536,
    "decoder_layers": 4, "decoder_attention_heads": 6, "decoder_ffn_dim": 1536, "activation_function": "gelu",
    "d_model": 384, "max_source_positions": 1500, "max_target_positions": 448, "scale_embedding": False,
    "tie_word_embeddings": True,
}  # fmt: skip


def build(config: ModelConfig) -> ModelSpec:
    frames = FrameSpec(config.hidden_size, config.num_mel_bins, config.max_source_positions)
    # scale_embedding changes nothing in transformers
    return bart.two_sides(config, _NAMES, "pre", frames, scale=1.0)


GENERATIVE_FAMILIES = {
    "whisper": replace(
        bart.BART,
        build=build,
        defaults=_DEFAULTS,
        keys={
            **bart.KEYS,
            "encoder_attention_heads": ("encoder_attention_heads", "num_attention_heads", "num_key_value_heads"),
            "max_position_embeddings": ("max_target_positions",),
        },
        supported={},
        tied=("decoder.embed_tokens.weight", "proj_out.weight"),
        lacks=(".k_proj.bias",),
    )
}
