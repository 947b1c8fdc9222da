"""ELECTRA: Clark et al. 2020 (arXiv:2003.10555)."""

from typing import Any

from pyattn.models.config import ModelConfig
from pyattn.models.families.bert import ABSOLUTE, DEFAULTS, KEYS, NAMES, TOKEN_HEADS, WORDS, encoder_spec
from pyattn.models.family import Family, Head
from pyattn.models.spec import ModelSpec

_NAMES = {**NAMES, "embeddings.projection": "embeddings_project"}


def build(config: ModelConfig) -> ModelSpec:
    return encoder_spec(config, _NAMES, projected=config.embedding_size != config.hidden_size)


_DEFAULTS: dict[str, Any] = {
    **DEFAULTS, "embedding_size": 128, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024,
}  # fmt: skip

TEXT_FAMILIES = {
    "electra": Family(
        build=build,
        prefix="electra.",
        keys={**KEYS, "embedding_size": ("embedding_size",)},
        defaults=_DEFAULTS,
        supported=ABSOLUTE,
        heads={
            **TOKEN_HEADS,
            "sequence-classification": Head(
                "classifier.out_proj", dense="classifier.dense", activation="gelu", of_sequence=True
            ),
            "masked-lm": Head(
                "generator_lm_head",
                dense="generator_predictions.dense",
                activation="gelu",
                norm="generator_predictions.LayerNorm",
            ),
        },
        tied=(WORDS, "generator_lm_head.weight"),
        ignored=("embeddings.position_ids", "discriminator_predictions."),
    )
}
