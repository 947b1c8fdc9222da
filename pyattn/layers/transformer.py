"""The whole Transformer: an encoder, and a decoder that attends to what it makes."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from pyattn._checks import Array
from pyattn._module import Layer, Seed
from pyattn._namespaces import in_namespace
from pyattn.layers.decoder import TransformerDecoder, TransformerDecoderLayer
from pyattn.layers.encoder import TransformerEncoder, TransformerEncoderLayer
from pyattn.layers.norm import LayerNorm


class Transformer(Layer):
    """An encoder and a decoder, each with a norm after its last layer.

    Vaswani et al. 2017 (arXiv:1706.03762), section 3. Arguments and parameters as torch's nn.Transformer has them
    (`encoder.layers.0. ...`, `encoder.norm.weight`, `decoder.layers.0. ...`, `decoder.norm.weight`). To write a
    sequence token by token: `encoder`, then `decoder.start` and `decoder.step`.

    Example:
        >>> model = Transformer(64, 4, 2, 2, 128, rng=0)
        >>> src, tgt = np.ones((3, 9, 64), np.float32), np.ones((3, 7, 64), np.float32)
        >>> model(src, tgt, tgt_is_causal=True).shape
        (3, 7, 64)
    """

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        activation: str = "relu",
        layer_norm_eps: float = 1e-5,
        norm_first: bool = False,
        bias: bool = True,
        *,
        dtype: DTypeLike = np.float32,
        rng: Seed = None,
    ) -> None:
        generator = np.random.default_rng(rng)
        sizes: tuple[Any, ...] = (d_model, nhead, dim_feedforward, activation, layer_norm_eps, norm_first, bias)
        encoder = TransformerEncoderLayer(*sizes, dtype=dtype, rng=generator)
        decoder = TransformerDecoderLayer(*sizes, dtype=dtype, rng=generator)
        real = encoder.norm2.dtype
        norms = (LayerNorm(d_model, layer_norm_eps, bias, dtype=real) for _ in range(2))
        self.encoder = TransformerEncoder(encoder, num_encoder_layers, next(norms))
        self.decoder = TransformerDecoder(decoder, num_decoder_layers, next(norms))

    @in_namespace
    def __call__(
        self,
        src: Array,
        tgt: Array,
        src_mask: Array | None = None,
        tgt_mask: Array | None = None,
        memory_mask: Array | None = None,
        *,
        src_key_mask: Array | None = None,
        tgt_key_mask: Array | None = None,
        memory_key_mask: Array | None = None,
        src_is_causal: bool = False,
        tgt_is_causal: bool = False,
    ) -> Array:
        """src (B, S, E) through the encoder, tgt (B, L, E) through the decoder; both without the batch axis as well.

        Args:
            src, tgt: of the layers' dtype.
            src_mask, src_key_mask, src_is_causal: as the encoder's mask, key_mask and is_causal.
            tgt_mask, memory_mask, tgt_key_mask, memory_key_mask, tgt_is_causal: as the decoder's.

        Returns:
            The shape of tgt.

        Raises:
            TypeError, ValueError: as the encoder and the decoder.
        """
        memory = self.encoder(src, src_mask, key_mask=src_key_mask, is_causal=src_is_causal)
        masks = {"tgt_key_mask": tgt_key_mask, "memory_key_mask": memory_key_mask}
        return self.decoder(tgt, memory, tgt_mask, memory_mask, is_causal=tgt_is_causal, **masks)
