"""Exact attention for NumPy at the speed limit of the CPU, and the Transformer built on it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pyattn._info import __version__, info, measure, show_config
from pyattn._threads import get_num_threads, num_threads, set_num_threads
from pyattn.activations import gelu, relu, silu
from pyattn.functional import merge_attention, scaled_dot_product_attention, varlen_attention
from pyattn.layers import LayerNorm, Linear, MultiHeadAttention, TransformerEncoder, TransformerEncoderLayer
from pyattn.positional import LearnedPositionalEmbedding, sinusoidal_encoding
from pyattn.statistics import AttentionStatistics, attention_statistics

if TYPE_CHECKING:
    from pyattn import models
    from pyattn.sentence import SentenceEncoder

__all__ = [
    "AttentionStatistics",
    "LayerNorm",
    "LearnedPositionalEmbedding",
    "Linear",
    "MultiHeadAttention",
    "SentenceEncoder",
    "TransformerEncoder",
    "TransformerEncoderLayer",
    "__version__",
    "attention_statistics",
    "gelu",
    "get_num_threads",
    "info",
    "measure",
    "merge_attention",
    "models",
    "num_threads",
    "relu",
    "scaled_dot_product_attention",
    "set_num_threads",
    "show_config",
    "silu",
    "sinusoidal_encoding",
    "varlen_attention",
]


def __getattr__(name: str) -> Any:
    """Models load at first use: `import pyattn` stays as cheap as its kernels."""
    if name == "models":
        return import_module("pyattn.models")
    if name == "SentenceEncoder":
        return import_module("pyattn.sentence").SentenceEncoder
    raise AttributeError(f"module 'pyattn' has no attribute {name!r}")
