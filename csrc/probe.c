/* What the machine can do at most, for `pyattn info --measure` and the benchmarks. */
#include "gemm.h"
#include "kernels.h"

/* In registers. The operands have full mantissas: multiplying ones draws less power, and was seen to run 7 % faster
 * than any real data. */
static double probe_multiply_add(ptrdiff_t rounds) {
  tile acc = {{{0}}};
  vec x = splat((real)(1 / 3.)), y = splat((real)(2 / 3.));
  for (ptrdiff_t i = 0; i < rounds; i++) {
    UNROLL for (int r = 0; r < 6; r++) {
      UNROLL for (int n = 0; n < TILE_VECTORS; n++) {
        acc[r][n] = multiply_add(x, y, acc[r][n]);
        HIDE(x);         /* else the product leaves the loop where there is no fused multiply-add */
        HIDE(acc[r][n]); /* else GCC copies and spills sums whose type is not vec: int8 at .4 to 1 times the peak */
      }
    }
  }
  UNROLL for (int r = 0; r < 6; r++) { UNROLL for (int n = 0; n < TILE_VECTORS; n++) HIDE(acc[r][n]); }
  return (double)rounds * 6 * TILE_VECTORS * LANES * GROUP * 2;
}

/* Returns a sum so that the reading happens. */
static double probe_read(const char *p, ptrdiff_t count) {
  vec sum[8] = {{0}};
  for (ptrdiff_t i = 0; i + 8 <= count; i += 8) {
    UNROLL for (int n = 0; n < 8; n++) sum[n] += load(p + (i + n) * VECTOR_BYTES);
  }
  vec total = {0};
  UNROLL for (int n = 0; n < 8; n++) total += sum[n];
  return sum_lanes(total);
}
