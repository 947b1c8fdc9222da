/* The logits of a block of rows and a range of keys: scores, then soft cap, biases and masks, as the call asks for. */
#ifndef PYATTN_LOGITS_H
#define PYATTN_LOGITS_H

#include "block.h"
#include "tile.h"

enum { SUM_BLOCK = 256 /* divides PYATTN_WIDTH_BLOCK */ };

/* q[step][N] = query[first + d], transposed, scaled; behind the width come zeros to a whole vector. */
static void load_queries(const struct pyattn_query_block *block, ptrdiff_t first) {
  const struct pyattn_attention *call = block->call;
  struct attention_state *state = state_of(block);
  const ptrdiff_t rest = call->width - first, width = rest < PYATTN_WIDTH_BLOCK ? rest : PYATTN_WIDTH_BLOCK;
  for (int n = 0; n < block->vectors; n++) {
    for (ptrdiff_t d = 0; d < width; d += LANES * STEP) {
      const ptrdiff_t columns = width - d < LANES * STEP ? width - d : LANES * STEP;
      vec x[LANES];
      UNROLL for (int i = 0; i < LANES; i++) {
        const ptrdiff_t row = row_offset(block, lane_row(block, n, i), call->query_row, call->query_head);
        x[i] = load_steps(block->query + row + (first + d) * call->query_column, call->query_column, columns);
        if (STEP == 1) x[i] *= state->factor;
      }
      transpose(x);
      UNROLL for (int i = 0; i < LANES; i++) state->q[(d / STEP + i) * block->vectors + n] = x[i];
    }
  }
}

/* The queries from column `first` on; heads wider than a block are transposed once more for each range of keys. */
INLINE const vec *queries_from(const struct pyattn_query_block *block, ptrdiff_t first) {
  const ptrdiff_t place = first % PYATTN_WIDTH_BLOCK;
  if (place == 0 && block->call->width > PYATTN_WIDTH_BLOCK) load_queries(block, first);
  return state_of(block)->q + place / STEP * block->vectors;
}

/* Also takes the largest scores of the tile into `largest`, while they are in registers. */
INLINE void score_tile(const char *key, ptrdiff_t row, ptrdiff_t step, const vec *q, ptrdiff_t steps, vec *p, int rows,
                       int vectors, int add, vec *largest) {
  tile acc;
  UNROLL for (int r = 0; r < rows; r++) { UNROLL for (int n = 0; n < vectors; n++) acc[r][n] = (vec){0}; }
  tile_multiply(acc, rows, vectors, key, row, step, (const real *)q, steps, key + TILE_ROWS * row, TILE_ROWS * step);
  UNROLL for (int n = 0; n < vectors; n++) {
    vec most = largest[n];
    UNROLL for (int r = 0; r < rows; r++) {
      if (add) acc[r][n] += p[r * vectors + n];
      p[r * vectors + n] = acc[r][n];
      most = vmax(acc[r][n], most);
    }
    largest[n] = most;
  }
}

/* Long sums are made of sums of SUM_BLOCK products, which keeps their rounding errors small. */
INLINE void score(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t offset,
                  ptrdiff_t count, int vectors) {
  struct attention_state *state = state_of(block);
  const ptrdiff_t row = keys->tile_key_row, step = keys->tile_key_step;
  for (ptrdiff_t d = 0; d == 0 || d < block->call->width; d += SUM_BLOCK) {
    const ptrdiff_t rest = block->call->width - d, steps = ((rest < SUM_BLOCK ? rest : SUM_BLOCK) + STEP - 1) / STEP;
    const vec *q = queries_from(block, d);
    UNROLL for (int n = 0; n < vectors; n++) state->largest[n] = splat(-INFINITY);
    for (ptrdiff_t j = 0; j < count; j += TILE_ROWS) {
      const char *source = keys->tile_key + (offset + j) * row + d / STEP * step;
      vec *p = state->p + j * vectors;
      if (count - j >= TILE_ROWS) {
        score_tile(source, row, step, q, steps, p, TILE_ROWS, vectors, d > 0, state->largest);
      } else {
        WITH_CONSTANT_ROWS(count - j, score_tile(source, row, step, q, steps, p, ROWS, vectors, d > 0, state->largest))
      }
    }
  }
}

/* The same sums in the same order for few rows: keys stand along the lanes, so that each key is read once, as it lies,
 * and transposed in registers. */
static void score_few(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                      ptrdiff_t count) {
  const struct pyattn_attention *call = block->call;
  for (ptrdiff_t j = 0; j < count; j += LANES) {
    const char *key[LANES];
    for (int i = 0; i < LANES; i++) {
      key[i] = keys->key + key_number(keys, first + (j + i < count ? j + i : count - 1)) * call->key_row;
    }
    vec scores[LANES] = {{0}}; /* [row], keys along the lanes */
    for (ptrdiff_t d = 0; d < call->width; d += SUM_BLOCK) {
      const ptrdiff_t end = call->width - d < SUM_BLOCK ? call->width : d + SUM_BLOCK;
      const vec *q = queries_from(block, d);
      vec acc[LANES] = {{0}};
      for (ptrdiff_t column = d; column < end; column += LANES * STEP, q += LANES) {
        const ptrdiff_t columns = end - column < LANES * STEP ? end - column : LANES * STEP;
        vec x[LANES];
        UNROLL for (int i = 0; i < LANES; i++) {
          x[i] = load_steps(key[i] + column * call->key_column, call->key_column, columns);
        }
        transpose(x);
        for (ptrdiff_t r = 0; r < block->rows; r++) {
          vec sum = acc[r];
          UNROLL for (int i = 0; i < LANES; i++) {
            sum = multiply_add(splat(load_real((const real *)(q + i) + r)), x[i], sum);
          }
          acc[r] = sum;
        }
      }
      for (ptrdiff_t r = 0; r < block->rows; r++) scores[r] = d > 0 ? scores[r] + acc[r] : acc[r];
    }
    transpose(scores);
    vec *p = state_of(block)->p + j;
    for (ptrdiff_t i = 0; i < LANES && j + i < count; i++) p[i] = scores[i];
  }
}

/* Soft cap, Gemma 2 (arXiv:2408.00118), section 2: cap tanh(score / cap). */
static void cap_logits(struct attention_state *state, ptrdiff_t vectors) {
  for (ptrdiff_t i = 0; i < vectors; i++) state->p[i] = state->after * vtanh(state->before * state->p[i]);
}

/* ALiBi, Press et al. 2021 (arXiv:2108.12409), section 3: -slope |position of the query - position of the key|. */
static void add_distance(struct attention_state *state, const struct pyattn_keys *keys, ptrdiff_t first,
                         ptrdiff_t count, int vectors) {
  for (int n = 0; n < vectors; n++) {
    const vec position = __builtin_convertvector(state->position[n], vec), slope = state->slope[n];
    for (ptrdiff_t j = 0; j < count; j++) {
      const vec distance = position - (real)key_number(keys, first + j);
      state->p[j * vectors + n] -= slope * choose(distance < 0, -distance, distance);
    }
  }
}

/* Adds dense biases; -inf masks. Returns whether it masked a pair. base: row 0, key 0. */
static int add_dense(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                     ptrdiff_t count, const char *base, ptrdiff_t row, ptrdiff_t column, ptrdiff_t head) {
  const vec minus_infinity = splat(-INFINITY);
  const int vectors = block->vectors;
  vec *p = state_of(block)->p;
  ivec masked = {0};
  if (keys->index) { /* few rows of one vector: element by element */
    for (ptrdiff_t j = 0; j < count; j++) {
      vec bias;
      for (int i = 0; i < LANES; i++) {
        const char *source = base + row_offset(block, lane_row(block, 0, i), row, head);
        bias[i] = load_elements(source + keys->index[first + j] * column, 1)[0];
      }
      const ivec out = (bias == minus_infinity) | is_masked(p[j]);
      masked |= out;
      p[j] = choose(out, MASKED, p[j] + bias);
    }
    return any_lane(masked);
  }
  for (int n = 0; n < vectors; n++) {
    const char *source[LANES];
    for (int i = 0; i < LANES; i++) source[i] = base + row_offset(block, lane_row(block, n, i), row, head) + first * column;
    for (ptrdiff_t j = 0; j < count; j += LANES) {
      const ptrdiff_t columns = count - j < LANES ? count - j : LANES;
      vec x[LANES];
      UNROLL for (int i = 0; i < LANES; i++) {
        x[i] = load_strided(source[i] + j * column, column, columns);
        __builtin_prefetch(source[i] + (j + PYATTN_KEY_BLOCK) * column, 0, 3);
      }
      transpose(x);
      for (ptrdiff_t i = 0; i < columns; i++) {
        vec *logit = p + (j + i) * vectors + n;
        const ivec out = (x[i] == minus_infinity) | is_masked(*logit);
        masked |= out;
        *logit = choose(out, MASKED, *logit + x[i]);
      }
    }
  }
  return any_lane(masked);
}

/* A bias for each gathered key, the same for all heads. */
static int add_gathered(struct attention_state *state, const struct pyattn_keys *keys, ptrdiff_t first,
                        ptrdiff_t count) {
  int masked = 0;
  for (ptrdiff_t j = 0; j < count; j++) {
    const real bias = load_real((const real_unaligned *)keys->index_bias + first + j);
    masked |= bias == (real)-INFINITY;
    state->p[j] = bias == -INFINITY ? MASKED : state->p[j] + bias;
  }
  return masked;
}

/* What a boolean mask says of a range of keys, a byte a key: whether some row sees it, whether some row does not. */
struct mask_survey {
  uint8_t seen[PYATTN_KEY_BLOCK], hidden[PYATTN_KEY_BLOCK];
};

static void survey_mask(const struct pyattn_query_block *block, ptrdiff_t first, ptrdiff_t count,
                        struct mask_survey *survey) {
  const struct pyattn_attention *call = block->call;
  const ptrdiff_t column = call->mask_column;
  const int shared = call->mask_row == 0 && (call->mask_head == 0 || block->rows <= block->length);
  memset(survey, 0, sizeof *survey);
  for (ptrdiff_t r = 0; r < (shared ? 1 : block->rows); r++) {
    const uint8_t *row = (const uint8_t *)block->mask + row_offset(block, r, call->mask_row, call->mask_head) + first * column;
    if (column == 1) {
      for (ptrdiff_t j = 0; j < count; j++) survey->seen[j] |= row[j], survey->hidden[j] |= row[j] == 0;
      for (ptrdiff_t j = 0; j < PYATTN_KEY_BLOCK; j += 64) __builtin_prefetch(row + PYATTN_KEY_BLOCK + j, 0, 3);
    } else {
      for (ptrdiff_t j = 0; j < count; j++) {
        survey->seen[j] |= row[j * column];
        survey->hidden[j] |= row[j * column] == 0;
      }
    }
  }
}

static void mask_bool(const struct pyattn_query_block *block, ptrdiff_t first, ptrdiff_t count) {
  const struct pyattn_attention *call = block->call;
  const ptrdiff_t column = call->mask_column;
  const int vectors = block->vectors;
  vec *p = state_of(block)->p;
  for (int n = 0; n < vectors; n += 16 / LANES) { /* 16 rows at a time */
    const uint8_t *source[16];
    for (int i = 0; i < 16; i++) {
      const ptrdiff_t row = row_offset(block, lane_row(block, n, i), call->mask_row, call->mask_head);
      source[i] = (const uint8_t *)block->mask + row + first * column;
    }
    for (ptrdiff_t j = 0; j < count; j += 16) {
      const ptrdiff_t columns = count - j < 16 ? count - j : 16;
      bytes x[16];
      if (column == 1 && columns == 16) {
        UNROLL for (int i = 0; i < 16; i++) memcpy(&x[i], source[i] + j, 16);
      } else {
        for (int i = 0; i < 16; i++) {
          x[i] = (bytes){0};
          for (ptrdiff_t k = 0; k < columns; k++) x[i][k] = source[i][(j + k) * column];
        }
      }
      transpose_bytes(x);
      for (ptrdiff_t i = 0; i < columns; i++) {
        for (int part = 0; part < 16 / LANES && n + part < vectors; part++) {
          vec *logit = p + (j + i) * vectors + n + part;
          *logit = choose(not_zero((const uint8_t *)&x[i] + part * LANES), *logit, MASKED);
        }
      }
    }
  }
}

/* Masks what the positions rule out: causal masks, windows, and of gathered keys those behind the last. */
static int mask_positions(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                          ptrdiff_t count) {
  const struct attention_state *state = state_of(block);
  const ptrdiff_t low = block->call->low, high = block->call->high;
  const ptrdiff_t rows = block->rows < block->length ? block->rows : block->length;
  const ptrdiff_t nearest = block->offset + block->first, farthest = nearest + rows - 1;
  int masked = 0;
  for (ptrdiff_t j = 0; j < count; j++) {
    const ptrdiff_t key = key_number(keys, first + j);
    if (key >= farthest + low && key < nearest + high && key < block->keys) { /* seen by all */
      const ptrdiff_t end = nearest + high - first; /* and so are the following */
      if (keys->index == NULL) j = (end < count ? end : count) - 1;
      continue;
    }
    masked = 1;
    for (int n = 0; n < block->vectors; n++) {
      const ivec distance = (word)key - state->position[n];
      const ivec seen = (distance >= (word)low) & (distance < (word)high) & (key < block->keys ? -1 : 0);
      vec *logit = state_of(block)->p + j * block->vectors + n;
      *logit = choose(seen, *logit, MASKED);
    }
  }
  return masked;
}

/* Narrows the range to the keys that a boolean mask lets some row see, from an even one on: whole steps of values. */
static int mask_hides(const struct pyattn_query_block *block, ptrdiff_t *first, ptrdiff_t *count) {
  struct mask_survey survey;
  survey_mask(block, *first, *count, &survey);
  ptrdiff_t start = 0, end = *count;
  while (start < end && !survey.seen[start]) start++;
  while (start < end && !survey.seen[end - 1]) end--;
  start -= (*first + start) % STEP;
  int hides = 0;
  for (ptrdiff_t j = start; j < end; j++) hides |= survey.hidden[j];
  *first += start;
  *count = end - start;
  return hides;
}

static void find_largest(struct attention_state *state, ptrdiff_t count, int vectors) {
  for (int n = 0; n < vectors; n++) {
    vec largest = splat(-INFINITY);
    for (ptrdiff_t j = 0; j < count; j++) largest = vmax(state->p[j * vectors + n], largest);
    state->largest[n] = largest;
  }
}

/* Fills p with the logits of the range, which it may narrow to fewer keys or none, and finds the largest of each row.
 * Returns whether some are MASKED. */
INLINE int compute_logits(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t *first,
                          ptrdiff_t *count, int vectors) {
  const struct pyattn_attention *call = block->call;
  struct attention_state *state = state_of(block);
  const int hides = call->mask_kind == PYATTN_MASK_BOOL && mask_hides(block, first, count);
  if (*count <= 0) return 0;
  if (call->few)
    score_few(block, keys, *first, *count);
  else
    score(block, keys, *first - keys->first, *count, vectors);
  int masked = hides;
  if (call->softcap > 0) {
    cap_logits(state, *count * vectors);
  } else if (state->before != 1) {
    for (ptrdiff_t i = 0; i < *count * vectors; i++) state->p[i] *= state->before;
  }
  if (block->slopes) add_distance(state, keys, *first, *count, vectors);
  if (keys->index_bias) masked |= add_gathered(state, keys, *first, *count);
  if (block->bias) {
    masked |= add_dense(block, keys, *first, *count, block->bias, call->bias_row, call->bias_column, call->bias_head);
  }
  if (call->mask_kind == PYATTN_MASK_REAL) {
    masked |= add_dense(block, keys, *first, *count, block->mask, call->mask_row, call->mask_column, call->mask_head);
  }
  if (hides) mask_bool(block, *first, *count);
  masked |= mask_positions(block, keys, *first, *count);
  if (masked || call->few || state->adjusts) find_largest(state, *count, vectors);
  return masked;
}

#endif
