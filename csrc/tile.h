/* The micro-kernel that scores, weighted sums and packed matmuls share:
 *
 *     acc[r][n] += a[r][t] * b[t][n]      for r < rows, n < vectors, t < count
 *
 * where a step t is one element, or a pair of bfloat16 (STEP of simd.h).
 *
 * a is any strided array: element (r, t) lies r * row + t * step bytes behind it, and each is broadcast to all lanes.
 * b is packed: `vectors` vectors for each t, one t after the other. An 8 x 3 tile does 24 multiply-adds for 3 loads and
 * 8 broadcasts, so that a core with two FMA units and two load ports is bound by the former.
 *
 * Each step also prefetches the line at `ahead`, which moves on by ahead_step: some rows ahead in a walk along rows,
 * the next tile in a walk along columns. One a step is free; the same prefetches in a burst before the tile cost 5 to
 * 10 %. Without them rows of 512 bytes or more, whose lines crowd a few sets of the first-level cache, cost 15 % of a
 * tile.
 */
#ifndef PYATTN_TILE_H
#define PYATTN_TILE_H

#include "simd.h"

typedef vec tile[TILE_ROWS][TILE_VECTORS];

/* rows and vectors must be constants at every call: all loops over them unroll. */
INLINE void tile_multiply(tile acc, int rows, int vectors, const char *a, ptrdiff_t row, ptrdiff_t step, const real *b,
                          ptrdiff_t count, const char *ahead, ptrdiff_t ahead_step) {
  for (ptrdiff_t t = 0; t < count; t++) {
    vec x[TILE_VECTORS];
    UNROLL for (int n = 0; n < vectors; n++) x[n] = load(b + n * LANES);
    UNROLL for (int r = 0; r < rows; r++) {
      const vec y = splat(load_real(a + r * row));
      UNROLL for (int n = 0; n < vectors; n++) acc[r][n] = multiply_add(y, x[n], acc[r][n]);
    }
    __builtin_prefetch(ahead, 0, 3);
    ahead += ahead_step;
    a += step;
    b += vectors * LANES;
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
