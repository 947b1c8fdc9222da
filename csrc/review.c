/* A second look at the logits once a row's largest logit and sum are known: weights and what is told from them. */
#include "logits.h"

enum { FEW_TERMS = 16 };

/* p: logits to weights of their rows, 0 where masked; the state's totals are those of all keys. */
static void normalise(const struct pyattn_query_block *block, ptrdiff_t count) {
  struct attention_state *state = state_of(block);
  for (int n = 0; n < block->vectors; n++) {
    const vec top = choose(state->total_top[n] == -INFINITY, (vec){0}, state->total_top[n]);
    const vec share = 1 / state->total_sum[n];
    for (ptrdiff_t j = 0; j < count; j++) {
      vec *p = state->p + j * block->vectors + n;
      *p = choose(is_masked(*p), (vec){0}, exp2_of_negative((*p - top) * state->unit) * share);
    }
  }
}

static void write_weights(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                          ptrdiff_t count, int n) {
  const struct pyattn_attention *call = block->call;
  const ptrdiff_t rows = block->rows - n * LANES < LANES ? block->rows - n * LANES : LANES;
  for (ptrdiff_t j = 0; j < count; j += LANES) {
    const ptrdiff_t columns = count - j < LANES ? count - j : LANES;
    vec x[LANES];
    UNROLL for (int i = 0; i < LANES; i++) {
      x[i] = i < columns ? state_of(block)->p[(j + i) * block->vectors + n] : (vec){0};
    }
    transpose(x);
    for (ptrdiff_t i = 0; i < rows; i++) {
      char *row = block->data[PYATTN_WEIGHTS] + row_offset(block, n * LANES + i, call->operands[PYATTN_WEIGHTS].row, call->operands[PYATTN_WEIGHTS].head);
      if (keys->index == NULL) {
        store_strided(row + (first + j) * call->operands[PYATTN_WEIGHTS].column, call->operands[PYATTN_WEIGHTS].column, x[i], columns);
      } else {
        for (ptrdiff_t k = 0; k < columns; k++) {
          store_elements(row + keys->index[first + j + k] * call->operands[PYATTN_WEIGHTS].column, splat(x[i][k]), 1);
        }
      }
    }
  }
}

/* -sum of weight log2(weight), log2(weight) being what the weight was made of: exact also where it is tiny. */
static void add_entropy(struct attention_state *state, ptrdiff_t first, ptrdiff_t count, int vectors,
                        const vec *logits) {
  for (int n = 0; n < vectors; n++) {
    const vec top = choose(state->total_top[n] == -INFINITY, (vec){0}, state->total_top[n]);
    vec log_sum;
    for (int i = 0; i < LANES; i++) log_sum[i] = (real)log2((double)state->total_sum[n][i]);
    vec sum = {0};
    for (ptrdiff_t j = 0; j < count;) { /* sums of sums: the rounding errors of many terms of one size would add up */
      vec part = {0};
      const ptrdiff_t end = j + FEW_TERMS - (first + j) % FEW_TERMS; /* the same for any range */
      for (; j < count && j < end; j++) {
        const vec weight = state->p[j * vectors + n], logit = logits[j * vectors + n];
        part += choose(weight == 0, (vec){0}, weight * (log_sum - (logit - top) * state->unit));
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
      ivec key = (ivec){0} + (word)key_number(keys, first + j), shifts = {0};
      for (ptrdiff_t i = 0; i < k; i++) {
        vec *best = state->best + i * vectors + n;
        ivec *best_key = state->best_key + i * vectors + n;
        shifts |= x > *best; /* and so do all behind it */
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

/* Before the first range of keys. */
static void attention_review_begin(const struct pyattn_query_block *block) {
  struct attention_state *state = state_of(block);
  for (int n = 0; n < block->vectors; n++) state->entropy[n] = (vec){0};
  for (ptrdiff_t i = 0; i < block->call->top_k * block->vectors; i++) {
    state->best[i] = splat(-1);
    state->best_key[i] = (ivec){0} - 1;
  }
}

static void attention_review(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                             ptrdiff_t count) {
  struct attention_state *state = state_of(block);
  WITH_CONSTANT_VECTORS(block->vectors, compute_logits(block, keys, &first, &count, VECTORS))
  vec logits[PYATTN_KEY_BLOCK * TILE_VECTORS];
  if (count <= 0) return;
  if (block->data[PYATTN_ENTROPY] || block->data[PYATTN_TOP_KEYS]) memcpy(logits, state->p, (size_t)(count * block->vectors) * sizeof(vec));
  normalise(block, count);
  for (int n = 0; block->data[PYATTN_WEIGHTS] && n < block->vectors; n++) write_weights(block, keys, first, count, n);
  if (block->data[PYATTN_ENTROPY]) add_entropy(state, first, count, block->vectors, logits);
  if (block->data[PYATTN_TOP_KEYS]) keep_best(block, keys, first, count, logits);
}

static void attention_review_finish(const struct pyattn_query_block *block) {
  const struct pyattn_attention *call = block->call;
  const struct attention_state *state = state_of(block);
  for (ptrdiff_t r = 0; r < block->rows; r++) {
    const ptrdiff_t n = r / LANES, lane = r % LANES;
    if (block->data[PYATTN_ENTROPY]) {
      store_real(block->data[PYATTN_ENTROPY] + row_offset(block, r, call->operands[PYATTN_ENTROPY].row, call->operands[PYATTN_ENTROPY].head),
                 (real)(LN_2 * (double)state->entropy[n][lane]));
    }
    for (ptrdiff_t i = 0; block->data[PYATTN_TOP_KEYS] && i < call->top_k; i++) {
      const ptrdiff_t place = i * block->vectors + n;
      const int64_t key = state->best_key[place][lane];
      const struct pyattn_array *keys_at = &call->operands[PYATTN_TOP_KEYS], *weights_at = &call->operands[PYATTN_TOP_WEIGHTS];
      memcpy(block->data[PYATTN_TOP_KEYS] + row_offset(block, r, keys_at->row, keys_at->head) + i * keys_at->column, &key, sizeof key);
      store_real(block->data[PYATTN_TOP_WEIGHTS] + row_offset(block, r, weights_at->row, weights_at->head) + i * weights_at->column,
                 key < 0 ? 0 : state->best[place][lane]);
    }
  }
}

/* Adds the weights that the block's rows give key first + j to sums[j]; of gathered keys to that of the key's number.
 */
static void attention_receive(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                              ptrdiff_t count, double *sums) {
  struct attention_state *state = state_of(block);
  const ptrdiff_t wanted = first;
  const struct pyattn_array *strides = &block->call->operands[PYATTN_MOMENTS];
  for (int n = 0; n < block->vectors; n++) {
    for (int i = 0; i < LANES; i++) {
      const char *moments = block->data[PYATTN_MOMENTS] + row_offset(block, lane_row(block, n, i), strides->row, strides->head);
      state->total_top[n][i] = load_real(moments);
      state->total_sum[n][i] = load_real(moments + sizeof(real));
    }
  }
  WITH_CONSTANT_VECTORS(block->vectors, compute_logits(block, keys, &first, &count, VECTORS))
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
