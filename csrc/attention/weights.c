/* The second pass: scores are computed again, now that each row's largest logit and sum are known, and give weights,
 * entropy, the best keys and what weights the keys receive. No matrix of weights is kept unless the caller asks.
 *
 *     result          written by        of a block of R rows against S keys
 *     weights         weights_update    R S elements, zeros before
 *     entropy         weights_finish    R numbers: -sum w ln w
 *     top_k           weights_finish    R k keys and weights, largest first
 *     column sums     column_sums       S sums in double precision; reads 2 R moments
 *
 * All read Q and K once more, by a path of the call. */
#include "state.h"

enum { TERMS_OF_SUM = 16 }; /* of entropy */

/* p: logits to weights of their rows, 0 where masked, once the totals are those of all keys. */
static void normalise(const struct pyattn_query_block *block, ptrdiff_t count) {
  struct attention_state *state = state_of(block);
  const struct partial *total = &state->total;
  for (int n = 0; n < block->vectors; n++) {
    const vec max = choose(total->max[n] == -INFINITY, (vec){0}, total->max[n]);
    const vec share = 1 / total->sum[n];
    for (ptrdiff_t j = 0; j < count; j++) {
      vec *p = state->p + j * block->vectors + n;
      *p = choose(is_masked(*p), (vec){0}, exp2_of_negative((*p - max) * state->to_log2) * share);
    }
  }
}

static void write_weights(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                          ptrdiff_t count, int n) {
  const struct pyattn_array weights = operand(block, PYATTN_WEIGHTS);
  const ptrdiff_t rows = least(block->rows - n * LANES, LANES);
  for (ptrdiff_t j = 0; j < count; j += LANES) {
    const ptrdiff_t columns = least(count - j, LANES);
    vec x[LANES];
    UNROLL for (int i = 0; i < LANES; i++) {
      x[i] = i < columns ? state_of(block)->p[(j + i) * block->vectors + n] : (vec){0};
    }
    transpose(x);
    for (ptrdiff_t i = 0; i < rows; i++) {
      char *row = operand_row(block, &weights, n * LANES + i);
      if (keys->index == NULL) {
        store_strided(row + (first + j) * weights.column, weights.column, x[i], columns);
      } else {
        for (ptrdiff_t k = 0; k < columns; k++) {
          store_elements(row + keys->index[first + j + k] * weights.column, splat(x[i][k]), 1);
        }
      }
    }
  }
}

/* -sum of weight log2(weight), log2(weight) being what the weight was made of: exact also where it is tiny. */
static void add_entropy(struct attention_state *state, ptrdiff_t first, ptrdiff_t count, int vectors,
                        const vec *logits) {
  for (int n = 0; n < vectors; n++) {
    const vec max = choose(state->total.max[n] == -INFINITY, (vec){0}, state->total.max[n]);
    vec log_sum;
    for (int i = 0; i < LANES; i++) log_sum[i] = (real)log2((double)state->total.sum[n][i]);
    vec sum = {0};
    for (ptrdiff_t j = 0; j < count;) { /* sums of sums: the rounding errors of many terms of one size would add up */
      vec part = {0};
      const ptrdiff_t end = j + TERMS_OF_SUM - (first + j) % TERMS_OF_SUM; /* the same for any range */
      for (; j < count && j < end; j++) {
        const vec weight = state->p[j * vectors + n], logit = logits[j * vectors + n];
        part += choose(weight == 0, (vec){0}, weight * (log_sum - (logit - max) * state->to_log2));
      }
      sum += part;
    }
    state->entropy[n] += sum;
  }
}

/* Insertion into the k best of each lane; an equal weight stays behind those of earlier keys. */
static void keep_best(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                      ptrdiff_t count, const vec *logits) {
  struct attention_state *state = state_of(block);
  const int vectors = block->vectors;
  const ptrdiff_t k = block->call->top_k;
  for (ptrdiff_t j = 0; j < count; j++) {
    for (int n = 0; n < vectors; n++) {
      const vec logit = logits[j * vectors + n], weight = state->p[j * vectors + n];
      vec x = choose(is_masked(logit), splat(-1), weight);
      if (!any_lane(x > state->best[(k - 1) * vectors + n])) continue;
      ivec key = (ivec){0} + (word)key_index(keys, first + j), shifts = {0};
      for (ptrdiff_t i = 0; i < k; i++) {
        vec *best = state->best + i * vectors + n;
        ivec *best_key = state->best_key + i * vectors + n;
        shifts |= x > *best; /* and so do all after it */
        const vec lesser = choose(shifts, *best, x);
        const ivec lesser_key = (shifts & *best_key) | (~shifts & key);
        *best = choose(shifts, x, *best);
        *best_key = (shifts & key) | (~shifts & *best_key);
        x = lesser;
        key = lesser_key;
      }
    }
  }
}

static void weights_begin(const struct pyattn_query_block *block) {
  struct attention_state *state = state_of(block);
  for (int n = 0; n < block->vectors; n++) state->entropy[n] = (vec){0};
  for (ptrdiff_t i = 0; i < block->call->top_k * block->vectors; i++) {
    state->best[i] = splat(-1);
    state->best_key[i] = (ivec){0} - 1;
  }
}

static void weights_update(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                           ptrdiff_t count) {
  struct attention_state *state = state_of(block);
  const int wants_entropy = block->data[PYATTN_ENTROPY] != NULL, wants_best = block->data[PYATTN_TOP_KEYS] != NULL;
  block->call->path->logits(block, keys, &first, &count);
  vec logits[PYATTN_KEY_BLOCK * TILE_VECTORS];
  if (count <= 0) return;
  if (wants_entropy || wants_best) memcpy(logits, state->p, (size_t)(count * block->vectors) * sizeof(vec));
  normalise(block, count);
  for (int n = 0; block->data[PYATTN_WEIGHTS] && n < block->vectors; n++) write_weights(block, keys, first, count, n);
  if (wants_entropy) add_entropy(state, first, count, block->vectors, logits);
  if (wants_best) keep_best(block, keys, first, count, logits);
}

static void weights_finish(const struct pyattn_query_block *block) {
  const struct pyattn_array entropy = operand(block, PYATTN_ENTROPY), top_keys = operand(block, PYATTN_TOP_KEYS);
  const struct pyattn_array top_weights = operand(block, PYATTN_TOP_WEIGHTS);
  const struct attention_state *state = state_of(block);
  for (ptrdiff_t r = 0; r < block->rows; r++) {
    const ptrdiff_t n = r / LANES, lane = r % LANES;
    if (entropy.data) store_real(operand_row(block, &entropy, r), (real)(LN_2 * (double)state->entropy[n][lane]));
    for (ptrdiff_t i = 0; top_keys.data && i < block->call->top_k; i++) {
      const ptrdiff_t place = i * block->vectors + n;
      const int64_t key = state->best_key[place][lane];
      memcpy(operand_row(block, &top_keys, r) + i * top_keys.column, &key, sizeof key);
      store_real(operand_row(block, &top_weights, r) + i * top_weights.column, key < 0 ? 0 : state->best[place][lane]);
    }
  }
}

/* sums[key] += sum over the block's rows of their weights, whose moments are known. A task takes a block of keys past
 * all queries in their order, as a gradient of K and V would. */
static void column_sums(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                        ptrdiff_t count, double *sums) {
  const struct pyattn_array moments = operand(block, PYATTN_MOMENTS);
  struct attention_state *state = state_of(block);
  const ptrdiff_t wanted = first;
  for (int n = 0; n < block->vectors; n++) {
    for (int i = 0; i < LANES; i++) {
      const char *row = operand_row(block, &moments, lane_row(block, n, i));
      state->total.max[n][i] = load_real(row);
      state->total.sum[n][i] = load_real(row + moments.column);
    }
  }
  block->call->path->logits(block, keys, &first, &count);
  if (count <= 0) return;
  normalise(block, count);
  for (ptrdiff_t j = 0; j < count; j++) {
    vec sum = {0};
    for (int n = 0; n < block->vectors; n++) {
      vec weights = state->p[j * block->vectors + n];
      if (block->rows < (n + 1) * LANES) { /* lanes without a row */
        for (int i = 0; i < LANES; i++) weights[i] = n * LANES + i < block->rows ? weights[i] : 0;
      }
      sum += weights;
    }
    sums[keys->index ? keys->index[first + j] : first - wanted + j] += (double)sum_lanes(sum);
  }
}
