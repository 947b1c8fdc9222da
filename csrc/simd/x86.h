/* What the instruction sets of x86-64 have alike; MM gives an instruction the prefix of their vectors. */
#if REAL_BITS == 32
#define MM_REALS(name) MM(name##_ps)
#else
#define MM_REALS(name) MM(name##_pd)
#endif

#define HIDE(x) __asm__ volatile("" : "+v"(x))
#define vmax(a, b) ((vec)MM_REALS(max)(a, b))
#define vmin(a, b) ((vec)MM_REALS(min)(a, b))
#define ZIP_BYTES(side, a, b) ((bytes)MM(unpack##side##_epi8)((INTEGERS)(a), (INTEGERS)(b)))
#define RAISED(s) /* raise_byte, for shuffles of bytes within 16 */ \
  ((__m128i)(__v16qi){-1, -1, -1, s, -1, -1, -1, 4 + (s), -1, -1, -1, 8 + (s), -1, -1, -1, 12 + (s)})
#if ELEMENT == I8 && GROUP == 2
#define multiply_add(a, b, c) ((vec)MM(add_epi32)((INTEGERS)(c), MM(madd_epi16)((INTEGERS)(a), (INTEGERS)(b))))
#endif
#if defined __clang__ && defined __FMA__ && ELEMENT != I8 && !PAIRS_OF_BFLOAT16
/* Clang does not fuse what the blocks of a loop part, though -ffp-contract=fast lets it: some loops had other bits. */
#define multiply_add(a, b, c) ((vec)MM_REALS(fmadd)(a, b, c))
#endif
