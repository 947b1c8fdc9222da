/* The micro-kernel that scores, weighted sums and packed matmuls share: C += A B into a buffer of TILE_ROWS x
 * TILE_VECTORS vectors,
 *
 *     C[r][n] += A[r][t] * B[t][n]      for r < rows, n < vectors, t < count
 *
 * where t counts dot-product groups of GROUP elements. A is packed in groups, a row after the other or strided; each
 * group of it is broadcast to all lanes. B is packed: `vectors` vectors of groups for each t, one t after the other. So
 * a matrix unit can take the place of this file: it needs no other layout, and the buffer is all that comes out.
 *
 * An 8 x 3 tile does 24 multiply-adds for 3 loads and 8 broadcasts: a core with two FMA units and two load ports is
 * bound by the former. */
#pragma once

#include "kernels.h"
#include "simd.h"

typedef vec tile[TILE_ROWS][TILE_VECTORS];

/* Group (r, t) lies r * row + t * step bytes after data. With each group the cache line at `ahead` is prefetched, which
 * moves on by ahead_step: some rows ahead in a walk along rows, the next tile in a walk along columns. One a group is
 * free; the same prefetches in a burst before the tile cost 5 to 10 %. Without them rows of 512 bytes or more, whose
 * lines crowd a few sets of the first-level cache, cost 15 % of a tile. */
struct tile_a {
  const char *data;
  ptrdiff_t row, step;
  const char *ahead;
  ptrdiff_t ahead_step;
};

/* unroll: two groups a turn, as shared lanes need; with it int8 weights take 1.3 times as long on AVX2, others are as
 * fast. prefetch: bytes ahead that B is prefetched, or 0. format, unroll and prefetch must be constants. */
struct tile_b {
  const char *data;
  int format, unroll, prefetch;
};

/* The format of groups that multiply_add reads as they are. */
#if ELEMENT == I8
#define PLAIN_FORMAT PYATTN_INT8
#elif GROUP == 2
#define PLAIN_FORMAT PYATTN_BFLOAT16
#elif REAL_BITS == 64
#define PLAIN_FORMAT PYATTN_FLOAT64
#else
#define PLAIN_FORMAT PYATTN_FLOAT32
#endif

/* bfloat16 lies in pairs in the vec16 of each lane, the first in the lower one: groups for the dot products of two,
 * else two groups that share a vector, which a shift and a mask widen; converting half vectors costs 12 % of a tile. */
INLINE int shares_lanes(int format) { return format == PYATTN_BFLOAT16 && GROUP == 1; }

/* Bytes of a vector of B for two groups. */
INLINE ptrdiff_t bytes_of_two(int format) {
  return format == PYATTN_FLOAT16 || shares_lanes(format) ? VECTOR_BYTES : 2 * VECTOR_BYTES;
}

/* Vector n of a group; second: of those of two groups. */
INLINE vec load_b(const char *b, int format, int second, int n) {
#if REAL_BITS == 32
  if (format == PYATTN_FLOAT16) {
    vec16 x;
    memcpy(&x, b + n * (VECTOR_BYTES / 2), sizeof x);
    return widen_float16(x);
  }
  if (shares_lanes(format)) {
    b += n * VECTOR_BYTES;
    return (vec)(second ? (uvec)load_again(b) & 0xffff0000 : (uvec)load(b) << 16);
  }
#endif
  (void)format, (void)second;
  return load(b + n * VECTOR_BYTES);
}

INLINE void tile_group(tile c, int rows, int vectors, const char *a, const char *a4, ptrdiff_t row, const char *b,
                       int format, int second, int prefetch) {
  vec x[TILE_VECTORS];
  const int bytes = vectors * (int)bytes_of_two(format) / 2;
  const int begin = shares_lanes(format) ? second * bytes : 0; /* both groups read what lies at b */
  if (prefetch) {
    UNROLL for (int line = begin; line < begin + bytes; line += 64) prefetch_far(b + prefetch + line);
  }
  UNROLL for (int n = 0; n < vectors; n++) x[n] = load_b(b, format, second, n);
  UNROLL for (int r = 0; r < rows; r++) {
    const vec y = splat(load_real(r < 4 ? a + r * row : a4 + (r - 4) * row));
    UNROLL for (int n = 0; n < vectors; n++) c[r][n] = multiply_add(y, x[n], c[r][n]);
  }
}

/* rows and vectors must be constants at every call: all loops over them unroll. */
INLINE void tile_multiply(tile c, int rows, int vectors, struct tile_a left, struct tile_b right, ptrdiff_t count) {
  const char *a = left.data, *b = right.data, *ahead = left.ahead; /* as fields they cost the loop instructions */
  const ptrdiff_t row = left.row, step = left.step, ahead_step = left.ahead_step;
  const int format = right.format, prefetch = right.prefetch;
  const ptrdiff_t next = shares_lanes(format) ? 0 : vectors * bytes_of_two(format) / 2;
  const char *a4 = a + 4 * row;
  if (right.unroll) HIDE_ADDRESS(a4); /* else a register for each row, which are too many for two groups */
  ptrdiff_t t = 0;
  for (; right.unroll && t + 1 < count; t += 2) {
    tile_group(c, rows, vectors, a, a4, row, b, format, 0, prefetch);
    __builtin_prefetch(ahead, 0, 3);
    tile_group(c, rows, vectors, a + step, a4 + step, row, b + next, format, 1, prefetch);
    __builtin_prefetch(ahead + ahead_step, 0, 3);
    ahead += 2 * ahead_step;
    a += 2 * step;
    a4 += 2 * step;
    b += vectors * bytes_of_two(format);
  }
  for (; t < count; t++) {
    tile_group(c, rows, vectors, a, a4, row, b, format, 0, prefetch);
    __builtin_prefetch(ahead, 0, 3);
    ahead += ahead_step;
    a += step;
    a4 += step;
    b += next;
  }
}

/* Runs a statement with `name` a constant that equals the value, which is from 1 to `most`, at most 8. */
#define WITH_CONSTANT(name, value, most, statement) \
  switch (value) {                                  \
    CONSTANT_CASE(name, 1, most, statement)         \
    CONSTANT_CASE(name, 2, most, statement)         \
    CONSTANT_CASE(name, 3, most, statement)         \
    CONSTANT_CASE(name, 4, most, statement)         \
    CONSTANT_CASE(name, 5, most, statement)         \
    CONSTANT_CASE(name, 6, most, statement)         \
    CONSTANT_CASE(name, 7, most, statement)         \
    CONSTANT_CASE(name, 8, most, statement)         \
    default: __builtin_unreachable();               \
  }
#define CONSTANT_CASE(name, n, most, statement) \
  case n: {                                     \
    enum { name = n <= most ? n : most };       \
    if (n > most) __builtin_unreachable();      \
    statement;                                  \
    break;                                      \
  }
