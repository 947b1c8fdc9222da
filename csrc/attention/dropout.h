/* Dropout of weights, Srivastava et al. 2014: each is dropped with probability p, the others are divided by 1 - p. The
 * normalising sums are those without dropout.
 *
 * A pair is dropped or not by its numbers alone, whatever the tile, thread or company it is computed in. With x the 32
 * bits that seed, head and query give (begin_dropout), and j the key,
 *
 *     x ^= j * 0x9e3779b9;  x ^= x >> 16;  x *= 0x85ebca6b;  x ^= x >> 13;  x *= 0xc2b2ae35;  x ^= x >> 16
 *
 * as in the finalizer of MurmurHash3, by Appleby; dropped if x < p 2^32. pyattn.reference has it in NumPy. */
#pragma once

#include "state.h"

/* Of 32 bits in each lane. */
INLINE uvec low_bits(uvec x) { return REAL_BITS == 32 ? x : x & 0xffffffff; }

/* -1 where the pair of a row of vector n and a key is kept. */
INLINE ivec kept_pairs(const struct attention_state *state, int n, ptrdiff_t key) {
  uvec x = state->dropped_rows[n] ^ (uword)(uint32_t)((uint32_t)key * 0x9e3779b9u);
  x ^= x >> 16;
  x = low_bits(x * 0x85ebca6b);
  x ^= x >> 13;
  x = low_bits(x * 0xc2b2ae35);
  x ^= x >> 16;
  return (ivec)(x >= state->dropped_below);
}

INLINE real kept_factor(const struct pyattn_attention *call) { return (real)(1 / (1 - call->dropout)); }
