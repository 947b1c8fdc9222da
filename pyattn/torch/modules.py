"""torch's own modules of the Transformer, accelerated."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyattn.layers import LayerNorm, MultiHeadAttention, TransformerEncoder, TransformerEncoderLayer
from pyattn.torch.accelerated import DROPS, Accelerated, Call, PassedOn
from pyattn.torch.tensors import array_of, backend_chosen
from pyattn.torch.training import encode_packed
from pyattn.torch.trees import Tree, difference

ACTIVATIONS = {nn.functional.relu: "relu", nn.functional.gelu: "gelu"}
TRAINED = (torch.float32, torch.float64)
MODULES = {nn.ReLU: "relu", nn.GELU: "gelu", nn.SiLU: "silu"}


class NotCausal(PassedOn):
    """A mask is not the causal one, where it should be."""


class OwnModule(Accelerated):
    """A module of torch itself."""

    _dtypes = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

    def _obstacle(self, tree: Tree) -> str | None:
        reason = super()._obstacle(tree)
        if reason is None and tree.dtype is torch.float64 and self._pyattn.dtype not in (None, "float64"):
            return f"parameters of torch.float64, where {self._pyattn.dtype} was asked for"
        return reason

    def _as_made(self) -> nn.Module:
        return MADE[self._own_class](self)

    def _check_inputs(self, *inputs: Any) -> None:
        dtype = next(self.parameters()).dtype  # type: ignore[attr-defined]
        for x in inputs:
            if x.is_nested or x.dtype is not dtype or x.ndim not in (2, 3) or not x.numel():
                raise PassedOn("inputs of another dtype, of other axes, or empty")


class Attention(OwnModule):
    """nn.MultiheadAttention without weights."""

    def _make(self, dtype: str) -> MultiHeadAttention:
        module: Any = self
        sizes = {"kdim": module.kdim, "vdim": module.vdim, "bias": module.in_proj_bias is not None}
        layer = MultiHeadAttention(module.embed_dim, module.num_heads, **sizes, dtype=dtype)
        layer.load_state_dict(_arrays(module))
        return layer

    def _call(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> Call:
        module: Any = self
        if need_weights:
            raise PassedOn("need_weights: need_weights=False goes without")
        self._check_inputs(query, key, value)
        if not query.ndim == key.ndim == value.ndim:
            raise PassedOn("inputs of another dtype, of other axes, or empty")
        first = module.batch_first or query.ndim == 2
        mask = _Masks(query, key, first, attn_mask, key_padding_mask, is_causal, module.num_heads)
        arrays = [_array(x, first) for x in (query, key, value)]
        if key is query:
            arrays[1] = arrays[0]
        if value is key:
            arrays[2] = arrays[1]
        return lambda twin: (_tensor(twin(*arrays, mask.mask(arrays[0]), key_mask=mask.live()), query, first), None)


class Layer(OwnModule):
    """nn.TransformerEncoderLayer."""

    def _make(self, dtype: str) -> Any:
        layer = TransformerEncoderLayer(*choices(self), dtype=dtype)
        layer.load_state_dict(_arrays(self))
        return layer

    def _call(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = False,
    ) -> Call:
        self._check_inputs(src)
        first = self._first().self_attn.batch_first or src.ndim == 2
        mask = _Masks(src, src, first, src_mask, src_key_padding_mask, is_causal)
        x = _array(src, first)
        return lambda twin: _tensor(twin(x, mask.mask(x), key_mask=mask.live()), src, first)

    def _infer(self, call: Callable[..., Call], *args: Any, **kwargs: Any) -> Any:
        """Dropout is drawn as in _train: a reentrant checkpoint calls without gradients first, then again with them."""
        try:
            return super()._infer(call, *args, **kwargs)
        except PassedOn as error:
            if str(error) != DROPS:
                raise
            try:
                return self._train(*args, **kwargs)
            except PassedOn:
                raise error from None

    def _train(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = False,
    ) -> Tensor:
        self._check_inputs(src)
        if src_mask is None and is_causal:
            raise PassedOn("is_causal without a mask that says the same")
        if src.is_inference():
            raise PassedOn("gradients beside inputs made under inference_mode")
        if backend_chosen():
            raise PassedOn("gradients by a backend that was chosen")
        if src.dtype not in TRAINED:
            raise PassedOn(f"gradients of {src.dtype}")
        self._check_modules()
        layers, norm = self._layers()
        if src.shape[-1] != layers[0].self_attn.embed_dim:
            raise PassedOn("inputs of another width")
        first = layers[0].self_attn.batch_first or src.ndim == 2
        causal = src_mask is not None
        try:
            _Masks(src, src, first, src_mask, src_key_padding_mask, causal)
        except NotCausal:
            raise PassedOn("gradients beside a mask of queries and keys") from None
        x = src if first else src.transpose(0, 1)
        padding = src_key_padding_mask
        if src.ndim == 2:
            x, padding = x[None], None if padding is None else padding[None]
        out = encode_packed(layers, norm, choices(layers[0])[3], x, padding, causal)
        if src.ndim == 2:
            return out[0]
        return out if first else out.transpose(0, 1)

    def _first(self) -> Any:
        return self

    def _layers(self) -> tuple[list[Any], Any]:
        return [self], None


class Encoder(Layer):
    """nn.TransformerEncoder."""

    layers: Any
    norm: Any

    def _make(self, dtype: str) -> TransformerEncoder:
        layer = TransformerEncoderLayer(*choices(self.layers[0]), dtype=dtype)
        real = "float64" if dtype == "float64" else "float32"
        norm = None if self.norm is None else LayerNorm(self.norm.weight.shape[0], self.norm.eps, dtype=real)
        stack = TransformerEncoder(layer, len(self.layers), norm)
        stack.load_state_dict(_arrays(self))
        return stack

    def _call(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = False,
    ) -> Call:
        return super()._call(src, mask, src_key_padding_mask, is_causal)

    def _train(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = False,
    ) -> Tensor:
        return super()._train(src, mask, src_key_padding_mask, is_causal)

    def _first(self) -> Any:
        return self.layers[0]

    def _layers(self) -> tuple[list[Any], Any]:
        return [*self.layers], self.norm


class _Masks:
    """The masks of a call, which raise PassedOn where torch broadcasts, refuses or gives NaN."""

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        batch_first: bool,
        mask: Tensor | None,
        padding: Tensor | None,
        is_causal: bool | None,
        heads: int = 0,
    ) -> None:
        self._mask, self._padding, self._heads = mask, padding, heads
        rows, columns = (x.shape[-2] if batch_first else x.shape[0] for x in (query, key))
        batch = None if query.ndim == 2 else query.shape[0 if batch_first else 1]
        shapes = [(rows, columns), *([((batch or 1) * heads, rows, columns)] if heads else [])]
        if mask is not None and (mask.dtype not in (torch.bool, query.dtype) or tuple(mask.shape) not in shapes):
            raise PassedOn("a mask of another shape or dtype")
        there = (columns,) if batch is None else (batch, columns)
        if padding is not None and (padding.dtype is not torch.bool or tuple(padding.shape) != there):
            raise PassedOn("a padding mask of another shape or dtype")
        hidden = None
        if mask is not None:
            hidden = mask if mask.dtype is torch.bool else mask == -torch.inf
        if is_causal and not (
            hidden is not None
            and rows == columns
            and torch.equal(hidden, torch.ones_like(hidden).triu(1))
            and (mask is hidden or not mask.masked_fill(hidden, 0).any())  # type: ignore[union-attr]
        ):
            raise NotCausal("is_causal without a mask that says the same")
        if padding is not None:
            across = padding[..., None, :]  # (batch,) 1, columns
            if hidden is not None and hidden.ndim == 3:
                across = across.repeat_interleave(heads, 0)
            hidden = across if hidden is None else across | hidden
        if hidden is not None and hidden.all(-1).any():
            raise PassedOn("a row that attends to nothing")

    def mask(self, like: Any) -> Any:
        """torch's True, where attention may not look, as pyattn's False; what is added as it is."""
        if self._mask is None:
            return None
        array = array_of(self._mask)
        array = ~array if self._mask.dtype is torch.bool else array.astype(like.dtype, copy=False)
        # one for each batch element and head
        return array.reshape(-1, self._heads, *array.shape[1:]) if array.ndim == 3 else array

    def live(self) -> Any:
        return None if self._padding is None else np.logical_not(array_of(self._padding))


def _attention_like(module: Any) -> nn.Module:
    options = {"kdim": module.kdim, "vdim": module.vdim, "batch_first": module.batch_first}
    return nn.MultiheadAttention(module.embed_dim, module.num_heads, bias=module.in_proj_bias is not None, **options)


def _layer_like(layer: Any) -> nn.Module:
    width, heads, inner, _, eps, norm_first, bias = choices(layer)
    options = {"batch_first": layer.self_attn.batch_first, "norm_first": norm_first, "bias": bias}
    activation = layer.activation
    if isinstance(activation, nn.GELU):
        activation = nn.GELU(activation.approximate)
    elif isinstance(activation, nn.Module):
        activation = type(activation)()
    return nn.TransformerEncoderLayer(width, heads, inner, activation=activation, layer_norm_eps=eps, **options)


def _encoder_like(module: Any) -> nn.Module:
    layer: Any = _layer_like(module.layers[0])
    norm = None if module.norm is None else nn.LayerNorm(layer.norm1.normalized_shape, module.norm.eps)
    return nn.TransformerEncoder(layer, len(module.layers), norm, enable_nested_tensor=False)


MADE = {
    nn.MultiheadAttention: _attention_like,
    nn.TransformerEncoderLayer: _layer_like,
    nn.TransformerEncoder: _encoder_like,
}
KINDS: dict[type, type[OwnModule]] = {
    nn.MultiheadAttention: Attention,
    nn.TransformerEncoderLayer: Layer,
    nn.TransformerEncoder: Encoder,
}


def kind_of_module(module: Any, cls: type) -> type[OwnModule] | None:
    """What accelerates one of torch's modules that is as its class makes it, or None: then parts of it may be."""
    if cls not in KINDS or difference(module, lambda: MADE[cls](module), lambda x: cls if x is module else type(x)):
        return None
    return KINDS[cls]


def choices(layer: Any) -> tuple[Any, ...]:
    """What a layer is made with; raises ValueError if pyattn has no such layer."""
    activation = MODULES.get(type(layer.activation)) or ACTIVATIONS.get(layer.activation)
    if getattr(layer.activation, "approximate", "none") == "tanh":
        activation = "gelu_tanh"
    if activation is None:
        raise ValueError(f"accelerate: pyattn has no layer of the activation {layer.activation}")
    sizes = layer.self_attn.embed_dim, layer.self_attn.num_heads, layer.linear1.out_features
    return *sizes, activation, layer.norm1.eps, layer.norm_first, layer.linear1.bias is not None


def _arrays(module: Any) -> dict[str, Any]:
    """The parameters as what layers take: float64 as it is, others as float32."""
    return {name: array_of(x if x.dtype is torch.float64 else x.float()) for name, x in module.state_dict().items()}


def _array(x: Tensor, batch_first: bool) -> Any:
    x = x if x.dtype is torch.float64 else x.float()
    return array_of(x if batch_first else x.transpose(0, 1))


def _tensor(out: Any, like: Tensor, batch_first: bool) -> Tensor:
    result = torch.from_numpy(out).to(like.dtype)
    return result if batch_first else result.transpose(0, 1)
