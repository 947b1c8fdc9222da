/* Column sums: what weights the keys receive, from the moments of all rows. A task takes a block of keys past all
 * queries in their order, as a gradient of K and V would: sums[key] += sum over the block's rows of their weights.
 *
 * R rows against S keys read (R + S) D elements of Q and K, and 2 R moments; they write S sums in double precision. */
#include "softmax.h"

static void column_sums(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                        ptrdiff_t count, double *sums) {
  const struct pyattn_array moments = operand(block, PYATTN_MOMENTS);
  struct attention_state *state = state_of(block);
  const ptrdiff_t wanted = first;
  for (int n = 0; n < block->vectors; n++) {
    for (int i = 0; i < LANES; i++) {
      const char *row = operand_row(block, &moments, lane_row(block, n, i));
      state->total_max[n][i] = load_real(row);
      state->total_sum[n][i] = load_real(row + moments.column);
    }
  }
  block->call->path->logits(block, keys, &first, &count);
  if (count <= 0) return;
  normalise(block, count);
  for (ptrdiff_t j = 0; j < count; j++) {
    vec sum = {0};
    for (int n = 0; n < block->vectors; n++) {
      vec weights = state->p[j * block->vectors + n];
      if (block->rows < (n + 1) * LANES) { /* lanes without a row */
        for (int i = 0; i < LANES; i++) weights[i] = n * LANES + i < block->rows ? weights[i] : 0;
      }
      sum += weights;
    }
    sums[keys->index ? keys->index[first + j] : first - wanted + j] += (double)sum_lanes(sum);
  }
}
