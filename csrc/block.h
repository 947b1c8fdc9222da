/* The state of a block of query rows on its way over the keys, and where its rows lie. */
#ifndef PYATTN_BLOCK_H
#define PYATTN_BLOCK_H

#include "activations.h"
#include "kernels.h"

#define LN_2 0.693147180559945309417

/* A masked pair has the logit MASKED, a NaN that the maximum passes over and, being a signalling one, no arithmetic
 * makes, from whatever NaN of the caller's; and the weight -0.0. So it differs to the end from a live pair: one whose
 * weight underflowed to 0.0 still passes on a NaN among the values, and a row's sum stays -0.0 only if it saw nothing.
 */
#define MASKED splat_bits((word)(REAL_BITS == 32 ? 0x7fa5a5a5 : 0x7ff5a5a5) << (REAL_BITS - 32))
INLINE ivec is_masked(vec logit) { return (ivec)logit == (ivec)MASKED; }

#define NOTHING splat((real) - 0.0)

/* How 2^((logit - top) unit) is computed. */
enum {
  UNITS_OF_LOG2, /* unit = 1 */
  UNITS_FUSED,   /* logit unit - top unit, in one instruction */
  UNITS_WIDE,    /* as it stands: logits may be so large that a multiple of them overflows */
};

/* N = block->vectors vectors a line; a step is STEP elements. The arrays that follow the struct in the scratch memory
 * are only as long as the call's widths ask for. */
struct attention_state {
  vec largest[TILE_VECTORS]; /* logit of the range of keys */
  vec top[TILE_VECTORS];     /* largest logit of the piece so far */
  vec sum[TILE_VECTORS];     /* sum of 2^((logit - top) unit) */
  vec fade[TILE_VECTORS];    /* what a new top multiplies older sums by */
  vec total_top[TILE_VECTORS], total_sum[TILE_VECTORS];
  vec entropy[TILE_VECTORS];
  ivec position[TILE_VECTORS];
  vec slope[TILE_VECTORS];
  /* A product of query and key is scaled by `factor` with the query (steps of one element) and by `before` afterwards,
   * goes through the soft cap and is scaled by `after`; unit turns such a logit into one of base 2. */
  real factor, before, after, unit;
  double natural; /* a logit times this is in units of e */
  int units;
  int folded;                             /* whether total_top, total_sum and total hold anything */
  vec *q, *o, *total;                     /* [step of width][N]; [d][N], of few rows [row][d / LANES]; like o */
  vec *best;                              /* [top_k][N] */
  ivec *best_key;                         /* [top_k][N] */
  vec p[PYATTN_KEY_BLOCK * TILE_VECTORS]; /* [key][N] logits, then [step of keys][N] weights */
};

INLINE struct attention_state *state_of(const struct pyattn_query_block *block) {
  return (struct attention_state *)block->scratch;
}

INLINE ptrdiff_t round_up(ptrdiff_t n, ptrdiff_t unit) { return (n + unit - 1) / unit * unit; }

/* Vectors of o: a block of few rows has one vector of lanes, and at most LANES rows. */
INLINE ptrdiff_t output_vectors(const struct pyattn_attention *call, int vectors) {
  return call->path->few ? round_up(call->value_width, LANES) : call->value_width * vectors;
}

INLINE ptrdiff_t query_vectors(const struct pyattn_attention *call, int vectors) {
  const ptrdiff_t width = call->width < PYATTN_WIDTH_BLOCK ? call->width : PYATTN_WIDTH_BLOCK;
  return round_up(width, LANES * STEP) / STEP * vectors;
}

static ptrdiff_t attention_scratch(const struct pyattn_attention *call, int vectors) {
  const ptrdiff_t arrays = query_vectors(call, vectors) + 2 * output_vectors(call, vectors) + 2 * call->top_k * vectors;
  return (ptrdiff_t)round_up(sizeof(struct attention_state), PYATTN_ALIGNMENT) + arrays * (ptrdiff_t)sizeof(vec);
}

/* The top of the lanes of a vector from here on, 0 where nothing was seen yet (-inf - 0, not -inf - -inf); sets fade.
 */
INLINE vec raise_top(struct attention_state *state, int n, vec largest) {
  const real unit = state->units == UNITS_OF_LOG2 ? 1 : state->unit;
  const vec old = state->top[n], top = vmax(largest, old), base = choose(top == -INFINITY, (vec){0}, top);
  state->top[n] = top;
  state->fade[n] = exp2_of_negative((old - base) * unit);
  return base;
}

/* base: top unit */
INLINE vec weight_of(vec logit, vec top, vec base, real unit, int masked, int units) {
  const vec weight = exp2_of_negative(units == UNITS_FUSED ? logit * unit - base : (logit - top) * unit);
  return masked ? choose(is_masked(logit), NOTHING, weight) : weight;
}

/* Where row r of something with these strides lies behind row 0. */
INLINE ptrdiff_t row_offset(const struct pyattn_query_block *block, ptrdiff_t r, ptrdiff_t row, ptrdiff_t head) {
  return r < block->length ? r * row : r / block->length * head + r % block->length * row;
}

/* Row of lane i of vector n; lanes without a row repeat the last one. */
INLINE ptrdiff_t lane_row(const struct pyattn_query_block *block, int n, int i) {
  const ptrdiff_t row = n * LANES + i;
  return row < block->rows ? row : block->rows - 1;
}

INLINE ptrdiff_t key_number(const struct pyattn_keys *keys, ptrdiff_t j) { return keys->index ? keys->index[j] : j; }

#endif
