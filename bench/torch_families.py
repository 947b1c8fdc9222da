"""Families that bench/convert_seq2seq.py writes and the product does not know: torch's nn.Transformer, with embeddings.

Importing this module adds them to the families that pyattn.models.load reads.
"""

from dataclasses import replace

from pyattn.models.families import GENERATIVE_FAMILIES, bart
from pyattn.models.family import Family
from pyattn.models.keys import norm_of
from pyattn.models.spec import PatchSpec


def _names(*more):
    names = {"head": "generator"}
    for side, attentions in (("encoder", ("self_attn",)), ("decoder", ("self_attn", "multihead_attn"))):
        layer = f"{side}.layers.{{}}"
        for attention in attentions:
            names |= {
                f"{layer}.{attention}.in_proj.{x}": f"{layer}.{attention}.in_proj_{x}" for x in ("weight", "bias")
            }
            names[f"{layer}.{attention}.out_proj"] = f"{layer}.{attention}.out_proj"
        norms = [f"norm{i + 1}" for i in range(len(attentions) + 1)]
        names |= {f"{layer}.{module}": f"{layer}.{module}" for module in ("linear1", "linear2", *norms)}
    return {
        **names,
        "words": "decoder.token_embedding.weight",
        "embeddings.positions": "decoder.position_embedding.weight",
        "encoder_embeddings.positions": "encoder.position_embedding.weight",
        **dict(more),
    }


def _same(*names):
    """Fields that are called as their keys are, and have no defaults."""
    return {name: (name,) for name in names}


_ANNALOG = _names(("encoder_embeddings.words", "encoder.token_embedding.weight"))
_LATEX_OCR = _names(
    ("encoder_embeddings.patches", "encoder.patch_embedding"),
    ("encoder_embeddings.norm", "encoder.embedding_norm"),
    ("embeddings.norm", "decoder.embedding_norm"),
    ("encoder.norm", "encoder.norm"),
    ("decoder.norm", "decoder.norm"),
)


def build_annalog(config):
    return bart.two_sides(config, _ANNALOG, "post")


def build_latex_ocr(config):
    if any(side % patch for side, patch in zip(config.image_size, config.patch_size, strict=True)):
        raise ValueError(f"image_size {config.image_size} must be a multiple of patch_size {config.patch_size}")
    patches = PatchSpec(
        config.hidden_size,
        config.num_channels,
        config.image_size,
        config.patch_size,
        norm=norm_of(config),
        fixed=True,
    )
    return bart.two_sides(config, _LATEX_OCR, "pre", patches)


_FAMILY = Family(
    build=build_annalog,
    prefix="",
    keys={**bart.KEYS, **_same("encoder_ffn_dim", "vocab_size", "max_position_embeddings", "layer_norm_eps")},
    defaults={"scale_embedding": False, "tie_word_embeddings": False},
    supported={"norm_first": (False,)},
)
MODEL_TYPES = {
    "annalog": _FAMILY,
    "latex-ocr": replace(
        _FAMILY,
        build=build_latex_ocr,
        keys={**_FAMILY.keys, **_same("image_size", "patch_size", "num_channels")},
        supported={"norm_first": (True,)},
    ),
}
GENERATIVE_FAMILIES.update(MODEL_TYPES)
