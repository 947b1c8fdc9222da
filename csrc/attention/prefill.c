/* Exact attention of one block of query rows, streamed over blocks of keys with a running softmax: queries along the
 * lanes. Milakov & Gimelshein 2018 (arXiv:1805.02867) give the softmax, Dao et al. 2022 (arXiv:2205.14135) its use
 * here.
 *
 *     logits      p[key][N]   = sum over d of key[key][d] * q[d][N], then options: options.h
 *     softmax     p, sum, max                                             elementwise over queries, nothing horizontal
 *     accumulate  o[d][N]     = o[d][N] * rescale + sum over keys of value[key][d] * p[key][N]
 *
 * for N vectors of queries, a dot-product group of features or keys at a time. A query's arithmetic does not depend on
 * its neighbours, K and V are never copied (but for 16-bit elements, which are converted block by block), and only Q
 * and O are transposed. log2(e) is folded into q where no dense bias is added, and the exponential is 2^x.
 *
 *     mode of the softmax   chosen when                                 evaluates
 *     EXP_BASE_2            the default                                 2^(p - max)
 *     EXP_FUSED             dot-product groups of two, no options       2^(p to_log2 - max to_log2), one instruction
 *     EXP_SUBTRACT_FIRST    a bias or a floating mask is given          2^((p - max) to_log2)
 *     accumulate_live       keys are masked, and a value is not finite  masked values count as 0: 0 * NaN is NaN
 *
 * A block of R rows against S keys reads R D elements of Q once, S (D + Dv) of K and V, from the cache where the blocks
 * of a task share them, and a mask or bias R S; it writes R Dv elements. The sums over each PYATTN_SPLIT keys are
 * completed before they are merged into those of all splits before: splits may be computed apart, by several threads,
 * and rounding errors do not grow with the number of keys.
 */
#include "../gemm.h"
#include "load.h"
#include "options.h"

enum { KEYS_AHEAD = 16 }; /* values are prefetched that many keys before they are added */

static ptrdiff_t prefill_state_bytes(const struct pyattn_attention *call, int vectors) {
  return bytes_of_state(call, vectors, call->value_width * vectors);
}

static void prefill_begin(const struct pyattn_query_block *block) {
  begin_block(block, block->call->value_width * block->vectors);
}

/* Also takes the largest scores of the tile into `max`, while they are in registers. */
INLINE void score_tile(const char *key, ptrdiff_t row, ptrdiff_t step, const vec *q, ptrdiff_t steps, vec *p, int rows,
                       int vectors, int add, vec *max) {
  tile acc;
  UNROLL for (int r = 0; r < rows; r++) { UNROLL for (int n = 0; n < vectors; n++) acc[r][n] = (vec){0}; }
  const struct tile_a a = {key, row, step, key + TILE_ROWS * row, TILE_ROWS * step};
  const struct tile_b b = {(const char *)q, PLAIN_FORMAT, ATTENTION_UNROLL, 0};
  tile_multiply(acc, rows, vectors, a, b, steps);
  UNROLL for (int n = 0; n < vectors; n++) {
    vec most = max[n];
    UNROLL for (int r = 0; r < rows; r++) {
      if (add) acc[r][n] += p[r * vectors + n];
      p[r * vectors + n] = acc[r][n];
      most = vmax(acc[r][n], most);
    }
    max[n] = most;
  }
}

INLINE void score(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t offset,
                  ptrdiff_t count, int vectors) {
  struct attention_state *state = state_of(block);
  const ptrdiff_t row = keys->tile_key_row, step = keys->tile_key_step;
  for (ptrdiff_t d = 0; d == 0 || d < block->call->width; d += SUM_BLOCK) {
    const ptrdiff_t rest = block->call->width - d, steps = ((rest < SUM_BLOCK ? rest : SUM_BLOCK) + GROUP - 1) / GROUP;
    const vec *q = queries_from(block, d);
    UNROLL for (int n = 0; n < vectors; n++) state->range_max[n] = splat(-INFINITY);
    for (ptrdiff_t j = 0; j < count; j += TILE_ROWS) {
      const char *source = keys->tile_key + (offset + j) * row + d / GROUP * step;
      vec *p = state->p + j * vectors, *max = state->range_max;
      if (count - j >= TILE_ROWS) {
        score_tile(source, row, step, q, steps, p, TILE_ROWS, vectors, d > 0, max);
      } else {
        WITH_CONSTANT_ROWS(count - j, score_tile(source, row, step, q, steps, p, ROWS, vectors, d > 0, max))
      }
    }
  }
}

INLINE int logits(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t *first,
                  ptrdiff_t *count, int vectors) {
  const int hides = narrow_range(block, first, count);
  if (*count <= 0) return 0;
  score(block, keys, *first - keys->first, *count, vectors);
  return apply_options(block, keys, *first, *count, vectors, hides);
}

static int prefill_logits(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t *first,
                          ptrdiff_t *count) {
  int masked = 0;
  WITH_CONSTANT_VECTORS(block->vectors, masked = logits(block, keys, first, count, VECTORS))
  return masked;
}

/* Logits to weights, relative to the new maximum. */
INLINE void softmax(struct attention_state *state, ptrdiff_t keys, int vectors, int masked, int exponential) {
  vec *p = state->p;
  const real to_log2 = exponential == EXP_BASE_2 ? 1 : state->to_log2;
  vec max[TILE_VECTORS], base[TILE_VECTORS], sum[TILE_VECTORS];
  UNROLL for (int n = 0; n < vectors; n++) {
    max[n] = raise_max(state, n, state->range_max[n]);
    base[n] = max[n] * to_log2;
    sum[n] = NOTHING;
  }
  for (ptrdiff_t j = 0; j < keys; j += GROUP) {
    UNROLL for (int n = 0; n < vectors; n++) {
      vec weight[2] = {{0}, {0}};
      UNROLL for (int s = 0; s < GROUP; s++) {
        if (s > 0 && j + s == keys) break;
        weight[s] = weight_of(p[(j + s) * vectors + n], max[n], base[n], to_log2, masked, exponential);
        sum[n] += weight[s];
      }
      p[j / GROUP * vectors + n] = join_groups(weight[0], weight[1]);
    }
  }
  UNROLL for (int n = 0; n < vectors; n++) state->sum[n] = state->sum[n] * state->rescale[n] + sum[n];
}

INLINE void accumulate_tile(const char *value, ptrdiff_t row, ptrdiff_t step, const vec *p, ptrdiff_t steps,
                            const vec *rescale, vec *o, int rows, int vectors) {
  tile acc;
  UNROLL for (int r = 0; r < rows; r++) { UNROLL for (int n = 0; n < vectors; n++) acc[r][n] = (vec){0}; }
  const struct tile_a a = {value, row, step, value + KEYS_AHEAD * step + (rows - 1) * row, step};
  const struct tile_b b = {(const char *)p, PLAIN_FORMAT, ATTENTION_UNROLL, 0};
  tile_multiply(acc, rows, vectors, a, b, steps);
  UNROLL for (int r = 0; r < rows; r++) {
    UNROLL for (int n = 0; n < vectors; n++) o[r * vectors + n] = o[r * vectors + n] * rescale[n] + acc[r][n];
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
    const vec *p = state->p, *rescale = state->rescale;
    if (width - d >= TILE_ROWS) {
      accumulate_tile(source, row, step, p, steps, rescale, o, TILE_ROWS, vectors);
    } else {
      WITH_CONSTANT_ROWS(width - d, accumulate_tile(source, row, step, p, steps, rescale, o, ROWS, vectors))
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
        acc = multiply_add((vec)((ivec)x & (ivec)live_groups(weight)), weight, acc);
      }
      vec *o = state->o + d * vectors + n;
      *o = *o * state->rescale[n] + acc;
    }
  }
}

/* Whether all loaded values are finite, which the first block to ask finds out for all. */
static int all_finite(const struct pyattn_attention *call, struct pyattn_keys *keys) {
  if (keys->finite >= 0) return keys->finite;
  const struct pyattn_array *value = &call->operands[PYATTN_VALUE];
  vec zeros = {0}; /* x * 0 is NaN for NaN and inf */
  for (ptrdiff_t j = keys->first; j < keys->first + keys->count; j++) {
    for (ptrdiff_t d = 0; d < call->value_width; d += LANES) {
      const ptrdiff_t columns = call->value_width - d < LANES ? call->value_width - d : LANES;
      zeros += load_strided(keys->value + j * value->row + d * value->column, value->column, columns) * 0;
    }
  }
  keys->finite = sum_lanes(zeros) == 0;
  return keys->finite;
}

INLINE void update(const struct pyattn_query_block *block, struct pyattn_keys *keys, ptrdiff_t first, ptrdiff_t count,
                   int vectors) {
  struct attention_state *state = state_of(block);
  const int masked = logits(block, keys, &first, &count, vectors);
  if (count <= 0) return;
  if (state->exponential == EXP_BASE_2 && !masked)
    softmax(state, count, vectors, 0, EXP_BASE_2);
  else if (state->exponential == EXP_BASE_2)
    softmax(state, count, vectors, 1, EXP_BASE_2);
  else if (state->exponential == EXP_FUSED)
    softmax(state, count, vectors, masked, EXP_FUSED);
  else
    softmax(state, count, vectors, masked, EXP_SUBTRACT_FIRST);
  if (block->call->value_width == 0) return;
  const ptrdiff_t steps = (count + GROUP - 1) / GROUP;
  const char *value = keys->tile_value + (first - keys->first) / GROUP * keys->tile_value_step;
  if (masked && !all_finite(block->call, keys))
    accumulate_live(block, keys, value, steps);
  else
    accumulate(block, keys, value, steps, vectors);
}

static void prefill_update(const struct pyattn_query_block *block, struct pyattn_keys *keys, ptrdiff_t first,
                           ptrdiff_t count) {
  const int vectors = block->vectors;
  WITH_CONSTANT_VECTORS(vectors, update(block, keys, first, count, VECTORS));
}

static void prefill_add(const struct pyattn_query_block *block, const struct partial *part) {
  struct attention_state *state = state_of(block);
  const int vectors = block->vectors;
  vec old[TILE_VECTORS], new[TILE_VECTORS];
  merge_sums(state, part, vectors, old, new);
  for (ptrdiff_t d = 0; d < block->call->value_width; d++) {
    for (int n = 0; n < vectors; n++) {
      const ptrdiff_t i = d * vectors + n;
      state->total[i] = state->total[i] * old[n] + part->o[i] * new[n];
    }
  }
}

static void prefill_merge(const struct pyattn_query_block *block, const char *from) {
  merge_split(block, from, prefill_add);
  begin_split(block);
}

/* Writes the rows of vector n: o[d][n] * share, transposed. */
static void write_rows(const struct pyattn_query_block *block, const vec *o, vec share, int n) {
  const struct pyattn_array out = operand(block, PYATTN_OUT);
  const ptrdiff_t width = block->call->value_width;
  const ptrdiff_t rows = block->rows - n * LANES < LANES ? block->rows - n * LANES : LANES;
  for (ptrdiff_t d = 0; d < width; d += LANES) {
    const ptrdiff_t columns = width - d < LANES ? width - d : LANES;
    vec x[LANES];
    UNROLL for (int i = 0; i < LANES; i++) x[i] = i < columns ? o[(d + i) * block->vectors + n] * share : (vec){0};
    transpose(x);
    for (ptrdiff_t i = 0; i < rows; i++) {
      store_strided(operand_row(block, &out, n * LANES + i) + d * out.column, out.column, x[i], columns);
    }
  }
}

static void prefill_finish(const struct pyattn_query_block *block) {
  struct attention_state *state = state_of(block);
  merge_split(block, block->scratch, prefill_add);
  for (int n = 0; n < block->vectors; n++) {
    const vec seen = state->total_max[n];
    if (block->data[PYATTN_SINKS]) {
      const vec old = add_sinks(block, n);
      for (ptrdiff_t d = 0; d < block->call->value_width; d++) state->total[d * block->vectors + n] *= old;
    }
    write_rows(block, state->total, finish_sums(block, n, seen), n);
  }
}
