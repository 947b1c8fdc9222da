/* Keys and values of int8, which KV8 alone has, without their scales: these multiply logits and weights. */
INLINE vec load_key_lanes(const char *p, ptrdiff_t step, ptrdiff_t n) {
  if (step == 1) return n >= VECTOR_BYTES ? load(p) : load_bytes_first(p, n);
  char x[VECTOR_BYTES] = {0};
  for (ptrdiff_t i = 0; i < least(n, VECTOR_BYTES); i++) x[i] = p[i * step];
  return load(x);
}

/* In the highest byte, below which are zeros: one instruction, where the others' signs would take two. */
INLINE vec key_group(vec lanes, int s) { return __builtin_convertvector((ivec)raise_byte(lanes, s), vec); }

INLINE vec join_rows(const char *low, const char *high, ptrdiff_t step, ptrdiff_t n) {
  (void)high;
  if (step == 1 && n >= LANES) return widen_int8(low);
  char x[LANES] = {0};
  for (ptrdiff_t i = 0; i < least(n, LANES); i++) x[i] = low[i * step];
  return widen_int8(x);
}

INLINE void join_rows_wide(const char *low, const char *high, ptrdiff_t offset, vec x[1]) {
  (void)high;
  x[0] = widen_int8(low + offset);
}
