/* Dropout, Srivastava et al. 2014: each number is dropped with probability p, the others are divided by 1 - p.
 *
 * One is dropped or not by the seed and its place alone, whatever tile, thread or company it is computed in. With x the
 * 32 bits that seed, head and row give (dropout_row), and j the column,
 *
 *     x ^= j * 0x9e3779b9;  x ^= x >> 16;  x *= 0x85ebca6b;  x ^= x >> 13;  x *= 0xc2b2ae35;  x ^= x >> 16
 *
 * as in the finalizer of MurmurHash3, by Appleby; dropped if x < p 2^32. pyattn.reference has it in NumPy. */
#pragma once

#include "simd.h"

#define DROPOUT_COLUMN 0x9e3779b9u

INLINE uword dropped_below(double probability) { return (uword)(probability * 4294967296.0); }

/* A step of SplitMix64: Steele, Lea and Flood 2014 (doi:10.1145/2660193.2660195), figure 17. */
INLINE uint64_t mixed_bits(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
  x = (x ^ x >> 27) * 0x94d049bb133111eb;
  return x ^ x >> 31;
}

INLINE uint32_t dropout_row(uint64_t seed, uint64_t head, uint64_t row) {
  return (uint32_t)(mixed_bits(mixed_bits(seed ^ mixed_bits(head)) + row) >> 32);
}

/* Of 32 bits in each lane. */
INLINE uvec low_bits(uvec x) { return REAL_BITS == 32 ? x : x & 0xffffffff; }

/* -1 where the number is kept, of x = row ^ column * DROPOUT_COLUMN. */
INLINE ivec is_kept(uvec x, uword below) {
  x ^= x >> 16;
  x = low_bits(x * 0x85ebca6b);
  x ^= x >> 13;
  x = low_bits(x * 0xc2b2ae35);
  x ^= x >> 16;
  return (ivec)(x >= below);
}
