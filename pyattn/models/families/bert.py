"""BERT: Devlin et al. 2018 (arXiv:1810.04805); names and parts of the encoders of texts that were made after it.

JinaBERT (Jina Embeddings 2; Günther et al. 2023, arXiv:2310.19923) goes by the same model_type.
"""

from dataclasses import replace
from typing import Any

from pyattn import _checks
from pyattn.layers.config import LayerConfig
from pyattn.models.config import ModelConfig
from pyattn.models.family import Family, Head, Values
from pyattn.models.keys import layer_names, layer_of, norm_of
from pyattn.models.spec import ModelSpec, Names, StackSpec, TokenSpec

DEFAULTS = {
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
LAYER = ("encoder.layers.{}", "encoder.layer.{}")
FEED_FORWARD: Names = layer_names(*LAYER, linear1="intermediate.dense", linear2="output.dense")
FEED_FORWARD_OF_JINA: Names = layer_names(*LAYER, linear1="mlp.gated_layers", linear2="mlp.wo", norm2="mlp.layernorm")
_ATTENTION = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
NAMES: Names = {
    **EMBEDDINGS,
    **FEED_FORWARD,
    **layer_names(*LAYER, self_attn=_ATTENTION, norm1="attention.output.LayerNorm", norm2="output.LayerNorm"),
}

TOKEN_HEADS = {"token-classification": Head("classifier"), "question-answering": Head("qa_outputs")}
POOLED = Head("classifier", dense="pooler.dense", activation="tanh", of_sequence=True)
_MASKED = "cls.predictions"


def encoder_spec(
    config: ModelConfig,
    names: Names = NAMES,
    layers: tuple[LayerConfig, ...] = (),
    projected: bool = False,
    **of_stack: Any,
) -> ModelSpec:
    """A stack after the tables that names have; of BERT's layers, unless others are given."""
    embeddings = TokenSpec(
        config.embedding_size or config.hidden_size,
        config.vocab_size,
        (config.first_position + config.max_position_embeddings) * ("embeddings.positions" in names),
        config.first_position,
        token_types=config.type_vocab_size,
        norm=norm_of(config),
        projection=config.hidden_size * projected,
    )
    layers = layers or (layer_of(config),) * config.num_hidden_layers
    return ModelSpec(names, encoder=StackSpec(layers, **of_stack), embeddings=embeddings)


def positions_from(first: int, sizes: Values) -> dict[str, Any]:
    """Positions of tokens begin in such a row of their table."""
    longest = sizes["max_position_embeddings"] - first
    if longest < 1:
        raise ValueError(f"max_position_embeddings must be above pad_token_id + 1, {first}")
    return {"first_position": first, "max_position_embeddings": longest}


_GATES = {"geglu": "gelu", "reglu": "relu"}


def build(config: ModelConfig) -> ModelSpec:
    """BERT; or with -m |i - j| added to logits in place of positions, and mostly gated blocks: JinaBERT."""
    kind = config.values.get("feed_forward_type")
    if config.values.get("position_embedding_type") != "alibi":
        if kind is not None:
            raise ValueError(f"feed_forward_type {kind!r} is of models with position_embedding_type 'alibi'")
        return encoder_spec(config)
    if "qk-post-norm" in str(config.values.get("auto_map")):
        raise ValueError("auto_map names jina-bert-v2-qk-post-norm, whose norms of queries and keys are not supported")
    kind = _checks.choice("load", "feed_forward_type", "original" if kind is None else kind, ("original", *_GATES))
    gated = {"gated": True, "activation": _GATES[kind]} if kind in _GATES else {}
    names = {name: x for name, x in NAMES.items() if name != "embeddings.positions"}
    layers = (layer_of(config, alibi=True, **gated),) * config.num_hidden_layers
    return encoder_spec(config, {**names, **(FEED_FORWARD_OF_JINA if gated else {})}, layers)


BERT = Family(
    build=encoder_spec,
    prefix="bert.",
    defaults=DEFAULTS,
    supported={"position_embedding_type": ("absolute",), "is_decoder": (False,), "add_cross_attention": (False,)},
    heads={
        **TOKEN_HEADS,
        "sequence-classification": POOLED,
        "masked-lm": Head(
            f"{_MASKED}.decoder",
            dense=f"{_MASKED}.transform.dense",
            norm=f"{_MASKED}.transform.LayerNorm",
            out_bias=f"{_MASKED}.bias",
        ),
    },
    tied=(WORDS, f"{_MASKED}.decoder.weight"),
    ignored=("embeddings.position_ids", "cls."),
)
TEXT_FAMILIES = {
    "bert": replace(
        BERT,
        build=build,
        supported={**BERT.supported, "position_embedding_type": ("absolute", "alibi")},
        lacks=("mlp.gated_layers.bias",),
    )
}
