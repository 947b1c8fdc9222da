"""Blocks of query rows: where they and their keys lie, and the tasks that they make."""

cimport numpy as cnp
from libc.stdint cimport int32_t, int64_t

from pyattn._core.kernels cimport pyattn_attention, pyattn_kernels, pyattn_keys, pyattn_query_block

cdef enum:
    MOST_BLOCKS = 4  # of queries in a task: they share the keys while these are in cache
    SPARSE_QUERIES = 16  # in a task

cdef struct Operand:  # a strided array: axes 0 ... leading - 1, then others
    char *data
    const cnp.npy_intp *strides

cdef struct Job:
    const pyattn_kernels *kernels
    pyattn_attention call
    Operand query, key, value, out, lse, weights, mask, bias, slopes, sinks, kv_lengths, offsets
    Operand maximum, entropy, top_keys, top_weights
    const cnp.npy_intp *shape  # of the query
    int leading  # axes in front of rows; the last of them is the heads
    Py_ssize_t heads, key_heads, heads_per_key_head
    Py_ssize_t pack  # query heads of one key head that stand in one block, each with all of its queries
    Py_ssize_t chunks  # of `pack` heads, for each key head
    Py_ssize_t units  # the product of the leading axes, with key heads x chunks for the heads
    Py_ssize_t group  # most blocks of queries in a task
    Py_ssize_t sequences
    const int64_t *query_starts  # sequences + 1 row numbers
    const int64_t *key_starts
    const int64_t *task_starts  # first task of each sequence
    const int64_t *pointers  # of a sparse mask's rows into indices; NULL for none
    const int32_t *indices
    const char *index_bias
    bint bias_of_sequence  # whether rows of bias count from each sequence's first query
    char *moments  # two reals for each head and query, or NULL
    bint review
    Py_ssize_t state, load_scratch, scratch  # bytes: of a block, of loaded keys, of a thread
    Py_ssize_t pieces  # of a block that are computed apart at a time; 0 where tasks take all of them in turn
    Py_ssize_t received_from, received_to

cdef struct Range:  # of the keys that some row of a block may see
    Py_ssize_t first, end


cdef inline Py_ssize_t ceil_divide(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return (a + b - 1) // b


cdef Py_ssize_t block_count(const Job *job, Py_ssize_t sequence) noexcept nogil
cdef void place_head(
    const Job *job, pyattn_query_block *block, pyattn_keys *keys, Py_ssize_t sequence, Py_ssize_t unit,
) noexcept nogil
cdef void move_rows(const Job *job, pyattn_query_block *block, Py_ssize_t first, Py_ssize_t rows) noexcept nogil
cdef Range seen_keys(const Job *job, const pyattn_query_block *block, Py_ssize_t queries) noexcept nogil
cdef Range gather(const Job *job, pyattn_keys *keys, Py_ssize_t query) noexcept nogil
cdef void run_task(const Job *job, Py_ssize_t task, char *scratch) noexcept nogil
cdef void run_piece(
    const Job *job, Py_ssize_t task, Py_ssize_t piece, char *states, char *scratch
) noexcept nogil
cdef void merge_pieces(
    const Job *job, Py_ssize_t task, Py_ssize_t first, Py_ssize_t end, Py_ssize_t last, char *states
) noexcept nogil
