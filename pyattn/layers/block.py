"""What layers of encoders and decoders share: attention of sequences to themselves and a feed-forward block."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from pyattn import _checks, _threads
from pyattn._checks import Array
from pyattn._core import layer as _layer
from pyattn._threads import get_num_threads
from pyattn.activations import ACTIVATIONS
from pyattn.cache import KVCache
from pyattn.layers.attention import MultiHeadAttention
from pyattn.layers.base import Layer
from pyattn.layers.linear import Linear
from pyattn.layers.norm import LayerNorm, Norm, RMSNorm
from pyattn.layers.sequences import Sequences


def check_numbers(stack: Layer, what: str, x: Array) -> None:
    """FloatingPointError that says what of a stack made rows x (n, E), unless all are finite."""
    bad = ~np.isfinite(x).all(axis=1)
    if bad.any():
        where = f"in {bad.sum()} of {len(x)} rows, first in {bad.argmax()}"
        raise FloatingPointError(f"{type(stack).__name__}: {what} has NaN or infinity {where}")


def check_layers(stack: Layer, layers: list[Any], kind: "type[Block]") -> None:
    """Refuses layers of a stack, a list that may be changed, of another kind or of other sizes than the first."""
    name = type(stack).__name__
    if not layers:
        raise ValueError(f"{name}: layers is empty")
    needed: tuple[Any, ...] | None = None
    for number, layer in enumerate(layers):
        if not isinstance(layer, kind):
            raise TypeError(f"{name}: layers.{number} must be a {kind.__name__}, not {type(layer).__name__}")
        seen = layer._sizes()
        needed = needed or seen
        if seen != needed:
            raise ValueError(f"{name}: layers.{number} has {_named(seen)}; layers.0 has {_named(needed)}")


def _named(sizes: tuple[Any, ...]) -> str:
    width, heads, dtype, attentions = sizes
    return f"width {width}, {heads} heads, dtype {dtype} and {attentions} attention layers"


def last_norm(stack: Layer, norm: Norm, x: Array, check_finite: bool) -> Array:
    """Rows x of a stack through the norm behind its layers, in place."""
    norm._apply(x, out=x)
    if check_finite:
        check_numbers(stack, "the output of norm", x)
    return x


class Block(Layer):
    """Self-attention, attention to a memory where a layer has that, feed-forward; `_forward_rows` does the work."""

    norm1: Norm | None

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int,
        activation: str,
        norm_first: bool,
        bias: bool,
        gated: bool,
        dtype: DTypeLike,
        rng: np.random.Generator,
        **attention: Any,
    ) -> None:
        name = type(self).__name__
        for argument, value in (("d_model", d_model), ("nhead", nhead), ("dim_feedforward", dim_feedforward)):
            _checks.size(name, argument, value)
        _checks.choice(name, "activation", activation, [a for a in ACTIVATIONS if a])
        self.norm_first = _checks.flag(name, "norm_first", norm_first)
        self.gated = _checks.flag(name, "gated", gated)
        self._activation = ACTIVATIONS[activation]
        self.self_attn = MultiHeadAttention(d_model, nhead, bias, dtype=dtype, rng=rng, **attention)
        self.linear1 = Linear(
            d_model,
            dim_feedforward * (2 if gated else 1),
            bias,
            activation=None if gated else activation,
            dtype=dtype,
            rng=rng,
        )
        self.linear2 = Linear(dim_feedforward, d_model, bias, dtype=dtype, rng=rng)

    def _make_norm(self, norm: str, eps: float, bias: bool) -> Norm:
        _checks.choice(type(self).__name__, "norm", norm, ("layer", "rms"))
        width, dtype = self.linear2.out_features, self.linear2.dtype
        return LayerNorm(width, eps, bias, dtype=dtype) if norm == "layer" else RMSNorm(width, eps, dtype=dtype)

    def _sizes(self) -> tuple[Any, ...]:
        """What is the same in all layers of a stack: width, heads, dtype, and how often a layer attends."""
        attention = self.self_attn
        return attention.embed_dim, attention.num_heads, attention.out_proj.dtype, 1

    def _counts_positions(self) -> bool:
        attention = self.self_attn
        return attention.rotary is not None or attention.left >= 0 or attention.right >= 0

    def _last_norm(self) -> Norm:
        """That of the feed-forward block."""
        raise NotImplementedError

    def _forward_rows(
        self,
        x: Array,
        sequences: Sequences,
        out: Array | None = None,
        cache: KVCache | None = None,
        cross: _layer.Attention | None = None,
        memory: list[Array] | None = None,
    ) -> Array:
        """Checked rows through the layer: out, an array like x, or a new one.

        cache: where keys and values of the sequences are, if these continue others. memory: what cross attends to, as
        rows of keys and rows of values, unless it has a cache.
        """
        x = np.ascontiguousarray(x)
        out = np.empty_like(x) if out is None else out
        _layer.layer(
            x,
            out,
            self.self_attn._block(sequences, sequences, self.norm1, cache),
            cross,
            memory or [],
            self.linear1._weights(),
            self.linear2._weights(),
            self._last_norm()._arguments(),
            self.norm_first,
            self._activation,
            self.gated,
            sequences.workspace,
            get_num_threads(),
            _threads.SMALL_WORK,
        )
        return out
