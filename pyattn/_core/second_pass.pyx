"""Column sums: for each key the sum of the weights that it gets, once the moments of all rows are known.

Weights, entropy and the best keys, which are of a row, are computed where the row is: run_blocks of tasks.pyx.
"""

from cython.parallel cimport prange, threadid
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from pyattn._core.runtime cimport Watch, begin_watch, no_scratch, raise_error, stopped
from pyattn._core.kernels cimport (
    PYATTN_ALIGNMENT,
    PYATTN_COLUMN_SUMS,
    PYATTN_KEY_BLOCK,
    PYATTN_OUT,
    PYATTN_VALUE,
    pyattn_keys,
    pyattn_query_block,
)
from pyattn._core.tasks cimport (
    Call,
    Range,
    ceil_divide,
    gather_keys,
    place_head,
    place_queries,
    share_heads,
    visible_keys,
)


cdef void write_sums(const Call *call, const double *sums, Py_ssize_t count, char *target) noexcept nogil:
    cdef Py_ssize_t key, row = call.shared.operands[PYATTN_COLUMN_SUMS].row
    for key in range(count):
        if call.kernels.real_bytes == sizeof(float):
            (<float *> (target + key * row))[0] = <float> sums[key]
        else:
            (<double *> (target + key * row))[0] = sums[key]


cdef void sum_dense(const Call *call, Py_ssize_t task, char *scratch) noexcept nogil:
    """The sums of one block of keys, over the queries of one head."""
    cdef Py_ssize_t keys_of_all = call.cu_seqlens_k[1], blocks = ceil_divide(keys_of_all, PYATTN_KEY_BLOCK)
    cdef Py_ssize_t most = call.kernels.lanes * call.kernels.tile_vectors, query = call.sum_from
    cdef double *sums = <double *> (scratch + call.state_bytes + call.load_bytes)
    cdef pyattn_query_block head
    cdef pyattn_query_block block
    cdef pyattn_keys keys
    cdef Range seen
    place_head(call, &head, &keys, 0, task // blocks)
    head.scratch = scratch
    keys.first = task % blocks * PYATTN_KEY_BLOCK
    keys.count = min(keys_of_all - keys.first, <Py_ssize_t> PYATTN_KEY_BLOCK)
    memset(sums, 0, keys.count * sizeof(double))
    call.shared.path.load(&call.shared, &keys, scratch + call.state_bytes)
    while query < call.sum_to:
        block = head
        place_queries(call, &block, query, min(most, call.sum_to - query))
        call.shared.path.begin(&block)
        seen = visible_keys(call, &block, block.rows)
        seen.first = max(seen.first, keys.first)
        seen.end = min(seen.end, keys.first + keys.count)
        if seen.first < seen.end:
            call.kernels.column_sums(&block, &keys, seen.first, seen.end - seen.first, sums + seen.first - keys.first)
        query += most
    write_sums(call, sums, keys.count,
               head.data[PYATTN_COLUMN_SUMS] + keys.first * call.shared.operands[PYATTN_COLUMN_SUMS].row)


cdef void sum_sparse(const Call *call, Py_ssize_t unit, char *scratch) noexcept nogil:
    """The sums of all keys of a sparse mask, over the queries of one head."""
    cdef Py_ssize_t count = call.cu_seqlens_k[1], query, key
    cdef double *sums = <double *> (scratch + call.state_bytes + call.load_bytes)
    cdef pyattn_query_block head
    cdef pyattn_query_block block
    cdef pyattn_keys keys
    cdef Range seen
    place_head(call, &head, &keys, 0, unit)
    head.scratch = scratch
    memset(sums, 0, count * sizeof(double))
    for query in range(call.sum_from, call.sum_to):
        block = head
        place_queries(call, &block, query, 1)
        call.shared.path.begin(&block)
        seen = gather_keys(call, &keys, query)
        key = 0
        while key < seen.end:
            call.kernels.column_sums(&block, &keys, key, min(seen.end - key, <Py_ssize_t> PYATTN_KEY_BLOCK), sums)
            key += PYATTN_KEY_BLOCK
    write_sums(call, sums, count, head.data[PYATTN_COLUMN_SUMS])


cdef int write_column_sums(const Call *call, int team) except -1:
    """Writes them from the moments of all rows, key by key: each in the order of the queries."""
    cdef Call summing = call[0]
    cdef Watch watch = begin_watch()
    cdef Py_ssize_t keys = call.cu_seqlens_k[1], sums = keys, tasks, i
    cdef bint sparse = call.indptr != NULL
    share_heads(&summing, 1)
    summing.shared.path = &call.kernels.decode if sparse else &call.kernels.prefill
    summing.shared.value_width = summing.shared.top_k = 0
    summing.shared.operands[PYATTN_VALUE].data = summing.shared.operands[PYATTN_OUT].data = NULL
    tasks = summing.units
    if not sparse:
        tasks *= ceil_divide(keys, PYATTN_KEY_BLOCK)
        sums = min(keys, <Py_ssize_t> PYATTN_KEY_BLOCK)
    team = team if tasks > 1 else 1
    summing.state_bytes = summing.shared.path.state_bytes(&summing.shared, call.kernels.tile_vectors)
    summing.load_bytes = summing.shared.path.load_bytes(&summing.shared)
    summing.thread_bytes = summing.state_bytes + summing.load_bytes + sums * <Py_ssize_t> sizeof(double)
    summing.thread_bytes = ceil_divide(summing.thread_bytes, PYATTN_ALIGNMENT) * PYATTN_ALIGNMENT
    cdef char *memory = <char *> malloc(PYATTN_ALIGNMENT + team * summing.thread_bytes)
    if memory == NULL:
        raise no_scratch()
    cdef char *scratch = memory + PYATTN_ALIGNMENT - <size_t> memory % PYATTN_ALIGNMENT
    with nogil:
        for i in prange(tasks, num_threads=team, schedule="guided"):
            if not stopped(&watch, threadid()):
                if sparse:
                    sum_sparse(&summing, i, scratch + threadid() * summing.thread_bytes)
                else:
                    sum_dense(&summing, i, scratch + threadid() * summing.thread_bytes)
    free(memory)
    return raise_error(&watch)
