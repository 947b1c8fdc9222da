/* The softmax, streamed: weights relative to the largest logit so far, which grows, and how partial results are merged.
 *
 * Milakov & Gimelshein 2018 (arXiv:1805.02867). Results over disjoint keys, (max, sum, o) and (max', sum', o'), are
 * merged by the factors 2^(max - joint max) and 2^(max' - joint max).
 */
#ifndef PYATTN_ATTENTION_SOFTMAX_H
#define PYATTN_ATTENTION_SOFTMAX_H

#include "state.h"

/* The maximum of the lanes of a vector from here on, 0 where nothing was seen yet (-inf - 0, not -inf - -inf); sets
 * rescale. */
INLINE vec raise_max(struct attention_state *state, int n, vec range_max) {
  const real to_log2 = state->exponential == EXP_BASE_2 ? 1 : state->to_log2;
  const vec old = state->max[n], max = vmax(range_max, old), base = choose(max == -INFINITY, (vec){0}, max);
  state->max[n] = max;
  state->rescale[n] = exp2_of_negative((old - base) * to_log2);
  return base;
}

/* base: max to_log2 */
INLINE vec weight_of(vec logit, vec max, vec base, real to_log2, int masked, int exponential) {
  const vec weight = exp2_of_negative(exponential == EXP_FUSED ? logit * to_log2 - base : (logit - max) * to_log2);
  return masked ? choose(is_masked(logit), NOTHING, weight) : weight;
}

/* The largest logit of each row; a MASKED one is passed over. */
static void find_range_max(struct attention_state *state, ptrdiff_t count, int vectors) {
  for (int n = 0; n < vectors; n++) {
    vec max = splat(-INFINITY);
    for (ptrdiff_t j = 0; j < count; j++) max = vmax(state->p[j * vectors + n], max);
    state->range_max[n] = max;
  }
}

/* p: logits to weights of their rows, 0 where masked, once the totals are those of all keys. */
static void normalise(const struct pyattn_query_block *block, ptrdiff_t count) {
  struct attention_state *state = state_of(block);
  for (int n = 0; n < block->vectors; n++) {
    const vec max = choose(state->total_max[n] == -INFINITY, (vec){0}, state->total_max[n]);
    const vec share = 1 / state->total_sum[n];
    for (ptrdiff_t j = 0; j < count; j++) {
      vec *p = state->p + j * block->vectors + n;
      *p = choose(is_masked(*p), (vec){0}, exp2_of_negative((*p - max) * state->to_log2) * share);
    }
  }
}

/* The factors that turn two partial sums into parts of one, whose largest logit is the returned maximum. */
INLINE vec joint_max(vec a, vec b, real to_log2, vec *a_factor, vec *b_factor) {
  const vec max = vmax(a, b);
  const vec base = choose(max == -INFINITY, (vec){0}, max);
  *a_factor = exp2_of_negative((a - base) * to_log2);
  *b_factor = exp2_of_negative((b - base) * to_log2);
  return max;
}

/* A result over some keys. */
struct partial {
  const vec *max, *sum, *o;
};

/* total += partial, but for the weighted sums, whose factors are returned in old and new. A sum that saw nothing adds
 * nothing, to the bit. */
INLINE void merge_sums(struct attention_state *state, const struct partial *part, int vectors, vec *old, vec *new) {
  for (int n = 0; n < vectors; n++) {
    state->total_max[n] = joint_max(state->total_max[n], part->max[n], state->to_log2, &old[n], &new[n]);
    state->total_sum[n] = state->total_sum[n] * old[n] + part->sum[n] * new[n];
  }
}

/* Merges the present split into the total, or all that another state has seen; `add` does it where a total exists. For
 * the first split buffers are swapped instead: bitwise the same as adding to nothing, one pass less. */
INLINE void merge_split(const struct pyattn_query_block *block, const char *from,
                        void (*add)(const struct pyattn_query_block *, const struct partial *)) {
  struct attention_state *state = state_of(block);
  const struct attention_state *other = (const struct attention_state *)from;
  if (from == block->scratch && !state->has_total) {
    vec *o = state->o;
    state->o = state->total;
    state->total = o;
    for (int n = 0; n < block->vectors; n++) {
      state->total_max[n] = state->max[n];
      state->total_sum[n] = state->sum[n];
    }
    state->has_total = 1;
  } else if (other->has_total && from != block->scratch) {
    add(block, &(struct partial){other->total_max, other->total_sum, other->total});
  } else {
    add(block, &(struct partial){other->max, other->sum, other->o});
  }
}

/* Sinks join the denominator, Xiao et al. 2023 (arXiv:2309.17453), equation 2; -inf is none. Returns the factor of the
 * weighted sums so far. */
static vec add_sinks(const struct pyattn_query_block *block, int n) {
  struct attention_state *state = state_of(block);
  const struct pyattn_array sinks = operand(block, PYATTN_SINKS);
  vec sink, old, new;
  for (int i = 0; i < LANES; i++) {
    sink[i] = load_real(sinks.data + lane_row(block, n, i) / block->length * sinks.head);
  }
  sink *= (real)(LOG2_E / state->to_log2);
  const vec one = choose(sink == -INFINITY, NOTHING, splat(1));
  state->total_max[n] = joint_max(state->total_max[n], sink, state->to_log2, &old, &new);
  state->total_sum[n] = state->total_sum[n] * old + one * new;
  return old;
}

/* Writes lse, max and moments of the rows of vector n, whose total is complete; seen: their largest logits without
 * sinks. Returns 1 / sum, or 0 for a row that saw nothing. */
static vec finish_sums(const struct pyattn_query_block *block, int n, vec seen) {
  const struct attention_state *state = state_of(block);
  const struct pyattn_array lse = operand(block, PYATTN_LSE), maxima = operand(block, PYATTN_MAX);
  const struct pyattn_array moments = operand(block, PYATTN_MOMENTS);
  for (ptrdiff_t i = 0; i < LANES && n * LANES + i < block->rows; i++) {
    const ptrdiff_t r = n * LANES + i;
    const double max = state->total_max[n][i], sum = state->total_sum[n][i];
    if (lse.data) store_real(operand_row(block, &lse, r), (real)(max * state->to_nats + LN_2 * log2(sum)));
    if (maxima.data) { /* the running maximum passes over NaN */
      const double most = isnan(sum) && seen[i] < (real)INFINITY ? NAN : state->to_nats * (double)seen[i];
      store_real(operand_row(block, &maxima, r), (real)most);
    }
    if (moments.data) {
      char *row = operand_row(block, &moments, r);
      store_real(row, state->total_max[n][i]);
      store_real(row + moments.column, state->total_sum[n][i]);
    }
  }
  return choose((ivec)state->total_sum[n] == (ivec)NOTHING, (vec){0}, 1 / state->total_sum[n]);
}

#endif
