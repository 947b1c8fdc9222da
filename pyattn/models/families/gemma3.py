"""Gemma 3: Team et al. 2025 (arXiv:2503.19786); its text models, and EmbeddingGemma (arXiv:2509.20354)."""

from dataclasses import replace
from typing import Any

from pyattn.models.config import ModelConfig
from pyattn.models.families import llama
from pyattn.models.family import for_states
from pyattn.models.keys import NO_BIASES, biases_of, integer, layer_of, periodic_layer_types, positive, rotaries
from pyattn.models.spec import LogitsSpec, ModelSpec, Names, NormSpec, StackSpec, TokenSpec

_NAMES: Names = {
    **llama.NAMES,
    **llama.NORMS_OF_HEADS,
    "decoder.layers.{}.post_norm1": "layers.{}.post_attention_layernorm",
    "decoder.layers.{}.norm3": "layers.{}.pre_feedforward_layernorm",
    "decoder.layers.{}.post_norm3": "layers.{}.post_feedforward_layernorm",
}
_DEFAULTS = {
    "vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "attention_bias": False,
    "query_pre_attn_scalar": 256, "sliding_window": 4096, "sliding_window_pattern": 6, "layer_types": None,
    "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0, "rope_parameters": None, "rope_scaling": None,
    "final_logit_softcapping": None, "use_bidirectional_attention": False,
}  # fmt: skip


def build(config: ModelConfig) -> ModelSpec:
    """Norms before and after each block; of so many layers one sees all tokens, the others near ones."""
    values = config.values
    parameters = values["rope_parameters"]
    if parameters is None:  # older files have keys for each type, and scale those of layers that see all tokens
        parameters = {"full_attention": {"rope_type": "default"}}
    bases = {"full_attention": values["rope_theta"], "sliding_attention": values["rope_local_base_freq"]}
    scaling = {"full_attention": values["rope_scaling"] or {}, "sliding_attention": {}}
    rotary = rotaries(config, parameters, bases, scaling)
    types = periodic_layer_types(config, "sliding_window_pattern", offset=1)
    bidirectional = bool(values["use_bidirectional_attention"])
    layer = layer_of(
        config,
        norm="rms",
        unit_offset=True,
        norm_placement="sandwich",
        qk_norm=True,
        gated=True,
        scale=integer(values, "query_pre_attn_scalar", least=1) ** -0.5,
        **{**NO_BIASES, **biases_of(config)},
    )
    by_type = {x: replace(layer, rotary=rotary[x]) for x in rotary}
    if "sliding_attention" in types:
        near = integer(values, "sliding_window", least=1)
        window = (near // 2, near // 2) if bidirectional else (near - 1, None)
        by_type["sliding_attention"] = replace(by_type["sliding_attention"], window=window)
    softcap = values["final_logit_softcapping"]
    if softcap is not None:
        softcap = positive("final_logit_softcapping", softcap, "a positive number or null")
    norm = NormSpec("rms", config.layer_norm_eps, unit_offset=True)
    return ModelSpec(
        _NAMES,
        decoder=StackSpec(tuple(by_type[x] for x in types), norm, bidirectional=bidirectional),
        embeddings=TokenSpec(config.hidden_size, scale=config.hidden_size**0.5),
        logits=LogitsSpec(config.vocab_size, softcap=softcap or 0.0),
    )


_SUPPORTED: dict[str, tuple[Any, ...]] = {"attn_logit_softcapping": ()}  # which transformers passes over
_GEMMA3 = replace(
    llama.LLAMA,
    build=build,
    defaults=_DEFAULTS,
    keys={**llama.LLAMA.keys, "hidden_act": ("hidden_activation",)},
    nullable=(),
    supported=_SUPPORTED,
)

# A model that generates sees no later tokens; EmbeddingGemma may.
GENERATIVE_FAMILIES = {
    "gemma3_text": replace(_GEMMA3, supported={**_SUPPORTED, "use_bidirectional_attention": (False,)})
}
STATE_FAMILIES = {"gemma3_text": for_states(_GEMMA3)}
