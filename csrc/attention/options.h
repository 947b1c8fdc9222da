/* What comes between scores and logits: soft cap, biases, masks. Each visits all logits, [key][N], and finds the
 * largest of each row anew, while it has them in registers; but a bias or mask alone waits in p, transposed, for
 * prefill's tiles, which join it to the scores that they have in registers. */
#pragma once

#include "state.h"

/* Runs a statement for each logit *p of key j and vector n; finds the largest of each row, MASKED ones passed over. */
#define EACH_LOGIT(state, count, vectors, ...) \
  for (int n = 0; n < (vectors); n++) {        \
    vec max = splat(-INFINITY);                \
    for (ptrdiff_t j = 0; j < (count); j++) {  \
      vec *p = (state)->p + j * (vectors) + n; \
      __VA_ARGS__;                             \
      max = vmax(*p, max);                     \
    }                                          \
    (state)->range_max[n] = max;               \
  }

static void find_range_max(struct attention_state *state, ptrdiff_t count, int vectors) {
  EACH_LOGIT(state, count, vectors, (void)0)
}

#if REAL_BITS == 32
enum { CAPPED_AT_ONCE = 4 };

/* Caps logits of `size` keys; returns the largest. near: the coefficients of tanh_near times the cap. */
INLINE vec cap_near(const struct attention_state *state, const real *near, vec *p, int vectors, int size) {
  vec x[CAPPED_AT_ONCE], y[CAPPED_AT_ONCE], farthest = {0}, max = splat(-INFINITY);
  UNROLL for (int i = 0; i < size; i++) {
    x[i] = GROUP == 1 ? p[i * vectors] : state->score_scale * p[i * vectors];
    const vec t = x[i] * x[i];
    y[i] = x[i] * polynomial(near, TANH_NEAR_TERMS, t);
    farthest = vmax(t, farthest);
  }
  if (any_lane(farthest > TANH_NEAR * TANH_NEAR)) {
    UNROLL for (int i = 0; i < size; i++) {
      y[i] = choose(x[i] * x[i] > TANH_NEAR * TANH_NEAR, state->cap_scale * vtanh(x[i]), y[i]);
    }
  }
  UNROLL for (int i = 0; i < size; i++) max = vmax(p[i * vectors] = y[i], max);
  return max;
}
#endif

/* Soft cap, Gemma 2 (arXiv:2408.00118), section 2: cap tanh(score / cap). Most scores are small beside the cap, and a
 * short polynomial does for them. */
static void cap_logits(struct attention_state *state, ptrdiff_t count, int vectors) {
#if REAL_BITS == 32
  real near[TANH_NEAR_TERMS];
  for (int i = 0; i < TANH_NEAR_TERMS; i++) near[i] = state->cap_scale * tanh_near[i];
  for (int n = 0; n < vectors; n++) {
    vec max = splat(-INFINITY), *p = state->p + n;
    ptrdiff_t j = 0;
    for (; j + CAPPED_AT_ONCE <= count; j += CAPPED_AT_ONCE) {
      max = vmax(cap_near(state, near, p + j * vectors, vectors, CAPPED_AT_ONCE), max);
    }
    for (; j < count; j++) max = vmax(cap_near(state, near, p + j * vectors, vectors, 1), max);
    state->range_max[n] = max;
  }
#else
  const real cap_scale = state->cap_scale;
  EACH_LOGIT(state, count, vectors, *p = cap_scale * vtanh(*p))
#endif
}

/* ALiBi, Press et al. 2021 (arXiv:2108.12409), section 3: -slope |position of the query - position of the key|. */
static void add_alibi(struct attention_state *state, const struct pyattn_keys *keys, ptrdiff_t first, ptrdiff_t count,
                      int vectors) {
  vec position[TILE_VECTORS];
  for (int n = 0; n < vectors; n++) position[n] = __builtin_convertvector(state->position[n], vec);
  EACH_LOGIT(state, count, vectors, const vec distance = position[n] - (real)key_index(keys, first + j);
             *p -= state->slope[n] * magnitude(distance))
}

/* The columns of LANES keys from the j-th on of an operand with an element for each pair, for the rows of a vector:
 * x[key] with rows along the lanes. */
INLINE void load_columns(vec x[LANES], char *const rows[LANES], const struct pyattn_array *dense,
                         const struct pyattn_keys *keys, ptrdiff_t first, ptrdiff_t j, ptrdiff_t count, int prefetch) {
  const ptrdiff_t column = dense->column, columns = least(count - j, LANES), offset = (first + j) * column;
  if (keys->index) {
    for (int i = 0; i < LANES; i++) x[i] = load_gathered(rows[i], column, keys->index + first + j, columns);
  } else if (column == ELEMENT_BYTES && columns == LANES) {
    UNROLL for (int i = 0; i < LANES; i++) {
      x[i] = load_elements(rows[i] + offset, LANES);
      if (prefetch) __builtin_prefetch(rows[i] + offset + PYATTN_KEY_BLOCK * ELEMENT_BYTES, 0, 3);
    }
  } else {
    for (int i = 0; i < LANES; i++) x[i] = load_strided(rows[i] + offset, column, columns);
  }
  transpose(x);
}

/* Adds an operand with an element for each pair, PYATTN_BIAS or PYATTN_MASK; -inf masks. Returns whether it did. */
static int add_dense(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                     ptrdiff_t count, int which) {
  const struct pyattn_array dense = operand(block, which);
  const int vectors = block->vectors;
  struct attention_state *state = state_of(block);
  ivec masked = {0};
  for (int n = 0; n < vectors; n++) {
    vec max = splat(-INFINITY);
    char *rows[LANES];
    find_rows(block, &dense, n, rows);
    for (ptrdiff_t j = 0; j < count; j += LANES) {
      vec x[LANES];
      load_columns(x, rows, &dense, keys, first, j, count, 1);
      for (ptrdiff_t i = 0; i < least(count - j, LANES); i++) {
        vec *p = state->p + (j + i) * vectors + n;
        const ivec out = (x[i] == -(real)INFINITY) | is_masked(*p);
        masked |= out;
        *p = choose(out, MASKED, *p + x[i]);
        max = vmax(*p, max);
      }
    }
    state->range_max[n] = max;
  }
  return any_lane(masked);
}

/* Adds a bias for each gathered key, the same for all rows of the one vector. */
static int add_gathered(struct attention_state *state, const struct pyattn_keys *keys, ptrdiff_t first,
                        ptrdiff_t count) {
  int masked = 0;
  EACH_LOGIT(state, count, 1, const real bias = load_real((const real_unaligned *)keys->index_bias + first + j);
             masked |= bias == (real)-INFINITY; *p = bias == (real)-INFINITY ? MASKED : *p + bias)
  return masked;
}

/* Whether the rows of the block share one row of the mask. */
INLINE int is_same_for_rows(const struct pyattn_query_block *block, const struct pyattn_array *mask) {
  return mask->row == 0 && (mask->head == 0 || block->rows <= block->length);
}

/* Narrows the range to the keys that a boolean mask lets some row see, from an even one on: whole dot-product groups of
 * values. Returns whether it hides some of them from some row. */
static int narrow_range(const struct pyattn_query_block *block, ptrdiff_t *first, ptrdiff_t *count) {
  if (block->call->mask_kind != PYATTN_MASK_BOOL) return 0;
  const struct pyattn_array mask = operand(block, PYATTN_MASK);
  const ptrdiff_t column = mask.column, wanted = *count;
  const ptrdiff_t rows = is_same_for_rows(block, &mask) ? 1 : block->rows;
  uint8_t seen[PYATTN_KEY_BLOCK], hidden[PYATTN_KEY_BLOCK]; /* from some row */
  for (ptrdiff_t j = 0; j < wanted; j += VECTOR_BYTES) {
    const ptrdiff_t columns = least(wanted - j, VECTOR_BYTES);
    bytes some = {0}, all = some + 1, x = {0};
    for (ptrdiff_t r = 0; r < rows; r++) {
      const uint8_t *row = (const uint8_t *)operand_row(block, &mask, r) + (*first + j) * column;
      if (column == 1 && columns == VECTOR_BYTES)
        memcpy(&x, row, sizeof x);
      else
        for (ptrdiff_t k = 0; k < columns; k++) x[k] = row[k * column];
      some |= x;
      all &= x;
      __builtin_prefetch(row + PYATTN_KEY_BLOCK, 0, 3);
    }
    memcpy(seen + j, &some, sizeof some);
    all ^= 1;
    memcpy(hidden + j, &all, sizeof all);
  }
  ptrdiff_t start = 0, end = wanted;
  while (start < end && !seen[start]) start++;
  while (start < end && !seen[end - 1]) end--;
  start -= (*first + start) % GROUP;
  int hides = 0;
  for (ptrdiff_t j = start; j < end; j++) hides |= hidden[j];
  *first += start;
  *count = end - start;
  return hides;
}

enum { ROWS_OF_BYTES = (TILE_VECTORS * LANES + 15) / 16 * 16 };

/* A boolean mask of the block's rows, transposed: seen[key][ROWS_OF_BYTES]. */
static void rows_of_mask(const struct pyattn_query_block *block, ptrdiff_t first, ptrdiff_t count, uint8_t *seen) {
  const struct pyattn_array mask = operand(block, PYATTN_MASK);
  const ptrdiff_t column = mask.column;
  for (int row = 0; row < block->vectors * LANES; row += 16) {
    const char *source[16];
    for (int i = 0; i < 16; i++) {
      source[i] = operand_row(block, &mask, least(row + i, block->rows - 1)) + first * column;
    }
    for (ptrdiff_t j = 0; j < count; j += VECTOR_BYTES) {
      const ptrdiff_t columns = least(count - j, VECTOR_BYTES);
      bytes x[16];
      if (column == 1 && columns == VECTOR_BYTES) {
        UNROLL for (int i = 0; i < 16; i++) memcpy(&x[i], source[i] + j, sizeof x[i]);
      } else {
        memset(x, 0, sizeof x);
        for (int i = 0; i < 16; i++) {
          for (ptrdiff_t k = 0; k < columns; k++) x[i][k] = (uint8_t)source[i][(j + k) * column];
        }
      }
      transpose_bytes(x);
      for (ptrdiff_t i = 0; i < columns; i++) { /* key i stands in 16 bytes of vector i % 16 */
        memcpy(seen + (j + i) * ROWS_OF_BYTES + row, (const uint8_t *)&x[i % 16] + i / 16 * 16, 16);
      }
    }
  }
}

static void mask_bool(const struct pyattn_query_block *block, ptrdiff_t first, ptrdiff_t count) {
  const struct pyattn_array mask = operand(block, PYATTN_MASK);
  const int vectors = block->vectors;
  struct attention_state *state = state_of(block);
  if (is_same_for_rows(block, &mask)) { /* a mask of keys */
    EACH_LOGIT(state, count, vectors, if (!mask.data[(first + j) * mask.column]) *p = MASKED)
    return;
  }
  uint8_t seen[PYATTN_KEY_BLOCK * ROWS_OF_BYTES];
  rows_of_mask(block, first, count, seen);
  EACH_LOGIT(state, count, vectors, *p = choose_by_bytes(seen + j * ROWS_OF_BYTES + n * LANES, *p, MASKED))
}

/* Whether the positions of all rows let them see keys from the first-th to before the end-th. */
INLINE int seen_by_all(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                       ptrdiff_t end) {
  const ptrdiff_t rows = least(block->rows, block->length);
  const ptrdiff_t nearest = block->query_offset + block->first, last = key_index(keys, end - 1);
  return key_index(keys, first) >= nearest + rows - 1 - block->call->left && last <= nearest + block->call->right &&
         last < block->kv_length;
}

/* Masks what the positions rule out: causal masks, windows, and of gathered keys those after the last. Returns whether
 * they do. */
static int mask_positions(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                          ptrdiff_t count) {
  struct attention_state *state = state_of(block);
  const ptrdiff_t left = block->call->left, right = block->call->right;
  int masked = 0;
  for (ptrdiff_t j = 0; j < count; j++) {
    const ptrdiff_t key = key_index(keys, first + j);
    if (seen_by_all(block, keys, first + j, first + j + 1)) { /* and so are the following */
      const ptrdiff_t end = block->query_offset + block->first + right + 1 - first;
      if (keys->index == NULL) j = least(end, count) - 1;
      continue;
    }
    masked = 1;
    for (int n = 0; n < block->vectors; n++) {
      const ivec distance = (word)key - state->position[n];
      const ivec seen = (distance >= -(word)left) & (distance <= (word)right) & (key < block->kv_length ? -1 : 0);
      vec *logit = state->p + j * block->vectors + n;
      *logit = choose(seen, *logit, MASKED);
    }
  }
  if (masked) find_range_max(state, count, block->vectors);
  return masked;
}

/* Whether scores are logits as they stand. */
INLINE int has_no_options(const struct pyattn_query_block *block, const struct pyattn_keys *keys) {
  const struct pyattn_attention *call = block->call;
  return call->softcap <= 0 && state_of(block)->score_scale == 1 && !block->data[PYATTN_ALIBI_SLOPES] &&
         !keys->index_bias && !block->data[PYATTN_BIAS] && call->mask_kind == PYATTN_MASK_NONE;
}

/* p: scores to logits, as the call asks for; hides: what narrow_range returned. Returns whether some are MASKED. */
static int apply_options(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                         ptrdiff_t count, int hides) {
  const struct pyattn_attention *call = block->call;
  struct attention_state *state = state_of(block);
  const int vectors = block->vectors;
  int masked = hides;
  if (call->softcap > 0) {
    cap_logits(state, count, vectors);
    if (state->capped) memcpy(state->capped, state->p, (size_t)(count * vectors) * sizeof(vec));
  } else if (state->score_scale != 1) {
    EACH_LOGIT(state, count, vectors, *p *= state->score_scale)
  }
  if (block->data[PYATTN_ALIBI_SLOPES]) add_alibi(state, keys, first, count, vectors);
  if (keys->index_bias) masked |= add_gathered(state, keys, first, count);
  if (block->data[PYATTN_BIAS]) masked |= add_dense(block, keys, first, count, PYATTN_BIAS);
  if (call->mask_kind == PYATTN_MASK_REAL) masked |= add_dense(block, keys, first, count, PYATTN_MASK);
  if (hides) mask_bool(block, first, count);
  return masked | mask_positions(block, keys, first, count);
}
