/* Element and vector types, and what the compiler's vector extensions express for every instruction set. Included by
 * each file of an instruction set once it has said how wide its vectors are. */
#pragma once

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
typedef uint8_t bytes __attribute__((vector_size(VECTOR_BYTES)));
typedef real vec_unaligned __attribute__((vector_size(VECTOR_BYTES), aligned(1), may_alias));
typedef real real_unaligned __attribute__((aligned(1), may_alias)); /* callers' arrays may have any alignment */

INLINE vec splat(real x) { return x - (vec){0}; }

INLINE vec splat_bits(word x) { return (vec)(x - (ivec){0}); }

INLINE vec load(const void *p) { return *(const vec_unaligned *)p; }

/* What was loaded a moment ago: Clang would have kept it in a register, which a tile does not have. */
INLINE vec load_again(const void *p) {
#ifdef __clang__
  return *(const volatile vec_unaligned *)p;
#else
  return load(p);
#endif
}

INLINE void store(void *p, vec x) { *(vec_unaligned *)p = x; }

INLINE real load_real(const void *p) { return *(const real_unaligned *)p; }

INLINE void store_real(void *p, real x) { *(real_unaligned *)p = x; }

#ifndef choose /* yes where the lanes of mask are -1, no where they are 0 */
INLINE vec choose(ivec mask, vec yes, vec no) { return (vec)((mask & (ivec)yes) | (~mask & (ivec)no)); }
#endif

INLINE vec magnitude(vec x) { return (vec)((ivec)x & ~(SIGN_BIT - (ivec){0})); }

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

#if REAL_BITS == 32
/* 16 bits for each lane: float16 or bfloat16. */
typedef uint16_t vec16 __attribute__((vector_size(2 * LANES)));

#ifndef widen_integers
#define widen_integers(x) __builtin_convertvector(x, uvec)
#define narrow_integers(x) __builtin_convertvector(x, vec16)
#endif

INLINE vec widen_bfloat16(vec16 x) { return (vec)(widen_integers(x) << 16); }

/* Rounded to the nearest, ties to even; a NaN stays one. */
INLINE vec16 narrow_bfloat16(vec x) {
  const uvec bits = (uvec)x;
  const uvec rounded = bits + 0x7fff + (bits >> 16 & 1);
  return narrow_integers((uvec)choose(x == x, (vec)rounded, (vec)(bits | 0x400000)) >> 16);
}
#endif

/* 2^r on the range of EXP2_REDUCTION: vmath.h has the coefficients. */
INLINE vec exp2_polynomial(vec r);
