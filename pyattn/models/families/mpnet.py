"""MPNet: Song et al. 2020 (arXiv:2004.09297)."""

from dataclasses import replace
from typing import Any

from pyattn.models.config import ModelConfig
from pyattn.models.families.bert import DEFAULTS, EMBEDDINGS, FEED_FORWARD, LAYER, encoder_spec, positions_from
from pyattn.models.families.roberta import XLM_ROBERTA
from pyattn.models.family import Values
from pyattn.models.keys import layer_names
from pyattn.models.spec import ModelSpec, Names, RelativeSpec

_ATTENTION = ("attention.attn.q", "attention.attn.k", "attention.attn.v", "attention.attn.o")
_NAMES: Names = {
    **EMBEDDINGS,
    **FEED_FORWARD,
    **layer_names(*LAYER, self_attn=_ATTENTION, norm1="attention.LayerNorm", norm2="output.LayerNorm"),
    "encoder.position_bias": "encoder.relative_attention_bias",
}
_DEFAULTS = {key: value for key, value in DEFAULTS.items() if key != "type_vocab_size"}


def build(config: ModelConfig) -> ModelSpec:
    relative = RelativeSpec(config.relative_buckets, 128, config.num_attention_heads, bidirectional=True)
    return encoder_spec(config, _NAMES, relative=relative)


def _positions(values: Values, sizes: Values) -> dict[str, Any]:
    """Positions are counted from 2, whatever pad_token_id says."""
    if not 4 <= sizes["relative_buckets"] < 512:
        raise ValueError(f"relative_attention_num_buckets must be from 4 to 511, not {sizes['relative_buckets']}")
    return positions_from(2, sizes)


TEXT_FAMILIES = {
    "mpnet": replace(
        XLM_ROBERTA,
        build=build,
        prefix="mpnet.",
        defaults={**_DEFAULTS, "vocab_size": 30527, "relative_attention_num_buckets": 32},
        keys={"relative_buckets": ("relative_attention_num_buckets",)},
        supported={},
        derive=_positions,
    )
}
