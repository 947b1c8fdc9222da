/* AVX2 with fused multiply-add and float16 conversions: x86-64 since 2013. */
#define VECTOR_BYTES 32
/* 16 registers: 6 x 2 accumulators, 2 loads, 1 broadcast; 1 to spare. 4 x 3 is slower: its walk along columns leaves
 * three quarters of each line to a later tile. */
#define TILE_ROWS 6
#define TILE_VECTORS 2

#define MM(name) _mm256_##name
#define INTEGERS __m256i
#include "x86.h"

#if REAL_BITS == 32
#define larger(a, b) ((ivec)_mm256_max_epi32((__m256i)(a), (__m256i)(b)))
#endif
#define widen_float16(x) ((vec)_mm256_cvtph_ps((__m128i)(x)))
#define narrow_float16(x) ((vec16)_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT))
#define widen_int8(p) ((vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(p)))))
