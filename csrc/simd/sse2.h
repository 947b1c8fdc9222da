/* SSE2, which every x86-64 machine has: the baseline. */
#define VECTOR_BYTES 16
/* 16 registers: 6 x 2 accumulators, 2 loads, 1 broadcast; 1 to spare. */
#define TILE_ROWS 6
#define TILE_VECTORS 2

#define MM(name) _mm_##name
#define INTEGERS __m128i
#include "vectors.h"
#include "x86.h"

#define any_lane(x) (_mm_movemask_epi8(_mm_cmpeq_epi8((__m128i)(x), _mm_setzero_si128())) != 0xffff)

#define widen_int8 widen_int8
INLINE vec widen_int8(const char *p) {
  const __m128i twice = _mm_unpacklo_epi8(_mm_setzero_si128(), _mm_loadu_si32(p));
  return (vec)_mm_cvtepi32_ps(_mm_srai_epi32(_mm_unpacklo_epi16(_mm_setzero_si128(), twice), 24));
}
