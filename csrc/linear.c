/* out = activation(input weight^T + bias) + residual, on weights that were packed once.
 *
 * Packing lays the output features along the lanes: panels of TILE_VECTORS vectors of features, in each the vectors of
 * one step of input features after the other, so that the tile reads them in order while it broadcasts the inputs.
 * Features are padded with zeros to whole vectors and steps. An output is one sum over the input features in ascending
 * order, whatever the tile: a row's bits depend on nothing but the row.
 *
 * Weights of float32 that are all numbers of 16 bits, as published ones often are, are held in these and widened by the
 * tile: the sums have the same bits, at half the memory and, of few rows, half the time.
 *
 * Inputs of bfloat16 weights are rounded to it, a row at a time. Those of bytes are divided by a scale of the row, the
 * largest over 127, and rounded to integers (Dettmers et al. 2022, arXiv:2208.07339, section 2.1, row and column wise);
 * the sums of their products are exact.
 */
#include "activations.h"
#include "kernels.h"
#include "tile.h"

enum {
  PANEL = TILE_VECTORS * LANES,
  WEIGHTS_AHEAD = 4096, /* bytes: of few rows, whose time is that of reading weights, these are prefetched */
};

/* Weights that may be held in 16 bits: reals, also where these are bfloat16 that no instruction multiplies. */
#define NARROW (ELEMENT == F32 || (ELEMENT == BF16 && STEP == 1))

INLINE ptrdiff_t steps_of(ptrdiff_t inputs) { return (inputs + STEP - 1) / STEP; }

INLINE ptrdiff_t padded(ptrdiff_t outputs) { return (outputs + LANES - 1) / LANES * LANES; }

/* Of a vector of features. */
INLINE ptrdiff_t packed_bytes(ptrdiff_t inputs, int held) {
  const ptrdiff_t steps = steps_of(inputs);
  return held == PYATTN_BFLOAT16 ? (steps + 1) / 2 * VECTOR_BYTES : steps * bytes_of_pair(held) / 2;
}

/* Behind the panels stand, of bytes, the scales of all features, then what their sums begin with: that takes INPUT_ZERO
 * off the inputs. */
INLINE const char *scales_of(const char *packed, ptrdiff_t outputs, ptrdiff_t inputs) {
  return packed + padded(outputs) * steps_of(inputs) * (ptrdiff_t)sizeof(real);
}

static ptrdiff_t linear_packed_bytes(ptrdiff_t outputs, ptrdiff_t inputs, int held) {
  return padded(outputs) / LANES * (packed_bytes(inputs, held) + (ELEMENT == I8 ? 2 * VECTOR_BYTES : 0));
}

/* A vector of step t, as load_held will read it. */
INLINE void store_held(char *p, vec x, int held, ptrdiff_t t) {
#if NARROW
  if (held == PYATTN_FLOAT16) {
    const halves y = narrow_float16(x);
    memcpy(p, &y, sizeof y);
  } else if (held == PYATTN_BFLOAT16) {
    store(p, t % 2 == 0 ? (vec)((uvec)x >> 16) : (vec)((uvec)load(p) | (uvec)x));
  } else
#endif
    store(p, x);
  (void)held, (void)t;
}

static void linear_pack(const char *weight, ptrdiff_t row, ptrdiff_t column, const float *scales, ptrdiff_t outputs,
                        ptrdiff_t inputs, int held, char *packed) {
  const ptrdiff_t bytes = held == PYATTN_FLOAT16 ? VECTOR_BYTES / 2 : VECTOR_BYTES;
  const ptrdiff_t steps = held == PYATTN_BFLOAT16 ? 2 : 1; /* of such a vector */
  for (ptrdiff_t first = 0; first < outputs; first += LANES) {
    const ptrdiff_t panel = first / PANEL, place = first % PANEL;
    const ptrdiff_t rest = padded(outputs - panel * PANEL), line = (rest < PANEL ? rest : PANEL) / LANES * bytes;
    char *base = packed + panel * TILE_VECTORS * packed_bytes(inputs, held) + place / LANES * bytes;
    for (ptrdiff_t k = 0; k < inputs; k += LANES * STEP) {
      const ptrdiff_t columns = inputs - k < LANES * STEP ? inputs - k : LANES * STEP;
      vec x[LANES];
      UNROLL for (int i = 0; i < LANES; i++) {
        x[i] = (vec){0};
        if (first + i < outputs) x[i] = load_steps(weight + (first + i) * row + k * column, column, columns);
      }
      transpose(x);
      for (ptrdiff_t i = 0; i < steps_of(columns); i++) {
        const ptrdiff_t t = k / STEP + i;
        store_held(base + t / steps * line, x[i], held, t);
      }
    }
  }
#if ELEMENT == I8
  float *scale = (float *)scales_of(packed, outputs, inputs);
  int32_t *zero = (int32_t *)(scale + padded(outputs));
  for (ptrdiff_t o = 0; o < padded(outputs); o++) {
    scale[o] = o < outputs ? scales[o] : 0;
    zero[o] = 0;
    for (ptrdiff_t k = 0; o < outputs && k < inputs; k++) zero[o] += *(const int8_t *)(weight + o * row + k * column);
    zero[o] *= -INPUT_ZERO;
  }
#else
  (void)scales;
#endif
}

static ptrdiff_t linear_row_bytes(ptrdiff_t inputs) {
  const ptrdiff_t whole = (inputs + LANES * STEP - 1) / (LANES * STEP) * VECTOR_BYTES;
  return ELEMENT == BF16 || ELEMENT == I8 ? whole : 0;
}

#if ELEMENT == BF16 || ELEMENT == I8
/* LANES inputs from k on, zeros behind the last */
INLINE vec load_input(const char *input, int half, ptrdiff_t k, ptrdiff_t inputs) {
  const ptrdiff_t columns = inputs - k < LANES ? inputs - k : LANES;
  if (columns <= 0) return (vec){0};
  return half ? load_elements(input + k * 2, columns) : load_reals(input + k * (ptrdiff_t)sizeof(real), columns);
}

INLINE void load_row(const char *input, int half, ptrdiff_t inputs, char *steps, float *scale) {
#if ELEMENT == BF16
  for (ptrdiff_t k = 0; k < inputs; k += LANES * STEP, steps += VECTOR_BYTES) {
    const vec low = load_input(input, half, k, inputs);
    store(steps, STEP == 2 ? pack_steps(low, load_input(input, half, k + LANES, inputs)) : widen(narrow(low)));
  }
  *scale = 1;
#else
  ivec bits = {0}; /* of the largest magnitude: as integers they are in the same order, with inf and NaN behind all */
  for (ptrdiff_t k = 0; k < inputs; k += LANES) {
    const ivec x = (ivec)magnitude(load_input(input, half, k, inputs));
    bits = (ivec)choose(x > bits, (vec)x, (vec)bits);
  }
  word most_bits = 0;
  UNROLL for (int i = 0; i < LANES; i++) most_bits = bits[i] > most_bits ? bits[i] : most_bits;
  float most;
  memcpy(&most, &most_bits, sizeof most);
  const int finite = most < (float)INFINITY;
  const float into = finite && most > 0 ? 127 / most : 0;
  for (ptrdiff_t k = 0; k < inputs; k += LANES * STEP, steps += VECTOR_BYTES) {
    vec x[STEP];
    UNROLL for (int s = 0; s < STEP; s++) {
      x[s] = finite ? load_input(input, half, k + s * LANES, inputs) * into : (vec){0};
    }
    store(steps, round_steps(x));
  }
  *scale = finite ? most / 127 : (float)NAN; /* so that NaN and inf come out */
#endif
}
#endif

static void linear_load(const char *input, int half, ptrdiff_t inputs, char *steps, float *scale) {
#if ELEMENT == BF16 || ELEMENT == I8
  if (half)
    load_row(input, 1, inputs, steps, scale);
  else
    load_row(input, 0, inputs, steps, scale);
#else
  (void)input, (void)half, (void)inputs, (void)steps, (void)scale;
#endif
}

/* A tile of sums, which begin with `start`. */
INLINE void multiply(const struct pyattn_linear *job, const struct pyattn_steps *input, const char *packed,
                     const vec *start, vec *result, int rows, int vectors, int held) {
  tile acc;
  UNROLL for (int r = 0; r < rows; r++) { UNROLL for (int n = 0; n < vectors; n++) acc[r][n] = start[n]; }
  const ptrdiff_t row = input->row, step = sizeof(real);
  tile_multiply(acc, rows, vectors, input->data, row, step, packed, held, held == PYATTN_BFLOAT16,
                rows <= TILE_ROWS / 2 ? WEIGHTS_AHEAD : 0, steps_of(job->inputs), input->data + TILE_ROWS * row,
                TILE_ROWS * step);
  UNROLL for (int r = 0; r < rows; r++) {
    UNROLL for (int n = 0; n < vectors; n++) result[r * vectors + n] = acc[r][n];
  }
}

/* Of a panel, for each vector of its features: what sums begin with, and, of bytes, what they are multiplied by before
 * the bias is added. */
struct panel {
  vec start[TILE_VECTORS], bias[TILE_VECTORS], scale[TILE_VECTORS];
};

INLINE void load_panel(const struct pyattn_linear *job, ptrdiff_t feature, int vectors, struct panel *panel) {
  const char *scales = scales_of(job->packed, job->outputs, job->inputs) + feature * (ptrdiff_t)sizeof(real);
  UNROLL for (int n = 0; n < vectors; n++) {
    const ptrdiff_t rest = job->outputs - feature - n * LANES;
    const char *bias = job->bias + (feature + n * LANES) * (ptrdiff_t)sizeof(real);
    panel->bias[n] = job->bias ? load_reals(bias, rest < LANES ? rest : LANES) : (vec){0};
    panel->start[n] = panel->bias[n];
    if (ELEMENT == I8) {
      panel->scale[n] = load(scales + n * VECTOR_BYTES);
      panel->start[n] = load(scales + padded(job->outputs) * (ptrdiff_t)sizeof(real) + n * VECTOR_BYTES);
    }
  }
}

/* Sums of bytes to reals. */
INLINE vec rescaled(const struct panel *panel, vec sum, float row_scale, int n) {
  return __builtin_convertvector((ivec)sum, vec) * (panel->scale[n] * row_scale) + panel->bias[n];
}

/* Writes a tile; raw: of sums of bytes; whole: none of its vectors is cut by the last feature. */
INLINE void write_tile(const struct pyattn_linear *job, const struct pyattn_steps *input, const struct panel *panel,
                       ptrdiff_t first, ptrdiff_t feature, const vec *result, int rows, int vectors, int half, int raw,
                       int whole) {
  const ptrdiff_t width = half ? 2 : (ptrdiff_t)sizeof(real);
  for (int r = 0; r < rows; r++) {
    char *out = job->out + (first + r) * job->out_row + feature * width;
    const char *residual = job->residual;
    if (residual) residual += (first + r) * job->residual_row + feature * (ptrdiff_t)sizeof(real);
    UNROLL for (int n = 0; n < vectors; n++) {
      const ptrdiff_t rest = job->outputs - feature - n * LANES, columns = whole || rest > LANES ? LANES : rest;
      vec x = result[r * vectors + n];
      if (raw) x = rescaled(panel, x, input->scales[r], n);
      if (residual) x += load_reals(residual + n * VECTOR_BYTES, columns);
      if (half)
        store_halves(out + n * LANES * width, x, columns);
      else
        store_reals(out + n * LANES * width, x, columns);
    }
  }
}

INLINE void linear_vectors(const struct pyattn_linear *job, const struct pyattn_steps *input, ptrdiff_t first, int rows,
                           ptrdiff_t number, int vectors) {
  const ptrdiff_t feature = number * PANEL;
  vec result[TILE_ROWS * TILE_VECTORS];
  struct panel panel;
  WRITTEN(result);
  load_panel(job, feature, vectors, &panel);
  const char *packed = job->packed + feature / LANES * packed_bytes(job->inputs, job->held);
#if NARROW
  if (job->held == PYATTN_FLOAT16)
    WITH_CONSTANT_ROWS(rows, multiply(job, input, packed, panel.start, result, ROWS, vectors, PYATTN_FLOAT16))
  else if (job->held == PYATTN_BFLOAT16)
    WITH_CONSTANT_ROWS(rows, multiply(job, input, packed, panel.start, result, ROWS, vectors, PYATTN_BFLOAT16))
  else
#endif
    WITH_CONSTANT_ROWS(rows, multiply(job, input, packed, panel.start, result, ROWS, vectors, PYATTN_WHOLE))
  const int raw = ELEMENT == I8, whole = job->outputs - feature >= vectors * LANES;
  if (job->activation != PYATTN_IDENTITY) {
    for (int r = 0; raw && r < rows; r++) {
      UNROLL for (int n = 0; n < vectors; n++) {
        result[r * vectors + n] = rescaled(&panel, result[r * vectors + n], input->scales[r], n);
      }
    }
    activate_all(result, rows * vectors, job->activation);
    if (whole && job->half)
      write_tile(job, input, &panel, first, feature, result, rows, vectors, 1, 0, 1);
    else
      write_tile(job, input, &panel, first, feature, result, rows, vectors, job->half, 0, 0);
  } else if (whole && job->half) {
    write_tile(job, input, &panel, first, feature, result, rows, vectors, 1, raw, 1);
  } else if (whole) {
    write_tile(job, input, &panel, first, feature, result, rows, vectors, 0, raw, 1);
  } else {
    write_tile(job, input, &panel, first, feature, result, rows, vectors, job->half, raw, 0);
  }
}

static void linear_tile(const struct pyattn_linear *job, const struct pyattn_steps *input, ptrdiff_t first,
                        ptrdiff_t rows, ptrdiff_t panel) {
  const ptrdiff_t rest = padded(job->outputs - panel * PANEL) / LANES;
  WITH_CONSTANT_VECTORS(rest < TILE_VECTORS ? rest : TILE_VECTORS,
                        linear_vectors(job, input, first, (int)rows, panel, VECTORS))
}
