/* The primitives of simd.h by the compiler's vector extensions alone, for instruction sets that have no better way. */
#ifndef PYATTN_PORTABLE_H
#define PYATTN_PORTABLE_H

#include "vectors.h"

INLINE vec portable_load_first(const void *p, ptrdiff_t n) {
  vec x = {0};
  memcpy(&x, p, (size_t)n * sizeof(real));
  return x;
}

INLINE void portable_store_first(void *p, vec x, ptrdiff_t n) { memcpy(p, &x, (size_t)n * sizeof(real)); }

INLINE vec portable_vmax(vec a, vec b) { return choose(a > b, a, b); }

INLINE vec portable_vmin(vec a, vec b) { return choose(a < b, a, b); }

INLINE vec portable_choose_by_bytes(const uint8_t *p, vec yes, vec no) {
  int8_t lanes __attribute__((vector_size(LANES)));
  memcpy(&lanes, p, LANES);
  return choose(__builtin_convertvector(lanes, ivec) != 0, yes, no);
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
#elif VECTOR_BYTES * 8 / REAL_BITS == 2
#define ZIP_LOW(a, b) SHUFFLE(a, b, 0, 2)
#define ZIP_HIGH(a, b) SHUFFLE(a, b, 1, 3)
#endif

#ifdef ZIP_LOW
/* Each of the log2(LANES) passes zips the upper half of the rows into the lower half. */
INLINE void portable_transpose(vec x[LANES]) {
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

#define PORTABLE_ZIP_BYTES_lo(a, b) SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define PORTABLE_ZIP_BYTES_hi(a, b) SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#define PORTABLE_ZIP_BYTES(side, a, b) PORTABLE_ZIP_BYTES_##side(a, b) /* of 16 bytes */

#if REAL_BITS == 32
INLINE vec portable_widen_float16(vec16 h) { /* exponents differ by 112; inf and NaN have the largest in either */
  const uvec x = __builtin_convertvector(h, uvec), size = (x & 0x7fff) << 13;
  const vec finite = (vec)size * 0x1p112f, beyond = (vec)(size | 0x7f800000);
  return (vec)((uvec)choose((ivec)size >= 0x7c00 << 13, beyond, finite) | (x & 0x8000) << 16);
}

INLINE vec16 portable_narrow_float16(vec x) {
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

#if ELEMENT == I8
INLINE vec portable_multiply_add(vec a, vec b, vec c) {
  const ivec x = (ivec)a, y = (ivec)b;
  return (vec)((ivec)c + ((x << 16) >> 16) * ((y << 16) >> 16) + (x >> 16) * (y >> 16));
}
#else
INLINE vec portable_multiply_add(vec a, vec b, vec c) { return a * b + c; }
#endif

INLINE vec portable_round_groups(const vec x[GROUP]) {
  int16_t y[GROUP * LANES];
  UNROLL for (int i = 0; i < GROUP * LANES; i++) y[i] = (int16_t)rintf(x[i / LANES][i % LANES]);
  return load(y);
}

#endif
