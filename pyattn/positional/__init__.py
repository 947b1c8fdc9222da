"""Encodings of positions: absolute ones, in grids, rotary ones, and distances of queries and keys."""

from pyattn.positional.absolute import LearnedPositionalEmbedding, sinusoidal_encoding
from pyattn.positional.attention import relative_attention
from pyattn.positional.grid import LearnedPositionalGrid, interpolate_positions, sinusoidal_grid_encoding
from pyattn.positional.relative import RelativePositionBias, alibi_slopes, relative_position_buckets
from pyattn.positional.rotary import RotaryEmbedding, rotary_embedding, rotary_tables
from pyattn.positional.scaling import rotary_frequencies

__all__ = [
    "LearnedPositionalEmbedding",
    "LearnedPositionalGrid",
    "RelativePositionBias",
    "RotaryEmbedding",
    "alibi_slopes",
    "interpolate_positions",
    "relative_attention",
    "relative_position_buckets",
    "rotary_embedding",
    "rotary_frequencies",
    "rotary_tables",
    "sinusoidal_encoding",
    "sinusoidal_grid_encoding",
]
