"""torch's own modules of the Transformer, accelerated."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyattn.layers import LayerNorm, MultiHeadAttention, TransformerEncoder, TransformerEncoderLayer
from pyattn.torch.accelerated import Accelerated, Reason
from pyattn.torch.tensors import array_of

ACTIVATIONS = {nn.functional.relu: "relu", nn.functional.gelu: "gelu"}
MODULES = {nn.ReLU: "relu", nn.GELU: "gelu", nn.SiLU: "silu"}


class Attention(Accelerated):
    """nn.MultiheadAttention without weights."""

    def _make(self) -> MultiHeadAttention:
        module: Any = self
        sizes = {"kdim": module.kdim, "vdim": module.vdim, "bias": module.in_proj_bias is not None}
        layer = MultiHeadAttention(module.embed_dim, module.num_heads, **sizes, dtype=self._dtype)
        layer.load_state_dict(_arrays(module))
        return layer

    def _reason(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> Reason:
        if need_weights:
            return "need_weights: need_weights=False goes without"
        return _reason_of_masks(query, attn_mask, key_padding_mask)

    def _run(
        self,
        twin: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        first = self.batch_first or query.ndim == 2  # type: ignore[attr-defined]
        arrays = [_array(x, first) for x in (query, key, value)]
        if key is query:
            arrays[1] = arrays[0]
        if value is key:
            arrays[2] = arrays[1]
        mask = _mask(attn_mask, arrays[0].dtype)
        if mask is not None and mask.ndim == 3:  # one for each batch element and head
            mask = mask.reshape(-1, self.num_heads, *mask.shape[1:])  # type: ignore[attr-defined]
        out = twin(*arrays, mask, key_mask=_live(key_padding_mask))
        return _tensor(out, query, first), None


class Encoder(Accelerated):
    """nn.TransformerEncoder."""

    layers: Any
    norm: Any

    def _make(self) -> TransformerEncoder:
        layer = _layer(self.layers[0], self._dtype)
        norm = None if self.norm is None else LayerNorm(self.norm.weight.shape[0], self.norm.eps, dtype=self._dtype)
        stack = TransformerEncoder(layer, len(self.layers), norm)
        stack.load_state_dict(_arrays(self))
        return stack

    def _reason(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = False,
    ) -> Reason:
        if mask is not None and mask.ndim != 2:
            return "a mask for each head"
        return _reason_of_masks(src, mask, src_key_padding_mask)

    def _run(
        self,
        twin: Any,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = False,
    ) -> Tensor:
        first = self._first().self_attn.batch_first or src.ndim == 2
        x = _array(src, first)
        return _tensor(twin(x, _mask(mask, x.dtype), key_mask=_live(src_key_padding_mask)), src, first)

    def _first(self) -> Any:
        return self.layers[0]


class Layer(Encoder):
    """nn.TransformerEncoderLayer."""

    def _make(self) -> Any:
        layer = _layer(self, self._dtype)
        layer.load_state_dict(_arrays(self))
        return layer

    def _reason(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = False,
    ) -> Reason:
        return super()._reason(src, src_mask, src_key_padding_mask, is_causal)

    def _run(
        self,
        twin: Any,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = False,
    ) -> Tensor:
        return super()._run(twin, src, src_mask, src_key_padding_mask, is_causal)

    def _first(self) -> Any:
        return self


def kind_of_module(module: nn.Module) -> type | None:
    """What accelerates one of torch's modules, or None."""
    if type(module) is nn.MultiheadAttention:
        plain = module.bias_k is None and module.bias_v is None and not module.add_zero_attn
        return Attention if plain else None
    if type(module) is nn.TransformerEncoderLayer:
        return Layer if _choices(module) is not None else None
    if type(module) is nn.TransformerEncoder and len(module.layers):
        kinds = {_choices(layer) if type(layer) is nn.TransformerEncoderLayer else None for layer in module.layers}
        norm = module.norm is None or type(module.norm) is nn.LayerNorm
        return Encoder if len(kinds) == 1 and None not in kinds and norm else None
    return None


def _choices(layer: Any) -> tuple[Any, ...] | None:
    """What a layer is made with, or None if pyattn has no such layer."""
    activation = MODULES.get(type(layer.activation)) or ACTIVATIONS.get(layer.activation)
    if getattr(layer.activation, "approximate", "none") == "tanh":
        activation = "gelu_tanh"
    attention, norm = layer.self_attn, layer.norm1
    if activation is None or kind_of_module(attention) is None or norm.eps != layer.norm2.eps:
        return None
    sizes = attention.embed_dim, attention.num_heads, layer.linear1.out_features
    return *sizes, activation, norm.eps, layer.norm_first, layer.linear1.bias is not None


def _layer(layer: Any, dtype: Any) -> TransformerEncoderLayer:
    return TransformerEncoderLayer(*(_choices(layer) or ()), dtype=dtype)


def _arrays(module: Any) -> dict[str, Any]:
    """The parameters as what layers take: float64 as it is, others as float32."""
    return {name: array_of(x if x.dtype is torch.float64 else x.float()) for name, x in module.state_dict().items()}


def _array(x: Tensor, batch_first: bool) -> Any:
    x = x if x.dtype is torch.float64 else x.float()
    return array_of(x if batch_first else x.transpose(0, 1))


def _tensor(out: Any, like: Tensor, batch_first: bool) -> Tensor:
    result = torch.from_numpy(out).to(like.dtype)
    return result if batch_first else result.transpose(0, 1)


def _reason_of_masks(x: Tensor, mask: Tensor | None, padding: Tensor | None) -> Reason:
    if padding is not None and padding.dtype is not torch.bool:
        return "a floating padding mask"
    if mask is not None and mask.dtype not in (torch.bool, x.dtype):
        return "a mask of another dtype"
    return "a nested tensor" if x.is_nested else None


def _mask(mask: Tensor | None, dtype: Any) -> Any:
    """torch's True, where attention may not look, as pyattn's False; what is added as it is."""
    if mask is None:
        return None
    return ~array_of(mask) if mask.dtype is torch.bool else array_of(mask).astype(dtype, copy=False)


def _live(padding: Tensor | None) -> Any:
    return None if padding is None else np.logical_not(array_of(padding))
