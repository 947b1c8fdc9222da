"""MPNet: Song et al. 2020 (arXiv:2004.09297)."""

from collections.abc import Mapping
from typing import Any

from pyattn.models.config import ModelConfig
from pyattn.models.families.bert import DEFAULTS, EMBEDDINGS, FEED_FORWARD, KEYS, WORDS, encoder_spec, positions_from
from pyattn.models.families.roberta import HEADS
from pyattn.models.family import Family
from pyattn.models.keys import projections
from pyattn.models.spec import ModelSpec, Names, RelativeSpec

_NAMES: Names = {
    **EMBEDDINGS,
    **FEED_FORWARD,
    **projections("encoder.layers.{}.self_attn", "encoder.layer.{}.attention.attn", "qkv"),
    "encoder.position_bias": "encoder.relative_attention_bias",
    "encoder.layers.{}.self_attn.out_proj": "encoder.layer.{}.attention.attn.o",
    "encoder.layers.{}.norm1": "encoder.layer.{}.attention.LayerNorm",
    "encoder.layers.{}.norm2": "encoder.layer.{}.output.LayerNorm",
}


def build(config: ModelConfig) -> ModelSpec:
    relative = RelativeSpec(config.relative_buckets, 128, config.num_attention_heads, bidirectional=True)
    return encoder_spec(config, _NAMES, relative=relative)


def _positions(values: Mapping[str, Any], sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Positions are counted from 2, whatever pad_token_id says."""
    if not 4 <= sizes["relative_buckets"] < 512:
        raise ValueError(f"relative_attention_num_buckets must be from 4 to 511, not {sizes['relative_buckets']}")
    return positions_from(2, sizes)


TEXT_FAMILIES = {
    "mpnet": Family(
        build=build,
        prefix="mpnet.",
        keys={
            **{name: keys for name, keys in KEYS.items() if name != "type_vocab_size"},
            "relative_buckets": ("relative_attention_num_buckets",),
        },
        defaults={**DEFAULTS, "vocab_size": 30527, "relative_attention_num_buckets": 32},
        derive=_positions,
        heads=HEADS,
        tied=(WORDS, "lm_head.decoder.weight"),
        ignored=("embeddings.position_ids", "pooler."),
    )
}
