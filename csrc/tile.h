/* The micro-kernel that scores, weighted sums and packed matmuls share:
 *
 *     acc[r][n] += a[r][t] * b[t][n]      for r < rows, n < vectors, t < count
 *
 * where a step t is one element, or a pair of bfloat16 (STEP of simd.h).
 *
 * a is any strided array: element (r, t) lies r * row + t * step bytes behind it, and each is broadcast to all lanes.
 * b is packed: `vectors` vectors for each t, one t after the other, held as below. An 8 x 3 tile does 24
 * multiply-adds for 3 loads and 8 broadcasts, so that a core with two FMA units and two load ports is bound by the
 * former.
 *
 * Each step also prefetches the line at `ahead`, which moves on by ahead_step: some rows ahead in a walk along rows,
 * the next tile in a walk along columns. One a step is free; the same prefetches in a burst before the tile cost 5 to
 * 10 %. Without them rows of 512 bytes or more, whose lines crowd a few sets of the first-level cache, cost 15 % of a
 * tile.
 */
#ifndef PYATTN_TILE_H
#define PYATTN_TILE_H

#include "kernels.h"
#include "simd.h"

typedef vec tile[TILE_ROWS][TILE_VECTORS];

/* How b is held: PYATTN_WHOLE, vectors of reals; PYATTN_FLOAT16, half as long ones of these; PYATTN_BFLOAT16, vectors
 * of two steps, whose numbers lie in the halves of each lane, the first in the lower one: a shift and a mask widen
 * them, while conversions of half vectors cost 12 % of a tile. */
INLINE ptrdiff_t bytes_of_pair(int held) { return held == PYATTN_WHOLE ? 2 * VECTOR_BYTES : VECTOR_BYTES; }

/* Vector n of a step; second: of those of a pair. */
INLINE vec load_held(const char *b, int held, int second, int n) {
#if REAL_BITS == 32
  if (held == PYATTN_FLOAT16) {
    halves x;
    memcpy(&x, b + n * (VECTOR_BYTES / 2), sizeof x);
    return widen_float16(x);
  }
  if (held == PYATTN_BFLOAT16) {
    const uvec x = (uvec)load(b + n * VECTOR_BYTES);
    return (vec)(second ? x & 0xffff0000 : x << 16);
  }
#endif
  (void)held, (void)second;
  return load(b + n * VECTOR_BYTES);
}

INLINE void tile_step(tile acc, int rows, int vectors, const char *a, ptrdiff_t row, const char *b, int held,
                      int second, int b_ahead) {
  vec x[TILE_VECTORS];
  const int bytes = vectors * (int)bytes_of_pair(held) / 2;
  const int begin = held == PYATTN_BFLOAT16 ? second * bytes : 0; /* the steps of a pair share what lies at b */
  if (b_ahead) {
    UNROLL for (int line = begin; line < begin + bytes; line += 64) prefetch_far(b + b_ahead + line);
  }
  UNROLL for (int n = 0; n < vectors; n++) x[n] = load_held(b, held, second, n);
  UNROLL for (int r = 0; r < rows; r++) {
    const vec y = splat(load_real(a + r * row));
    UNROLL for (int n = 0; n < vectors; n++) acc[r][n] = multiply_add(y, x[n], acc[r][n]);
  }
}

/* rows, vectors, held, pairs and b_ahead must be constants at every call: all loops over them unroll. pairs: two steps
 * a turn, as PYATTN_BFLOAT16 needs; with them packed weights of bytes take 1.3 times as long on AVX2, others are as
 * fast. b_ahead: bytes of b that are prefetched, or 0. */
INLINE void tile_multiply(tile acc, int rows, int vectors, const char *a, ptrdiff_t row, ptrdiff_t step, const char *b,
                          int held, int pairs, int b_ahead, ptrdiff_t count, const char *ahead, ptrdiff_t ahead_step) {
  const ptrdiff_t next = held == PYATTN_BFLOAT16 ? 0 : vectors * bytes_of_pair(held) / 2;
  ptrdiff_t t = 0;
  for (; pairs && t + 1 < count; t += 2) {
    tile_step(acc, rows, vectors, a, row, b, held, 0, b_ahead);
    __builtin_prefetch(ahead, 0, 3);
    tile_step(acc, rows, vectors, a + step, row, b + next, held, 1, b_ahead);
    __builtin_prefetch(ahead + ahead_step, 0, 3);
    ahead += 2 * ahead_step;
    a += 2 * step;
    b += vectors * bytes_of_pair(held);
  }
  for (; t < count; t++) {
    tile_step(acc, rows, vectors, a, row, b, held, 0, b_ahead);
    __builtin_prefetch(ahead, 0, 3);
    ahead += ahead_step;
    a += step;
    b += next;
  }
}

/* Run `statement` with ROWS, or VECTORS, a constant equal to the variable, which is at most TILE_ROWS, or TILE_VECTORS.
 */
#define WITH_CONSTANT_ROWS(rows, statement)      \
  switch (rows) {                                \
    CONSTANT_CASE(ROWS, 1, TILE_ROWS, statement) \
    CONSTANT_CASE(ROWS, 2, TILE_ROWS, statement) \
    CONSTANT_CASE(ROWS, 3, TILE_ROWS, statement) \
    CONSTANT_CASE(ROWS, 4, TILE_ROWS, statement) \
    CONSTANT_CASE(ROWS, 5, TILE_ROWS, statement) \
    CONSTANT_CASE(ROWS, 6, TILE_ROWS, statement) \
    CONSTANT_CASE(ROWS, 7, TILE_ROWS, statement) \
    CONSTANT_CASE(ROWS, 8, TILE_ROWS, statement) \
    default: __builtin_unreachable();            \
  }
#define WITH_CONSTANT_VECTORS(vectors, statement)      \
  switch (vectors) {                                   \
    CONSTANT_CASE(VECTORS, 1, TILE_VECTORS, statement) \
    CONSTANT_CASE(VECTORS, 2, TILE_VECTORS, statement) \
    CONSTANT_CASE(VECTORS, 3, TILE_VECTORS, statement) \
    default: __builtin_unreachable();                  \
  }
#define CONSTANT_CASE(name, n, most, statement) \
  case n: {                                     \
    enum { name = n <= most ? n : most };       \
    if (n <= most) statement;                   \
    break;                                      \
  }

#endif
