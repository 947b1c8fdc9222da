/* Which of the compiled instruction sets this machine can run. Compiled with baseline flags only: nothing newer may run
 * before the answer is known. setup.py lists what it compiled as PYATTN_ISAS, e.g. X(avx512, avx512)
 * X(avx512_bf16, avx512): an instruction set, and whose tables it has of elements without dot products. Where it
 * compiled PYATTN_FLOAT32_ALONE, the other tables are NULL. */
#include "kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>

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
  return isas;
}
