"""Layers of the Transformer, each one call. Arguments are trusted; what they mean is said where layers/ makes them.
Only whether the parts of a layer fit each other is looked at: each of them is public, and may have been replaced.

Rows stand in a contiguous array (n, E). `threads` are the most that an operation uses, one where it is of fewer than
`small` floating-point operations.
"""

cimport numpy as cnp

from pyattn._core.call cimport begin_call_of, bind, bind_bias_of_sequence, run, set_window
from pyattn._core.dispatch cimport kernels_of
from pyattn._core.kernels cimport (
    PYATTN_BIAS, PYATTN_KEY, PYATTN_KV_LENGTHS, PYATTN_MASK, PYATTN_MASK_BOOL, PYATTN_MASK_REAL, PYATTN_OUT, PYATTN_QUERY,
    PYATTN_QUERY_OFFSET, PYATTN_VALUE,
)
from pyattn._core.linear cimport Packed, linear
from pyattn._core.rowwise cimport gate, normalise, rotate, store
from pyattn._core.tasks cimport Call

cnp.import_array()

# Rows of a thread that pass through a feed-forward block at a time: the hidden activations stay in its cache.
cdef enum:
    FEED_FORWARD_ROWS = 256


cdef struct Team:
    int threads
    double small


cdef inline int team_for(const Team *team, double operations) noexcept:
    return 1 if operations < team.small else team.threads


cdef enum:  # of a workspace's buffers
    PROJECTED
    KEYS
    VALUES
    ATTENDED
    NORMED
    GATES
    HIDDEN
    BUFFERS


cdef class Workspace:
    """Memory for what a layer needs on the way, kept for the next: a call that takes it anew pays for each page.

    It serves one call at a time.
    """
    cdef list buffers

    def __init__(self):
        self.buffers = [None] * BUFFERS

    def __reduce__(self):
        return Workspace, ()  # a copy begins with none

    cdef cnp.ndarray rows(self, int buffer, int kind, Py_ssize_t count, Py_ssize_t width):
        """Rows of elements of NumPy's type number, with any content; valid until the buffer is asked for again."""
        cdef cnp.npy_intp shape[2]
        cdef cnp.npy_intp size = 1
        cdef cnp.ndarray memory = self.buffers[buffer]
        shape[0], shape[1] = count, width
        size = max(size, count * width * (2 if kind == cnp.NPY_UINT16 else 4 if kind == cnp.NPY_FLOAT32 else 8))
        if memory is None or memory.size < size:
            self.buffers[buffer] = None
            memory = self.buffers[buffer] = cnp.PyArray_EMPTY(1, &size, cnp.NPY_UINT8, 0)
        return cnp.PyArray_New(cnp.ndarray, 2, shape, kind, NULL, cnp.PyArray_DATA(memory), 0, cnp.NPY_ARRAY_CARRAY,
                               None)


cdef int kind_for(Packed reader):
    """The type of what a product with such a weight, or attention in front of it, reads: bits of bfloat16 if it may."""
    if reader.dtype.itemsize < 4:
        return cnp.NPY_UINT16
    return cnp.NPY_FLOAT32 if reader.kernels.real_bytes == 4 else cnp.NPY_FLOAT64


cdef cnp.ndarray view(cnp.ndarray rows, Py_ssize_t first, Py_ssize_t count, Py_ssize_t column, Py_ssize_t width):
    """Rows first ... first + count and so many of their columns; valid while rows is alive."""
    cdef cnp.npy_intp shape[2]
    shape[0], shape[1] = count, width
    cdef char *data = <char *> cnp.PyArray_DATA(rows) + first * cnp.PyArray_STRIDES(rows)[0]
    return cnp.PyArray_New(
        cnp.ndarray, 2, shape, cnp.PyArray_TYPE(rows), cnp.PyArray_STRIDES(rows),
        data + column * cnp.PyArray_ITEMSIZE(rows), 0, cnp.NPY_ARRAY_BEHAVED, None,
    )


cdef cnp.ndarray heads_of(cnp.ndarray rows, Py_ssize_t column, Py_ssize_t batch, int heads, Py_ssize_t width):
    """Columns of rows (batch n, ...) as (batch, heads, n, width); valid while rows is alive."""
    cdef cnp.npy_intp shape[4]
    cdef cnp.npy_intp strides[4]
    cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(rows)
    shape[0], shape[1], shape[3] = batch, heads, width
    shape[2] = rows.shape[0] // batch if batch else 0
    strides[1], strides[2], strides[3] = width * size, cnp.PyArray_STRIDES(rows)[0], size
    strides[0] = shape[2] * strides[2]
    return cnp.PyArray_New(
        cnp.ndarray, 4, shape, cnp.PyArray_TYPE(rows), strides, <char *> cnp.PyArray_DATA(rows) + column * size, 0,
        cnp.NPY_ARRAY_BEHAVED, None,
    )


cdef class Attention:
    """Attention as a layer's call uses it: its weights, the norm that goes with it, and what attends to what.

    projections are those of queries, keys and values side by side. norm is (weight or None, bias or None, eps,
    centred), or None. Rows are `batch` times the sequences that the starts describe; options are the driver's. A
    rotation is (positions, cosines, sines), as rowwise.rotate takes them, or None.

    keys and values, if given, are a cache (batch, key_heads, capacity, width), and key_starts end where the longest
    sequence in it does. With past, int64 (batch,), keys and values of the rows are stored behind so many, until those
    of `until` are there; without it they are there already, and the only projection is that of queries.
    """
    cdef list projections
    cdef Packed out_proj
    cdef int heads, key_heads
    cdef Py_ssize_t width, batch
    cdef tuple norm, query_rotation, key_rotation
    cdef cnp.ndarray query_starts, key_starts, keys, values, past, until
    cdef dict options

    def __init__(
        self, list projections not None, Packed out_proj not None, int heads, int key_heads, Py_ssize_t width,
        tuple norm, Py_ssize_t batch, cnp.ndarray query_starts not None, cnp.ndarray key_starts not None,
        dict options not None, tuple query_rotation=None, tuple key_rotation=None, cnp.ndarray keys=None,
        cnp.ndarray values=None, cnp.ndarray past=None, cnp.ndarray until=None,
    ):
        self.projections, self.out_proj = projections, out_proj
        self.heads, self.key_heads, self.width = heads, key_heads, width
        self.norm, self.batch = norm, batch
        self.query_starts, self.key_starts, self.options = query_starts, key_starts, options
        self.query_rotation, self.key_rotation = query_rotation, key_rotation
        self.keys, self.values, self.past, self.until = keys, values, past, until
        self.check()

    cdef int check(self) except -1:
        """Refuses parts that were not made for each other."""
        cdef Py_ssize_t inner = self.heads * self.width, shared = self.key_heads * self.width, number, needed
        cdef Py_ssize_t count = len(self.projections)
        cdef bint fits = min(self.heads, self.key_heads, self.width) >= 1 and self.heads % self.key_heads == 0
        cdef cnp.ndarray cache
        fits = fits and self.out_proj.inputs == inner
        for number in range(count):
            needed = inner if number == 0 and count != 2 else shared
            fits = fits and (<Packed> self.projections[number]).outputs == needed
        if not fits:
            made = [(<Packed> part).outputs for part in self.projections]
            raise ValueError(f"MultiHeadAttention: {self.heads} heads and {self.key_heads} of keys, of {self.width} "
                             f"features each, do not fit projections to {made} features and one from "
                             f"{self.out_proj.inputs}; layers or sizes were replaced")
        for number in range(2):
            cache = self.values if number else self.keys
            if cache is not None and (
                cache.ndim != 4 or cache.shape[0] != self.batch or cache.shape[1] != self.key_heads
                or cache.shape[3] != self.width or cnp.PyArray_TYPE(cache) != kind_for(self.out_proj)
            ):
                seen = [cache.shape[i] for i in range(cache.ndim)]
                raise ValueError(f"MultiHeadAttention: a cache of {cache.dtype} {seen} does not fit a layer that needs "
                                 f"({self.batch}, {self.key_heads}, capacity, {self.width}), of the kind that its own "
                                 "caches are")
        for name, option in self.options.items():  # which a stack makes for the heads of its first layer
            if isinstance(option, cnp.ndarray):
                cache = option
                if cache.shape[0] != self.batch or cache.shape[1] != self.heads:
                    raise ValueError(f"MultiHeadAttention: {name} is for {cache.shape[0]} sequences and "
                                     f"{cache.shape[1]} heads, the layer's are {self.batch} and {self.heads}; layers "
                                     "were replaced")
        return 0


cdef turn(cnp.ndarray rows, tuple rotation, Py_ssize_t width, const Team *team):
    """Rotary positions, as a pass of its own: 0.2 % of a layer of width 768, all that fusing it could save."""
    cdef cnp.ndarray positions, cosines, sines
    positions, cosines, sines = rotation
    rotate(rows, positions, cosines, sines, team_for(team, 4.0 * rows.shape[0] * rows.shape[1]), width)


cdef cnp.ndarray project(Attention self, int first, int last, cnp.ndarray rows, int buffer, int kind,
                         Workspace workspace, const Team *team):
    """Rows through some of the projections, side by side in a buffer."""
    cdef Py_ssize_t width = 0
    cdef Packed part
    cdef list parts = self.projections[first:last]
    for part in parts:
        width += part.outputs
    cdef cnp.ndarray out = workspace.rows(buffer, kind, rows.shape[0], width)
    linear(rows, parts, None, out, 0, team_for(team, 2.0 * rows.size * width))
    return out


cdef attended(
    Attention self, list inputs, cnp.ndarray residual, cnp.ndarray out, Workspace workspace, const Team *team
):
    """out = attention of [x], or of [query, key, value], projected, + residual."""
    cdef cnp.ndarray rows = inputs[0], together, keys, values, query, key, value, result, sums
    cdef Py_ssize_t n = rows.shape[0], head = self.width, inner = self.heads * head, at = inner, first
    cdef Py_ssize_t values_at = inner + self.key_heads * head
    cdef int kind = kind_for(self.out_proj)
    if len(inputs) == 1:
        together = keys = values = project(self, 0, 3, rows, PROJECTED, kind, workspace, team)
        if self.query_rotation is not None:
            first = inner if self.keys is not None and self.past is None else values_at
            turn(view(together, 0, n, 0, first), self.query_rotation, head, team)
    else:
        together = project(self, 0, 1, rows, PROJECTED, kind, workspace, team)
        keys = project(self, 1, 2, inputs[1], KEYS, kind, workspace, team)
        values = project(self, 2, 3, inputs[2], VALUES, kind, workspace, team)
        at = values_at = 0
        if self.query_rotation is not None:
            turn(together, self.query_rotation, head, team)
            turn(keys, self.key_rotation, head, team)
    if self.keys is None:
        key = heads_of(keys, at, self.batch, self.key_heads, head)
    else:
        if self.past is not None:
            store(keys, at, self.keys, self.past, self.until, team_for(team, 1.0 * n * inner))
            store(values, values_at, self.values, self.past, self.until, team_for(team, 1.0 * n * inner))
        key = self.keys
    sums = workspace.rows(ATTENDED, kind, n, inner)
    query = heads_of(together, 0, self.batch, self.heads, head)
    value = self.values if self.keys is not None else heads_of(values, values_at, self.batch, self.key_heads, head)
    result = heads_of(sums, 0, self.batch, self.heads, head)
    attend(self, query, key, value, result, team)
    linear(sums, [self.out_proj], residual, out, 0, team_for(team, 2.0 * sums.size * self.out_proj.outputs))


cdef void bind_array(Call *call, int operand, cnp.ndarray array) noexcept:
    """Binds (batch, heads, rows, columns), or (batch, heads, rows)."""
    cdef const Py_ssize_t *strides = <const Py_ssize_t *> cnp.PyArray_STRIDES(array)
    bind(call, operand, <char *> cnp.PyArray_DATA(array), strides[1], strides[2], strides[3] if array.ndim > 3 else 0,
         strides)


cdef int attend(
    Attention self, cnp.ndarray query, cnp.ndarray key, cnp.ndarray value, cnp.ndarray result, const Team *team
) except -1:
    cdef Call call
    cdef cnp.ndarray option
    begin_call_of(&call, kernels_of(query.dtype), self.heads, self.key_heads)
    call.batch_axes = 1
    call.batch_shape = &self.batch
    call.shared.width = call.shared.value_width = self.width
    call.sequences = self.query_starts.shape[0] - 1
    call.cu_seqlens_q = <const cnp.int64_t *> cnp.PyArray_DATA(self.query_starts)
    call.cu_seqlens_k = <const cnp.int64_t *> cnp.PyArray_DATA(self.key_starts)
    call.shared.scale = self.options["scale"]
    set_window(&call, self.options.get("left", -1), self.options.get("right", -1))
    bind_array(&call, PYATTN_QUERY, query)
    bind_array(&call, PYATTN_KEY, key)
    bind_array(&call, PYATTN_VALUE, value)
    bind_array(&call, PYATTN_OUT, result)
    for name, operand in (("mask", PYATTN_MASK), ("bias", PYATTN_BIAS), ("kv_lengths", PYATTN_KV_LENGTHS),
                          ("offsets", PYATTN_QUERY_OFFSET)):
        option = self.options.get(name)
        if option is not None:
            bind_array(&call, operand, option)
            if name == "mask":
                call.shared.mask_kind = PYATTN_MASK_BOOL if option.dtype == bool else PYATTN_MASK_REAL
    if "bias_of_sequence" in self.options:
        bind_bias_of_sequence(&call)
    run(&call, team.threads, team.small)


def multi_head_attention(Attention self not None, list inputs not None, int threads, double small):
    """Attention of inputs [x] to itself, or [query, key, value], projected; new rows of reals."""
    cdef Team team = Team(threads, small)
    cdef cnp.ndarray query = inputs[0]
    cdef cnp.npy_intp shape[2]
    shape[0], shape[1] = query.shape[0], self.out_proj.outputs
    cdef cnp.ndarray out = cnp.PyArray_EMPTY(2, shape, cnp.PyArray_TYPE(query), 0)
    attended(self, inputs, None, out, Workspace(), &team)
    return out


cdef apply_norm(cnp.ndarray x, tuple norm, cnp.ndarray out, const Team *team):
    cdef cnp.ndarray weight, bias
    weight, bias, eps, centred = norm
    normalise(x, weight, bias, out, eps, centred, team_for(team, 10.0 * x.size))


cdef cnp.ndarray normed(cnp.ndarray x, tuple norm, Workspace workspace, const Team *team):
    """x through a norm in front of what reads it; x itself for None."""
    if norm is None:
        return x
    cdef cnp.ndarray out = workspace.rows(NORMED, cnp.PyArray_TYPE(x), x.shape[0], x.shape[1])
    apply_norm(x, norm, out, team)
    return out


cdef attention_block(
    Attention self, cnp.ndarray x, list others, cnp.ndarray out, bint norm_first, Workspace workspace, const Team *team,
):
    """out, which may be x, = x + attention of x, or of x to others, with the norm in front of it or behind the sum."""
    cdef cnp.ndarray fed = normed(x, self.norm, workspace, team) if norm_first else x
    attended(self, [fed, *others], x, out, workspace, team)
    if not norm_first and self.norm is not None:
        apply_norm(out, self.norm, out, team)


cdef feed_forward(
    cnp.ndarray x, Packed linear1, Packed linear2, tuple norm, bint norm_first, int activation, bint gated,
    Workspace workspace, const Team *team,
):
    """x += linear2(activation(linear1 x)), or of two halves that linear1 makes activation(first) * second, in place."""
    cdef cnp.ndarray fed = normed(x, norm, workspace, team) if norm_first else x, hidden, both, part, into
    cdef Py_ssize_t n = x.shape[0], width = x.shape[1], inner = linear2.inputs, first, count, parts
    cdef int kind = kind_for(linear2)
    parts = max(<Py_ssize_t> 1, (n + FEED_FORWARD_ROWS * team.threads // 2) // (FEED_FORWARD_ROWS * team.threads))
    count = (n + parts - 1) // parts
    hidden = both = workspace.rows(HIDDEN, kind, count, inner)
    if gated:
        both = workspace.rows(GATES, kind, count, 2 * inner)
    for first in range(0, n, max(<Py_ssize_t> 1, count)):
        count = min(count, n - first)
        part, into = view(both, 0, count, 0, both.shape[1]), view(hidden, 0, count, 0, inner)
        linear(view(fed, first, count, 0, width), [linear1], None, part, 0 if gated else activation,
               team_for(team, 2.0 * count * width * linear1.outputs))
        if gated:
            gate(part, into, activation, team_for(team, 20.0 * count * inner))
        part = view(x, first, count, 0, width)
        linear(into, [linear2], part, part, 0, team_for(team, 2.0 * count * width * inner))
    if not norm_first and norm is not None:
        apply_norm(x, norm, x, team)


def layer(
    cnp.ndarray x not None, cnp.ndarray out not None, Attention self_attention not None, Attention cross_attention,
    list memory not None, Packed linear1 not None, Packed linear2 not None, tuple norm, bint norm_first, int activation,
    bint gated, Workspace workspace not None, int threads, double small,
):
    """Self-attention, attention to memory unless cross_attention is None, and a feed-forward block of rows x into out.

    out is another array like x. memory is [keys' rows, values' rows], or [] where cross_attention has a cache. norm is
    that of the feed-forward block, which is gated if linear1 makes two halves.
    """
    cdef Team team = Team(threads, small)
    attention_block(self_attention, x, [], out, norm_first, workspace, &team)
    if cross_attention is not None:
        attention_block(cross_attention, out, memory, out, norm_first, workspace, &team)
    feed_forward(out, linear1, linear2, norm, norm_first, activation, gated, workspace, &team)


def cache_memory(
    Attention self not None, cnp.ndarray rows not None, Workspace workspace not None, int threads, double small
):
    """Stores keys and values of a memory's rows (batch S, E) in the cache of attention to it, whose projections are
    those of keys and of values."""
    cdef Team team = Team(threads, small)
    cdef cnp.ndarray both = project(self, 0, 2, rows, PROJECTED, kind_for(self.out_proj), workspace, &team)
    cdef Py_ssize_t width = self.key_heads * self.width
    if self.key_rotation is not None:
        turn(view(both, 0, rows.shape[0], 0, width), self.key_rotation, self.width, &team)
    store(both, 0, self.keys, self.past, self.until, team_for(&team, 1.0 * both.size))
    store(both, width, self.values, self.past, self.until, team_for(&team, 1.0 * both.size))
