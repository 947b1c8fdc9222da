"""RoBERTa: Liu et al. 2019 (arXiv:1907.11692); XLM-RoBERTa and CamemBERT differ in their vocabularies."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pyattn.models.config import ModelConfig
from pyattn.models.families.bert import (
    ABSOLUTE,
    DEFAULTS,
    KEYS,
    NAMES,
    TOKEN_HEADS,
    WORDS,
    encoder_spec,
    positions_from,
)
from pyattn.models.family import Family, Head
from pyattn.models.keys import integer
from pyattn.models.spec import ModelSpec

HEADS = {
    **TOKEN_HEADS,
    "sequence-classification": Head(
        "classifier.out_proj", dense="classifier.dense", activation="tanh", of_sequence=True
    ),
    "masked-lm": Head(
        "lm_head.decoder",
        dense="lm_head.dense",
        activation="gelu",
        norm="lm_head.layer_norm",
        out_bias="lm_head.bias",
    ),
}


def build(config: ModelConfig) -> ModelSpec:
    return encoder_spec(config, NAMES)


def _padded_positions(values: Mapping[str, Any], sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Positions are counted from behind that of padding."""
    return positions_from(integer(values, "pad_token_id", least=0) + 1, sizes)


_XLM_ROBERTA = Family(
    build=build,
    prefix="roberta.",
    keys=KEYS,
    defaults={**DEFAULTS, "pad_token_id": 1},
    supported=ABSOLUTE,
    derive=_padded_positions,
    heads=HEADS,
    tied=(WORDS, "lm_head.decoder.weight"),
    ignored=("embeddings.position_ids", "pooler."),
)

TEXT_FAMILIES = {
    "roberta": replace(_XLM_ROBERTA, defaults={**_XLM_ROBERTA.defaults, "vocab_size": 50265}),
    "xlm-roberta": _XLM_ROBERTA,
    "camembert": _XLM_ROBERTA,
}
