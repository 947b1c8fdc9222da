"""T5: Raffel et al. 2019 (arXiv:1910.10683)."""

from dataclasses import replace
from typing import Any

from pyattn.models.config import ModelConfig
from pyattn.models.family import ACTIVATIONS, Family, Values, for_states
from pyattn.models.keys import NO_BIASES, layer_names, layer_of, switch
from pyattn.models.spec import LogitsSpec, ModelSpec, Names, NormSpec, RelativeSpec, StackSpec, TokenSpec


def _side_names(side: str, inner: tuple[str, ...], **attentions: str) -> Names:
    blocks = [tuple(f"{i}.{attention}.{x}" for x in "qkvo") for i, attention in enumerate(attentions.values())]
    feed_forward = f"{len(attentions)}.DenseReluDense"
    return {
        f"{side}.norm": f"{side}.final_layer_norm",
        f"{side}.position_bias": f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias",
        **layer_names(
            f"{side}.layers.{{}}",
            f"{side}.block.{{}}.layer",
            **dict(zip(attentions, blocks, strict=True)),
            **{f"norm{i + 1}": f"{i}.layer_norm" for i in range(len(attentions) + 1)},
            linear1=tuple(f"{feed_forward}.{x}" for x in inner),
            linear2=f"{feed_forward}.wo",
        ),
    }


def _names(gated: bool) -> Names:
    inner = ("wi_0", "wi_1") if gated else ("wi",)
    return {
        "words": "decoder.embed_tokens.weight",
        "encoder_embeddings.words": "encoder.embed_tokens.weight",
        "head.weight": "lm_head.weight",
        **_side_names("encoder", inner, self_attn="SelfAttention"),
        **_side_names("decoder", inner, self_attn="SelfAttention", multihead_attn="EncDecAttention"),
    }


_KEYS = {
    "hidden_size": ("d_model", "hidden_size"), "encoder_layers": ("num_layers", "num_hidden_layers"),
    "num_hidden_layers": ("num_decoder_layers",), "num_attention_heads": ("num_heads", "num_attention_heads"),
    "intermediate_size": ("d_ff",), "head_dim": ("d_kv", "head_dim"), "layer_norm_eps": ("layer_norm_epsilon",),
    "relative_buckets": ("relative_attention_num_buckets",),
    "relative_distance": ("relative_attention_max_distance",),
}  # fmt: skip
_DEFAULTS = {
    "vocab_size": 32128, "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_decoder_layers": None,
    "num_heads": 8, "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6, "feed_forward_proj": "relu",
}  # fmt: skip


def build(config: ModelConfig) -> ModelSpec:
    values, gated = config.values, _feed_forward(config.values)[1]
    layer = layer_of(config, norm="rms", norm_placement="pre", gated=gated, scale=1.0, **NO_BIASES)
    decoder_layer = replace(layer, cross_attention=True)
    norm = NormSpec("rms", config.layer_norm_eps)
    relative = RelativeSpec(config.relative_buckets, config.relative_distance, config.num_attention_heads, True)
    tied = values.get("tie_word_embeddings") is None or switch(values, "tie_word_embeddings")  # as transformers has it
    scaled = switch({"scale_decoder_outputs": tied, **values}, "scale_decoder_outputs")
    return ModelSpec(
        _names(gated),
        encoder=StackSpec((layer,) * config.encoder_layers, norm, relative),
        encoder_embeddings=TokenSpec(config.hidden_size, words=config.vocab_size),
        decoder=StackSpec((decoder_layer,) * config.num_hidden_layers, norm, replace(relative, bidirectional=False)),
        embeddings=TokenSpec(config.hidden_size),
        logits=LogitsSpec(config.vocab_size, scale=config.hidden_size**-0.5 if scaled else 1.0),
    )


def _feed_forward(values: Values) -> tuple[str, bool]:
    """The activation, and whether it is gated."""
    named = values["feed_forward_proj"]
    first, _, last = named.rpartition("-")
    activation = values.get("dense_act_fn", "gelu_new" if named == "gated-gelu" else last)
    if first not in ("", "gated") or named == "gated" or activation not in ACTIVATIONS:
        raise ValueError(
            f"feed_forward_proj must be a name or gated-name, and dense_act_fn a name, of {', '.join(ACTIVATIONS)}, "
            f"not {named!r} and {values.get('dense_act_fn')!r}"
        )
    return ACTIVATIONS[activation], switch({"is_gated_act": first == "gated", **values}, "is_gated_act")


def _sizes(values: Values, sizes: Values) -> dict[str, Any]:
    activation, _ = _feed_forward(values)
    buckets, farthest = sizes["relative_buckets"], sizes["relative_distance"]
    if buckets < 4 or farthest <= buckets // 2:
        raise ValueError(
            "relative_attention_num_buckets must be 4 or more, and relative_attention_max_distance more than half of "
            f"it, not {buckets} and {farthest}"
        )
    return {
        "encoder_attention_heads": sizes["num_attention_heads"],
        "encoder_ffn_dim": sizes["intermediate_size"],
        "hidden_act": activation,
        **({} if "num_hidden_layers" in sizes else {"num_hidden_layers": sizes["encoder_layers"]}),
    }


_T5 = Family(
    build=build,
    prefix="",
    defaults=_DEFAULTS,
    keys=_KEYS,
    nullable=("num_hidden_layers",),
    supported={"is_encoder_decoder": (True,)},
    constants={"max_position_embeddings": 2**30},
    derive=_sizes,
    tied=("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"),
    ignored_ends=("EncDecAttention.relative_attention_bias.weight",),
)

GENERATIVE_FAMILIES = {"t5": _T5}
STATE_FAMILIES = {
    "t5": for_states(
        _T5,
        "decoder.",
        "words",
        keys={**_T5.keys, "num_hidden_layers": _T5.keys["encoder_layers"]},
        supported={},  # is_encoder_decoder may be either
    )
}
