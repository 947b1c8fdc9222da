/* What kernels are made of, as functions of whole vectors that test_kernels.py calls without a driver. */
#include "activations.h"
#include "gemm.h"
#if ELEMENT == F32 || ELEMENT == F64
#include "attention/prefill.c"
#endif

#if HAS_TILES
#include "linear/amx.h"
#endif

#define EXPORT __attribute__((visibility("default")))

EXPORT const int lanes = LANES, real_bytes = sizeof(real), tile_rows = TILE_ROWS, tile_vectors = TILE_VECTORS;
EXPORT const int vector_bytes = VECTOR_BYTES;

#define EACH_VECTOR(name, function)                                                                          \
  EXPORT void name(const char *x, char *y, ptrdiff_t count) {                                                \
    for (ptrdiff_t i = 0; i < count; i++) store(y + i * VECTOR_BYTES, function(load(x + i * VECTOR_BYTES))); \
  }
EACH_VECTOR(each_exp2, exp2_of_negative)
EACH_VECTOR(each_tanh, vtanh)
EACH_VECTOR(each_gelu, gelu)
EACH_VECTOR(each_gelu_tanh, gelu_tanh)
EACH_VECTOR(each_silu, silu)
#if REAL_BITS == 32
INLINE vec erfc_of_root(vec x) { return exp2_of_negative(-x * erfc_exponent(x)); }
EACH_VECTOR(each_erfc, erfc_of_root)
#endif

EXPORT void transpose_reals(char *rows) {
  vec x[LANES];
  for (int i = 0; i < LANES; i++) x[i] = load(rows + i * VECTOR_BYTES);
  transpose(x);
  for (int i = 0; i < LANES; i++) store(rows + i * VECTOR_BYTES, x[i]);
}

EXPORT void transpose_mask(char *rows) {
  bytes x[16];
  memcpy(x, rows, sizeof x);
  transpose_bytes(x);
  memcpy(rows, x, sizeof x);
}

#if HAS_TILES
/* sums (rows, vectors LANES) = a, rows of `groups` groups `row` bytes apart, times b (groups, vectors LANES) */
EXPORT void tiles(const char *a, ptrdiff_t row, const char *b, char *sums, int rows, int vectors, ptrdiff_t groups) {
  const struct pyattn_packed_rows input = {.data = a, .row = row};
  WITH_CONSTANT(VECTORS, vectors, TILE_VECTORS, multiply_tiles(&input, b, sums, rows, VECTORS, groups))
}
#endif

#if ELEMENT == F32 || ELEMENT == F64
/* c (tile_rows, tile_vectors lanes) += a (tile_rows, count) b (count, tile_vectors lanes) */
EXPORT void multiply(const char *a, const char *b, char *c, ptrdiff_t count) {
  tile sums;
  memcpy(sums, c, sizeof sums);
  const struct tile_a left = {a, count * (ptrdiff_t)sizeof(real), sizeof(real), a, 0};
  const struct tile_b right = {b, PLAIN_FORMAT, 0, 0};
  tile_multiply(sums, TILE_ROWS, TILE_VECTORS, left, right, count);
  memcpy(c, sums, sizeof sums);
}

/* p (rows, tile_vectors lanes), or what is added to it, = key (rows, count) q (count, tile_vectors lanes); max: of each
 * lane, raised */
EXPORT void score_keys(const char *key, const char *q, char *p, char *max, ptrdiff_t count, int rows, int add) {
  vec logits[TILE_ROWS * TILE_VECTORS], most[TILE_VECTORS];
  const size_t bytes = (size_t)rows * TILE_VECTORS * sizeof(vec);
  memcpy(logits, p, bytes);
  memcpy(most, max, sizeof most);
  const struct tile_a left = {key, count * (ptrdiff_t)sizeof(real), sizeof(real), key, 0};
  const struct joined joined = {add ? JOIN_ADDENDS : JOIN_NOTHING, (const char *)logits};
  WITH_CONSTANT(ROWS, rows, TILE_ROWS,
                score_tile(left, (const vec *)q, count, logits, joined, ROWS, TILE_VECTORS, most))
  memcpy(p, logits, bytes);
  memcpy(max, most, sizeof most);
}

EXPORT const int base_2 = EXP_BASE_2, fused = EXP_FUSED, subtract_first = EXP_SUBTRACT_FIRST;

EXPORT void masked_logits(char *p) { store(p, MASKED); }

/* p (count, tile_vectors lanes): logits to weights; max, sum: of the keys before, then of all; rescale: of what was
 * summed before */
EXPORT void soften(char *p, char *max, char *sum, char *rescale, ptrdiff_t count, int masked, int mode,
                   double to_log2) {
  static struct attention_state state;
  const size_t bytes = (size_t)count * TILE_VECTORS * sizeof(vec);
  memcpy(state.p, p, bytes);
  memcpy(state.split.max, max, sizeof state.split.max);
  memcpy(state.split.sum, sum, sizeof state.split.sum);
  state.exponential = mode;
  state.to_log2 = (real)to_log2;
  find_range_max(&state, count, TILE_VECTORS);
  softmax(&state, count, TILE_VECTORS, masked, mode);
  memcpy(p, state.p, bytes);
  memcpy(max, state.split.max, sizeof state.split.max);
  memcpy(sum, state.split.sum, sizeof state.split.sum);
  memcpy(rescale, state.rescale, sizeof state.rescale);
}
#endif
