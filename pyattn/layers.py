"""Layers of the Transformer's encoder, for inference. B batch, L queries, S keys, E model width.

Parameters carry the names and shapes of torch's state dicts, so that one saved as safetensors loads unchanged; batches
are always (B, L, E). A layer's dtype says in what its weights are held and multiplied, "float32", "float64", "bfloat16"
or "int8" (precision.py); inputs and outputs are float64 where that is float64, float32 otherwise.
"""

import copy
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from pyattn import _checks
from pyattn._checks import Array, Options
from pyattn._core import linear as _linear
from pyattn._core import rowwise
from pyattn._threads import get_num_threads, threads_for
from pyattn.activations import ACTIVATIONS
from pyattn.functional import attend
from pyattn.precision import (
    BFLOAT16_BITS,
    INT8,
    MOST_INT8_INPUTS,
    Quantized,
    concatenated,
    elements_of,
    held,
    mask_to_bfloat16,
    values_of,
)

# A string: evaluating it would import numpy.random, which costs more than all the rest of pyattn.
Seed: TypeAlias = "np.random.Generator | int | None"

# Rows of a thread that pass through a feed-forward block at a time: the hidden activations stay in its cache.
FEED_FORWARD_ROWS = 256


class Layer:
    """A layer with named parameters: its own, and those of the layers among its attributes, as `name.parameter`.

    A layer's own parameters stand in `_parameters`; layers that keep them in another form override the methods
    beginning with _own.
    """

    _parameters: Mapping[str, Array] = {}

    def state_dict(self) -> dict[str, Array]:
        """All parameters by name, in torch's names and shapes, of the dtype of the layer's inputs."""
        return {name: values_of(value) for name, value in self._held().items()}

    def _held(self) -> dict[str, Any]:
        """state_dict with weights as they are held."""
        values = self._own_held()
        for name, child in self._children().items():
            values.update({f"{name}.{key}": value for key, value in child._held().items()})
        return values

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> None:
        """Copies parameters from arrays by name, converting them to the layer's dtype; checks all before it sets any.

        Args:
            state_dict: a torch state dict as NumPy arrays, such as safetensors.numpy.load_file returns.
            strict: raise also when state_dict has names that the layer does not.

        Raises:
            ValueError: a name is missing or, if strict, unknown; a shape differs (all are listed).
            TypeError: an array is not of a real floating dtype.
        """
        function = f"{type(self).__name__}.load_state_dict"
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"{function}: state_dict must map names to arrays, not be {type(state_dict).__name__}")
        shapes = self._shapes()
        missing = sorted(shapes.keys() - state_dict.keys())
        unknown = sorted(state_dict.keys() - shapes.keys()) if strict else []
        if missing or unknown:
            raise ValueError(f"{function}: missing {missing or 'nothing'}, unknown {unknown or 'nothing'}")
        given = {name: state_dict[name] for name in shapes}
        values = {name: x if isinstance(x, Quantized) else np.asarray(x) for name, x in given.items()}
        wrong = [f"{n} {v.shape} instead of {shapes[n]}" for n, v in values.items() if v.shape != shapes[n]]
        if wrong:
            raise ValueError(f"{function}: shapes differ: {', '.join(wrong)}")
        for name, value in values.items():
            if isinstance(value, Quantized):
                continue
            if value.dtype.kind != "f" and value.dtype.name != "bfloat16":
                raise TypeError(f"{function}: {name} has dtype {value.dtype}; a floating dtype is needed")
        self._load(values)

    def _children(self) -> dict[str, "Layer"]:
        children: dict[str, Layer] = {}
        for name, value in vars(self).items():
            if isinstance(value, Layer) and not name.startswith("_"):
                children[name] = value
            elif isinstance(value, list):
                children.update({f"{name}.{i}": child for i, child in enumerate(value)})
        return children

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = self._own_shapes()
        for name, child in self._children().items():
            shapes.update({f"{name}.{key}": shape for key, shape in child._shapes().items()})
        return shapes

    def _load(self, values: Mapping[str, Any]) -> None:
        self._own_load({name: values[name] for name in self._own_shapes()})
        for name, child in self._children().items():
            child._load({key: values[f"{name}.{key}"] for key in child._shapes()})

    def _own_held(self) -> dict[str, Any]:
        return {name: value.copy() for name, value in self._parameters.items()}

    def _own_shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: value.shape for name, value in self._parameters.items()}

    def _own_load(self, values: Mapping[str, Any]) -> None:
        self._parameters = {
            name: np.array(values[name], value.dtype, order="C") for name, value in self._parameters.items()
        }


def initial(shape: tuple[int, ...], width: int, rng: Seed, dtype: DTypeLike = np.float32) -> Array:
    """Uniform in +-1 / sqrt(width), torch's initialisation of a linear layer of that input width."""
    bound = 1 / np.sqrt(max(1, width))
    return np.random.default_rng(rng).uniform(-bound, bound, shape).astype(dtype)


class Linear(Layer):
    """activation(x weight^T + bias), with the weight packed once for the matmul kernel.

    Parameters: `weight` (out_features, in_features) and, if bias, `bias` (out_features,); until they are loaded, random
    from rng. activation: None, "relu", "gelu" (erf), "gelu_tanh" or "silu", fused. dtype: in what the weight is held
    and multiplied, "float32", "float64", "bfloat16" or "int8"; x and the output are float64 where it is, else float32.

    Example:
        >>> layer = Linear(384, 1536, activation="gelu")
        >>> layer(np.ones((2, 7, 384), np.float32)).shape
        (2, 7, 1536)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        activation: str | None = None,
        dtype: DTypeLike = "float32",
        rng: Seed = None,
    ) -> None:
        self.in_features = _checks.size("Linear", "in_features", in_features)
        self.out_features = _checks.size("Linear", "out_features", out_features)
        self.weight_dtype = _checks.weight_dtype("Linear", dtype)
        if self.weight_dtype == INT8 and in_features > MOST_INT8_INPUTS:
            raise ValueError(
                f"Linear: in_features is {in_features}; int8 takes at most {MOST_INT8_INPUTS} (sums have 32 bits)"
            )
        self.dtype = np.dtype(np.float64 if self.weight_dtype == np.float64 else np.float32)  # of inputs and outputs
        self.activation = _checks.choice("Linear", "activation", activation, ACTIVATIONS)
        self._has_bias = bool(bias)
        self._seed = int(np.random.default_rng(rng).integers(2**63))
        # Made from the seed at first use: parameters that are loaded at once would be drawn in vain.
        self._packed: _linear.Packed | None = None

    def __call__(self, x: Array) -> Array:
        """x (..., in_features) to (..., out_features).

        Raises:
            TypeError: x is not of the layer's dtype.
            ValueError: x has another last axis.
        """
        rows, shape = _checks.rows("Linear", x, self.in_features, self.dtype)
        return self._apply(rows).reshape(*shape, self.out_features)

    def _apply(self, rows: Array, residual: Array | None = None, out: Array | None = None, half: bool = False) -> Array:
        """__call__ for checked rows (n, in_features), each contiguous, plus residual; residual may be out.

        Rows may be of bits of bfloat16 unless the weight is of reals, and the output is if half.
        """
        return _apply_linears([self], rows, residual, out, half)

    @property
    def computes_in_halves(self) -> bool:
        """Whether what only matrix products and attention read is rounded to bfloat16."""
        return self.weight_dtype.itemsize < 4

    def _weights(self) -> _linear.Packed:
        if self._packed is None:
            rng = np.random.default_rng(self._seed)
            shapes = self._own_shapes().items()
            self._own_load({name: initial(shape, self.in_features, rng, self.dtype) for name, shape in shapes})
        assert self._packed is not None
        return self._packed

    def _own_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {"weight": (self.out_features, self.in_features)}
        return shapes | {"bias": (self.out_features,)} if self._has_bias else shapes

    def _own_held(self) -> dict[str, Any]:
        packed = self._weights()
        values: dict[str, Any] = {"weight": held(*packed.unpack())}
        return values if packed.bias is None else values | {"bias": packed.bias.copy()}

    def __getstate__(self) -> dict[str, Any]:
        """For copy and pickle: the weight unpacked, since how it is packed depends on the instruction set."""
        if self._packed is None:
            return vars(self)
        return vars(self) | {"_packed": (*self._packed.unpack(), self._packed.bias)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self._packed is not None:
            elements, scales, bias = state["_packed"]
            self._packed = _linear.Packed(elements, bias, scales)

    def _own_load(self, values: Mapping[str, Any]) -> None:
        bias = np.array(values["bias"], self.dtype) if self._has_bias else None
        elements, scales = elements_of(values["weight"], self.weight_dtype)
        self._packed = _linear.Packed(elements, bias, scales)


def _apply_linears(
    linears: list[Linear], rows: Array, residual: Array | None = None, out: Array | None = None, half: bool = False
) -> Array:
    """The outputs of layers of one input side by side, (n, sum of out_features), in one call of the driver."""
    width = sum(layer.out_features for layer in linears)
    first = linears[0]
    if out is None:
        out = np.empty((len(rows), width), BFLOAT16_BITS if half else first.dtype)
    threads = threads_for(2.0 * rows.size * width)
    parts = [layer._weights() for layer in linears]
    _linear.linear(rows, parts, residual, out, ACTIVATIONS[first.activation], threads)
    return out


class LayerNorm(Layer):
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis: Ba et al. 2016 (arXiv:1607.06450).

    Parameters: `weight` and, if bias, `bias`, both (width,), ones and zeros until they are loaded.

    Example:
        >>> LayerNorm(3)(np.array([[1, 2, 3]], np.float32)).round(3)
        array([[-1.225,  0.   ,  1.225]], dtype=float32)
    """

    def __init__(
        self, normalized_shape: int, eps: float = 1e-5, bias: bool = True, *, dtype: DTypeLike = np.float32
    ) -> None:
        width = _checks.size("LayerNorm", "normalized_shape", normalized_shape)
        if not isinstance(eps, int | float | np.floating) or not 0 <= eps < np.inf:
            raise ValueError(f"LayerNorm: eps must be a finite number, 0 or more, not {eps!r}")
        self.eps = float(eps)
        self.width = width
        self.dtype = _checks.layer_dtype("LayerNorm", dtype)
        weight, zeros = np.ones(width, self.dtype), np.zeros(width, self.dtype)
        self._parameters = {"weight": weight, "bias": zeros} if bias else {"weight": weight}

    def __call__(self, x: Array) -> Array:
        """x (..., width), normalised, in a new array.

        Raises:
            TypeError: x is not of the layer's dtype.
            ValueError: x has another last axis.
        """
        rows, shape = _checks.rows("LayerNorm", x, self.width, self.dtype)
        return self._apply(rows).reshape(*shape, self.width)

    def _apply(self, rows: Array, out: Array | None = None) -> Array:
        """__call__ for checked rows (n, width); out may be rows."""
        rows = np.ascontiguousarray(rows)
        out = np.empty_like(rows) if out is None else out
        weight, bias = self._parameters["weight"], self._parameters.get("bias")
        rowwise.layer_norm(rows, weight, bias, out, self.eps, threads_for(10.0 * rows.size))
        return out


class MultiHeadAttention(Layer):
    """Multi-head attention, of a sequence to itself or to another.

    Vaswani et al. 2017 (arXiv:1706.03762), section 3.2.2.

    Parameters as torch's nn.MultiheadAttention has them: `in_proj_weight` (3 E, E) (or `q_proj_weight` (E, E),
    `k_proj_weight` (E, kdim), `v_proj_weight` (E, vdim) where kdim or vdim differs from E), `in_proj_bias` (3 E,),
    `out_proj.weight` (E, E), `out_proj.bias` (E,). E must be a multiple of num_heads.

    Masks are pyattn's: True = may attend. torch's boolean masks say the opposite: pass ~attn_mask, ~key_padding_mask.

    Example:
        >>> attention = MultiHeadAttention(384, 12)
        >>> x = np.ones((2, 7, 384), np.float32)
        >>> attention(x, is_causal=True).shape
        (2, 7, 384)
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        bias: bool = True,
        kdim: int | None = None,
        vdim: int | None = None,
        *,
        dtype: DTypeLike = np.float32,
        rng: Seed = None,
    ) -> None:
        name = "MultiHeadAttention"
        self.embed_dim = _checks.size(name, "embed_dim", embed_dim)
        self.num_heads = _checks.size(name, "num_heads", num_heads)
        if embed_dim % num_heads:
            raise ValueError(f"{name}: embed_dim {embed_dim} must be a multiple of num_heads {num_heads}")
        rng = np.random.default_rng(rng)
        widths = [
            embed_dim if width is None else _checks.size(name, argument, width)
            for argument, width in (("embed_dim", embed_dim), ("kdim", kdim), ("vdim", vdim))
        ]
        self._projections = tuple(Linear(width, embed_dim, bias, dtype=dtype, rng=rng) for width in widths)
        self.out_proj = Linear(embed_dim, embed_dim, bias, dtype=dtype, rng=rng)

    def __call__(
        self,
        query: Array,
        key: Array | None = None,
        value: Array | None = None,
        mask: Array | None = None,
        *,
        key_mask: Array | None = None,
        is_causal: bool = False,
    ) -> Array:
        """Attention of query (B, L, E) to key (B, S, kdim) and value (B, S, vdim); without the batch axis as well.

        Args:
            query: queries; also keys and values where those are None. value None: key is also the value.
            mask: as in scaled_dot_product_attention: (L, S), (B, L, S) or broadcasting to (B, H, L, S).
            key_mask: boolean (B, S), or (S,) without a batch: True where the key is real, False where it is padding.
                Together with mask it makes a mask of its own for each sample, B times (L, S) elements.
            is_causal: as in scaled_dot_product_attention.

        Returns:
            (B, L, E). A query that may attend to nothing gets out_proj.bias.

        Raises:
            TypeError, ValueError: as scaled_dot_product_attention; widths or batches do not fit.
        """
        name = "MultiHeadAttention"
        is_causal = _checks.flag(name, "is_causal", is_causal)
        given = (query, query if key is None else key)
        arrays = (*given, given[1] if value is None else value)
        dtype = self.out_proj.dtype
        pairs = [_checks.rows(name, x, p.in_features, dtype) for x, p in zip(arrays, self._projections, strict=True)]
        shapes = [shape for _, shape in pairs]
        batch, lengths = _checks.batches(name, *shapes)
        logits = (batch, self.num_heads, *lengths)
        mask = _checks.combined_mask(name, mask, key_mask, logits, dtype)
        same = arrays[1] is query and arrays[2] is query
        rows = [pairs[0][0]] if same else [x for x, _ in pairs]
        starts, key_starts = (np.array([0, length]) for length in lengths)
        out = self._forward_rows(rows, batch, starts, key_starts, mask, is_causal)
        return out.reshape(*shapes[0], self.embed_dim)

    def _forward_rows(
        self,
        inputs: list[Array],
        batch: int,
        query_starts: Array,
        key_starts: Array,
        mask: Array | None,
        is_causal: bool,
        residual: Array | None = None,
    ) -> Array:
        """The layer on checked rows, plus residual: inputs [x] to attend to itself, or [query, key, value].

        Rows are `batch` times the sequences that the starts describe.
        """
        width, half = self.embed_dim, self.out_proj.computes_in_halves
        if len(inputs) == 1:
            together = _apply_linears(list(self._projections), inputs[0], half=half)
            projected = [together[:, i * width : (i + 1) * width] for i in range(3)]
        else:
            projected = [p._apply(x, half=half) for p, x in zip(self._projections, inputs, strict=True)]
        out = np.empty((len(projected[0]), width), projected[0].dtype)
        query, key, value, result = (self._heads(x, batch) for x in (*projected, out))
        options: Options = {"scale": (width // self.num_heads) ** -0.5, "right": 0 if is_causal else -1}
        if mask is not None:
            options["mask"] = mask if mask.dtype == bool or not half else mask_to_bfloat16(mask)
        attend(query, key, value, result, query_starts, key_starts, options)
        return self.out_proj._apply(out, residual)

    def _heads(self, rows: Array, batch: int) -> Array:
        """(batch n, E) seen as (batch, H, n, E / H)."""
        split = rows.reshape(
            batch, len(rows) // batch if batch else 0, self.num_heads, self.embed_dim // self.num_heads
        )
        return split.transpose(0, 2, 1, 3)

    def _own_shapes(self) -> dict[str, tuple[int, ...]]:
        width = self.embed_dim
        widths = [p.in_features for p in self._projections]
        if widths == [width] * 3:
            shapes: dict[str, tuple[int, ...]] = {"in_proj_weight": (3 * width, width)}
        else:
            shapes = {f"{x}_proj_weight": (width, w) for x, w in zip("qkv", widths, strict=True)}
        return shapes | {"in_proj_bias": (3 * width,)} if self.out_proj._has_bias else shapes

    def _own_held(self) -> dict[str, Any]:
        parts = [p._own_held() for p in self._projections]
        values: dict[str, Any]
        if "in_proj_weight" in self._own_shapes():
            values = {"in_proj_weight": concatenated([part["weight"] for part in parts])}
        else:
            values = {f"{x}_proj_weight": part["weight"] for x, part in zip("qkv", parts, strict=True)}
        if self.out_proj._has_bias:
            values["in_proj_bias"] = np.concatenate([part["bias"] for part in parts])
        return values

    def _own_load(self, values: Mapping[str, Any]) -> None:
        width = self.embed_dim
        for i, projection in enumerate(self._projections):
            part = slice(i * width, (i + 1) * width)
            name = f"{'qkv'[i]}_proj_weight"
            own = {"weight": values[name] if name in values else values["in_proj_weight"][part]}
            if "in_proj_bias" in values:
                own["bias"] = values["in_proj_bias"][part]
            projection._own_load(own)


class Encoder(Layer):
    """What maps (B, L, E) to itself by self-attention: a layer, or a stack of them. `_forward_rows` does the work."""

    def __call__(
        self, x: Array, mask: Array | None = None, *, key_mask: Array | None = None, is_causal: bool = False
    ) -> Array:
        """x (B, L, E), or (L, E) without a batch.

        Args:
            x: of the layer's dtype, any strides.
            mask: as in scaled_dot_product_attention: (L, L), (B, L, L) or broadcasting to (B, H, L, L).
            key_mask: boolean (B, L), or (L,) without a batch: True where a token is real, False where it is padding
                (torch's src_key_padding_mask is ~key_mask). Padding comes out as 0; without a mask it is not computed.
            is_causal: a token sees itself and those before it.

        Returns:
            The shape of x.

        Raises:
            TypeError: x is not of the layer's dtype; a mask's dtype is unsupported.
            ValueError: shapes do not fit.
        """
        name = type(self).__name__
        is_causal = _checks.flag(name, "is_causal", is_causal)
        attention = self._attention()
        rows, shape = _checks.rows(name, x, attention.embed_dim, attention.out_proj.dtype)
        batch, (length, _) = _checks.batches(name, shape, shape, shape)
        logits = (batch, attention.num_heads, length, length)
        combined = _checks.combined_mask(name, mask, key_mask, logits, rows.dtype)
        live = None if key_mask is None else np.asarray(key_mask).reshape(-1)
        if live is None or mask is not None:
            out = self._forward_rows(rows, batch, np.array([0, length]), combined, is_causal)
            if live is not None:
                out[~live] = 0
        else:
            starts = np.concatenate([[0], np.cumsum(live.reshape(batch, length).sum(axis=1))])
            out = np.zeros(rows.shape, rows.dtype)
            out[live] = self._forward_rows(rows[live], 1, starts, None, is_causal)
        return out.reshape(*shape, attention.embed_dim)

    def forward_packed(self, x: Array, cu_seqlens: Array, *, is_causal: bool = False) -> Array:
        """Sequences without padding, one after the other.

        Args:
            x: (total tokens, E) of the layer's dtype.
            cu_seqlens: integers (sequences + 1,): sequence i is rows cu_seqlens[i] ... cu_seqlens[i + 1] of x.
            is_causal: a token sees itself and those before it in its sequence.

        Returns:
            (total tokens, E): a row's bits do not depend on the other sequences.

        Raises:
            TypeError: x is not of the layer's dtype; cu_seqlens are not integers.
            ValueError: shapes do not fit; cu_seqlens do not ascend from 0 to the number of tokens.
        """
        name = f"{type(self).__name__}.forward_packed"
        is_causal = _checks.flag(name, "is_causal", is_causal)
        attention = self._attention()
        rows, shape = _checks.rows(name, x, attention.embed_dim, attention.out_proj.dtype)
        starts = _checks.sequence_starts(name, cu_seqlens, shape)
        return self._forward_rows(rows, 1, starts, None, is_causal)

    def _attention(self) -> MultiHeadAttention:
        """An attention layer of the encoder: widths, heads and dtype are the same in all."""
        raise NotImplementedError

    def _forward_rows(self, x: Array, batch: int, starts: Array, mask: Array | None, is_causal: bool) -> Array:
        """A new array of checked rows, `batch` times the sequences that starts describes, through the encoder."""
        raise NotImplementedError


class TransformerEncoderLayer(Encoder):
    """Self-attention and a feed-forward block, each with a residual connection and a norm.

    Vaswani et al. 2017 (arXiv:1706.03762), sections 3.1 to 3.3; norm_first: Xiong et al. 2020 (arXiv:2002.04745).
    Arguments and parameters as torch's nn.TransformerEncoderLayer has them (`self_attn.*`, `linear1.*`, `linear2.*`,
    `norm1.*`, `norm2.*`); activation: "relu", "gelu", "gelu_tanh" or "silu".

    Example:
        >>> layer = TransformerEncoderLayer(384, 12, 1536, "gelu")
        >>> layer(np.ones((2, 7, 384), np.float32)).shape
        (2, 7, 384)
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        activation: str = "relu",
        layer_norm_eps: float = 1e-5,
        norm_first: bool = False,
        bias: bool = True,
        *,
        dtype: DTypeLike = np.float32,
        rng: Seed = None,
    ) -> None:
        name = "TransformerEncoderLayer"
        for argument, value in (("d_model", d_model), ("nhead", nhead), ("dim_feedforward", dim_feedforward)):
            _checks.size(name, argument, value)
        _checks.choice(name, "activation", activation, [a for a in ACTIVATIONS if a])
        rng = np.random.default_rng(rng)
        self.norm_first = bool(norm_first)
        self.self_attn = MultiHeadAttention(d_model, nhead, bias, dtype=dtype, rng=rng)
        self.linear1 = Linear(d_model, dim_feedforward, bias, activation=activation, dtype=dtype, rng=rng)
        self.linear2 = Linear(dim_feedforward, d_model, bias, dtype=dtype, rng=rng)
        self.norm1 = LayerNorm(d_model, layer_norm_eps, bias, dtype=self.linear2.dtype)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, bias, dtype=self.linear2.dtype)

    def _attention(self) -> MultiHeadAttention:
        return self.self_attn

    def _forward_rows(self, x: Array, batch: int, starts: Array, mask: Array | None, is_causal: bool) -> Array:
        attended = self.norm1._apply(x) if self.norm_first else x
        x = self.self_attn._forward_rows([attended], batch, starts, starts, mask, is_causal, residual=x)
        fed = self.norm2._apply(x) if self.norm_first else self.norm1._apply(x, out=x)
        rows = FEED_FORWARD_ROWS * get_num_threads()
        for first in range(0, len(x), rows):
            part = slice(first, first + rows)
            hidden = self.linear1._apply(fed[part], half=self.linear2.computes_in_halves)
            self.linear2._apply(hidden, residual=x[part], out=x[part])
        return x if self.norm_first else self.norm2._apply(x, out=x)


class TransformerEncoder(Encoder):
    """A stack of num_layers copies of encoder_layer, with a norm behind the last if one is given.

    Parameters as torch's nn.TransformerEncoder has them (`layers.0.self_attn. ...`, `norm.weight`, `norm.bias`).

    Example:
        >>> encoder = TransformerEncoder(TransformerEncoderLayer(384, 12, 1536, "gelu"), 6)
        >>> encoder(np.ones((2, 7, 384), np.float32)).shape
        (2, 7, 384)
    """

    def __init__(self, encoder_layer: TransformerEncoderLayer, num_layers: int, norm: LayerNorm | None = None) -> None:
        name = "TransformerEncoder"
        _checks.size(name, "num_layers", num_layers)
        if not isinstance(encoder_layer, TransformerEncoderLayer):
            raise TypeError(
                f"{name}: encoder_layer must be a TransformerEncoderLayer, not {type(encoder_layer).__name__}"
            )
        if norm is not None and not isinstance(norm, LayerNorm):
            raise TypeError(f"{name}: norm must be a LayerNorm or None, not {type(norm).__name__}")
        width, dtype = encoder_layer.norm2.width, encoder_layer.norm2.dtype
        if norm is not None and (norm.width, norm.dtype) != (width, dtype):
            raise ValueError(f"{name}: norm is for {norm.width} {norm.dtype}, the layers for {width} {dtype}")
        self.layers = [copy.deepcopy(encoder_layer) for _ in range(num_layers)]
        self.norm = norm

    def _attention(self) -> MultiHeadAttention:
        return self.layers[0].self_attn

    def _forward_rows(self, x: Array, batch: int, starts: Array, mask: Array | None, is_causal: bool) -> Array:
        for layer in self.layers:
            x = layer._forward_rows(x, batch, starts, mask, is_causal)
        return x if self.norm is None else self.norm._apply(x, out=x)
