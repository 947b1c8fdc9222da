/* Dropout of weights, whose normalising sums are those without it. Rows are queries, columns keys. */
#pragma once

#include "../dropout.h"
#include "state.h"

/* -1 where the pair of a row of vector n and a key is kept. */
INLINE ivec kept_pairs(const struct attention_state *state, int n, ptrdiff_t key) {
  return is_kept(state->dropped_rows[n] ^ (uword)((uint32_t)key * DROPOUT_COLUMN), state->dropped_below);
}

INLINE real kept_factor(const struct pyattn_attention *call) { return (real)(1 / (1 - call->dropout)); }
