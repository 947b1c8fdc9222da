/* Attention of at most PYATTN_DECODE_ROWS rows, whose time is that of reading K and V: keys along the lanes of scores
 * and weights, features along those of weighted sums, so that no lane is empty and every row of K and V is read once,
 * as it lies. The sums and their order are those of prefill, and so are the bits.
 *
 *     score        p[group of LANES keys][row]  = sum over d of q[d][row] * key[key][d], LANES x LANES keys transposed
 *     softmax      p, sum, max                    horizontal over the keys of a row
 *     accumulate   o[row][feature / LANES]      = o * rescale + sum over keys of p[key][row] * value[key][feature]
 *
 *     mode               chosen when                                     differs in
 *     plain              no option, all rows see all keys                scores are logits as they stand
 *     with options       otherwise                                       p is transposed to [key] with rows along the
 *                                                                        lanes, for options.h, and back
 *     gathered keys      a sparse mask                                   rows of K and V by index, nothing prefetched
 *     masked             a logit is MASKED                               masked values count as 0: 0 * NaN is NaN
 *
 * R rows against S keys read S (D + Dv) elements of K and V once, in order, and R D of Q; they write R Dv. Weights are
 * p[group of LANES dot-product groups][row], LANES vectors a group; a block has one vector of lanes for its rows. */
#include "../gemm.h"
#include "options.h"

enum {
  COLUMNS = LANES * GROUP * KEY_GROUPS, /* features of a key that are loaded at a time */
  SCORE_GROUPS = 2,                  /* of LANES keys scored at a time: their chains of sums fill each other's waits */
  KEY_ROWS = KEY_BYTES == 1 ? 4 : 1, /* rows that share a key which is widened in registers */
  ROWS_AHEAD = 32,                   /* keys and values are prefetched that many keys before they are read */
  ROWS_AT_ONCE = 3,                  /* rows whose weighted sums stay in registers */
  VALUE_VECTORS = TILE_ROWS * TILE_VECTORS / ROWS_AT_ONCE, /* and vectors of features of each */
};

/* Runs a statement for ROWS rows from r on until there are no more; ROWS, at most `most`, is a constant. */
#define FOR_ROWS_AT_ONCE(rows, most, statement)                 \
  for (ptrdiff_t r = 0; r < rows; r += most) {                  \
    WITH_CONSTANT(ROWS, least(rows - r, most), most, statement) \
  }

/* Loads features of LANES keys and transposes them, so that keys run along the lanes; int8 lies four in a lane. */
INLINE void load_keys_along_lanes(vec x[LANES], const char *const *key, ptrdiff_t offset, ptrdiff_t step,
                                  ptrdiff_t columns) {
  if (step == KEY_BYTES && columns == COLUMNS) {
    UNROLL for (int i = 0; i < LANES; i++) x[i] = load_key_lanes(key[i] + offset, KEY_BYTES, COLUMNS);
  } else {
    UNROLL for (int i = 0; i < LANES; i++) x[i] = load_key_lanes(key[i] + offset, step, columns);
  }
  transpose(x);
}

/* sums[r] += the products of `rows` queries and loaded keys, of `lanes` lanes each; scale: of int8 keys. */
INLINE void multiply_keys(vec *sums, const vec *q, ptrdiff_t first_row, const vec *x, vec scale, int rows, int lanes) {
  vec sum[KEY_ROWS];
  UNROLL for (int r = 0; r < rows; r++) sum[r] = sums[first_row + r];
  UNROLL for (int i = 0; i < lanes; i++) {
    UNROLL for (int s = 0; s < KEY_GROUPS; s++) {
      const vec key = scale_values(key_group(x[i], s), scale);
      UNROLL for (int r = 0; r < rows; r++) {
        const real *feature = (const real *)(q + i * KEY_GROUPS + s) + first_row + r;
        sum[r] = multiply_add(splat(load_real(feature)), key, sum[r]);
      }
    }
  }
  UNROLL for (int r = 0; r < rows; r++) sums[first_row + r] = sum[r];
}

/* Scores of `groups` groups of keys, whose rows and, of int8, scales are given, into p. After the last key, that is
 * repeated. */
INLINE void score_groups(const struct pyattn_query_block *block, const char *const *key, const real *scales, int groups,
                         ptrdiff_t bytes_ahead, vec *p) {
  const struct pyattn_attention *call = block->call;
  const ptrdiff_t rows = block->rows, row = call->operands[PYATTN_KEY].row, step = call->operands[PYATTN_KEY].column;
  ptrdiff_t ahead = 0;
  for (ptrdiff_t d = 0; d == 0 || d < call->width; d += SUM_BLOCK) {
    const ptrdiff_t end = least(call->width, d + SUM_BLOCK);
    const vec *q = queries_from(block, d);
    vec acc[SCORE_GROUPS][LANES];
    for (int group = 0; group < groups; group++) {
      for (ptrdiff_t r = 0; r < rows; r++) acc[group][r] = (vec){0};
    }
    for (ptrdiff_t column = d; column < end; column += COLUMNS, q += LANES * KEY_GROUPS) {
      const ptrdiff_t columns = least(end - column, COLUMNS);
      for (int group = 0; group < groups; group++) {
        vec x[LANES];
        load_keys_along_lanes(x, key + group * LANES, column * step, step, columns);
        const vec scale = scales ? load(scales + group * LANES) : (vec){0};
        if (KEY_GROUPS == 1 || columns == COLUMNS) {
          FOR_ROWS_AT_ONCE(rows, KEY_ROWS, multiply_keys(acc[group], q, r, x, scale, ROWS, LANES))
        } else {
          const int lanes = (int)(columns + KEY_GROUPS - 1) / KEY_GROUPS;
          FOR_ROWS_AT_ONCE(rows, KEY_ROWS, multiply_keys(acc[group], q, r, x, scale, ROWS, lanes))
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
  const ptrdiff_t bytes = keys->index || array->column != KEY_BYTES ? 0 : call->width * KEY_BYTES;
  for (ptrdiff_t j = 0; j < count; j += SCORE_GROUPS * LANES) {
    const int groups = count - j <= LANES ? 1 : SCORE_GROUPS;
    const char *key[SCORE_GROUPS * LANES];
    real scales[SCORE_GROUPS * LANES];
    for (int i = 0; i < groups * LANES; i++) {
      const ptrdiff_t number = key_index(keys, first + least(j + i, count - 1));
      key[i] = keys->key + number * array->row;
      if (KEY_BYTES == 1) scales[i] = load_real(keys->key_scale + number * call->operands[PYATTN_KEY_SCALES].row);
    }
    score_groups(block, key, KEY_BYTES == 1 ? scales : NULL, groups, bytes, state_of(block)->p + j);
  }
}

/* p[group of LANES keys][row] with keys along the lanes, to [key] with rows along them, or back. */
static void transpose_groups(const struct pyattn_query_block *block, ptrdiff_t count) {
  for (ptrdiff_t j = 0; j < count; j += LANES) transpose(state_of(block)->p + j);
}

/* Leaves rows along the lanes. */
static int decode_logits(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t *first,
                         ptrdiff_t *count) {
  struct attention_state *state = state_of(block);
  const int hides = narrow_range(block, first, count);
  if (*count <= 0) return 0;
  score_rows(block, keys, *first, *count);
  for (ptrdiff_t j = 0; j < *count; j++) { /* lanes without a row */
    if (j % LANES >= block->rows) state->p[j] = (vec){0};
  }
  transpose_groups(block, *count);
  find_range_max(state, *count, 1);
  return apply_options(block, keys, *first, *count, hides);
}

INLINE real *weight_at(struct attention_state *state, ptrdiff_t j, ptrdiff_t r) {
  return (real *)(state->p + j / LANES * LANES + r) + j % LANES;
}

/* The sums of `rows` rows' weights: chains that wait for each other's additions but not for those of other rows. */
INLINE void sum_weights(struct attention_state *state, ptrdiff_t first_row, ptrdiff_t count, int rows, real *sums) {
  real sum[ROWS_AT_ONCE];
  UNROLL for (int r = 0; r < rows; r++) sum[r] = (real)-0.0;
  for (ptrdiff_t j = 0; j < count; j++) {
    UNROLL for (int r = 0; r < rows; r++) sum[r] += *weight_at(state, j, first_row + r);
  }
  UNROLL for (int r = 0; r < rows; r++) sums[r] = sum[r];
}

/* Logits to weights, relative to the new maximum. */
static void softmax_rows(const struct pyattn_query_block *block, ptrdiff_t count, int masked) {
  struct attention_state *state = state_of(block);
  const ptrdiff_t groups = (count + LANES - 1) / LANES, rows = block->rows;
  const int exponential = state->exponential;
  vec *p = state->p, range_max = splat(-INFINITY), sum = NOTHING;
  for (ptrdiff_t r = 0; r < rows; r++) {
    vec most = splat(-INFINITY);
    for (ptrdiff_t g = 0; g < groups; g++) most = vmax(p[g * LANES + r], most);
    range_max[r] = max_lanes(most);
  }
  const vec max = raise_max(state, 0, range_max), base = max * state->to_log2;
  for (ptrdiff_t r = 0; r < rows; r++) {
    const vec row_max = splat(max[r]), row_base = splat(base[r]);
    for (ptrdiff_t g = 0; g < groups; g++) {
      p[g * LANES + r] = weight_of(p[g * LANES + r], row_max, row_base, state->to_log2, masked, exponential);
    }
  }
  real sums[LANES];
  FOR_ROWS_AT_ONCE(rows, ROWS_AT_ONCE, sum_weights(state, r, count, ROWS, sums + r))
  for (ptrdiff_t r = 0; r < rows; r++) sum[r] = sums[r];
  state->split.sum[0] = state->split.sum[0] * state->rescale[0] + sum;
  for (ptrdiff_t r = 0; count % GROUP != 0 && r < rows; r++) *weight_at(state, count, r) = 0;
  for (ptrdiff_t g = 0; GROUP == 2 && g < groups; g += 2) {
    for (ptrdiff_t r = 0; r < rows; r++) {
      const vec high = g + 1 < groups ? p[(g + 1) * LANES + r] : (vec){0};
      p[g / 2 * LANES + r] = pack_groups(p[g * LANES + r], high);
    }
  }
}

/* Part of the weighted sums: `rows` rows from first_row on, `vectors` of features from feature d on, which are whole
 * and contiguous if there are several. */
INLINE void accumulate_part(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                            ptrdiff_t count, int masked, ptrdiff_t d, ptrdiff_t first_row, int rows, int vectors) {
  const struct pyattn_attention *call = block->call;
  const struct pyattn_array *array = &call->operands[PYATTN_VALUE];
  struct attention_state *state = state_of(block);
  const ptrdiff_t value_row = array->row, step = array->column;
  const ptrdiff_t column = d * step, ahead = keys->index ? 0 : ROWS_AHEAD * value_row;
  vec acc[ROWS_AT_ONCE][VALUE_VECTORS];
  UNROLL for (int r = 0; r < rows; r++) { UNROLL for (int n = 0; n < vectors; n++) acc[r][n] = (vec){0}; }
  for (ptrdiff_t j = 0; j < count; j += GROUP) {
    const ptrdiff_t number = key_index(keys, first + j);
    const vec scale = row_scale(keys->value_scale, number * call->operands[PYATTN_VALUE_SCALES].row);
    const char *low = keys->value + number * value_row + column, *high = NULL;
    if (GROUP == 2 && j + 1 < count) high = keys->value + key_index(keys, first + j + 1) * value_row + column;
    vec x[VALUE_VECTORS];
    if (vectors > 1) {
      UNROLL for (int n = 0; n < vectors; n += GROUP) join_rows_wide(low, high, n * LANES * KEY_BYTES, x + n);
      UNROLL for (int line = 0; line < vectors * LANES * KEY_BYTES; line += 64) {
        prefetch_far(low + ahead + line);
        if (GROUP == 2) prefetch_far(low + ahead + value_row + line);
      }
    } else {
      x[0] = join_rows(low, high, step, call->value_width - d);
    }
    UNROLL for (int n = 0; n < vectors; n++) x[n] = scale_values(x[n], scale);
    UNROLL for (int r = 0; r < rows; r++) {
      const vec weight = splat(*weight_at(state, j / GROUP, first_row + r));
      UNROLL for (int n = 0; n < vectors; n++) {
        const vec value = masked ? (vec)((ivec)x[n] & (ivec)live_groups(weight)) : x[n];
        acc[r][n] = multiply_add(value, weight, acc[r][n]);
      }
    }
  }
  UNROLL for (int r = 0; r < rows; r++) {
    vec *o = state->split.o + (first_row + r) * value_vectors(call) + d / LANES;
    const vec rescale = splat(state->rescale[0][first_row + r]);
    UNROLL for (int n = 0; n < vectors; n++) o[n] = o[n] * rescale + acc[r][n];
  }
}

/* As many features from d on as fill so many vectors, time and again; returns where the rest begins. */
INLINE ptrdiff_t accumulate_vectors(const struct pyattn_query_block *block, const struct pyattn_keys *keys,
                                    ptrdiff_t first, ptrdiff_t count, int masked, ptrdiff_t d, int vectors) {
  for (; block->call->value_width - d >= (vectors > 1 ? vectors * LANES : 1); d += vectors * LANES) {
    FOR_ROWS_AT_ONCE(block->rows, ROWS_AT_ONCE, accumulate_part(block, keys, first, count, masked, d, r, ROWS, vectors))
  }
  return d;
}

INLINE void accumulate_rows(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                            ptrdiff_t count, int masked) {
  ptrdiff_t d = 0;
  if (block->call->operands[PYATTN_VALUE].column == KEY_BYTES) {
    d = accumulate_vectors(block, keys, first, count, masked, d, VALUE_VECTORS);
    d = accumulate_vectors(block, keys, first, count, masked, d, VALUE_VECTORS / 2);
  }
  accumulate_vectors(block, keys, first, count, masked, d, 1);
}

static void decode_update(const struct pyattn_query_block *block, struct pyattn_keys *keys, ptrdiff_t first,
                          ptrdiff_t count) {
  struct attention_state *state = state_of(block);
  int masked = 0;
  if (has_no_options(block, keys) && seen_by_all(block, keys, first, first + count)) {
    score_rows(block, keys, first, count);
  } else { /* options see rows along the lanes */
    masked = decode_logits(block, keys, &first, &count);
    if (count <= 0) return;
    for (ptrdiff_t j = count; j < round_up(count, LANES); j++) state->p[j] = MASKED;
    transpose_groups(block, count);
  }
  softmax_rows(block, count, masked);
  if (masked)
    accumulate_rows(block, keys, first, count, 1);
  else
    accumulate_rows(block, keys, first, count, 0);
}
