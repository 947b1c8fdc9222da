/* AVX2 with fused multiply-add and float16 conversions: x86-64 since 2013. */
#define VECTOR_BYTES 32
/* 16 registers: 6 x 2 accumulators, 2 loads, 1 broadcast; 1 to spare. 4 x 3 is slower: its walk along columns leaves
 * three quarters of each line to a later tile. */
#define TILE_ROWS 6
#define TILE_VECTORS 2
#define GROUP (ELEMENT == I8 ? 2 : 1)
#define INPUT_ZERO 0
#define ATTENTION_UNROLL 0
#define WIDENS_FLOAT16 (REAL_BITS == 32)
#define EXP2_REDUCTION EXP2_NEAREST

#include "portable.h"

#if REAL_BITS == 32
#define MM(name) _mm256_##name##_ps
#else
#define MM(name) _mm256_##name##_pd
#endif

#define HIDE(x) __asm__ volatile("" : "+x"(x))

#define load_first portable_load_first

#define store_first portable_store_first

INLINE vec vmax(vec a, vec b) { return (vec)MM(max)(a, b); }

INLINE vec vmin(vec a, vec b) { return (vec)MM(min)(a, b); }

#define choose_by_bytes portable_choose_by_bytes

#define transpose portable_transpose

#define ZIP_BYTES(side, a, b) (bytes) _mm256_unpack##side##_epi8((__m256i)(a), (__m256i)(b))

#if REAL_BITS == 32
INLINE vec widen_float16(vec16 x) { return (vec)_mm256_cvtph_ps((__m128i)x); }

INLINE vec16 narrow_float16(vec x) { return (vec16)_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT); }
#endif

#define round_bfloat16 narrow_bfloat16

#define exp2_of_negative rounding_exp2_of_negative

#if ELEMENT == I8
INLINE vec multiply_add(vec a, vec b, vec c) {
  return (vec)_mm256_add_epi32((__m256i)c, _mm256_madd_epi16((__m256i)a, (__m256i)b));
}
#else
#define multiply_add portable_multiply_add
#endif

#define round_groups portable_round_groups
