/* Scores of gathered keys, each of which few rows of queries use: too few to pay for transposing them. Features run
 * along the lanes; the lanes of LANES keys are then summed at once:
 *
 *     score        s[key][lane] = sum over d = lane, lane + LANES, ... of q[d] * key[d], then the sum of its lanes
 *
 * Another order of sums than that of prefill, but one for all gathered keys. */
#pragma once

#include "dropout.h"

/* Where in index the own keys of row r begin. */
INLINE ptrdiff_t own_first(const struct pyattn_keys *keys, ptrdiff_t r) { return keys->starts[r] - keys->starts[0]; }

/* How many of `count` keys are those of row r. */
INLINE ptrdiff_t own_count(const struct pyattn_keys *keys, ptrdiff_t r, ptrdiff_t count) {
  return keys->starts ? keys->starts[r + 1] - keys->starts[r] : count;
}

/* LANES groups of n features. */
INLINE vec load_key(const char *p, ptrdiff_t step, ptrdiff_t n) {
#if GROUP == 2
  return load_groups(p, step, n);
#else
  return join_rows(p, NULL, step, n);
#endif
}

/* Of LANES keys and a row of `width` features of queries. */
INLINE vec score_lanes(const real *q, const char *const key[LANES], ptrdiff_t step, ptrdiff_t width) {
  enum { FEATURES = LANES * GROUP, AT_ONCE = 4 };
  vec x[LANES];
  ptrdiff_t d = 0;
  UNROLL for (int i = 0; i < LANES; i++) x[i] = (vec){0};
  for (; step == KEY_BYTES && width - d >= AT_ONCE * FEATURES; d += AT_ONCE * FEATURES) {
    vec query[AT_ONCE];
    UNROLL for (int n = 0; n < AT_ONCE; n++) query[n] = load(q + d / GROUP + n * LANES);
    UNROLL for (int i = 0; i < LANES; i++) {
      UNROLL for (int n = 0; n < AT_ONCE; n++) {
        x[i] = multiply_add(query[n], load_key(key[i] + (d + n * FEATURES) * KEY_BYTES, KEY_BYTES, FEATURES), x[i]);
      }
    }
  }
  for (; d < width; d += FEATURES) {
    const vec query = load(q + d / GROUP);
    for (int i = 0; i < LANES; i++) x[i] = multiply_add(query, load_key(key[i] + d * step, step, width - d), x[i]);
  }
  return sum_rows(x);
}

/* Scores of `rows` rows from first_row on; after the last key, that is repeated. */
static void score_gathered(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                           ptrdiff_t count, ptrdiff_t first_row, ptrdiff_t rows) {
  const struct pyattn_attention *call = block->call;
  const struct pyattn_array *array = &call->operands[PYATTN_KEY];
  const ptrdiff_t query_row = query_groups(call), step = array->column;
  for (ptrdiff_t j = 0; j < count; j += LANES) {
    vec *p = state_of(block)->p + j + first_row;
    const int32_t *index = keys->index + first + j;
    const char *key[LANES];
    if (count - j >= LANES) {
      UNROLL for (int i = 0; i < LANES; i++) key[i] = keys->key + index[i] * array->row;
    } else {
      for (int i = 0; i < LANES; i++) key[i] = keys->key + index[least(i, count - j - 1)] * array->row;
    }
    for (ptrdiff_t d = 0; d == 0 || d < call->width; d += PYATTN_WIDTH_BLOCK) {
      const real *q = query_rows_from(block, d) + first_row * query_row;
      const ptrdiff_t width = least(call->width - d, PYATTN_WIDTH_BLOCK);
      for (ptrdiff_t r = 0; r < rows; r++) {
        const vec sums = score_lanes(q + r * query_row, key, step, width);
        p[r] = d > 0 ? p[r] + sums : sums;
      }
      for (int i = 0; call->width > PYATTN_WIDTH_BLOCK && i < LANES; i++) key[i] += PYATTN_WIDTH_BLOCK * step;
    }
    for (ptrdiff_t r = 0; KEY_BYTES == 1 && r < rows; r++) {
      vec scale;
      for (int i = 0; i < LANES; i++) {
        scale[i] = load_real(keys->key_scale + index[least(i, count - j - 1)] * call->operands[PYATTN_KEY_SCALES].row);
      }
      p[r] = p[r] * KEY_UNIT * scale;
    }
  }
}

/* Of rows with keys of their own, at most `count`. */
static void score_own_keys(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t count) {
  for (ptrdiff_t r = 0; r < block->rows; r++) {
    const ptrdiff_t first = own_first(keys, r), own = own_count(keys, r, count);
    score_gathered(block, keys, first, own, r, 1);
    for (ptrdiff_t j = round_up(own, LANES); j < count; j += LANES) state_of(block)->p[j + r] = splat(-INFINITY);
  }
}

/* The sums of rows' weights, by lanes; what follows a row's keys becomes nothing. */
static vec sum_gathered(struct attention_state *state, const struct pyattn_keys *keys, ptrdiff_t count,
                        ptrdiff_t rows) {
  vec sums[LANES];
  UNROLL for (int i = 0; i < LANES; i++) sums[i] = NOTHING;
  for (ptrdiff_t r = 0; r < rows; r++) {
    const ptrdiff_t own = own_count(keys, r, count);
    for (ptrdiff_t j = own; j < round_up(own, LANES); j++) *weight_at(state, j, r, 1) = (real)-0.0;
    for (ptrdiff_t j = 0; j < own; j += LANES) sums[r] += state->p[j + r];
  }
  return sum_rows(sums);
}

/* Weights that are dropped to 0, where keys lie along the lanes; what is masked stays -0. */
static void drop_gathered(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                          ptrdiff_t count) {
  struct attention_state *state = state_of(block);
  for (ptrdiff_t r = 0; r < block->rows; r++) {
    const ptrdiff_t own = own_count(keys, r, count);
    const int32_t *index = keys->index + (keys->starts ? own_first(keys, r) : first);
    const uword row = state->dropped_rows[0][r];
    for (ptrdiff_t j = 0; j < own; j += LANES) {
      uvec column;
      for (int i = 0; i < LANES; i++) column[i] = (uint32_t)index[least(j + i, own - 1)] * DROPOUT_COLUMN;
      const uvec kept = (uvec)is_kept(row ^ column, state->dropped_below) | (uword)SIGN_BIT;
      state->p[j + r] = (vec)((uvec)state->p[j + r] & kept);
    }
  }
}

/* Features of one row from d on, of so many vectors, which are whole and contiguous if there are several. */
INLINE void accumulate_lanes(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                             ptrdiff_t count, ptrdiff_t r, int masked, ptrdiff_t d, int vectors) {
  const struct pyattn_attention *call = block->call;
  const ptrdiff_t row = call->operands[PYATTN_VALUE].row, step = call->operands[PYATTN_VALUE].column;
  const char *values = keys->value + d * step;
  struct attention_state *state = state_of(block);
  vec acc[VALUE_VECTORS];
  UNROLL for (int n = 0; n < vectors; n++) acc[n] = (vec){0};
  for (ptrdiff_t j = 0; j < count; j += LANES * GROUP) {
    const int32_t *index = keys->index + first + j;
    const ptrdiff_t here = least(count - j, LANES * GROUP);
    const real *weights = weight_at(state, j / GROUP, r, 1);
    for (ptrdiff_t i = 0; i < here; i += GROUP) {
      const char *low = values + index[i] * row, *high = NULL;
      if (GROUP == 2 && i + 1 < here) high = values + index[i + 1] * row;
      vec x[VALUE_VECTORS];
      if (vectors > 1) {
        UNROLL for (int n = 0; n < vectors; n += VALUE_GROUP) join_rows_wide(low, high, n * LANES * KEY_BYTES, x + n);
      } else {
        x[0] = join_rows(low, high, step, call->value_width - d);
      }
      const vec weight = splat(weights[i / GROUP]);
      UNROLL for (int n = 0; n < vectors; n++) {
        acc[n] = multiply_add(masked ? (vec)((ivec)x[n] & (ivec)live_groups(weight)) : x[n], weight, acc[n]);
      }
    }
  }
  if (vectors > 1) order_features(acc, vectors);
  vec *o = state->split.o + r * value_vectors(call) + d / LANES;
  const vec rescale = splat(state->rescale[0][r]);
  UNROLL for (int n = 0; n < vectors; n++) o[n] = o[n] * rescale + acc[n];
}

/* The weighted sums of one row. */
INLINE void accumulate_gathered(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                                ptrdiff_t count, ptrdiff_t r, int masked) {
  const ptrdiff_t width = block->call->value_width;
  ptrdiff_t d = 0;
  if (block->call->operands[PYATTN_VALUE].column == KEY_BYTES) {
    for (; width - d >= VALUE_VECTORS * LANES; d += VALUE_VECTORS * LANES)
      accumulate_lanes(block, keys, first, count, r, masked, d, VALUE_VECTORS);
    for (; width - d >= VALUE_VECTORS / 2 * LANES; d += VALUE_VECTORS / 2 * LANES)
      accumulate_lanes(block, keys, first, count, r, masked, d, VALUE_VECTORS / 2);
  }
  for (; d < width; d += LANES) accumulate_lanes(block, keys, first, count, r, masked, d, 1);
}
