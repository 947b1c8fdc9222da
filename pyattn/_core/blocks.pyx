"""Cuts attention into blocks of query rows and runs them over their keys; the struct Job says what is common to all.

How a row is computed depends on the call's arguments alone, never on the number of threads or on its neighbours, so
that results are the same bits for any of them. What does depend on them is how tasks share what they read.
"""

from libc.stdint cimport int64_t

from pyattn._core.kernels cimport (
    PYATTN_KEY_BLOCK,
    PYATTN_PIECE,
    pyattn_kernels,
    pyattn_keys,
    pyattn_query_block,
)


cdef inline char *at(Operand x, int axis, Py_ssize_t place, char *where) noexcept nogil:
    """`where`, a pointer into x, moved along an axis; NULL stays NULL."""
    return where + place * x.strides[axis] if x.data != NULL else NULL


cdef Py_ssize_t block_count(const Job *job, Py_ssize_t sequence) noexcept nogil:
    """Blocks that the queries of a sequence and head make; one of each query for a sparse mask."""
    cdef Py_ssize_t queries = job.query_starts[sequence + 1] - job.query_starts[sequence]
    if job.pointers != NULL:
        return queries
    if job.pack > 1:
        return min(queries, 1)
    return ceil_divide(ceil_divide(queries, job.kernels.lanes), job.kernels.tile_vectors)


cdef void place_head(
    const Job *job, pyattn_query_block *block, pyattn_keys *keys, Py_ssize_t sequence, Py_ssize_t unit,
) noexcept nogil:
    """Points a block at the first query of a sequence and unit, and keys at their first key."""
    cdef int axis = job.leading - 1, rows = job.leading
    cdef Py_ssize_t chunk = unit % job.chunks, place, start = job.query_starts[sequence]
    cdef Py_ssize_t length = job.query_starts[sequence + 1] - start
    cdef Py_ssize_t all_keys = job.key_starts[sequence + 1] - job.key_starts[sequence]
    cdef char *lengths = at(job.kv_lengths, job.leading, sequence, job.kv_lengths.data)
    cdef char *offsets = at(job.offsets, job.leading, sequence, job.offsets.data)
    cdef Py_ssize_t head, flat = 0, scale = 1

    block.call = &job.call
    block.length = length
    unit //= job.chunks
    place = unit % job.key_heads
    unit //= job.key_heads
    head = place * job.heads_per_key_head + chunk * job.pack
    block.rows = min(job.pack, job.heads_per_key_head - chunk * job.pack)  # heads for now
    keys.key = at(job.key, axis, place, at(job.key, rows, job.key_starts[sequence], job.key.data))
    keys.value = at(job.value, axis, place, at(job.value, rows, job.key_starts[sequence], job.value.data))
    keys.index = NULL
    keys.index_bias = NULL
    block.query = at(job.query, axis, head, at(job.query, rows, start, job.query.data))
    block.out = at(job.out, axis, head, at(job.out, rows, start, job.out.data))
    block.lse = at(job.lse, axis, head, at(job.lse, rows, start, job.lse.data))
    block.weights = at(job.weights, axis, head, job.weights.data)
    block.mask = at(job.mask, axis, head, at(job.mask, rows, start, job.mask.data))
    start = 0 if job.bias_of_sequence else start
    block.bias = at(job.bias, axis, head, at(job.bias, rows, start, job.bias.data))
    block.slopes = at(job.slopes, axis, head, job.slopes.data)
    block.sinks = at(job.sinks, axis, head, job.sinks.data)
    block.maximum = at(job.maximum, axis, head, job.maximum.data)
    block.entropy = at(job.entropy, axis, head, job.entropy.data)
    block.top_keys = <int64_t *> at(job.top_keys, axis, head, job.top_keys.data)
    block.top_weights = at(job.top_weights, axis, head, job.top_weights.data)
    lengths = at(job.kv_lengths, axis, head, lengths)
    offsets = at(job.offsets, axis, head, offsets)
    flat, scale = head, job.heads
    for axis in range(job.leading - 2, -1, -1):
        place = unit % job.shape[axis]
        unit //= job.shape[axis]
        flat += place * scale
        scale *= job.shape[axis]
        keys.key = at(job.key, axis, place, <char *> keys.key)
        keys.value = at(job.value, axis, place, <char *> keys.value)
        block.query = at(job.query, axis, place, <char *> block.query)
        block.out = at(job.out, axis, place, block.out)
        block.lse = at(job.lse, axis, place, block.lse)
        block.weights = at(job.weights, axis, place, block.weights)
        block.mask = at(job.mask, axis, place, <char *> block.mask)
        block.bias = at(job.bias, axis, place, <char *> block.bias)
        block.slopes = at(job.slopes, axis, place, <char *> block.slopes)
        block.sinks = at(job.sinks, axis, place, <char *> block.sinks)
        block.maximum = at(job.maximum, axis, place, block.maximum)
        block.entropy = at(job.entropy, axis, place, block.entropy)
        block.top_keys = <int64_t *> at(job.top_keys, axis, place, <char *> block.top_keys)
        block.top_weights = at(job.top_weights, axis, place, block.top_weights)
        lengths = at(job.kv_lengths, axis, place, lengths)
        offsets = at(job.offsets, axis, place, offsets)
    block.keys = (<int64_t *> lengths)[0] if lengths != NULL else all_keys
    block.offset = (<int64_t *> offsets)[0] if offsets != NULL else block.keys - length
    block.moments = NULL
    if job.moments != NULL:
        block.moments = job.moments + flat * length * 2 * job.kernels.real_bytes


cdef void move_rows(const Job *job, pyattn_query_block *block, Py_ssize_t first, Py_ssize_t rows) noexcept nogil:
    """Makes a block at the first query of its head one of `rows` queries from query `first` on."""
    cdef int axis = job.leading
    block.first = first
    block.rows = rows
    block.query = at(job.query, axis, first, <char *> block.query)
    block.out = at(job.out, axis, first, block.out)
    block.lse = at(job.lse, axis, first, block.lse)
    block.maximum = at(job.maximum, axis, first, block.maximum)
    block.entropy = at(job.entropy, axis, first, block.entropy)
    block.weights = at(job.weights, axis, first, block.weights)
    block.mask = at(job.mask, axis, first, <char *> block.mask)
    block.bias = at(job.bias, axis, first, <char *> block.bias)
    block.top_keys = <int64_t *> at(job.top_keys, axis, first, <char *> block.top_keys)
    block.top_weights = at(job.top_weights, axis, first, block.top_weights)
    if block.moments != NULL:
        block.moments += first * 2 * job.kernels.real_bytes


cdef Range seen_keys(const Job *job, const pyattn_query_block *block, Py_ssize_t queries) noexcept nogil:
    """The keys that positions let some of the block's queries see."""
    cdef Py_ssize_t position = block.offset + block.first
    cdef Range keys
    keys.first = max(<Py_ssize_t> 0, position + job.call.low)
    keys.first -= keys.first % 2  # kernels may take keys in pairs
    keys.end = min(block.keys, position + queries - 1 + job.call.high)
    return keys


cdef Range place_rows(
    const Job *job, pyattn_query_block *block, const pyattn_query_block *head, Py_ssize_t number, Py_ssize_t blocks,
) noexcept nogil:
    """Makes block `number` of so many of that at the first query of its head; returns the keys that it may see."""
    cdef Py_ssize_t lanes = job.kernels.lanes, vectors, first, queries
    block[0] = head[0]
    block.first = 0
    if job.pointers != NULL:
        move_rows(job, block, number, head.rows)
        block.length = queries = 1
    elif job.pack > 1:
        block.rows *= block.length
        queries = block.length
    else:  # vectors of queries are spread evenly over the blocks
        vectors = ceil_divide(block.length, lanes)
        first = lanes * (number * (vectors // blocks) + min(number, vectors % blocks))
        vectors = vectors // blocks + (number < vectors % blocks)
        queries = min(block.length - first, vectors * lanes)
        move_rows(job, block, first, queries)
    block.vectors = <int> ceil_divide(block.rows, lanes)
    return seen_keys(job, block, queries)


cdef void attend(
    const Job *job, pyattn_query_block *block, const Range *range_, int count, pyattn_keys *keys, Py_ssize_t first,
    Py_ssize_t end, bint review, char *scratch,
) noexcept nogil:
    """Takes some blocks of one head over the keys first ... end, each over those in its own range."""
    cdef const pyattn_kernels *kernels = job.kernels
    cdef bint touched[MOST_BLOCKS]
    cdef Py_ssize_t begin[MOST_BLOCKS]
    cdef Py_ssize_t stop[MOST_BLOCKS]
    cdef Py_ssize_t key = end, last = first
    cdef int i
    for i in range(count):
        touched[i] = False
        key = min(key, max(first, range_[i].first))
        last = max(last, min(end, range_[i].end))
    key -= key % PYATTN_KEY_BLOCK
    while key < last:
        keys.first = end
        keys.count = 0  # the end, for now
        for i in range(count):
            if key % PYATTN_PIECE == 0 and touched[i] and not review:
                kernels.attention_fold(&block[i], block[i].scratch)
                touched[i] = False
            begin[i] = max(key, range_[i].first)
            stop[i] = min(key + PYATTN_KEY_BLOCK, range_[i].end)
            if begin[i] < stop[i]:
                keys.first = min(keys.first, begin[i])
                keys.count = max(keys.count, stop[i])
        keys.count -= keys.first
        if keys.count > 0:
            if not job.call.few:
                kernels.attention_load(&job.call, keys, scratch)
            for i in range(count):
                if begin[i] < stop[i]:
                    touched[i] = True
                    if review:
                        kernels.attention_review(&block[i], keys, begin[i], stop[i] - begin[i])
                    else:
                        kernels.attention_attend(&block[i], keys, begin[i], stop[i] - begin[i])
        key += PYATTN_KEY_BLOCK


cdef void complete(
    const Job *job, pyattn_query_block *block, const Range *range_, int count, pyattn_keys *keys, char *scratch,
) noexcept nogil:
    """All that blocks of one head are for, from begin to finish."""
    cdef Py_ssize_t end = 0
    cdef int i
    for i in range(count):
        job.kernels.attention_begin(&block[i])
        end = max(end, range_[i].end)
    attend(job, block, range_, count, keys, 0, end, False, scratch)
    for i in range(count):
        job.kernels.attention_finish(&block[i])
    if not job.review:
        return
    for i in range(count):
        job.kernels.attention_review_begin(&block[i])
    attend(job, block, range_, count, keys, 0, end, True, scratch)
    for i in range(count):
        job.kernels.attention_review_finish(&block[i])


cdef Range gather(const Job *job, pyattn_keys *keys, Py_ssize_t query) noexcept nogil:
    """Points keys at those that a sparse mask lets a query see."""
    cdef Range all_of_them
    keys.index = job.indices + job.pointers[query]
    if job.index_bias != NULL:
        keys.index_bias = job.index_bias + job.pointers[query] * job.kernels.real_bytes
    all_of_them.first = 0
    all_of_them.end = job.pointers[query + 1] - job.pointers[query]
    return all_of_them


cdef Py_ssize_t find_task(
    const Job *job, Py_ssize_t task, Py_ssize_t *sequence, Py_ssize_t *unit
) noexcept nogil:
    """The sequence and unit of a task, and its number among theirs."""
    cdef Py_ssize_t low = 0, high = job.sequences, middle, each
    while high - low > 1:  # the last sequence that starts at or before the task
        middle = (low + high) // 2
        if job.task_starts[middle] <= task:
            low = middle
        else:
            high = middle
    each = (job.task_starts[low + 1] - job.task_starts[low]) // job.units
    task -= job.task_starts[low]
    sequence[0] = low
    unit[0] = task // each
    return task % each


cdef void run_task(const Job *job, Py_ssize_t task, char *scratch) noexcept nogil:
    """A group of adjacent blocks of queries of one sequence and unit, over all keys they may see."""
    cdef pyattn_query_block head
    cdef pyattn_query_block block[MOST_BLOCKS]
    cdef Range keys_seen[MOST_BLOCKS]
    cdef pyattn_keys keys
    cdef Py_ssize_t sequence, unit, blocks, groups, group, number, end
    cdef int count

    group = find_task(job, task, &sequence, &unit)
    place_head(job, &head, &keys, sequence, unit)
    head.scratch = scratch
    blocks = block_count(job, sequence)
    if job.pointers != NULL:  # rows of a sparse mask, one by one: each gathers other keys
        end = min(blocks, (group + 1) * SPARSE_QUERIES)
        for number in range(group * SPARSE_QUERIES, end):
            place_rows(job, &block[0], &head, number, blocks)
            keys_seen[0] = gather(job, &keys, number)
            complete(job, block, keys_seen, 1, &keys, NULL)
        return
    # Groups are taken from both ends in turn: under a causal mask later ones take longer, and so any run of tasks takes
    # about as long as any other.
    groups = ceil_divide(blocks, job.group)
    group = groups - 1 - group // 2 if group % 2 == 0 else group // 2
    number = group * blocks // groups
    end = (group + 1) * blocks // groups
    count = 0
    while number < end:
        keys_seen[count] = place_rows(job, &block[count], &head, number, blocks)
        block[count].scratch = scratch + count * job.state
        number += 1
        count += 1
    complete(job, block, keys_seen, count, &keys, scratch + job.group * job.state)


cdef Range place_piece(
    const Job *job, Py_ssize_t task, pyattn_query_block *block, pyattn_keys *keys, char *states
) noexcept nogil:
    """Places the block of a task whose pieces are computed apart: first the state of their sum, then theirs."""
    cdef pyattn_query_block head
    cdef Py_ssize_t sequence, unit, number = find_task(job, task, &sequence, &unit)
    place_head(job, &head, keys, sequence, unit)
    head.scratch = states + task * (job.pieces + 1) * job.state
    return place_rows(job, block, &head, number, block_count(job, sequence))


cdef void run_piece(
    const Job *job, Py_ssize_t task, Py_ssize_t piece, char *states, char *scratch
) noexcept nogil:
    cdef pyattn_query_block block
    cdef pyattn_keys keys
    cdef Range keys_seen = place_piece(job, task, &block, &keys, states)
    block.scratch += (1 + piece % job.pieces) * job.state
    job.kernels.attention_begin(&block)
    attend(job, &block, &keys_seen, 1, &keys, piece * PYATTN_PIECE, (piece + 1) * PYATTN_PIECE, False, scratch)


cdef void merge_pieces(
    const Job *job, Py_ssize_t task, Py_ssize_t first, Py_ssize_t end, Py_ssize_t last, char *states
) noexcept nogil:
    """Adds pieces first ... end, in their order, to those before, and finishes after the last."""
    cdef pyattn_query_block block
    cdef pyattn_keys keys
    cdef Py_ssize_t piece
    place_piece(job, task, &block, &keys, states)
    if first == 0:
        job.kernels.attention_begin(&block)
        job.kernels.attention_fold(&block, block.scratch)
    for piece in range(first, end):
        job.kernels.attention_fold(&block, block.scratch + (1 + piece - first) * job.state)
    if end == last:
        job.kernels.attention_finish(&block)
