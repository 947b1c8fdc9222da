"""Checks of arguments, before any work. Messages begin with the public function's name."""

from pyattn._checks.attention import (
    Options,
    attention_options,
    attention_shapes,
    batches,
    merge_parts,
    most_keys,
    packed_options,
    packed_shapes,
    packed_starts,
    row_range,
    sequence_starts,
)
from pyattn._checks.basics import (
    Array,
    array,
    attention_arrays,
    choice,
    flag,
    floating,
    layer_dtype,
    output,
    rows,
    size,
    statistics_dtype,
)
from pyattn._checks.masks import (
    Sparse,
    combined_mask,
)

__all__ = [
    "Array",
    "Options",
    "Sparse",
    "array",
    "attention_arrays",
    "attention_options",
    "attention_shapes",
    "batches",
    "choice",
    "combined_mask",
    "flag",
    "floating",
    "layer_dtype",
    "merge_parts",
    "most_keys",
    "output",
    "packed_options",
    "packed_shapes",
    "packed_starts",
    "row_range",
    "rows",
    "sequence_starts",
    "size",
    "statistics_dtype",
]
