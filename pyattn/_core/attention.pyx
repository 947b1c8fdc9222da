"""Drives the attention kernels: chooses how a call is computed and on how many threads, and takes the scratch memory.

Work is cut into tasks: sequences x leading axes (batch, heads) x blocks of query rows, which tasks.pyx runs.
"""

from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc

from pyattn._core.runtime cimport Watch, begin_call, begin_watch, end_call, no_scratch, raise_error, run, stopped
from pyattn._core.kernels cimport (
    PYATTN_ALIGNMENT, PYATTN_BIAS, PYATTN_COLUMN_SUMS, PYATTN_DECODE_ROWS, PYATTN_KEY, PYATTN_KEY_BLOCK, PYATTN_MASK,
    PYATTN_MASK_REAL, PYATTN_OUT, PYATTN_SPLIT, PYATTN_VALUE, PYATTN_WIDTH_BLOCK, pyattn_array,
)
from pyattn._core.tasks cimport (
    MAX_ABREAST, MAX_BLOCKS, SPARSE_QUERIES, Call, block_count, ceil_divide, held_head, merge_splits, run_column_sums,
    run_split, run_task, share_heads, summed_keys, whole_lines,
)

cdef enum:
    THREAD_BYTES = 1_900_000  # of scratch memory, if it can be
    MAX_UNITS = 8  # of a task
    FEW_BLOCKS = 4  # of a task, which share keys that lie in memory
    SHARED_ROWS = 192  # of queries, for which keys are converted once
    COPY_READS = 8  # of each key by a thread, for which its head is copied


cdef double operations(const Call *call) noexcept nogil:
    """Floating-point operations of a call, of keys that a query meets on average."""
    cdef double pairs = call.heads
    cdef Py_ssize_t sequences = call.sequences
    cdef int axis
    for axis in range(call.batch_axes):
        pairs *= call.batch_shape[axis]
    if call.indptr != NULL:
        pairs *= call.indptr[call.cu_seqlens_q[1]]
    elif sequences > 0:
        pairs *= <double> call.cu_seqlens_q[sequences] * call.cu_seqlens_k[sequences] / sequences
    return 2 * pairs * (call.shared.width + call.shared.value_width)


cdef Py_ssize_t choose_path(Call *call) noexcept nogil:
    """Chooses prefill or decode, and how many query heads share a block; returns the most splits of a sequence's keys.

    Decode reads each key once for at most PYATTN_DECODE_ROWS rows; a sparse mask gathers keys, which only it can. Mixed
    is faster than prefill where one vector holds all rows, but not for narrow values.
    """
    cdef Py_ssize_t i, most = 0, splits = 1, lanes = call.kernels.lanes
    cdef Py_ssize_t few = min(<Py_ssize_t> PYATTN_DECODE_ROWS, lanes)
    for i in range(call.sequences):
        most = max(most, call.cu_seqlens_q[i + 1] - call.cu_seqlens_q[i])
        splits = max(splits, ceil_divide(call.cu_seqlens_k[i + 1] - call.cu_seqlens_k[i], PYATTN_SPLIT))
    if call.indptr != NULL:
        share_heads(call, few)
        call.shared.path = &call.kernels.decode
    else:
        share_heads(call, lanes * call.kernels.tile_vectors // max(most, <Py_ssize_t> 1))
        if call.pack * most <= few and call.shared.dropout == 0:  # decode drops gathered keys alone
            call.shared.path = &call.kernels.decode
        elif call.pack * most <= lanes and call.shared.value_width >= 4 * lanes:
            call.shared.path = &call.kernels.mixed
        else:
            call.shared.path = &call.kernels.prefill
    return splits


cdef Py_ssize_t bytes_to_copy(const Call *call, int which, Py_ssize_t width) noexcept nogil:
    """Of a head's keys or values, unless their rows fill cache lines as they lie, or are no rows."""
    cdef const pyattn_array *array = &call.shared.operands[which]
    cdef Py_ssize_t places = <Py_ssize_t> array.data | array.row | array.head, bytes = width * call.kernels.key_bytes
    cdef int axis
    if array.data == NULL or array.column != call.kernels.key_bytes or bytes < PYATTN_ALIGNMENT:
        return 0
    for axis in range(call.batch_axes):
        places |= call.batch_strides[which][axis]
    if places % PYATTN_ALIGNMENT == 0:
        return 0
    return (call.cu_seqlens_k[1] - call.cu_seqlens_k[0]) * whole_lines(bytes)


cdef void plan_sparse(Call *call, Py_ssize_t team) noexcept nogil:
    """Tasks of a sparse mask: so many queries that copies of what they gather are worth it, if there are as many."""
    cdef Py_ssize_t queries = call.cu_seqlens_q[1], keys = call.cu_seqlens_k[1], entries = call.indptr[queries]
    call.group, call.state_bytes = SPARSE_QUERIES, whole_lines(call.state_bytes)
    call.copied[0] = call.copied[1] = 0
    if keys > 0 and entries * min(call.units, team) >= COPY_READS * keys * team:
        call.copied[0] = bytes_to_copy(call, PYATTN_KEY, call.shared.width)
        call.copied[1] = bytes_to_copy(call, PYATTN_VALUE, call.shared.value_width)
        if call.state_bytes + call.copied[0] + call.copied[1] > THREAD_BYTES:
            call.copied[0] = call.copied[1] = 0
    if call.copied[0] + call.copied[1] > 0:
        call.group = min(2 * COPY_READS * keys * queries // entries, call.units * queries // (4 * team))
        call.group = max(<Py_ssize_t> SPARSE_QUERIES, call.group)
    call.thread_bytes = call.state_bytes + call.copied[0] + call.copied[1] + PYATTN_ALIGNMENT


cdef Py_ssize_t units_abreast(const Call *call) noexcept nogil:
    """How many units take turns over a block of keys: of those that share a bias or floating mask, transposed once, or
    the keys themselves.

    Where keys are converted, more queries of one unit are better company for a bias.
    """
    cdef int which = PYATTN_BIAS if call.shared.operands[PYATTN_BIAS].data != NULL else PYATTN_MASK, axis
    cdef const pyattn_array *dense = &call.shared.operands[which]
    cdef Py_ssize_t sharing = call.key_heads * call.chunks
    if call.shared.path != &call.kernels.prefill:
        return 1
    if dense.data == NULL or which == PYATTN_MASK and call.shared.mask_kind != PYATTN_MASK_REAL:
        return min(call.chunks, <Py_ssize_t> MAX_ABREAST) if call.pack > 1 else 1
    if call.pack > 1 or call.load_bytes > 0 or dense.head != 0:
        return 1
    for axis in range(call.batch_axes - 1, -1, -1):
        if call.batch_strides[which][axis] != 0:
            break
        sharing *= call.batch_shape[axis]
    return ceil_divide(sharing, ceil_divide(sharing, MAX_ABREAST))  # spread evenly


cdef void plan_tasks(Call *call, Py_ssize_t blocks, Py_ssize_t splits, Py_ssize_t team) noexcept nogil:
    """Chooses how many blocks a task has, or how many splits of a block's keys are computed apart at a time."""
    cdef bint decode = call.shared.path == &call.kernels.decode
    call.state_bytes = call.shared.path.state_bytes(&call.shared, 1 if decode else call.kernels.tile_vectors)
    call.load_bytes = call.shared.path.load_bytes(&call.shared)
    call.splits, call.run, call.abreast = 0, 1, 1
    if call.indptr != NULL:
        plan_sparse(call, team)
        return
    cdef Py_ssize_t room = THREAD_BYTES - call.load_bytes, most = FEW_BLOCKS
    # Where there are too few blocks to keep all threads busy, the splits of each are computed apart.
    if splits > 1 and 0 < blocks < 4 * team and not call.second_pass:
        call.splits = min(splits, team * room // (blocks * call.state_bytes) - 1)
        call.splits = call.splits if call.splits > 1 else 0
    if call.splits:
        call.group, call.thread_bytes = 1, call.load_bytes
        return
    if call.load_bytes > 0:  # keys are converted for as many queries as four blocks of AVX-512 have
        most = max(most, min(<Py_ssize_t> MAX_BLOCKS, SHARED_ROWS // (call.kernels.lanes * call.kernels.tile_vectors)))
    call.abreast = min(units_abreast(call), min(blocks // (4 * team), room // call.state_bytes))
    call.abreast = max(<Py_ssize_t> 1, call.abreast)
    call.group = min(most, min(blocks // (4 * team), room // call.state_bytes) // call.abreast)
    call.group = max(<Py_ssize_t> 1, min(call.group, MAX_BLOCKS // call.abreast))
    # Few queries leave a unit little to do: a task takes several, and each fetches what the next will read.
    if not decode and blocks <= call.units * call.sequences * call.group:
        call.run = max(<Py_ssize_t> 1, min(<Py_ssize_t> MAX_UNITS, call.units * call.sequences // (16 * team)))
    call.run = max(call.run // call.abreast, <Py_ssize_t> 1) * call.abreast
    call.thread_bytes = call.load_bytes + call.abreast * call.group * call.state_bytes
    if call.abreast > 1:
        call.thread_bytes += call.kernels.tile_vectors * call.kernels.lanes * call.kernels.real_bytes * PYATTN_KEY_BLOCK


cdef struct Shared:  # by the turns of a call
    const Call *call
    Watch *watch
    char *scratch  # of all threads, one after the other
    char *states  # of splits that are computed apart
    Py_ssize_t first, end, last  # of these


cdef inline char *scratch_of(const Shared *shared, int thread) noexcept nogil:
    return shared.scratch + thread * shared.call.thread_bytes


cdef void split_turn(const void *context, Py_ssize_t number, int thread) noexcept nogil:
    cdef const Shared *shared = <const Shared *> context
    cdef Py_ssize_t here = shared.end - shared.first
    if not stopped(shared.watch, thread):
        run_split(shared.call, number // here, shared.first + number % here, shared.states, scratch_of(shared, thread))


cdef void merge_turn(const void *context, Py_ssize_t number, int thread) noexcept nogil:
    cdef const Shared *shared = <const Shared *> context
    if not stopped(shared.watch, thread):
        merge_splits(shared.call, number, shared.first, shared.end, shared.last, shared.states)


cdef void task_turn(const void *context, Py_ssize_t number, int thread) noexcept nogil:
    cdef const Shared *shared = <const Shared *> context
    if not stopped(shared.watch, thread):
        run_task(shared.call, number, scratch_of(shared, thread))


cdef void sum_turn(const void *context, Py_ssize_t number, int thread) noexcept nogil:
    cdef const Shared *shared = <const Shared *> context
    if not stopped(shared.watch, thread):
        run_column_sums(shared.call, number, scratch_of(shared, thread))


cdef void run_splits(Shared *shared, Py_ssize_t tasks, Py_ssize_t splits, int team) noexcept nogil:
    """Some splits of all blocks at a time, then their sums."""
    shared.first, shared.last = 0, splits
    while shared.first < splits and not shared.watch.stopped:
        shared.end = min(shared.first + shared.call.splits, splits)
        run(team, tasks * (shared.end - shared.first), 1, split_turn, shared)
        run(team, tasks, 1, merge_turn, shared)
        shared.first = shared.end


cdef int write_column_sums(const Call *call, int team) except -1:
    """For each key the sum of the weights that it gets, once the moments of all rows are known."""
    cdef Call summing = call[0]
    cdef Watch watch = begin_watch()
    cdef Shared shared
    cdef Py_ssize_t sums = summed_keys(call), tasks
    share_heads(&summing, 1)
    summing.shared.path = &call.kernels.prefill if call.indptr == NULL else &call.kernels.decode
    summing.shared.value_width = summing.shared.top_k = 0
    summing.shared.operands[PYATTN_VALUE].data = summing.shared.operands[PYATTN_OUT].data = NULL
    tasks = summing.units * ceil_divide(call.cu_seqlens_k[1], max(<Py_ssize_t> 1, sums))
    team = team if tasks > 1 else 1
    summing.state_bytes = summing.shared.path.state_bytes(&summing.shared, call.kernels.tile_vectors)
    summing.load_bytes = summing.shared.path.load_bytes(&summing.shared)
    summing.thread_bytes = summing.state_bytes + summing.load_bytes + sums * <Py_ssize_t> sizeof(double)
    summing.thread_bytes = ceil_divide(summing.thread_bytes, PYATTN_ALIGNMENT) * PYATTN_ALIGNMENT
    cdef char *memory = <char *> malloc(PYATTN_ALIGNMENT + team * summing.thread_bytes)
    if memory == NULL:
        raise no_scratch()
    shared.call, shared.watch = &summing, &watch
    shared.scratch = memory + PYATTN_ALIGNMENT - <size_t> memory % PYATTN_ALIGNMENT
    with nogil:
        run(team, tasks, 1, sum_turn, &shared)
    free(memory)
    return raise_error(&watch)


cdef int run_columns(Call *call, int threads) except -1:
    """All of a call whose values are at most PYATTN_WIDTH_BLOCK wide."""
    cdef Watch watch = begin_watch()
    cdef Shared shared
    cdef Py_ssize_t splits = choose_path(call), blocks = 0, states, starts, i
    cdef int team
    for i in range(call.sequences):
        blocks += call.units * block_count(call, i)
    team = begin_call(threads if blocks * splits > 1 else 1)
    plan_tasks(call, blocks, splits, team)

    # One allocation: task_starts; a scratch for each thread; the states of splits.
    starts = ceil_divide((call.sequences + 1) * sizeof(int64_t), PYATTN_ALIGNMENT) * PYATTN_ALIGNMENT
    states = blocks * (call.splits + 1) * call.state_bytes if call.splits else 0
    cdef char *memory = <char *> malloc(PYATTN_ALIGNMENT + starts + team * call.thread_bytes + states)
    if memory == NULL:
        end_call()
        raise no_scratch()
    cdef int64_t *task_starts = <int64_t *> (memory + PYATTN_ALIGNMENT - <size_t> memory % PYATTN_ALIGNMENT)
    shared.call, shared.watch = call, &watch
    shared.scratch = <char *> task_starts + starts
    shared.states = shared.scratch + team * call.thread_bytes
    task_starts[0] = 0
    for i in range(call.sequences):
        task_starts[i + 1] = task_starts[i]
        task_starts[i + 1] += ceil_divide(call.units, call.run) * ceil_divide(block_count(call, i), call.group)
    call.task_starts = task_starts
    for i in range(team if call.indptr != NULL else 0):
        held_head(call, scratch_of(&shared, i))[0] = -1
    try:
        with nogil:
            if call.splits:
                run_splits(&shared, task_starts[call.sequences], splits, team)
            else:
                run(team, task_starts[call.sequences], 1, task_turn, &shared)
        raise_error(&watch)
        if call.shared.operands[PYATTN_COLUMN_SUMS].data != NULL:
            write_column_sums(call, team)
    finally:
        end_call()
        free(memory)


cdef int run_attention(Call *call, int threads) except -1:
    """Writes the call's results. Values wider than a block of columns take a pass for each; the rest, one."""
    cdef Py_ssize_t width = call.shared.value_width, first
    cdef bint writes = width > 0  # else no logits are needed either, unless something else is asked for
    cdef int i
    for i in range(PYATTN_OUT + 1, PYATTN_COLUMN_SUMS + 1):
        writes = writes or call.shared.operands[i].data != NULL
    for i in range(call.batch_axes):
        writes = writes and call.batch_shape[i] > 0
    if call.heads == 0 or not writes:
        return 0
    for first in range(0, max(<Py_ssize_t> 1, width), PYATTN_WIDTH_BLOCK):
        if first > 0:
            call.second_pass = False
            call.shared.top_k = 0
            for i in range(PYATTN_OUT + 1, PYATTN_COLUMN_SUMS + 1):
                call.shared.operands[i].data = NULL
            call.shared.operands[PYATTN_VALUE].data += PYATTN_WIDTH_BLOCK * call.shared.operands[PYATTN_VALUE].column
            call.shared.operands[PYATTN_OUT].data += PYATTN_WIDTH_BLOCK * call.shared.operands[PYATTN_OUT].column
        call.shared.value_width = min(width - first, <Py_ssize_t> PYATTN_WIDTH_BLOCK)
        run_columns(call, threads)
