/* Vectors of the machine's width, whatever it is. Kernels name no instruction set, no compiler and, but where the
 * algorithm itself differs, no element type: they are written once on what follows and compiled for each.
 *
 * Elements are what the caller's arrays hold: -DELEMENT=F32, F64, F16, BF16 or, of weights alone, I8; KV8 is F32 whose
 * keys and values are int8, each row of which a scale multiplies. Arithmetic is on vectors of `real`, the compute type:
 * double for F64, float for all others. The vector extensions of GCC and Clang express most of it;
 * -ffp-contract=fast turns a * b + c into one fused instruction where the machine has it.
 *
 * What they do not express well is a primitive, which a file of simd/ defines for one instruction set; portable.h has
 * those that it leaves out, but for the first two lines. All are in this order:
 *
 *   VECTOR_BYTES                 bytes of a vector
 *   TILE_ROWS, TILE_VECTORS      accumulators of the tile of gemm.h, as many as registers hold
 *   ATTENTION_UNROLL             whether attention's tiles take two groups a turn
 *   EXP2_REDUCTION               the range that exp2_of_negative reduces its argument to
 *   HIDE(x)                      the compiler must believe that x changed: keeps loops that measure
 *   load_first(p, n)             the first n lanes from p, zeros after them; reads nothing else
 *   store_first(p, x, n)         the first n lanes to p; writes nothing else
 *   load_bytes_first(p, n)       the first n bytes from p, zeros after them, in the order of memory
 *   any_lane(x)                  whether a lane of integers is not 0
 *   vmax(a, b), vmin(a, b)       the larger, the smaller; b where a is NaN
 *   larger(a, b)                 the larger of integers
 *   LOOKS_UP                     whether there is the next line
 *   look_up(p, i)                of 32 reals at p, the one that the last 5 bits of a lane count
 *   choose_by_bytes(p, yes, no)  yes where the lane's byte of p is not 0
 *   transpose(x)                 x[i][j] <-> x[j][i] of LANES vectors
 *   ACROSS                       vectors that the next line makes, if these are narrow
 *   load_across(x, row, offset)  in lane i of x[j] the j-th 32 or 64 bits after row[i] + offset, as LANES in reals
 *   sum_rows(x)                  in lane i the sum of the lanes of x[i], by halves
 *   ZIP_BYTES(lo or hi, a, b)    bytes of a and b in turn, of one half of each 16 bytes
 *   WIDENS_FLOAT16               whether an instruction does the next line
 *   widen_float16(x)             float16 to float32
 *   narrow_float16(x)            and back, rounded to the nearest, ties to even
 *   raise_byte(x, s)             byte s of each 32 bits as the highest of them, with zeros below
 *   widen_int8(p)                int8, LANES from p, to float32
 *   round_bfloat16(x)            to bfloat16 likewise; the machine's own rounding takes denormals for 0
 *   exp2_of_negative(x)          2^x for x <= 0, from exp2_polynomial on the range of EXP2_REDUCTION
 *   multiply_add(a, b, c)        c + the products of a and b, summed in each lane; int8: of integers
 *   round_groups(x)              int8 inputs of GROUP vectors, rounded, as multiply_add reads them */
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if PYATTN_APART
#define KERNEL /* in an object of its own */
#else
#define KERNEL static
#endif
#define INLINE static inline __attribute__((always_inline))
/* Full unrolling keeps the accumulators of a tile in registers; by a count, Clang 14 unrolls too late for that. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 64")
#endif

#define F32 1
#define F64 2
#define F16 3
#define BF16 4
#define I8 5
#define KV8 6
#define REAL_BITS (ELEMENT == F64 ? 64 : 32)
#define ELEMENT_BYTES (ELEMENT == I8 ? 1 : ELEMENT == F16 || ELEMENT == BF16 ? 2 : REAL_BITS / 8)
#define KEY_BYTES (ELEMENT == KV8 ? 1 : ELEMENT_BYTES) /* of an element of keys and values */

#define EXP2_NEAREST 1    /* [-1/2, 1/2] */
#define EXP2_FLOOR 2      /* [0, 1] */
#define EXP2_SIXTEENTHS 3 /* [-1/32, 1/32] */

#if ELEMENT == BF16 && defined(__AVX512BF16__)
#define PAIRS_OF_BFLOAT16 1
#else
#define PAIRS_OF_BFLOAT16 0
#endif

#if (ELEMENT == BF16 && defined(__AMX_BF16__)) || (ELEMENT == I8 && defined(__AMX_INT8__))
#define HAS_TILES 1 /* AMX, which linear/amx.h multiplies by */
#else
#define HAS_TILES 0
#endif
/* Rows that a panel of weights is multiplied with at once. */
#define LINEAR_ROWS (HAS_TILES ? PYATTN_TILES_ROWS : TILE_ROWS)

/* Elements of a dot-product group: a lane multiplies them at once. */
#if ELEMENT == I8 && defined(__AVX512VNNI__)
#define GROUP 4
#else
#define GROUP (ELEMENT == I8 || PAIRS_OF_BFLOAT16 ? 2 : 1)
#endif
/* Dot-product groups of a key that a lane holds as they lie in memory. */
#define KEY_GROUPS (ELEMENT == KV8 ? 4 : ELEMENT == BF16 && !PAIRS_OF_BFLOAT16 ? 2 : 1)
/* Vectors that join_rows_wide loads at once. */
#define VALUE_GROUP (ELEMENT == BF16 && VECTOR_BYTES < 64 ? 2 : GROUP)
#define KEY_UNIT (ELEMENT == KV8 ? 0x1p24f : 1) /* what key_group multiplies keys by */
#define INPUT_ZERO (GROUP == 4 ? 128 : 0) /* added to int8 inputs, for dot products that want them without a sign */

#if defined(__AVX512F__)
#include "simd/avx512.h"
#elif defined(__AVX2__)
#include "simd/avx2.h"
#elif defined(__x86_64__)
#include "simd/sse2.h"
#elif defined(__aarch64__)
#include "simd/neon.h"
#else /* 16 registers are assumed: 6 x 2 accumulators, 2 loads, 1 broadcast; 1 to spare */
#define VECTOR_BYTES 16
#define TILE_ROWS 6
#define TILE_VECTORS 2
#endif
#include "simd/portable.h"

INLINE ptrdiff_t least(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }

INLINE ptrdiff_t round_up(ptrdiff_t n, ptrdiff_t unit) { return (n + unit - 1) / unit * unit; }

/* Into the second-level cache: streams from memory overtake the first one's few requests. */
INLINE void prefetch_far(const char *p) { __builtin_prefetch(p, 0, 2); }

/* Into the first one, for what is read soon. */
INLINE void prefetch_near(const char *p) { __builtin_prefetch(p, 0, 3); }

/* The compiler must believe that pointer p changed: what is reached from it is not reached from others. */
#define HIDE_ADDRESS(p) __asm__("" : "+r"(p))

/* The compiler must believe that array x was written: an array that is filled as far as it will be read. */
#define WRITTEN(x) __asm__("" : "=m"(x))

/* n values, or LANES if that is less; nothing after them is touched. So it is with all loads and stores of n values. */
INLINE vec load_reals(const char *p, ptrdiff_t n) { return n >= LANES ? load(p) : load_first(p, n); }

INLINE void store_reals(char *p, vec x, ptrdiff_t n) {
  if (n >= LANES)
    store(p, x);
  else
    store_first(p, x, n);
}

/* Elements in memory to and from the compute type; for I8, the bfloat16 operands that go with int8 weights. */
#if ELEMENT == F32 || ELEMENT == F64 || ELEMENT == KV8
INLINE vec load_elements(const char *p, ptrdiff_t n) { return load_reals(p, n); }

INLINE void store_elements(char *p, vec x, ptrdiff_t n) { store_reals(p, x, n); }
#else
INLINE vec widen(vec16 x) { return ELEMENT == F16 ? widen_float16(x) : widen_bfloat16(x); }

INLINE vec16 narrow(vec x) { return ELEMENT == F16 ? narrow_float16(x) : narrow_bfloat16(x); }

/* Of n 16-bit lanes; the copy of a whole vector is one instruction. */
INLINE void copy_lanes16(void *to, const void *from, ptrdiff_t n) {
  if (n >= LANES)
    memcpy(to, from, LANES * 2);
  else
    memcpy(to, from, (size_t)n * 2);
}

INLINE vec load_elements(const char *p, ptrdiff_t n) {
  vec16 x = {0};
  copy_lanes16(&x, p, n);
  return widen(x);
}

INLINE void store_elements(char *p, vec x, ptrdiff_t n) {
  const vec16 y = narrow(x);
  copy_lanes16(p, &y, n);
}
#endif

#if ELEMENT == BF16 || ELEMENT == I8
/* Rounded by round_bfloat16, whose type is the machine's own. */
INLINE void store_bf16(char *p, vec x, ptrdiff_t n) {
  const __auto_type y = round_bfloat16(x);
  copy_lanes16(p, &y, n);
}
#else
INLINE void store_bf16(char *p, vec x, ptrdiff_t n) { store_elements(p, x, n); }
#endif

#if ELEMENT != I8
/* The n elements at these indices; NULL: at 0, 1, ... */
INLINE vec load_gathered(const char *p, ptrdiff_t step, const int32_t *indices, ptrdiff_t n) {
  char x[LANES * ELEMENT_BYTES] = {0};
  for (ptrdiff_t i = 0; i < least(n, LANES); i++) {
    memcpy(x + i * ELEMENT_BYTES, p + (indices ? indices[i] : i) * step, ELEMENT_BYTES);
  }
  return load_elements(x, LANES);
}

INLINE vec load_strided(const char *p, ptrdiff_t step, ptrdiff_t n) {
  return step == ELEMENT_BYTES ? load_elements(p, n) : load_gathered(p, step, NULL, n);
}

INLINE void store_strided(char *p, ptrdiff_t step, vec x, ptrdiff_t n) {
  if (step == ELEMENT_BYTES) {
    store_elements(p, x, n);
    return;
  }
  char y[LANES * ELEMENT_BYTES];
  store_elements(y, x, LANES);
  for (ptrdiff_t i = 0; i < least(n, LANES); i++) memcpy(p + i * step, y + i * ELEMENT_BYTES, ELEMENT_BYTES);
}

#endif

/* The operands of multiply_add: lanes of dot-product groups, GROUP elements each (the layout of VNNI).
 *
 *   primitive       lanes of groups from                          used for
 *   load_groups     up to LANES * GROUP elements of a row         queries, weights
 *   load_key_lanes  KEY_GROUPS times as many, as they lie         keys
 *   key_group       the s-th group of each of these lanes         keys
 *   pack_groups     neighbouring lanes of low, then of high       inputs of a product, decode's weights
 *   store_packed    to two rows, what pack_groups took from each  gradients of pairs
 *   join_groups     the same lanes of two vectors                 prefill's weights
 *   join_rows       up to LANES elements of each of two rows      values
 *   join_rows_wide  the same of whole rows, GROUP vectors         values in decode
 *   live_groups     -1 in the elements of weights but -0.0        values of masked keys
 *
 * pack and join round to the nearest. With groups of one element the second operand has no part. */
#if ELEMENT == I8
#if GROUP == 4
typedef int8_t grouped; /* an int8 weight in a group */
#else
typedef int16_t grouped;
#endif

INLINE vec load_groups(const char *p, ptrdiff_t step, ptrdiff_t n) {
  grouped x[GROUP * LANES] = {0};
  for (ptrdiff_t i = 0; i < least(n, GROUP * LANES); i++) x[i] = *(const int8_t *)(p + i * step);
  return load(x);
}
#elif PAIRS_OF_BFLOAT16
#include "simd/bfloat16_pairs.h"
#else
INLINE vec load_groups(const char *p, ptrdiff_t step, ptrdiff_t n) { return load_strided(p, step, n); }

INLINE vec pack_groups(vec low, vec high) { return (void)high, low; }

INLINE void store_packed(char *low, char *high, vec x) { (void)high, store(low, x); }

INLINE vec join_groups(vec low, vec high) { return (void)high, low; }

INLINE vec live_groups(vec weight) { return (vec)((ivec)weight != SIGN_BIT); }

#if ELEMENT != KV8
INLINE vec join_rows(const char *low, const char *high, ptrdiff_t step, ptrdiff_t n) {
  return (void)high, load_strided(low, step, n);
}

#if VALUE_GROUP == 2 /* the even features, then the odd ones: widened by a shift or a mask */
INLINE void join_rows_wide(const char *low, const char *high, ptrdiff_t offset, vec x[2]) {
  (void)high;
  x[0] = (vec)((uvec)load(low + offset) << 16);
  x[1] = (vec)((uvec)load(low + offset) & 0xffff0000);
}
#else
INLINE void join_rows_wide(const char *low, const char *high, ptrdiff_t offset, vec x[1]) {
  (void)high;
  x[0] = load_elements(low + offset, LANES);
}
#endif
#endif
#endif

#if ELEMENT == KV8
#include "simd/int8_keys.h"
#else
#if KEY_GROUPS == 2 /* transposed as they lie, half as often, and widened by a shift or a mask */
INLINE vec load_key_lanes(const char *p, ptrdiff_t step, ptrdiff_t n) {
  if (step == ELEMENT_BYTES && n >= 2 * LANES) return load(p);
  char x[VECTOR_BYTES] = {0};
  for (ptrdiff_t i = 0; i < least(n, 2 * LANES); i++) memcpy(x + i * ELEMENT_BYTES, p + i * step, ELEMENT_BYTES);
  return load(x);
}

INLINE vec key_group(vec lanes, int s) { return (vec)(s ? (uvec)lanes & 0xffff0000 : (uvec)lanes << 16); }
#else
INLINE vec load_key_lanes(const char *p, ptrdiff_t step, ptrdiff_t n) { return load_groups(p, step, n); }

INLINE vec key_group(vec lanes, int s) { return (void)s, lanes; }
#endif
#endif

/* Boolean masks: bytes of 16 rows, transposed 16 x 16 within each 16 bytes of a vector. */
INLINE void transpose_bytes(bytes x[16]) {
  UNROLL for (int pass = 0; pass < 4; pass++) {
    bytes y[16];
    UNROLL for (int i = 0; i < 8; i++) {
      y[2 * i] = ZIP_BYTES(lo, x[i], x[i + 8]);
      y[2 * i + 1] = ZIP_BYTES(hi, x[i], x[i + 8]);
    }
    UNROLL for (int i = 0; i < 16; i++) x[i] = y[i];
  }
}
