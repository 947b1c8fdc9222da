/* How a packed weight lies in memory.
 *
 * Output features lie along the lanes: panels of TILE_VECTORS vectors of features, the last one as many as are left, in
 * each the vectors of one group of inputs after the other, so that the tile reads them in order while it broadcasts the
 * inputs. A lane holds
 *
 *   PYATTN_FLOAT32, _FLOAT64  one input
 *   PYATTN_FLOAT16            one input, in half a lane of the compute type
 *   PYATTN_BFLOAT16           two inputs, the first in the lower half
 *   PYATTN_INT8               GROUP inputs: four int8, or two int16
 *
 * Features and inputs are padded with zeros to whole vectors and lanes. int8 only: after the panels come the scales of
 * all features, then the initial accumulators (-INPUT_ZERO times the sum of the feature's weights), which cancel the
 * unsigned inputs' offset.
 *
 * The table of float32 has all formats that widen to it, every other table one format. */
#pragma once

#include "../gemm.h"

enum { PANEL = TILE_VECTORS * LANES };

#if ELEMENT == BF16
#define ELEMENT_FORMAT PYATTN_BFLOAT16
#else
#define ELEMENT_FORMAT PLAIN_FORMAT
#endif

INLINE int format_of(const struct pyattn_weight *weight) { return ELEMENT == F32 ? weight->format : ELEMENT_FORMAT; }

INLINE ptrdiff_t lane_bytes(int format) { return format == PYATTN_FLOAT16 ? 2 : (ptrdiff_t)sizeof(real); }

INLINE ptrdiff_t lane_inputs(int format) { return format == PYATTN_BFLOAT16 ? 2 : GROUP; }

INLINE ptrdiff_t groups_of(ptrdiff_t inputs) { return (inputs + GROUP - 1) / GROUP; }

INLINE ptrdiff_t padded(ptrdiff_t outputs) { return round_up(outputs, LANES); }

/* Bytes of a vector of features. */
INLINE ptrdiff_t packed_vector_bytes(ptrdiff_t inputs, int format) {
  return round_up(inputs, lane_inputs(format)) / lane_inputs(format) * LANES * lane_bytes(format);
}

/* Where the scales of int8 are. */
INLINE const char *scales_of(const char *packed, ptrdiff_t outputs, ptrdiff_t inputs) {
  return packed + padded(outputs) / LANES * packed_vector_bytes(inputs, PYATTN_INT8);
}
