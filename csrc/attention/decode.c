/* Attention of few rows. Decode takes at most PYATTN_DECODE_ROWS, whose time is that of reading K and V: keys along the
 * lanes of scores and weights, features along those of weighted sums, so that no lane is empty and every row of K and V
 * is read once, as it lies; mixed takes as many as one vector has lanes, with prefill's scores and decode's weighted
 * sums. The sums and their order are those of prefill, and so are the bits. Of decode:
 *
 *     score        p[group of LANES keys][row]  = sum over d of q[d][row] * key[key][d], LANES x LANES keys transposed
 *     softmax      p, sum, max                    horizontal over the keys of a row
 *     accumulate   o[row][feature / LANES]      = o * rescale + sum over keys of p[key][row] * value[key][feature]
 *
 *     mode               chosen when                                     differs in
 *     plain              no option, all rows see all keys                scores are logits as they stand
 *     with options       otherwise                                       p is transposed to [key] with rows along the
 *                                                                        lanes, for options.h, and back
 *     gathered keys      a sparse mask                                   rows of K and V by index; scores: gathered.h
 *     own keys           a sparse mask, few keys a row, no option        each row has a list of its own
 *     masked             a logit is MASKED                               masked values count as 0: 0 * NaN is NaN
 *     int8 (KV8)         keys and values are int8                        scales multiply scores and, after their sum,
 *                                                                        weights; integers are finite, masked or not
 *
 * R rows against S keys read S (D + Dv) elements of K and V once, in order, and R D of Q; they write R Dv. Weights are
 * p[group of LANES dot-product groups][row], LANES vectors a group; a block has one vector of lanes for its rows. */
#include "../gemm.h"
#include "options.h"
#include "weighted_sums.h"

enum {
  COLUMNS = LANES * GROUP * KEY_GROUPS, /* features of a key that are loaded at a time */
  STEP_BYTES = COLUMNS * KEY_BYTES,
  /* loaded for one that is prefetched */
  ROWS_A_LINE = STEP_BYTES >= 64 ? 1 : 64 / (STEP_BYTES * LANES < 64 ? 64 / LANES : STEP_BYTES),
  /* Groups of LANES keys are scored so many at a time, or one: chains of sums that fill each other's waits. */
  SCORE_GROUPS = KEY_BYTES == 1 || NARROW ? 4 : 2,
  KEY_ROWS = 4, /* rows of queries whose chains do so, too */
};

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

/* sums[r] += the products of `rows` queries and loaded keys, of `groups` groups of features, or begins with them. */
INLINE void multiply_keys(vec *sums, int begin, const real *q, ptrdiff_t query_row, const vec *x, int rows,
                          int groups) {
  vec sum[KEY_ROWS];
  UNROLL for (int r = 0; r < rows; r++) sum[r] = begin ? (vec){0} : sums[r];
  UNROLL for (int t = 0; t < groups; t++) {
    const vec key = key_group(x[t / KEY_GROUPS], t % KEY_GROUPS);
    UNROLL for (int r = 0; r < rows; r++) {
      sum[r] = multiply_add(splat(load_real(q + r * query_row + t)), key, sum[r]);
    }
  }
  UNROLL for (int r = 0; r < rows; r++) sums[r] = sum[r];
}

/* Groups of LANES keys that are scored at a time. */
struct key_groups {
  const char *key[SCORE_GROUPS * LANES]; /* their rows */
  ptrdiff_t ahead;                       /* how many bytes after theirs the rows to prefetch lie */
  real scale[SCORE_GROUPS * LANES];      /* of int8 */
  vec *p[SCORE_GROUPS];                  /* scores of a group and the block's rows */
  int groups;
};

/* Into the first-level cache and evenly over the arithmetic: the machine drops what comes in bursts. */
INLINE void prefetch_group(const struct key_groups *keys, int group, ptrdiff_t column, ptrdiff_t offset) {
  const ptrdiff_t line = offset + keys->ahead, turn = column / COLUMNS % ROWS_A_LINE;
  UNROLL for (int i = 0; i < LANES; i += ROWS_A_LINE) prefetch_near(keys->key[group * LANES + i + turn] + line);
}

#if KEY_BYTES == 1
#include "decode_int8.h"
#elif NARROW
#include "decode_narrow.h"
#else
INLINE void score_groups(const struct pyattn_query_block *block, const struct key_groups *keys) {
  const struct pyattn_attention *call = block->call;
  const int groups = keys->groups;
  const ptrdiff_t rows = block->rows, step = call->operands[PYATTN_KEY].column, query_row = query_groups(call);
  for (ptrdiff_t d = 0; d == 0 || d < call->width; d += SUM_BLOCK) {
    const ptrdiff_t end = least(call->width, d + SUM_BLOCK);
    const real *q = query_rows_from(block, d);
    vec acc[SCORE_GROUPS][LANES];
    if (end == 0) memset(acc, 0, sizeof acc);
    for (ptrdiff_t column = d; column < end; column += COLUMNS, q += LANES * KEY_GROUPS) {
      const ptrdiff_t columns = least(end - column, COLUMNS), offset = column * step;
      for (int group = 0; group < groups; group++) {
        vec x[LANES];
        load_keys_along_lanes(x, keys->key + group * LANES, offset, step, columns);
        prefetch_group(keys, group, column, offset);
        if (KEY_GROUPS == 1 || columns == COLUMNS) {
          FOR_ROWS_AT_ONCE(
              rows, KEY_ROWS,
              multiply_keys(acc[group] + r, column == d, q + r * query_row, query_row, x, ROWS, LANES * KEY_GROUPS))
        } else { /* what is left of a lane counts nothing */
          FOR_ROWS_AT_ONCE(
              rows, KEY_ROWS,
              multiply_keys(acc[group] + r, column == d, q + r * query_row, query_row, x, ROWS, (int)columns))
        }
      }
    }
    for (int group = 0; group < groups; group++) {
      vec *p = keys->p[group];
      for (ptrdiff_t r = 0; r < rows; r++) p[r] = d > 0 ? p[r] + acc[group][r] : acc[group][r];
    }
  }
}

#endif

#include "gathered.h"

/* Weights of int8 values times their scales, of some rows. */
static void scale_groups(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                         ptrdiff_t count, ptrdiff_t first_row, ptrdiff_t rows) {
  real scales[PYATTN_KEY_BLOCK];
  load_scales(scales, block->call, keys, PYATTN_VALUE_SCALES, first, count);
  for (ptrdiff_t j = 0; j < count; j += LANES) {
    for (ptrdiff_t r = first_row; r < first_row + rows; r++) {
      vec *p = state_of(block)->p + j + r;
      *p = scaled_weight(*p, load(scales + j));
    }
  }
}

/* After the last key, that is repeated. */
static void score_rows(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                       ptrdiff_t count) {
  const struct pyattn_attention *call = block->call;
  if (keys->index) {
    score_gathered(block, keys, first, count, 0, block->rows);
    return;
  }
  const ptrdiff_t row = call->operands[PYATTN_KEY].row;
  const int streamed = LANES == ROWS_AHEAD && KEY_GROUPS == 1;
  const ptrdiff_t most = streamed ? 1 : SCORE_GROUPS; /* one alone leaves more of the cache to what is prefetched */
  const ptrdiff_t ahead = least(count, most * LANES > ROWS_AHEAD ? most * LANES : ROWS_AHEAD);
  for (ptrdiff_t j = 0; j < count; j += most * LANES) {
    struct key_groups now;
    now.ahead = (KEY_BYTES == 1 ? int8_ahead(call->width) : ahead) * row;
    now.groups = (int)least((count - j + LANES - 1) / LANES, most);
    if (KEY_BYTES == 1 && now.groups > 1) now.groups = SCORE_GROUPS;
    for (int group = 0; group < now.groups; group++) now.p[group] = state_of(block)->p + j + group * LANES;
    const int placed = KEY_BYTES == 1 ? now.groups : (int)most; /* tiles take several groups */
    for (int i = 0; i < placed * LANES; i++) now.key[i] = keys->key + (first + least(j + i, count - 1)) * row;
    if (KEY_BYTES == 1) {
      load_scales(now.scale, call, keys, PYATTN_KEY_SCALES, first + j, least(count - j, SCORE_GROUPS * LANES));
    }
    score_groups(block, &now);
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

/* The largest lane of each row, none of them NaN. */
INLINE vec max_rows(vec x[LANES]) {
  transpose(x);
  vec most = x[0];
  UNROLL for (int i = 1; i < LANES; i++) most = vmax(x[i], most);
  return most;
}

/* The sums of `rows` rows' weights: chains that wait for each other's additions but not for those of other rows. */
INLINE void sum_weights(struct attention_state *state, ptrdiff_t first_row, ptrdiff_t count, int rows, real *sums) {
  real sum[MORE_ROWS];
  UNROLL for (int r = 0; r < rows; r++) sum[r] = (real)-0.0;
  for (ptrdiff_t j = 0; j < count; j++) {
    UNROLL for (int r = 0; r < rows; r++) sum[r] += *weight_at(state, j, first_row + r, 1);
  }
  UNROLL for (int r = 0; r < rows; r++) sums[r] = sum[r];
}

/* Logits of keys first ... first + count to weights, relative to the new maximum. */
static void softmax_rows(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                         ptrdiff_t count, int masked) {
  struct attention_state *state = state_of(block);
  const ptrdiff_t groups = (count + LANES - 1) / LANES, rows = block->rows;
  const int exponential = state->exponential;
  vec *p = state->p, sum = NOTHING, most[LANES];
  UNROLL for (int i = 0; i < LANES; i++) most[i] = splat(-INFINITY);
  for (ptrdiff_t r = 0; r < rows; r++) {
    for (ptrdiff_t g = 0; g < groups; g++) most[r] = vmax(p[g * LANES + r], most[r]);
  }
  const vec range_max = max_rows(most);
  const vec max = raise_max(state, 0, range_max), base = max * state->to_log2;
  for (ptrdiff_t r = 0; r < rows; r++) {
    const vec row_max = splat(max[r]), row_base = splat(base[r]);
    for (ptrdiff_t g = 0; g < groups; g++) {
      p[g * LANES + r] = weight_of(p[g * LANES + r], row_max, row_base, state->to_log2, masked, exponential);
    }
  }
  if (keys->index) {
    sum = sum_gathered(state, keys, count, rows);
    if (state->dropped_below > 0) drop_gathered(block, keys, first, count);
  } else {
    real sums[LANES];
    FOR_ROWS_AT_ONCE(rows, MORE_ROWS, sum_weights(state, r, count, ROWS, sums + r))
    for (ptrdiff_t r = 0; r < rows; r++) sum[r] = sums[r];
  }
  state->split.sum[0] = state->split.sum[0] * state->rescale[0] + sum;
  for (ptrdiff_t r = 0; GROUP == 2 && r < rows; r++) {
    const ptrdiff_t own = own_count(keys, r, count);
    if (own % 2 != 0) *weight_at(state, own, r, 1) = 0;
  }
  for (ptrdiff_t g = 0; GROUP == 2 && g < groups; g += 2) {
    for (ptrdiff_t r = 0; r < rows; r++) {
      const vec high = g + 1 < groups ? p[(g + 1) * LANES + r] : (vec){0};
      p[g / 2 * LANES + r] = pack_groups(p[g * LANES + r], high);
    }
  }
}

/* Row r of the output, and of the next queries, which lie apart from all that was touched so far. */
INLINE void expect_row(const struct pyattn_query_block *block, ptrdiff_t r) {
  const struct pyattn_attention *call = block->call;
  const struct pyattn_array query = operand(block, PYATTN_QUERY), out = operand(block, PYATTN_OUT);
  const char *next = query.data + (block->rows + r) * query.row, *written = out.data + r * out.row;
  for (ptrdiff_t line = 0; line < call->width * ELEMENT_BYTES; line += 64) prefetch_near(next + line);
  for (ptrdiff_t line = 0; line < call->value_width * ELEMENT_BYTES; line += 64) {
    __builtin_prefetch(written + line, 1, 3);
  }
}

static void update_own_keys(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t count) {
  score_own_keys(block, keys, count);
  softmax_rows(block, keys, 0, count, 0);
  for (ptrdiff_t r = 0; r < block->rows; r++) {
    const ptrdiff_t first = own_first(keys, r), own = own_count(keys, r, count);
    if (KEY_BYTES == 1 && own > 0) scale_groups(block, keys, first, own, r, 1);
    expect_row(block, r);
    if (own > 0) accumulate_gathered(block, keys, first, own, r, 0);
  }
}

static void decode_update(const struct pyattn_query_block *block, struct pyattn_keys *keys, ptrdiff_t first,
                          ptrdiff_t count) {
  struct attention_state *state = state_of(block);
  int masked = 0;
  if (keys->starts) {
    update_own_keys(block, keys, count);
    return;
  }
  if (has_no_options(block, keys) && seen_by_all(block, keys, first, first + count)) {
    score_rows(block, keys, first, count);
  } else { /* options see rows along the lanes */
    masked = decode_logits(block, keys, &first, &count);
    if (count <= 0) return;
    for (ptrdiff_t j = count; j < round_up(count, LANES); j++) state->p[j] = MASKED;
    transpose_groups(block, count);
  }
  softmax_rows(block, keys, first, count, masked);
  if (KEY_BYTES == 1) scale_groups(block, keys, first, count, 0, block->rows);
  if (keys->index && block->rows == 1)
    accumulate_gathered(block, keys, first, count, 0, masked && KEY_BYTES > 1);
  else
    accumulate_all(block, keys, first, count, masked, 1);
}

/* Of rows that one vector holds: weights are those of prefill. */
static void mixed_update(const struct pyattn_query_block *block, struct pyattn_keys *keys, ptrdiff_t first,
                         ptrdiff_t count) {
  const int masked = prefill_weights(block, keys, &first, &count);
  if (count > 0) accumulate_all(block, keys, first, count, masked, 0);
}
