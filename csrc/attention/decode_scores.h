/* Scores of decode: products of few rows and of keys that are read once, as they lie, and transposed in registers. */
#ifndef PYATTN_ATTENTION_DECODE_SCORES_H
#define PYATTN_ATTENTION_DECODE_SCORES_H

#include "state.h"

enum {
  SCORE_GROUPS = 2, /* of LANES keys scored at a time: their chains of sums fill each other's waits */
  ROWS_AHEAD = 32,  /* keys and values are prefetched that many keys before they are read */
};

/* Loads a LANES x LANES block of dot-product groups of K and transposes it, so that keys run along the lanes. */
INLINE void load_keys_along_lanes(vec x[LANES], const char *const *key, ptrdiff_t offset, ptrdiff_t step,
                                  ptrdiff_t columns) {
  if (step == ELEMENT_BYTES && columns == LANES * GROUP) {
    UNROLL for (int i = 0; i < LANES; i++) x[i] = load_groups(key[i] + offset, ELEMENT_BYTES, LANES * GROUP);
  } else {
    UNROLL for (int i = 0; i < LANES; i++) x[i] = load_groups(key[i] + offset, step, columns);
  }
  transpose(x);
}

/* Scores of `groups` groups of keys, whose rows are given, into p. Behind the last key, that is repeated. */
INLINE void score_groups(const struct pyattn_query_block *block, const char *const *key, int groups,
                         ptrdiff_t bytes_ahead, vec *p) {
  const struct pyattn_attention *call = block->call;
  const ptrdiff_t rows = block->rows, row = call->operands[PYATTN_KEY].row, step = call->operands[PYATTN_KEY].column;
  ptrdiff_t ahead = 0;
  for (ptrdiff_t d = 0; d == 0 || d < call->width; d += SUM_BLOCK) {
    const ptrdiff_t end = call->width - d < SUM_BLOCK ? call->width : d + SUM_BLOCK;
    const vec *q = queries_from(block, d);
    vec acc[SCORE_GROUPS][LANES];
    for (int group = 0; group < groups; group++) {
      for (ptrdiff_t r = 0; r < rows; r++) acc[group][r] = (vec){0};
    }
    for (ptrdiff_t column = d; column < end; column += LANES * GROUP, q += LANES) {
      const ptrdiff_t columns = end - column < LANES * GROUP ? end - column : LANES * GROUP;
      for (int group = 0; group < groups; group++) {
        vec x[LANES];
        load_keys_along_lanes(x, key + group * LANES, column * step, step, columns);
        for (ptrdiff_t r = 0; r < rows; r++) {
          vec sum = acc[group][r];
          UNROLL for (int i = 0; i < LANES; i++) {
            sum = multiply_add(splat(load_real((const real *)(q + i) + r)), x[i], sum);
          }
          acc[group][r] = sum;
        }
      }
      /* whole rows, one after the other: the machine follows */
      for (; ahead < (column + columns) * groups * LANES / call->width; ahead++) {
        for (ptrdiff_t line = 0; line < bytes_ahead; line += 64) {
          prefetch_far(key[0] + (ROWS_AHEAD + ahead) * row + line);
        }
      }
    }
    for (int group = 0; group < groups; group++) {
      for (ptrdiff_t r = 0; r < rows; r++) {
        p[group * LANES + r] = d > 0 ? p[group * LANES + r] + acc[group][r] : acc[group][r];
      }
    }
  }
}

static void score_rows(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                       ptrdiff_t count) {
  const struct pyattn_attention *call = block->call;
  const struct pyattn_array *array = &call->operands[PYATTN_KEY];
  const ptrdiff_t bytes = keys->index || array->column != ELEMENT_BYTES ? 0 : call->width * ELEMENT_BYTES;
  for (ptrdiff_t j = 0; j < count; j += SCORE_GROUPS * LANES) {
    const int groups = count - j <= LANES ? 1 : SCORE_GROUPS;
    const char *key[SCORE_GROUPS * LANES];
    for (int i = 0; i < groups * LANES; i++) {
      key[i] = keys->key + key_index(keys, first + (j + i < count ? j + i : count - 1)) * array->row;
    }
    score_groups(block, key, groups, bytes, state_of(block)->p + j);
  }
}

/* p[group of LANES keys][row] with keys along the lanes, to [key] with rows along them, or back. */
static void transpose_groups(const struct pyattn_query_block *block, ptrdiff_t count) {
  for (ptrdiff_t j = 0; j < count; j += LANES) transpose(state_of(block)->p + j);
}

#endif
