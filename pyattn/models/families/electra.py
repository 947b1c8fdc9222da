"""ELECTRA: Clark et al. 2020 (arXiv:2003.10555)."""

from dataclasses import replace

from pyattn.models.config import ModelConfig
from pyattn.models.families.bert import BERT, NAMES, TOKEN_HEADS, WORDS, encoder_spec
from pyattn.models.family import Head
from pyattn.models.spec import ModelSpec

_NAMES = {**NAMES, "embeddings.projection": "embeddings_project"}
_DEFAULTS = {
    **BERT.defaults, "embedding_size": 128, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024,
}  # fmt: skip
_CLASSIFIER = Head("classifier.out_proj", dense="classifier.dense", activation="gelu", of_sequence=True)
_MASKED = Head(
    "generator_lm_head", dense="generator_predictions.dense", activation="gelu", norm="generator_predictions.LayerNorm"
)


def build(config: ModelConfig) -> ModelSpec:
    return encoder_spec(config, _NAMES, projected=config.embedding_size != config.hidden_size)


TEXT_FAMILIES = {
    "electra": replace(
        BERT,
        build=build,
        prefix="electra.",
        defaults=_DEFAULTS,
        heads={**TOKEN_HEADS, "sequence-classification": _CLASSIFIER, "masked-lm": _MASKED},
        tied=(WORDS, "generator_lm_head.weight"),
        ignored=("embeddings.position_ids", "discriminator_predictions."),
    )
}
