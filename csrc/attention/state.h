/* The state of a block of query rows on its way over the keys, where its rows lie, and the softmax, streamed: weights
 * relative to the largest logit so far, which grows (Milakov & Gimelshein 2018, arXiv:1805.02867). */
#pragma once

#include "../activations.h"
#include "../kernels.h"

#define LN_2 0.693147180559945309417

/* A masked pair has the logit MASKED, a NaN that the maximum passes over and, being a signalling one, no arithmetic
 * makes, from whatever NaN of the caller's; and the weight -0.0. So it differs to the end from a live pair: one whose
 * weight underflowed to 0.0 still passes on a NaN among the values, and a sum stays -0.0 only if it saw nothing. */
#define MASKED splat_bits((word)(REAL_BITS == 32 ? 0x7fa5a5a5 : 0x7ff5a5a5) << (REAL_BITS - 32))
INLINE ivec is_masked(vec logit) { return (ivec)logit == (ivec)MASKED; }

#define NOTHING splat((real) - 0.0)

/* How exp is evaluated, as a power of 2. */
enum {
  EXP_BASE_2,         /* logits are in base 2: 2^(logit - max) */
  EXP_FUSED,          /* 2^(logit to_log2 - max to_log2), the first product fused with the difference */
  EXP_SUBTRACT_FIRST, /* 2^((logit - max) to_log2): the caller's biases may be so large that a product overflows */
};

/* A score is a sum of sums of so many products, which keeps rounding errors small; divides PYATTN_WIDTH_BLOCK. */
enum { SUM_BLOCK = 256 };

/* A result over some keys. */
struct partial {
  vec max[TILE_VECTORS]; /* largest logit */
  vec sum[TILE_VECTORS]; /* of 2^((logit - max) to_log2) */
  vec *o;                /* weighted sums of values: prefill [feature][N], decode [row][feature / LANES] */
  int empty;             /* whether o is yet to be written; what it holds then is nothing */
};

/* Rows that will be needed soon. */
struct strip {
  const char *data;
  ptrdiff_t row, bytes, rows;
};

/* N = block->vectors vectors a line; the lanes of all but q, o and p of decode are rows. The arrays that follow the
 * struct in the scratch memory are only as long as the call's widths ask for.
 *
 * A pair's logit is score_scale (query_scale q).k or, with a soft cap, cap_scale tanh(that), plus biases. */
struct attention_state {
  struct partial split;        /* the present one */
  struct partial total;        /* of all splits before, if there are any */
  vec range_max[TILE_VECTORS]; /* largest logit of the range of keys */
  vec rescale[TILE_VECTORS];   /* 2^((old max - new max) to_log2), the correction of the online softmax */
  vec entropy[TILE_VECTORS];
  ivec position[TILE_VECTORS];
  vec slope[TILE_VECTORS];
  uvec dropped_rows[TILE_VECTORS]; /* of dropout: what each row brings to the numbers of its pairs */
  uword dropped_below;             /* 0: none */
  real query_scale;                /* multiplied into q where dot-product groups are single elements, else 1 */
  real score_scale;                /* multiplied into products where it is not in q or to_log2 */
  real cap_scale;                  /* the soft cap, in the units of logits */
  real to_log2;                    /* a logit times this is in units of log2 */
  double to_nats;                  /* a logit times this is in units of ln */
  int exponential;                 /* EXP_BASE_2, ... */
  int has_total;
  struct strip read_ahead, written_ahead; /* softmax fetches them into the cache: it leaves loads idle */
  vec *capped;                            /* NULL, or where logits are written between soft cap and biases, [key][N] */
  vec *q;                                 /* [group of features][N]; decode: [row][group of features] */
  vec *best;                              /* [top_k][N] weights, largest first */
  ivec *best_key;                         /* [top_k][N] */
  vec p[PYATTN_KEY_BLOCK * TILE_VECTORS]; /* [key][N] logits, then [group of keys][N] weights; decode: see there */
};

INLINE struct attention_state *state_of(const struct pyattn_query_block *block) {
  return (struct attention_state *)block->scratch;
}

/* An operand, from the block's row 0 on. */
INLINE struct pyattn_array operand(const struct pyattn_query_block *block, int which) {
  struct pyattn_array array = block->call->operands[which];
  array.data = block->data[which];
  return array;
}

INLINE char *operand_row(const struct pyattn_query_block *block, const struct pyattn_array *array, ptrdiff_t r) {
  const ptrdiff_t length = block->length;
  return array->data + (r < length ? r * array->row : r / length * array->head + r % length * array->row);
}

/* Row of lane i of vector n; lanes without a row repeat the last one. */
INLINE ptrdiff_t lane_row(const struct pyattn_query_block *block, int n, int i) {
  return least(n * LANES + i, block->rows - 1);
}

INLINE ptrdiff_t key_index(const struct pyattn_keys *keys, ptrdiff_t j) { return keys->index ? keys->index[j] : j; }

/* Where the rows of the lanes of vector n begin. */
INLINE void find_rows(const struct pyattn_query_block *block, const struct pyattn_array *array, int n,
                      char *rows[LANES]) {
  if (block->rows <= block->length) { /* without a division for each, nor a product */
    char *row = array->data + n * LANES * array->row;
    for (int i = 0; i < LANES; i++) {
      rows[i] = row;
      row += n * LANES + i + 1 < block->rows ? array->row : 0;
    }
  } else {
    for (int i = 0; i < LANES; i++) rows[i] = operand_row(block, array, lane_row(block, n, i));
  }
}

/* Rows of keys to [key][group of features], or of values, joined, to [group of keys][feature]: alike for groups of one.
 * unit: what int8 is multiplied by. */
INLINE void load_rows(struct pyattn_array from, real unit, ptrdiff_t width, ptrdiff_t count, real *target, int joined) {
  const char *data = from.data;
  const ptrdiff_t rows = joined ? GROUP : 1, step = LANES * GROUP / rows, row = from.row, column = from.column;
  for (ptrdiff_t j = 0; j < count; j += rows, data += rows * row) {
    const char *low = data;
    ptrdiff_t left = width;
    for (; column == KEY_BYTES && j + rows <= count && left >= step; left -= step, target += LANES) {
      const vec x = joined ? join_rows(low, low + row, KEY_BYTES, LANES) : load_groups(low, KEY_BYTES, step);
      store(target, KEY_BYTES == 1 ? x * unit : x);
      UNROLL for (int i = 0; i < rows; i++) __builtin_prefetch(low + (PYATTN_KEY_BLOCK + i) * row, 0, 3);
      low += step * KEY_BYTES;
    }
    for (; left > 0; left -= step, low += step * column, target += LANES) {
      const char *high = j + 1 < count ? low + row : NULL;
      const vec x = joined ? join_rows(low, high, column, left) : load_groups(low, column, left);
      store(target, KEY_BYTES == 1 ? x * unit : x);
    }
  }
}

/* An operand of keys from a key on; data: at key 0, or NULL. */
INLINE struct pyattn_array from_key(const struct pyattn_attention *call, int which, char *data, ptrdiff_t first) {
  struct pyattn_array array = call->operands[which];
  array.data = data ? data + first * array.row : NULL;
  return array;
}

/* The scales of int8 keys or values, PYATTN_KEY_SCALES or PYATTN_VALUE_SCALES, of a range within a block of keys; the
 * last is repeated to whole vectors. */
static void load_scales(real *scales, const struct pyattn_attention *call, const struct pyattn_keys *keys, int which,
                        ptrdiff_t first, ptrdiff_t count) {
  const char *data = which == PYATTN_KEY_SCALES ? keys->key_scale : keys->value_scale;
  const ptrdiff_t row = call->operands[which].row;
  if (keys->index == NULL && row == sizeof(real)) {
    memcpy(scales, data + first * row, (size_t)count * sizeof(real));
  } else {
    for (ptrdiff_t j = 0; j < count; j++) scales[j] = load_real(data + key_index(keys, first + j) * row);
  }
  for (ptrdiff_t j = count; j < round_up(count, LANES); j++) scales[j] = scales[count - 1];
}

/* The weight of a scaled value; of a masked one, none, whatever its scale is. */
INLINE vec scaled_weight(vec weight, vec scale) {
  return choose((ivec)weight == (ivec)NOTHING, NOTHING, weight * scale);
}

/* Vectors of features in a row of decode's weighted sums. */
INLINE ptrdiff_t value_vectors(const struct pyattn_attention *call) {
  return round_up(call->value_width, LANES) / LANES;
}

/* Vectors of o, on either path. */
INLINE ptrdiff_t output_vectors(const struct pyattn_attention *call, int vectors) {
  return value_vectors(call) * LANES * vectors;
}

static void clear_output(const struct pyattn_query_block *block, struct partial *part) {
  const struct pyattn_attention *call = block->call;
  const ptrdiff_t by_row = block->rows * value_vectors(call), vectors = output_vectors(call, block->vectors);
  memset(part->o, 0, (size_t)(call->path->by_row ? by_row : vectors) * sizeof(vec));
  part->empty = 0;
}

/* Dot-product groups of a query in q, to whole vectors. */
INLINE ptrdiff_t query_groups(const struct pyattn_attention *call) {
  return round_up(least(call->width, PYATTN_WIDTH_BLOCK), LANES * GROUP) / GROUP;
}

/* q of decode, of the features from `first` on, scaled; after the width come zeros to a whole vector. */
static void load_query_rows(const struct pyattn_query_block *block, ptrdiff_t first) {
  const struct pyattn_array query = operand(block, PYATTN_QUERY);
  struct attention_state *state = state_of(block);
  const ptrdiff_t width = least(block->call->width - first, PYATTN_WIDTH_BLOCK), row = query_groups(block->call);
  for (ptrdiff_t r = 0; r < block->rows; r++) {
    const char *from = operand_row(block, &query, r) + first * query.column;
    for (ptrdiff_t d = 0; d < width; d += LANES * GROUP) {
      vec x = load_groups(from + d * query.column, query.column, width - d);
      if (GROUP == 1) x *= state->query_scale;
      state->q[(r * row + d / GROUP) / LANES] = x;
    }
  }
}

/* q of prefill, which is transposed. */
static void load_queries(const struct pyattn_query_block *block, ptrdiff_t first) {
  const struct pyattn_array query = operand(block, PYATTN_QUERY);
  struct attention_state *state = state_of(block);
  const ptrdiff_t width = least(block->call->width - first, PYATTN_WIDTH_BLOCK);
  for (int n = 0; n < block->vectors; n++) {
    char *rows[LANES];
    find_rows(block, &query, n, rows);
    for (ptrdiff_t d = 0; d < width; d += LANES * GROUP) {
      const ptrdiff_t offset = (first + d) * query.column;
      vec x[LANES], *q = state->q + d / GROUP * block->vectors + n;
      if (query.column == ELEMENT_BYTES && width - d >= LANES * GROUP) {
        UNROLL for (int i = 0; i < LANES; i++) x[i] = load_groups(rows[i] + offset, ELEMENT_BYTES, LANES * GROUP);
      } else {
        vec part[LANES]; /* x stays in registers */
        for (int i = 0; i < LANES; i++) part[i] = load_groups(rows[i] + offset, query.column, width - d);
        UNROLL for (int i = 0; i < LANES; i++) x[i] = part[i];
      }
      UNROLL for (int i = 0; GROUP == 1 && i < LANES; i++) x[i] *= state->query_scale;
      transpose(x);
      UNROLL for (int i = 0; i < LANES; i++, q += block->vectors) *q = x[i];
    }
  }
}

/* The queries from feature `first` on; those of heads wider than a block are loaded once more for each range of keys.
 */
INLINE const vec *queries_from(const struct pyattn_query_block *block, ptrdiff_t first) {
  const ptrdiff_t place = first % PYATTN_WIDTH_BLOCK;
  if (place == 0 && block->call->width > PYATTN_WIDTH_BLOCK) load_queries(block, first);
  return state_of(block)->q + place / GROUP * block->vectors;
}

INLINE const real *query_rows_from(const struct pyattn_query_block *block, ptrdiff_t first) {
  const ptrdiff_t place = first % PYATTN_WIDTH_BLOCK;
  if (place == 0 && block->call->width > PYATTN_WIDTH_BLOCK) load_query_rows(block, first);
  return (const real *)state_of(block)->q + place / GROUP;
}

/* The maximum of lanes from here on, 0 where nothing was seen yet (-inf - 0, not -inf - -inf); sets rescale. */
INLINE vec raise_max(struct attention_state *state, int n, vec range_max) {
  const real to_log2 = state->exponential == EXP_BASE_2 ? 1 : state->to_log2;
  const vec old = state->split.max[n], max = vmax(range_max, old), base = choose(max == -INFINITY, (vec){0}, max);
  state->split.max[n] = max;
  state->rescale[n] = exp2_of_negative((old - base) * to_log2);
  return base;
}

/* base: max to_log2 */
INLINE vec weight_of(vec logit, vec max, vec base, real to_log2, int masked, int exponential) {
  const vec weight = exp2_of_negative(exponential == EXP_FUSED ? logit * to_log2 - base : (logit - max) * to_log2);
  return masked ? choose(is_masked(logit), NOTHING, weight) : weight;
}
