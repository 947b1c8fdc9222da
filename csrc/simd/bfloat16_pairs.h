/* Operands of the dot products of bfloat16, two elements in each lane, which AVX512_BF16 alone has. */
INLINE vec load_groups(const char *p, ptrdiff_t step, ptrdiff_t n) {
  if (step == 2) return n >= 2 * LANES ? load(p) : (vec)_mm512_maskz_loadu_epi16((__mmask32)((1ull << n) - 1), p);
  char x[VECTOR_BYTES] = {0};
  for (ptrdiff_t i = 0; i < least(n, 2 * LANES); i++) memcpy(x + i * 2, p + i * step, 2);
  return load(x);
}

INLINE vec pack_groups(vec low, vec high) { return (vec)_mm512_cvtne2ps_pbh(high, low); }

INLINE void store_packed(char *low, char *high, vec x) {
  _mm256_storeu_si256((__m256i *)low, _mm512_castsi512_si256((__m512i)x));
  _mm256_storeu_si256((__m256i *)high, _mm512_extracti64x4_epi64((__m512i)x, 1));
}

INLINE vec join_groups(vec low, vec high) {
  static const uint16_t order[] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                   8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return (vec)_mm512_permutexvar_epi16(_mm512_loadu_si512(order), (__m512i)pack_groups(low, high));
}

INLINE vec join_rows(const char *low, const char *high, ptrdiff_t step, ptrdiff_t n) {
  const uvec a = (uvec)load_strided(low, step, n) >> 16;
  return (vec)(high == NULL ? a : a | (uvec)load_strided(high, step, n));
}

INLINE void join_rows_wide(const char *low, const char *high, ptrdiff_t offset, vec x[2]) {
  static const uint16_t order[] = {0,  32, 1,  33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                   8,  40, 9,  41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47,
                                   16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
                                   24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63};
  const __m512i a = (__m512i)load(low + offset), b = high ? (__m512i)load(high + offset) : _mm512_setzero_si512();
  x[0] = (vec)_mm512_permutex2var_epi16(a, _mm512_loadu_si512(order), b);
  x[1] = (vec)_mm512_permutex2var_epi16(a, _mm512_loadu_si512(order + 32), b);
}

INLINE vec live_groups(vec weight) {
  const uvec bits = (uvec)weight;
  const ivec low = (bits & 0xffff) == 0x8000, high = (bits & 0xffff0000) == 0x80000000;
  return (vec)(((uvec)~low & 0xffff) | ((uvec)~high & 0xffff0000));
}
