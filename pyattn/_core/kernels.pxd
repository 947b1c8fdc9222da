"""csrc/kernels.h, as the drivers see it."""

from libc.stdint cimport int32_t, int64_t

cdef extern from "kernels.h" nogil:
    enum:
        PYATTN_MASK_NONE
        PYATTN_MASK_BOOL
        PYATTN_MASK_REAL
        PYATTN_KEY_BLOCK
        PYATTN_PIECE
        PYATTN_WIDTH_BLOCK
        PYATTN_FEW
        PYATTN_ALIGNMENT
        PYATTN_WHOLE
        PYATTN_FLOAT16
        PYATTN_BFLOAT16
        PYATTN_IDENTITY
        PYATTN_RELU
        PYATTN_GELU
        PYATTN_GELU_TANH
        PYATTN_SILU

    struct pyattn_attention:
        Py_ssize_t query_row, query_column, query_head, key_row, key_column, value_row, value_column
        Py_ssize_t out_row, out_column, out_head, lse_row, lse_head, weights_row, weights_column, weights_head
        Py_ssize_t mask_row, mask_column, mask_head, bias_row, bias_column, bias_head
        Py_ssize_t slopes_head, sinks_head
        Py_ssize_t width, value_width
        int mask_kind, index_bias, few
        double scale, softcap
        Py_ssize_t low, high, top_k

    struct pyattn_query_block:
        const pyattn_attention *call
        const char *query
        const char *mask
        const char *bias
        const char *slopes
        const char *sinks
        char *out
        char *lse
        char *weights
        char *maximum
        char *entropy
        char *top_weights
        char *moments
        int64_t *top_keys
        int vectors
        Py_ssize_t rows, first, length, offset, keys
        char *scratch

    struct pyattn_keys:
        const char *key
        const char *value
        const int32_t *index
        const char *index_bias
        Py_ssize_t first, count

    struct pyattn_linear:
        const char *packed
        const char *bias
        const char *residual
        char *out
        Py_ssize_t residual_row, out_row
        Py_ssize_t inputs, outputs
        int activation, half, held

    struct pyattn_steps:
        const char *data
        Py_ssize_t row
        const float *scales

    struct pyattn_kernels:
        int lanes
        int tile_rows
        int tile_vectors
        int real_bytes
        int widens_float16
        int step
        Py_ssize_t (*attention_scratch)(const pyattn_attention *, int vectors) noexcept nogil
        Py_ssize_t (*attention_load_scratch)(const pyattn_attention *) noexcept nogil
        void (*attention_load)(const pyattn_attention *, pyattn_keys *, char *scratch) noexcept nogil
        void (*attention_begin)(const pyattn_query_block *) noexcept nogil
        void (*attention_attend)(const pyattn_query_block *, pyattn_keys *, Py_ssize_t first,
                                 Py_ssize_t count) noexcept nogil
        void (*attention_fold)(const pyattn_query_block *, const char *other) noexcept nogil
        void (*attention_finish)(const pyattn_query_block *) noexcept nogil
        void (*attention_review_begin)(const pyattn_query_block *) noexcept nogil
        void (*attention_review)(const pyattn_query_block *, const pyattn_keys *, Py_ssize_t first,
                                 Py_ssize_t count) noexcept nogil
        void (*attention_review_finish)(const pyattn_query_block *) noexcept nogil
        void (*attention_receive)(const pyattn_query_block *, const pyattn_keys *, Py_ssize_t first,
                                  Py_ssize_t count, double *sums) noexcept nogil
        Py_ssize_t (*linear_packed_bytes)(Py_ssize_t outputs, Py_ssize_t inputs, int held) noexcept nogil
        void (*linear_pack)(const char *weight, Py_ssize_t row, Py_ssize_t column, const float *scales,
                            Py_ssize_t outputs, Py_ssize_t inputs, int held, char *packed) noexcept nogil
        Py_ssize_t (*linear_row_bytes)(Py_ssize_t inputs) noexcept nogil
        void (*linear_load)(const char *input, int half, Py_ssize_t inputs, char *steps, float *scale) noexcept nogil
        void (*linear_tile)(const pyattn_linear *, const pyattn_steps *, Py_ssize_t first, Py_ssize_t rows,
                            Py_ssize_t panel) noexcept nogil
        void (*gate)(const char *input, char *out, Py_ssize_t width, int kind) noexcept nogil
        void (*rotate)(char *row, const char *cosines, const char *sines, Py_ssize_t heads, Py_ssize_t stride,
                       Py_ssize_t half, int interleaved) noexcept nogil
        void (*normalise_row)(const char *input, const char *weight, const char *bias, char *out, Py_ssize_t width,
                              double eps, int centred) noexcept nogil
        void (*add_row)(const char *input, char *sum, Py_ssize_t width) noexcept nogil
        void (*activation)(const char *input, char *out, Py_ssize_t count, int kind) noexcept nogil
        double (*probe_multiply_add)(Py_ssize_t rounds) noexcept nogil
        double (*probe_read)(const char *p, Py_ssize_t vectors) noexcept nogil

    struct pyattn_isa:
        const char *name
        int supported
        const pyattn_kernels *float32
        const pyattn_kernels *float64
        const pyattn_kernels *float16
        const pyattn_kernels *bfloat16
        const pyattn_kernels *int8

    const pyattn_isa *pyattn_isas()
