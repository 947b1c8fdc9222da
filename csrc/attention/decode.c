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
 * p[group of LANES dot-product groups][row], LANES vectors a group; a block has one vector of lanes for its rows.
 */
#include "../gemm.h"
#include "decode_scores.h"
#include "options.h"

enum {
  ROWS_AT_ONCE = 3,                                        /* rows whose weighted sums stay in registers */
  VALUE_VECTORS = TILE_ROWS * TILE_VECTORS / ROWS_AT_ONCE, /* and vectors of features of each */
};

static ptrdiff_t decode_state_bytes(const struct pyattn_attention *call, int vectors) {
  return bytes_of_state(call, vectors, round_up(call->value_width, LANES));
}

static void decode_begin(const struct pyattn_query_block *block) {
  begin_block(block, round_up(block->call->value_width, LANES));
}

static ptrdiff_t decode_load_bytes(const struct pyattn_attention *call) { return (void)call, 0; }

/* Keys and values are read where they lie. */
static void decode_load(const struct pyattn_attention *call, struct pyattn_keys *keys, char *scratch) {
  (void)call, (void)keys, (void)scratch;
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
  return apply_options(block, keys, *first, *count, 1, hides);
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

/* Run `statement` for ROWS rows from r on until there are no more; ROWS, at most ROWS_AT_ONCE, is a constant. */
#define FOR_ROWS_AT_ONCE(rows, statement)                        \
  for (ptrdiff_t r = 0; r < rows; r += ROWS_AT_ONCE) {           \
    switch (rows - r < ROWS_AT_ONCE ? rows - r : ROWS_AT_ONCE) { \
      CONSTANT_CASE(ROWS, 1, ROWS_AT_ONCE, statement)            \
      CONSTANT_CASE(ROWS, 2, ROWS_AT_ONCE, statement)            \
      CONSTANT_CASE(ROWS, 3, ROWS_AT_ONCE, statement)            \
      default: __builtin_unreachable();                          \
    }                                                            \
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
  FOR_ROWS_AT_ONCE(rows, sum_weights(state, r, count, ROWS, sums + r))
  for (ptrdiff_t r = 0; r < rows; r++) sum[r] = sums[r];
  state->sum[0] = state->sum[0] * state->rescale[0] + sum;
  for (ptrdiff_t r = 0; count % GROUP != 0 && r < rows; r++) *weight_at(state, count, r) = 0;
  for (ptrdiff_t g = 0; GROUP == 2 && g < groups; g += 2) {
    for (ptrdiff_t r = 0; r < rows; r++) {
      const vec high = g + 1 < groups ? p[(g + 1) * LANES + r] : (vec){0};
      p[g / 2 * LANES + r] = pack_groups(p[g * LANES + r], high);
    }
  }
}

/* A range of keys whose weights are in p. */
struct weighted_keys {
  const struct pyattn_keys *keys;
  ptrdiff_t first, count;
};

/* Part of the weighted sums: `rows` rows from first_row on, `vectors` of features from feature d on, which are whole
 * and contiguous if there are several. */
INLINE void accumulate_part(const struct pyattn_query_block *block, struct weighted_keys range, int masked, ptrdiff_t d,
                            ptrdiff_t first_row, int rows, int vectors) {
  const struct pyattn_attention *call = block->call;
  const struct pyattn_keys *keys = range.keys;
  const struct pyattn_array *array = &call->operands[PYATTN_VALUE];
  struct attention_state *state = state_of(block);
  const ptrdiff_t value_row = array->row, step = array->column, first = range.first, count = range.count;
  const ptrdiff_t column = d * step, ahead = keys->index ? 0 : ROWS_AHEAD * value_row;
  const ptrdiff_t rest = call->value_width - d < LANES ? call->value_width - d : LANES;
  vec acc[ROWS_AT_ONCE][VALUE_VECTORS];
  UNROLL for (int r = 0; r < rows; r++) { UNROLL for (int n = 0; n < vectors; n++) acc[r][n] = (vec){0}; }
  for (ptrdiff_t j = 0; j < count; j += GROUP) {
    const char *low = keys->value + key_index(keys, first + j) * value_row + column, *high = NULL;
    if (GROUP == 2 && j + 1 < count) high = keys->value + key_index(keys, first + j + 1) * value_row + column;
    vec x[VALUE_VECTORS];
    if (vectors > 1) {
      UNROLL for (int n = 0; n < vectors; n += GROUP) join_rows_wide(low, high, n * LANES * ELEMENT_BYTES, x + n);
      UNROLL for (int line = 0; line < vectors * LANES * ELEMENT_BYTES; line += 64) {
        prefetch_far(low + ahead + line);
        if (GROUP == 2) prefetch_far(low + ahead + value_row + line);
      }
    } else {
      x[0] = join_rows(low, high, step, rest);
    }
    UNROLL for (int r = 0; r < rows; r++) {
      const vec weight = splat(*weight_at(state, j / GROUP, first_row + r));
      UNROLL for (int n = 0; n < vectors; n++) {
        const vec value = masked ? (vec)((ivec)x[n] & (ivec)live_groups(weight)) : x[n];
        acc[r][n] = multiply_add(value, weight, acc[r][n]);
      }
    }
  }
  UNROLL for (int r = 0; r < rows; r++) {
    vec *o = state->o + (first_row + r) * (round_up(call->value_width, LANES) / LANES) + d / LANES;
    const vec rescale = splat(state->rescale[0][first_row + r]);
    UNROLL for (int n = 0; n < vectors; n++) o[n] = o[n] * rescale + acc[r][n];
  }
}

INLINE void accumulate_vectors(const struct pyattn_query_block *block, struct weighted_keys range, int masked,
                               ptrdiff_t d, int vectors){
    FOR_ROWS_AT_ONCE(block -> rows, accumulate_part(block, range, masked, d, r, ROWS, vectors))}

INLINE void accumulate_rows(const struct pyattn_query_block *block, struct weighted_keys range, int masked) {
  enum { WIDE = VALUE_VECTORS * LANES, HALF = VALUE_VECTORS / 2 * LANES };
  const ptrdiff_t width = block->call->value_width;
  const int contiguous = block->call->operands[PYATTN_VALUE].column == ELEMENT_BYTES;
  ptrdiff_t d = 0;
  for (; contiguous && width - d >= WIDE; d += WIDE) accumulate_vectors(block, range, masked, d, VALUE_VECTORS);
  for (; contiguous && width - d >= HALF; d += HALF) accumulate_vectors(block, range, masked, d, VALUE_VECTORS / 2);
  for (; d < width; d += LANES) accumulate_vectors(block, range, masked, d, 1);
}

static void accumulate_range(const struct pyattn_query_block *block, struct weighted_keys range, int masked) {
  if (masked)
    accumulate_rows(block, range, 1);
  else
    accumulate_rows(block, range, 0);
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
  accumulate_range(block, (struct weighted_keys){keys, first, count}, masked);
}

static void decode_add(const struct pyattn_query_block *block, const struct partial *part) {
  struct attention_state *state = state_of(block);
  const ptrdiff_t columns = state->output / LANES;
  vec old[1], new[1];
  merge_sums(state, part, 1, old, new);
  for (ptrdiff_t r = 0; r < block->rows; r++) {
    for (ptrdiff_t i = r * columns; i < (r + 1) * columns; i++) {
      state->total[i] = state->total[i] * splat(old[0][r]) + part->o[i] * splat(new[0][r]);
    }
  }
}

static void decode_merge(const struct pyattn_query_block *block, const char *from) {
  merge_split(block, from, decode_add);
  begin_split(block);
}

static void decode_finish(const struct pyattn_query_block *block) {
  const struct pyattn_array out = operand(block, PYATTN_OUT);
  const ptrdiff_t width = block->call->value_width, columns = round_up(width, LANES) / LANES;
  struct attention_state *state = state_of(block);
  merge_split(block, block->scratch, decode_add);
  const vec seen = state->total_max[0];
  if (block->data[PYATTN_SINKS]) {
    const vec old = add_sinks(block, 0);
    for (ptrdiff_t i = 0; i < block->rows * columns; i++) state->total[i] *= splat(old[i / columns]);
  }
  const vec share = finish_sums(block, 0, seen), *o = state->total;
  for (ptrdiff_t r = 0; r < block->rows; r++) {
    char *row = operand_row(block, &out, r);
    for (ptrdiff_t d = 0; d < width; d += LANES) {
      const ptrdiff_t rest = width - d < LANES ? width - d : LANES;
      store_strided(row + d * out.column, out.column, *o++ * splat(share[r]), rest);
    }
  }
}
