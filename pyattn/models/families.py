"""The families of encoders: for each, what config.json and the tensors call what pyattn's layers compute.

To add one: an entry in FAMILIES. Names of tensors are Hugging Face's as they stand in published files; {} is the number
of a layer. A name on the left is a parameter of TextEncoder or ImageEncoder, or one without its ".weight" and ".bias";
several on the right are parts of one, along its first axis.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pyattn.layers.sequences import Rotary

# hidden_act in config.json -> activation of our layers
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "swiglu": "silu",
}

Names = Mapping[str, str | tuple[str, ...]]
# Further fields of EncoderConfig, from config.json and the fields that keys gave; ValueError without the file's name.
Derive = Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Head:
    """What turns hidden states into logits: out(norm(activation(dense(x)))), of each token or of each sequence.

    dense and norm are "" where there is none. activation is "tanh", one of the layers', or that of the model (None).
    out may be tied: where the file lacks its weight it is that of the words; out_bias is the bias's name, if its own.
    activation_key: the key of config.json that names the activation, "gelu" if it is absent.
    """

    out: str
    dense: str = ""
    activation: str | None = None
    norm: str = ""
    out_bias: str = ""
    of_sequence: bool = False
    activation_key: str = ""
    may_lack_biases: bool = False


@dataclass(frozen=True)
class Family:
    """A model_type, or several that differ in nothing that matters here."""

    prefix: str  # of the encoder's tensors in files of models with a head
    keys: Mapping[str, tuple[str, ...]]  # field of EncoderConfig -> keys of config.json, the first present counts
    names: Names
    heads: Mapping[str, Head] = field(default_factory=dict)
    norm_first: bool = False
    fixed: Mapping[str, Any] = field(default_factory=dict)  # fields that config.json does not say, or need not
    supported: Mapping[str, Any] = field(default_factory=dict)  # what keys must be, if they are there
    derive: Derive = lambda values, fields: {}
    scales: Mapping[str, str] = field(default_factory=dict)  # module -> what its outputs are multiplied by
    names_if_gated: Names = field(default_factory=dict)  # instead of those in names
    transposed: tuple[str, ...] = ()  # modules whose weights are (inputs, outputs) in files
    tied: Mapping[str, str] = field(default_factory=dict)  # a tensor that a file may lack -> that which it equals then
    lacks: tuple[str, ...] = ()  # ends of names of what is 0 where a file lacks it
    ignored: tuple[str, ...] = ()  # beginnings of names of what is no part of the model, or computed
    ignored_ends: tuple[str, ...] = ()

    def is_of_encoder(self, name: str) -> bool:
        """Whether a tensor, its prefix removed, is one that the encoder needs, going by its name."""
        heads = {module for head in self.heads.values() for module in (head.out, head.dense, head.norm, head.out_bias)}
        outside = {module.split(".")[0] + "." for module in heads - {""}}
        return not name.startswith((*outside, *self.ignored)) and not name.endswith(self.ignored_ends)


def _same(*names: str) -> dict[str, tuple[str, ...]]:
    return {name: (name,) for name in names}


_LAYERS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
_TEXT = _same(*_LAYERS, "layer_norm_eps", "vocab_size", "max_position_embeddings", "type_vocab_size")
_WITHOUT_TYPES = {name: keys for name, keys in _TEXT.items() if name != "type_vocab_size"}
_ABSOLUTE = {"position_embedding_type": "absolute", "is_decoder": False}

_EMBEDDINGS: Names = {
    "embeddings.words": "embeddings.word_embeddings.weight",
    "embeddings.positions": "embeddings.position_embeddings.weight",
    "embeddings.token_types": "embeddings.token_type_embeddings.weight",
    "embeddings.norm": "embeddings.LayerNorm",
}
_FEED_FORWARD: Names = {
    "encoder.layers.{}.linear1": "encoder.layer.{}.intermediate.dense",
    "encoder.layers.{}.linear2": "encoder.layer.{}.output.dense",
}
_BERT_NAMES: Names = {
    **_EMBEDDINGS,
    **_FEED_FORWARD,
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


def _integer(values: Mapping[str, Any], key: str, default: int, least: int) -> int:
    value = values.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**30:
        raise ValueError(f"{key} must be an integer, {least} or more and below 2**30, not {value!r}")
    return value


def _switch(values: Mapping[str, Any], key: str, default: bool) -> bool:
    value = values.get(key)
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{key} must be true or false, not {value!r}")
    return default if value is None else value


def _choice(values: Mapping[str, Any], key: str, default: str, accepted: Iterable[str]) -> str:
    value: str = values.get(key, default)
    if value not in tuple(accepted):
        raise ValueError(f"{key} must be one of {', '.join(map(repr, accepted))}, not {value!r}")
    return value


def _padded_positions(values: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Positions are counted from behind that of padding."""
    first = _integer(values, "pad_token_id", 1, least=0) + 1
    longest = fields["max_position_embeddings"] - first
    if longest < 1:
        raise ValueError(f"max_position_embeddings must be above pad_token_id + 1, {first}")
    return {"first_position": first, "max_position_embeddings": longest}


_BERT = Family(
    "bert.", _TEXT, _BERT_NAMES, _BERT_HEADS, supported=_ABSOLUTE, ignored=("embeddings.position_ids", "cls.")
)

_ROBERTA = Family(
    "roberta.",
    _TEXT,
    _BERT_NAMES,
    _ROBERTA_HEADS,
    supported=_ABSOLUTE,
    derive=_padded_positions,
    ignored=("embeddings.position_ids", "pooler."),
)

_DISTILBERT = Family(
    "distilbert.",
    {
        "hidden_size": ("dim",),
        "num_hidden_layers": ("n_layers",),
        "num_attention_heads": ("n_heads",),
        "intermediate_size": ("hidden_dim",),
        "hidden_act": ("activation",),
        **_same("vocab_size", "max_position_embeddings"),
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
    ignored=("embeddings.position_ids",),
)


def _mpnet(values: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    if not 4 <= fields["relative_buckets"] < 512:
        raise ValueError(f"relative_attention_num_buckets must be from 4 to 511, not {fields['relative_buckets']}")
    return _padded_positions(values, fields)


_MPNET = Family(
    "mpnet.",
    {**_WITHOUT_TYPES, "relative_buckets": ("relative_attention_num_buckets",)},
    {
        **_EMBEDDINGS,
        **_FEED_FORWARD,
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
    fixed={"relative_buckets": 32},
    derive=_mpnet,
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
    supported={**_ABSOLUTE, "inner_group_num": 1},
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
    ignored=("embeddings.position_ids", "discriminator_predictions."),
)


def _modernbert(values: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Every third layer sees all tokens; the others see near ones, with rotary positions of their own."""
    layers = fields["num_hidden_layers"]
    every = _integer(values, "global_attn_every_n_layers", 3, least=1)
    kinds = values.get("layer_types") or ["sliding_attention" if i % every else "full_attention" for i in range(layers)]
    if len(kinds) != layers or not set(kinds) <= {"full_attention", "sliding_attention"}:
        raise ValueError(f"layer_types must be {layers} of 'full_attention' and 'sliding_attention'")
    rotary = values.get("rope_parameters") or {}
    if not rotary.keys() <= {"full_attention", "sliding_attention"}:
        raise ValueError("rope_parameters must be of 'full_attention' and 'sliding_attention'")
    wide = _rotary_base(rotary.get("full_attention") or {}, values.get("global_rope_theta", 160000.0))
    local = values.get("local_rope_theta", 10000.0)
    near_base = _rotary_base(rotary.get("sliding_attention") or {}, wide if local is None else local)
    bases = {"full_attention": wide, "sliding_attention": near_base}
    near = _integer(values, "local_attention", 128, least=0) // 2
    without = []
    if not values.get("attention_bias", False):
        without += ["self_attn.in_proj", "self_attn.out_proj"]
    if not values.get("mlp_bias", False):
        without += ["linear1", "linear2"]
    if not values.get("norm_bias", False):
        without += ["norm1", "norm2", "norm"]
    return {
        "rotaries": tuple(Rotary(bases[kind]) for kind in kinds),
        "windows": tuple(near if kind == "sliding_attention" else None for kind in kinds),
        "pooling": _choice(values, "classifier_pooling", "cls", ("cls", "mean")),
        "without_bias": frozenset(without),
    }


def _rotary_base(parameters: Mapping[str, Any], default: Any, types: Sequence[str] = ("default",)) -> float:
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind not in types:
        raise ValueError(f"rope_type must be {' or '.join(map(repr, types))}, not {kind!r}")
    if parameters.get("partial_rotary_factor", 1) != 1:
        raise ValueError(f"partial_rotary_factor must be 1, not {parameters['partial_rotary_factor']!r}")
    base = parameters.get("rope_theta", default)
    if isinstance(base, bool) or not isinstance(base, int | float) or not 0 < base < 1e30:
        raise ValueError(f"the base of rotary positions must be a positive number, not {base!r}")
    return float(base)


_MODERNBERT_HEAD = Head(
    "classifier", dense="head.dense", norm="head.norm", activation_key="classifier_activation", may_lack_biases=True
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
        "masked-lm": replace(_MODERNBERT_HEAD, out="decoder"),
    },
    norm_first=True,
    fixed={"gated": True, "first_norm": False},
    derive=_modernbert,
)


def _nomic(values: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    parameters = values.get("rope_parameters") or {}
    base = _rotary_base(parameters, values.get("rotary_emb_base", 1000.0))
    return {
        "rotaries": (Rotary(base),) * fields["num_hidden_layers"],
        "without_bias": frozenset(("self_attn.in_proj", "self_attn.out_proj", "linear1", "linear2")),
    }


_NOMIC = Family(
    "nomic_bert.",
    {
        "hidden_size": ("hidden_size", "n_embd"),
        "num_hidden_layers": ("num_hidden_layers", "n_layer"),
        "num_attention_heads": ("num_attention_heads", "n_head"),
        "intermediate_size": ("intermediate_size", "n_inner"),
        "hidden_act": ("hidden_act", "activation_function"),
        "layer_norm_eps": ("layer_norm_eps", "layer_norm_epsilon"),
        "max_position_embeddings": ("max_position_embeddings", "n_positions"),
        **_same("vocab_size", "type_vocab_size"),
    },
    {
        "embeddings.words": "embeddings.word_embeddings.weight",
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
        "prenorm": False,
        "qkv_proj_bias": False,
        "mlp_fc1_bias": False,
        "mlp_fc2_bias": False,
        "rotary_emb_fraction": 1.0,
        "rotary_emb_interleaved": False,
        "rotary_emb_scale_base": None,
        "rotary_scaling_factor": None,
        "use_rms_norm": False,
        "parallel_block": False,
    },
    derive=_nomic,
)

_IMAGE = _same("hidden_size", "num_hidden_layers", "num_attention_heads", "hidden_act", "layer_norm_eps")
_IMAGE |= _same("image_size", "patch_size", "num_channels")
_IMAGE_NAMES: Names = {
    "embeddings.class_token": "embeddings.cls_token",
    "embeddings.positions": "embeddings.position_embeddings",
    "embeddings.patches": "embeddings.patch_embeddings.projection",
    "encoder.layers.{}.self_attn.in_proj": (
        "encoder.layer.{}.attention.attention.query",
        "encoder.layer.{}.attention.attention.key",
        "encoder.layer.{}.attention.attention.value",
    ),
    "encoder.layers.{}.self_attn.out_proj": "encoder.layer.{}.attention.output.dense",
    "encoder.norm": "layernorm",
}


def _bias_of_queries(values: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    return {} if values.get("qkv_bias", True) else {"without_bias": frozenset(["self_attn.in_proj"])}


def _vit(prefix: str, **more: str) -> Family:
    return Family(
        prefix,
        {**_IMAGE, "intermediate_size": ("intermediate_size",)},
        {
            **_IMAGE_NAMES,
            **_FEED_FORWARD,
            **more,
            "encoder.layers.{}.norm1": "encoder.layer.{}.layernorm_before",
            "encoder.layers.{}.norm2": "encoder.layer.{}.layernorm_after",
        },
        norm_first=True,
        fixed={"num_channels": 3},
        derive=_bias_of_queries,
        ignored=("pooler.", "classifier.", "cls_classifier.", "distillation_classifier.", "embeddings.mask_token"),
    )


def _dinov2(values: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    ratio = values.get("mlp_ratio", 4)
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio < 1000:
        raise ValueError(f"mlp_ratio must be a positive number, not {ratio!r}")
    inner = max(1, int(fields["hidden_size"] * ratio))
    derived = _bias_of_queries(values, fields) | {"intermediate_size": inner}
    if values.get("use_swiglu_ffn", False):
        derived |= {"intermediate_size": (int(inner * 2 / 3) + 7) // 8 * 8, "gated": True, "hidden_act": "silu"}
    return derived


def _registers(values: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    return _dinov2(values, fields) | {"num_register_tokens": _integer(values, "num_register_tokens", 4, least=0)}


def _dino(prefix: str, derive: Derive, antialias: bool, **more: str) -> Family:
    return Family(
        prefix,
        _IMAGE,
        {
            **_IMAGE_NAMES,
            **more,
            "encoder.layers.{}.norm1": "encoder.layer.{}.norm1",
            "encoder.layers.{}.norm2": "encoder.layer.{}.norm2",
            "encoder.layers.{}.linear1": "encoder.layer.{}.mlp.fc1",
            "encoder.layers.{}.linear2": "encoder.layer.{}.mlp.fc2",
        },
        names_if_gated={
            "encoder.layers.{}.linear1": "encoder.layer.{}.mlp.weights_in",
            "encoder.layers.{}.linear2": "encoder.layer.{}.mlp.weights_out",
        },
        scales={
            "encoder.layers.{}.self_attn.out_proj": "encoder.layer.{}.layer_scale1.lambda1",
            "encoder.layers.{}.linear2": "encoder.layer.{}.layer_scale2.lambda1",
        },
        norm_first=True,
        fixed={"num_channels": 3, "antialias": antialias},
        derive=derive,
        ignored=("classifier.", "embeddings.mask_token"),
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

IMAGE_FAMILIES: dict[str, Family] = {
    "vit": _vit("vit."),
    "deit": _vit("deit.", **{"embeddings.distillation_token": "embeddings.distillation_token"}),
    "dinov2": _dino("dinov2.", _dinov2, antialias=False),
    "dinov2_with_registers": _dino(
        "dinov2_with_registers.",
        _registers,
        antialias=True,
        **{"embeddings.register_tokens": "embeddings.register_tokens"},
    ),
}

FAMILIES = TEXT_FAMILIES | IMAGE_FAMILIES
