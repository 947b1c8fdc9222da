"""Cuts attention into blocks of query rows and runs them over their keys; the struct Call says what is common to all.

How a row is computed depends on the call's arguments alone, never on the number of threads or on its neighbours, so
that results are the same bits for any of them. What does depend on them is how tasks share what they read.
"""

from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

from pyattn._core.kernels cimport (
    PYATTN_ALIBI_SLOPES, PYATTN_ALIGNMENT, PYATTN_BIAS, PYATTN_COLUMN_SUMS, PYATTN_KEY, PYATTN_KEY_BLOCK,
    PYATTN_KEY_SCALES, PYATTN_KV_LENGTHS, PYATTN_MASK, PYATTN_OPERANDS, PYATTN_QUERY, PYATTN_QUERY_OFFSET, PYATTN_SPLIT,
    PYATTN_VALUE, PYATTN_VALUE_SCALES, pyattn_addends, pyattn_array, pyattn_attention, pyattn_attention_path,
    pyattn_keys, pyattn_query_block,
)


cdef void share_heads(Call *call, Py_ssize_t pack) noexcept nogil:
    """Sets how many query heads of a key head stand in one block, and what follows from it."""
    cdef Py_ssize_t sharing = call.heads // call.key_heads
    cdef int axis
    call.chunks = ceil_divide(sharing, max(<Py_ssize_t> 1, min(pack, sharing)))
    call.pack = ceil_divide(sharing, call.chunks)  # spread evenly: few rows are slower, each
    call.units = call.key_heads * call.chunks
    for axis in range(call.batch_axes):
        call.units *= call.batch_shape[axis]


cdef Py_ssize_t block_count(const Call *call, Py_ssize_t sequence) noexcept nogil:
    """Blocks that the queries of a sequence and unit make; one of each query for a sparse mask."""
    cdef Py_ssize_t queries = call.cu_seqlens_q[sequence + 1] - call.cu_seqlens_q[sequence]
    if call.indptr != NULL:
        return queries
    if call.pack > 1:
        return min(queries, 1)
    return ceil_divide(ceil_divide(queries, call.kernels.lanes), call.kernels.tile_vectors)


cdef Py_ssize_t place_head(
    const Call *call, pyattn_query_block *block, pyattn_keys *keys, Py_ssize_t sequence, Py_ssize_t unit,
) noexcept nogil:
    """Points a block and keys at the first of a sequence and unit; returns how many query heads the unit has."""
    cdef Py_ssize_t sharing = call.heads // call.key_heads, chunk = unit % call.chunks, key_head, head, place
    cdef Py_ssize_t start[ROW_KINDS]
    cdef const pyattn_array *operand
    cdef int i, axis
    start[QUERY_ROWS] = call.cu_seqlens_q[sequence]
    start[OWN_ROWS] = 0
    start[KEY_ROWS] = call.cu_seqlens_k[sequence]
    start[SEQUENCE_ROWS] = sequence
    unit //= call.chunks
    key_head = unit % call.key_heads
    unit //= call.key_heads
    head = key_head * sharing + chunk * call.pack
    for i in range(PYATTN_OPERANDS):
        operand = &call.shared.operands[i]
        block.data[i] = operand.data
        if operand.data != NULL:
            place = key_head if call.rows[i] == KEY_ROWS and i != PYATTN_COLUMN_SUMS else head
            block.data[i] += place * operand.head + start[call.rows[i]] * operand.row
    block.head_number = (sequence + unit) * call.heads + head  # one of both is 0
    block.query_number = call.first_query
    for axis in range(call.batch_axes - 1, -1, -1):
        place = unit % call.batch_shape[axis]
        unit //= call.batch_shape[axis]
        for i in range(PYATTN_OPERANDS):
            if block.data[i] != NULL:
                block.data[i] += place * call.batch_strides[i][axis]
    keys.key, keys.value = block.data[PYATTN_KEY], block.data[PYATTN_VALUE]
    keys.key_scale, keys.value_scale = block.data[PYATTN_KEY_SCALES], block.data[PYATTN_VALUE_SCALES]
    keys.index = NULL
    keys.starts = NULL
    keys.index_bias = NULL
    block.call = &call.shared
    block.addends = NULL
    block.next_query = NULL
    block.length = call.cu_seqlens_q[sequence + 1] - start[QUERY_ROWS]
    block.kv_length = call.cu_seqlens_k[sequence + 1] - start[KEY_ROWS]
    if block.data[PYATTN_KV_LENGTHS] != NULL:
        block.kv_length = (<int64_t *> block.data[PYATTN_KV_LENGTHS])[0]
    block.query_offset = block.kv_length - block.length
    if block.data[PYATTN_QUERY_OFFSET] != NULL:
        block.query_offset = (<int64_t *> block.data[PYATTN_QUERY_OFFSET])[0] + call.first_query
    return min(call.pack, sharing - chunk * call.pack)


cdef void place_queries(const Call *call, pyattn_query_block *block, Py_ssize_t first, Py_ssize_t rows) noexcept nogil:
    """Makes a block at the first query of its head one of `rows` rows from query `first` on."""
    cdef int i
    block.first = first
    block.rows = rows
    block.vectors = <int> ceil_divide(rows, call.kernels.lanes)
    for i in range(PYATTN_OPERANDS):
        if block.data[i] != NULL and call.rows[i] <= OWN_ROWS:
            block.data[i] += first * call.shared.operands[i].row


cdef Range visible_keys(const Call *call, const pyattn_query_block *block, Py_ssize_t queries) noexcept nogil:
    """The keys that positions let some of the block's queries see."""
    cdef Py_ssize_t position = block.query_offset + block.first
    cdef Range keys
    keys.first = max(<Py_ssize_t> 0, position - call.shared.left)
    keys.first -= keys.first % 2  # kernels may take keys in pairs
    keys.end = min(block.kv_length, position + queries + call.shared.right)
    return keys


cdef Range place_block(
    const Call *call, pyattn_query_block *block, Py_ssize_t heads, Py_ssize_t number, Py_ssize_t blocks,
) noexcept nogil:
    """Makes a block at the first query of its heads block `number` of `blocks`; returns the keys that it may see."""
    cdef Py_ssize_t lanes = call.kernels.lanes, vectors, first = 0, queries = block.length
    if call.pack > 1:
        place_queries(call, block, 0, heads * queries)
    else:  # vectors of queries are spread evenly over the blocks
        vectors = ceil_divide(block.length, lanes)
        first = lanes * (number * (vectors // blocks) + min(number, vectors % blocks))
        vectors = vectors // blocks + (number < vectors % blocks)
        queries = min(block.length - first, vectors * lanes)
        place_queries(call, block, first, queries)
    return visible_keys(call, block, queries)


cdef void expect_addends(
    const Call *call, pyattn_addends *addends, const pyattn_query_block *next, Py_ssize_t key, int unit, int units,
) noexcept nogil:
    """Has a unit of several prefetch its share of the bias or floating mask of the next block, from a key on."""
    cdef int which = PYATTN_BIAS if next.data[PYATTN_BIAS] != NULL else PYATTN_MASK
    cdef const pyattn_array *dense = &call.shared.operands[which]
    cdef Py_ssize_t first = next.rows * unit // units
    addends.next, addends.next_rows = NULL, 0
    if next.data[which] != NULL and dense.row != 0 and dense.column == call.kernels.key_bytes and call.pack == 1:
        addends.next = next.data[which] + first * dense.row + key * dense.column
        addends.next_rows = next.rows * (unit + 1) // units - first


cdef void update_blocks(
    const Call *call, pyattn_query_block *block, const Range *seen, int count, int units, pyattn_keys *keys,
    Py_ssize_t first, Py_ssize_t end, bint second_pass, char *scratch,
) noexcept nogil:
    """Takes `count` blocks of each unit over its keys first ... end, those of seen."""
    cdef const pyattn_attention_path *path = call.shared.path
    cdef bint touched[MAX_BLOCKS]
    cdef Py_ssize_t begin[MAX_BLOCKS]
    cdef Py_ssize_t stop[MAX_BLOCKS]
    cdef Py_ssize_t key = end, last = first, next_key, loaded_from, loaded_to
    cdef pyattn_addends addends
    cdef int i, j, unit
    addends.lines = scratch if units > 1 else NULL  # where there are any, no keys are loaded there
    for i in range(count):
        touched[i] = False
        key = min(key, max(first, seen[i].first))
        last = max(last, min(end, seen[i].end))
    key -= key % PYATTN_KEY_BLOCK
    while key < last:
        loaded_from, loaded_to = end, 0
        for i in range(count):
            if key % PYATTN_SPLIT == 0 and touched[i] and not second_pass:
                for unit in range(units):
                    path.merge(&block[unit * count + i], block[unit * count + i].scratch)
                touched[i] = False
            begin[i] = max(key, seen[i].first)
            stop[i] = min(key + PYATTN_KEY_BLOCK, seen[i].end)
            if begin[i] < stop[i]:
                loaded_from = min(loaded_from, begin[i])
                loaded_to = max(loaded_to, stop[i])
        if loaded_from < loaded_to:
            for unit in range(units):
                keys[unit].first, keys[unit].count = loaded_from, loaded_to - loaded_from
                path.load(&call.shared, &keys[unit], scratch)
            for i in range(count):
                if begin[i] < stop[i]:
                    touched[i] = True
                    addends.placed = False
                    next_key = key if i + 1 < count else key + PYATTN_KEY_BLOCK
                    for unit in range(units):
                        j = unit * count + i
                        block[j].addends = &addends
                        expect_addends(call, &addends, &block[(i + 1) % count], next_key, unit, units)
                        if second_pass:
                            call.kernels.weights_update(&block[j], &keys[unit], begin[i], stop[i] - begin[i])
                        else:
                            path.update(&block[j], &keys[unit], begin[i], stop[i] - begin[i])
        key += PYATTN_KEY_BLOCK


cdef void run_blocks(
    const Call *call, pyattn_query_block *block, const Range *seen, int count, int units, pyattn_keys *keys,
    char *scratch,
) noexcept nogil:
    """All that `count` blocks of each unit are for, from begin to finish, and a second pass if the call asks for it."""
    cdef Py_ssize_t end = 0
    cdef int i
    for i in range(units * count):
        call.shared.path.begin(&block[i])
        end = max(end, seen[i % count].end)
    update_blocks(call, block, seen, count, units, keys, 0, end, False, scratch)
    for i in range(units * count):
        call.shared.path.finish(&block[i])
    if not call.second_pass:
        return
    for i in range(units * count):
        call.kernels.weights_begin(&block[i])
    update_blocks(call, block, seen, count, units, keys, 0, end, True, scratch)
    for i in range(units * count):
        call.kernels.weights_finish(&block[i])


cdef Range gather_keys(const Call *call, pyattn_keys *keys, Py_ssize_t query) noexcept nogil:
    """Points keys at those that a sparse mask lets a query see."""
    keys.index = call.indices + call.indptr[query]
    if call.index_bias != NULL:
        keys.index_bias = call.index_bias + call.indptr[query] * call.kernels.real_bytes
    return Range(0, call.indptr[query + 1] - call.indptr[query])


cdef bint has_options(const Call *call) noexcept nogil:
    """Whether something but scores decides what a row of a sparse mask gets."""
    cdef const pyattn_array *operands = call.shared.operands
    if operands[PYATTN_MASK].data != NULL or operands[PYATTN_BIAS].data != NULL or call.index_bias != NULL:
        return True
    if operands[PYATTN_ALIBI_SLOPES].data != NULL or call.shared.softcap > 0 or call.shared.scale <= 0:
        return True
    cdef bint placed = operands[PYATTN_KV_LENGTHS].data != NULL or operands[PYATTN_QUERY_OFFSET].data != NULL
    return placed or min(call.shared.left, call.shared.right) < call.cu_seqlens_q[1] + call.cu_seqlens_k[1]


cdef void run_sparse_rows(
    const Call *call, pyattn_query_block *head, pyattn_keys *keys, Py_ssize_t heads, Py_ssize_t query, Py_ssize_t end,
) noexcept nogil:
    """Queries of a sparse mask, each of which gathers its own keys: several of few keys at a time, or one by one."""
    cdef pyattn_query_block block
    cdef Range seen
    cdef Py_ssize_t rows, own, most = 1
    if heads == 1 and not call.second_pass and not has_options(call):
        most = call.kernels.lanes
    while query < end:
        block = head[0]
        seen = gather_keys(call, keys, query)
        keys.starts = NULL
        rows = 1
        while rows < most and query + rows < end:
            own = call.indptr[query + rows + 1] - call.indptr[query + rows]
            if max(seen.end, own) > PYATTN_KEY_BLOCK:
                break
            seen.end = max(seen.end, own)
            rows += 1
        place_queries(call, &block, query, rows if heads == 1 else heads)
        block.length = rows
        if rows > 1:
            keys.starts = call.indptr + query
        run_blocks(call, &block, &seen, 1, 1, keys, NULL)
        query += rows


cdef Py_ssize_t *held_head(const Call *call, char *scratch) noexcept nogil:
    """In a thread's scratch memory, which head of keys and values it holds copies of."""
    return <Py_ssize_t *> (scratch + call.thread_bytes - PYATTN_ALIGNMENT)


cdef char *copy_rows(
    pyattn_array *array, const char *rows, Py_ssize_t bytes, Py_ssize_t count, char *copy, bint held,
) noexcept nogil:
    """Makes an array one of whole cache lines a row, and copies rows of so many bytes, unless that is done."""
    cdef Py_ssize_t row = array.row, i
    array.row = whole_lines(bytes)
    if not held:
        for i in range(count):
            memcpy(copy + i * array.row, rows + i * row, bytes)
    return copy


cdef void copy_head(
    const Call *call, pyattn_attention *shared, pyattn_keys *keys, Py_ssize_t unit, char *scratch,
) noexcept nogil:
    """Points keys, and the call as blocks see it, at copies whose rows begin cache lines: what lies across two of them
    costs twice as much to gather. A thread's next task finds the copies made."""
    cdef Py_ssize_t *head = held_head(call, scratch)
    cdef Py_ssize_t number = unit // call.chunks, count = call.cu_seqlens_k[1] - call.cu_seqlens_k[0]
    cdef bint held = head[0] == number
    cdef char *copy = scratch + call.state_bytes
    if call.copied[0] > 0:
        keys.key = copy_rows(&shared.operands[PYATTN_KEY], keys.key, shared.width * call.kernels.key_bytes, count,
                             copy, held)
    if call.copied[1] > 0:
        keys.value = copy_rows(&shared.operands[PYATTN_VALUE], keys.value,
                               shared.value_width * call.kernels.key_bytes, count, copy + call.copied[0], held)
    head[0] = number


cdef Py_ssize_t find_task(const Call *call, Py_ssize_t task, Py_ssize_t *sequence, Py_ssize_t *unit) noexcept nogil:
    """The sequence and first unit of a task, and its number among theirs."""
    cdef Py_ssize_t low = 0, high = call.sequences, middle, each
    while high - low > 1:  # the last sequence that starts at or before the task
        middle = (low + high) // 2
        if call.task_starts[middle] <= task:
            low = middle
        else:
            high = middle
    each = (call.task_starts[low + 1] - call.task_starts[low]) // ceil_divide(call.units, call.run)
    task -= call.task_starts[low]
    sequence[0] = low
    unit[0] = task // each * call.run
    return task % each


cdef bint go_abreast(const Call *call, const pyattn_query_block *a, const pyattn_query_block *b) noexcept nogil:
    """Whether queries of two units have the same bias or mask, as many keys, and the same where they are converted."""
    cdef bint same = a.data[PYATTN_BIAS] == b.data[PYATTN_BIAS] and a.data[PYATTN_MASK] == b.data[PYATTN_MASK]
    same = same and (call.load_bytes == 0 or a.data[PYATTN_KEY] == b.data[PYATTN_KEY])
    return same and a.query_offset == b.query_offset and a.kv_length == b.kv_length


cdef void run_task(const Call *call, Py_ssize_t task, char *scratch) noexcept nogil:
    """A group of adjacent blocks of queries of one sequence, over all keys they may see, for a run of units."""
    cdef pyattn_query_block head[MAX_ABREAST + 1]  # the last is of the next unit
    cdef pyattn_keys keys[MAX_ABREAST + 1]
    cdef Py_ssize_t heads[MAX_ABREAST + 1]
    cdef pyattn_query_block block[MAX_BLOCKS]
    cdef Range seen[MAX_BLOCKS]
    cdef pyattn_attention shared
    cdef Py_ssize_t sequence, unit, last, blocks, groups, group, first, number, end
    cdef int units, i, count
    memset(keys, 0, sizeof(keys))
    group = find_task(call, task, &sequence, &unit)
    heads[0] = place_head(call, &head[0], &keys[0], sequence, unit)
    head[0].scratch = scratch
    blocks = block_count(call, sequence)
    if call.indptr != NULL:
        if call.copied[0] + call.copied[1] > 0:
            shared = call.shared
            copy_head(call, &shared, &keys[0], unit, scratch)
            head[0].call = &shared
        run_sparse_rows(call, &head[0], &keys[0], heads[0], group * call.group, min(blocks, (group + 1) * call.group))
        return
    # Groups are taken from both ends in turn: under a causal mask later ones take longer, and so any run of tasks takes
    # about as long as any other.
    groups = ceil_divide(blocks, call.group)
    group = groups - 1 - group // 2 if group % 2 == 0 else group // 2
    first = group * blocks // groups
    end = (group + 1) * blocks // groups
    last = min(call.units, unit + call.run) - 1
    while unit <= last:
        units = 1
        while unit + units <= last:
            heads[units] = place_head(call, &head[units], &keys[units], sequence, unit + units)
            if units == call.abreast or not go_abreast(call, &head[0], &head[units]):
                break
            units += 1
        count = 0
        for i in range(units):
            for number in range(first, end):
                block[count] = head[i]
                seen[number - first] = place_block(call, &block[count], heads[i], number, blocks)
                block[count].scratch = scratch + count * call.state_bytes
                if units == 1 and unit < last:
                    block[count].next_query = head[1].data[PYATTN_QUERY]
                    block[count].next_query += block[count].data[PYATTN_QUERY] - head[0].data[PYATTN_QUERY]
                count += 1
        run_blocks(call, block, seen, count // units, units, keys,
                   scratch + call.abreast * call.group * call.state_bytes)
        head[0], keys[0], heads[0] = head[units], keys[units], heads[units]
        unit += units


cdef Range place_split(
    const Call *call, Py_ssize_t task, pyattn_query_block *block, pyattn_keys *keys, char *states
) noexcept nogil:
    """Places the block of a task whose splits of keys are computed apart: first the state of their sum, then theirs."""
    cdef Py_ssize_t sequence, unit, heads, number = find_task(call, task, &sequence, &unit)
    heads = place_head(call, block, keys, sequence, unit)
    block.scratch = states + task * (call.splits + 1) * call.state_bytes
    return place_block(call, block, heads, number, block_count(call, sequence))


cdef void run_split(const Call *call, Py_ssize_t task, Py_ssize_t split, char *states, char *scratch) noexcept nogil:
    """One split of the keys of a task's block, into a state of its own."""
    cdef pyattn_query_block block
    cdef pyattn_keys keys
    cdef Range seen = place_split(call, task, &block, &keys, states)
    block.scratch += (1 + split % call.splits) * call.state_bytes
    call.shared.path.begin(&block)
    update_blocks(call, &block, &seen, 1, 1, &keys, split * PYATTN_SPLIT, (split + 1) * PYATTN_SPLIT, False, scratch)


cdef void merge_splits(
    const Call *call, Py_ssize_t task, Py_ssize_t first, Py_ssize_t end, Py_ssize_t last, char *states,
) noexcept nogil:
    """Merges splits first ... end, in their order, into those before, and finishes after the last."""
    cdef pyattn_query_block block
    cdef pyattn_keys keys
    cdef Py_ssize_t split
    place_split(call, task, &block, &keys, states)
    if first == 0:
        call.shared.path.begin(&block)
        call.shared.path.merge(&block, block.scratch)
    for split in range(first, end):
        call.shared.path.merge(&block, block.scratch + (1 + split - first) * call.state_bytes)
    if end == last:
        call.shared.path.finish(&block)


cdef void write_sums(const Call *call, const double *sums, Py_ssize_t count, char *target) noexcept nogil:
    cdef Py_ssize_t key, row = call.shared.operands[PYATTN_COLUMN_SUMS].row
    for key in range(count):
        if call.kernels.real_bytes == sizeof(float):
            (<float *> (target + key * row))[0] = <float> sums[key]
        else:
            (<double *> (target + key * row))[0] = sums[key]


cdef Py_ssize_t summed_keys(const Call *call) noexcept nogil:
    """How many keys a task of column sums has: all of a sparse mask, whose rows are of any of them."""
    return call.cu_seqlens_k[1] if call.indptr != NULL else min(call.cu_seqlens_k[1], <int64_t> PYATTN_KEY_BLOCK)


cdef void run_column_sums(const Call *call, Py_ssize_t task, char *scratch) noexcept nogil:
    """The sums of a task's keys over the queries of one head, in their order: the moments of all rows are known."""
    cdef bint sparse = call.indptr != NULL
    cdef Py_ssize_t size = summed_keys(call), blocks = ceil_divide(call.cu_seqlens_k[1], size)
    cdef Py_ssize_t most = 1 if sparse else call.kernels.lanes * call.kernels.tile_vectors
    cdef Py_ssize_t query = call.sum_from, first = task % blocks * size, key
    cdef double *sums = <double *> (scratch + call.state_bytes + call.load_bytes)
    cdef pyattn_query_block head
    cdef pyattn_query_block block
    cdef pyattn_keys keys
    cdef Range seen
    place_head(call, &head, &keys, 0, task // blocks)
    head.scratch = scratch
    keys.first, keys.count = first, min(size, call.cu_seqlens_k[1] - first)
    memset(sums, 0, keys.count * sizeof(double))
    if not sparse:
        call.shared.path.load(&call.shared, &keys, scratch + call.state_bytes)
    while query < call.sum_to:
        block = head
        place_queries(call, &block, query, min(most, call.sum_to - query))
        call.shared.path.begin(&block)
        seen = gather_keys(call, &keys, query) if sparse else visible_keys(call, &block, block.rows)
        key = max(seen.first, first)
        seen.end = min(seen.end, first + keys.count)
        while key < seen.end:  # kernels take a block of keys at most
            call.kernels.column_sums(&block, &keys, key, min(seen.end - key, <Py_ssize_t> PYATTN_KEY_BLOCK),
                                     sums if sparse else sums + key - first)
            key += PYATTN_KEY_BLOCK
        query += most
    write_sums(call, sums, keys.count,
               head.data[PYATTN_COLUMN_SUMS] + first * call.shared.operands[PYATTN_COLUMN_SUMS].row)
