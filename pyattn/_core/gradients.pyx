"""Drives the gradients of attention: a task takes some queries of one key head past all keys that they see.

The queries of a key head, of all heads that share it one after the other, are cut into chunks, whose number follows
from how many there are, never from the threads: each sums its gradients of keys and values apart, and these are added
in order. So results are the same bits for any threads and company. Those of 16 bits are summed in memory of their own,
and rounded at the end.

What a bias gets is summed over heads, batches and queries as far as it was shared by them: there a task takes some keys
past all queries in order.
"""

from cpython.pyport cimport PY_SSIZE_T_MAX
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from pyattn._core.runtime cimport Watch, begin_call, begin_watch, end_call, no_scratch, raise_error, run, stopped
from pyattn._core.kernels cimport (
    PYATTN_ALIGNMENT, PYATTN_GRAD_BIAS, PYATTN_GRAD_KEY, PYATTN_GRAD_QUERY, PYATTN_GRAD_VALUE, PYATTN_GRADIENT_BLOCKS,
    PYATTN_GRADIENT_FIRST, PYATTN_GRADIENT_MORE, PYATTN_GRADIENT_OF_OPTIONS, PYATTN_KEY_BLOCK, pyattn_array,
    pyattn_attention, pyattn_keys, pyattn_query_block,
)
from pyattn._core.tasks cimport (
    Call, Range, block_count, ceil_divide, place_block, place_head, share_heads, whole_lines,
)

cdef enum:
    CHUNK_QUERIES = 768  # at least: each chunk has sums of all keys, which cost more than their work if it is small
    MOST_CHUNKS = 8  # of a key head's queries: as many arrays of gradients of keys and values
    SPAN_BYTES = 33554432  # of keys, values and their gradients, which a chunk takes past all its queries at a time
    SUMMED_ROWS = 256  # of keys, in a task that adds these up

cdef struct Gradients:  # a run, as its turns see it
    const Call *call
    Watch *watch
    char *scratch  # of all threads, one after the other
    Py_ssize_t block_bytes, thread_bytes
    Py_ssize_t span  # keys that a chunk takes past all its queries at a time
    Py_ssize_t sharing, heads  # query heads of a key head; key heads of all batch elements
    bint rounds  # whether sums are of another type than results
    char *partial  # of all chunks but the first; or of those of keys with several chunks, where sums are rounded
    Py_ssize_t widths[2]  # of keys and values: bytes of a row
    const int64_t *tasks  # before each sequence, and in all
    const int64_t *partials  # bytes in front of those of each sequence
    const int64_t *sums  # tasks that add up, before each sequence, and in all
    Py_ssize_t slices  # parts of a bias that are apart


cdef inline Py_ssize_t groups_of(const Gradients *shared, Py_ssize_t sequence) noexcept nogil:
    """Groups of blocks of one query head."""
    return ceil_divide(block_count(shared.call, sequence), PYATTN_GRADIENT_BLOCKS)


cdef inline Py_ssize_t chunks_of(const Gradients *shared, Py_ssize_t sequence) noexcept nogil:
    cdef Py_ssize_t block_rows = shared.call.kernels.lanes * shared.call.kernels.tile_vectors
    cdef Py_ssize_t queries = shared.sharing * groups_of(shared, sequence) * PYATTN_GRADIENT_BLOCKS * block_rows
    return max(<Py_ssize_t> 1, min(<Py_ssize_t> MOST_CHUNKS, queries // CHUNK_QUERIES))


cdef inline Py_ssize_t keys_of(const Call *call, Py_ssize_t sequence) noexcept nogil:
    return call.cu_seqlens_k[sequence + 1] - call.cu_seqlens_k[sequence]


cdef Py_ssize_t find(const int64_t *starts, Py_ssize_t count, Py_ssize_t number) noexcept nogil:
    """The last of `count` sequences that starts at or before a number."""
    cdef Py_ssize_t low = 0, high = count, middle
    while high - low > 1:
        middle = (low + high) // 2
        if starts[middle] <= number:
            low = middle
        else:
            high = middle
    return low


cdef inline Py_ssize_t partials_of(const Gradients *shared, Py_ssize_t sequence) noexcept nogil:
    """Chunks of a key head that sum apart."""
    cdef Py_ssize_t chunks = chunks_of(shared, sequence)
    return chunks if shared.rounds and chunks > 1 else chunks - 1


cdef inline Py_ssize_t sum_bytes(const Gradients *shared, Py_ssize_t sequence) noexcept nogil:
    """Of a chunk that sums apart: gradients of keys, then those of values."""
    return keys_of(shared.call, sequence) * (shared.widths[0] + shared.widths[1])


cdef char *sums_of(
    const Gradients *shared, Py_ssize_t sequence, Py_ssize_t head, Py_ssize_t chunk, int thread
) noexcept nogil:
    """Where a chunk sums apart; NULL: in the results."""
    cdef Py_ssize_t chunks = chunks_of(shared, sequence), partials = partials_of(shared, sequence)
    cdef Py_ssize_t place = head * partials + chunk - (chunks - partials)
    if shared.rounds and chunks == 1:
        return shared.scratch + thread * shared.thread_bytes + PYATTN_GRADIENT_BLOCKS * shared.block_bytes
    if chunk < chunks - partials:
        return NULL
    return shared.partial + shared.partials[sequence] + place * sum_bytes(shared, sequence)


cdef void clear_rows(const pyattn_query_block *block, Py_ssize_t first, Py_ssize_t end) noexcept nogil:
    """Gradients of keys and values that nobody has seen."""
    cdef const pyattn_array *operands = block.call.operands
    cdef Py_ssize_t rows = max(<Py_ssize_t> 0, end - first)
    memset(block.data[PYATTN_GRAD_KEY] + first * operands[PYATTN_GRAD_KEY].row, 0,
           rows * operands[PYATTN_GRAD_KEY].row)
    memset(block.data[PYATTN_GRAD_VALUE] + first * operands[PYATTN_GRAD_VALUE].row, 0,
           rows * operands[PYATTN_GRAD_VALUE].row)


cdef Py_ssize_t run_group(
    const Gradients *shared, pyattn_query_block *block, const Range *seen, int count, const pyattn_keys *keys,
    Range span, Py_ssize_t written,
) noexcept nogil:
    """Blocks of one head over a span of keys, of which those before `written` have sums; returns up to where all do."""
    cdef const Call *call = shared.call
    cdef pyattn_query_block here[PYATTN_GRADIENT_BLOCKS]
    cdef int masked[PYATTN_GRADIENT_BLOCKS]
    cdef Py_ssize_t key = span.end, last = span.first, first, end
    cdef int i, some
    for i in range(count):
        key = min(key, max(span.first, seen[i].first))
        last = max(last, min(span.end, seen[i].end))
    if span.first > 0 and key >= last:
        return written
    for i in range(count):
        call.kernels.gradient_begin(&block[i], PYATTN_GRADIENT_MORE if span.first > 0 else PYATTN_GRADIENT_FIRST)
    key -= key % PYATTN_KEY_BLOCK
    while key < last:
        first, end = last, 0
        for i in range(count):
            if max(key, seen[i].first) < min(key + PYATTN_KEY_BLOCK, seen[i].end):
                first = min(first, max(key, seen[i].first))
                end = max(end, min(key + PYATTN_KEY_BLOCK, seen[i].end))
        if first < end:
            some = 0
            for i in range(count):
                if max(first, seen[i].first) < min(end, seen[i].end):
                    here[some] = block[i]
                    masked[some] = call.kernels.gradient_pairs(&block[i], keys, first, end - first)
                    some += 1
            if written < end:
                clear_rows(&block[0], written, first if written <= first else end)
            call.kernels.gradient_products(here, some, masked, keys, first, end - first, first < written)
            written = max(written, end)
        key += PYATTN_KEY_BLOCK
    for i in range(count):
        call.kernels.gradient_finish(&block[i])
    return written


cdef void place_sums(
    const Gradients *shared, pyattn_query_block *head, const pyattn_attention *apart, char *sums, Py_ssize_t keys
) noexcept nogil:
    """Points a head at where gradients of its keys and values are summed, if that is apart."""
    head.call = apart
    if sums != NULL:
        head.data[PYATTN_GRAD_KEY], head.data[PYATTN_GRAD_VALUE] = sums, sums + keys * shared.widths[0]


cdef void chunk_turn(const void *context, Py_ssize_t number, int thread) noexcept nogil:
    """A chunk of the queries of a key head, past a span of keys after the other."""
    cdef const Gradients *shared = <const Gradients *> context
    cdef const Call *call = shared.call
    cdef pyattn_query_block head
    cdef pyattn_query_block block[PYATTN_GRADIENT_BLOCKS]
    cdef Range seen[PYATTN_GRADIENT_BLOCKS]
    cdef pyattn_keys keys
    cdef pyattn_attention apart = call.shared
    cdef Py_ssize_t sequence, chunks, chunk, unit, groups, group, blocks, number_of_block, end, all_keys, written = 0
    cdef Range span
    cdef int count
    cdef char *sums
    cdef char *grad_key
    cdef char *grad_value
    if stopped(shared.watch, thread):
        return
    memset(&keys, 0, sizeof(pyattn_keys))
    sequence = find(shared.tasks, call.sequences, number)
    number -= shared.tasks[sequence]
    chunks, groups = chunks_of(shared, sequence), groups_of(shared, sequence)
    unit, chunk = number // chunks, number % chunks
    blocks, all_keys = block_count(call, sequence), keys_of(call, sequence)
    place_head(call, &head, &keys, sequence, unit * shared.sharing)
    grad_key, grad_value = head.data[PYATTN_GRAD_KEY], head.data[PYATTN_GRAD_VALUE]
    sums = sums_of(shared, sequence, unit, chunk, thread)
    if sums != NULL:
        apart.operands[PYATTN_GRAD_KEY].row = shared.widths[0]
        apart.operands[PYATTN_GRAD_VALUE].row = shared.widths[1]
    place_sums(shared, &head, &apart, sums, all_keys)
    span.first = span.end = 0
    while span.end < all_keys or span.end == 0:
        span.first, span.end = span.end, min(max(all_keys, <Py_ssize_t> 1), span.end + shared.span)
        for group in range(chunk * shared.sharing * groups // chunks, (chunk + 1) * shared.sharing * groups // chunks):
            if stopped(shared.watch, thread):
                return
            place_head(call, &head, &keys, sequence, unit * shared.sharing + group // groups)
            place_sums(shared, &head, &apart, sums, all_keys)
            end = (group % groups + 1) * blocks // groups
            count = 0
            for number_of_block in range(group % groups * blocks // groups, end):
                block[count] = head
                seen[count] = place_block(call, &block[count], 1, number_of_block, blocks)
                block[count].scratch = shared.scratch + thread * shared.thread_bytes + count * shared.block_bytes
                count += 1
            written = run_group(shared, block, seen, count, &keys, span, written)
        clear_rows(&head, written, min(span.end, all_keys))
        written = span.end
    if shared.rounds and chunks == 1:
        call.kernels.gradient_sum(sums, 0, 1, grad_key, all_keys * call.shared.width)
        call.kernels.gradient_sum(sums + all_keys * shared.widths[0], 0, 1, grad_value,
                                  all_keys * call.shared.value_width)


cdef void sum_turn(const void *context, Py_ssize_t number, int thread) noexcept nogil:
    """Adds the gradients of some keys that chunks have summed to those of the first; or rounds what they add up to."""
    cdef const Gradients *shared = <const Gradients *> context
    cdef const Call *call = shared.call
    cdef pyattn_query_block head
    cdef pyattn_keys keys
    cdef Py_ssize_t sequence, parts, first, rows, _, place, elements
    cdef int which
    cdef char *sums
    cdef char *to
    if stopped(shared.watch, thread):
        return
    sequence = find(shared.sums, call.sequences, number)
    number -= shared.sums[sequence]
    parts = ceil_divide(keys_of(call, sequence), SUMMED_ROWS)
    first = number % parts * SUMMED_ROWS
    rows = min(<Py_ssize_t> SUMMED_ROWS, keys_of(call, sequence) - first)
    place_head(call, &head, &keys, sequence, number // parts * shared.sharing)
    for which in range(2):
        place = PYATTN_GRAD_VALUE if which else PYATTN_GRAD_KEY
        to = head.data[place] + first * call.shared.operands[place].row
        elements = rows * shared.widths[which] // call.kernels.real_bytes
        sums = sums_of(shared, sequence, number // parts, 0 if shared.rounds else 1, thread)
        sums += which * keys_of(call, sequence) * shared.widths[0] + first * shared.widths[which]
        if shared.rounds:
            call.kernels.gradient_sum(sums, sum_bytes(shared, sequence), chunks_of(shared, sequence), to, elements)
            continue
        for _ in range(1, chunks_of(shared, sequence)):
            call.kernels.add_row(sums, to, elements)
            sums += sum_bytes(shared, sequence)


cdef Py_ssize_t slice_of(const Call *call, Py_ssize_t unit) noexcept nogil:
    """Which part of a bias the query head of a unit has: those that share it have the same."""
    cdef Py_ssize_t number = 0, factor = 1
    cdef const pyattn_array *bias = &call.shared.operands[PYATTN_GRAD_BIAS]
    cdef int axis
    if bias.head != 0 or bias.data == NULL:
        number, factor = unit % call.heads, call.heads
    unit //= call.heads
    for axis in range(call.batch_axes - 1, -1, -1):
        if bias.data == NULL or call.batch_strides[PYATTN_GRAD_BIAS][axis] != 0:
            number += unit % call.batch_shape[axis] * factor
            factor *= call.batch_shape[axis]
        unit //= call.batch_shape[axis]
    return number


cdef void options_turn(const void *context, Py_ssize_t number, int thread) noexcept nogil:
    """What a block of keys of a bias gets from all queries; or all keys, where these are summed, or of slopes."""
    cdef const Gradients *shared = <const Gradients *> context
    cdef const Call *call = shared.call
    cdef const pyattn_array *bias = &call.shared.operands[PYATTN_GRAD_BIAS]
    cdef pyattn_query_block head
    cdef pyattn_query_block block
    cdef Range seen
    cdef pyattn_keys keys
    cdef Py_ssize_t parts = 1, from_key = 0, to_key, unit, first, blocks, key, count, sequence
    if stopped(shared.watch, thread):
        return
    memset(&keys, 0, sizeof(pyattn_keys))
    sequence = number // shared.slices if bias.data == NULL else 0
    to_key = keys_of(call, sequence)
    if bias.data != NULL and bias.column != 0:
        parts = max(<Py_ssize_t> 1, ceil_divide(to_key, PYATTN_KEY_BLOCK))
        from_key = number % parts * PYATTN_KEY_BLOCK
        to_key = min(to_key, from_key + PYATTN_KEY_BLOCK)
    number = number % shared.slices if bias.data == NULL else number // parts
    blocks = block_count(call, sequence)
    for unit in range(call.units):
        if slice_of(call, unit) != number:
            continue
        place_head(call, &head, &keys, sequence, unit)
        for first in range(blocks):
            if stopped(shared.watch, thread):
                return
            block = head
            seen = place_block(call, &block, 1, first, blocks)
            block.scratch = shared.scratch + thread * shared.thread_bytes
            key = max(from_key, seen.first)
            seen.end = min(seen.end, to_key)
            if key >= seen.end:
                continue
            call.kernels.gradient_begin(&block, PYATTN_GRADIENT_OF_OPTIONS)
            while key < seen.end:
                count = min(seen.end, key - key % PYATTN_KEY_BLOCK + PYATTN_KEY_BLOCK) - key
                call.kernels.gradient_pairs(&block, &keys, key, count)
                call.kernels.gradient_options(&block, key, count)
                key += count


cdef int run_gradients(Call *call, int threads) except -1:
    cdef Watch watch = begin_watch()
    cdef Gradients shared
    cdef Py_ssize_t i, starts, bytes_of_partials, units, tasks, longest = 0
    cdef bint of_options = call.shared.operands[PYATTN_GRAD_QUERY].data == NULL
    cdef int team = begin_call(threads)
    share_heads(call, 1)
    call.shared.path = &call.kernels.prefill
    shared.call, shared.watch = call, &watch
    shared.sharing = call.heads // call.key_heads if call.key_heads > 0 else 1
    shared.heads = call.units // shared.sharing
    shared.widths[0] = call.shared.width * call.kernels.real_bytes
    shared.widths[1] = call.shared.value_width * call.kernels.real_bytes
    shared.block_bytes = whole_lines(call.kernels.gradient_bytes(&call.shared, call.kernels.tile_vectors))
    shared.span = SPAN_BYTES // (2 * max(<Py_ssize_t> 1, shared.widths[0] + shared.widths[1]))
    shared.span = max(<Py_ssize_t> 1, shared.span // PYATTN_KEY_BLOCK) * PYATTN_KEY_BLOCK
    shared.thread_bytes = shared.block_bytes * (1 if of_options else PYATTN_GRADIENT_BLOCKS)
    shared.rounds = call.kernels.key_bytes < call.kernels.real_bytes
    for i in range(call.sequences if shared.rounds and not of_options else 0):
        longest = max(longest, keys_of(call, i))
    if shared.rounds:  # sums of queries are never left before they are complete
        shared.span = PY_SSIZE_T_MAX // 2
        shared.thread_bytes += whole_lines(longest * (shared.widths[0] + shared.widths[1]))

    # One allocation: where sequences start; a scratch for each thread; the gradients of chunks.
    starts = whole_lines(3 * (call.sequences + 1) * <Py_ssize_t> sizeof(int64_t))
    bytes_of_partials = 0
    for i in range(0 if of_options else call.sequences):
        bytes_of_partials += shared.heads * partials_of(&shared, i) * sum_bytes(&shared, i)
    cdef char *memory = <char *> malloc(PYATTN_ALIGNMENT + starts + team * shared.thread_bytes + bytes_of_partials)
    if memory == NULL:
        end_call()
        raise no_scratch()
    cdef int64_t *places = <int64_t *> (memory + PYATTN_ALIGNMENT - <size_t> memory % PYATTN_ALIGNMENT)
    shared.tasks, shared.partials = places, places + call.sequences + 1
    shared.sums = places + 2 * (call.sequences + 1)
    shared.scratch = <char *> places + starts
    shared.partial = shared.scratch + team * shared.thread_bytes
    places[0] = places[call.sequences + 1] = places[2 * (call.sequences + 1)] = 0
    for i in range(call.sequences):
        units = shared.heads * partials_of(&shared, i)
        places[i + 1] = places[i] + shared.heads * chunks_of(&shared, i)
        places[call.sequences + 2 + i] = places[call.sequences + 1 + i]
        places[call.sequences + 2 + i] += units * sum_bytes(&shared, i)
        places[2 * call.sequences + 3 + i] = places[2 * call.sequences + 2 + i]
        if units > 0:
            places[2 * call.sequences + 3 + i] += shared.heads * ceil_divide(keys_of(call, i), SUMMED_ROWS)
    try:
        if of_options:
            shared.slices = 0
            for i in range(call.units):
                shared.slices = max(shared.slices, slice_of(call, i) + 1)
            tasks = shared.slices * call.sequences
            if call.shared.operands[PYATTN_GRAD_BIAS].data != NULL and call.shared.operands[PYATTN_GRAD_BIAS].column:
                tasks = shared.slices * max(<Py_ssize_t> 1, ceil_divide(keys_of(call, 0), PYATTN_KEY_BLOCK))
            with nogil:
                run(team, tasks, 1, options_turn, &shared)
        else:
            with nogil:
                run(team, shared.tasks[call.sequences], 1, chunk_turn, &shared)
                run(team, shared.sums[call.sequences], 1, sum_turn, &shared)
        raise_error(&watch)
    finally:
        end_call()
        free(memory)
    return 0
