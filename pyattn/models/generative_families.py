"""The families of models that generate: decoders, and encoders with decoders; tables as in families.py.

Names on the left are parameters of GenerativeModel: `words`, `embeddings.*` and `decoder.*`, and of those that have an
encoder `encoder_embeddings.*` and `encoder.*`; `head` makes logits.
"""

import math
from collections.abc import Mapping
from typing import Any

from pyattn.layers.sequences import Rotary
from pyattn.models.families import Derive, Family, Names, _integer, _rotary_base, _same, _switch

_ATTENTION = ("q_proj", "k_proj", "v_proj")


def _sides(words: str, heads: Names, encoder_norms: Mapping[str, str], decoder_norms: Mapping[str, str]) -> Names:
    """The layers of BART and of what was made after it."""
    names: dict[str, str | tuple[str, ...]] = {"words": words, **heads}
    for side, norms in (("encoder", encoder_norms), ("decoder", decoder_norms)):
        theirs = f"{side}.layers.{{}}"
        for ours, attention in (("self_attn", "self_attn"), ("multihead_attn", "encoder_attn")):
            if ours == "self_attn" or side == "decoder":
                names[f"{theirs}.{ours}.in_proj"] = tuple(f"{theirs}.{attention}.{part}" for part in _ATTENTION)
                names[f"{theirs}.{ours}.out_proj"] = f"{theirs}.{attention}.out_proj"
        names[f"{theirs}.linear1"], names[f"{theirs}.linear2"] = f"{theirs}.fc1", f"{theirs}.fc2"
        names |= {f"{theirs}.{ours}": f"{theirs}.{norm}" for ours, norm in norms.items()}
    return names


_ENCODER_NORMS = {"norm1": "self_attn_layer_norm", "norm2": "final_layer_norm"}
_DECODER_NORMS = {"norm1": "self_attn_layer_norm", "norm2": "encoder_attn_layer_norm", "norm3": "final_layer_norm"}
_HEAD: Names = {"head.weight": "lm_head.weight", "head.bias": "final_logits_bias"}
_POSITIONS: Names = {
    "embeddings.positions": "decoder.embed_positions.weight",
    "encoder_embeddings.positions": "encoder.embed_positions.weight",
}
_EMBEDDING_NORMS: Names = {
    "embeddings.norm": "decoder.layernorm_embedding",
    "encoder_embeddings.norm": "encoder.layernorm_embedding",
}
_FINAL_NORMS: Names = {"encoder.norm": "encoder.layer_norm", "decoder.norm": "decoder.layer_norm"}

_TWO_SIDES: dict[str, tuple[str, ...]] = {
    "hidden_size": ("d_model",),
    "num_hidden_layers": ("decoder_layers",),
    "num_attention_heads": ("decoder_attention_heads",),
    "intermediate_size": ("decoder_ffn_dim",),
    "hidden_act": ("activation_function",),
    **_same("encoder_layers", "encoder_attention_heads", "encoder_ffn_dim", "vocab_size", "max_position_embeddings"),
}


def _scaled(values: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"embedding_scale": math.sqrt(fields["hidden_size"]) if _switch(values, "scale_embedding", False) else 1.0}


def _bart(more: Names, **options: Any) -> Family:
    return Family(
        "model.",
        _TWO_SIDES,
        {**_sides("shared.weight", {**_HEAD, **more}, _ENCODER_NORMS, _DECODER_NORMS)},
        derive=_scaled,
        tied={"lm_head.weight": "shared.weight"},
        lacks=("final_logits_bias",),
        ignored=("encoder.embed_tokens.", "decoder.embed_tokens.", *options.pop("ignored", ())),
        **{"fixed": {"layer_norm_eps": 1e-5, "encoder_input": "tokens", **options.pop("fields", {})}, **options},
    )


_WHISPER = Family(
    "model.",
    {
        **_TWO_SIDES,
        **_same("num_mel_bins", "max_source_positions"),
        "max_position_embeddings": ("max_target_positions",),
    },
    {
        **_sides("decoder.embed_tokens.weight", {"head.weight": "proj_out.weight"}, _ENCODER_NORMS, _DECODER_NORMS),
        **_FINAL_NORMS,
        **_POSITIONS,
        "encoder_embeddings.conv1": "encoder.conv1",
        "encoder_embeddings.conv2": "encoder.conv2",
    },
    norm_first=True,
    fixed={"layer_norm_eps": 1e-5, "encoder_input": "frames", "head_bias": False},
    tied={"proj_out.weight": "decoder.embed_tokens.weight"},
    lacks=(".k_proj.bias",),
)


def _t5(values: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    kind = values.get("feed_forward_proj", "relu")
    activations = {"relu": "relu", "gated-gelu": "gelu_tanh", "gated-silu": "silu", "gated-relu": "relu"}
    if kind not in activations:
        raise ValueError(f"feed_forward_proj must be one of {', '.join(map(repr, activations))}, not {kind!r}")
    buckets, farthest = fields["relative_buckets"], fields["relative_distance"]
    if buckets < 4 or farthest <= buckets // 2:
        raise ValueError(
            "relative_attention_num_buckets must be 4 or more, and relative_attention_max_distance more than half of "
            f"it, not {buckets} and {farthest}"
        )
    scaled = _switch(values, "scale_decoder_outputs", _switch(values, "tie_word_embeddings", True))
    return {
        "encoder_attention_heads": fields["num_attention_heads"],
        "encoder_ffn_dim": fields["intermediate_size"],
        "hidden_act": activations[kind],
        "gated": kind.startswith("gated-"),
        "logits_scale": fields["hidden_size"] ** -0.5 if scaled else 1.0,
        "max_position_embeddings": 2**30,
    }


def _t5_names() -> Names:
    names: dict[str, str | tuple[str, ...]] = {
        "words": "shared.weight",
        "head.weight": "lm_head.weight",
        "encoder.norm": "encoder.final_layer_norm",
        "decoder.norm": "decoder.final_layer_norm",
        "encoder_relative_bias": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "relative_bias": "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    }
    for side, parts in (("encoder", ("self_attn",)), ("decoder", ("self_attn", "multihead_attn"))):
        ours, block = f"{side}.layers.{{}}", f"{side}.block.{{}}.layer"
        for number, (part, theirs) in enumerate(zip(parts, ("SelfAttention", "EncDecAttention"), strict=False)):
            names[f"{ours}.{part}.in_proj"] = tuple(f"{block}.{number}.{theirs}.{x}" for x in "qkv")
            names[f"{ours}.{part}.out_proj"] = f"{block}.{number}.{theirs}.o"
            names[f"{ours}.norm{number + 1}"] = f"{block}.{number}.layer_norm"
        last = len(parts)
        names[f"{ours}.linear1"] = f"{block}.{last}.DenseReluDense.wi"
        names[f"{ours}.linear2"] = f"{block}.{last}.DenseReluDense.wo"
        names[f"{ours}.norm{last + 1}"] = f"{block}.{last}.layer_norm"
    return names


_T5 = Family(
    "",
    {
        "hidden_size": ("d_model",),
        "encoder_layers": ("num_layers",),
        "num_hidden_layers": ("num_decoder_layers", "num_layers"),
        "num_attention_heads": ("num_heads",),
        "intermediate_size": ("d_ff",),
        "head_dim": ("d_kv",),
        "layer_norm_eps": ("layer_norm_epsilon",),
        "relative_buckets": ("relative_attention_num_buckets",),
        "relative_distance": ("relative_attention_max_distance",),
        "vocab_size": ("vocab_size",),
    },
    _t5_names(),
    norm_first=True,
    fixed={
        "encoder_input": "tokens",
        "norm": "rms",
        "bias": False,
        "head_bias": False,
        "scale": 1.0,
        "relative_distance": 128,
        "layer_norm_eps": 1e-6,
    },
    derive=_t5,
    names_if_gated={
        f"{side}.layers.{{}}.linear1": (
            f"{side}.block.{{}}.layer.{last}.DenseReluDense.wi_0",
            f"{side}.block.{{}}.layer.{last}.DenseReluDense.wi_1",
        )
        for side, last in (("encoder", 1), ("decoder", 2))
    },
    tied={"lm_head.weight": "shared.weight"},
    ignored=("encoder.embed_tokens.", "decoder.embed_tokens."),
    ignored_ends=("EncDecAttention.relative_attention_bias.weight",),
)


_GPT2_MODULES = {"self_attn.in_proj": "attn.c_attn", "self_attn.out_proj": "attn.c_proj"}
_GPT2_MODULES |= {"linear1": "mlp.c_fc", "linear2": "mlp.c_proj"}
_GPT2 = Family(
    "transformer.",
    {
        "hidden_size": ("n_embd",),
        "num_hidden_layers": ("n_layer",),
        "num_attention_heads": ("n_head",),
        "hidden_act": ("activation_function",),
        "layer_norm_eps": ("layer_norm_epsilon",),
        "max_position_embeddings": ("n_positions",),
        "vocab_size": ("vocab_size",),
    },
    {
        "words": "wte.weight",
        "embeddings.positions": "wpe.weight",
        "head.weight": "lm_head.weight",
        "decoder.norm": "ln_f",
        "decoder.layers.{}.norm1": "h.{}.ln_1",
        "decoder.layers.{}.norm3": "h.{}.ln_2",
        **{f"decoder.layers.{{}}.{ours}": f"h.{{}}.{theirs}" for ours, theirs in _GPT2_MODULES.items()},
    },
    norm_first=True,
    fixed={"head_bias": False},
    supported={
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    },
    derive=lambda values, fields: {
        "intermediate_size": _integer(values, "n_inner", 4 * fields["hidden_size"], 1)
        if values.get("n_inner") is not None
        else 4 * fields["hidden_size"]
    },
    transposed=tuple(f"decoder.layers.{{}}.{ours}" for ours in _GPT2_MODULES),
    tied={"lm_head.weight": "wte.weight"},
    ignored_ends=(".attn.bias", ".attn.masked_bias"),
)


def _llama(values: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    parameters = values.get("rope_parameters") or values.get("rope_scaling") or {}
    base = _rotary_base(parameters, values.get("rope_theta", 1e4), ("default", "linear", "dynamic", "yarn", "llama3"))
    if parameters.get("rope_type", parameters.get("type", "default")) == "default":
        return {"rotaries": (Rotary(base),) * fields["num_hidden_layers"]}
    scaling = {"max_position_embeddings": fields["max_position_embeddings"], **parameters}
    given = tuple(sorted((key, value) for key, value in scaling.items() if value is not None))
    hash(given)
    return {"rotaries": (Rotary(base, given),) * fields["num_hidden_layers"]}


def _llama_biases(values: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    attention, others = _switch(values, "attention_bias", False), _switch(values, "mlp_bias", False)
    without = [] if attention else ["self_attn.in_proj", "self_attn.out_proj"]
    without += [] if others else ["linear1", "linear2"]
    return _llama(values, fields) | {"bias": attention or others, "without_bias": frozenset(without)}


def _mistral(values: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """All layers see near tokens only, unless sliding_window is null."""
    windows: tuple[int, ...] = ()
    if values.get("sliding_window", True) is not None:
        windows = (_integer(values, "sliding_window", 4096, least=1) - 1,) * fields["num_hidden_layers"]
    return _llama(values, fields) | {"windows": windows}


def _qwen2(values: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Queries, keys and values have biases; layers behind the first ones may see near tokens only."""
    derived = _llama(values, fields)
    derived |= {"bias": True, "without_bias": frozenset(("self_attn.out_proj", "linear1", "linear2"))}
    if _switch(values, "use_sliding_window", False) and values.get("sliding_window", True) is not None:
        layers = fields["num_hidden_layers"]
        near = _integer(values, "sliding_window", 4096, least=1) - 1
        whole = _integer(values, "max_window_layers", 28, least=0)
        kinds = values.get("layer_types")
        if kinds is None:
            kinds = ["sliding_attention" if i >= whole else "full_attention" for i in range(layers)]
        if len(kinds) != layers or not set(kinds) <= {"full_attention", "sliding_attention"}:
            raise ValueError(f"layer_types must be {layers} of 'full_attention' and 'sliding_attention'")
        derived["windows"] = tuple(near if kind == "sliding_attention" else None for kind in kinds)
    return derived


_LLAMA_NAMES: Names = {
    "words": "embed_tokens.weight",
    "head.weight": "lm_head.weight",
    "decoder.norm": "norm",
    "decoder.layers.{}.norm1": "layers.{}.input_layernorm",
    "decoder.layers.{}.norm3": "layers.{}.post_attention_layernorm",
    "decoder.layers.{}.self_attn.in_proj": tuple(f"layers.{{}}.self_attn.{part}" for part in _ATTENTION),
    "decoder.layers.{}.self_attn.out_proj": "layers.{}.self_attn.o_proj",
    "decoder.layers.{}.linear1": ("layers.{}.mlp.gate_proj", "layers.{}.mlp.up_proj"),
    "decoder.layers.{}.linear2": "layers.{}.mlp.down_proj",
}
_LLAMA_KEYS = _same(
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "hidden_act",
    "vocab_size",
    "max_position_embeddings",
) | {"layer_norm_eps": ("rms_norm_eps",)}


def _llama_like(derive: Derive) -> Family:
    fixed = {"norm": "rms", "gated": True, "bias": False, "head_bias": False, "tied": False}
    fixed |= {"num_key_value_heads": 0, "head_dim": 0}
    return Family(
        "model.",
        _LLAMA_KEYS,
        _LLAMA_NAMES,
        norm_first=True,
        fixed=fixed,
        derive=derive,
        tied={"lm_head.weight": "embed_tokens.weight"},
        ignored_ends=(".rotary_emb.inv_freq",),
    )


def _torch_names(words: Names, *more: str) -> Names:
    """torch's nn.Transformer between embeddings and a generator of logits."""
    names: dict[str, str] = {"head": "generator"}
    for side, parts in (("encoder", ("self_attn",)), ("decoder", ("self_attn", "multihead_attn"))):
        attention = (f"{x}.{y}" for x in parts for y in ("in_proj_weight", "in_proj_bias", "out_proj"))
        for part in (*attention, "linear1", "linear2"):
            names[f"{side}.layers.{{}}.{part}"] = f"{side}.layers.{{}}.{part}"
        names |= {f"{side}.layers.{{}}.norm{i}": f"{side}.layers.{{}}.norm{i}" for i in range(1, len(parts) + 2)}
    names |= {name: name for name in more}
    return {
        **names,
        "words": "decoder.token_embedding.weight",
        "embeddings.positions": "decoder.position_embedding.weight",
        "encoder_embeddings.positions": "encoder.position_embedding.weight",
        **words,
    }


def _torch_like(names: Names, encoder_input: str, norm_first: bool, **more: Any) -> Family:
    return Family(
        "",
        {**_TWO_SIDES, "layer_norm_eps": ("layer_norm_eps",), **more.pop("keys", {})},
        names,
        norm_first=norm_first,
        fixed={"encoder_input": encoder_input},
        supported={"norm_first": norm_first},
        derive=_scaled,
    )


GENERATIVE_FAMILIES: dict[str, Family] = {
    "bart": _bart({**_POSITIONS, **_EMBEDDING_NORMS}, fields={"first_position": 2}),
    "mbart": _bart({**_POSITIONS, **_EMBEDDING_NORMS, **_FINAL_NORMS}, fields={"first_position": 2}, norm_first=True),
    "marian": _bart(
        {},
        fields={"sinusoidal": True},
        ignored=("encoder.embed_positions.", "decoder.embed_positions."),
        supported={"share_encoder_decoder_embeddings": True, "normalize_before": False, "normalize_embedding": False},
    ),
    "whisper": _WHISPER,
    "t5": _T5,
    "gpt2": _GPT2,
    "llama": _llama_like(_llama_biases),
    "mistral": _llama_like(_mistral),
    "qwen2": _llama_like(_qwen2),
    "annalog": _torch_like(
        _torch_names({"encoder_embeddings.words": "encoder.token_embedding.weight"}), "tokens", norm_first=False
    ),
    "latex-ocr": _torch_like(
        _torch_names(
            {
                "encoder_embeddings.patches": "encoder.patch_embedding",
                "encoder_embeddings.norm": "encoder.embedding_norm",
                "embeddings.norm": "decoder.embedding_norm",
            },
            "encoder.norm",
            "decoder.norm",
        ),
        "patches",
        norm_first=True,
        keys=_same("image_size", "patch_size", "num_channels"),
    ),
}
