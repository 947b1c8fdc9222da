/* The primitives of simd.h that the file of an instruction set, which came before, does not define: by the compiler's
 * vector extensions alone. What it has as a function, it also defines as a macro of the same name. */
#include "vectors.h"

#ifndef ATTENTION_UNROLL
#define ATTENTION_UNROLL 0
#define EXP2_REDUCTION EXP2_NEAREST
#endif

#ifndef HIDE
#define HIDE(x) __asm__ volatile("" : "+m"(x))
#endif

#ifndef load_first
/* Lane by lane: a copy of n bytes is a call, before which Clang empties the registers of the loops around. */
INLINE vec load_first(const void *p, ptrdiff_t n) {
  vec x = {0};
  UNROLL for (int i = 0; i < LANES; i++) {
    if (i < n) x[i] = load_real((const real_unaligned *)p + i);
  }
  return x;
}

INLINE void store_first(void *p, vec x, ptrdiff_t n) {
  UNROLL for (int i = 0; i < LANES; i++) {
    if (i < n) store_real((real_unaligned *)p + i, x[i]);
  }
}
#endif

#ifndef load_bytes_first
INLINE vec load_bytes_first(const void *p, ptrdiff_t n) {
  vec x = {0};
  memcpy(&x, p, (size_t)n);
  return x;
}
#endif

#ifndef any_lane
INLINE int any_lane(ivec x) {
  word any = 0;
  UNROLL for (int i = 0; i < LANES; i++) any |= x[i];
  return any != 0;
}
#endif

#ifndef vmax
INLINE vec vmax(vec a, vec b) { return choose(a > b, a, b); }

INLINE vec vmin(vec a, vec b) { return choose(a < b, a, b); }
#endif

#ifndef larger
INLINE ivec larger(ivec a, ivec b) { return (ivec)choose(a > b, (vec)a, (vec)b); }
#endif

#ifndef LOOKS_UP
#define LOOKS_UP 0
#endif

#ifndef choose_by_bytes
INLINE vec choose_by_bytes(const uint8_t *p, vec yes, vec no) {
  int8_t lanes __attribute__((vector_size(LANES)));
  memcpy(&lanes, p, LANES);
  return choose(__builtin_convertvector(lanes, ivec) != 0, yes, no);
}
#endif

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(type, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(type, a, b, ...) __builtin_shuffle(a, b, (type){__VA_ARGS__})
#endif

#if VECTOR_BYTES * 8 / REAL_BITS == 8
#define ZIP_LOW(a, b) SHUFFLE(ivec, a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define ZIP_HIGH(a, b) SHUFFLE(ivec, a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#elif VECTOR_BYTES * 8 / REAL_BITS == 4
#define ZIP_LOW(a, b) SHUFFLE(ivec, a, b, 0, 4, 1, 5)
#define ZIP_HIGH(a, b) SHUFFLE(ivec, a, b, 2, 6, 3, 7)
#elif VECTOR_BYTES * 8 / REAL_BITS == 2
#define ZIP_LOW(a, b) SHUFFLE(ivec, a, b, 0, 2)
#define ZIP_HIGH(a, b) SHUFFLE(ivec, a, b, 1, 3)
#endif

#ifndef transpose
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

#ifndef ACROSS
#define ACROSS LANES
INLINE void load_across(vec x[LANES], const char *const row[LANES], ptrdiff_t offset) {
  UNROLL for (int i = 0; i < LANES; i++) x[i] = load(row[i] + offset);
  transpose(x);
}
#endif

#ifndef sum_rows
/* Each pass zips half of the rows into the other half, and adds the halves of what comes out. */
INLINE vec sum_rows(const vec x[LANES]) {
  vec y[LANES];
  UNROLL for (int i = 0; i < LANES; i++) y[i] = x[i];
  UNROLL for (int rows = LANES / 2; rows > 0; rows /= 2) {
    UNROLL for (int i = 0; i < rows; i++) { y[i] = ZIP_LOW(y[i], y[i + rows]) + ZIP_HIGH(y[i], y[i + rows]); }
  }
  return y[0];
}
#endif

#ifndef ZIP_BYTES
#define ZIP_BYTES_lo(a, b) SHUFFLE(bytes, a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define ZIP_BYTES_hi(a, b) SHUFFLE(bytes, a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#define ZIP_BYTES(side, a, b) ZIP_BYTES_##side(a, b) /* of 16 bytes */
#endif

#ifdef widen_float16
#define WIDENS_FLOAT16 1
#else
#define WIDENS_FLOAT16 0
#endif
#if REAL_BITS == 32 && !WIDENS_FLOAT16
INLINE vec widen_float16(vec16 h) { /* exponents differ by 112; inf and NaN have the largest in either */
  const uvec x = __builtin_convertvector(h, uvec), size = (x & 0x7fff) << 13;
  const vec finite = (vec)size * 0x1p112f, beyond = (vec)(size | 0x7f800000);
  return (vec)((uvec)choose((ivec)size >= 0x7c00 << 13, beyond, finite) | (x & 0x8000) << 16);
}

INLINE vec16 narrow_float16(vec x) {
  const uvec bits = (uvec)x, size = bits & 0x7fffffff;
  /* below 2^-14, adding 1/2 leaves the rounded significand in the lowest bits; else the exponent moves by 112 */
  const uvec small = (uvec)((vec)size + 0.5f) - 0x3f000000;
  const uvec normal = (size - (112u << 23) + 0xfff + (size >> 13 & 1)) >> 13;
  const vec finite = choose((ivec)size < 113 << 23, (vec)small, (vec)normal);
  const vec beyond = choose((ivec)size > 0x7f800000, splat_bits(0x7e00), splat_bits(0x7c00));
  const uvec y = (uvec)choose((ivec)size >= 0x477ff000, beyond, finite) | (bits >> 16 & 0x8000);
  return __builtin_convertvector(y, vec16);
}
#endif

#if REAL_BITS == 32 && !defined(raise_byte)
INLINE vec raise_byte(vec x, int s) { return (vec)((uvec)x << (24 - 8 * s) & 0xff000000); }
#endif

#if REAL_BITS == 32 && !defined(widen_int8)
INLINE vec widen_int8(const char *p) { /* compilers take the conversion of bytes apart */
  ivec x;
  UNROLL for (int i = 0; i < LANES; i++) x[i] = *(const int8_t *)(p + i);
  return __builtin_convertvector(x, vec);
}
#endif

#ifndef round_bfloat16
#define round_bfloat16 narrow_bfloat16
#endif

#ifndef exp2_of_negative
/* x is rounded by adding a number so large that its last bit counts ones; that bit and its neighbours, shifted into the
 * exponent, make the factor 2^n, 0 for n = -127. */
INLINE vec exp2_of_negative(vec x) {
  const vec magic = splat((real)(3ll << (MANTISSA_BITS - 1)));
  const vec clamped = vmax(splat(LOWEST_EXPONENT - 1), x);
  const vec shifted = clamped + magic;
  const vec p = exp2_polynomial(clamped - (shifted - magic));
  return p * (vec)(((uvec)shifted << MANTISSA_BITS) + ((uword)(1 - LOWEST_EXPONENT) << MANTISSA_BITS));
}
#endif

#ifndef multiply_add
INLINE vec multiply_add(vec a, vec b, vec c) {
#if ELEMENT == I8
  const ivec x = (ivec)a, y = (ivec)b;
  return (vec)((ivec)c + ((x << 16) >> 16) * ((y << 16) >> 16) + (x >> 16) * (y >> 16));
#else
  return a * b + c;
#endif
}
#endif

#if ELEMENT == I8 && !defined(round_groups)
/* Adding a number so large that its last bit counts ones rounds, if it is no part of a fused multiply-add that made x;
 * they are pairs here. */
INLINE vec round_groups(const vec x[2]) {
  vec16 y[2];
  UNROLL for (int s = 0; s < 2; s++) {
    vec rounded = x[s];
    HIDE(rounded);
    y[s] = __builtin_convertvector((ivec)(rounded + 0x1.8p23f), vec16);
  }
  return load(y);
}
#endif
