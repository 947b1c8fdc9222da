/* NEON, part of every ARM64 machine. */
#define VECTOR_BYTES 16
/* 32 registers: 8 x 3 accumulators, 3 loads, 1 broadcast; 4 to spare. */
#define TILE_ROWS 8
#define TILE_VECTORS 3
#define HIDE(x) __asm__ volatile("" : "+w"(x))

#define widen_float16(x) ((vec)vcvt_f32_f16((float16x4_t)(x)))
#define narrow_float16(x) ((vec16)vcvt_f16_f32((float32x4_t)(x)))

#include "vectors.h"

#define widen_int8 widen_int8
INLINE vec widen_int8(const char *p) {
  uint32_t four;
  memcpy(&four, p, sizeof four);
  return (vec)vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(four)))));
}
