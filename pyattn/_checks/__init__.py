"""Checks of arguments, before any work. Messages begin with the public function's name."""

from pyattn._checks.arrays import (
    Array,
    array,
    attention_arrays,
    below,
    cache_dtype,
    integers,
    is_bfloat16,
    is_real,
    layer_dtype,
    lengths_of,
    output,
    real_array,
    rows,
    statistics_dtype,
    weight_dtype,
    weight_dtype_name,
    within,
    wrong_dtype,
    wrong_shape,
    wrong_value,
)
from pyattn._checks.attention import attention_call, attention_shapes, merge_parts, packed_call
from pyattn._checks.gradients import learned_options, results_and_gradients
from pyattn._checks.masks import Sparse, aligned_mask, combined_mask
from pyattn._checks.numbers import (
    choice,
    count,
    counts,
    dropout,
    finite_scale,
    finite_softcap,
    flag,
    integer,
    number,
    positive,
    real,
    row_range,
    sides,
    size,
)
from pyattn._checks.sequences import batches, indices, packing, sequence_starts, token_ids, token_sequences
