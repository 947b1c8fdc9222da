"""Encoders of torch in training: its own products and norms on packed sequences, pyattn's attention and dropout.

Padding is left out before the first layer and comes back as 0 behind the last, so that nothing of it is computed.
"""

from typing import Any

import torch
from torch import Tensor, nn

from pyattn.torch.dropout import dropout
from pyattn.torch.functional import varlen_attention


def encode_packed(
    layers: list[Any], norm: Any, activation: str, x: Tensor, padding: Tensor | None, is_causal: bool
) -> Tensor:
    """nn.TransformerEncoder of those layers and their activation on x (B, L, E); padding (B, L), True where it is."""
    if padding is None:
        lengths = torch.full((x.shape[0],), x.shape[1])
        rows = x.flatten(0, 1)
    else:
        lengths = (~padding).sum(1)
        places = (~padding).flatten().nonzero().squeeze(1)
        rows = x.flatten(0, 1).index_select(0, places)
    starts = nn.functional.pad(lengths.cumsum(0), (1, 0))
    for layer in layers:
        rows = _layer(layer, activation, rows, starts, is_causal)
    if norm is not None:
        rows = norm(rows)
    if padding is not None:
        rows = rows.new_zeros(x.shape[0] * x.shape[1], x.shape[2]).index_copy(0, places, rows)
    return rows.unflatten(0, x.shape[:2])


def _layer(layer: Any, activation: str, x: Tensor, starts: Tensor, is_causal: bool) -> Tensor:
    if layer.norm_first:
        x = x + _attention(layer, layer.norm1(x), starts, is_causal)
        return x + _feed_forward(layer, activation, layer.norm2(x))
    x = layer.norm1(x + _attention(layer, x, starts, is_causal))
    return layer.norm2(x + _feed_forward(layer, activation, x))


def _attention(layer: Any, x: Tensor, starts: Tensor, is_causal: bool) -> Tensor:
    module = layer.self_attn
    heads = nn.functional.linear(x, module.in_proj_weight, module.in_proj_bias).unflatten(1, (3, module.num_heads, -1))
    p = module.dropout if module.training else 0.0
    query, key, value = heads.unbind(1)
    out: Tensor = varlen_attention(query, key, value, starts, is_causal=is_causal, dropout_p=p)
    return _dropped(layer.dropout1, module.out_proj(out.flatten(1)))


def _feed_forward(layer: Any, activation: str, x: Tensor) -> Tensor:
    return _dropped(layer.dropout2, layer.linear2(_dropped(layer.dropout, layer.linear1(x), activation)))


def _dropped(module: Any, x: Tensor, activation: str | None = None) -> Tensor:
    p = module.p if module.training else 0.0
    return x if p == 0 and activation is None else dropout(x, p, activation=activation)
