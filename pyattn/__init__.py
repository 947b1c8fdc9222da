"""Exact attention for NumPy at the speed limit of the CPU, and the Transformer built on it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pyattn._info import __version__, info, measure, show_config
from pyattn._threads import get_num_threads, num_threads, set_num_threads
from pyattn.activations import gelu, relu, silu
from pyattn.cache import KVCache
from pyattn.functional import merge_attention, scaled_dot_product_attention, varlen_attention
from pyattn.layers import (
    LayerNorm,
    Linear,
    MultiHeadAttention,
    RMSNorm,
    Transformer,
    TransformerDecoder,
    TransformerDecoderLayer,
    TransformerEncoder,
    TransformerEncoderLayer,
)
from pyattn.positional import (
    LearnedPositionalEmbedding,
    LearnedPositionalGrid,
    RelativePositionBias,
    RotaryEmbedding,
    alibi_slopes,
    interpolate_positions,
    relative_attention,
    relative_position_buckets,
    rotary_embedding,
    rotary_tables,
    sinusoidal_encoding,
    sinusoidal_grid_encoding,
)
from pyattn.statistics import AttentionStatistics, attention_statistics

if TYPE_CHECKING:
    from pyattn import audio, generation, models
    from pyattn.gradients import Gradients, attention_backward, varlen_attention_backward
    from pyattn.late_interaction import maxsim
    from pyattn.tasks.multi_vector import MultiVectorEncoder
    from pyattn.tasks.reranker import Reranker
    from pyattn.tasks.sentence import SentenceEncoder
    from pyattn.tasks.sparse_encoder import SparseEncoder
    from pyattn.tasks.speech import SpeechRecognizer
    from pyattn.tasks.text_generator import TextGenerator
    from pyattn.tasks.vector_index import VectorIndex

__all__ = [
    "AttentionStatistics",
    "Gradients",
    "KVCache",
    "LayerNorm",
    "LearnedPositionalEmbedding",
    "LearnedPositionalGrid",
    "Linear",
    "MultiHeadAttention",
    "MultiVectorEncoder",
    "RMSNorm",
    "RelativePositionBias",
    "Reranker",
    "RotaryEmbedding",
    "SentenceEncoder",
    "SparseEncoder",
    "SpeechRecognizer",
    "TextGenerator",
    "Transformer",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
    "VectorIndex",
    "__version__",
    "alibi_slopes",
    "attention_backward",
    "attention_statistics",
    "audio",
    "gelu",
    "generation",
    "get_num_threads",
    "info",
    "interpolate_positions",
    "maxsim",
    "measure",
    "merge_attention",
    "models",
    "num_threads",
    "relative_attention",
    "relative_position_buckets",
    "relu",
    "rotary_embedding",
    "rotary_tables",
    "scaled_dot_product_attention",
    "set_num_threads",
    "show_config",
    "silu",
    "sinusoidal_encoding",
    "sinusoidal_grid_encoding",
    "varlen_attention",
    "varlen_attention_backward",
]


# Public names that load at first use, so that `import pyattn` stays cheap, and the modules where they are.
_LAZY = {
    "Gradients": "pyattn.gradients",
    "MultiVectorEncoder": "pyattn.tasks.multi_vector",
    "Reranker": "pyattn.tasks.reranker",
    "SentenceEncoder": "pyattn.tasks.sentence",
    "SparseEncoder": "pyattn.tasks.sparse_encoder",
    "SpeechRecognizer": "pyattn.tasks.speech",
    "TextGenerator": "pyattn.tasks.text_generator",
    "VectorIndex": "pyattn.tasks.vector_index",
    "attention_backward": "pyattn.gradients",
    "audio": "pyattn.audio",
    "generation": "pyattn.generation",
    "maxsim": "pyattn.late_interaction",
    "models": "pyattn.models",
    "varlen_attention_backward": "pyattn.gradients",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'pyattn' has no attribute {name!r}")
    module = import_module(_LAZY[name])
    return module if module.__name__ == f"pyattn.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
