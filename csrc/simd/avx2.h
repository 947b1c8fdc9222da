/* AVX2 with fused multiply-add and float16 conversions: x86-64 since 2013. */
#define VECTOR_BYTES 32
/* 16 registers: 6 x 2 accumulators, 2 loads, 1 broadcast; 1 to spare. 4 x 3 is slower: its walk along columns leaves
 * three quarters of each line to a later tile. */
#define TILE_ROWS 6
#define TILE_VECTORS 2

#define MM(name) _mm256_##name
#define INTEGERS __m256i
#if REAL_BITS == 32 /* as for AVX-512, gcc 12 makes halves of its own conversion */
#define widen_integers(x) ((uvec)_mm256_cvtepu16_epi32((__m128i)(x)))
#define narrow_integers(x) ((vec16)_mm256_castsi256_si128(NARROWED(_mm256_packus_epi32((__m256i)(x), (__m256i)(x)))))
#define NARROWED(x) _mm256_permute4x64_epi64(x, 8) /* packs work in halves */
#define choose(mask, yes, no) ((vec)_mm256_blendv_ps(no, yes, (__m256)(mask)))
#else
#define choose(mask, yes, no) ((vec)_mm256_blendv_pd(no, yes, (__m256d)(mask)))
#endif
#include "vectors.h"
#include "x86.h"

#if REAL_BITS == 32
#define FIRST_LANES(n) ((__m256i)((ivec){0, 1, 2, 3, 4, 5, 6, 7} < (word)(n)))
#else
#define FIRST_LANES(n) ((__m256i)((ivec){0, 1, 2, 3} < (word)(n)))
#endif
#define load_first(p, n) ((vec)MM_REALS(maskload)((const real *)(p), FIRST_LANES(n)))
#define store_first(p, x, n) MM_REALS(maskstore)((real *)(p), FIRST_LANES(n), x)
#define any_lane(x) (!_mm256_testz_si256((__m256i)(x), (__m256i)(x)))

#if REAL_BITS == 32
#define larger(a, b) ((ivec)_mm256_max_epi32((__m256i)(a), (__m256i)(b)))

#define choose_by_bytes choose_by_bytes
INLINE vec choose_by_bytes(const uint8_t *p, vec yes, vec no) {
  const __m256i lanes = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
  return choose((ivec)lanes > 0, yes, no);
}

#define transpose transpose
/* Within halves first: half of the instructions of the portable passes. */
INLINE void transpose(vec x[8]) {
  vec y[8];
  UNROLL for (int i = 0; i < 8; i += 4) { /* y[i + j]: columns j and 4 + j of rows i ... i + 3 */
    const vec a = _mm256_unpacklo_ps(x[i], x[i + 1]), b = _mm256_unpackhi_ps(x[i], x[i + 1]);
    const vec c = _mm256_unpacklo_ps(x[i + 2], x[i + 3]), d = _mm256_unpackhi_ps(x[i + 2], x[i + 3]);
    y[i] = (vec)_mm256_unpacklo_pd((__m256d)a, (__m256d)c), y[i + 1] = (vec)_mm256_unpackhi_pd((__m256d)a, (__m256d)c);
    y[i + 2] = (vec)_mm256_unpacklo_pd((__m256d)b, (__m256d)d),
          y[i + 3] = (vec)_mm256_unpackhi_pd((__m256d)b, (__m256d)d);
  }
  UNROLL for (int i = 0; i < 4; i++) {
    x[i] = _mm256_permute2f128_ps(y[i], y[i + 4], 0x20);
    x[i + 4] = _mm256_permute2f128_ps(y[i], y[i + 4], 0x31);
  }
}
#endif

#if REAL_BITS == 32
#define ACROSS 4
/* Halves of rows are inserted as they are loaded, which takes no shuffle, and half of the registers. */
INLINE void load_across(vec x[4], const char *const row[8], ptrdiff_t offset) {
  __m256 a[4];
  UNROLL for (int i = 0; i < 4; i++) {
    const __m128 low = _mm_loadu_ps((const float *)(row[i] + offset));
    a[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(low), _mm_loadu_ps((const float *)(row[4 + i] + offset)), 1);
  }
  const __m256d b = (__m256d)_mm256_unpacklo_ps(a[0], a[1]), c = (__m256d)_mm256_unpackhi_ps(a[0], a[1]);
  const __m256d d = (__m256d)_mm256_unpacklo_ps(a[2], a[3]), e = (__m256d)_mm256_unpackhi_ps(a[2], a[3]);
  x[0] = (vec)_mm256_unpacklo_pd(b, d), x[1] = (vec)_mm256_unpackhi_pd(b, d);
  x[2] = (vec)_mm256_unpacklo_pd(c, e), x[3] = (vec)_mm256_unpackhi_pd(c, e);
}
#endif

#define widen_float16(x) ((vec)_mm256_cvtph_ps((__m128i)(x)))
#define narrow_float16(x) ((vec16)_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT))
#define raise_byte(x, s) ((vec)_mm256_shuffle_epi8((__m256i)(x), _mm256_broadcastsi128_si256(RAISED(s))))
#define widen_int8(p) ((vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(p)))))
