/* The state of a block of query rows on its way over the keys, where its rows lie, and how it begins. */
#ifndef PYATTN_ATTENTION_STATE_H
#define PYATTN_ATTENTION_STATE_H

#include "../activations.h"
#include "../kernels.h"

#define LN_2 0.693147180559945309417

/* A masked pair has the logit MASKED, a NaN that the maximum passes over and, being a signalling one, no arithmetic
 * makes, from whatever NaN of the caller's; and the weight -0.0. So it differs to the end from a live pair: one whose
 * weight underflowed to 0.0 still passes on a NaN among the values, and a row's sum stays -0.0 only if it saw nothing.
 */
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

/* N = block->vectors vectors a line; the lanes of all but q, o, total and p of decode are rows. The arrays that follow
 * the struct in the scratch memory are only as long as the call's widths ask for.
 *
 * A pair's logit is score_scale (query_scale q).k or, with a soft cap, cap_scale tanh(that), plus biases. */
struct attention_state {
  vec range_max[TILE_VECTORS]; /* largest logit of the range of keys */
  vec max[TILE_VECTORS];       /* largest logit of the split so far */
  vec sum[TILE_VECTORS];       /* sum over the split of 2^((logit - max) to_log2) */
  vec rescale[TILE_VECTORS];   /* 2^((old max - new max) to_log2), the correction of the online softmax */
  vec total_max[TILE_VECTORS], total_sum[TILE_VECTORS]; /* of all splits before */
  vec entropy[TILE_VECTORS];
  ivec position[TILE_VECTORS];
  vec slope[TILE_VECTORS];
  real query_scale; /* multiplied into q where dot-product groups are single elements, else 1 */
  real score_scale; /* multiplied into products where it is not in q or to_log2 */
  real cap_scale;   /* the soft cap, in the units of logits */
  real to_log2;     /* a logit times this is in units of log2 */
  double to_nats;   /* a logit times this is in units of ln */
  int exponential;  /* EXP_BASE_2, ... */
  int has_total;    /* whether total_max, total_sum and total hold anything */
  ptrdiff_t output; /* vectors of o */
  vec *q;           /* [group of features][N] */
  vec *o,
      *total; /* weighted sums of the split, and of all before: prefill [feature][N], decode [row][feature / LANES] */
  vec *best;  /* [top_k][N] weights, largest first */
  ivec *best_key;                         /* [top_k][N] */
  vec p[PYATTN_KEY_BLOCK * TILE_VECTORS]; /* [key][N] logits, then [group of keys][N] weights; decode: see there */
};

INLINE struct attention_state *state_of(const struct pyattn_query_block *block) {
  return (struct attention_state *)block->scratch;
}

INLINE ptrdiff_t round_up(ptrdiff_t n, ptrdiff_t unit) { return (n + unit - 1) / unit * unit; }

/* Where row r of something with these strides lies behind row 0. */
INLINE ptrdiff_t row_offset(const struct pyattn_query_block *block, ptrdiff_t r, ptrdiff_t row, ptrdiff_t head) {
  return r < block->length ? r * row : r / block->length * head + r % block->length * row;
}

/* An operand, from the block's row 0 on. */
INLINE struct pyattn_array operand(const struct pyattn_query_block *block, int which) {
  struct pyattn_array array = block->call->operands[which];
  array.data = block->data[which];
  return array;
}

INLINE char *operand_row(const struct pyattn_query_block *block, const struct pyattn_array *array, ptrdiff_t r) {
  return array->data + row_offset(block, r, array->row, array->head);
}

/* Row of lane i of vector n; lanes without a row repeat the last one. */
INLINE ptrdiff_t lane_row(const struct pyattn_query_block *block, int n, int i) {
  const ptrdiff_t row = n * LANES + i;
  return row < block->rows ? row : block->rows - 1;
}

INLINE ptrdiff_t key_index(const struct pyattn_keys *keys, ptrdiff_t j) { return keys->index ? keys->index[j] : j; }

INLINE ptrdiff_t query_vectors(const struct pyattn_attention *call, int vectors) {
  const ptrdiff_t width = call->width < PYATTN_WIDTH_BLOCK ? call->width : PYATTN_WIDTH_BLOCK;
  return round_up(width, LANES * GROUP) / GROUP * vectors;
}

/* Bytes of a state whose o has so many vectors. */
static ptrdiff_t bytes_of_state(const struct pyattn_attention *call, int vectors, ptrdiff_t output) {
  const ptrdiff_t arrays = query_vectors(call, vectors) + 2 * output + 2 * call->top_k * vectors;
  return (ptrdiff_t)round_up(sizeof(struct attention_state), PYATTN_ALIGNMENT) + arrays * (ptrdiff_t)sizeof(vec);
}

/* q[group][N] = query[first + feature], transposed, scaled; behind the width come zeros to a whole vector. */
static void load_queries(const struct pyattn_query_block *block, ptrdiff_t first) {
  const struct pyattn_array query = operand(block, PYATTN_QUERY);
  struct attention_state *state = state_of(block);
  const ptrdiff_t rest = block->call->width - first, width = rest < PYATTN_WIDTH_BLOCK ? rest : PYATTN_WIDTH_BLOCK;
  for (int n = 0; n < block->vectors; n++) {
    for (ptrdiff_t d = 0; d < width; d += LANES * GROUP) {
      const ptrdiff_t columns = width - d < LANES * GROUP ? width - d : LANES * GROUP;
      vec x[LANES];
      UNROLL for (int i = 0; i < LANES; i++) {
        const char *row = operand_row(block, &query, lane_row(block, n, i));
        x[i] = load_groups(row + (first + d) * query.column, query.column, columns);
        if (GROUP == 1) x[i] *= state->query_scale;
      }
      transpose(x);
      UNROLL for (int i = 0; i < LANES; i++) state->q[(d / GROUP + i) * block->vectors + n] = x[i];
    }
  }
}

/* The queries from feature `first` on; heads wider than a block are transposed once more for each range of keys. */
INLINE const vec *queries_from(const struct pyattn_query_block *block, ptrdiff_t first) {
  const ptrdiff_t place = first % PYATTN_WIDTH_BLOCK;
  if (place == 0 && block->call->width > PYATTN_WIDTH_BLOCK) load_queries(block, first);
  return state_of(block)->q + place / GROUP * block->vectors;
}

static void begin_split(const struct pyattn_query_block *block) {
  struct attention_state *state = state_of(block);
  for (int n = 0; n < block->vectors; n++) {
    state->max[n] = splat(-INFINITY);
    state->sum[n] = NOTHING;
  }
  memset(state->o, 0, (size_t)state->output * sizeof(vec));
}

/* Which multiplication takes on the scale, and log2(e) where it can. */
static void choose_scales(const struct pyattn_query_block *block) {
  const struct pyattn_attention *call = block->call;
  struct attention_state *state = state_of(block);
  /* A finite bias stays finite only without log2(e): the most negative number, used as a mask, differs from -inf. */
  const int biased = call->mask_kind == PYATTN_MASK_REAL || block->data[PYATTN_BIAS] || call->index_bias;
  const double units = biased ? 1 : LOG2_E;
  const double scale = call->softcap > 0 ? call->scale / call->softcap : call->scale * units;
  const int plain = !biased && !block->data[PYATTN_ALIBI_SLOPES] && call->softcap <= 0 && scale > 0;
  state->query_scale = (real)scale;
  state->score_scale = GROUP == 1 || plain ? 1 : (real)scale;
  state->cap_scale = (real)(call->softcap * units);
  state->to_log2 = GROUP == 1 || !plain ? (real)(LOG2_E / units) : (real)scale;
  state->to_nats = biased ? 1 : LN_2 * state->to_log2;
  state->exponential = biased ? EXP_SUBTRACT_FIRST : state->to_log2 == 1 ? EXP_BASE_2 : EXP_FUSED;
  const struct pyattn_array slopes = operand(block, PYATTN_ALIBI_SLOPES);
  for (int n = 0; slopes.data && n < block->vectors; n++) {
    for (int i = 0; i < LANES; i++) {
      const char *slope = slopes.data + lane_row(block, n, i) / block->length * slopes.head;
      state->slope[n][i] = (real)(load_real(slope) * units);
    }
  }
}

/* Begins a block whose o has so many vectors. */
static void begin_block(const struct pyattn_query_block *block, ptrdiff_t output) {
  const struct pyattn_attention *call = block->call;
  struct attention_state *state = state_of(block);
  state->output = output;
  state->q = (vec *)(block->scratch + round_up(sizeof *state, PYATTN_ALIGNMENT));
  state->o = state->q + query_vectors(call, block->vectors);
  state->total = state->o + output;
  state->best = state->total + output;
  state->best_key = (ivec *)(state->best + call->top_k * block->vectors);
  state->has_total = 0;
  choose_scales(block);
  for (int n = 0; n < block->vectors; n++) {
    for (int i = 0; i < LANES; i++) state->position[n][i] = (word)(n * LANES + i);
    if (block->rows > block->length) {
      for (int i = 0; i < LANES; i++) state->position[n][i] = (word)(lane_row(block, n, i) % block->length);
    }
    state->position[n] += (word)(block->query_offset + block->first);
  }
  begin_split(block);
  if (call->width <= PYATTN_WIDTH_BLOCK) load_queries(block, 0);
}

#endif
