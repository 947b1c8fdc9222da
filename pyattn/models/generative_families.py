"""The families of models that generate: decoders, and encoders with decoders; tables as in families.py.

Names on the left are parameters of GenerativeModel: `words`, `embeddings.*` and `decoder.*`, and of those that have an
encoder `encoder_embeddings.*` and `encoder.*`; `head` makes logits.
"""

import math
from collections.abc import Mapping
from typing import Any

from pyattn.models.family import (
    ACTIVATIONS,
    Derive,
    Family,
    Names,
    integer,
    layer_types,
    rotary,
    same,
    switch,
    whole_heads,
)

_ATTENTION = ("q_proj", "k_proj", "v_proj")


def _sides(words: Names, heads: Names, encoder_norms: Mapping[str, str], decoder_norms: Mapping[str, str]) -> Names:
    """The layers of BART and of what was made after it."""
    names: dict[str, str | tuple[str, ...]] = {**words, **heads}
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
_WORDS: Names = {"words": "decoder.embed_tokens.weight"}
_OWN_WORDS: Names = {**_WORDS, "encoder_embeddings.words": "encoder.embed_tokens.weight"}
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

_TIED = {"tied": ("tie_word_embeddings",)}
_TWO_SIDES: dict[str, tuple[str, ...]] = {
    "hidden_size": ("d_model", "hidden_size"),
    "num_hidden_layers": ("decoder_layers",),
    "num_attention_heads": ("decoder_attention_heads",),
    "intermediate_size": ("decoder_ffn_dim",),
    "hidden_act": ("activation_function",),
    "encoder_layers": ("encoder_layers", "num_hidden_layers"),
    "encoder_attention_heads": ("encoder_attention_heads", "num_attention_heads"),
    **same("encoder_ffn_dim", "vocab_size", "max_position_embeddings"),
    **_TIED,
}


def _is_scaled(values: Mapping[str, Any]) -> bool:
    return values["scale_embedding"] is not None and switch(values, "scale_embedding")


def _scaled(values: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"embedding_scale": math.sqrt(fields["hidden_size"]) if _is_scaled(values) else 1.0}


def _bart(
    more: Names, derive: Derive = _scaled, *, norms_first: bool, norms: bool, final: bool, **more_fields: Any
) -> Family:
    """Keys that say of older files what the family is are checked: transformers passes them over now."""
    return Family(
        "model.",
        _TWO_SIDES,
        _sides(_OWN_WORDS, {**_HEAD, **_POSITIONS, **more}, _ENCODER_NORMS, _DECODER_NORMS),
        norm_first=norms_first,
        supported={
            "normalize_before": (norms_first,),
            "normalize_embedding": (norms,),
            "add_final_layer_norm": (final,),
            **({} if "sinusoidal" in more_fields else {"static_position_embeddings": (False,)}),
        },
        derive=derive,
        tied=("shared.weight", "lm_head.weight", "decoder.embed_tokens.weight", "encoder.embed_tokens.weight"),
        lacks=("final_logits_bias",),
        fixed={"layer_norm_eps": 1e-5, "encoder_input": "tokens", **more_fields},
    )


def _marian(values: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The sides may have vocabularies of their own."""
    if switch(values, "share_encoder_decoder_embeddings"):
        return _scaled(values, fields)
    own = fields["vocab_size"]
    target = integer(values, "decoder_vocab_size", least=1) if values["decoder_vocab_size"] else own
    apart = frozenset(("shared.weight", "encoder.embed_tokens.weight"))
    return _scaled(values, fields) | {"vocab_size": target, "source_vocab_size": own, "apart": apart}


_WHISPER = Family(
    "model.",
    {
        **_TWO_SIDES,
        "encoder_attention_heads": ("encoder_attention_heads", "num_attention_heads", "num_key_value_heads"),
        **same("num_mel_bins", "max_source_positions"),
        "max_position_embeddings": ("max_target_positions",),
    },
    {
        **_sides(_WORDS, {"head.weight": "proj_out.weight"}, _ENCODER_NORMS, _DECODER_NORMS),
        **_FINAL_NORMS,
        **_POSITIONS,
        "encoder_embeddings.conv1": "encoder.conv1",
        "encoder_embeddings.conv2": "encoder.conv2",
    },
    norm_first=True,
    fixed={"layer_norm_eps": 1e-5, "encoder_input": "frames", "head_bias": False},
    tied=("decoder.embed_tokens.weight", "proj_out.weight"),
    lacks=(".k_proj.bias",),
)


def _t5(values: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    kind = values["feed_forward_proj"]
    first, _, last = kind.rpartition("-")
    named = values.get("dense_act_fn", "gelu_new" if kind == "gated-gelu" else last)
    if first not in ("", "gated") or kind == "gated" or named not in ACTIVATIONS:
        raise ValueError(
            f"feed_forward_proj must be a name or gated-name, and dense_act_fn a name, of {', '.join(ACTIVATIONS)}, "
            f"not {kind!r} and {values.get('dense_act_fn')!r}"
        )
    gated = switch({"is_gated_act": first == "gated", **values}, "is_gated_act")
    buckets, farthest = fields["relative_buckets"], fields["relative_distance"]
    if buckets < 4 or farthest <= buckets // 2:
        raise ValueError(
            "relative_attention_num_buckets must be 4 or more, and relative_attention_max_distance more than half of "
            f"it, not {buckets} and {farthest}"
        )
    told = values["tie_word_embeddings"]
    tied = told is None or switch(values, "tie_word_embeddings")  # null is true here, as transformers has it
    scaled = switch({"scale_decoder_outputs": tied, **values}, "scale_decoder_outputs")
    return {
        "encoder_attention_heads": fields["num_attention_heads"],
        "encoder_ffn_dim": fields["intermediate_size"],
        "hidden_act": ACTIVATIONS[named],
        "gated": gated,
        "logits_scale": fields["hidden_size"] ** -0.5 if scaled else 1.0,
        "max_position_embeddings": 2**30,
        **({} if "num_hidden_layers" in fields else {"num_hidden_layers": fields["encoder_layers"]}),
    }


def _t5_names() -> Names:
    names: dict[str, str | tuple[str, ...]] = {
        **_OWN_WORDS,
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
        "hidden_size": ("d_model", "hidden_size"),
        "encoder_layers": ("num_layers", "num_hidden_layers"),
        "num_hidden_layers": ("num_decoder_layers",),
        "num_attention_heads": ("num_heads", "num_attention_heads"),
        "intermediate_size": ("d_ff",),
        "head_dim": ("d_kv", "head_dim"),
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
    },
    nullable=("num_hidden_layers",),
    supported={"is_encoder_decoder": (True,)},
    derive=_t5,
    names_if_gated={
        f"{side}.layers.{{}}.linear1": (
            f"{side}.block.{{}}.layer.{last}.DenseReluDense.wi_0",
            f"{side}.block.{{}}.layer.{last}.DenseReluDense.wi_1",
        )
        for side, last in (("encoder", 1), ("decoder", 2))
    },
    tied=("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"),
    ignored_ends=("EncDecAttention.relative_attention_bias.weight",),
)


def _gpt2(values: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    inner = 4 * fields["hidden_size"] if values["n_inner"] is None else integer(values, "n_inner", least=1)
    return {"intermediate_size": inner, "scale": None if switch(values, "scale_attn_weights") else 1.0}


_GPT2_MODULES = {"self_attn.in_proj": "attn.c_attn", "self_attn.out_proj": "attn.c_proj"}
_GPT2_MODULES |= {"linear1": "mlp.c_fc", "linear2": "mlp.c_proj"}
_GPT2 = Family(
    "transformer.",
    {
        "hidden_size": ("n_embd", "hidden_size"),
        "num_hidden_layers": ("n_layer", "num_hidden_layers"),
        "num_attention_heads": ("n_head", "num_attention_heads"),
        "hidden_act": ("activation_function",),
        "layer_norm_eps": ("layer_norm_epsilon",),
        "max_position_embeddings": ("n_positions", "max_position_embeddings"),
        "vocab_size": ("vocab_size",),
        **_TIED,
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
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    },
    derive=_gpt2,
    transposed=tuple(f"decoder.layers.{{}}.{ours}" for ours in _GPT2_MODULES),
    tied=("wte.weight", "lm_head.weight"),
    ignored_ends=(".attn.bias", ".attn.masked_bias"),
)


def _llama(values: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    whole_heads(values)
    parameters = values["rope_scaling"] or values["rope_parameters"] or {}
    found = rotary(parameters, values["rope_theta"], fields["max_position_embeddings"], "dynamic")
    return {"rotaries": (found,) * fields["num_hidden_layers"]}


def _llama_biases(values: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    attention, others = switch(values, "attention_bias"), switch(values, "mlp_bias")
    without = [] if attention else ["self_attn.in_proj", "self_attn.out_proj"]
    without += [] if others else ["linear1", "linear2"]
    return _llama(values, fields) | {"bias": attention or others, "without_bias": frozenset(without)}


def _windows(values: Mapping[str, Any], kinds: Any, layers: int) -> tuple[int | None, ...]:
    """How far the layers see back that are of the kind "sliding_attention"."""
    kinds = layer_types(kinds, layers)
    if "sliding_attention" not in kinds:
        return ()
    near = integer(values, "sliding_window", least=1) - 1
    return tuple(near if kind == "sliding_attention" else None for kind in kinds)


def _mistral(values: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """All layers see near tokens only, unless sliding_window is null or layer_types tell them apart (Ministral)."""
    layers, kinds = fields["num_hidden_layers"], values["layer_types"]
    if kinds is None:
        kinds = ["full_attention" if values["sliding_window"] is None else "sliding_attention"] * layers
    return _llama(values, fields) | {"windows": _windows(values, kinds, layers)}


def _qwen2(values: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Queries, keys and values have biases; layers behind the first ones may see near tokens only."""
    derived = _llama(values, fields)
    derived |= {"bias": True, "without_bias": frozenset(("self_attn.out_proj", "linear1", "linear2"))}
    layers, kinds = fields["num_hidden_layers"], values["layer_types"]
    windowed = switch(values, "use_sliding_window") and values["sliding_window"] is not None
    if kinds is None:
        whole = integer(values, "max_window_layers", least=0) if windowed else layers
        kinds = ["sliding_attention" if i >= whole else "full_attention" for i in range(layers)]
    elif not windowed and "sliding_attention" in kinds:
        raise ValueError("layer_types has 'sliding_attention', but use_sliding_window or sliding_window rules it out")
    return derived | {"windows": _windows(values, kinds, layers)}


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
_LLAMA_KEYS = same(
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "hidden_act",
    "vocab_size",
    "max_position_embeddings",
) | {"layer_norm_eps": ("rms_norm_eps",), **_TIED}


def _llama_like(derive: Derive, *nullable: str) -> Family:
    return Family(
        "model.",
        _LLAMA_KEYS,
        _LLAMA_NAMES,
        norm_first=True,
        fixed={"norm": "rms", "gated": True, "bias": False, "head_bias": False},
        nullable=nullable,
        derive=derive,
        tied=("embed_tokens.weight", "lm_head.weight"),
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


def _torch_like(names: Names, encoder_input: str, norm_first: bool, **keys: Any) -> Family:
    return Family(
        "",
        {**_TWO_SIDES, "layer_norm_eps": ("layer_norm_eps",), **keys},
        names,
        norm_first=norm_first,
        fixed={"encoder_input": encoder_input},
        supported={"norm_first": (norm_first,)},
        derive=_scaled,
    )


GENERATIVE_FAMILIES: dict[str, Family] = {
    "bart": _bart(_EMBEDDING_NORMS, norms_first=False, norms=True, final=False, first_position=2),
    "mbart": _bart({**_EMBEDDING_NORMS, **_FINAL_NORMS}, norms_first=True, norms=True, final=True, first_position=2),
    "marian": _bart({}, _marian, norms_first=False, norms=False, final=False, sinusoidal=frozenset(_POSITIONS)),
    "whisper": _WHISPER,
    "t5": _T5,
    "gpt2": _GPT2,
    "llama": _llama_like(_llama_biases, "head_dim", "num_key_value_heads"),
    "mistral": _llama_like(_mistral, "head_dim"),
    "qwen2": _llama_like(_qwen2, "head_dim", "num_key_value_heads"),
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
        **same("image_size", "patch_size", "num_channels"),
    ),
}
