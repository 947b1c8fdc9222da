/* Boolean masks, and what positions rule out. */
#ifndef PYATTN_ATTENTION_MASKS_H
#define PYATTN_ATTENTION_MASKS_H

#include "softmax.h"

/* Whether the rows of the block share one row of the mask. */
INLINE int is_same_for_rows(const struct pyattn_query_block *block, const struct pyattn_array *mask) {
  return mask->row == 0 && (mask->head == 0 || block->rows <= block->length);
}

/* What a boolean mask says of a range of keys, for each: whether some row sees it, and 0 where some row does not. */
struct mask_survey {
  uint8_t seen[PYATTN_KEY_BLOCK], least[PYATTN_KEY_BLOCK];
};

static void survey_mask(const struct pyattn_query_block *block, const struct pyattn_array *mask, ptrdiff_t first,
                        ptrdiff_t count, struct mask_survey *survey) {
  const ptrdiff_t column = mask->column;
  memset(survey->seen, 0, sizeof survey->seen);
  memset(survey->least, 1, sizeof survey->least);
  for (ptrdiff_t r = 0; r < block->rows; r++) {
    const uint8_t *row = (const uint8_t *)operand_row(block, mask, r) + first * column;
    if (column == 1) {
      for (ptrdiff_t j = 0; j < count; j++) {
        survey->seen[j] |= row[j];
        survey->least[j] = row[j] < survey->least[j] ? row[j] : survey->least[j];
      }
      for (ptrdiff_t j = 0; j < PYATTN_KEY_BLOCK; j += 64) __builtin_prefetch(row + PYATTN_KEY_BLOCK + j, 0, 3);
    } else {
      for (ptrdiff_t j = 0; j < count; j++) {
        survey->seen[j] |= row[j * column];
        if (row[j * column] == 0) survey->least[j] = 0;
      }
    }
    if (is_same_for_rows(block, mask)) break;
  }
}

/* Narrows the range to the keys that a boolean mask lets some row see, from an even one on: whole dot-product groups of
 * values. Returns whether it hides some of them from some row. */
static int narrow_range(const struct pyattn_query_block *block, ptrdiff_t *first, ptrdiff_t *count) {
  if (block->call->mask_kind != PYATTN_MASK_BOOL) return 0;
  const struct pyattn_array mask = operand(block, PYATTN_MASK);
  struct mask_survey survey;
  survey_mask(block, &mask, *first, *count, &survey);
  ptrdiff_t start = 0, end = *count;
  while (start < end && !survey.seen[start]) start++;
  while (start < end && !survey.seen[end - 1]) end--;
  start -= (*first + start) % GROUP;
  int hides = 0;
  for (ptrdiff_t j = start; j < end; j++) hides |= survey.least[j] == 0;
  *first += start;
  *count = end - start;
  return hides;
}

/* Masks of 16 rows, from key `first` on, over their logits; n: the first of their vectors. */
static void mask_rows(const struct pyattn_query_block *block, const struct pyattn_array *mask, ptrdiff_t first,
                      ptrdiff_t count, int n) {
  const ptrdiff_t column = mask->column;
  const int vectors = block->vectors;
  struct attention_state *state = state_of(block);
  const char *source[16];
  for (int i = 0; i < 16; i++) source[i] = operand_row(block, mask, lane_row(block, n, i)) + first * column;
  for (ptrdiff_t j = 0; j < count; j += VECTOR_BYTES) {
    const ptrdiff_t columns = count - j < VECTOR_BYTES ? count - j : VECTOR_BYTES;
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
    for (int part = 0; part < 16 / LANES && n + part < vectors; part++) {
      vec max = state->range_max[n + part];
      for (ptrdiff_t i = 0; i < columns; i++) { /* key i stands in 16 bytes of vector i % 16 */
        vec *p = state->p + (j + i) * vectors + n + part;
        const uint8_t *seen = (const uint8_t *)&x[i % 16] + i / 16 * 16 + part * LANES;
        *p = choose_by_bytes(seen, *p, MASKED);
        max = vmax(*p, max);
      }
      state->range_max[n + part] = max;
    }
  }
}

static void mask_bool(const struct pyattn_query_block *block, ptrdiff_t first, ptrdiff_t count) {
  const struct pyattn_array mask = operand(block, PYATTN_MASK);
  const int vectors = block->vectors;
  struct attention_state *state = state_of(block);
  if (is_same_for_rows(block, &mask)) { /* a mask of keys */
    for (ptrdiff_t j = 0; j < count; j++) {
      for (int n = 0; n < vectors && !mask.data[(first + j) * mask.column]; n++) state->p[j * vectors + n] = MASKED;
    }
    find_range_max(state, count, vectors);
    return;
  }
  for (int n = 0; n < vectors; n++) state->range_max[n] = splat(-INFINITY);
  for (int n = 0; n < vectors; n += 16 / LANES) mask_rows(block, &mask, first, count, n);
}

/* Whether the positions of all rows let them see keys from the first-th to before the end-th. */
INLINE int seen_by_all(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                       ptrdiff_t end) {
  const ptrdiff_t rows = block->rows < block->length ? block->rows : block->length;
  const ptrdiff_t nearest = block->query_offset + block->first, last = key_index(keys, end - 1);
  return key_index(keys, first) >= nearest + rows - 1 - block->call->left && last <= nearest + block->call->right &&
         last < block->kv_length;
}

/* Masks what the positions rule out: causal masks, windows, and of gathered keys those behind the last. */
static int mask_positions(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                          ptrdiff_t count) {
  struct attention_state *state = state_of(block);
  const ptrdiff_t left = block->call->left, right = block->call->right;
  const ptrdiff_t rows = block->rows < block->length ? block->rows : block->length;
  const ptrdiff_t nearest = block->query_offset + block->first, farthest = nearest + rows - 1;
  int masked = 0;
  for (ptrdiff_t j = 0; j < count; j++) {
    const ptrdiff_t key = key_index(keys, first + j);
    if (key >= farthest - left && key <= nearest + right && key < block->kv_length) { /* seen by all */
      const ptrdiff_t end = nearest + right + 1 - first;                              /* and so are the following */
      if (keys->index == NULL) j = (end < count ? end : count) - 1;
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
  return masked;
}

#endif
