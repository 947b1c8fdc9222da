/* out = activation(input weight^T + bias) + residual, on weights that were packed once.
 *
 * An output is one sum over the input features in ascending order, whatever the tile: a row's bits depend on nothing
 * but the row. Weights of float32 that are stored in 16 bits are widened by the tile: the sums have the same bits, at
 * half the memory and, for few rows, half the time.
 *
 * Inputs of bfloat16 weights are rounded to it, a row at a time. Those of int8 weights are divided by a scale of the
 * row, the largest over 127, and rounded to integers (Dettmers et al. 2022, arXiv:2208.07339, section 2.1, row and
 * column wise); the sums of their products are exact. */
#include "../activations.h"
#include "format.h"
#if HAS_TILES
#include "amx.h"
#endif

/* With few rows the time is that of reading the weight, which is prefetched so many bytes ahead. */
enum { WEIGHTS_AHEAD = 4096 };

#if HAS_TILES
/* Sums of products, and the initial accumulators. */
INLINE void multiply_rows(const struct pyattn_linear *job, const struct pyattn_packed_rows *input, const char *packed,
                          const vec *initial, vec *result, int rows, int vectors) {
  multiply_tiles(input, packed, (char *)result, rows, vectors, groups_of(job->weight->inputs));
  for (int r = 0; r < rows; r++) {
    UNROLL for (int n = 0; n < vectors; n++) {
      vec *sum = &result[r * vectors + n];
      *sum = ELEMENT == I8 ? (vec)((ivec)*sum + (ivec)initial[n]) : *sum + initial[n];
    }
  }
}
#else
/* A tile of sums, which begin with the initial accumulators. */
INLINE void multiply(const struct pyattn_linear *job, const struct pyattn_packed_rows *input, const char *packed,
                     const vec *initial, vec *result, int rows, int vectors, int format) {
  tile acc;
  UNROLL for (int r = 0; r < rows; r++) { UNROLL for (int n = 0; n < vectors; n++) acc[r][n] = initial[n]; }
  const ptrdiff_t row = input->row, step = sizeof(real);
  const struct tile_a a = {input->data, row, step, input->ahead, input->ahead_step};
  const struct tile_b b = {packed, format, shares_lanes(format), rows < TILE_ROWS ? WEIGHTS_AHEAD : 0};
  tile_multiply(acc, rows, vectors, a, b, groups_of(job->weight->inputs));
  UNROLL for (int r = 0; r < rows; r++) {
    UNROLL for (int n = 0; n < vectors; n++) result[r * vectors + n] = acc[r][n];
  }
}

INLINE void multiply_rows(const struct pyattn_linear *job, const struct pyattn_packed_rows *input, const char *packed,
                          const vec *initial, vec *result, int rows, int vectors) {
  const int format = format_of(job->weight);
#define MULTIPLY(format) \
  WITH_CONSTANT(ROWS, rows, TILE_ROWS, multiply(job, input, packed, initial, result, ROWS, vectors, format))
  if (ELEMENT == F32 && WIDENS_FLOAT16 && format == PYATTN_FLOAT16)
    MULTIPLY(PYATTN_FLOAT16)
  else if (ELEMENT == F32 && format == PYATTN_BFLOAT16)
    MULTIPLY(PYATTN_BFLOAT16)
  else
    MULTIPLY(ELEMENT_FORMAT)
}
#endif

/* Per output vector of a panel: initial accumulator, bias, int8 dequantisation scale. */
struct panel {
  ptrdiff_t feature; /* the first */
  vec initial[TILE_VECTORS], bias[TILE_VECTORS], scale[TILE_VECTORS];
};

INLINE void load_panel(const struct pyattn_weight *weight, ptrdiff_t feature, int vectors, struct panel *panel) {
  const ptrdiff_t outputs = weight->outputs;
  const char *scales = scales_of(weight->packed, outputs, weight->inputs) + feature * (ptrdiff_t)sizeof(real);
  panel->feature = feature;
  UNROLL for (int n = 0; n < vectors; n++) {
    const char *bias = weight->bias + (feature + n * LANES) * (ptrdiff_t)sizeof(real);
    panel->bias[n] = weight->bias ? load_reals(bias, outputs - feature - n * LANES) : (vec){0};
    panel->initial[n] = panel->bias[n];
    if (ELEMENT == I8) {
      panel->scale[n] = load(scales + n * VECTOR_BYTES);
      panel->initial[n] = load(scales + padded(outputs) * (ptrdiff_t)sizeof(real) + n * VECTOR_BYTES);
    }
  }
}

/* Sums of int8 products to the compute type. */
INLINE vec dequantised(const struct panel *panel, vec sum, float row_scale, int n) {
  return __builtin_convertvector((ivec)sum, vec) * (panel->scale[n] * row_scale) + panel->bias[n];
}

/* Writes a tile. whole: none of its vectors is cut by the last feature. */
INLINE void write_tile(const struct pyattn_linear *job, const struct pyattn_packed_rows *input,
                       const struct panel *panel, ptrdiff_t first, const vec *result, int rows, int vectors,
                       int is_bf16, int whole) {
  const ptrdiff_t feature = panel->feature, width = is_bf16 ? 2 : (ptrdiff_t)sizeof(real);
  for (int r = 0; r < rows; r++, result += vectors) {
    char *out = job->out + (first + r) * job->out_row + feature * width;
    const char *residual = job->residual;
    if (residual) residual += (first + r) * job->residual_row + feature * (ptrdiff_t)sizeof(real);
    vec x[TILE_VECTORS];
    UNROLL for (int n = 0; n < vectors; n++) {
      x[n] = ELEMENT == I8 ? dequantised(panel, result[n], input->scales[r], n) : result[n];
    }
    activate_all(x, vectors, job->activation);
    UNROLL for (int n = 0; n < vectors; n++) {
      const ptrdiff_t columns = whole ? LANES : job->weight->outputs - feature - n * LANES;
      if (residual) x[n] += load_reals(residual + n * VECTOR_BYTES, columns);
      if (is_bf16)
        store_bf16(out + n * LANES * width, x[n], columns);
      else
        store_reals(out + n * LANES * width, x[n], columns);
    }
  }
}

INLINE void linear_vectors(const struct pyattn_linear *job, const struct pyattn_packed_rows *input, ptrdiff_t first,
                           int rows, ptrdiff_t number, int vectors) {
  const struct pyattn_weight *weight = job->weight;
  const ptrdiff_t feature = number * PANEL;
  const int format = format_of(weight), whole = weight->outputs - feature >= vectors * LANES;
  vec result[LINEAR_ROWS * TILE_VECTORS];
  struct panel panel;
  WRITTEN(result);
  load_panel(weight, feature, vectors, &panel);
  const char *packed = weight->packed + feature / LANES * packed_vector_bytes(weight->inputs, format);
  multiply_rows(job, input, packed, panel.initial, result, rows, vectors);
  if (!whole)
    write_tile(job, input, &panel, first, result, rows, vectors, job->out_is_bf16, 0);
  else if (job->out_is_bf16)
    write_tile(job, input, &panel, first, result, rows, vectors, 1, 1);
  else
    write_tile(job, input, &panel, first, result, rows, vectors, 0, 1);
}

#if HAS_TILES
KERNEL double probe_tiles(ptrdiff_t rounds) { return probe_of_tiles(rounds); }
#endif

KERNEL void linear_tile(const struct pyattn_linear *job, const struct pyattn_packed_rows *input, ptrdiff_t first,
                        ptrdiff_t rows, ptrdiff_t panel) {
  const ptrdiff_t rest = padded(job->weight->outputs - panel * PANEL) / LANES;
  WITH_CONSTANT(VECTORS, least(rest, TILE_VECTORS), TILE_VECTORS,
                linear_vectors(job, input, first, (int)rows, panel, VECTORS))
}
