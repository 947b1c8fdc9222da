/* Scores in decode where registers are narrow and few. The sums of up to four rows stay in them for all features, four
 * or more side by side; more rows multiply keys that were transposed into a buffer as the tiles
 * of gemm.h do, which share what they load. */
#pragma once

enum {
  FEWEST = 4, /* rows; fewer of them score more groups of keys at a time, whose sums fill each other's waits */
  AT_ONCE = ELEMENT == F16 ? LANES : ACROSS, /* vectors of columns; float16 is widened before it is transposed */
  TILE_COLUMNS = 4 * COLUMNS,                /* transposed before they are multiplied */
  KEY_FORMAT = KEY_GROUPS == 2 ? PYATTN_BFLOAT16 : PLAIN_FORMAT,
};

/* Vector i of COLUMNS of contiguous keys, and those that follow. */
INLINE void load_key_columns(vec x[AT_ONCE], const char *const *key, ptrdiff_t offset, int i) {
  if (ELEMENT == F16)
    load_keys_along_lanes(x, key, offset, KEY_BYTES, COLUMNS);
  else
    load_across(x, key, offset + i * (ptrdiff_t)sizeof(real));
}

/* sums[g][r] of so many groups of keys from `first` on and rows of queries, from feature d to end. */
INLINE void score_few_rows(const struct key_groups *keys, vec (*sums)[FEWEST], const real *q, ptrdiff_t query_row,
                           ptrdiff_t d, ptrdiff_t end, ptrdiff_t step, int first, int groups, int rows) {
  const char *const *key = keys->key + first * LANES;
  vec sum[SCORE_GROUPS][FEWEST];
  ptrdiff_t column = d;
  UNROLL for (int g = 0; g < groups; g++) { UNROLL for (int r = 0; r < rows; r++) sum[g][r] = (vec){0}; }
  for (; step == KEY_BYTES && end - column >= COLUMNS; column += COLUMNS, q += COLUMNS) {
    UNROLL for (int g = 0; g < groups; g++) {
      HIDE_ADDRESS(q); /* else queries are spilled on the way to the next group */
      UNROLL for (int i = 0; i < LANES; i += AT_ONCE) {
        vec x[AT_ONCE];
        load_key_columns(x, key + g * LANES, column * KEY_BYTES, i);
        multiply_keys(sum[g], 0, q + i * KEY_GROUPS, query_row, x, rows, AT_ONCE * KEY_GROUPS);
      }
      prefetch_group(keys, first + g, column, column * KEY_BYTES);
    }
  }
  for (; column < end; column += COLUMNS, q += COLUMNS) {
    const ptrdiff_t columns = least(end - column, COLUMNS);
    for (int g = 0; g < groups; g++) {
      vec x[LANES];
      load_keys_along_lanes(x, key + g * LANES, column * step, step, columns);
      for (int t = 0; t < columns; t++) {
        const vec feature = key_group(x[t / KEY_GROUPS], t % KEY_GROUPS);
        for (int r = 0; r < rows; r++) {
          sum[g][r] = multiply_add(splat(q[r * query_row + t]), feature, sum[g][r]);
        }
      }
    }
  }
  UNROLL for (int g = 0; g < groups; g++) { UNROLL for (int r = 0; r < rows; r++) sums[g][r] = sum[g][r]; }
}

/* sums += the products of `rows` queries and `count` features of TILE_VECTORS groups of keys. */
INLINE void multiply_transposed(vec (*sums)[TILE_VECTORS], const real *q, ptrdiff_t query_row, const char *x, int rows,
                                ptrdiff_t count) {
  const struct tile_a left = {(const char *)q, query_row * (ptrdiff_t)sizeof(real), sizeof(real), (const char *)q, 0};
  const struct tile_b right = {x, KEY_FORMAT, shares_lanes(KEY_FORMAT), 0};
  tile c;
  UNROLL for (int r = 0; r < rows; r++) { UNROLL for (int n = 0; n < TILE_VECTORS; n++) c[r][n] = sums[r][n]; }
  tile_multiply(c, rows, TILE_VECTORS, left, right, count);
  UNROLL for (int r = 0; r < rows; r++) { UNROLL for (int n = 0; n < TILE_VECTORS; n++) sums[r][n] = c[r][n]; }
}

/* Of TILE_VECTORS groups from `first` on. */
INLINE void score_side_by_side(const struct key_groups *keys, vec (*sums)[TILE_VECTORS], const real *q,
                               ptrdiff_t query_row, ptrdiff_t rows, int first, ptrdiff_t d, ptrdiff_t end,
                               ptrdiff_t step) {
  vec transposed[TILE_COLUMNS / KEY_GROUPS * TILE_VECTORS];
  for (ptrdiff_t column = d; column < end; column += TILE_COLUMNS, q += TILE_COLUMNS) {
    const ptrdiff_t count = least(end - column, TILE_COLUMNS);
    for (ptrdiff_t i = 0; i < count; i += COLUMNS) {
      for (int n = 0; n < TILE_VECTORS; n++) {
        const char *const *key = keys->key + (first + n) * LANES;
        const ptrdiff_t offset = (column + i) * step;
        vec *to = transposed + i / KEY_GROUPS * TILE_VECTORS + n;
        if (step == KEY_BYTES && count - i >= COLUMNS) {
          UNROLL for (int j = 0; j < LANES; j += AT_ONCE) {
            vec x[AT_ONCE];
            load_key_columns(x, key, offset, j);
            UNROLL for (int k = 0; k < AT_ONCE; k++) to[(j + k) * TILE_VECTORS] = x[k];
          }
        } else {
          vec x[LANES];
          load_keys_along_lanes(x, key, offset, step, least(count - i, COLUMNS));
          for (int j = 0; j < LANES; j++) to[j * TILE_VECTORS] = x[j];
        }
        prefetch_group(keys, first + n, column + i, offset);
      }
    }
    FOR_ROWS_AT_ONCE(rows, KEY_ROWS,
                     multiply_transposed(sums + r, q + r * query_row, query_row, (char *)transposed, ROWS, count))
  }
}

INLINE void score_groups(const struct pyattn_query_block *block, const struct key_groups *keys) {
  const struct pyattn_attention *call = block->call;
  const int groups = keys->groups;
  const ptrdiff_t rows = block->rows, step = call->operands[PYATTN_KEY].column, query_row = query_groups(call);
  for (ptrdiff_t d = 0; d == 0 || d < call->width; d += SUM_BLOCK) {
    const ptrdiff_t end = least(call->width, d + SUM_BLOCK);
    const real *q = query_rows_from(block, d);
    if (rows <= FEWEST) {
      vec sums[SCORE_GROUPS][FEWEST];
      if (rows == 1) {
        WITH_CONSTANT(GROUPS, groups, SCORE_GROUPS,
                      score_few_rows(keys, sums, q, query_row, d, end, step, 0, GROUPS, 1))
      } else if (rows == 2) {
        for (int g = 0; g < groups; g += 2) {
          WITH_CONSTANT(GROUPS, least(groups - g, 2), 2,
                        score_few_rows(keys, sums + g, q, query_row, d, end, step, g, GROUPS, 2))
        }
      } else {
        for (int g = 0; g < groups; g++) {
          WITH_CONSTANT(ROWS, rows, FEWEST, score_few_rows(keys, sums + g, q, query_row, d, end, step, g, 1, ROWS))
        }
      }
      for (int g = 0; g < groups; g++) {
        vec *p = keys->p[g];
        for (ptrdiff_t r = 0; r < rows; r++) p[r] = d > 0 ? p[r] + sums[g][r] : sums[g][r];
      }
      continue;
    }
    for (int g = 0; g < groups; g += TILE_VECTORS) {
      vec sums[LANES][TILE_VECTORS] = {{{0}}};
      score_side_by_side(keys, sums, q, query_row, rows, g, d, end, step);
      for (int n = 0; n < TILE_VECTORS && g + n < groups; n++) {
        vec *p = keys->p[g + n];
        for (ptrdiff_t r = 0; r < rows; r++) p[r] = d > 0 ? p[r] + sums[r][n] : sums[r][n];
      }
    }
  }
}
