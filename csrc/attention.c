/* Exact attention of one block of query rows, streamed over blocks of keys with a running softmax.
 *
 * Milakov & Gimelshein 2018 (arXiv:1805.02867) give the running softmax, Dao et al. 2022 (arXiv:2205.14135) its use for
 * attention. Queries stand along the SIMD lanes: with N vectors of queries,
 *
 *     logits      p[key][N]   = sum over d of key[key][d] * q[d][N], then options: logits.h
 *     softmax     p, sum, top                                             elementwise over queries, nothing horizontal
 *     accumulate  o[d][N]     = o[d][N] * fade + sum over keys of value[key][d] * p[key][N]
 *
 * so that a query's arithmetic does not depend on its neighbours, K and V are never copied (but for half types, which
 * are converted block by block), and only Q and O are transposed. Logits are in units of log2 where no dense bias is
 * added to them: scale and log2(e) are folded into q, and the exponential is 2^x.
 *
 * Few rows leave most lanes empty, and their time is that of reading K and V: for them keys stand along the lanes in
 * the first product and the width in the second, with the same sums in the same order, hence the same bits.
 *
 * The sums over each PYATTN_SPLIT keys are completed before they are folded into those of all pieces before. So pieces
 * may be computed apart, by several threads, and rounding errors do not grow with the number of keys.
 */
#include "few.h"

enum { KEYS_AHEAD = 16 /* values are prefetched that many keys before they are added */ };

/* Half types: K and V of a block as tiles read them, in float32 or in pairs. */
static ptrdiff_t attention_load_scratch(const struct pyattn_attention *call) {
  if (ELEMENT_BYTES == sizeof(real) || call->path->few) return 0;
  const ptrdiff_t width = round_up(call->width, LANES * STEP) / STEP, value_width = round_up(call->value_width, LANES);
  return (width + value_width / STEP) * PYATTN_KEY_BLOCK * (ptrdiff_t)sizeof(real);
}

/* Rows of keys as steps: [key][step of width] */
static void load_keys(const struct pyattn_attention *call, const char *key, ptrdiff_t count, real *target) {
  const ptrdiff_t row = call->operands[PYATTN_KEY].row, column = call->operands[PYATTN_KEY].column, ahead = PYATTN_KEY_BLOCK * row;
  for (ptrdiff_t j = 0; j < count; j++, key += row) {
    ptrdiff_t d = 0;
    for (; column == ELEMENT_BYTES && d + LANES * STEP <= call->width; d += LANES * STEP, target += LANES) {
      store(target, load_steps(key + d * ELEMENT_BYTES, ELEMENT_BYTES, LANES * STEP));
      __builtin_prefetch(key + d * ELEMENT_BYTES + ahead, 0, 3);
    }
    for (; d < call->width; d += LANES * STEP, target += LANES) {
      const ptrdiff_t columns = call->width - d < LANES * STEP ? call->width - d : LANES * STEP;
      store(target, load_steps(key + d * column, column, columns));
    }
  }
}

/* Rows of values joined to steps of keys: [step of keys][value_width] */
static void load_values(const struct pyattn_attention *call, const char *value, ptrdiff_t count, real *target) {
  const ptrdiff_t row = call->operands[PYATTN_VALUE].row, column = call->operands[PYATTN_VALUE].column, ahead = PYATTN_KEY_BLOCK * row;
  for (ptrdiff_t j = 0; j < count; j += STEP, value += STEP * row) {
    ptrdiff_t d = 0;
    for (; column == ELEMENT_BYTES && j + STEP <= count && d + LANES <= call->value_width;
         d += LANES, target += LANES) {
      const char *low = value + d * ELEMENT_BYTES;
      store(target, join_rows(low, low + row, ELEMENT_BYTES, LANES));
      __builtin_prefetch(low + ahead, 0, 3);
      if (STEP == 2) __builtin_prefetch(low + ahead + row, 0, 3);
    }
    for (; d < call->value_width; d += LANES, target += LANES) {
      const ptrdiff_t columns = call->value_width - d < LANES ? call->value_width - d : LANES;
      const char *low = value + d * column;
      store(target, join_rows(low, j + 1 < count ? low + row : NULL, column, columns));
    }
  }
}

static void attention_load(const struct pyattn_attention *call, struct pyattn_keys *keys, char *scratch) {
  if (call->path->few) return;
  const int as_pairs = STEP == 2 && call->operands[PYATTN_KEY].column == ELEMENT_BYTES && call->width % STEP == 0;
  keys->finite = -1;
  keys->tile_key = keys->key + keys->first * call->operands[PYATTN_KEY].row;
  keys->tile_key_row = call->operands[PYATTN_KEY].row;
  keys->tile_key_step = STEP * call->operands[PYATTN_KEY].column;
  keys->tile_value = keys->value ? keys->value + keys->first * call->operands[PYATTN_VALUE].row : NULL;
  keys->tile_value_step = call->operands[PYATTN_VALUE].row;
  keys->tile_value_column = call->operands[PYATTN_VALUE].column;
  if (ELEMENT_BYTES == sizeof(real)) return;
  if (!as_pairs) {
    load_keys(call, keys->tile_key, keys->count, (real *)scratch);
    keys->tile_key = scratch;
    keys->tile_key_row = round_up(call->width, LANES * STEP) / STEP * (ptrdiff_t)sizeof(real);
    keys->tile_key_step = sizeof(real);
    scratch += keys->tile_key_row * PYATTN_KEY_BLOCK;
  }
  if (keys->value) {
    load_values(call, keys->tile_value, keys->count, (real *)scratch);
    keys->tile_value = scratch;
    keys->tile_value_step = round_up(call->value_width, LANES) * (ptrdiff_t)sizeof(real);
    keys->tile_value_column = sizeof(real);
  }
}

static void begin_piece(const struct pyattn_query_block *block) {
  struct attention_state *state = state_of(block);
  for (int n = 0; n < block->vectors; n++) {
    state->top[n] = splat(-INFINITY);
    state->sum[n] = NOTHING;
  }
  memset(state->o, 0, (size_t)output_vectors(block->call, block->vectors) * sizeof(vec));
}

static void attention_begin(const struct pyattn_query_block *block) {
  const struct pyattn_attention *call = block->call;
  struct attention_state *state = state_of(block);
  const ptrdiff_t output = output_vectors(call, block->vectors), best = call->top_k * block->vectors;
  state->q = (vec *)(block->scratch + round_up(sizeof *state, PYATTN_ALIGNMENT));
  state->o = state->q + query_vectors(call, block->vectors);
  state->total = state->o + output;
  state->best = state->total + output;
  state->best_key = (ivec *)(state->best + best);
  state->folded = 0;

  /* A finite bias stays finite only without log2(e): the most negative number, used as a mask, differs from -inf. */
  const int biased = call->mask_kind == PYATTN_MASK_REAL || block->data[PYATTN_BIAS] || call->index_bias;
  const double into = biased ? 1 : LOG2_E;
  const double scale = call->softcap > 0 ? call->scale / call->softcap : call->scale * into;
  const int plain = !biased && !block->data[PYATTN_ALIBI_SLOPES] && call->softcap <= 0 && scale > 0;
  state->factor = (real)scale;
  state->before = STEP == 1 || plain ? 1 : (real)scale;
  state->after = (real)(call->softcap * into);
  state->unit = STEP == 1 || !plain ? (real)(LOG2_E / into) : (real)scale;
  state->natural = biased ? 1 : LN_2 * state->unit;
  state->units = biased ? UNITS_WIDE : state->unit == 1 ? UNITS_OF_LOG2 : UNITS_FUSED;
  for (int n = 0; n < block->vectors; n++) {
    for (int i = 0; i < LANES; i++) state->position[n][i] = (word)(n * LANES + i);
    if (block->rows > block->length) {
      for (int i = 0; i < LANES; i++) state->position[n][i] = (word)(lane_row(block, n, i) % block->length);
    }
    state->position[n] += (word)(block->query_offset + block->first);
    if (block->data[PYATTN_ALIBI_SLOPES] == NULL) continue;
    for (int i = 0; i < LANES; i++) {
      const char *slope = block->data[PYATTN_ALIBI_SLOPES] + lane_row(block, n, i) / block->length * call->operands[PYATTN_ALIBI_SLOPES].head;
      state->slope[n][i] = (real)(load_real(slope) * into);
    }
  }
  begin_piece(block);
  if (call->width <= PYATTN_WIDTH_BLOCK) load_queries(block, 0);
}

/* Logits to weights, relative to the new top. */
INLINE void softmax(struct attention_state *state, ptrdiff_t keys, int vectors, int masked, int units) {
  vec *p = state->p;
  const real unit = units == UNITS_OF_LOG2 ? 1 : state->unit;
  vec top[TILE_VECTORS], base[TILE_VECTORS], sum[TILE_VECTORS];
  UNROLL for (int n = 0; n < vectors; n++) {
    top[n] = raise_top(state, n, state->largest[n]);
    base[n] = top[n] * unit;
    sum[n] = NOTHING;
  }
  for (ptrdiff_t j = 0; j < keys; j += STEP) {
    UNROLL for (int n = 0; n < vectors; n++) {
      vec weight[2] = {{0}, {0}};
      UNROLL for (int s = 0; s < STEP; s++) {
        if (s > 0 && j + s == keys) break;
        weight[s] = weight_of(p[(j + s) * vectors + n], top[n], base[n], unit, masked, units);
        sum[n] += weight[s];
      }
      p[j / STEP * vectors + n] = join_steps(weight[0], weight[1]);
    }
  }
  UNROLL for (int n = 0; n < vectors; n++) state->sum[n] = state->sum[n] * state->fade[n] + sum[n];
}

INLINE void accumulate_tile(const char *value, ptrdiff_t row, ptrdiff_t step, const vec *p, ptrdiff_t steps,
                            const vec *fade, vec *o, int rows, int vectors) {
  tile acc;
  UNROLL for (int r = 0; r < rows; r++) { UNROLL for (int n = 0; n < vectors; n++) acc[r][n] = (vec){0}; }
  const struct tile_a a = {value, row, step, value + KEYS_AHEAD * step + (rows - 1) * row, step};
  const struct tile_b b = {(const char *)p, PLAIN_FORMAT, ATTENTION_PAIRS, 0};
  tile_multiply(acc, rows, vectors, a, b, steps);
  UNROLL for (int r = 0; r < rows; r++) {
    UNROLL for (int n = 0; n < vectors; n++) o[r * vectors + n] = o[r * vectors + n] * fade[n] + acc[r][n];
  }
}

/* value: as tiles read it, from the range's first key on */
INLINE void accumulate(const struct pyattn_query_block *block, const struct pyattn_keys *keys, const char *value,
                       ptrdiff_t steps, int vectors) {
  struct attention_state *state = state_of(block);
  const ptrdiff_t row = keys->tile_value_column, step = keys->tile_value_step, width = block->call->value_width;
  for (ptrdiff_t d = 0; d < width; d += TILE_ROWS) {
    const char *source = value + d * row;
    vec *o = state->o + d * vectors;
    if (width - d >= TILE_ROWS) {
      accumulate_tile(source, row, step, state->p, steps, state->fade, o, TILE_ROWS, vectors);
    } else {
      WITH_CONSTANT_ROWS(width - d, accumulate_tile(source, row, step, state->p, steps, state->fade, o, ROWS, vectors))
    }
  }
}

/* The same for values that hold NaN or inf behind a mask: 0 * NaN would leak, so masked values are taken for 0. */
static void accumulate_live(const struct pyattn_query_block *block, const struct pyattn_keys *keys, const char *value,
                            ptrdiff_t steps) {
  struct attention_state *state = state_of(block);
  const int vectors = block->vectors;
  for (ptrdiff_t d = 0; d < block->call->value_width; d++) {
    for (int n = 0; n < vectors; n++) {
      vec acc = {0};
      for (ptrdiff_t t = 0; t < steps; t++) {
        const vec weight = state->p[t * vectors + n];
        const vec x = splat(load_real(value + t * keys->tile_value_step + d * keys->tile_value_column));
        acc = multiply_add((vec)((ivec)x & (ivec)live_steps(weight)), weight, acc);
      }
      vec *o = state->o + d * vectors + n;
      *o = *o * state->fade[n] + acc;
    }
  }
}

/* Whether all loaded values are finite, which the first block to ask finds out for all. */
static int all_finite(const struct pyattn_attention *call, struct pyattn_keys *keys) {
  if (keys->finite >= 0) return keys->finite;
  vec zeros = {0}; /* x * 0 is NaN for NaN and inf */
  for (ptrdiff_t j = keys->first; j < keys->first + keys->count; j++) {
    for (ptrdiff_t d = 0; d < call->value_width; d += LANES) {
      const ptrdiff_t columns = call->value_width - d < LANES ? call->value_width - d : LANES;
      zeros +=
          load_strided(keys->value + j * call->operands[PYATTN_VALUE].row + d * call->operands[PYATTN_VALUE].column, call->operands[PYATTN_VALUE].column, columns) * 0;
    }
  }
  keys->finite = sum_lanes(zeros) == 0;
  return keys->finite;
}

INLINE void attend(const struct pyattn_query_block *block, struct pyattn_keys *keys, ptrdiff_t first, ptrdiff_t count,
                   int vectors) {
  struct attention_state *state = state_of(block);
  if (block->call->path->few) {
    attend_few(block, keys, first, count);
    return;
  }
  const int masked = compute_logits(block, keys, &first, &count, vectors);
  if (count <= 0) return;
  if (state->units == UNITS_OF_LOG2 && !masked)
    softmax(state, count, vectors, 0, UNITS_OF_LOG2);
  else if (state->units == UNITS_OF_LOG2)
    softmax(state, count, vectors, 1, UNITS_OF_LOG2);
  else if (state->units == UNITS_FUSED)
    softmax(state, count, vectors, masked, UNITS_FUSED);
  else
    softmax(state, count, vectors, masked, UNITS_WIDE);
  if (block->call->value_width == 0) return;
  const ptrdiff_t steps = (count + STEP - 1) / STEP;
  const char *value = keys->tile_value + (first - keys->first) / STEP * keys->tile_value_step;
  if (masked && !all_finite(block->call, keys))
    accumulate_live(block, keys, value, steps);
  else
    accumulate(block, keys, value, steps, vectors);
}

static void attention_attend(const struct pyattn_query_block *block, struct pyattn_keys *keys, ptrdiff_t first,
                             ptrdiff_t count) {
  const int vectors = block->vectors;
  WITH_CONSTANT_VECTORS(vectors, attend(block, keys, first, count, VECTORS));
}

/* The factors that turn two partial sums into parts of one, whose largest logit is the returned top. */
INLINE vec joint_top(vec a, vec b, real unit, vec *a_factor, vec *b_factor) {
  const vec top = vmax(a, b);
  const vec base = choose(top == -INFINITY, (vec){0}, top);
  *a_factor = exp2_of_negative((a - base) * unit);
  *b_factor = exp2_of_negative((b - base) * unit);
  return top;
}

/* The first piece is the total so far, to the bit as if it were added to nothing. */
static void keep_piece(struct attention_state *state, int vectors) {
  vec *o = state->o;
  state->o = state->total;
  state->total = o;
  for (int n = 0; n < vectors; n++) state->total_top[n] = state->top[n], state->total_sum[n] = state->sum[n];
  state->folded = 1;
}

/* total += the piece of `from`; a sum that saw nothing adds nothing, to the bit */
static void fold_piece(const struct pyattn_query_block *block, const vec *from_top, const vec *from_sum,
                       const vec *from_o) {
  const struct pyattn_attention *call = block->call;
  struct attention_state *state = state_of(block);
  const int vectors = block->vectors;
  vec old[TILE_VECTORS], new[TILE_VECTORS];
  for (int n = 0; n < vectors; n++) {
    state->total_top[n] = joint_top(state->total_top[n], from_top[n], state->unit, &old[n], &new[n]);
    state->total_sum[n] = state->total_sum[n] * old[n] + from_sum[n] * new[n];
  }
  if (call->path->few) {
    const ptrdiff_t columns = round_up(call->value_width, LANES) / LANES;
    for (ptrdiff_t r = 0; r < block->rows; r++) {
      for (ptrdiff_t i = r * columns; i < (r + 1) * columns; i++) {
        state->total[i] = state->total[i] * splat(old[0][r]) + from_o[i] * splat(new[0][r]);
      }
    }
  } else {
    for (ptrdiff_t d = 0; d < call->value_width; d++) {
      for (int n = 0; n < vectors; n++) {
        const ptrdiff_t i = d * vectors + n;
        state->total[i] = state->total[i] * old[n] + from_o[i] * new[n];
      }
    }
  }
}

/* Folds the present piece, or all that another state has seen, and begins another piece. */
static void attention_fold(const struct pyattn_query_block *block, const char *from) {
  struct attention_state *state = state_of(block);
  const struct attention_state *other = (const struct attention_state *)from;
  if (from == block->scratch && !state->folded)
    keep_piece(state, block->vectors);
  else if (other->folded && from != block->scratch)
    fold_piece(block, other->total_top, other->total_sum, other->total);
  else
    fold_piece(block, other->top, other->sum, other->o);
  begin_piece(block);
}

/* Output rows of few: share[row] * o[row][d]. */
static void write_few(const struct pyattn_query_block *block, const vec *o, vec share) {
  const struct pyattn_attention *call = block->call;
  for (ptrdiff_t r = 0; r < block->rows; r++) {
    char *row = block->data[PYATTN_OUT] + row_offset(block, r, call->operands[PYATTN_OUT].row, call->operands[PYATTN_OUT].head);
    for (ptrdiff_t d = 0; d < call->value_width; d += LANES) {
      const ptrdiff_t columns = call->value_width - d < LANES ? call->value_width - d : LANES;
      store_strided(row + d * call->operands[PYATTN_OUT].column, call->operands[PYATTN_OUT].column, *o++ * splat(share[r]), columns);
    }
  }
}

static void write_out(const struct pyattn_query_block *block, const vec *o, vec share, int n) {
  const struct pyattn_attention *call = block->call;
  const ptrdiff_t rows = block->rows - n * LANES < LANES ? block->rows - n * LANES : LANES;
  for (ptrdiff_t d = 0; d < call->value_width; d += LANES) {
    const ptrdiff_t columns = call->value_width - d < LANES ? call->value_width - d : LANES;
    vec x[LANES];
    UNROLL for (int i = 0; i < LANES; i++) x[i] = i < columns ? o[(d + i) * block->vectors + n] * share : (vec){0};
    transpose(x);
    for (ptrdiff_t i = 0; i < rows; i++) {
      char *row = block->data[PYATTN_OUT] + row_offset(block, n * LANES + i, call->operands[PYATTN_OUT].row, call->operands[PYATTN_OUT].head);
      store_strided(row + d * call->operands[PYATTN_OUT].column, call->operands[PYATTN_OUT].column, x[i], columns);
    }
  }
}

/* Sinks join the denominator, Xiao et al. 2023 (arXiv:2309.17453), equation 2; -inf is none. */
static void add_sinks(const struct pyattn_query_block *block, int n) {
  struct attention_state *state = state_of(block);
  vec sink, old, new;
  for (int i = 0; i < LANES; i++) {
    sink[i] = load_real(block->data[PYATTN_SINKS] + lane_row(block, n, i) / block->length * block->call->operands[PYATTN_SINKS].head);
  }
  sink *= (real)(LOG2_E / state->unit);
  const vec one = choose(sink == -INFINITY, NOTHING, splat(1));
  state->total_top[n] = joint_top(state->total_top[n], sink, state->unit, &old, &new);
  state->total_sum[n] = state->total_sum[n] * old + one * new;
  const ptrdiff_t columns = block->call->path->few ? output_vectors(block->call, 1) / LANES : block->call->value_width;
  for (ptrdiff_t i = 0; i < (block->call->path->few ? block->rows * columns : columns); i++) {
    if (block->call->path->few)
      state->total[i] *= splat(old[i / columns]);
    else
      state->total[i * block->vectors + n] *= old;
  }
}

static void attention_finish(const struct pyattn_query_block *block) {
  const struct pyattn_attention *call = block->call;
  struct attention_state *state = state_of(block);
  if (state->folded)
    fold_piece(block, state->top, state->sum, state->o);
  else
    keep_piece(state, block->vectors);
  for (int n = 0; n < block->vectors; n++) {
    const vec seen = state->total_top[n];
    if (block->data[PYATTN_SINKS]) add_sinks(block, n);
    /* a row that saw nothing is zero */
    const vec share = choose((ivec)state->total_sum[n] == (ivec)NOTHING, (vec){0}, 1 / state->total_sum[n]);
    if (call->path->few)
      write_few(block, state->total, share);
    else
      write_out(block, state->total, share, n);
    for (ptrdiff_t i = 0; i < LANES && n * LANES + i < block->rows; i++) {
      const ptrdiff_t row = row_offset(block, n * LANES + i, call->operands[PYATTN_LSE].row, call->operands[PYATTN_LSE].head);
      const double top = state->total_top[n][i], sum = state->total_sum[n][i];
      if (block->data[PYATTN_LSE]) store_real(block->data[PYATTN_LSE] + row, (real)(top * state->natural + LN_2 * log2(sum)));
      if (block->data[PYATTN_MAX]) { /* the running maximum passes over NaN */
        const double most = isnan(sum) && seen[i] < (real)INFINITY ? NAN : state->natural * (double)seen[i];
        store_real(block->data[PYATTN_MAX] + row_offset(block, n * LANES + i, call->operands[PYATTN_MAX].row, call->operands[PYATTN_MAX].head), (real)most);
      }
      if (block->data[PYATTN_MOMENTS]) {
        const struct pyattn_array *strides = &call->operands[PYATTN_MOMENTS];
        real_unaligned *moments = (real_unaligned *)(block->data[PYATTN_MOMENTS] +
                                                     row_offset(block, n * LANES + i, strides->row, strides->head));
        moments[0] = state->total_top[n][i];
        moments[1] = state->total_sum[n][i];
      }
    }
  }
}
