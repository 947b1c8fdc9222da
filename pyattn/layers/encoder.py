"""Layers of the encoder, and a stack of them."""

import copy

import numpy as np
from numpy.typing import DTypeLike

from pyattn import _checks
from pyattn._checks import Array
from pyattn.layers.attention import MultiHeadAttention
from pyattn.layers.base import Layer, Seed
from pyattn.layers.block import Block, check_layers, check_numbers, last_norm
from pyattn.layers.norm import Norm
from pyattn.layers.sequences import Sequences


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
        if live is None or mask is not None or (self._counts_positions() and has_gaps(live.reshape(batch, length))):
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


def has_gaps(live: Array) -> bool:
    """Whether padding stands between real tokens of a sample."""
    begins = live & ~np.pad(live, ((0, 0), (1, 0)))[:, :-1]
    return bool((begins.sum(axis=1) > 1).any())


class TransformerEncoderLayer(Block, Encoder):
    """Self-attention and a feed-forward block, each with a residual connection and a norm.

    Vaswani et al. 2017 (arXiv:1706.03762), sections 3.1 to 3.3; norm_first: Xiong et al. 2020 (arXiv:2002.04745).
    Arguments and parameters as torch's nn.TransformerEncoderLayer has them (`self_attn.*`, `linear1.*`, `linear2.*`,
    `norm1.*`, `norm2.*`); activation: "relu", "gelu", "gelu_tanh" or "silu".

    gated: linear1 has 2 dim_feedforward outputs, and what enters linear2 is activation(first half) * second half:
    GEGLU, SwiGLU and the like, Shazeer 2020 (arXiv:2002.05202). norm: "layer" or "rms". num_key_value_heads, head_dim,
    scale, window, rotary_base: as in MultiHeadAttention.

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
        norm: str = "layer",
        num_key_value_heads: int | None = None,
        head_dim: int | None = None,
        scale: float | None = None,
        window: tuple[int | None, int | None] | None = None,
        rotary_base: float | None = None,
        dtype: DTypeLike = np.float32,
        rng: Seed = None,
    ) -> None:
        super().__init__(
            d_model,
            nhead,
            dim_feedforward,
            activation,
            norm_first,
            bias,
            gated,
            dtype,
            np.random.default_rng(rng),
            num_key_value_heads=num_key_value_heads,
            head_dim=head_dim,
            scale=scale,
            window=window,
            rotary_base=rotary_base,
        )
        self.norm1 = self._make_norm(norm, layer_norm_eps, bias)
        self.norm2 = self._make_norm(norm, layer_norm_eps, bias)

    def _attention(self) -> MultiHeadAttention:
        return self.self_attn

    def _last_norm(self) -> Norm:
        return self.norm2


class TransformerEncoder(Encoder):
    """A stack of num_layers copies of encoder_layer, with a norm behind the last if one is given.

    Parameters as torch's nn.TransformerEncoder has them (`layers.0.self_attn. ...`, `norm.weight`, `norm.bias`).

    Attributes:
        check_finite: False; if set to True, a call looks at what enters the stack and leaves each layer and the norm,
            and raises FloatingPointError, which names the first that has NaN or infinity.

    Example:
        >>> encoder = TransformerEncoder(TransformerEncoderLayer(384, 12, 1536, "gelu"), 6)
        >>> encoder(np.ones((2, 7, 384), np.float32)).shape
        (2, 7, 384)
    """

    check_finite = False

    def __init__(self, encoder_layer: TransformerEncoderLayer, num_layers: int, norm: Norm | None = None) -> None:
        name = "TransformerEncoder"
        _checks.size(name, "num_layers", num_layers)
        if not isinstance(encoder_layer, TransformerEncoderLayer):
            raise TypeError(
                f"{name}: encoder_layer must be a TransformerEncoderLayer, not {type(encoder_layer).__name__}"
            )
        if norm is not None and not isinstance(norm, Norm):
            raise TypeError(f"{name}: norm must be a LayerNorm, an RMSNorm or None, not {type(norm).__name__}")
        width, dtype = encoder_layer.norm2.width, encoder_layer.norm2.dtype
        if norm is not None and (norm.width, norm.dtype) != (width, dtype):
            raise ValueError(f"{name}: norm is for {norm.width} {norm.dtype}, the layers for {width} {dtype}")
        self.layers = [copy.deepcopy(encoder_layer) for _ in range(num_layers)]
        self._order: list[int] | None = None  # in which they are run, where a model runs one more than once
        self.norm = norm

    def _attention(self) -> MultiHeadAttention:
        check_layers(self, self.layers[:1], TransformerEncoderLayer)
        return self.layers[0].self_attn

    def _counts_positions(self) -> bool:
        return any(layer._counts_positions() for layer in self.layers)

    def _forward_rows(self, x: Array, sequences: Sequences, out: Array | None = None) -> Array:
        # Layers write to one of two arrays and read the other; the last one's is out.
        check_layers(self, self.layers, TransformerEncoderLayer)
        order = range(len(self.layers)) if self._order is None else self._order
        if max(order) >= len(self.layers):
            raise ValueError(f"TransformerEncoder: there are {len(self.layers)} layers; {max(order) + 1} are needed")
        arrays = [np.empty(x.shape, x.dtype), np.empty(x.shape, x.dtype) if out is None else out]
        if self.check_finite:
            check_numbers(self, "the input", x)
        for step, number in enumerate(order, len(order) % 2):
            x = self.layers[number]._forward_rows(x, sequences, arrays[step % 2])
            if self.check_finite:
                check_numbers(self, f"the output of layers.{number}", x)
        return x if self.norm is None else last_norm(self, self.norm, x, self.check_finite)
