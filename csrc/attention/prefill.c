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
 * A bias or floating mask alone is transposed for the tiles, which add it: once for a few heads that share it and take
 * turns. Meanwhile the softmax fetches what comes next of it.
 *
 * A block of R rows against S keys reads R D elements of Q once, S (D + Dv) of K and V, from the cache where the blocks
 * of a task share them, and a mask or bias R S; it writes R Dv elements. The sums over each PYATTN_SPLIT keys are
 * completed before they are merged into those of all splits before: splits may be computed apart, by several threads,
 * and rounding errors do not grow with the number of keys. */
#include "../gemm.h"
#include "dropout.h"
#include "options.h"

enum {
  KEYS_AHEAD = 16,               /* values are prefetched that many keys before they are added */
  TALL_ROWS = TILE_ROWS * 3 / 2, /* of a tile of scores of a lone vector: more chains of sums, fewer loads */
};

/* Keys and values of 16 or 8 bits are converted once for all blocks of a task to what tiles read: float32, or
 * dot-product groups of bfloat16. Those of float32 and float64 are read in place; decode reads all as they lie. */
KERNEL ptrdiff_t load_bytes(const struct pyattn_attention *call) {
  if (KEY_BYTES == sizeof(real) || call->path->along_keys) return 0;
  const ptrdiff_t keys = round_up(call->width, LANES * GROUP), values = round_up(call->value_width, LANES);
  return (keys + (call->path->by_row ? 0 : values)) / GROUP * PYATTN_KEY_BLOCK * (ptrdiff_t)sizeof(real);
}

KERNEL void load_range(const struct pyattn_attention *call, struct pyattn_keys *keys, char *scratch) {
  if (call->path->along_keys) return;
  const int in_place = KEY_BYTES == sizeof(real);
  const struct pyattn_array key = from_key(call, PYATTN_KEY, keys->key, keys->first);
  const struct pyattn_array value = from_key(call, PYATTN_VALUE, keys->value, keys->first);
  const int keys_are_groups = GROUP == 2 && key.column == KEY_BYTES && call->width % GROUP == 0;
  keys->finite = -1;
  keys->tile_key = (struct pyattn_array){key.data, key.row, GROUP * key.column, 0};
  keys->tile_value = (struct pyattn_array){value.data, value.row, value.column, 0};
  if (!in_place && !keys_are_groups) {
    const ptrdiff_t row = round_up(call->width, LANES * GROUP) / GROUP * (ptrdiff_t)sizeof(real);
    load_rows(key, KEY_UNIT, call->width, keys->count, (real *)scratch, GROUP == 1);
    keys->tile_key = (struct pyattn_array){scratch, row, sizeof(real), 0};
    scratch += row * PYATTN_KEY_BLOCK;
  }
  if (!in_place && value.data && !call->path->by_row) {
    const ptrdiff_t row = round_up(call->value_width, LANES) * (ptrdiff_t)sizeof(real);
    load_rows(value, 1, call->value_width, keys->count, (real *)scratch, 1);
    keys->tile_value = (struct pyattn_array){scratch, row, sizeof(real), 0};
  }
}

/* Transposes an operand with an element for each pair to p, -inf as MASKED. Returns whether there was any. */
static int place_dense(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                       ptrdiff_t count, int which, vec *p) {
  const struct pyattn_array dense = operand(block, which);
  const int vectors = block->vectors;
  vec lowest = splat(INFINITY);
  for (int n = 0; n < vectors; n++) {
    char *rows[LANES];
    find_rows(block, &dense, n, rows);
    for (ptrdiff_t j = 0; j < count; j += LANES) {
      vec x[LANES];
      load_columns(x, rows, &dense, keys, first, j, count, !block->addends || block->addends->next_rows == 0);
      if (count - j < LANES) { /* else without a count, in registers */
        for (ptrdiff_t i = 0; i < count - j; i++) {
          p[(j + i) * vectors + n] = x[i];
          lowest = vmin(x[i], lowest);
        }
        break;
      }
      UNROLL for (int i = 0; i < LANES; i++) {
        p[(j + i) * vectors + n] = x[i];
        lowest = vmin(x[i], lowest);
      }
    }
  }
  if (!any_lane(lowest == -(real)INFINITY)) return 0;
  for (ptrdiff_t i = 0; i < count * vectors; i++) { /* a NaN of the caller's may have the bits of MASKED */
    p[i] = choose(p[i] == -(real)INFINITY, MASKED, choose(is_masked(p[i]), splat(NAN), p[i]));
  }
  return 1;
}

/* What prefill's tiles join to scores: nothing; addends, of which some may be MASKED; or the bytes of a boolean mask.
 */
enum { JOIN_NOTHING, JOIN_ADDENDS, JOIN_ADDENDS_OR_MASKED, JOIN_BYTES };
struct joined {
  int how;
  const char *data; /* a line for each key: the block's vectors, or ROWS_OF_BYTES */
};

/* Addends in p, but where heads share them. The softmax fetches what will be placed next. */
static struct joined join_dense(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                                ptrdiff_t count, int which) {
  const struct pyattn_array *dense = &block->call->operands[which];
  struct attention_state *state = state_of(block);
  struct pyattn_addends own = {0}, *addends = block->addends ? block->addends : &own;
  vec *lines = addends->lines ? (vec *)addends->lines : state->p;
  if (!addends->placed) addends->masked = place_dense(block, keys, first, count, which, lines);
  addends->placed = 1;
  const ptrdiff_t bytes = PYATTN_KEY_BLOCK * ELEMENT_BYTES + ((uintptr_t)addends->next % 64 != 0);
  state->read_ahead = (struct strip){addends->next, dense->row, bytes, addends->next_rows};
  return (struct joined){addends->masked ? JOIN_ADDENDS_OR_MASKED : JOIN_ADDENDS, (const char *)lines};
}

/* Prepares, in seen where it is of bytes, what comes between scores and logits but for positions if it is one such
 * operand. */
static struct joined prepare_joined(const struct pyattn_query_block *block, const struct pyattn_keys *keys,
                                    ptrdiff_t first, ptrdiff_t count, int hides, uint8_t *seen) {
  const struct pyattn_attention *call = block->call;
  const struct pyattn_array mask = operand(block, PYATTN_MASK);
  const struct joined nothing = {JOIN_NOTHING, (const char *)state_of(block)->p};
  const int biased = block->data[PYATTN_BIAS] != NULL, masked = call->mask_kind == PYATTN_MASK_REAL;
  if (KEY_BYTES == 1 || call->softcap > 0 || state_of(block)->score_scale != 1 || block->data[PYATTN_ALIBI_SLOPES] ||
      call->width > SUM_BLOCK || biased + masked + hides != 1)
    return nothing;
  if (!hides) return join_dense(block, keys, first, count, biased ? PYATTN_BIAS : PYATTN_MASK);
  if (is_same_for_rows(block, &mask)) return nothing;
  rows_of_mask(block, first, count, seen);
  return (struct joined){JOIN_BYTES, (const char *)seen};
}

/* p = scores, joined with what lies in data; raises max to the largest, while they are in registers. */
INLINE void join_scores(vec (*scores)[TILE_VECTORS], vec *p, const char *data, int rows, int vectors, int join,
                        vec *max) {
  UNROLL for (int n = 0; n < vectors; n++) {
    vec most = max[n];
    UNROLL for (int r = 0; r < rows; r++) {
      const vec *addend = (const vec *)data + r * vectors + n;
      vec x = scores[r][n];
      if (join == JOIN_ADDENDS) x += *addend;
      if (join == JOIN_ADDENDS_OR_MASKED) x = choose(is_masked(*addend), MASKED, x + *addend);
      if (join == JOIN_BYTES) x = choose_by_bytes((const uint8_t *)data + r * ROWS_OF_BYTES + n * LANES, x, MASKED);
      p[r * vectors + n] = x;
      most = vmax(x, most);
    }
    max[n] = most;
  }
}

INLINE void score_tile(struct tile_a key, const vec *q, ptrdiff_t steps, vec *p, struct joined joined, int rows,
                       int vectors, vec *max) {
  vec acc[TALL_ROWS][TILE_VECTORS];
  UNROLL for (int r = 0; r < rows; r++) { UNROLL for (int n = 0; n < vectors; n++) acc[r][n] = (vec){0}; }
  const struct tile_b b = {(const char *)q, PLAIN_FORMAT, ATTENTION_UNROLL, 0};
  if (rows > TILE_ROWS) key.step = sizeof(real); /* a constant, which spares registers for addresses */
  tile_multiply(acc, rows, vectors, key, b, steps);
  switch (joined.how) {
    case JOIN_NOTHING: join_scores(acc, p, NULL, rows, vectors, JOIN_NOTHING, max); break;
    case JOIN_ADDENDS: join_scores(acc, p, joined.data, rows, vectors, JOIN_ADDENDS, max); break;
    case JOIN_BYTES: join_scores(acc, p, joined.data, rows, vectors, JOIN_BYTES, max); break;
    default: join_scores(acc, p, joined.data, rows, vectors, JOIN_ADDENDS_OR_MASKED, max);
  }
}

/* Rows of the next tile: of fewer than two tiles half, since a tile of one or two rows waits for its sums. */
INLINE ptrdiff_t next_rows(ptrdiff_t left) {
  return left <= TILE_ROWS ? left : left < 2 * TILE_ROWS ? left / 2 : TILE_ROWS;
}

INLINE void score(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t offset,
                  ptrdiff_t count, int vectors, struct joined joined) {
  struct attention_state *state = state_of(block);
  const ptrdiff_t row = keys->tile_key.row, step = keys->tile_key.column;
  for (ptrdiff_t d = 0; d == 0 || d < block->call->width; d += SUM_BLOCK) {
    const ptrdiff_t steps = (least(block->call->width - d, SUM_BLOCK) + GROUP - 1) / GROUP;
    const vec *q = queries_from(block, d);
    const ptrdiff_t line = joined.how == JOIN_BYTES ? ROWS_OF_BYTES : vectors * (ptrdiff_t)sizeof(vec);
    const int how = d > 0 ? JOIN_ADDENDS : joined.how; /* the sums before, in p */
    UNROLL for (int n = 0; n < vectors; n++) state->range_max[n] = splat(-INFINITY);
    for (ptrdiff_t j = 0, rows; j < count; j += rows) {
      rows = vectors == 1 && step == sizeof(real) && count - j >= TALL_ROWS ? TALL_ROWS : next_rows(count - j);
      const char *source = keys->tile_key.data + (offset + j) * row + d / GROUP * step;
      const struct tile_a key = {source, row, step, source + rows * row, rows * step};
      const struct joined here = {how, joined.data + j * line};
      vec *p = state->p + j * vectors, *max = state->range_max;
      if (vectors == 1 && rows == TALL_ROWS)
        score_tile(key, q, steps, p, here, TALL_ROWS, vectors, max);
      else if (rows == TILE_ROWS)
        score_tile(key, q, steps, p, here, TILE_ROWS, vectors, max);
      else
        WITH_CONSTANT(ROWS, rows, TILE_ROWS - 1, score_tile(key, q, steps, p, here, ROWS, vectors, max))
    }
  }
}

/* Of int8 keys and values, the scales: [key][N] */
static void scale_logits(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                         ptrdiff_t count) {
  real scales[PYATTN_KEY_BLOCK];
  load_scales(scales, block->call, keys, PYATTN_KEY_SCALES, first, count);
  EACH_LOGIT(state_of(block), count, block->vectors, *p *= scales[j])
}

static void scale_weights(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                          ptrdiff_t count) {
  real scales[PYATTN_KEY_BLOCK];
  load_scales(scales, block->call, keys, PYATTN_VALUE_SCALES, first, count);
  for (ptrdiff_t j = 0; j < count; j++) {
    for (int n = 0; n < block->vectors; n++) {
      vec *p = state_of(block)->p + j * block->vectors + n;
      *p = scaled_weight(*p, splat(scales[j]));
    }
  }
}

KERNEL int prefill_logits(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t *first,
                          ptrdiff_t *count) {
  const int hides = narrow_range(block, first, count);
  if (*count <= 0) return 0;
  uint8_t seen[PYATTN_KEY_BLOCK * ROWS_OF_BYTES];
  const struct joined joined = prepare_joined(block, keys, *first, *count, hides, seen);
  WITH_CONSTANT(VECTORS, block->vectors, TILE_VECTORS,
                score(block, keys, *first - keys->first, *count, VECTORS, joined))
  if (KEY_BYTES == 1) scale_logits(block, keys, *first, *count); /* before whatever is added to them */
  if (joined.how == JOIN_NOTHING) return apply_options(block, keys, *first, *count, hides);
  return mask_positions(block, keys, *first, *count) | (joined.how != JOIN_ADDENDS);
}

INLINE void fetch_row(const struct strip *strip, ptrdiff_t r, int writes) {
  for (ptrdiff_t line = 0; r < strip->rows && line < strip->bytes; line += 64) {
    if (writes)
      __builtin_prefetch(strip->data + r * strip->row + line, 1, 3);
    else
      __builtin_prefetch(strip->data + r * strip->row + line, 0, 3);
  }
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
    UNROLL for (int s = 0; s < GROUP; s++) {
      fetch_row(&state->read_ahead, j + s, 0);
      fetch_row(&state->written_ahead, j + s, 1);
    }
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
  state->read_ahead.rows = state->written_ahead.rows = 0; /* once */
  vec *total = state->split.sum;
  UNROLL for (int n = 0; n < vectors; n++) total[n] = total[n] * state->rescale[n] + sum[n];
}

/* rescale: NULL for the first keys of a split, whose sums are added to 0. */
INLINE void accumulate_tile(const char *value, ptrdiff_t row, ptrdiff_t step, const vec *p, ptrdiff_t steps,
                            const vec *rescale, vec *o, int rows, int vectors) {
  tile acc;
  UNROLL for (int r = 0; r < rows; r++) { UNROLL for (int n = 0; n < vectors; n++) acc[r][n] = (vec){0}; }
  const struct tile_a a = {value, row, step, value + KEYS_AHEAD * step + (rows - 1) * row, step};
  const struct tile_b b = {(const char *)p, PLAIN_FORMAT, ATTENTION_UNROLL, 0};
  tile_multiply(acc, rows, vectors, a, b, steps);
  if (rescale == NULL) {
    UNROLL for (int i = 0; i < rows * vectors; i++) o[i] = acc[i / vectors][i % vectors] + 0;
    return;
  }
  UNROLL for (int r = 0; r < rows; r++) {
    UNROLL for (int n = 0; n < vectors; n++) o[r * vectors + n] = o[r * vectors + n] * rescale[n] + acc[r][n];
  }
}

/* value: as tiles read it, from the range's first key on */
INLINE void accumulate(const struct pyattn_query_block *block, const struct pyattn_keys *keys, const char *value,
                       ptrdiff_t steps, int vectors) {
  struct attention_state *state = state_of(block);
  const ptrdiff_t row = keys->tile_value.column, step = keys->tile_value.row, width = block->call->value_width;
  ptrdiff_t rows;
  for (ptrdiff_t d = 0; d < width; d += rows) {
    const char *source = value + d * row;
    vec *o = state->split.o + d * vectors;
    const vec *p = state->p, *rescale = state->split.empty ? NULL : state->rescale;
    rows = next_rows(width - d);
    if (rows == TILE_ROWS)
      accumulate_tile(source, row, step, p, steps, rescale, o, TILE_ROWS, vectors);
    else
      WITH_CONSTANT(ROWS, rows, TILE_ROWS - 1, accumulate_tile(source, row, step, p, steps, rescale, o, ROWS, vectors))
  }
}

/* The same for values that hold NaN or inf behind a mask: 0 * NaN would leak, so masked values are taken for 0. */
static void accumulate_live(const struct pyattn_query_block *block, const struct pyattn_keys *keys, const char *value,
                            ptrdiff_t steps) {
  struct attention_state *state = state_of(block);
  const int vectors = block->vectors;
  if (state->split.empty) clear_output(block, &state->split);
  for (ptrdiff_t d = 0; d < block->call->value_width; d++) {
    for (int n = 0; n < vectors; n++) {
      vec acc = {0};
      for (ptrdiff_t t = 0; t < steps; t++) {
        const vec weight = state->p[t * vectors + n];
        const vec x = splat(load_real(value + t * keys->tile_value.row + d * keys->tile_value.column));
        acc = multiply_add((vec)((ivec)x & (ivec)live_groups(weight)), weight, acc);
      }
      vec *o = state->split.o + d * vectors + n;
      *o = *o * state->rescale[n] + acc;
    }
  }
}

/* Whether all loaded values are finite, which the first block to ask finds out for all. */
static int all_finite(const struct pyattn_attention *call, struct pyattn_keys *keys) {
  if (keys->finite >= 0) return keys->finite;
  if (KEY_BYTES == 1) return 1; /* scales, which need not be, are in the weights */
  const struct pyattn_array value = from_key(call, PYATTN_VALUE, keys->value, keys->first);
  vec zeros = {0}; /* x * 0 is NaN for NaN and inf */
  for (ptrdiff_t j = 0; j < keys->count; j++) {
    for (ptrdiff_t d = 0; d < call->value_width; d += LANES) {
      const char *p = value.data + j * value.row + d * value.column;
      zeros += load_strided(p, value.column, call->value_width - d) * 0;
    }
  }
  keys->finite = sum_lanes(zeros) == 0;
  return keys->finite;
}

INLINE void weigh(const struct pyattn_query_block *block, ptrdiff_t count, int masked, int vectors) {
  struct attention_state *state = state_of(block);
  if (state->exponential == EXP_BASE_2 && !masked)
    softmax(state, count, vectors, 0, EXP_BASE_2);
  else if (state->exponential == EXP_BASE_2)
    softmax(state, count, vectors, 1, EXP_BASE_2);
  else if (GROUP == 2 && state->exponential == EXP_FUSED)
    softmax(state, count, vectors, masked, EXP_FUSED);
  else
    softmax(state, count, vectors, masked, EXP_SUBTRACT_FIRST);
}

/* Weights that are dropped to 0; what is masked stays -0. Those that are kept are divided by 1 - p in the end. */
INLINE void drop_weights(const struct pyattn_query_block *block, ptrdiff_t first, ptrdiff_t count, int vectors) {
  struct attention_state *state = state_of(block);
  for (ptrdiff_t j = 0; j < count; j += GROUP) {
    UNROLL for (int n = 0; n < vectors; n++) {
      vec *p = state->p + j / GROUP * vectors + n;
      uvec kept = (uvec)kept_pairs(state, n, first + j) | (uword)SIGN_BIT;
      if (GROUP == 2)
        kept = (kept >> 16) | (((uvec)kept_pairs(state, n, first + j + 1) | (uword)SIGN_BIT) & 0xffff0000);
      *p = (vec)((uvec)*p & kept);
    }
  }
}

/* The weights of keys first ... first + count, which it may narrow; returns whether some are masked. */
KERNEL int prefill_weights(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t *first,
                           ptrdiff_t *count) {
  const int masked = prefill_logits(block, keys, first, count);
  if (*count <= 0) return 0;
  WITH_CONSTANT(VECTORS, block->vectors, TILE_VECTORS, weigh(block, *count, masked, VECTORS))
  if (state_of(block)->dropped_below > 0)
    WITH_CONSTANT(VECTORS, block->vectors, TILE_VECTORS, drop_weights(block, *first, *count, VECTORS))
  if (KEY_BYTES == 1 && block->call->value_width > 0) scale_weights(block, keys, *first, *count);
  return masked;
}

KERNEL void prefill_update(const struct pyattn_query_block *block, struct pyattn_keys *keys, ptrdiff_t first,
                           ptrdiff_t count) {
  const int masked = prefill_weights(block, keys, &first, &count);
  if (count <= 0 || block->call->value_width == 0) return;
  const ptrdiff_t steps = (count + GROUP - 1) / GROUP;
  const char *value = keys->tile_value.data + (first - keys->first) / GROUP * keys->tile_value.row;
  if (masked && !all_finite(block->call, keys))
    accumulate_live(block, keys, value, steps);
  else
    WITH_CONSTANT(VECTORS, block->vectors, TILE_VECTORS, accumulate(block, keys, value, steps, VECTORS))
  state_of(block)->split.empty = 0;
}
