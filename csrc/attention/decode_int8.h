/* Scores of int8 keys in decode. Features lie four in a lane: LANES keys are transposed as they lie, COLUMNS features
 * of each, and `groups` such groups are then widened side by side, so that their chains of sums fill each other's
 * waits. A key is widened once for KEY_ROWS rows. */
#pragma once

/* sums[group][row] += the products of `rows` queries and keys in `lanes` lanes each. */
INLINE void multiply_int8(vec sums[SCORE_GROUPS][LANES], const real *q, ptrdiff_t query_row, vec x[SCORE_GROUPS][LANES],
                          ptrdiff_t first_row, int groups, int rows, int lanes) {
  vec sum[SCORE_GROUPS][KEY_ROWS];
  UNROLL for (int g = 0; g < groups; g++) { UNROLL for (int r = 0; r < rows; r++) sum[g][r] = sums[g][first_row + r]; }
  for (int i = 0; i < lanes; i++) {
    UNROLL for (int s = 0; s < KEY_GROUPS; s++) {
      vec feature[KEY_ROWS];
      UNROLL for (int r = 0; r < rows; r++) {
        feature[r] = splat(load_real(q + (first_row + r) * query_row + i * KEY_GROUPS + s));
      }
      UNROLL for (int g = 0; g < groups; g++) {
        const vec key = key_group(x[g][i], s);
        UNROLL for (int r = 0; r < rows; r++) sum[g][r] = multiply_add(feature[r], key, sum[g][r]);
      }
    }
  }
  UNROLL for (int g = 0; g < groups; g++) { UNROLL for (int r = 0; r < rows; r++) sums[g][first_row + r] = sum[g][r]; }
}

INLINE void score_int8(const struct pyattn_query_block *block, const struct key_groups *keys, int groups) {
  const struct pyattn_attention *call = block->call;
  const ptrdiff_t rows = block->rows, step = call->operands[PYATTN_KEY].column, query_row = query_groups(call);
  vec total[SCORE_GROUPS][LANES];
  for (ptrdiff_t d = 0; d == 0 || d < call->width; d += SUM_BLOCK) {
    const ptrdiff_t end = least(call->width, d + SUM_BLOCK);
    const real *q = query_rows_from(block, d);
    vec sums[SCORE_GROUPS][LANES], x[SCORE_GROUPS][LANES];
    for (int g = 0; g < groups; g++) {
      for (ptrdiff_t r = 0; r < rows; r++) sums[g][r] = (vec){0};
    }
    for (ptrdiff_t column = d; column < end; column += COLUMNS, q += LANES * KEY_GROUPS) {
      const ptrdiff_t columns = least(end - column, COLUMNS), offset = column * step;
      const int lanes = (int)(columns + KEY_GROUPS - 1) / KEY_GROUPS;
      UNROLL for (int g = 0; g < groups; g++) {
        load_keys_along_lanes(x[g], keys->key + g * LANES, offset, step, columns);
        const char *const *row = keys->key + g * LANES;
        const ptrdiff_t line = offset + keys->ahead, turn = column / COLUMNS % ROWS_A_LINE;
        UNROLL for (int i = 0; i < LANES; i += ROWS_A_LINE) prefetch_near(row[i + turn] + line);
      }
      FOR_ROWS_AT_ONCE(rows, KEY_ROWS, multiply_int8(sums, q, query_row, x, r, groups, ROWS, lanes))
    }
    for (int g = 0; g < groups; g++) {
      for (ptrdiff_t r = 0; r < rows; r++) total[g][r] = d > 0 ? total[g][r] + sums[g][r] : sums[g][r];
    }
  }
  for (int g = 0; g < groups; g++) {
    const vec scale = load(keys->scale + g * LANES);
    for (ptrdiff_t r = 0; r < rows; r++) keys->p[g][r] = total[g][r] * scale;
  }
}

/* Scores of SCORE_GROUPS groups of keys, or of one. */
INLINE void score_groups(const struct pyattn_query_block *block, const struct key_groups *keys) {
  if (keys->groups == 1)
    score_int8(block, keys, 1);
  else
    score_int8(block, keys, SCORE_GROUPS);
}
