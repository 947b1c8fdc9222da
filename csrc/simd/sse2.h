/* SSE2, which every x86-64 machine has: the baseline. */
#define VECTOR_BYTES 16
/* 16 registers: 6 x 2 accumulators, 2 loads, 1 broadcast; 1 to spare. */
#define TILE_ROWS 6
#define TILE_VECTORS 2

#define MM(name) _mm_##name
#define INTEGERS __m128i
#include "x86.h"
