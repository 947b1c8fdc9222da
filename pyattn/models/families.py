"""The families of encoders: for each, what config.json and the tensors call what pyattn's layers compute.

To add one: an entry in FAMILIES. Names of tensors are Hugging Face's as they stand in published files; {} is the number
of a layer. A name on the left is a parameter of TextEncoder or ImageEncoder, or one without its ".weight" and ".bias";
several on the right are parts of one, along its first axis.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pyattn.models.family import (
    FEED_FORWARD,
    Family,
    Head,
    Names,
    choice,
    integer,
    layer_types,
    rotary,
    same,
    switch,
    whole_heads,
)
from pyattn.models.image_families import IMAGE_FAMILIES

_LAYERS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
_TIED = {"tied": ("tie_word_embeddings",)}
_TEXT = same(*_LAYERS, "layer_norm_eps", "vocab_size", "max_position_embeddings", "type_vocab_size") | _TIED
_WITHOUT_TYPES = {name: keys for name, keys in _TEXT.items() if name != "type_vocab_size"}
_ABSOLUTE = {"position_embedding_type": ("absolute",), "is_decoder": (False,), "add_cross_attention": (False,)}
_WORDS = "embeddings.word_embeddings.weight"

_EMBEDDINGS: Names = {
    "embeddings.words": _WORDS,
    "embeddings.positions": "embeddings.position_embeddings.weight",
    "embeddings.token_types": "embeddings.token_type_embeddings.weight",
    "embeddings.norm": "embeddings.LayerNorm",
}
_BERT_NAMES: Names = {
    **_EMBEDDINGS,
    **FEED_FORWARD,
    "encoder.layers.{}.self_attn.in_proj": (
        "encoder.layer.{}.attention.self.query",
        "encoder.layer.{}.attention.self.key",
        "encoder.layer.{}.attention.self.value",
    ),
    "encoder.layers.{}.self_attn.out_proj": "encoder.layer.{}.attention.output.dense",
    "encoder.layers.{}.norm1": "encoder.layer.{}.attention.output.LayerNorm",
    "encoder.layers.{}.norm2": "encoder.layer.{}.output.LayerNorm",
}

_PLAIN_HEADS = {
    "token-classification": Head("classifier"),
    "question-answering": Head("qa_outputs"),
}
_POOLED = Head("classifier", dense="pooler.dense", activation="tanh", of_sequence=True)
_BERT_HEADS = {
    **_PLAIN_HEADS,
    "sequence-classification": _POOLED,
    "masked-lm": Head(
        "cls.predictions.decoder",
        dense="cls.predictions.transform.dense",
        norm="cls.predictions.transform.LayerNorm",
        out_bias="cls.predictions.bias",
    ),
}
_ROBERTA_HEADS = {
    **_PLAIN_HEADS,
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


def _from_position(first: int, fields: Mapping[str, Any]) -> dict[str, Any]:
    longest = fields["max_position_embeddings"] - first
    if longest < 1:
        raise ValueError(f"max_position_embeddings must be above pad_token_id + 1, {first}")
    return {"first_position": first, "max_position_embeddings": longest}


def _padded_positions(values: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Positions are counted from behind that of padding."""
    return _from_position(integer(values, "pad_token_id", least=0) + 1, fields)


_BERT = Family(
    "bert.",
    _TEXT,
    _BERT_NAMES,
    _BERT_HEADS,
    supported=_ABSOLUTE,
    tied=(_WORDS, "cls.predictions.decoder.weight"),
    ignored=("embeddings.position_ids", "cls."),
)

_ROBERTA = Family(
    "roberta.",
    _TEXT,
    _BERT_NAMES,
    _ROBERTA_HEADS,
    supported=_ABSOLUTE,
    derive=_padded_positions,
    tied=(_WORDS, "lm_head.decoder.weight"),
    ignored=("embeddings.position_ids", "pooler."),
)

_DISTILBERT = Family(
    "distilbert.",
    {
        "hidden_size": ("dim", "hidden_size"),
        "num_hidden_layers": ("n_layers", "num_hidden_layers"),
        "num_attention_heads": ("n_heads", "num_attention_heads"),
        "intermediate_size": ("hidden_dim",),
        "hidden_act": ("activation",),
        **same("vocab_size", "max_position_embeddings"),
        **_TIED,
    },
    {
        **_EMBEDDINGS,
        "encoder.layers.{}.self_attn.in_proj": (
            "transformer.layer.{}.attention.q_lin",
            "transformer.layer.{}.attention.k_lin",
            "transformer.layer.{}.attention.v_lin",
        ),
        "encoder.layers.{}.self_attn.out_proj": "transformer.layer.{}.attention.out_lin",
        "encoder.layers.{}.norm1": "transformer.layer.{}.sa_layer_norm",
        "encoder.layers.{}.linear1": "transformer.layer.{}.ffn.lin1",
        "encoder.layers.{}.linear2": "transformer.layer.{}.ffn.lin2",
        "encoder.layers.{}.norm2": "transformer.layer.{}.output_layer_norm",
    },
    {
        **_PLAIN_HEADS,
        "sequence-classification": Head("classifier", dense="pre_classifier", activation="relu", of_sequence=True),
        "masked-lm": Head("vocab_projector", dense="vocab_transform", norm="vocab_layer_norm"),
    },
    fixed={"layer_norm_eps": 1e-12},
    tied=(_WORDS, "vocab_projector.weight"),
    ignored=("embeddings.position_ids",),
)


def _mpnet(values: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Positions are counted from 2, whatever pad_token_id says."""
    if not 4 <= fields["relative_buckets"] < 512:
        raise ValueError(f"relative_attention_num_buckets must be from 4 to 511, not {fields['relative_buckets']}")
    return _from_position(2, fields)


_MPNET = Family(
    "mpnet.",
    {**_WITHOUT_TYPES, "relative_buckets": ("relative_attention_num_buckets",)},
    {
        **_EMBEDDINGS,
        **FEED_FORWARD,
        "relative_bias": "encoder.relative_attention_bias.weight",
        "encoder.layers.{}.self_attn.in_proj": (
            "encoder.layer.{}.attention.attn.q",
            "encoder.layer.{}.attention.attn.k",
            "encoder.layer.{}.attention.attn.v",
        ),
        "encoder.layers.{}.self_attn.out_proj": "encoder.layer.{}.attention.attn.o",
        "encoder.layers.{}.norm1": "encoder.layer.{}.attention.LayerNorm",
        "encoder.layers.{}.norm2": "encoder.layer.{}.output.LayerNorm",
    },
    _ROBERTA_HEADS,
    derive=_mpnet,
    tied=(_WORDS, "lm_head.decoder.weight"),
    ignored=("embeddings.position_ids", "pooler."),
)

_ALBERT_LAYER = "encoder.albert_layer_groups.{}.albert_layers.0"
_ALBERT = Family(
    "albert.",
    {**_TEXT, "embedding_size": ("embedding_size",), "distinct_layers": ("num_hidden_groups",)},
    {
        **_EMBEDDINGS,
        "embeddings.projection": "encoder.embedding_hidden_mapping_in",
        "encoder.layers.{}.self_attn.in_proj": (
            f"{_ALBERT_LAYER}.attention.query",
            f"{_ALBERT_LAYER}.attention.key",
            f"{_ALBERT_LAYER}.attention.value",
        ),
        "encoder.layers.{}.self_attn.out_proj": f"{_ALBERT_LAYER}.attention.dense",
        "encoder.layers.{}.norm1": f"{_ALBERT_LAYER}.attention.LayerNorm",
        "encoder.layers.{}.linear1": f"{_ALBERT_LAYER}.ffn",
        "encoder.layers.{}.linear2": f"{_ALBERT_LAYER}.ffn_output",
        "encoder.layers.{}.norm2": f"{_ALBERT_LAYER}.full_layer_layer_norm",
    },
    {
        **_PLAIN_HEADS,
        "sequence-classification": Head("classifier", dense="pooler", activation="tanh", of_sequence=True),
        "masked-lm": Head(
            "predictions.decoder",
            dense="predictions.dense",
            norm="predictions.LayerNorm",
            out_bias="predictions.bias",
        ),
    },
    fixed={"projected": True},
    supported={"position_embedding_type": ("absolute",), "inner_group_num": (1,)},
    tied=(_WORDS, "predictions.decoder.weight"),
    ignored=("embeddings.position_ids", "sop_classifier."),
)

_ELECTRA = Family(
    "electra.",
    {**_TEXT, "embedding_size": ("embedding_size",)},
    {**_BERT_NAMES, "embeddings.projection": "embeddings_project"},
    {
        **_PLAIN_HEADS,
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
    supported=_ABSOLUTE,
    derive=lambda values, fields: {"projected": fields["embedding_size"] != fields["hidden_size"]},
    tied=(_WORDS, "generator_lm_head.weight"),
    ignored=("embeddings.position_ids", "discriminator_predictions."),
)


def _modernbert(values: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Every third layer sees all tokens; the others see near ones, with rotary positions of their own."""
    layers = fields["num_hidden_layers"]
    kinds = values["layer_types"]
    if kinds is None:
        every = integer(values, "global_attn_every_n_layers", least=1)
        kinds = ["sliding_attention" if i % every else "full_attention" for i in range(layers)]
    kinds = layer_types(kinds, layers)
    told = values["rope_parameters"] or {}
    if not told.keys() <= {"full_attention", "sliding_attention"}:
        raise ValueError("rope_parameters must be of 'full_attention' and 'sliding_attention'")
    local = values["local_rope_theta"]
    bases = {"full_attention": values["global_rope_theta"]}
    bases["sliding_attention"] = bases["full_attention"] if local is None else local
    rotaries = {
        kind: rotary(
            {**(told.get(kind) or {}), **(values["rope_scaling"] or {})}, base, fields["max_position_embeddings"]
        )
        for kind, base in bases.items()
    }
    near = integer(values, "local_attention", least=0) // 2
    if values.get("sliding_window", near) != near:
        raise ValueError(f"sliding_window must be half of local_attention, {near}, not {values['sliding_window']!r}")
    without = []
    if not switch(values, "attention_bias"):
        without += ["self_attn.in_proj", "self_attn.out_proj"]
    if not switch(values, "mlp_bias"):
        without += ["linear1", "linear2"]
    if not switch(values, "norm_bias"):
        without += ["norm1", "norm2", "norm"]
    return {
        "rotaries": tuple(rotaries[kind] for kind in kinds),
        "windows": tuple(near if kind == "sliding_attention" else None for kind in kinds),
        "pooling": choice(values, "classifier_pooling", ("cls", "mean")),
        "without_bias": frozenset(without),
    }


_MODERNBERT_HEAD = Head(
    "classifier",
    dense="head.dense",
    norm="head.norm",
    activation_key="classifier_activation",
    bias_keys={"dense": "classifier_bias", "norm": "norm_bias"},
)
_MODERNBERT = Family(
    "model.",
    {**_WITHOUT_TYPES, "layer_norm_eps": ("norm_eps",), "hidden_act": ("hidden_activation",)},
    {
        "embeddings.words": "embeddings.tok_embeddings.weight",
        "embeddings.norm": "embeddings.norm",
        "encoder.layers.{}.norm1": "layers.{}.attn_norm",
        "encoder.layers.{}.self_attn.in_proj": "layers.{}.attn.Wqkv",
        "encoder.layers.{}.self_attn.out_proj": "layers.{}.attn.Wo",
        "encoder.layers.{}.norm2": "layers.{}.mlp_norm",
        "encoder.layers.{}.linear1": "layers.{}.mlp.Wi",
        "encoder.layers.{}.linear2": "layers.{}.mlp.Wo",
        "encoder.norm": "final_norm",
    },
    {
        "sequence-classification": replace(_MODERNBERT_HEAD, of_sequence=True),
        "token-classification": _MODERNBERT_HEAD,
        "question-answering": _MODERNBERT_HEAD,
        "masked-lm": replace(
            _MODERNBERT_HEAD, out="decoder", bias_keys={**_MODERNBERT_HEAD.bias_keys, "out": "decoder_bias"}
        ),
    },
    norm_first=True,
    fixed={"gated": True, "first_norm": False},
    derive=_modernbert,
    tied=("embeddings.tok_embeddings.weight", "decoder.weight"),
)


def _nomic(values: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    whole_heads(values)
    width = fields["hidden_size"] // fields["num_attention_heads"]
    if values.get("head_dim") not in (None, width):
        raise ValueError(f"head_dim must be hidden_size / num_attention_heads, {width}, not {values['head_dim']!r}")
    parameters = values["rope_scaling"] or values["rope_parameters"] or {}
    base = values.get("rotary_emb_base", values["rope_theta"])
    return {
        "rotaries": (rotary(parameters, base, fields["max_position_embeddings"]),) * fields["num_hidden_layers"],
        "without_bias": frozenset(("self_attn.in_proj", "self_attn.out_proj", "linear1", "linear2")),
    }


_NOMIC = Family(
    "nomic_bert.",
    {
        "hidden_size": ("hidden_size", "n_embd"),
        "num_hidden_layers": ("num_hidden_layers", "n_layer"),
        "num_attention_heads": ("num_attention_heads", "n_head"),
        "intermediate_size": ("intermediate_size", "n_inner"),
        "hidden_act": ("hidden_act",),
        "layer_norm_eps": ("layer_norm_eps", "layer_norm_epsilon"),
        "max_position_embeddings": ("max_position_embeddings", "n_positions"),
        **same("vocab_size", "type_vocab_size"),
        **_TIED,
    },
    {
        "embeddings.words": _WORDS,
        "embeddings.token_types": "embeddings.token_type_embeddings.weight",
        "embeddings.norm": "emb_ln",
        "encoder.layers.{}.self_attn.in_proj": "encoder.layers.{}.attn.Wqkv",
        "encoder.layers.{}.self_attn.out_proj": "encoder.layers.{}.attn.out_proj",
        "encoder.layers.{}.norm1": "encoder.layers.{}.norm1",
        "encoder.layers.{}.linear1": ("encoder.layers.{}.mlp.fc12", "encoder.layers.{}.mlp.fc11"),
        "encoder.layers.{}.linear2": "encoder.layers.{}.mlp.fc2",
        "encoder.layers.{}.norm2": "encoder.layers.{}.norm2",
    },
    {
        "sequence-classification": _POOLED,
        "token-classification": Head("classifier"),
        "masked-lm": Head(
            "cls.predictions.decoder",
            dense="cls.predictions.transform.dense",
            norm="cls.predictions.transform.layer_norm",
            out_bias="cls.predictions.bias",
        ),
    },
    fixed={"gated": True},
    supported={
        "prenorm": (False,),
        "qkv_proj_bias": (False,),
        "mlp_fc1_bias": (False,),
        "mlp_fc2_bias": (False,),
        "activation_function": ("swiglu",),
        "rotary_emb_fraction": (1.0,),
        "rotary_emb_interleaved": (False,),
        "rotary_emb_scale_base": (),
        "rotary_scaling_factor": (),
        "use_rms_norm": (False,),
        "parallel_block": (False,),
    },
    derive=_nomic,
    tied=(_WORDS, "cls.predictions.decoder.weight"),
)

TEXT_FAMILIES: dict[str, Family] = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "distilbert": _DISTILBERT,
    "mpnet": _MPNET,
    "albert": _ALBERT,
    "electra": _ELECTRA,
    "modernbert": _MODERNBERT,
    "nomic_bert": _NOMIC,
}

FAMILIES = TEXT_FAMILIES | IMAGE_FAMILIES
