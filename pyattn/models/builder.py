"""The stacks of layers that a specification describes."""

from dataclasses import replace

from pyattn.layers import TransformerDecoder, TransformerDecoderLayer, TransformerEncoder, TransformerEncoderLayer
from pyattn.models.embeddings import make_norm
from pyattn.models.spec import StackSpec


def _patched(layer, c):
    attention = layer.self_attn
    attention.rotary = c.rotary
    if c.window is not None:
        attention.left = -1 if c.window[0] is None else c.window[0]
        attention.right = -1 if c.window[1] is None else c.window[1]
    if not c.in_proj_bias:
        for p in attention._projections:
            p._has_bias = False
    attention.out_proj._has_bias = c.out_proj_bias
    if (cross := getattr(layer, "multihead_attn", None)) is not None:
        for p in (*cross._projections, cross.out_proj):
            p._has_bias = c.out_proj_bias
    for linear in (layer.linear1, layer.linear2):
        linear._has_bias = c.linear_bias
    if not c.norm_bias:
        for n in ("norm1", "norm2", "norm3"):
            if getattr(layer, n, None) is not None and "bias" in getattr(layer, n)._parameters:
                x = getattr(layer, n)
                x._parameters = {"weight": x._parameters["weight"]}
    if not c.input_norm:
        layer.norm1 = None
    return layer


def _layer(cls, c, **more):
    return _patched(
        cls(
            c.d_model,
            c.nhead,
            c.dim_feedforward,
            c.activation,
            c.layer_norm_eps,
            c.norm_placement == "pre",
            True,
            gated=c.gated,
            norm=c.norm,
            num_key_value_heads=c.num_key_value_heads,
            head_dim=c.head_dim,
            scale=c.scale,
            dtype=c.dtype,
            **more,
        ),
        c,
    )


def make_encoder(spec: StackSpec, dtype: str) -> TransformerEncoder:
    layers = [replace(c, dtype=dtype) for c in spec.layers]
    encoder = TransformerEncoder(_layer(TransformerEncoderLayer, layers[0]), 1, make_norm(spec.norm, layers[0].d_model))
    encoder.layers = [_layer(TransformerEncoderLayer, c) for c in layers]
    if spec.order:
        encoder._order = list(spec.order)
    return encoder


def make_decoder(spec: StackSpec, dtype: str) -> TransformerDecoder:
    layers = [replace(c, dtype=dtype) for c in spec.layers]
    decoder = TransformerDecoder(
        _layer(TransformerDecoderLayer, layers[0], cross_attention=layers[0].cross_attention),
        1,
        make_norm(spec.norm, layers[0].d_model),
    )
    decoder.layers = [_layer(TransformerDecoderLayer, c, cross_attention=c.cross_attention) for c in layers]
    return decoder
