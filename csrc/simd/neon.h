/* NEON, part of every ARM64 machine. */
#define VECTOR_BYTES 16
/* 32 registers: 8 x 3 accumulators, 3 loads, 1 broadcast; 4 to spare. */
#define TILE_ROWS 8
#define TILE_VECTORS 3
#define GROUP (ELEMENT == I8 ? 2 : 1)
#define INPUT_ZERO 0
#define ATTENTION_UNROLL 0
#define WIDENS_FLOAT16 (REAL_BITS == 32)
#define EXP2_REDUCTION EXP2_NEAREST

#include "portable.h"

#define HIDE(x) __asm__ volatile("" : "+w"(x))

#define load_first portable_load_first

#define store_first portable_store_first

#define vmax portable_vmax

#define vmin portable_vmin

#define choose_by_bytes portable_choose_by_bytes

#define transpose portable_transpose

#define ZIP_BYTES PORTABLE_ZIP_BYTES

#if REAL_BITS == 32
INLINE vec widen_float16(vec16 x) { return (vec)vcvt_f32_f16((float16x4_t)x); }

INLINE vec16 narrow_float16(vec x) { return (vec16)vcvt_f16_f32((float32x4_t)x); }
#endif

#define round_bfloat16 narrow_bfloat16

#define exp2_of_negative rounding_exp2_of_negative

#define multiply_add portable_multiply_add

#define round_groups portable_round_groups
