/* Attention of few rows, whose time is that of reading K and V: keys stand along the lanes of scores and weights, the
 * width along those of weighted sums, so that no lane is empty and every row of K and V is read once, as it lies. The
 * sums and their order are those of the tiles, and so are the bits.
 *
 * Scores and weights are p[group of LANES keys, or steps of keys][row], LANES vectors a group. */
#ifndef PYATTN_FEW_H
#define PYATTN_FEW_H

#include "logits.h"

enum {
  FEW_AT_ONCE = 3, /* rows, and vectors of values, whose sums stay in registers */
  FEW_COLUMNS = TILE_ROWS * TILE_VECTORS / FEW_AT_ONCE,
};

INLINE real *weight_at(struct attention_state *state, ptrdiff_t j, ptrdiff_t r) {
  return (real *)(state->p + j / LANES * LANES + r) + j % LANES;
}

/* The sums of `rows` rows' weights: chains that wait for each other's additions but not for those of other rows. */
INLINE void sum_few(struct attention_state *state, ptrdiff_t first_row, ptrdiff_t count, int rows, real *sums) {
  real sum[FEW_AT_ONCE];
  UNROLL for (int r = 0; r < rows; r++) sum[r] = (real)-0.0;
  for (ptrdiff_t j = 0; j < count; j++) {
    UNROLL for (int r = 0; r < rows; r++) sum[r] += *weight_at(state, j, first_row + r);
  }
  UNROLL for (int r = 0; r < rows; r++) sums[r] = sum[r];
}

/* Logits to weights, relative to the new top. */
static void softmax_few(const struct pyattn_query_block *block, ptrdiff_t count, int masked) {
  struct attention_state *state = state_of(block);
  const ptrdiff_t groups = (count + LANES - 1) / LANES, rows = block->rows;
  const int units = state->units;
  vec *p = state->p, largest = splat(-INFINITY), sum = NOTHING;
  for (ptrdiff_t r = 0; r < rows; r++) {
    vec most = splat(-INFINITY);
    for (ptrdiff_t g = 0; g < groups; g++) most = vmax(p[g * LANES + r], most);
    largest[r] = max_lanes(most);
  }
  const vec top = raise_top(state, 0, largest), base = top * state->unit;
  for (ptrdiff_t r = 0; r < rows; r++) {
    const vec row_top = splat(top[r]), row_base = splat(base[r]);
    for (ptrdiff_t g = 0; g < groups; g++) {
      p[g * LANES + r] = weight_of(p[g * LANES + r], row_top, row_base, state->unit, masked, units);
    }
  }
  real sums[LANES];
  for (ptrdiff_t r = 0; r < rows; r += FEW_AT_ONCE) {
    if (rows - r == 1)
      sum_few(state, r, count, 1, sums + r);
    else if (rows - r == 2)
      sum_few(state, r, count, 2, sums + r);
    else
      sum_few(state, r, count, FEW_AT_ONCE, sums + r);
  }
  for (ptrdiff_t r = 0; r < rows; r++) sum[r] = sums[r];
  state->sum[0] = state->sum[0] * state->fade[0] + sum;
  for (ptrdiff_t r = 0; count % STEP != 0 && r < rows; r++) *weight_at(state, count, r) = 0;
  for (ptrdiff_t g = 0; STEP == 2 && g < groups; g += 2) {
    for (ptrdiff_t r = 0; r < rows; r++) {
      const vec high = g + 1 < groups ? p[(g + 1) * LANES + r] : (vec){0};
      p[g / 2 * LANES + r] = pack_steps(p[g * LANES + r], high);
    }
  }
}

/* Part of the weighted sums: `rows` rows from first_row on, `vectors` of values from column d on, which are whole and
 * contiguous if there are several. */
INLINE void accumulate_few_tile(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                                ptrdiff_t count, int masked, ptrdiff_t d, ptrdiff_t first_row, int rows, int vectors) {
  const struct pyattn_attention *call = block->call;
  struct attention_state *state = state_of(block);
  const ptrdiff_t column = d * call->operands[PYATTN_VALUE].column, ahead = keys->index ? 0 : FEW_AHEAD * call->operands[PYATTN_VALUE].row;
  const ptrdiff_t rest = call->value_width - d < LANES ? call->value_width - d : LANES;
  vec acc[FEW_AT_ONCE][FEW_COLUMNS];
  UNROLL for (int r = 0; r < rows; r++) { UNROLL for (int n = 0; n < vectors; n++) acc[r][n] = (vec){0}; }
  for (ptrdiff_t j = 0; j < count; j += STEP) {
    const char *low = keys->value + key_number(keys, first + j) * call->operands[PYATTN_VALUE].row + column, *high = NULL;
    if (STEP == 2 && j + 1 < count) high = keys->value + key_number(keys, first + j + 1) * call->operands[PYATTN_VALUE].row + column;
    vec x[FEW_COLUMNS];
    if (vectors > 1) {
      UNROLL for (int n = 0; n < vectors; n += STEP) join_rows_wide(low, high, n * LANES * ELEMENT_BYTES, x + n);
      UNROLL for (int line = 0; line < vectors * LANES * ELEMENT_BYTES; line += 64) {
        prefetch_far(low + ahead + line);
        if (STEP == 2) prefetch_far(low + ahead + call->operands[PYATTN_VALUE].row + line);
      }
    } else {
      x[0] = join_rows(low, high, call->operands[PYATTN_VALUE].column, rest);
    }
    UNROLL for (int r = 0; r < rows; r++) {
      const vec weight = splat(*weight_at(state, j / STEP, first_row + r));
      UNROLL for (int n = 0; n < vectors; n++) {
        const vec value = masked ? (vec)((ivec)x[n] & (ivec)live_steps(weight)) : x[n];
        acc[r][n] = multiply_add(value, weight, acc[r][n]);
      }
    }
  }
  UNROLL for (int r = 0; r < rows; r++) {
    vec *o = state->o + (first_row + r) * (round_up(call->value_width, LANES) / LANES) + d / LANES;
    const vec fade = splat(state->fade[0][first_row + r]);
    UNROLL for (int n = 0; n < vectors; n++) o[n] = o[n] * fade + acc[r][n];
  }
}

INLINE void accumulate_few_rows(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                                ptrdiff_t count, int masked, ptrdiff_t d, int vectors) {
  for (ptrdiff_t r = 0; r < block->rows; r += FEW_AT_ONCE) {
    if (block->rows - r == 1)
      accumulate_few_tile(block, keys, first, count, masked, d, r, 1, vectors);
    else if (block->rows - r == 2)
      accumulate_few_tile(block, keys, first, count, masked, d, r, 2, vectors);
    else
      accumulate_few_tile(block, keys, first, count, masked, d, r, FEW_AT_ONCE, vectors);
  }
}

INLINE void accumulate_few_columns(const struct pyattn_query_block *block, const struct pyattn_keys *keys,
                                   ptrdiff_t first, ptrdiff_t count, int masked) {
  const ptrdiff_t width = block->call->value_width;
  const int contiguous = block->call->operands[PYATTN_VALUE].column == ELEMENT_BYTES;
  ptrdiff_t d = 0;
  for (; contiguous && width - d >= FEW_COLUMNS * LANES; d += FEW_COLUMNS * LANES)
    accumulate_few_rows(block, keys, first, count, masked, d, FEW_COLUMNS);
  for (; contiguous && width - d >= FEW_COLUMNS / 2 * LANES; d += FEW_COLUMNS / 2 * LANES)
    accumulate_few_rows(block, keys, first, count, masked, d, FEW_COLUMNS / 2);
  for (; d < width; d += LANES) accumulate_few_rows(block, keys, first, count, masked, d, 1);
}

static void accumulate_few(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                           ptrdiff_t count, int masked) {
  if (masked)
    accumulate_few_columns(block, keys, first, count, 1);
  else
    accumulate_few_columns(block, keys, first, count, 0);
}

static void attend_few(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                       ptrdiff_t count) {
  const struct pyattn_attention *call = block->call;
  struct attention_state *state = state_of(block);
  const int plain = call->softcap <= 0 && state->before == 1 && !block->data[PYATTN_ALIBI_SLOPES] && !keys->index_bias && !block->data[PYATTN_BIAS] &&
                    call->mask_kind == PYATTN_MASK_NONE && seen_by_all(block, keys, first, first + count);
  int masked = 0;
  if (plain) {
    score_few(block, keys, first, count);
  } else { /* options see rows along the lanes */
    masked = compute_logits(block, keys, &first, &count, 1);
    if (count <= 0) return;
    for (ptrdiff_t j = count; j < round_up(count, LANES); j++) state->p[j] = MASKED;
    turn_few(block, count);
  }
  softmax_few(block, count, masked);
  if (call->value_width > 0) accumulate_few(block, keys, first, count, masked);
}

#endif
