"""Layers of the encoder, and a stack of them."""

import copy

import numpy as np
from numpy.typing import DTypeLike

from pyattn import _checks, _threads
from pyattn._checks import Array
from pyattn._core import encoder
from pyattn._threads import get_num_threads
from pyattn.activations import ACTIVATIONS
from pyattn.layers.attention import MultiHeadAttention, Sequences
from pyattn.layers.base import Layer, Seed
from pyattn.layers.linear import Linear
from pyattn.layers.norm import LayerNorm


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
        if live is None or mask is not None or (self._counts_positions() and _has_gaps(live.reshape(batch, length))):
            out = self._forward_rows(rows, Sequences(batch, np.array([0, length]), combined, is_causal))
            if live is not None:
                out[~live] = 0
        else:
            starts = np.concatenate([[0], np.cumsum(live.reshape(batch, length).sum(axis=1))])
            out = np.zeros(rows.shape, rows.dtype)
            out[live] = self._forward_rows(rows[live], Sequences(1, starts, is_causal=is_causal))
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
        return self._forward_rows(rows, Sequences(1, starts, is_causal=is_causal))

    def _attention(self) -> MultiHeadAttention:
        """An attention layer of the encoder: widths, heads and dtype are the same in all."""
        raise NotImplementedError

    def _counts_positions(self) -> bool:
        """Whether it matters how far apart tokens stand."""
        raise NotImplementedError

    def _forward_rows(self, x: Array, sequences: Sequences, out: Array | None = None) -> Array:
        """Checked rows through the encoder: out, an array like x, or a new one."""
        raise NotImplementedError


def _has_gaps(live: Array) -> bool:
    """Whether padding stands between real tokens of a sample."""
    begins = live & ~np.pad(live, ((0, 0), (1, 0)))[:, :-1]
    return bool((begins.sum(axis=1) > 1).any())


class TransformerEncoderLayer(Encoder):
    """Self-attention and a feed-forward block, each with a residual connection and a norm.

    Vaswani et al. 2017 (arXiv:1706.03762), sections 3.1 to 3.3; norm_first: Xiong et al. 2020 (arXiv:2002.04745).
    Arguments and parameters as torch's nn.TransformerEncoderLayer has them (`self_attn.*`, `linear1.*`, `linear2.*`,
    `norm1.*`, `norm2.*`); activation: "relu", "gelu", "gelu_tanh" or "silu".

    gated: linear1 has 2 dim_feedforward outputs, and what enters linear2 is activation(first half) * second half:
    GEGLU, SwiGLU and the like, Shazeer 2020 (arXiv:2002.05202). window, rotary_base: as in MultiHeadAttention.

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
        gated: bool = False,
        window: tuple[int | None, int | None] | None = None,
        rotary_base: float | None = None,
        dtype: DTypeLike = np.float32,
        rng: Seed = None,
    ) -> None:
        name = "TransformerEncoderLayer"
        for argument, value in (("d_model", d_model), ("nhead", nhead), ("dim_feedforward", dim_feedforward)):
            _checks.size(name, argument, value)
        _checks.choice(name, "activation", activation, [a for a in ACTIVATIONS if a])
        rng = np.random.default_rng(rng)
        self.norm_first, self.gated = bool(norm_first), bool(gated)
        self.self_attn = MultiHeadAttention(
            d_model, nhead, bias, window=window, rotary_base=rotary_base, dtype=dtype, rng=rng
        )
        self._activation = ACTIVATIONS[activation]
        self.linear1 = Linear(
            d_model,
            dim_feedforward * (2 if gated else 1),
            bias,
            activation=None if gated else activation,
            dtype=dtype,
            rng=rng,
        )
        self.linear2 = Linear(dim_feedforward, d_model, bias, dtype=dtype, rng=rng)
        self.norm1: LayerNorm | None = LayerNorm(d_model, layer_norm_eps, bias, dtype=self.linear2.dtype)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, bias, dtype=self.linear2.dtype)

    def _attention(self) -> MultiHeadAttention:
        return self.self_attn

    def _counts_positions(self) -> bool:
        attention = self.self_attn
        return attention.rotary_base is not None or attention.left >= 0 or attention.right >= 0

    def _forward_rows(self, x: Array, sequences: Sequences, out: Array | None = None) -> Array:
        attention = self.self_attn
        x = np.ascontiguousarray(x)
        out = np.empty_like(x) if out is None else out
        encoder.encoder_layer(
            x,
            out,
            [p._weights() for p in attention._projections],
            attention.out_proj._weights(),
            self.linear1._weights(),
            self.linear2._weights(),
            None if self.norm1 is None else self.norm1._arguments(),
            self.norm2._arguments(),
            self.norm_first,
            self._activation,
            self.gated,
            attention.num_heads,
            sequences.batch,
            sequences.starts,
            attention._options(sequences),
            sequences.rotation(attention.embed_dim // attention.num_heads, attention.rotary_base, self.linear2.dtype),
            sequences.workspace,
            get_num_threads(),
            _threads.SMALL_WORK,
        )
        return out


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
        self._order = list(range(num_layers))  # in which they are run; models may run one more than once
        self.norm = norm

    def _attention(self) -> MultiHeadAttention:
        return self.layers[0].self_attn

    def _counts_positions(self) -> bool:
        return any(layer._counts_positions() for layer in self.layers)

    def _forward_rows(self, x: Array, sequences: Sequences, out: Array | None = None) -> Array:
        # Layers write to one of two arrays and read the other; the last one's is out.
        arrays = [np.empty(x.shape, x.dtype), np.empty(x.shape, x.dtype) if out is None else out]
        for step, number in enumerate(self._order, len(self._order) % 2):
            x = self.layers[number]._forward_rows(x, sequences, arrays[step % 2])
        return x if self.norm is None else self.norm._apply(x, out=x)
