/* What comes between scores and logits: soft cap, biases, masks. Each visits all logits, [key][N], and finds the
 * largest of each row anew, while it has them in registers. */
#ifndef PYATTN_ATTENTION_OPTIONS_H
#define PYATTN_ATTENTION_OPTIONS_H

#include "masks.h"

/* Soft cap, Gemma 2 (arXiv:2408.00118), section 2: cap tanh(score / cap). */
INLINE void cap_logits(struct attention_state *state, ptrdiff_t count, int vectors) {
  vec max[TILE_VECTORS];
  UNROLL for (int n = 0; n < vectors; n++) max[n] = splat(-INFINITY);
  for (ptrdiff_t j = 0; j < count; j++) {
    UNROLL for (int n = 0; n < vectors; n++) {
      vec *p = state->p + j * vectors + n;
      *p = state->cap_scale * vtanh(GROUP == 1 ? *p : state->score_scale * *p);
      max[n] = vmax(*p, max[n]);
    }
  }
  UNROLL for (int n = 0; n < vectors; n++) state->range_max[n] = max[n];
}

/* ALiBi, Press et al. 2021 (arXiv:2108.12409), section 3: -slope |position of the query - position of the key|. */
INLINE void add_alibi(struct attention_state *state, const struct pyattn_keys *keys, ptrdiff_t first, ptrdiff_t count,
                      int vectors) {
  vec max[TILE_VECTORS], position[TILE_VECTORS];
  UNROLL for (int n = 0; n < vectors; n++) {
    max[n] = splat(-INFINITY);
    position[n] = __builtin_convertvector(state->position[n], vec);
  }
  for (ptrdiff_t j = 0; j < count; j++) {
    const vec key = splat((real)key_index(keys, first + j));
    UNROLL for (int n = 0; n < vectors; n++) {
      vec *p = state->p + j * vectors + n;
      *p -= state->slope[n] * magnitude(position[n] - key);
      max[n] = vmax(*p, max[n]);
    }
  }
  UNROLL for (int n = 0; n < vectors; n++) state->range_max[n] = max[n];
}

/* Adds an operand with an element for each pair, PYATTN_BIAS or PYATTN_MASK; -inf masks. Returns whether it did. */
static int add_dense(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                     ptrdiff_t count, int which) {
  const struct pyattn_array dense = operand(block, which);
  const ptrdiff_t column = dense.column;
  const int vectors = block->vectors;
  struct attention_state *state = state_of(block);
  ivec masked = {0};
  for (int n = 0; n < vectors; n++) {
    vec max = splat(-INFINITY);
    const char *source[LANES];
    for (int i = 0; i < LANES; i++) {
      source[i] = operand_row(block, &dense, lane_row(block, n, i)) + (keys->index ? 0 : first * column);
    }
    for (ptrdiff_t j = 0; j < count; j += LANES) {
      const ptrdiff_t columns = count - j < LANES ? count - j : LANES;
      vec x[LANES];
      if (keys->index) {
        for (int i = 0; i < LANES; i++) x[i] = load_gathered(source[i], column, keys->index + first + j, columns);
      } else {
        UNROLL for (int i = 0; i < LANES; i++) {
          x[i] = load_strided(source[i] + j * column, column, columns);
          __builtin_prefetch(source[i] + (j + PYATTN_KEY_BLOCK) * column, 0, 3);
        }
      }
      transpose(x);
      for (ptrdiff_t i = 0; i < columns; i++) {
        vec *p = state->p + (j + i) * vectors + n;
        const ivec out = (x[i] == -(real)INFINITY) | is_masked(*p);
        masked |= out;
        *p = choose(out, MASKED, *p + x[i]);
        max = vmax(*p, max);
      }
    }
    state->range_max[n] = max;
  }
  return any_lane(masked);
}

/* Adds a bias for each gathered key, the same for all rows of the one vector. */
static int add_gathered(struct attention_state *state, const struct pyattn_keys *keys, ptrdiff_t first,
                        ptrdiff_t count) {
  int masked = 0;
  state->range_max[0] = splat(-INFINITY);
  for (ptrdiff_t j = 0; j < count; j++) {
    const real bias = load_real((const real_unaligned *)keys->index_bias + first + j);
    masked |= bias == (real)-INFINITY;
    state->p[j] = bias == (real)-INFINITY ? MASKED : state->p[j] + bias;
    state->range_max[0] = vmax(state->p[j], state->range_max[0]);
  }
  return masked;
}

/* Whether scores are logits as they stand. */
INLINE int has_no_options(const struct pyattn_query_block *block, const struct pyattn_keys *keys) {
  const struct pyattn_attention *call = block->call;
  return call->softcap <= 0 && state_of(block)->score_scale == 1 && !block->data[PYATTN_ALIBI_SLOPES] &&
         !keys->index_bias && !block->data[PYATTN_BIAS] && call->mask_kind == PYATTN_MASK_NONE;
}

/* p: scores to logits, as the call asks for; hides: what narrow_range returned. Returns whether some are MASKED. */
INLINE int apply_options(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                         ptrdiff_t count, int vectors, int hides) {
  const struct pyattn_attention *call = block->call;
  struct attention_state *state = state_of(block);
  int masked = hides;
  if (call->softcap > 0) {
    cap_logits(state, count, vectors);
  } else if (state->score_scale != 1) {
    for (ptrdiff_t i = 0; i < count * vectors; i++) state->p[i] *= state->score_scale;
    find_range_max(state, count, vectors);
  }
  if (block->data[PYATTN_ALIBI_SLOPES]) add_alibi(state, keys, first, count, vectors);
  if (keys->index_bias) masked |= add_gathered(state, keys, first, count);
  if (block->data[PYATTN_BIAS]) masked |= add_dense(block, keys, first, count, PYATTN_BIAS);
  if (call->mask_kind == PYATTN_MASK_REAL) masked |= add_dense(block, keys, first, count, PYATTN_MASK);
  if (hides) mask_bool(block, first, count);
  if (mask_positions(block, keys, first, count)) {
    find_range_max(state, count, vectors);
    masked = 1;
  }
  return masked;
}

#endif
