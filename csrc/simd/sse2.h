/* SSE2, which every x86-64 machine has: the baseline. */
#define VECTOR_BYTES 16
/* 16 registers: 6 x 2 accumulators, 2 loads, 1 broadcast; 1 to spare. */
#define TILE_ROWS 6
#define TILE_VECTORS 2
#define GROUP (ELEMENT == I8 ? 2 : 1)
#define INPUT_ZERO 0
#define ATTENTION_UNROLL 0
#define WIDENS_FLOAT16 0
#define EXP2_REDUCTION EXP2_NEAREST

#include "portable.h"

#if REAL_BITS == 32
#define MM(name) _mm_##name##_ps
#else
#define MM(name) _mm_##name##_pd
#endif

#define HIDE(x) __asm__ volatile("" : "+x"(x))

#define load_first portable_load_first

#define store_first portable_store_first

INLINE vec vmax(vec a, vec b) { return (vec)MM(max)(a, b); }

INLINE vec vmin(vec a, vec b) { return (vec)MM(min)(a, b); }

#define choose_by_bytes portable_choose_by_bytes

#define transpose portable_transpose

#define ZIP_BYTES(side, a, b) (bytes) _mm_unpack##side##_epi8((__m128i)(a), (__m128i)(b))

#define widen_float16 portable_widen_float16

#define narrow_float16 portable_narrow_float16

#define round_bfloat16 narrow_bfloat16

#define exp2_of_negative rounding_exp2_of_negative

#if ELEMENT == I8
INLINE vec multiply_add(vec a, vec b, vec c) {
  return (vec)_mm_add_epi32((__m128i)c, _mm_madd_epi16((__m128i)a, (__m128i)b));
}
#else
#define multiply_add portable_multiply_add
#endif

#define round_groups portable_round_groups
