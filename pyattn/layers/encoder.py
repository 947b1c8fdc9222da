"""Encoders: a layer, and a stack of layers."""

import numpy as np
from numpy.typing import DTypeLike

from pyattn import _checks
from pyattn._checks import Array
from pyattn._module import Seed
from pyattn._namespaces import in_namespace
from pyattn.layers.block import Block
from pyattn.layers.config import torch_config
from pyattn.layers.norm import Norm
from pyattn.layers.sequences import Sequences
from pyattn.layers.stack import Runs, Stack


class Encodes:
    """The calls that encoders have in common with their layers."""

    @in_namespace
    def __call__(
        self: Runs, x: Array, mask: Array | None = None, *, key_mask: Array | None = None, is_causal: bool = False
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
        first = self._first()
        rows, shape = first._rows(name, x)
        batch, (length, _) = _checks.batches(name, shape)
        logits = batch, first.self_attn.num_heads, length, length
        combined = _checks.combined_mask(name, mask, key_mask, logits, rows.dtype)
        live = None if key_mask is None else np.asarray(key_mask).reshape(-1)
        if live is None or mask is not None or (self._counts_positions() and has_gaps(live.reshape(batch, length))):
            out = self._forward_rows(rows, Sequences.padded(batch, length, combined, is_causal))
            if live is not None:
                out[~live] = 0
        else:
            cu_seqlens = np.concatenate([[0], np.cumsum(live.reshape(batch, length).sum(axis=1))], dtype=np.int64)
            out = np.zeros(rows.shape, rows.dtype)
            out[live] = self._forward_rows(rows[live], Sequences.packed(cu_seqlens, is_causal))
        return out.reshape(*shape, rows.shape[1])

    @in_namespace
    def forward_packed(self: Runs, x: Array, cu_seqlens: Array, *, is_causal: bool = False) -> Array:
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
        rows, shape = self._first()._rows(name, x)
        cu_seqlens = _checks.sequence_starts(name, cu_seqlens, shape)
        return self._forward_rows(rows, Sequences.packed(cu_seqlens, is_causal))


def has_gaps(live: Array) -> bool:
    """Whether padding separates real tokens of a sample."""
    run_starts = live & ~np.pad(live, ((0, 0), (1, 0)))[:, :-1]
    return bool((run_starts.sum(axis=1) > 1).any())


class TransformerEncoderLayer(Encodes, Block):
    """Self-attention and a feed-forward block, each with a residual connection and a norm.

    Vaswani et al. 2017 (arXiv:1706.03762), sections 3.1 to 3.3; norm_first: Xiong et al. 2020 (arXiv:2002.04745).
    Arguments and parameters as torch's nn.TransformerEncoderLayer has them (`self_attn.*`, `linear1.*`, `linear2.*`,
    `norm1.*`, `norm2.*`); activation: "relu", "gelu", "gelu_tanh" or "silu".

    gated: linear1 has 2 dim_feedforward outputs, and what enters linear2 is activation(first half) * second half:
    GEGLU, SwiGLU and the like, Shazeer 2020 (arXiv:2002.05202). norm: "layer" or "rms". num_key_value_heads, head_dim,
    scale, window, rotary_base, softcap, sinks, alibi, qk_norm (like the other norms): as in MultiHeadAttention.

    unit_offset: as in RMSNorm, of all norms. sandwich_norm: with norm_first, there is also a norm after each block,
    before the residual sum (`post_norm1.*`, `post_norm2.*`; CogView: Ding et al. 2021, arXiv:2105.13290, and Gemma
    2). residual_scale: what multiplies a block's output before it is added to its input. `from_config` makes a layer of
    a LayerConfig, which has further choices.

    Example:
        >>> layer = TransformerEncoderLayer(384, 12, 1536, "gelu")
        >>> layer(np.ones((2, 7, 384), np.float32)).shape
        (2, 7, 384)
    """

    _norms = ("norm1", "", "norm2")
    norm1: Norm | None
    norm2: Norm
    post_norm1: Norm | None
    post_norm2: Norm | None

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
        softcap: float | None = None,
        sinks: bool = False,
        alibi: bool = False,
        qk_norm: bool = False,
        unit_offset: bool = False,
        sandwich_norm: bool = False,
        residual_scale: float = 1.0,
        dtype: DTypeLike = np.float32,
        rng: Seed = None,
    ) -> None:
        self._make(torch_config(type(self).__name__, locals()), rng)


class TransformerEncoder(Encodes, Stack):
    """A stack of num_layers copies of encoder_layer, with a norm after the last if one is given.

    Parameters as torch's nn.TransformerEncoder has them (`layers.0.self_attn. ...`, `norm.weight`, `norm.bias`).
    `from_configs` makes a stack of layers that differ.

    Attributes:
        check_finite: False; if set to True, a call looks at what enters the stack and leaves each layer and the norm,
            and raises FloatingPointError, which names the first that has NaN or infinity.

    Example:
        >>> encoder = TransformerEncoder(TransformerEncoderLayer(384, 12, 1536, "gelu"), 6)
        >>> encoder(np.ones((2, 7, 384), np.float32)).shape
        (2, 7, 384)
    """

    _layer_type = TransformerEncoderLayer
    layers: list[TransformerEncoderLayer]

    def __init__(self, encoder_layer: TransformerEncoderLayer, num_layers: int, norm: Norm | None = None) -> None:
        self._copies(encoder_layer, "encoder_layer", num_layers, norm)
