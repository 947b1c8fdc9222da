"""Marian: Junczys-Dowmunt et al. 2018 (arXiv:1804.00344)."""

from dataclasses import replace
from typing import Any

from pyattn.models.config import ModelConfig
from pyattn.models.families import bart
from pyattn.models.family import Values
from pyattn.models.keys import integer, switch
from pyattn.models.spec import ModelSpec

_DEFAULTS = {
    **bart.DEFAULTS, "vocab_size": 58101, "decoder_vocab_size": None, "share_encoder_decoder_embeddings": True,
}  # fmt: skip


def build(config: ModelConfig) -> ModelSpec:
    spec = bart.two_sides(config, bart.NAMES, "post", sinusoidal=True)
    own = ("shared.weight", "encoder.embed_tokens.weight") if config.source_vocab_size else ()
    return replace(spec, separate=frozenset(own))


def _vocabularies(values: Values, sizes: Values) -> dict[str, Any]:
    """The sides may have vocabularies of their own."""
    if switch(values, "share_encoder_decoder_embeddings"):
        return {}
    source = sizes["vocab_size"]
    target = integer(values, "decoder_vocab_size", least=1) if values["decoder_vocab_size"] else source
    return {"vocab_size": target, "source_vocab_size": source}


GENERATIVE_FAMILIES = {
    "marian": replace(
        bart.BART,
        build=build,
        defaults=_DEFAULTS,
        supported=dict.fromkeys(("normalize_before", "normalize_embedding", "add_final_layer_norm"), (False,)),
        derive=_vocabularies,
    )
}
