/* The logits of a block of rows and a range of keys: scores, then soft cap, biases and masks, as the call asks for. */
#ifndef PYATTN_LOGITS_H
#define PYATTN_LOGITS_H

#include "block.h"
#include "gemm.h"

enum {
  SUM_BLOCK = 256, /* divides PYATTN_WIDTH_BLOCK */
  FEW_GROUPS = 2,  /* of LANES keys scored at a time: their chains of sums fill each other's waits */
  FEW_AHEAD = 32,  /* of few rows, keys and values are prefetched that many keys before they are read */
};

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
        const ptrdiff_t row = row_offset(block, lane_row(block, n, i), call->operands[PYATTN_QUERY].row, call->operands[PYATTN_QUERY].head);
        x[i] = load_steps(block->data[PYATTN_QUERY] + row + (first + d) * call->operands[PYATTN_QUERY].column, call->operands[PYATTN_QUERY].column, columns);
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
  const struct tile_a a = {key, row, step, key + TILE_ROWS * row, TILE_ROWS * step};
  const struct tile_b b = {(const char *)q, PLAIN_FORMAT, ATTENTION_PAIRS, 0};
  tile_multiply(acc, rows, vectors, a, b, steps);
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

/* LANES rows of keys as LANES steps, keys along the lanes. */
INLINE void load_turned(vec x[LANES], const char *const *key, ptrdiff_t offset, ptrdiff_t step, ptrdiff_t columns) {
  if (step == ELEMENT_BYTES && columns == LANES * STEP) {
    UNROLL for (int i = 0; i < LANES; i++) x[i] = load_steps(key[i] + offset, ELEMENT_BYTES, LANES * STEP);
  } else {
    UNROLL for (int i = 0; i < LANES; i++) x[i] = load_steps(key[i] + offset, step, columns);
  }
  transpose(x);
}

/* The same sums in the same order for few rows: keys stand along the lanes, so that each key is read once, as it lies,
 * and transposed in registers. p[group of LANES keys][row], LANES vectors a group; behind the last key it is repeated.
 */
static void score_few(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                      ptrdiff_t count) {
  const struct pyattn_attention *call = block->call;
  const ptrdiff_t rows = block->rows;
  const ptrdiff_t bytes = keys->index || call->operands[PYATTN_KEY].column != ELEMENT_BYTES ? 0 : call->width * ELEMENT_BYTES;
  vec *p = state_of(block)->p;
  for (ptrdiff_t j = 0; j < count; j += FEW_GROUPS * LANES, p += FEW_GROUPS * LANES) {
    const int groups = count - j <= LANES ? 1 : FEW_GROUPS;
    const char *key[FEW_GROUPS * LANES];
    ptrdiff_t ahead = 0;
    for (int i = 0; i < groups * LANES; i++) {
      key[i] = keys->key + key_number(keys, first + (j + i < count ? j + i : count - 1)) * call->operands[PYATTN_KEY].row;
    }
    for (ptrdiff_t d = 0; d == 0 || d < call->width; d += SUM_BLOCK) {
      const ptrdiff_t end = call->width - d < SUM_BLOCK ? call->width : d + SUM_BLOCK;
      const vec *q = queries_from(block, d);
      vec acc[FEW_GROUPS][LANES];
      for (int group = 0; group < groups; group++) {
        for (ptrdiff_t r = 0; r < rows; r++) acc[group][r] = (vec){0};
      }
      for (ptrdiff_t column = d; column < end; column += LANES * STEP, q += LANES) {
        const ptrdiff_t columns = end - column < LANES * STEP ? end - column : LANES * STEP;
        for (int group = 0; group < groups; group++) {
          vec x[LANES];
          load_turned(x, key + group * LANES, column * call->operands[PYATTN_KEY].column, call->operands[PYATTN_KEY].column, columns);
          for (ptrdiff_t r = 0; r < rows; r++) {
            vec sum = acc[group][r];
            UNROLL for (int i = 0; i < LANES; i++) {
              sum = multiply_add(splat(load_real((const real *)(q + i) + r)), x[i], sum);
            }
            acc[group][r] = sum;
          }
        }
        /* whole rows, one after the other: the machine follows */
        for (; ahead < (column + columns) * groups * LANES / call->width; ahead++) {
          for (ptrdiff_t line = 0; line < bytes; line += 64) {
            prefetch_far(key[0] + (FEW_AHEAD + ahead) * call->operands[PYATTN_KEY].row + line);
          }
        }
      }
      for (int group = 0; group < groups; group++) {
        for (ptrdiff_t r = 0; r < rows; r++) {
          p[group * LANES + r] = d > 0 ? p[group * LANES + r] + acc[group][r] : acc[group][r];
        }
      }
    }
  }
}

/* p of few rows, [group of LANES keys][row] with keys along the lanes, to [key] with rows along them, and back. */
static void turn_few(const struct pyattn_query_block *block, ptrdiff_t count) {
  for (ptrdiff_t j = 0; j < count; j += LANES) transpose(state_of(block)->p + j);
}

/* The largest logit of each row; a MASKED one is passed over. */
static void find_largest(struct attention_state *state, ptrdiff_t count, int vectors) {
  for (int n = 0; n < vectors; n++) {
    vec largest = splat(-INFINITY);
    for (ptrdiff_t j = 0; j < count; j++) largest = vmax(state->p[j * vectors + n], largest);
    state->largest[n] = largest;
  }
}

/* What comes between scores and logits. Each of these visits all logits and finds the largest of each row anew, while
 * it has them in registers. */

/* Soft cap, Gemma 2 (arXiv:2408.00118), section 2: cap tanh(score / cap). */
INLINE void cap_logits(struct attention_state *state, ptrdiff_t count, int vectors) {
  vec largest[TILE_VECTORS];
  UNROLL for (int n = 0; n < vectors; n++) largest[n] = splat(-INFINITY);
  for (ptrdiff_t j = 0; j < count; j++) {
    UNROLL for (int n = 0; n < vectors; n++) {
      vec *p = state->p + j * vectors + n;
      *p = state->after * vtanh(STEP == 1 ? *p : state->before * *p);
      largest[n] = vmax(*p, largest[n]);
    }
  }
  UNROLL for (int n = 0; n < vectors; n++) state->largest[n] = largest[n];
}

/* ALiBi, Press et al. 2021 (arXiv:2108.12409), section 3: -slope |position of the query - position of the key|. */
INLINE void add_distance(struct attention_state *state, const struct pyattn_keys *keys, ptrdiff_t first,
                         ptrdiff_t count, int vectors) {
  vec largest[TILE_VECTORS], position[TILE_VECTORS];
  UNROLL for (int n = 0; n < vectors; n++) {
    largest[n] = splat(-INFINITY);
    position[n] = __builtin_convertvector(state->position[n], vec);
  }
  for (ptrdiff_t j = 0; j < count; j++) {
    const vec key = splat((real)key_number(keys, first + j));
    UNROLL for (int n = 0; n < vectors; n++) {
      vec *p = state->p + j * vectors + n;
      *p -= state->slope[n] * magnitude(position[n] - key);
      largest[n] = vmax(*p, largest[n]);
    }
  }
  UNROLL for (int n = 0; n < vectors; n++) state->largest[n] = largest[n];
}

/* A dense operand of the logits, from row 0 and key 0 on. */
struct dense {
  const char *data;
  ptrdiff_t row, column, head;
};

INLINE const char *dense_row(const struct pyattn_query_block *block, const struct dense *dense, int n, int i) {
  return dense->data + row_offset(block, lane_row(block, n, i), dense->row, dense->head);
}

/* Adds biases; -inf masks. Returns whether it masked a pair. */
static int add_dense(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                     ptrdiff_t count, const struct dense *dense) {
  const ptrdiff_t column = dense->column;
  const int vectors = block->vectors;
  struct attention_state *state = state_of(block);
  ivec masked = {0};
  for (int n = 0; n < vectors; n++) {
    vec largest = splat(-INFINITY);
    const char *source[LANES];
    for (int i = 0; i < LANES; i++) source[i] = dense_row(block, dense, n, i) + (keys->index ? 0 : first * column);
    for (ptrdiff_t j = 0; j < count; j += LANES) {
      const ptrdiff_t columns = count - j < LANES ? count - j : LANES;
      vec x[LANES];
      if (keys->index) {
        for (int i = 0; i < LANES; i++) x[i] = load_gathered(source[i], column, keys->index + first + j, columns);
      } else {
        UNROLL for (int i = 0; i < LANES; i++) {
          x[i] = load_strided(source[i] + j * column, column, columns);
          __builtin_prefetch(source[i] + (j + PYATTN_KEY_BLOCK) * column, 0, 3);
        }
      }
      transpose(x);
      for (ptrdiff_t i = 0; i < columns; i++) {
        vec *p = state->p + (j + i) * vectors + n;
        const ivec out = (x[i] == -(real)INFINITY) | is_masked(*p);
        masked |= out;
        *p = choose(out, MASKED, *p + x[i]);
        largest = vmax(*p, largest);
      }
    }
    state->largest[n] = largest;
  }
  return any_lane(masked);
}

/* A bias for each gathered key, the same for all rows of the one vector. */
static int add_gathered(struct attention_state *state, const struct pyattn_keys *keys, ptrdiff_t first,
                        ptrdiff_t count) {
  int masked = 0;
  state->largest[0] = splat(-INFINITY);
  for (ptrdiff_t j = 0; j < count; j++) {
    const real bias = load_real((const real_unaligned *)keys->index_bias + first + j);
    masked |= bias == (real)-INFINITY;
    state->p[j] = bias == (real)-INFINITY ? MASKED : state->p[j] + bias;
    state->largest[0] = vmax(state->p[j], state->largest[0]);
  }
  return masked;
}

INLINE int is_same_for_rows(const struct pyattn_query_block *block, const struct dense *dense) {
  return dense->row == 0 && (dense->head == 0 || block->rows <= block->length);
}

/* What a boolean mask says of a range of keys, for each: whether some row sees it, and 0 where some row does not. */
struct mask_survey {
  uint8_t seen[PYATTN_KEY_BLOCK], least[PYATTN_KEY_BLOCK];
};

static void survey_mask(const struct pyattn_query_block *block, const struct dense *mask, ptrdiff_t first,
                        ptrdiff_t count, struct mask_survey *survey) {
  memset(survey->seen, 0, sizeof survey->seen);
  memset(survey->least, 1, sizeof survey->least);
  for (ptrdiff_t r = 0; r < block->rows; r++) {
    const uint8_t *row =
        (const uint8_t *)mask->data + row_offset(block, r, mask->row, mask->head) + first * mask->column;
    if (mask->column == 1) {
      for (ptrdiff_t j = 0; j < count; j++) {
        survey->seen[j] |= row[j];
        survey->least[j] = row[j] < survey->least[j] ? row[j] : survey->least[j];
      }
      for (ptrdiff_t j = 0; j < PYATTN_KEY_BLOCK; j += 64) __builtin_prefetch(row + PYATTN_KEY_BLOCK + j, 0, 3);
    } else {
      for (ptrdiff_t j = 0; j < count; j++) {
        survey->seen[j] |= row[j * mask->column];
        if (row[j * mask->column] == 0) survey->least[j] = 0;
      }
    }
    if (is_same_for_rows(block, mask)) break;
  }
}

/* Narrows the range to the keys that a boolean mask lets some row see, from an even one on: whole steps of values.
 * Returns whether it hides some of them from some row. */
static int narrow_range(const struct pyattn_query_block *block, const struct dense *mask, ptrdiff_t *first,
                        ptrdiff_t *count) {
  struct mask_survey survey;
  survey_mask(block, mask, *first, *count, &survey);
  ptrdiff_t start = 0, end = *count;
  while (start < end && !survey.seen[start]) start++;
  while (start < end && !survey.seen[end - 1]) end--;
  start -= (*first + start) % STEP;
  int hides = 0;
  for (ptrdiff_t j = start; j < end; j++) hides |= survey.least[j] == 0;
  *first += start;
  *count = end - start;
  return hides;
}

static void mask_bool(const struct pyattn_query_block *block, const struct dense *mask, ptrdiff_t first,
                      ptrdiff_t count) {
  const ptrdiff_t column = mask->column;
  const int vectors = block->vectors;
  struct attention_state *state = state_of(block);
  if (is_same_for_rows(block, mask)) { /* a mask of keys */
    for (ptrdiff_t j = 0; j < count; j++) {
      for (int n = 0; n < vectors && !mask->data[(first + j) * column]; n++) state->p[j * vectors + n] = MASKED;
    }
    find_largest(state, count, vectors);
    return;
  }
  for (int n = 0; n < vectors; n++) state->largest[n] = splat(-INFINITY);
  for (int n = 0; n < vectors; n += 16 / LANES) { /* 16 rows at a time */
    const char *source[16];
    for (int i = 0; i < 16; i++) source[i] = dense_row(block, mask, n, i) + first * column;
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
        vec largest = state->largest[n + part];
        for (ptrdiff_t i = 0; i < columns; i++) { /* key i stands in 16 bytes of vector i % 16 */
          vec *p = state->p + (j + i) * vectors + n + part;
          const uint8_t *seen = (const uint8_t *)&x[i % 16] + i / 16 * 16 + part * LANES;
          *p = choose_by_bytes(seen, *p, MASKED);
          largest = vmax(*p, largest);
        }
        state->largest[n + part] = largest;
      }
    }
  }
}

/* Whether the positions of all rows let them see keys from the first-th to before the end-th. */
INLINE int seen_by_all(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                       ptrdiff_t end) {
  const ptrdiff_t rows = block->rows < block->length ? block->rows : block->length;
  const ptrdiff_t nearest = block->query_offset + block->first, last = key_number(keys, end - 1);
  return key_number(keys, first) >= nearest + rows - 1 - block->call->left && last <= nearest + block->call->right &&
         last < block->kv_length;
}

/* Masks what the positions rule out: causal masks, windows, and of gathered keys those behind the last. */
static int mask_positions(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                          ptrdiff_t count) {
  const struct attention_state *state = state_of(block);
  const ptrdiff_t left = block->call->left, right = block->call->right;
  const ptrdiff_t rows = block->rows < block->length ? block->rows : block->length;
  const ptrdiff_t nearest = block->query_offset + block->first, farthest = nearest + rows - 1;
  int masked = 0;
  for (ptrdiff_t j = 0; j < count; j++) {
    const ptrdiff_t key = key_number(keys, first + j);
    if (key >= farthest - left && key <= nearest + right && key < block->kv_length) { /* seen by all */
      const ptrdiff_t end = nearest + right + 1 - first;                           /* and so are the following */
      if (keys->index == NULL) j = (end < count ? end : count) - 1;
      continue;
    }
    masked = 1;
    for (int n = 0; n < block->vectors; n++) {
      const ivec distance = (word)key - state->position[n];
      const ivec seen = (distance >= -(word)left) & (distance <= (word)right) & (key < block->kv_length ? -1 : 0);
      vec *logit = state_of(block)->p + j * block->vectors + n;
      *logit = choose(seen, *logit, MASKED);
    }
  }
  return masked;
}

/* Fills p with the logits of the range, which it may narrow to fewer keys or none, and finds the largest of each row.
 * Returns whether some are MASKED. */
INLINE int compute_logits(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t *first,
                          ptrdiff_t *count, int vectors) {
  const struct pyattn_attention *call = block->call;
  struct attention_state *state = state_of(block);
  const struct dense mask = {block->data[PYATTN_MASK], call->operands[PYATTN_MASK].row, call->operands[PYATTN_MASK].column, call->operands[PYATTN_MASK].head};
  const struct dense bias = {block->data[PYATTN_BIAS], call->operands[PYATTN_BIAS].row, call->operands[PYATTN_BIAS].column, call->operands[PYATTN_BIAS].head};
  const int hides = call->mask_kind == PYATTN_MASK_BOOL && narrow_range(block, &mask, first, count);
  if (*count <= 0) return 0;
  if (call->path->few) {
    score_few(block, keys, *first, *count);
    for (ptrdiff_t j = 0; j < *count; j++) { /* lanes without a row */
      if (j % LANES >= block->rows) state->p[j] = (vec){0};
    }
    turn_few(block, *count);
  } else {
    score(block, keys, *first - keys->first, *count, vectors);
  }
  int masked = hides;
  if (call->softcap > 0) {
    cap_logits(state, *count, vectors);
  } else if (state->before != 1) {
    for (ptrdiff_t i = 0; i < *count * vectors; i++) state->p[i] *= state->before;
    find_largest(state, *count, vectors);
  } else if (call->path->few) {
    find_largest(state, *count, vectors);
  }
  if (block->data[PYATTN_ALIBI_SLOPES]) add_distance(state, keys, *first, *count, vectors);
  if (keys->index_bias) masked |= add_gathered(state, keys, *first, *count);
  if (block->data[PYATTN_BIAS]) masked |= add_dense(block, keys, *first, *count, &bias);
  if (call->mask_kind == PYATTN_MASK_REAL) masked |= add_dense(block, keys, *first, *count, &mask);
  if (hides) mask_bool(block, &mask, *first, *count);
  if (mask_positions(block, keys, *first, *count)) {
    find_largest(state, *count, vectors);
    masked = 1;
  }
  return masked;
}

#endif
