"""GPT-2: Radford et al. 2019."""

from typing import Any

from pyattn.models.config import ModelConfig
from pyattn.models.family import Family, Values
from pyattn.models.keys import integer, layer_names, layer_of, norm_of, switch
from pyattn.models.spec import LogitsSpec, ModelSpec, Names, StackSpec, TokenSpec

_LAYER, _ATTENTION = ("decoder.layers.{}", "h.{}"), ("attn.c_attn", "attn.c_proj")
_MODULES = layer_names(*_LAYER, self_attn=_ATTENTION, linear1="mlp.c_fc", linear2="mlp.c_proj")
_NAMES: Names = {
    "words": "wte.weight",
    "embeddings.positions": "wpe.weight",
    "head.weight": "lm_head.weight",
    "decoder.norm": "ln_f",
    **layer_names(*_LAYER, norm1="ln_1", norm3="ln_2"),
    **_MODULES,
}
_KEYS = {
    "hidden_size": ("n_embd", "hidden_size"), "num_hidden_layers": ("n_layer", "num_hidden_layers"),
    "num_attention_heads": ("n_head", "num_attention_heads"), "hidden_act": ("activation_function",),
    "layer_norm_eps": ("layer_norm_epsilon",), "max_position_embeddings": ("n_positions", "max_position_embeddings"),
}  # fmt: skip
_DEFAULTS = {
    "vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_inner": None,
    "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "scale_attn_weights": True,
    "tie_word_embeddings": True,
}  # fmt: skip


def build(config: ModelConfig) -> ModelSpec:
    scale = None if switch(config.values, "scale_attn_weights") else 1.0
    layer = layer_of(config, norm_placement="pre", scale=scale)
    return ModelSpec(
        _NAMES,
        decoder=StackSpec((layer,) * config.num_hidden_layers, norm_of(config)),
        embeddings=TokenSpec(config.hidden_size, positions=config.max_position_embeddings),
        logits=LogitsSpec(config.vocab_size),
    )


def _inner(values: Values, sizes: Values) -> dict[str, Any]:
    inner = 4 * sizes["hidden_size"] if values["n_inner"] is None else integer(values, "n_inner", least=1)
    return {"intermediate_size": inner}


GENERATIVE_FAMILIES = {
    "gpt2": Family(
        build=build,
        prefix="transformer.",
        defaults=_DEFAULTS,
        keys=_KEYS,
        supported={"scale_attn_by_inverse_layer_idx": (False,), "add_cross_attention": (False,)},
        derive=_inner,
        transposed=tuple(_MODULES),
        tied=("wte.weight", "lm_head.weight"),
        ignored_ends=(".attn.bias", ".attn.masked_bias"),
    )
}
