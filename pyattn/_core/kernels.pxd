"""csrc/kernels.h, as the drivers see it."""

from libc.stdint cimport int32_t, int64_t, uint64_t

cdef extern from "kernels.h" nogil:
    enum:
        PYATTN_MASK_NONE, PYATTN_MASK_BOOL, PYATTN_MASK_REAL
        PYATTN_KEY_BLOCK, PYATTN_SPLIT, PYATTN_WIDTH_BLOCK, PYATTN_DECODE_ROWS, PYATTN_ALIGNMENT
        PYATTN_FLOAT32, PYATTN_FLOAT64, PYATTN_FLOAT16, PYATTN_BFLOAT16, PYATTN_INT8
        PYATTN_IDENTITY, PYATTN_RELU, PYATTN_GELU, PYATTN_GELU_TANH, PYATTN_SILU
        PYATTN_QUERY, PYATTN_KEY, PYATTN_VALUE, PYATTN_KEY_SCALES, PYATTN_VALUE_SCALES
        PYATTN_MASK, PYATTN_BIAS, PYATTN_ALIBI_SLOPES, PYATTN_SINKS
        PYATTN_KV_LENGTHS, PYATTN_QUERY_OFFSET, PYATTN_OUT, PYATTN_LSE, PYATTN_MAX, PYATTN_ENTROPY, PYATTN_MOMENTS
        PYATTN_WEIGHTS, PYATTN_TOP_KEYS, PYATTN_TOP_WEIGHTS, PYATTN_COLUMN_SUMS
        PYATTN_GRAD_OUT, PYATTN_GRAD_LSE, PYATTN_GRAD_QUERY, PYATTN_GRAD_KEY, PYATTN_GRAD_VALUE, PYATTN_GRAD_BIAS
        PYATTN_GRAD_SLOPES, PYATTN_OPERANDS, PYATTN_GRADIENT_BLOCKS
        PYATTN_GRADIENT_OF_OPTIONS, PYATTN_GRADIENT_FIRST, PYATTN_GRADIENT_MORE

    struct pyattn_array:
        char *data
        Py_ssize_t row, column, head

    struct pyattn_attention:
        pyattn_array operands[PYATTN_OPERANDS]
        Py_ssize_t width, value_width
        int mask_kind, index_bias
        const pyattn_attention_path *path
        double scale, softcap, dropout
        uint64_t dropout_seed
        Py_ssize_t left, right, top_k

    struct pyattn_addends:
        char *lines
        int placed, masked
        const char *next
        Py_ssize_t next_rows

    struct pyattn_query_block:
        const pyattn_attention *call
        char *data[PYATTN_OPERANDS]
        int vectors
        Py_ssize_t rows, first, length, query_offset, kv_length, head_number, query_number
        char *scratch
        pyattn_addends *addends
        const char *next_query

    struct pyattn_keys:
        char *key
        char *value
        char *key_scale
        char *value_scale
        const int32_t *index
        const int64_t *starts
        const char *index_bias
        Py_ssize_t first, count
        pyattn_array tile_key, tile_value
        int finite

    struct pyattn_weight:
        const char *packed
        const char *bias
        Py_ssize_t outputs, inputs
        int format

    struct pyattn_linear:
        const pyattn_weight *weight
        const char *residual
        char *out
        Py_ssize_t residual_row, out_row
        int activation, out_is_bf16

    struct pyattn_packed_rows:
        const char *data
        Py_ssize_t row
        const float *scales
        const char *ahead
        Py_ssize_t ahead_step

    struct pyattn_maxsim:
        const pyattn_weight *queries
        const int64_t *query_starts
        Py_ssize_t count
        const char *documents
        Py_ssize_t row
        int format
        const int64_t *document_starts
        char *out
        Py_ssize_t out_row

    struct pyattn_attention_path:
        int along_keys, by_row
        Py_ssize_t (*state_bytes)(const pyattn_attention *, int vectors) noexcept nogil
        Py_ssize_t (*load_bytes)(const pyattn_attention *) noexcept nogil
        void (*load)(const pyattn_attention *, pyattn_keys *, char *scratch) noexcept nogil
        void (*begin)(const pyattn_query_block *) noexcept nogil
        void (*update)(const pyattn_query_block *, pyattn_keys *, Py_ssize_t first, Py_ssize_t count) noexcept nogil
        void (*merge)(const pyattn_query_block *, char *other) noexcept nogil
        void (*finish)(const pyattn_query_block *) noexcept nogil
        int (*logits)(const pyattn_query_block *, const pyattn_keys *, Py_ssize_t *first,
                      Py_ssize_t *count) noexcept nogil

    struct pyattn_kernels:
        int lanes, tile_rows, tile_vectors, real_bytes, key_bytes, group
        pyattn_attention_path prefill, mixed, decode
        void (*round_row)(const char *features, Py_ssize_t width, char *rounded, float *scale) noexcept nogil
        void (*weights_begin)(const pyattn_query_block *) noexcept nogil
        void (*weights_update)(const pyattn_query_block *, const pyattn_keys *, Py_ssize_t first,
                               Py_ssize_t count) noexcept nogil
        void (*weights_finish)(const pyattn_query_block *) noexcept nogil
        void (*column_sums)(const pyattn_query_block *, const pyattn_keys *, Py_ssize_t first, Py_ssize_t count,
                            double *sums) noexcept nogil
        Py_ssize_t (*gradient_bytes)(const pyattn_attention *, int vectors) noexcept nogil
        void (*gradient_begin)(const pyattn_query_block *, int stage) noexcept nogil
        int (*gradient_pairs)(const pyattn_query_block *, const pyattn_keys *, Py_ssize_t first,
                              Py_ssize_t count) noexcept nogil
        void (*gradient_products)(const pyattn_query_block *, int count_of_blocks, const int *masked,
                                  const pyattn_keys *, Py_ssize_t first, Py_ssize_t count, int add) noexcept nogil
        void (*gradient_options)(const pyattn_query_block *, Py_ssize_t first, Py_ssize_t count) noexcept nogil
        void (*gradient_finish)(const pyattn_query_block *) noexcept nogil
        void (*gradient_sum)(const char *sums, Py_ssize_t step, Py_ssize_t parts, char *out,
                             Py_ssize_t count) noexcept nogil
        int (*linear_format)(const char *elements, Py_ssize_t row, Py_ssize_t column, Py_ssize_t outputs,
                             Py_ssize_t inputs) noexcept nogil
        Py_ssize_t (*linear_packed_bytes)(Py_ssize_t outputs, Py_ssize_t inputs, int format) noexcept nogil
        void (*linear_pack)(const pyattn_weight *, const char *elements, Py_ssize_t row, Py_ssize_t column,
                            const float *scales, char *packed) noexcept nogil
        void (*linear_unpack)(const pyattn_weight *, char *elements, float *scales) noexcept nogil
        Py_ssize_t (*linear_row_bytes)(Py_ssize_t inputs, int input_is_bf16) noexcept nogil
        void (*linear_pack_row)(const char *input, int input_is_bf16, Py_ssize_t inputs, char *packed,
                                float *scale) noexcept nogil
        void (*linear_tile)(const pyattn_linear *, const pyattn_packed_rows *, Py_ssize_t first, Py_ssize_t rows,
                            Py_ssize_t panel) noexcept nogil
        Py_ssize_t (*maxsim_bytes)(const pyattn_maxsim *) noexcept nogil
        void (*maxsim)(const pyattn_maxsim *, Py_ssize_t first, Py_ssize_t last, char *scratch) noexcept nogil
        void (*gate)(const char *input, char *out, Py_ssize_t width, int activation) noexcept nogil
        void (*rotate)(char *row, const char *cosines, const char *sines, Py_ssize_t heads, Py_ssize_t stride,
                       Py_ssize_t half, int interleaved) noexcept nogil
        void (*normalise_row)(const char *input, const char *weight, const char *bias, char *out, Py_ssize_t width,
                              double eps, int centred) noexcept nogil
        void (*add_row)(const char *input, char *sum, Py_ssize_t width) noexcept nogil
        void (*activate)(const char *input, char *out, Py_ssize_t count, int activation) noexcept nogil
        void (*drop)(const char *input, const char *grad, char *out, Py_ssize_t width, uint64_t seed, Py_ssize_t row,
                     double probability, int activation) noexcept nogil
        double (*probe_multiply_add)(Py_ssize_t rounds) noexcept nogil
        double (*probe_read)(const char *p, Py_ssize_t count) noexcept nogil

    struct pyattn_isa:
        const char *name
        int supported
        const pyattn_kernels *float32
        const pyattn_kernels *float64
        const pyattn_kernels *float16
        const pyattn_kernels *bfloat16
        const pyattn_kernels *int8
        const pyattn_kernels *int8_keys

    const pyattn_isa *pyattn_isas()
