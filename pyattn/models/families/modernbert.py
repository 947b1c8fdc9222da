"""ModernBERT: Warner et al. 2024 (arXiv:2412.13663)."""

from dataclasses import replace

from pyattn import _checks
from pyattn.models.config import ModelConfig
from pyattn.models.family import Family, Head
from pyattn.models.keys import biases_of, integer, layer_names, layer_of, norm_of, periodic_layer_types, rotaries
from pyattn.models.spec import ModelSpec, Names, StackSpec, TokenSpec

_NAMES: Names = {
    "embeddings.words": "embeddings.tok_embeddings.weight",
    "embeddings.norm": "embeddings.norm",
    **layer_names(
        "encoder.layers.{}", "layers.{}", norm1="attn_norm", self_attn=("attn.Wqkv", "attn.Wo"), norm2="mlp_norm",
        linear1="mlp.Wi", linear2="mlp.Wo",
    ),
    "encoder.norm": "final_norm",
}  # fmt: skip
_DEFAULTS = {
    "vocab_size": 50368, "hidden_size": 768, "intermediate_size": 1152, "num_hidden_layers": 22,
    "num_attention_heads": 12, "hidden_activation": "gelu", "max_position_embeddings": 8192, "norm_eps": 1e-5,
    "norm_bias": False, "attention_bias": False, "layer_types": None, "global_attn_every_n_layers": 3,
    "rope_parameters": None, "rope_scaling": None, "global_rope_theta": 160000.0, "local_rope_theta": 10000.0,
    "local_attention": 128, "mlp_bias": False, "decoder_bias": True, "classifier_pooling": "cls",
    "classifier_bias": False, "classifier_activation": "gelu", "tie_word_embeddings": True,
}  # fmt: skip


def build(config: ModelConfig) -> ModelSpec:
    """Every third layer sees all tokens; the others see near ones, with rotary positions of their own."""
    values = config.values
    near = integer(values, "local_attention", least=0) // 2
    if values.get("sliding_window", near) != near:
        raise ValueError(f"sliding_window must be half of local_attention, {near}, not {values['sliding_window']!r}")
    everywhere, local = values["global_rope_theta"], values["local_rope_theta"]
    bases = {"full_attention": everywhere, "sliding_attention": everywhere if local is None else local}
    scaling = dict.fromkeys(bases, values["rope_scaling"] or {})
    rotary = rotaries(config, values["rope_parameters"] or {}, bases, scaling)
    layer = layer_of(
        config, norm_placement="pre", gated=True, **biases_of(config, linear_bias="mlp_bias", norm_bias="norm_bias")
    )
    by_type = {x: replace(layer, rotary=rotary[x]) for x in rotary}
    by_type["sliding_attention"] = replace(by_type["sliding_attention"], window=(near, near))
    first, *others = (by_type[x] for x in periodic_layer_types(config, "global_attn_every_n_layers"))
    norm = norm_of(config, bias=layer.norm_bias)
    return ModelSpec(
        _NAMES,
        encoder=StackSpec((replace(first, input_norm=False), *others), norm),
        embeddings=TokenSpec(config.hidden_size, config.vocab_size, norm=norm),
        pooling=_checks.choice("load", "classifier_pooling", values["classifier_pooling"], ("cls", "mean")),
    )


_HEAD = Head(
    "classifier",
    dense="head.dense",
    norm="head.norm",
    activation_key="classifier_activation",
    bias_keys={"dense": "classifier_bias", "norm": "norm_bias"},
)

TEXT_FAMILIES = {
    "modernbert": Family(
        build=build,
        prefix="model.",
        defaults=_DEFAULTS,
        keys={"layer_norm_eps": ("norm_eps",), "hidden_act": ("hidden_activation",)},
        heads={
            "sequence-classification": replace(_HEAD, of_sequence=True),
            "token-classification": _HEAD,
            "question-answering": _HEAD,
            "masked-lm": replace(_HEAD, out="decoder", bias_keys={**_HEAD.bias_keys, "out": "decoder_bias"}),
        },
        tied=("embeddings.tok_embeddings.weight", "decoder.weight"),
    )
}
