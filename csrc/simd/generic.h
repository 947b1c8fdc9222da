/* Any other machine: vectors of 16 bytes, by the compiler's vector extensions alone. */
#define VECTOR_BYTES 16
/* 16 registers are assumed: 6 x 2 accumulators, 2 loads, 1 broadcast; 1 to spare. */
#define TILE_ROWS 6
#define TILE_VECTORS 2
#define GROUP (ELEMENT == I8 ? 2 : 1)
#define INPUT_ZERO 0
#define ATTENTION_UNROLL 0
#define WIDENS_FLOAT16 0
#define EXP2_REDUCTION EXP2_NEAREST

#include "portable.h"

#define HIDE(x) __asm__ volatile("" : "+m"(x))

#define load_first portable_load_first

#define store_first portable_store_first

#define vmax portable_vmax

#define vmin portable_vmin

#define choose_by_bytes portable_choose_by_bytes

#define transpose portable_transpose

#define ZIP_BYTES PORTABLE_ZIP_BYTES

#define widen_float16 portable_widen_float16

#define narrow_float16 portable_narrow_float16

#define round_bfloat16 narrow_bfloat16

#define exp2_of_negative rounding_exp2_of_negative

#define multiply_add portable_multiply_add

#define round_groups portable_round_groups
