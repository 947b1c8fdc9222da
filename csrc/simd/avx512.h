/* AVX-512 with the F, DQ, BW and VL parts; where it is compiled for, dot products of bfloat16 (AVX512_BF16) and of
 * int8 (AVX512_VNNI). */
#define VECTOR_BYTES 64
/* 32 registers: 8 x 3 accumulators, 3 loads, 1 broadcast; 4 to spare. */
#define TILE_ROWS 8
#define TILE_VECTORS 3
#define ATTENTION_UNROLL (GROUP == 1)
#if REAL_BITS == 32
#define EXP2_REDUCTION EXP2_FLOOR
#define FIRST_LANES(n) (__mmask16)((1u << (n)) - 1)
#else
#define EXP2_REDUCTION EXP2_SIXTEENTHS
#define FIRST_LANES(n) (__mmask8)((1u << (n)) - 1)
#endif

#define MM(name) _mm512_##name
#define INTEGERS __m512i
#if REAL_BITS == 32 /* gcc 12 makes of its own conversion halves, zips and shuffles */
#define widen_integers(x) ((uvec)_mm512_cvtepu16_epi32((__m256i)(x)))
#define narrow_integers(x) ((vec16)_mm512_cvtepi32_epi16((__m512i)(x)))
#endif
#include "vectors.h"
#include "x86.h"

#define load_first(p, n) ((vec)MM_REALS(maskz_loadu)(FIRST_LANES(n), p))
#define store_first(p, x, n) MM_REALS(mask_storeu)(p, FIRST_LANES(n), x)

#define load_bytes_first(p, n) ((vec)_mm512_maskz_loadu_epi8((__mmask64)((1ull << (n)) - 1), p))
#define any_lane(x) (_mm512_test_epi32_mask((__m512i)(x), (__m512i)(x)) != 0)

#if REAL_BITS == 32
#define larger(a, b) ((ivec)_mm512_max_epi32((__m512i)(a), (__m512i)(b)))

#define LOOKS_UP 1
#define look_up(p, i) ((vec)_mm512_permutex2var_ps(_mm512_loadu_ps(p), (__m512i)(i), _mm512_loadu_ps((p) + 16)))

#define choose_by_bytes choose_by_bytes
INLINE vec choose_by_bytes(const uint8_t *p, vec yes, vec no) {
  const __m128i lanes = _mm_loadu_si128((const __m128i *)p);
  return (vec)_mm512_mask_mov_ps(no, _mm_test_epi8_mask(lanes, lanes), yes);
}

#define transpose transpose
/* Within quarters first, by instructions that need no table of lanes: 1.7 times as fast as the portable passes. */
#define ZIP_1(half, a, b) (vec) _mm512_unpack##half##_ps(a, b)
#define ZIP_2(half, a, b) (vec) _mm512_unpack##half##_pd((__m512d)(a), (__m512d)(b))
#define QUARTERS(which, a, b) (vec) _mm512_shuffle_f32x4(a, b, which)
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

#define sum_rows sum_rows
INLINE vec sum_rows(const vec x[16]) {
  vec y[8], z[4];
  UNROLL for (int i = 0; i < 8; i++) y[i] = ZIP_1(lo, x[2 * i], x[2 * i + 1]) + ZIP_1(hi, x[2 * i], x[2 * i + 1]);
  UNROLL for (int i = 0; i < 4; i++) z[i] = ZIP_2(lo, y[2 * i], y[2 * i + 1]) + ZIP_2(hi, y[2 * i], y[2 * i + 1]);
  UNROLL for (int i = 0; i < 2; i++) { /* z[i]: in each quarter rows 4 i ... 4 i + 3 */
    y[i] = QUARTERS(0x88, z[2 * i], z[2 * i + 1]) + QUARTERS(0xdd, z[2 * i], z[2 * i + 1]);
  }
  return QUARTERS(0x88, y[0], y[1]) + QUARTERS(0xdd, y[0], y[1]);
}
#endif

#define widen_float16(x) ((vec)_mm512_cvtph_ps((__m256i)(x)))
#define narrow_float16(x) ((vec16)_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT))
#define raise_byte(x, s) ((vec)_mm512_shuffle_epi8((__m512i)(x), _mm512_broadcast_i32x4(RAISED(s))))
#define widen_int8(p) ((vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(p)))))
#ifdef __AVX512BF16__
#define round_bfloat16(x) _mm512_cvtneps_pbh(x)
#endif

#define exp2_of_negative exp2_of_negative
INLINE vec exp2_of_negative(vec x) {
#if REAL_BITS == 32
  return (vec)_mm512_scalef_ps(exp2_polynomial((vec)_mm512_reduce_ps(x, 9)), x); /* 9: x - floor(x), no exceptions */
#else
  /* the sixteenths of x beyond an integer choose a factor from two registers */
  static const real roots[] = {0x1.0000000000000p+0, 0x1.0b5586cf9890fp+0, 0x1.172b83c7d517bp+0, 0x1.2387a6e756238p+0,
                               0x1.306fe0a31b715p+0, 0x1.3dea64c123422p+0, 0x1.4bfdad5362a27p+0, 0x1.5ab07dd485429p+0,
                               0x1.6a09e667f3bcdp+0, 0x1.7a11473eb0187p+0, 0x1.8ace5422aa0dbp+0, 0x1.9c49182a3f090p+0,
                               0x1.ae89f995ad3adp+0, 0x1.c199bdd85529cp+0, 0x1.d5818dcfba487p+0, 0x1.ea4afa2a490dap+0};
  const vec index = x + 0x1.8p48; /* counts sixteenths */
  const vec r = (vec)_mm512_reduce_pd(x, 4 << 4 | 8);
  const vec root = (vec)_mm512_permutex2var_pd(_mm512_loadu_pd(roots), (__m512i)index, _mm512_loadu_pd(roots + 8));
  return (vec)_mm512_scalef_pd(root * exp2_polynomial(r), x - r);
#endif
}

#if PAIRS_OF_BFLOAT16
#define multiply_add(a, b, c) ((vec)_mm512_dpbf16_ps(c, (__m512bh)(a), (__m512bh)(b)))
#elif GROUP == 4
#define multiply_add(a, b, c) ((vec)_mm512_dpbusd_epi32((__m512i)(c), (__m512i)(a), (__m512i)(b)))

#define round_groups round_groups
INLINE vec round_groups(const vec x[GROUP]) {
  static const int32_t order[] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15}; /* packs work in quarters */
  __m512i y[GROUP];
  UNROLL for (int s = 0; s < GROUP; s++) y[s] = _mm512_cvtps_epi32((__m512)x[s]);
  const __m512i z = _mm512_packs_epi16(_mm512_packs_epi32(y[0], y[1]), _mm512_packs_epi32(y[2], y[3]));
  return (vec)_mm512_xor_si512(_mm512_permutexvar_epi32(_mm512_loadu_si512(order), z), _mm512_set1_epi8(-128));
}
#endif
