"""BERT: Devlin et al. 2018 (arXiv:1810.04805); names and parts of the encoders of texts that were made after it."""

from collections.abc import Mapping
from typing import Any

from pyattn.layers.config import LayerConfig
from pyattn.models.config import ModelConfig
from pyattn.models.family import Family, Head
from pyattn.models.keys import TIED, layer_of, norm_of, projections, same
from pyattn.models.spec import ModelSpec, Names, RelativeSpec, StackSpec, TokenSpec

SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
KEYS = same(*SIZES, "layer_norm_eps", "vocab_size", "max_position_embeddings", "type_vocab_size") | TIED
ABSOLUTE = {"position_embedding_type": ("absolute",), "is_decoder": (False,), "add_cross_attention": (False,)}
DEFAULTS: dict[str, Any] = {
    "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "hidden_act": "gelu", "max_position_embeddings": 512, "type_vocab_size": 2,
    "layer_norm_eps": 1e-12, "tie_word_embeddings": True,
}  # fmt: skip

WORDS = "embeddings.word_embeddings.weight"
EMBEDDINGS: Names = {
    "embeddings.words": WORDS,
    "embeddings.positions": "embeddings.position_embeddings.weight",
    "embeddings.token_types": "embeddings.token_type_embeddings.weight",
    "embeddings.norm": "embeddings.LayerNorm",
}
FEED_FORWARD: Names = {
    "encoder.layers.{}.linear1": "encoder.layer.{}.intermediate.dense",
    "encoder.layers.{}.linear2": "encoder.layer.{}.output.dense",
}
NAMES: Names = {
    **EMBEDDINGS,
    **FEED_FORWARD,
    **projections("encoder.layers.{}.self_attn", "encoder.layer.{}.attention.self", ("query", "key", "value")),
    "encoder.layers.{}.self_attn.out_proj": "encoder.layer.{}.attention.output.dense",
    "encoder.layers.{}.norm1": "encoder.layer.{}.attention.output.LayerNorm",
    "encoder.layers.{}.norm2": "encoder.layer.{}.output.LayerNorm",
}

TOKEN_HEADS = {
    "token-classification": Head("classifier"),
    "question-answering": Head("qa_outputs"),
}
POOLED = Head("classifier", dense="pooler.dense", activation="tanh", of_sequence=True)


def encoder_spec(
    config: ModelConfig,
    names: Names,
    layers: tuple[LayerConfig, ...] = (),
    *,
    projected: bool = False,
    relative: RelativeSpec | None = None,
    order: tuple[int, ...] = (),
) -> ModelSpec:
    """A stack behind the tables that names have; of BERT's layers, unless others are given."""
    embeddings = TokenSpec(
        config.embedding_size or config.hidden_size,
        config.vocab_size,
        (config.first_position + config.max_position_embeddings) * ("embeddings.positions" in names),
        config.first_position,
        token_types=config.type_vocab_size,
        norm=norm_of(config),
        projection=config.hidden_size * projected,
    )
    stack = StackSpec(layers or (layer_of(config),) * config.num_hidden_layers, relative=relative, order=order)
    return ModelSpec(names, encoder=stack, encoder_embeddings=embeddings)


def positions_from(first: int, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Positions of tokens begin in such a row of their table."""
    longest = sizes["max_position_embeddings"] - first
    if longest < 1:
        raise ValueError(f"max_position_embeddings must be above pad_token_id + 1, {first}")
    return {"first_position": first, "max_position_embeddings": longest}


def build(config: ModelConfig) -> ModelSpec:
    return encoder_spec(config, NAMES)


TEXT_FAMILIES = {
    "bert": Family(
        build=build,
        prefix="bert.",
        keys=KEYS,
        defaults=DEFAULTS,
        supported=ABSOLUTE,
        heads={
            **TOKEN_HEADS,
            "sequence-classification": POOLED,
            "masked-lm": Head(
                "cls.predictions.decoder",
                dense="cls.predictions.transform.dense",
                norm="cls.predictions.transform.LayerNorm",
                out_bias="cls.predictions.bias",
            ),
        },
        tied=(WORDS, "cls.predictions.decoder.weight"),
        ignored=("embeddings.position_ids", "cls."),
    )
}
