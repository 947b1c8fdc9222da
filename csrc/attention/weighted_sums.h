/* Weighted sums of values with features along the lanes, row by row: of decode and mixed.
 *
 *     o[row][feature / LANES] = o * rescale + sum over keys of p[key][row] * value[key][feature]
 *
 * Values are read as they lie. Prefetching is into the first-level cache and evenly over the arithmetic: the machine
 * drops what comes in bursts. */
#pragma once

#include "../gemm.h"
#include "state.h"

#define NARROW (VECTOR_BYTES < 64) /* registers do not hold a line, nor a tile of WIDE_VECTORS */

enum {
  ROWS_AHEAD = 16, /* rows of keys and values are prefetched that many before they are read, or more */
  /* Of values WIDE_VECTORS are read at a time, as whole lines in order: in registers for FEW_ROWS, if these hold so
   * many sums; else some vectors after others, for as many keys at a time as have KEYS_BYTES of values. */
  WIDE_VECTORS = 512 / VECTOR_BYTES,
  ACCUMULATORS = TILE_ROWS * TILE_VECTORS,
  VALUE_VECTORS = 8, /* of a lone row, at most */
  FEW_ROWS = 3,
  MORE_ROWS = 4,
  KEYS_BYTES = 8192,
};

/* Runs a statement for ROWS rows from r on until there are no more; ROWS, at most `most`, is a constant. */
#define FOR_ROWS_AT_ONCE(rows, most, statement)                 \
  for (ptrdiff_t r = 0; r < rows; r += most) {                  \
    WITH_CONSTANT(ROWS, least(rows - r, most), most, statement) \
  }

/* Of int8, 8 KB of rows are prefetched before they are read: how many those are. */
INLINE ptrdiff_t int8_ahead(ptrdiff_t width) { return 8192 / round_up(width > 0 ? width : 1, 64); }

/* along_keys: of decode; else of prefill, which has rows along the lanes. */
INLINE real *weight_at(struct attention_state *state, ptrdiff_t j, ptrdiff_t r, int along_keys) {
  if (!along_keys) return (real *)(state->p + j) + r;
  return (real *)(state->p + j / LANES * LANES + r) + j % LANES;
}

INLINE void prefetch_lines(const char *p, int bytes) {
  UNROLL for (int line = 0; line < bytes; line += 64) prefetch_near(p + line);
}

/* A part of the weighted sums: of rows from first_row on, features from d on, and keys from ... to of a range. */
struct value_part {
  ptrdiff_t first, count, from, to; /* the range begins at key first */
  ptrdiff_t first_row, rows, d;
  ptrdiff_t ahead;            /* 0, or how many later values are prefetched */
  ptrdiff_t back, begin, end; /* of them: so far before d, these bytes */
  vec *sums;                  /* of all rows, from one part of the keys to the next */
  int along_keys;             /* whether weights lie as decode's */
  int masked, gathered;       /* whether keys may be */
};

/* Sums of what join_rows_wide loaded, in the order of features. */
INLINE void order_features(vec *sums, int vectors) {
#if VALUE_GROUP > GROUP
  UNROLL for (int n = 0; n < vectors; n += 2) {
    const vec even = sums[n], odd = sums[n + 1];
    sums[n] = (vec)ZIP_LOW((ivec)even, (ivec)odd);
    sums[n + 1] = (vec)ZIP_HIGH((ivec)even, (ivec)odd);
  }
#else
  (void)sums, (void)vectors;
#endif
}

/* `rows` rows from the part's row r on, `vectors` of features, which are whole and contiguous if there are several. */
INLINE void accumulate_part(const struct pyattn_query_block *block, const struct pyattn_keys *keys,
                            struct value_part part, ptrdiff_t r0, int rows, int vectors) {
  const struct pyattn_attention *call = block->call;
  const struct pyattn_array *array = &call->operands[PYATTN_VALUE];
  struct attention_state *state = state_of(block);
  const ptrdiff_t value_row = array->row, step = array->column, first_row = part.first_row + r0;
  const char *value = keys->value + part.d * step, *of_rows = value + part.first * value_row;
  vec acc[TILE_ROWS][VALUE_VECTORS];
  UNROLL for (int r = 0; r < rows; r++) {
    UNROLL for (int n = 0; n < vectors; n++) acc[r][n] = part.from > 0 ? part.sums[(r0 + r) * vectors + n] : (vec){0};
  }
  for (ptrdiff_t j = part.from; j < part.to; j += GROUP) {
    const char *low = of_rows + j * value_row, *high = NULL;
    if (GROUP == 2 && j + 1 < part.to) high = low + value_row;
    if (part.gathered) {
      low = value + key_index(keys, part.first + j) * value_row;
      if (high) high = value + key_index(keys, part.first + j + 1) * value_row;
    }
    vec x[VALUE_VECTORS];
    if (vectors > 1) {
      UNROLL for (int n = 0; n < vectors; n += VALUE_GROUP) join_rows_wide(low, high, n * LANES * KEY_BYTES, x + n);
      for (int i = 0; i < GROUP && part.ahead > 0; i++) {
        const char *next = low - part.back + (part.ahead + i) * value_row;
        if (vectors == WIDE_VECTORS)
          prefetch_lines(next, vectors * LANES * KEY_BYTES);
        else
          for (ptrdiff_t line = part.begin; line < part.end; line += 64) prefetch_near(next + line);
      }
    } else {
      x[0] = join_rows(low, high, step, call->value_width - part.d);
    }
    UNROLL for (int r = 0; r < rows; r++) {
      const vec weight = splat(*weight_at(state, j / GROUP, first_row + r, part.along_keys));
      UNROLL for (int n = 0; n < vectors; n++) {
        const vec v = part.masked ? (vec)((ivec)x[n] & (ivec)live_groups(weight)) : x[n];
        acc[r][n] = multiply_add(v, weight, acc[r][n]);
      }
    }
  }
  UNROLL for (int r = 0; r < rows; r++) {
    vec *o = state->split.o + (first_row + r) * value_vectors(call) + part.d / LANES;
    const vec rescale = splat(state->rescale[0][first_row + r]);
    if (part.to < part.count) {
      UNROLL for (int n = 0; n < vectors; n++) part.sums[(r0 + r) * vectors + n] = acc[r][n];
    } else {
      if (vectors > 1) order_features(acc[r], vectors);
      UNROLL for (int n = 0; n < vectors; n++) o[n] = o[n] * rescale + acc[r][n];
    }
  }
}

/* Of few rows, WIDE_VECTORS of features, time and again; returns where the rest begins. */
INLINE ptrdiff_t accumulate_wide(const struct pyattn_query_block *block, const struct pyattn_keys *keys,
                                 struct value_part part) {
  for (; block->call->value_width - part.d >= WIDE_VECTORS * LANES; part.d += WIDE_VECTORS * LANES) {
    WITH_CONSTANT(ROWS, part.rows, FEW_ROWS, accumulate_part(block, keys, part, 0, ROWS, VALUE_VECTORS))
  }
  return part.d;
}

/* The same of at most that many vectors, `vectors` at a time, and some keys at a time, whose values all rows and parts
 * find in the first-level cache; meanwhile the next ones are prefetched, as evenly. */
INLINE ptrdiff_t accumulate_by_keys(const struct pyattn_query_block *block, const struct pyattn_keys *keys,
                                    struct value_part part, int vectors) {
  const int part_bytes = vectors * LANES * KEY_BYTES;
  vec sums[WIDE_VECTORS * LANES];
  const ptrdiff_t groups = (part.rows + MORE_ROWS - 1) / MORE_ROWS;
  for (ptrdiff_t left; left = (block->call->value_width - part.d) / (vectors * LANES), left > 0;) {
    const ptrdiff_t d = part.d, pieces = least(left, WIDE_VECTORS / vectors), parts = groups * pieces;
    const ptrdiff_t lines = pieces * part_bytes / 64,
                    some = parts == 1 ? part.count : KEYS_BYTES / (pieces * part_bytes);
    if (part.ahead > 0 && parts > 1) part.ahead = some;
    for (part.from = 0; part.from < part.count; part.from = part.to) {
      part.to = least(part.from + some, part.count);
      for (ptrdiff_t piece = 0, number = 0; piece < pieces; piece++) {
        part.d = d + piece * vectors * LANES;
        part.back = piece * part_bytes;
        part.sums = sums + piece * vectors * part.rows;
        for (ptrdiff_t r = 0; r < part.rows; r += MORE_ROWS, number++) {
          part.begin = number * lines / parts * 64;
          part.end = (number + 1) * lines / parts * 64;
          WITH_CONSTANT(ROWS, least(part.rows - r, MORE_ROWS), MORE_ROWS, {
            if (ROWS * vectors <= ACCUMULATORS) accumulate_part(block, keys, part, r, ROWS, vectors);
          })
        }
      }
    }
    part.d = d + pieces * vectors * LANES;
  }
  return part.d;
}

INLINE void accumulate_rows(const struct pyattn_query_block *block, const struct pyattn_keys *keys,
                            struct value_part part) {
  if (block->call->operands[PYATTN_VALUE].column == KEY_BYTES) {
    if (WIDE_VECTORS == VALUE_VECTORS) {
      if (part.rows <= FEW_ROWS) part.d = accumulate_wide(block, keys, part);
      part.d = accumulate_by_keys(block, keys, part, VALUE_VECTORS / 2);
    } else {
      if (part.rows == 1) part.d = accumulate_by_keys(block, keys, part, VALUE_VECTORS);
      if (part.rows <= FEW_ROWS) part.d = accumulate_by_keys(block, keys, part, VALUE_VECTORS / 2);
      part.d = accumulate_by_keys(block, keys, part, VALUE_VECTORS / 4);
    }
  }
  for (; part.d < block->call->value_width; part.d += LANES) {
    FOR_ROWS_AT_ONCE(part.rows, TILE_ROWS, accumulate_part(block, keys, part, r, ROWS, 1))
  }
}

/* Of all rows. */
INLINE void accumulate_all(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                           ptrdiff_t count, int masked, int along_keys) {
  struct value_part part = {.first = first, .count = count, .to = count, .rows = block->rows, .along_keys = along_keys};
  part.ahead = keys->index ? 0 : KEY_BYTES == 1 ? int8_ahead(block->call->value_width) : ROWS_AHEAD;
  part.gathered = along_keys;
  if (masked && KEY_BYTES > 1) { /* integers are finite */
    part.masked = 1;
    accumulate_rows(block, keys, part);
  } else if (keys->index) {
    accumulate_rows(block, keys, part);
  } else {
    part.gathered = 0;
    accumulate_rows(block, keys, part);
  }
}
