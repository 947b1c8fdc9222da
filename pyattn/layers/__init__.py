"""Layers of the Transformer, for inference. B batch, L queries, S keys, E model width.

Parameters carry the names and shapes of torch's state dicts, so that one saved as safetensors loads unchanged; batches
are always (B, L, E). A layer's dtype is that in which its weights are stored and multiplied, "float32", "float64",
"bfloat16" or "int8" (precision.py); inputs and outputs are float64 where that is float64, float32 otherwise.
"""

from pyattn._module import Layer
from pyattn.layers.attention import MultiHeadAttention
from pyattn.layers.config import LayerConfig, Rotary
from pyattn.layers.decoder import TransformerDecoder, TransformerDecoderLayer
from pyattn.layers.encoder import TransformerEncoder, TransformerEncoderLayer
from pyattn.layers.linear import Linear
from pyattn.layers.norm import LayerNorm, RMSNorm
from pyattn.layers.state import DecoderState
from pyattn.layers.transformer import Transformer

__all__ = [
    "DecoderState",
    "Layer",
    "LayerConfig",
    "LayerNorm",
    "Linear",
    "MultiHeadAttention",
    "RMSNorm",
    "Rotary",
    "Transformer",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
]
