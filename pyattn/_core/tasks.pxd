"""A call of attention as the kernels see it, and the tasks that it is cut into."""

from libc.stdint cimport int32_t, int64_t

from pyattn._core.kernels cimport (
    PYATTN_ALIGNMENT, PYATTN_OPERANDS, pyattn_attention, pyattn_kernels, pyattn_keys, pyattn_query_block,
)

cdef enum:
    MAX_BLOCKS = 12  # of queries in a task: they share the keys while these are in cache
    MAX_ABREAST = 4  # units
    SPARSE_QUERIES = 16  # in a task, at least

cdef enum:  # what the rows of an operand count
    QUERY_ROWS  # queries of all sequences; also for operands without rows, whose row stride is 0
    OWN_ROWS  # queries, from 0 in each sequence
    KEY_ROWS
    SEQUENCE_ROWS
    ROW_KINDS

cdef struct Call:
    const pyattn_kernels *kernels
    pyattn_attention shared
    unsigned char rows[PYATTN_OPERANDS]  # what they count
    const Py_ssize_t *batch_strides[PYATTN_OPERANDS]  # of the axes in front of the heads
    const Py_ssize_t *batch_shape  # sizes of these axes
    int batch_axes
    Py_ssize_t heads, key_heads
    Py_ssize_t sequences
    const int64_t *cu_seqlens_q  # sequences + 1 rows of queries: where each sequence begins and ends
    const int64_t *cu_seqlens_k  # the same for keys
    const int64_t *indptr  # of a sparse mask in CSR form, for the only sequence; NULL without one
    const int32_t *indices
    const char *index_bias  # one of compute type for each entry, or NULL
    Py_ssize_t first_query  # what query_offset counts from: the queries are a part of others
    bint second_pass  # whether weights, entropy or the best keys are wanted
    Py_ssize_t sum_from, sum_to  # the queries that column sums are over

    # How the work is cut: set by the driver.
    Py_ssize_t pack  # query heads of one key head that stand in one block, each with all of its queries
    Py_ssize_t chunks  # of `pack` heads, for each key head
    Py_ssize_t units  # batch elements x key heads x chunks
    Py_ssize_t group  # blocks of queries of a unit in a task, at most
    Py_ssize_t run  # units in a task, at most
    Py_ssize_t abreast  # of these, how many take turns over a block of keys, if they share a bias or floating mask
    Py_ssize_t splits  # of a block's keys that are computed apart at a time; 0 where one task takes all keys in turn
    Py_ssize_t state_bytes, load_bytes, thread_bytes  # scratch memory of a block, of loaded keys, of a thread
    Py_ssize_t copied[2]  # bytes of a thread's copies of a head's keys and values, which a sparse mask gathers; 0: none
    const int64_t *task_starts  # the first task of each sequence


cdef inline Py_ssize_t ceil_divide(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return (a + b - 1) // b


cdef inline Py_ssize_t whole_lines(Py_ssize_t n) noexcept nogil:
    return ceil_divide(n, PYATTN_ALIGNMENT) * PYATTN_ALIGNMENT


cdef struct Range:  # of the keys that some row of a block may see
    Py_ssize_t first, end


cdef void share_heads(Call *call, Py_ssize_t pack) noexcept nogil
cdef Py_ssize_t block_count(const Call *call, Py_ssize_t sequence) noexcept nogil
cdef Py_ssize_t place_head(
    const Call *call, pyattn_query_block *block, pyattn_keys *keys, Py_ssize_t sequence, Py_ssize_t unit,
) noexcept nogil
cdef Range place_block(
    const Call *call, pyattn_query_block *block, Py_ssize_t heads, Py_ssize_t number, Py_ssize_t blocks,
) noexcept nogil
cdef Py_ssize_t *held_head(const Call *call, char *scratch) noexcept nogil
cdef void run_task(const Call *call, Py_ssize_t task, char *scratch) noexcept nogil
cdef void run_split(const Call *call, Py_ssize_t task, Py_ssize_t split, char *states, char *scratch) noexcept nogil
cdef void merge_splits(
    const Call *call, Py_ssize_t task, Py_ssize_t first, Py_ssize_t end, Py_ssize_t last, char *states,
) noexcept nogil
cdef Py_ssize_t summed_keys(const Call *call) noexcept nogil
cdef void run_column_sums(const Call *call, Py_ssize_t task, char *scratch) noexcept nogil
