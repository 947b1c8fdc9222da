"""ALBERT: Lan et al. 2019 (arXiv:1909.11942)."""

from dataclasses import replace

from pyattn.models.config import ModelConfig
from pyattn.models.families.bert import BERT, EMBEDDINGS, TOKEN_HEADS, WORDS, encoder_spec
from pyattn.models.family import Head
from pyattn.models.keys import layer_names, layer_of
from pyattn.models.spec import ModelSpec, Names

_NAMES: Names = {
    **EMBEDDINGS,
    "embeddings.projection": "encoder.embedding_hidden_mapping_in",
    **layer_names(
        "encoder.layers.{}", "encoder.albert_layer_groups.{}.albert_layers.0",
        self_attn=("attention.query", "attention.key", "attention.value", "attention.dense"),
        norm1="attention.LayerNorm", linear1="ffn", linear2="ffn_output", norm2="full_layer_layer_norm",
    ),
}  # fmt: skip
_DEFAULTS = {
    **BERT.defaults, "vocab_size": 30000, "embedding_size": 128, "hidden_size": 4096, "num_hidden_groups": 1,
    "num_attention_heads": 64, "intermediate_size": 16384, "hidden_act": "gelu_new",
}  # fmt: skip
_CLASSIFIER = Head("classifier", dense="pooler", activation="tanh", of_sequence=True)
_MASKED = Head(
    "predictions.decoder", dense="predictions.dense", norm="predictions.LayerNorm", out_bias="predictions.bias"
)


def build(config: ModelConfig) -> ModelSpec:
    """Each layer of its own, of a group in transformers' words, runs several times in a row."""
    runs, distinct = config.num_hidden_layers, config.distinct_layers
    order = tuple(int(i / (runs / distinct)) for i in range(runs)) if runs > distinct else ()
    return encoder_spec(config, _NAMES, (layer_of(config),) * distinct, projected=True, order=order)


TEXT_FAMILIES = {
    "albert": replace(
        BERT,
        build=build,
        prefix="albert.",
        defaults=_DEFAULTS,
        keys={"distinct_layers": ("num_hidden_groups",)},
        supported={"position_embedding_type": ("absolute",), "inner_group_num": (1,)},
        heads={**TOKEN_HEADS, "sequence-classification": _CLASSIFIER, "masked-lm": _MASKED},
        tied=(WORDS, "predictions.decoder.weight"),
        ignored=("embeddings.position_ids", "sop_classifier."),
    )
}
