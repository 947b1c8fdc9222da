/* The only file that knows an instruction set or a compiler.
 *
 * Every kernel is written once and compiled once per instruction set and element type by compiler flags alone (setup.py
 * holds the table). Elements are what the caller's arrays hold, -DELEMENT=F32, F64, F16, BF16 or, of weights alone, I8;
 * arithmetic is on vectors of `real`, double for F64 and float for all others. It uses the vector extensions of GCC and
 * Clang; -ffp-contract=fast turns a * b + c into one fused instruction where the machine has it. Intrinsics stand only
 * where the extensions have no good word for an operation: maximum, rounding, scaling by powers of two, masked loads,
 * half types.
 */
#ifndef PYATTN_SIMD_H
#define PYATTN_SIMD_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 64") /* full unrolling keeps the accumulators of a tile in registers */

/* The tile of tile.h: rows x vectors accumulators, a load for each vector and a broadcast, 28 of 32 registers or 15
 * of 16. */
#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#define TILE_ROWS 8
#define TILE_VECTORS 3
#elif defined(__AVX2__)
#define VECTOR_BYTES 32
#define TILE_ROWS 6 /* 4 x 3 is slower: its walk along columns leaves three quarters of each line to a later tile */
#define TILE_VECTORS 2
#elif defined(__aarch64__)
#define VECTOR_BYTES 16
#define TILE_ROWS 8
#define TILE_VECTORS 3
#else
#define VECTOR_BYTES 16
#define TILE_ROWS 6
#define TILE_VECTORS 2
#endif

#define F32 1
#define F64 2
#define F16 3
#define BF16 4
#define I8 5
#if ELEMENT == F64
#define REAL_BITS 64
#else
#define REAL_BITS 32
#endif
#if ELEMENT == F16 || ELEMENT == BF16
#define ELEMENT_BYTES 2
#elif ELEMENT == I8
#define ELEMENT_BYTES 1
#else
#define ELEMENT_BYTES (REAL_BITS / 8)
#endif

/* Elements that a lane of a tile multiplies in one step: as many as the machine's dot products take; of bytes, two as
 * 16-bit integers where it has none. */
#if ELEMENT == I8 && defined(__AVX512VNNI__)
#define STEP 4
#elif (ELEMENT == BF16 && defined(__AVX512BF16__)) || ELEMENT == I8
#define STEP 2
#else
#define STEP 1
#endif

/* Whether float16 becomes float32 in one instruction. */
#if REAL_BITS == 32 && (defined(__F16C__) || defined(__aarch64__))
#define WIDENS_FLOAT16 1
#else
#define WIDENS_FLOAT16 0
#endif

/* Whether attention's tiles take steps in pairs: 3 % faster on AVX-512, 1 to 6 % slower on AVX2. */
#if VECTOR_BYTES == 64 && STEP == 1
#define ATTENTION_PAIRS 1
#else
#define ATTENTION_PAIRS 0
#endif

#if REAL_BITS == 32
typedef float real;
typedef int32_t word;
typedef uint32_t uword;
#define MANTISSA_BITS 23
#define SIGN_BIT INT32_MIN
#define LOWEST_EXPONENT -126
#else
typedef double real;
typedef int64_t word;
typedef uint64_t uword;
#define MANTISSA_BITS 52
#define SIGN_BIT INT64_MIN
#define LOWEST_EXPONENT -1022
#endif
#define LANES ((int)(VECTOR_BYTES / sizeof(real)))

typedef real vec __attribute__((vector_size(VECTOR_BYTES)));
typedef word ivec __attribute__((vector_size(VECTOR_BYTES)));
typedef uword uvec __attribute__((vector_size(VECTOR_BYTES)));
typedef real vec_unaligned __attribute__((vector_size(VECTOR_BYTES), aligned(1), may_alias));
typedef real real_unaligned __attribute__((aligned(1), may_alias)); /* callers' arrays may have any alignment */

/* Intrinsics of the machine's width and type: MM(max)(a, b) is _mm512_max_ps, _mm256_max_pd, ... */
#if REAL_BITS == 32
#define MM_TYPE(name) name##_ps
#else
#define MM_TYPE(name) name##_pd
#endif
#if VECTOR_BYTES == 64
#define MM(name) MM_TYPE(_mm512_##name)
#elif VECTOR_BYTES == 32
#define MM(name) MM_TYPE(_mm256_##name)
#else
#define MM(name) MM_TYPE(_mm_##name)
#endif

/* The compiler must believe that x changed: keeps a loop that measures from being computed in advance. */
#if defined(__AVX512F__)
#define HIDE(x) __asm__ volatile("" : "+v"(x))
#elif defined(__x86_64__)
#define HIDE(x) __asm__ volatile("" : "+x"(x))
#elif defined(__aarch64__)
#define HIDE(x) __asm__ volatile("" : "+w"(x))
#else
#define HIDE(x) __asm__ volatile("" : "+m"(x))
#endif

/* Into the second-level cache: streams from memory overtake the first one's few requests. */
INLINE void prefetch_far(const char *p) { __builtin_prefetch(p, 0, 2); }

/* The compiler must believe that array x was written: an array that is filled as far as it will be read. */
#define WRITTEN(x) __asm__("" : "=m"(x))

INLINE vec splat(real x) { return x - (vec){0}; }

INLINE vec splat_bits(word x) { return (vec)(x - (ivec){0}); }

INLINE vec load(const void *p) { return *(const vec_unaligned *)p; }

INLINE void store(void *p, vec x) { *(vec_unaligned *)p = x; }

INLINE real load_real(const void *p) { return *(const real_unaligned *)p; }

INLINE void store_real(void *p, real x) { *(real_unaligned *)p = x; }

/* The first n lanes from p, zeros behind; reads nothing past them. */
INLINE vec load_first(const void *p, ptrdiff_t n) {
#if defined(__AVX512F__) && REAL_BITS == 32
  return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#elif defined(__AVX512F__)
  return _mm512_maskz_loadu_pd((__mmask8)((1u << n) - 1), p);
#else
  vec x = {0};
  memcpy(&x, p, (size_t)n * sizeof(real));
  return x;
#endif
}

INLINE void store_first(void *p, vec x, ptrdiff_t n) {
#if defined(__AVX512F__) && REAL_BITS == 32
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), x);
#elif defined(__AVX512F__)
  _mm512_mask_storeu_pd(p, (__mmask8)((1u << n) - 1), x);
#else
  memcpy(p, &x, (size_t)n * sizeof(real));
#endif
}

/* yes where the lanes of mask are -1, no where they are 0 */
INLINE vec choose(ivec mask, vec yes, vec no) { return (vec)((mask & (ivec)yes) | (~mask & (ivec)no)); }

INLINE vec magnitude(vec x) { return (vec)((ivec)x & ~(SIGN_BIT - (ivec){0})); }

/* The larger; b where a is NaN. */
INLINE vec vmax(vec a, vec b) {
#if defined(__x86_64__)
  return (vec)MM(max)(a, b);
#else
  return choose(a > b, a, b);
#endif
}

/* The smaller; b where a is NaN. */
INLINE vec vmin(vec a, vec b) {
#if defined(__x86_64__)
  return (vec)MM(min)(a, b);
#else
  return choose(a < b, a, b);
#endif
}

INLINE int any_lane(ivec x) {
  word any = 0;
  UNROLL for (int i = 0; i < LANES; i++) any |= x[i];
  return any != 0;
}

INLINE real sum_lanes(vec x) {
  real sum = 0;
  UNROLL for (int i = 0; i < LANES; i++) sum += x[i];
  return sum;
}

/* None of them NaN. */
INLINE real max_lanes(vec x) {
  real most = x[0];
  UNROLL for (int i = 1; i < LANES; i++) most = x[i] > most ? x[i] : most;
  return most;
}

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE __builtin_shufflevector
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (ivec){__VA_ARGS__})
#endif
#if VECTOR_BYTES * 8 / REAL_BITS == 8
#define ZIP_LOW(a, b) SHUFFLE(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define ZIP_HIGH(a, b) SHUFFLE(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#elif VECTOR_BYTES * 8 / REAL_BITS == 4
#define ZIP_LOW(a, b) SHUFFLE(a, b, 0, 4, 1, 5)
#define ZIP_HIGH(a, b) SHUFFLE(a, b, 2, 6, 3, 7)
#else
#define ZIP_LOW(a, b) SHUFFLE(a, b, 0, 2)
#define ZIP_HIGH(a, b) SHUFFLE(a, b, 1, 3)
#endif

/* Reals in memory: vectors of n <= LANES of them; nothing behind is touched. */
INLINE vec load_reals(const char *p, ptrdiff_t n) { return n == LANES ? load(p) : load_first(p, n); }

INLINE void store_reals(char *p, vec x, ptrdiff_t n) {
  if (n == LANES)
    store(p, x);
  else
    store_first(p, x, n);
}

#if REAL_BITS == 32
/* Numbers of 16 bits to and from reals: rounded to the nearest, ties to even; a NaN stays one. */
typedef uint16_t halves __attribute__((vector_size(2 * LANES)));

INLINE vec widen_bfloat16(halves x) { return (vec)(__builtin_convertvector(x, uvec) << 16); }

INLINE halves narrow_bfloat16(vec x) {
  const uvec bits = (uvec)x;
  const uvec rounded = bits + 0x7fff + (bits >> 16 & 1);
  return __builtin_convertvector((uvec)choose(x == x, (vec)rounded, (vec)(bits | 0x400000)) >> 16, halves);
}

#if defined(__AVX512F__)
INLINE vec widen_float16(halves x) { return (vec)_mm512_cvtph_ps((__m256i)x); }

INLINE halves narrow_float16(vec x) { return (halves)_mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT); }
#elif defined(__F16C__)
INLINE vec widen_float16(halves x) { return (vec)_mm256_cvtph_ps((__m128i)x); }

INLINE halves narrow_float16(vec x) { return (halves)_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT); }
#elif defined(__aarch64__)
INLINE vec widen_float16(halves x) { return (vec)vcvt_f32_f16((float16x4_t)x); }

INLINE halves narrow_float16(vec x) { return (halves)vcvt_f16_f32((float32x4_t)x); }
#else
INLINE vec widen_float16(halves h) { /* exponents differ by 112; inf and NaN have the largest one in either format */
  const uvec x = __builtin_convertvector(h, uvec), size = (x & 0x7fff) << 13;
  const vec finite = (vec)size * 0x1p112f, beyond = (vec)(size | 0x7f800000);
  return (vec)((uvec)choose((ivec)size >= 0x7c00 << 13, beyond, finite) | (x & 0x8000) << 16);
}

INLINE halves narrow_float16(vec x) {
  const uvec bits = (uvec)x, size = bits & 0x7fffffff;
  /* below 2^-14, adding 1/2 leaves the rounded significand in the lowest bits; else the exponent moves by 112 */
  const uvec small = (uvec)((vec)size + 0.5f) - 0x3f000000;
  const uvec normal = (size - (112u << 23) + 0xfff + (size >> 13 & 1)) >> 13;
  const vec finite = choose((ivec)size < 113 << 23, (vec)small, (vec)normal);
  const vec beyond = choose((ivec)size > 0x7f800000, splat_bits(0x7e00), splat_bits(0x7c00));
  const uvec y = (uvec)choose((ivec)size >= 0x477ff000, beyond, finite) | (bits >> 16 & 0x8000);
  return __builtin_convertvector(y, halves);
}
#endif
#endif

/* Elements in memory to and from reals; of I8, what the halves that go with it hold, bfloat16. */
#if ELEMENT == F32 || ELEMENT == F64
INLINE vec load_elements(const char *p, ptrdiff_t n) { return load_reals(p, n); }

INLINE void store_elements(char *p, vec x, ptrdiff_t n) { store_reals(p, x, n); }
#else
INLINE vec widen(halves x) { return ELEMENT == F16 ? widen_float16(x) : widen_bfloat16(x); }

INLINE halves narrow(vec x) { return ELEMENT == F16 ? narrow_float16(x) : narrow_bfloat16(x); }

INLINE vec load_elements(const char *p, ptrdiff_t n) {
  halves x = {0};
  if (n == LANES)
    memcpy(&x, p, sizeof x);
  else
    memcpy(&x, p, (size_t)n * 2);
  return widen(x);
}

INLINE void store_elements(char *p, vec x, ptrdiff_t n) {
  const halves y = narrow(x);
  if (n == LANES)
    memcpy(p, &y, sizeof y);
  else
    memcpy(p, &y, (size_t)n * 2);
}
#endif

#if ELEMENT == BF16 || ELEMENT == I8
/* Rounded by the machine where it can, which takes denormal numbers for 0. */
INLINE void store_halves(char *p, vec x, ptrdiff_t n) {
#if defined(__AVX512BF16__)
  const __m256bh y = _mm512_cvtneps_pbh((__m512)x);
  if (n == LANES)
    memcpy(p, &y, sizeof y);
  else
    memcpy(p, &y, (size_t)n * 2);
#else
  store_elements(p, x, n);
#endif
}
#else
INLINE void store_halves(char *p, vec x, ptrdiff_t n) { store_elements(p, x, n); }
#endif

#if ELEMENT != I8
INLINE vec load_strided(const char *p, ptrdiff_t step, ptrdiff_t n) {
  if (step == ELEMENT_BYTES) return load_elements(p, n);
  char x[LANES * ELEMENT_BYTES] = {0};
  for (ptrdiff_t i = 0; i < n; i++) memcpy(x + i * ELEMENT_BYTES, p + i * step, ELEMENT_BYTES);
  return load_elements(x, LANES);
}

/* n elements, those of these numbers. */
INLINE vec load_gathered(const char *p, ptrdiff_t step, const int32_t *numbers, ptrdiff_t n) {
  char x[LANES * ELEMENT_BYTES] = {0};
  for (ptrdiff_t i = 0; i < n; i++) memcpy(x + i * ELEMENT_BYTES, p + numbers[i] * step, ELEMENT_BYTES);
  return load_elements(x, LANES);
}

INLINE void store_strided(char *p, ptrdiff_t step, vec x, ptrdiff_t n) {
  if (step == ELEMENT_BYTES) {
    store_elements(p, x, n);
    return;
  }
  char y[LANES * ELEMENT_BYTES];
  store_elements(y, x, LANES);
  for (ptrdiff_t i = 0; i < n; i++) memcpy(p + i * step, y + i * ELEMENT_BYTES, ELEMENT_BYTES);
}

#endif

/* What a tile multiplies: lanes of STEP elements. multiply_add adds all of their products to the real lanes of c;
 * load_steps makes lanes of up to LANES * STEP elements of a row; pack_steps makes them of neighbouring lanes and
 * join_steps of the same lanes of two vectors, rounding to the nearest; join_rows makes them of elements of two rows,
 * and join_rows_wide STEP vectors of such lanes (with steps of one element, the second has no part).
 *
 * Bytes are products of integers, whose sums the lanes of c are: weights, with a sign, times inputs, which the dot
 * products of bytes want without one: increased by INPUT_ZERO. round_steps makes them of STEP vectors of reals. */
#if ELEMENT == I8
#if STEP == 4
#define INPUT_ZERO 128
INLINE vec multiply_add(vec a, vec b, vec c) { return (vec)_mm512_dpbusd_epi32((__m512i)c, (__m512i)a, (__m512i)b); }

INLINE vec round_steps(const vec x[STEP]) {
  static const int32_t order[] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15}; /* packs work in quarters */
  __m512i y[STEP];
  UNROLL for (int s = 0; s < STEP; s++) y[s] = _mm512_cvtps_epi32((__m512)x[s]);
  const __m512i z = _mm512_packs_epi16(_mm512_packs_epi32(y[0], y[1]), _mm512_packs_epi32(y[2], y[3]));
  return (vec)_mm512_xor_si512(_mm512_permutexvar_epi32(_mm512_loadu_si512(order), z), _mm512_set1_epi8(-128));
}
#else
#define INPUT_ZERO 0
INLINE vec multiply_add(vec a, vec b, vec c) {
#if defined(__AVX512F__)
  return (vec)_mm512_add_epi32((__m512i)c, _mm512_madd_epi16((__m512i)a, (__m512i)b));
#elif defined(__AVX2__)
  return (vec)_mm256_add_epi32((__m256i)c, _mm256_madd_epi16((__m256i)a, (__m256i)b));
#elif defined(__x86_64__)
  return (vec)_mm_add_epi32((__m128i)c, _mm_madd_epi16((__m128i)a, (__m128i)b));
#else
  const ivec x = (ivec)a, y = (ivec)b;
  return (vec)((ivec)c + ((x << 16) >> 16) * ((y << 16) >> 16) + (x >> 16) * (y >> 16));
#endif
}

INLINE vec round_steps(const vec x[STEP]) {
  int16_t y[STEP * LANES];
  UNROLL for (int i = 0; i < STEP * LANES; i++) y[i] = (int16_t)rintf(x[i / LANES][i % LANES]);
  return load(y);
}
#endif

INLINE vec load_steps(const char *p, ptrdiff_t step, ptrdiff_t n) {
  int8_t x[STEP * LANES] = {0};
  for (ptrdiff_t i = 0; i < n; i++) x[i] = *(const int8_t *)(p + i * step);
#if STEP == 4
  return load(x);
#else
  int16_t y[STEP * LANES];
  for (int i = 0; i < STEP * LANES; i++) y[i] = x[i];
  return load(y);
#endif
}
#elif STEP == 2
INLINE vec multiply_add(vec a, vec b, vec c) { return (vec)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b); }

INLINE vec load_steps(const char *p, ptrdiff_t step, ptrdiff_t n) {
  if (step == 2) return n >= 2 * LANES ? load(p) : (vec)_mm512_maskz_loadu_epi16((__mmask32)((1ull << n) - 1), p);
  char x[VECTOR_BYTES] = {0};
  for (ptrdiff_t i = 0; i < n; i++) memcpy(x + i * 2, p + i * step, 2);
  return load(x);
}

INLINE vec pack_steps(vec low, vec high) { return (vec)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low); }

INLINE vec join_steps(vec low, vec high) {
  static const uint16_t order[] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                   8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return (vec)_mm512_permutexvar_epi16(_mm512_loadu_si512(order), (__m512i)pack_steps(low, high));
}

INLINE vec join_rows(const char *low, const char *high, ptrdiff_t step, ptrdiff_t n) {
  const uvec a = (uvec)load_strided(low, step, n) >> 16;
  return (vec)(high == NULL ? a : a | (uvec)load_strided(high, step, n));
}

INLINE void join_rows_wide(const char *low, const char *high, ptrdiff_t offset, vec x[2]) {
  static const uint16_t order[] = {0,  32, 1,  33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                   8,  40, 9,  41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47,
                                   16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
                                   24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63};
  const __m512i a = (__m512i)load(low + offset), b = high ? (__m512i)load(high + offset) : _mm512_setzero_si512();
  x[0] = (vec)_mm512_permutex2var_epi16(a, _mm512_loadu_si512(order), b);
  x[1] = (vec)_mm512_permutex2var_epi16(a, _mm512_loadu_si512(order + 32), b);
}

/* -1 in both halves of a lane, or in one, where that half is not -0.0 */
INLINE vec live_steps(vec weight) {
  const uvec bits = (uvec)weight;
  const ivec low = (bits & 0xffff) == 0x8000, high = (bits & 0xffff0000) == 0x80000000;
  return (vec)(((uvec)~low & 0xffff) | ((uvec)~high & 0xffff0000));
}
#else
INLINE vec multiply_add(vec a, vec b, vec c) { return a * b + c; }

INLINE vec load_steps(const char *p, ptrdiff_t step, ptrdiff_t n) { return load_strided(p, step, n); }

INLINE vec pack_steps(vec low, vec high) { return (void)high, low; }

INLINE vec join_steps(vec low, vec high) { return (void)high, low; }

INLINE vec join_rows(const char *low, const char *high, ptrdiff_t step, ptrdiff_t n) {
  return (void)high, load_strided(low, step, n);
}

INLINE void join_rows_wide(const char *low, const char *high, ptrdiff_t offset, vec x[1]) {
  (void)high;
  x[0] = load_elements(low + offset, LANES);
}

INLINE vec live_steps(vec weight) { return (vec)((ivec)weight != SIGN_BIT); }
#endif

/* x[i][j] <-> x[j][i] */
#if VECTOR_BYTES * 8 / REAL_BITS == 16
/* Within quarters first, by instructions that need no table of lanes: 1.7 times as fast as the passes below. */
#define ZIP_1(half, a, b) (vec) _mm512_unpack##half##_ps((__m512)(a), (__m512)(b))
#define ZIP_2(half, a, b) (vec) _mm512_unpack##half##_pd((__m512d)(a), (__m512d)(b))
#define QUARTERS(which, a, b) (vec) _mm512_shuffle_f32x4((__m512)(a), (__m512)(b), which)
INLINE void transpose(vec x[16]) {
  vec y[16];
  UNROLL for (int i = 0; i < 16; i += 4) {
    const vec a = ZIP_1(lo, x[i], x[i + 1]), b = ZIP_1(hi, x[i], x[i + 1]);
    const vec c = ZIP_1(lo, x[i + 2], x[i + 3]), d = ZIP_1(hi, x[i + 2], x[i + 3]);
    y[i] = ZIP_2(lo, a, c), y[i + 1] = ZIP_2(hi, a, c);
    y[i + 2] = ZIP_2(lo, b, d), y[i + 3] = ZIP_2(hi, b, d);
  }
  UNROLL for (int i = 0; i < 4; i++) { /* y[i + 4 k]: in each quarter j, column i + 4 j of rows 4 k ... 4 k + 3 */
    const vec a = QUARTERS(0x88, y[i], y[i + 4]), b = QUARTERS(0x88, y[i + 8], y[i + 12]);
    const vec c = QUARTERS(0xdd, y[i], y[i + 4]), d = QUARTERS(0xdd, y[i + 8], y[i + 12]);
    x[i] = QUARTERS(0x88, a, b), x[i + 8] = QUARTERS(0xdd, a, b);
    x[i + 4] = QUARTERS(0x88, c, d), x[i + 12] = QUARTERS(0xdd, c, d);
  }
}
#else
/* Each of the log2(LANES) passes zips the upper half of the rows into the lower half. */
INLINE void transpose(vec x[LANES]) {
  UNROLL for (int pass = 1; pass < LANES; pass *= 2) {
    vec y[LANES];
    UNROLL for (int i = 0; i < LANES / 2; i++) {
      y[2 * i] = ZIP_LOW(x[i], x[i + LANES / 2]);
      y[2 * i + 1] = ZIP_HIGH(x[i], x[i + LANES / 2]);
    }
    UNROLL for (int i = 0; i < LANES; i++) x[i] = y[i];
  }
}
#endif

/* Boolean masks: bytes of 16 rows, transposed 16 x 16 within each 16 bytes of a vector. */
typedef uint8_t bytes __attribute__((vector_size(VECTOR_BYTES)));
#if VECTOR_BYTES == 64
#define ZIP_BYTES(side, a, b) (bytes) _mm512_unpack##side##_epi8((__m512i)(a), (__m512i)(b))
#elif VECTOR_BYTES == 32
#define ZIP_BYTES(side, a, b) (bytes) _mm256_unpack##side##_epi8((__m256i)(a), (__m256i)(b))
#elif defined(__x86_64__)
#define ZIP_BYTES(side, a, b) (bytes) _mm_unpack##side##_epi8((__m128i)(a), (__m128i)(b))
#else
#define ZIP_BYTES_lo(a, b) SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define ZIP_BYTES_hi(a, b) SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#define ZIP_BYTES(side, a, b) ZIP_BYTES_##side(a, b)
#endif

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

/* yes where the byte of a lane is not 0 */
INLINE vec choose_by_bytes(const uint8_t *p, vec yes, vec no) {
#if defined(__AVX512F__) && REAL_BITS == 32
  const __m128i lanes = _mm_loadu_si128((const __m128i *)p);
  return (vec)_mm512_mask_mov_ps((__m512)no, _mm_test_epi8_mask(lanes, lanes), (__m512)yes);
#else
  int8_t lanes __attribute__((vector_size(LANES)));
  memcpy(&lanes, p, LANES);
  return choose(__builtin_convertvector(lanes, ivec) != 0, yes, no);
#endif
}

/* 2^x for x <= 0, to 2e-7 (float32), 3e-16 (float64) or, where AVX-512 makes weights that are rounded to pairs of
 * bfloat16, or activations beside bytes, 9e-5 relative; 0 at -inf, NaN at NaN.
 *
 * x = n + r, and 2^r is a minimax polynomial that is exactly 1 at r = 0 (coefficients.py derives all numbers). AVX-512
 * has instructions for r and for p 2^floor(x). In float64 it takes n to sixteenths, whose 2^n but for the power of two
 * it looks up in two registers: half the terms, while in float32 the look-up costs what it saves. Elsewhere n is
 * rounded by adding a number so large that its last bit counts ones; shifted into the exponent it makes the factor
 * 2^n, 0 for n = -127. */
static const real exp2_coefficients[] = {
#if defined(__AVX512F__) && ((ELEMENT == BF16 && STEP == 2) || ELEMENT == I8)
    0x1.3baaa6p-4f, 0x1.d2378ap-3f, 0x1.63e658p-1f
#elif defined(__AVX512F__) && REAL_BITS == 32
    0x1.e974fap-10f, 0x1.277856p-7f, 0x1.c91ce6p-5f, 0x1.ebdb56p-3f, 0x1.62e4bap-1f
#elif defined(__AVX512F__)
    0x1.430a1d08ec681p-13, 0x1.5d897e525c216p-10, 0x1.3b2ab6fb41213p-7, 0x1.c6b08d6f2a289p-5,
    0x1.ebfbdff82c590p-3,  0x1.62e42fefa39f3p-1
#elif REAL_BITS == 32
    0x1.5bba14p-10f, 0x1.3cea88p-7f, 0x1.c6b752p-5f, 0x1.ebf9bcp-3f, 0x1.62e42ap-1f
#else
    0x1.e9d3fe3952179p-32, 0x1.e6063f7217bc6p-28, 0x1.b524fae627834p-24, 0x1.62bfd47773353p-20,
    0x1.ffcbfc670dcd4p-17, 0x1.430913096fd9fp-13, 0x1.5d87fe78a5276p-10, 0x1.3b2ab6fba1ddap-7,
    0x1.c6b08d704a0c2p-5,  0x1.ebfbdff82c598p-3,  0x1.62e42fefa39efp-1
#endif
};

/* 2^r */
INLINE vec exp2_polynomial(vec r) {
  vec p = splat(exp2_coefficients[0]);
  UNROLL for (int i = 1; i < (int)(sizeof exp2_coefficients / sizeof *exp2_coefficients); i++) {
    p = p * r + exp2_coefficients[i];
  }
  return p * r + 1;
}

INLINE vec exp2_of_negative(vec x) {
#if defined(__AVX512F__) && REAL_BITS == 32
  return (vec)_mm512_scalef_ps(exp2_polynomial((vec)_mm512_reduce_ps(x, 9)), x); /* 9: x - floor(x), no exceptions */
#elif defined(__AVX512F__)
  static const real roots[] = {0x1.0000000000000p+0, 0x1.0b5586cf9890fp+0, 0x1.172b83c7d517bp+0, 0x1.2387a6e756238p+0,
                               0x1.306fe0a31b715p+0, 0x1.3dea64c123422p+0, 0x1.4bfdad5362a27p+0, 0x1.5ab07dd485429p+0,
                               0x1.6a09e667f3bcdp+0, 0x1.7a11473eb0187p+0, 0x1.8ace5422aa0dbp+0, 0x1.9c49182a3f090p+0,
                               0x1.ae89f995ad3adp+0, 0x1.c199bdd85529cp+0, 0x1.d5818dcfba487p+0, 0x1.ea4afa2a490dap+0};
  const vec index = x + 0x1.8p48; /* counts sixteenths */
  const vec r = (vec)_mm512_reduce_pd(x, 4 << 4 | 8);
  const vec root = (vec)_mm512_permutex2var_pd(_mm512_loadu_pd(roots), (__m512i)index, _mm512_loadu_pd(roots + 8));
  return (vec)_mm512_scalef_pd(root * exp2_polynomial(r), x - r);
#else
  const vec magic = splat((real)(3ll << (MANTISSA_BITS - 1)));
  const vec clamped = vmax(splat(LOWEST_EXPONENT - 1), x);
  const vec shifted = clamped + magic;
  const vec p = exp2_polynomial(clamped - (shifted - magic));
  return p * (vec)(((uvec)shifted << MANTISSA_BITS) + ((uword)(1 - LOWEST_EXPONENT) << MANTISSA_BITS));
#endif
}

#endif
