/* Everything that is compiled once per instruction set and element type, as one unit: all of it static but the table,
 * whose name is PYATTN_TABLE. */
#include "simd.h"
#if ELEMENT != I8
#include "attention.c"
#include "review.c"
#endif
#if ELEMENT != F16
#include "linear/multiply.c"
#include "linear/pack.c"
#endif
#if ELEMENT != F16 && ELEMENT != I8
#include "rowwise.c"
#endif
#include "probe.c"

const struct pyattn_kernels PYATTN_TABLE = {
    .lanes = LANES,
    .tile_rows = TILE_ROWS,
    .tile_vectors = TILE_VECTORS,
    .real_bytes = sizeof(real),
    .step = STEP,
#if ELEMENT != I8
    .prefill = {attention_scratch, attention_load_scratch, attention_load, attention_begin, attention_attend, attention_fold, attention_finish, 0, 0},
    .decode = {attention_scratch, attention_load_scratch, attention_load, attention_begin, attention_attend, attention_fold, attention_finish, 0, 1},
    .weights_begin = attention_review_begin,
    .weights_update = attention_review,
    .weights_finish = attention_review_finish,
    .column_sums = attention_receive,
#endif
#if ELEMENT != F16
    .linear_format = linear_format,
    .linear_packed_bytes = linear_packed_bytes,
    .linear_pack = linear_pack,
    .linear_unpack = linear_unpack,
    .linear_row_bytes = linear_row_bytes,
    .linear_pack_row = linear_pack_row,
    .linear_tile = linear_tile,
#endif
#if ELEMENT != F16 && ELEMENT != I8
    .gate = gate,
    .rotate = rotate,
#endif
#if ELEMENT == F32 || ELEMENT == F64
    .normalise_row = normalise_row,
    .add_row = add_row,
    .activate = activate,
#endif
    .probe_multiply_add = probe_multiply_add,
    .probe_read = probe_read,
};
