/* Which of the compiled instruction sets this machine can run. Compiled with baseline flags only: nothing newer may run
 * before the answer is known. setup.py lists what it compiled as PYATTN_ISAS, e.g. X(avx512, avx512)
 * X(avx512_bf16, avx512): an instruction set, and whose tables it has of elements without dot products. Where it
 * compiled PYATTN_FLOAT32_ALONE, the other tables are NULL; where PYATTN_TILES, there are products by AMX too, whose
 * tables are made here of those that they add to. */
#define _DEFAULT_SOURCE 1 /* for syscall */
#include "kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#if PYATTN_TILES && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

/* The builtin asks cpuid, and xgetbv whether the operating system saves the registers. */
#define HAS(feature) (__builtin_cpu_supports(feature) != 0)
static int has_f16c(void) { /* whose name the builtin of Clang before 19 does not know */
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
static int supports_avx2(void) { return HAS("avx2") && HAS("fma") && has_f16c(); }
static int supports_avx512(void) {
  return supports_avx2() && HAS("avx512f") && HAS("avx512dq") && HAS("avx512bw") && HAS("avx512vl");
}
static int supports_avx512_bf16(void) { return supports_avx512() && HAS("avx512bf16") && HAS("avx512vnni"); }

#if PYATTN_TILES
/* Linux saves the tiles only of programs that have asked for them: once, for all their threads and forks. */
static int supports_avx512_amx(void) {
#if defined(__linux__)
  enum { TILES = 18, ASK = 0x1023, TILE = 1 << 24, TILE_BF16 = 1 << 22, TILE_INT8 = 1 << 25 };
  unsigned a, b, c, d;
  const unsigned needed = TILE | TILE_BF16 | TILE_INT8;
  if (!supports_avx512_bf16() || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & needed) != needed) return 0;
  return syscall(SYS_arch_prctl, ASK, TILES) == 0;
#else
  return 0;
#endif
}

typedef __typeof__(*((struct pyattn_kernels *)0)->linear_tile) linear_tile;
typedef __typeof__(*((struct pyattn_kernels *)0)->probe_multiply_add) probe_tiles;
linear_tile pyattn_tiles_bf16, pyattn_tiles_i8;
probe_tiles pyattn_probe_tiles_bf16, pyattn_probe_tiles_i8;
#endif
#endif
static int supports_baseline(void) { return 1; }
static int supports_neon(void) { return 1; } /* part of the architecture */

#if PYATTN_FLOAT32_ALONE
#define OTHER(table) NULL
#else
#define OTHER(table) &table
#endif

#define X(isa, others)                                                                             \
  extern const struct pyattn_kernels pyattn_kernels_##others##_f32, pyattn_kernels_##others##_f64, \
      pyattn_kernels_##others##_f16, pyattn_kernels_##isa##_bf16, pyattn_kernels_##isa##_i8,       \
      pyattn_kernels_##others##_kv8;
PYATTN_ISAS
#undef X

#if PYATTN_TILES
/* Gives a table another's packed weights, and products of them by tiles. */
static void multiply_as(struct pyattn_kernels *table, const struct pyattn_kernels *other, linear_tile *multiply,
                        probe_tiles *probe) {
  table->group = other->group, table->tile_rows = PYATTN_TILES_ROWS;
  table->linear_format = other->linear_format, table->linear_packed_bytes = other->linear_packed_bytes;
  table->linear_pack = other->linear_pack, table->linear_unpack = other->linear_unpack;
  table->linear_row_bytes = other->linear_row_bytes, table->linear_pack_row = other->linear_pack_row;
  table->linear_tile = multiply, table->probe_multiply_add = probe;
}
#endif

const struct pyattn_isa *pyattn_isas(void) {
  static struct pyattn_isa isas[8]; /* zeros after the last */
  int i = 0;
#if defined(__x86_64__)
  __builtin_cpu_init();
#endif
#define X(isa, others)                                                  \
  isas[i++] = (struct pyattn_isa){#isa,                                 \
                                  supports_##isa(),                     \
                                  &pyattn_kernels_##others##_f32,       \
                                  OTHER(pyattn_kernels_##others##_f64), \
                                  OTHER(pyattn_kernels_##others##_f16), \
                                  OTHER(pyattn_kernels_##isa##_bf16),   \
                                  OTHER(pyattn_kernels_##isa##_i8),     \
                                  OTHER(pyattn_kernels_##others##_kv8)};
  PYATTN_ISAS
#if PYATTN_TILES
  /* Attention of bfloat16 is that of AVX-512 without dot products: those of the CPUs with AMX take 1.5 to 2 times as
   * long as products of float32. */
  static struct pyattn_kernels bf16, i8;
  const struct pyattn_isa *plain = &isas[i - 2], *dots = &isas[i - 1];
  bf16 = *plain->bfloat16, i8 = *dots->int8;
  multiply_as(&bf16, dots->bfloat16, pyattn_tiles_bf16, pyattn_probe_tiles_bf16);
  multiply_as(&i8, dots->int8, pyattn_tiles_i8, pyattn_probe_tiles_i8);
  isas[i] = *dots;
  isas[i].name = "avx512_amx", isas[i].supported = supports_avx512_amx();
  isas[i].bfloat16 = &bf16, isas[i].int8 = &i8;
#endif
  return isas;
}
