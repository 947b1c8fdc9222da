/* Everything that is compiled once per instruction set and element type, as one unit: all of it static but the table,
 * whose name is PYATTN_TABLE. In a build for development two files are units of their own: an edit compiles a third. */
#include "simd.h"

#define MULTIPLIES (ELEMENT != F16 && ELEMENT != KV8)                  /* packed weights */
#define LEARNS (ELEMENT == F32 || ELEMENT == F64 || PAIRS_OF_BFLOAT16) /* gradients of attention */

#if PYATTN_APART
#include "kernels.h"
#define TYPE(member) __typeof__(*((struct pyattn_kernels *)0)->member)
TYPE(prefill.load_bytes) load_bytes;
TYPE(prefill.load) load_range;
TYPE(prefill.update) prefill_update;
TYPE(prefill.logits) prefill_logits, prefill_weights;
TYPE(linear_tile) linear_tile;
#else
#if ELEMENT != I8
#include "attention/prefill.c"
#endif
#if MULTIPLIES
#include "linear/multiply.c"
#endif
#endif
#if ELEMENT != I8
#include "attention/block.c"
#include "attention/decode.c"
#include "attention/weights.c"
#endif
#if LEARNS
#include "attention/backward.c"
#endif
#if ELEMENT == KV8
#include "attention/round.c"
#endif
#if MULTIPLIES
#include "linear/pack.c"
#endif
#if MULTIPLIES && ELEMENT != I8
#include "rowwise.c"
#endif
#if ELEMENT == F32
#include "maxsim.c"
#endif
#include "probe.c"

#define PATH(along_keys, by_row, update, logits) \
  {along_keys, by_row, state_bytes, load_bytes, load_range, begin, update, merge, finish, logits}

const struct pyattn_kernels PYATTN_TABLE = {
    .lanes = LANES,
    .tile_rows = TILE_ROWS,
    .tile_vectors = TILE_VECTORS,
    .real_bytes = sizeof(real),
    .key_bytes = KEY_BYTES,
    .group = GROUP,
#if ELEMENT != I8
    .prefill = PATH(0, 0, prefill_update, prefill_logits),
    .mixed = PATH(0, 1, mixed_update, prefill_logits),
    .decode = PATH(1, 1, decode_update, decode_logits),
    .weights_begin = weights_begin,
    .weights_update = weights_update,
    .weights_finish = weights_finish,
    .column_sums = column_sums,
#endif
#if ELEMENT == KV8
    .round_row = round_row,
#endif
#if MULTIPLIES
    .linear_format = linear_format,
    .linear_packed_bytes = linear_packed_bytes,
    .linear_pack = linear_pack,
    .linear_unpack = linear_unpack,
    .linear_row_bytes = linear_row_bytes,
    .linear_tile = linear_tile,
#endif
#if ELEMENT == BF16 || ELEMENT == I8
    .linear_pack_row = linear_pack_row,
#endif
#if MULTIPLIES && ELEMENT != I8
    .gate = gate,
    .rotate = rotate,
#endif
#if ELEMENT == F32
    .maxsim_bytes = maxsim_bytes,
    .maxsim = maxsim,
#endif
#if LEARNS
    .gradient_bytes = gradient_bytes,
    .gradient_begin = gradient_begin,
    .gradient_pairs = gradient_pairs,
    .gradient_products = gradient_products,
    .gradient_options = gradient_options,
    .gradient_finish = gradient_finish,
    .gradient_sum = gradient_sum,
#endif
#if ELEMENT == F32 || ELEMENT == F64
    .normalise_row = normalise_row,
    .add_row = add_row,
    .activate = activate,
    .drop = drop,
#endif
    .probe_multiply_add = probe_multiply_add,
    .probe_read = probe_read,
};
