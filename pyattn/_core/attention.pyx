"""Drives the attention kernels over blocks of queries and keys. Arguments are trusted: functional.py checks them.

Work is cut into tasks: sequences x leading axes (batch, heads) x blocks of query rows, which blocks.pyx runs.
"""

cimport numpy as cnp
from cython.parallel cimport prange, threadid
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from pyattn._core.blocks cimport (
    MOST_BLOCKS,
    SPARSE_QUERIES,
    Job,
    Operand,
    Range,
    block_count,
    ceil_divide,
    gather,
    merge_pieces,
    move_rows,
    place_head,
    run_piece,
    run_task,
    seen_keys,
)
from pyattn._core.dispatch cimport (
    Watch, begin_call, begin_watch, end_call, kernels_of, no_scratch, raise_error, stopped,
)
from pyattn._core.kernels cimport (
    PYATTN_ALIGNMENT,
    PYATTN_FEW,
    PYATTN_KEY_BLOCK,
    PYATTN_MASK_BOOL,
    PYATTN_MASK_NONE,
    PYATTN_MASK_REAL,
    PYATTN_PIECE,
    PYATTN_WIDTH_BLOCK,
    pyattn_attention,
    pyattn_keys,
    pyattn_query_block,
)

cnp.import_array()

WIDTH_BLOCK = PYATTN_WIDTH_BLOCK  # the widest value that attention() takes

cdef enum:
    UNBOUNDED = 0x7fffffff  # farther than any key from any query
    THREAD_BYTES = 1_900_000  # of scratch memory, if it can be


cdef Operand operand(cnp.ndarray array) noexcept:
    cdef Operand result
    result.data = NULL
    result.strides = NULL
    if array is not None:
        result.data = <char *> cnp.PyArray_DATA(array)
        result.strides = cnp.PyArray_STRIDES(array)
    return result


cdef void receive(const Job *job, Py_ssize_t task, char *scratch) noexcept nogil:
    """The sums of the weights that a block of keys, or all keys of a sparse mask, get from the queries of one head."""
    cdef Py_ssize_t count = job.key_starts[1], blocks = ceil_divide(count, PYATTN_KEY_BLOCK), first = 0, query, key
    cdef Py_ssize_t most = job.kernels.lanes * job.kernels.tile_vectors
    cdef double *sums = <double *> (scratch + job.state + job.load_scratch)
    cdef pyattn_query_block head
    cdef pyattn_query_block block
    cdef pyattn_keys keys
    cdef Range seen
    if job.pointers != NULL:
        place_head(job, &head, &keys, 0, task)
        memset(sums, 0, count * sizeof(double))
        most = 1
    else:
        place_head(job, &head, &keys, 0, task // blocks)
        first = task % blocks * PYATTN_KEY_BLOCK
        count = min(count - first, <Py_ssize_t> PYATTN_KEY_BLOCK)
        memset(sums, 0, count * sizeof(double))
        keys.first = first
        keys.count = count
        if not job.call.few:
            job.kernels.attention_load(&job.call, &keys, scratch + job.state)
    head.scratch = scratch
    query = job.received_from
    while query < job.received_to:
        block = head
        move_rows(job, &block, query, min(most, job.received_to - query))
        block.vectors = <int> ceil_divide(block.rows, job.kernels.lanes)
        job.kernels.attention_begin(&block)
        if job.pointers != NULL:
            seen = gather(job, &keys, query)
            key = 0
            while key < seen.end:
                job.kernels.attention_receive(
                    &block, &keys, key, min(seen.end - key, <Py_ssize_t> PYATTN_KEY_BLOCK), sums
                )
                key += PYATTN_KEY_BLOCK
        else:
            seen = seen_keys(job, &block, block.rows)
            seen.first = max(seen.first, first)
            seen.end = min(seen.end, first + count)
            if seen.first < seen.end:
                job.kernels.attention_receive(
                    &block, &keys, seen.first, seen.end - seen.first, sums + seen.first - first
                )
        query += most
    cdef char *target = head.weights + first * job.kernels.real_bytes
    for key in range(count):
        if job.kernels.real_bytes == sizeof(float):
            (<float *> target)[key] = <float> sums[key]
        else:
            (<double *> target)[key] = sums[key]


cdef void share_heads(Job *job, Py_ssize_t pack) noexcept:
    """Sets how many query heads of a key head stand in one block, and what follows from it."""
    cdef int axis
    job.pack = max(<Py_ssize_t> 1, min(pack, job.heads_per_key_head))
    job.chunks = ceil_divide(job.heads_per_key_head, job.pack)
    job.units = job.key_heads * job.chunks
    for axis in range(job.leading - 1):
        job.units *= job.shape[axis]


def attention(
    cnp.ndarray query not None,
    cnp.ndarray key not None,
    cnp.ndarray value,
    cnp.ndarray out,
    *,
    cnp.ndarray query_starts not None,
    cnp.ndarray key_starts not None,
    double scale,
    int threads,
    cnp.ndarray lse=None,
    cnp.ndarray weights=None,
    cnp.ndarray mask=None,
    cnp.ndarray bias=None,
    bint bias_of_sequence=False,
    cnp.ndarray slopes=None,
    cnp.ndarray sinks=None,
    cnp.ndarray kv_lengths=None,
    cnp.ndarray offsets=None,
    Py_ssize_t left=-1,
    Py_ssize_t right=-1,
    double softcap=0.0,
    structure=None,
    cnp.ndarray maximum=None,
    cnp.ndarray entropy=None,
    cnp.ndarray received=None,
    Py_ssize_t received_from=0,
    Py_ssize_t received_to=-1,
    cnp.ndarray top_keys=None,
    cnp.ndarray top_weights=None,
):
    """Writes attention to out, and what else is given to lse, weights, maximum, entropy, received and top_*.

    query (..., H, total L, D), key (..., Hkv, total S, D), value (..., Hkv, total S, Dv) and out (..., H, total L, Dv)
    have at least three axes and any strides, Dv at most WIDTH_BLOCK; value and out may be None together. Sequence i is
    rows query_starts[i] ... query_starts[i + 1] of the queries and key_starts[i] ... key_starts[i + 1] of the keys;
    both are contiguous int64 (sequences + 1,). lse, maximum and entropy are (..., H, total L) of the query's real
    dtype: its own, or float32 for half types. weights (..., H, L, S), zeros, are of the query's dtype.

    mask is boolean (True = may attend) or of the query's dtype (added to the logits), bias of the query's dtype; both
    (..., H, total L, total S), or where bias_of_sequence bias is (..., H, L, S) for all sequences. slopes and sinks are
    (..., H) of the real dtype, kv_lengths and offsets int64 (..., H, sequences). left and right are the window's, -1
    for none; softcap 0 is none. structure is the sparse mask, for one sequence: (indptr int64 (L + 1,), indices int32,
    data of the real dtype or None).

    received (..., H, S), zeros, and top_weights (..., H, L, k) are of the real dtype, top_keys int64; all contiguous.
    """
    cdef Job job
    cdef Watch watch = begin_watch()
    cdef Py_ssize_t i, tasks, blocks, most = 0, rows, per_block, team, pieces = 1, first, here
    cdef bint split = False
    cdef cnp.ndarray pointers, indices, data
    memset(&job, 0, sizeof(Job))
    job.kernels = kernels_of(query.dtype)
    job.query = operand(query)
    job.key = operand(key)
    job.value = operand(value)
    job.out = operand(out)
    job.lse = operand(lse)
    job.weights = operand(weights)
    job.mask = operand(mask)
    job.bias = operand(bias)
    job.bias_of_sequence = bias_of_sequence
    job.slopes = operand(slopes)
    job.sinks = operand(sinks)
    job.kv_lengths = operand(kv_lengths)
    job.offsets = operand(offsets)
    job.maximum = operand(maximum)
    job.entropy = operand(entropy)
    job.top_keys = operand(top_keys)
    job.top_weights = operand(top_weights)
    job.shape = cnp.PyArray_DIMS(query)
    job.leading = query.ndim - 2
    job.heads = job.shape[job.leading - 1]
    job.key_heads = cnp.PyArray_DIMS(key)[job.leading - 1]
    for i in range(job.leading):
        if job.shape[i] == 0:
            return
    if out is not None and out.size == 0 and lse is None and weights is None:
        return
    job.heads_per_key_head = job.heads // job.key_heads
    job.sequences = query_starts.shape[0] - 1
    job.query_starts = <const int64_t *> cnp.PyArray_DATA(query_starts)
    job.key_starts = <const int64_t *> cnp.PyArray_DATA(key_starts)
    if structure is not None:
        pointers, indices, data = structure
        job.pointers = <const int64_t *> cnp.PyArray_DATA(pointers)
        job.indices = <const int32_t *> cnp.PyArray_DATA(indices)
        job.index_bias = <const char *> cnp.PyArray_DATA(data) if data is not None else NULL
    job.review = weights is not None or entropy is not None or top_keys is not None
    describe(&job, query, value, mask, scale, softcap, left, right, top_keys)

    for i in range(job.sequences):
        most = max(most, job.query_starts[i + 1] - job.query_starts[i])
        pieces = max(pieces, ceil_divide(job.key_starts[i + 1] - job.key_starts[i], PYATTN_PIECE))
    rows = job.kernels.lanes * job.kernels.tile_vectors
    per_block = min(<Py_ssize_t> PYATTN_FEW, <Py_ssize_t> job.kernels.lanes)
    if job.pointers != NULL:
        share_heads(&job, 1 if job.top_keys.data != NULL or received is not None else per_block)
        job.call.few = True
    else:
        share_heads(&job, rows // max(most, <Py_ssize_t> 1))
        job.call.few = job.pack * most <= per_block
    blocks = 0
    for i in range(job.sequences):
        blocks += job.units * block_count(&job, i)
    team = begin_call(threads if blocks * pieces > 1 else 1)
    job.state = job.kernels.attention_scratch(&job.call, 1 if job.call.few else job.kernels.tile_vectors)
    job.load_scratch = 0 if job.call.few else job.kernels.attention_load_scratch(&job.call)
    job.group = min(<Py_ssize_t> MOST_BLOCKS, min(blocks // (4 * team), (THREAD_BYTES - job.load_scratch) // job.state))
    job.group = SPARSE_QUERIES if job.pointers != NULL else max(<Py_ssize_t> 1, job.group)
    # Where there are too few blocks to keep all threads busy, the pieces of each are computed apart.
    if pieces > 1 and 0 < blocks < 4 * team and not job.review and job.pointers == NULL:
        job.pieces = min(pieces, team * (THREAD_BYTES - job.load_scratch) // (blocks * job.state) - 1)
        split = job.pieces > 1
        job.group = 1 if split else job.group

    # One allocation: task_starts; a scratch for each thread; the states of pieces; moments.
    job.scratch = job.load_scratch + (0 if split else (1 if job.pointers != NULL else job.group) * job.state)
    cdef Py_ssize_t starts = ceil_divide((job.sequences + 1) * sizeof(int64_t), PYATTN_ALIGNMENT) * PYATTN_ALIGNMENT
    cdef Py_ssize_t states = blocks * (job.pieces + 1) * job.state if split else 0
    cdef Py_ssize_t moments = 0
    if received is not None:
        moments = lse.size * 2 * job.kernels.real_bytes
    cdef char *memory = <char *> malloc(PYATTN_ALIGNMENT + starts + team * job.scratch + states + moments)
    if memory == NULL:
        end_call()
        raise no_scratch()
    cdef int64_t *task_starts = <int64_t *> (memory + PYATTN_ALIGNMENT - <size_t> memory % PYATTN_ALIGNMENT)
    cdef char *scratch = <char *> task_starts + starts
    cdef char *apart = scratch + team * job.scratch
    if received is not None:
        job.moments = apart + states
    task_starts[0] = 0
    for i in range(job.sequences):
        task_starts[i + 1] = task_starts[i] + job.units * ceil_divide(block_count(&job, i), job.group)
    job.task_starts = task_starts
    tasks = task_starts[job.sequences]
    try:
        with nogil:
            if split:
                first = 0
                while first < pieces and not watch.stopped:
                    here = min(job.pieces, pieces - first)
                    for i in prange(tasks * here, num_threads=team, schedule="dynamic"):
                        if not stopped(&watch, threadid()):
                            run_piece(&job, i // here, first + i % here, apart, scratch + threadid() * job.scratch)
                    for i in prange(tasks, num_threads=team, schedule="static"):
                        if not stopped(&watch, threadid()):
                            merge_pieces(&job, i, first, first + here, pieces, apart)
                    first = first + here
            elif job.sequences > 1 or job.kv_lengths.data != NULL or job.pointers != NULL:
                # tasks of unlike lengths: a few at a time
                for i in prange(tasks, num_threads=team, schedule="dynamic", chunksize=2):
                    if not stopped(&watch, threadid()):
                        run_task(&job, i, scratch + threadid() * job.scratch)
            else:
                # guided: long runs first, which keep a head, and so its keys, on one core; short ones balance
                for i in prange(tasks, num_threads=team, schedule="guided"):
                    if not stopped(&watch, threadid()):
                        run_task(&job, i, scratch + threadid() * job.scratch)
        raise_error(&watch)
        if received is not None:
            count_received(&job, received, received_from, received_to, team)
    finally:
        end_call()
        free(memory)


cdef void describe(
    Job *job, cnp.ndarray query, cnp.ndarray value, cnp.ndarray mask, double scale, double softcap, Py_ssize_t left,
    Py_ssize_t right, cnp.ndarray top_keys,
):
    """What all blocks of the call share."""
    cdef pyattn_attention *call = &job.call
    cdef int heads = job.leading - 1, rows = job.leading, columns = job.leading + 1
    call.query_row, call.query_column, call.query_head = (
        job.query.strides[rows], job.query.strides[columns], job.query.strides[heads]
    )
    call.key_row, call.key_column = job.key.strides[rows], job.key.strides[columns]
    call.width = job.shape[columns]
    if value is not None:
        call.value_row, call.value_column = job.value.strides[rows], job.value.strides[columns]
        call.out_row, call.out_column, call.out_head = (
            job.out.strides[rows], job.out.strides[columns], job.out.strides[heads]
        )
        call.value_width = cnp.PyArray_DIMS(value)[columns]
    call.lse_row = call.lse_head = 0
    if job.lse.data != NULL:  # maximum and entropy are made like it
        call.lse_row, call.lse_head = job.lse.strides[rows], job.lse.strides[heads]
    if job.weights.data != NULL:
        call.weights_row, call.weights_column, call.weights_head = (
            job.weights.strides[rows], job.weights.strides[columns], job.weights.strides[heads]
        )
    call.mask_kind = PYATTN_MASK_NONE
    if mask is not None:
        call.mask_kind = PYATTN_MASK_BOOL if mask.dtype == bool else PYATTN_MASK_REAL
        call.mask_row, call.mask_column, call.mask_head = (
            job.mask.strides[rows], job.mask.strides[columns], job.mask.strides[heads]
        )
    if job.bias.data != NULL:
        call.bias_row, call.bias_column, call.bias_head = (
            job.bias.strides[rows], job.bias.strides[columns], job.bias.strides[heads]
        )
    call.slopes_head = job.slopes.strides[heads] if job.slopes.data != NULL else 0
    call.sinks_head = job.sinks.strides[heads] if job.sinks.data != NULL else 0
    call.index_bias = job.index_bias != NULL
    call.scale = scale
    call.softcap = softcap
    call.low = -UNBOUNDED if left < 0 else -min(left, <Py_ssize_t> UNBOUNDED)
    call.high = UNBOUNDED if right < 0 else min(right + 1, <Py_ssize_t> UNBOUNDED)
    call.top_k = top_keys.shape[top_keys.ndim - 1] if top_keys is not None else 0


cdef int count_received(Job *job, cnp.ndarray received, Py_ssize_t first, Py_ssize_t end, Py_ssize_t team) except -1:
    """The column sums of the weights, from the moments of all rows, key by key: each in the order of the queries."""
    cdef Job receiving = job[0]
    cdef Watch watch = begin_watch()
    cdef Py_ssize_t keys = job.key_starts[1], sums = min(keys, <Py_ssize_t> PYATTN_KEY_BLOCK), tasks, i
    share_heads(&receiving, 1)
    receiving.call.few = job.pointers != NULL
    receiving.call.value_width = receiving.call.top_k = 0
    receiving.value.data = receiving.out.data = NULL
    receiving.weights = operand(received)  # results by key stand where weights would
    receiving.received_from = first
    receiving.received_to = end
    tasks = receiving.units * ceil_divide(keys, PYATTN_KEY_BLOCK)
    if job.pointers != NULL:
        tasks = receiving.units
        sums = keys
    team = team if tasks > 1 else 1
    receiving.state = job.kernels.attention_scratch(&receiving.call, job.kernels.tile_vectors)
    receiving.load_scratch = job.kernels.attention_load_scratch(&receiving.call)
    receiving.scratch = receiving.state + receiving.load_scratch + sums * <Py_ssize_t> sizeof(double)
    receiving.scratch = ceil_divide(receiving.scratch, PYATTN_ALIGNMENT) * PYATTN_ALIGNMENT
    cdef char *memory = <char *> malloc(PYATTN_ALIGNMENT + team * receiving.scratch)
    if memory == NULL:
        raise no_scratch()
    cdef char *scratch = memory + PYATTN_ALIGNMENT - <size_t> memory % PYATTN_ALIGNMENT
    with nogil:
        for i in prange(tasks, num_threads=team, schedule="guided"):
            if not stopped(&watch, threadid()):
                receive(&receiving, i, scratch + threadid() * receiving.scratch)
    free(memory)
    return raise_error(&watch)
