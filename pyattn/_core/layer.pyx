"""Layers of the Transformer, each one call.

A plan holds what does not change from call to call: weights, norms, sizes, scale, window, element types. It is made
of a layer's attributes, and refuses those that do not fit each other. A Binding (binding.pyx) holds what the layers of
one call share. `run` takes a binding and rows, a contiguous array (n, E).

A rotation is None, or the rows' positions, int64 (n,), and tables (positions, half) of cosines and sines. A cache is an
array (2, batch, key heads, capacity, head_dim), of keys and of values; one of int8 has scales (2, batch, key heads,
capacity), float32, else these are None.
"""

cimport numpy as cnp
from libc.stdint cimport int64_t
from libc.string cimport memcpy

from pyattn._core.attention cimport operations, run_attention
from pyattn._core.binding cimport (
    ATTENDED, BRANCH, GATES, HIDDEN, KEYS, NORMED, PROJECTED, VALUES, Binding, Memory, threads_for,
)
from pyattn._core.call cimport begin_call_of, bind, bind_array, set_window
from pyattn._core.runtime cimport kernels_of, kernels_of_int8_keys
from pyattn._core.kernels cimport (
    PYATTN_ALIBI_SLOPES, PYATTN_BIAS, PYATTN_KEY, PYATTN_KEY_SCALES, PYATTN_KV_LENGTHS, PYATTN_MASK, PYATTN_OUT,
    PYATTN_QUERY, PYATTN_QUERY_OFFSET, PYATTN_SINKS, PYATTN_VALUE, PYATTN_VALUE_SCALES,
)
from pyattn._core.linear cimport Packed, Weights, join, multiply
from pyattn._core.rows cimport Rows, bytes_of, data_of, part_of, rows_of
from pyattn._core.rowwise cimport RowTask, add_scaled, each_row, gate_rows, normalise_rows, rotate_rows
from pyattn._core.tasks cimport OWN_ROWS, Call

cnp.import_array()

# Rows of a thread that pass through a feed-forward block at a time: the hidden activations stay in its cache.
cdef enum:
    FEED_FORWARD_ROWS = 256


cdef struct Heads:  # of queries, keys, values or results; strides are in bytes
    char *data
    Py_ssize_t batch, head, row


cdef inline Heads heads_of(const Rows *rows, Py_ssize_t batch, Py_ssize_t width) noexcept:
    """Heads of so many features side by side, in rows of `batch` samples one after the other."""
    cdef Py_ssize_t sample = rows.count // max(<Py_ssize_t> 1, batch) * rows.stride
    return Heads(rows.data, sample, width * bytes_of(rows.dtype), rows.stride)


cdef inline Heads cached(cnp.ndarray cache, int which) noexcept:
    """Those of keys, 0, or values, 1, in a cache or in its scales."""
    cdef const cnp.npy_intp *strides = cnp.PyArray_STRIDES(cache)
    return Heads(data_of(cache) + which * strides[0], strides[1], strides[2], strides[3])


cdef cnp.ndarray copied(
    const Heads *heads, Py_ssize_t batch, Py_ssize_t count, Py_ssize_t length, Py_ssize_t width, int dtype
):
    """Heads of so many rows and features as an array (batch, count, length, width) of its own."""
    cdef cnp.npy_intp *shape = [batch, count, length, width]
    cdef cnp.ndarray out = cnp.PyArray_EMPTY(4, shape, dtype, 0)
    cdef char *to = data_of(out)
    cdef Py_ssize_t bytes_of_row = width * bytes_of(dtype), sample, head, row
    for sample in range(batch):
        for head in range(count):
            for row in range(length):
                memcpy(to, heads.data + sample * heads.batch + head * heads.head + row * heads.row, bytes_of_row)
                to += bytes_of_row
    return out


cdef struct Store:
    Heads rows, cache, scales  # scales: of int8, else nowhere
    const int64_t *past_len
    const int64_t *new_len
    Py_ssize_t heads  # of a sequence


cdef void store_head(const RowTask *task, Py_ssize_t number) noexcept nogil:
    """Appends the rows of one head of one sequence, side by side in each row, to its cache, which may be int8."""
    cdef const Store *store = <const Store *> task.parameters
    cdef const Heads *rows = &store.rows
    cdef const Heads *cache = &store.cache
    cdef Py_ssize_t sequence = number // store.heads, head = number % store.heads, past = store.past_len[sequence], j
    cdef const char *source = rows.data + sequence * rows.batch + head * rows.head
    cdef char *target = cache.data + sequence * cache.batch + head * cache.head + past * cache.row
    cdef char *scale = store.scales.data
    if scale == NULL:
        for j in range(store.new_len[sequence] - past):
            memcpy(target + j * cache.row, source + j * rows.row, rows.head)
        return
    scale += sequence * store.scales.batch + head * store.scales.head + past * store.scales.row
    for j in range(store.new_len[sequence] - past):
        task.kernels.round_row(source + j * rows.row, rows.head // <Py_ssize_t> sizeof(float), target + j * cache.row,
                               <float *> (scale + j * store.scales.row))


cdef class NormPlan:
    """A norm's parameters, (width,) each; bias may be None. centred: the mean is subtracted first."""
    cdef cnp.ndarray weight, bias
    cdef double eps
    cdef bint centred

    def __init__(self, cnp.ndarray weight not None, cnp.ndarray bias, double eps, bint centred):
        self.weight, self.bias, self.eps, self.centred = weight, bias, eps, centred

    cdef int apply(self, const Rows *input, const Rows *out, Py_ssize_t heads, Binding binding) except -1:
        """Normalises each of so many parts of each row into out, which may be input."""
        return normalise_rows(input, self.weight, self.bias, self.eps, self.centred, out, heads,
                              threads_for(binding, 10.0 * input.count * input.width))


cdef class WeightsPlan:
    """Packed weights that read the same inputs, side by side."""
    cdef Weights weights
    cdef list parts  # that weights points into

    def __init__(self, list parts not None):
        self.parts = parts
        join(parts, &self.weights)

    cdef int apply(
        self, const Rows *input, const Rows *residual, const Rows *out, int activation, Binding binding
    ) except -1:
        """out = activation(input weights^T + bias) + residual, which may be NULL."""
        cdef int threads = threads_for(binding, 2.0 * input.count * input.width * self.weights.outputs)
        return multiply(&self.weights, input, residual, out, activation, threads)


cdef class AttentionPlan:
    """What multi-head attention is in every call. `layer` is a MultiHeadAttention, whose attributes are read once."""
    cdef readonly object revision
    cdef readonly object rotary, compute_dtype
    cdef readonly bint bf16  # whether attention's operands, and caches that are not int8, are of bfloat16
    cdef readonly Py_ssize_t head_dim
    cdef int heads, key_heads
    cdef WeightsPlan query, key, value, every, output  # every: query, key and value, if of one width
    cdef Py_ssize_t inner, shared  # features of all heads of queries, and of keys
    cdef int dtype  # of attention's operands; of the compute type where keys and values are int8
    cdef Call call  # without what is bound at each call
    cdef Py_ssize_t left
    cdef cnp.ndarray slopes, sinks  # (1, heads), alive for call
    cdef NormPlan q_norm, k_norm

    def __init__(self, layer, revision):
        self.revision, self.rotary, self.compute_dtype = revision, layer.rotary, layer.out_proj.dtype
        cdef Packed query, key, value
        query, key, value = [projection._weights() for projection in layer._projections]
        self.query, self.key, self.value = WeightsPlan([query]), WeightsPlan([key]), WeightsPlan([value])
        if query.weight.inputs == key.weight.inputs == value.weight.inputs:
            self.every = WeightsPlan([query, key, value])
        self.output = WeightsPlan([layer.out_proj._weights()])
        self.heads, self.key_heads, self.head_dim = layer.num_heads, layer.num_key_value_heads, layer.head_dim
        self.inner, self.shared = self.heads * self.head_dim, self.key_heads * self.head_dim
        slopes, sinks = layer._slopes(), layer._parameters.get("sinks")
        self.slopes, self.sinks = [None if x is None else x[None, :] for x in (slopes, sinks)]
        self.bf16 = layer._attends_in_bf16()
        self.dtype = cnp.NPY_UINT16 if self.bf16 else self.output.weights.compute_dtype
        if layer.q_norm is not None:
            self.q_norm, self.k_norm = NormPlan(*layer.q_norm._arguments()), NormPlan(*layer.k_norm._arguments())
        self.check()
        begin_call_of(&self.call, kernels_of(self.dtype), self.heads, self.key_heads)
        self.call.batch_axes = 1
        self.call.shared.width = self.call.shared.value_width = self.head_dim
        self.call.shared.scale, self.call.shared.softcap = layer.scale, layer.softcap or 0.0
        self.left = layer.left
        set_window(&self.call, layer.left, layer.right)
        if self.slopes is not None:
            bind_array(&self.call, PYATTN_ALIBI_SLOPES, 0, self.slopes, False)
        if self.sinks is not None:
            bind_array(&self.call, PYATTN_SINKS, 0, self.sinks, False)

    cdef int check(self) except -1:
        """Refuses parts that were not made for each other."""
        cdef list outputs = [self.query.weights.outputs, self.key.weights.outputs, self.value.weights.outputs]
        cdef Py_ssize_t inputs = self.output.weights.inputs
        if min(self.heads, self.key_heads, self.head_dim) < 1 or self.heads % self.key_heads \
                or inputs != self.inner or outputs != [self.inner, self.shared, self.shared]:
            raise ValueError(f"MultiHeadAttention: {self.heads} heads and {self.key_heads} of keys, of {self.head_dim} "
                             f"features each, do not fit projections to {outputs} features and one from {inputs}; "
                             "layers or sizes were replaced")
        if self.sinks is not None and self.sinks.shape[1] != self.heads:
            raise ValueError(f"MultiHeadAttention: sinks of {self.sinks.shape[1]} heads do not fit {self.heads} heads; "
                             "sizes were replaced")
        cdef int dtype = cnp.NPY_FLOAT64 if self.dtype == cnp.NPY_FLOAT64 else cnp.NPY_FLOAT32
        if self.sinks is not None and cnp.PyArray_TYPE(self.sinks) != dtype:
            raise ValueError(f"MultiHeadAttention: sinks of {self.sinks.dtype} do not fit attention in "
                             f"{cnp.PyArray_DescrFromType(dtype)}; layers were replaced")

    cdef int check_cache(self, cnp.ndarray cache, cnp.ndarray scales, Py_ssize_t batch) except -1:
        """Refuses a cache that was made for another layer; returns the type of queries, and of keys before they are
        stored."""
        cdef int dtype = self.dtype if scales is None else self.output.weights.compute_dtype
        cdef bint fits = cnp.PyArray_TYPE(cache) == (self.dtype if scales is None else cnp.NPY_INT8)
        if scales is not None:
            fits = fits and dtype == cnp.NPY_FLOAT32 and cnp.PyArray_TYPE(scales) == dtype \
                and (<object> scales).shape == (<object> cache).shape[:4]
        if not fits or cache.ndim != 5 or cache.shape[1] != batch or cache.shape[2] != self.key_heads \
                or cache.shape[4] != self.head_dim:
            raise ValueError(f"MultiHeadAttention: a cache of {cache.dtype} {list((<object> cache).shape)} does not "
                             f"fit a layer that needs (2, {batch}, {self.key_heads}, capacity, {self.head_dim}), of "
                             "the kind that its own caches are")
        return dtype

    cdef int check_option(self, str name, cnp.ndarray option, Py_ssize_t batch) except -1:
        """Refuses a mask or bias that a stack made for the heads of its first layer, where this one has others."""
        if option is not None and (option.shape[0] != batch or option.shape[1] != self.heads):
            raise ValueError(f"MultiHeadAttention: {name} is for {option.shape[0]} sequences and {option.shape[1]} "
                             f"heads, the layer's are {batch} and {self.heads}; layers were replaced")

    cdef Rows project(self, WeightsPlan weights, const Rows *rows, int buffer, int dtype, Binding binding):
        """Rows through projections, side by side, of self.dtype or the compute type; weights are None where these read
        rows of unlike widths, and are refused."""
        if weights is None:
            widths = self.query.weights.inputs, self.key.weights.inputs, self.value.weights.inputs
            raise ValueError(f"MultiHeadAttention: projections from {list(widths)} features do not read the same rows; "
                             "layers were replaced")
        cdef Rows out = binding.workspace.rows(buffer, dtype, rows.count, weights.weights.outputs)
        weights.apply(rows, NULL, &out, 0, binding)
        return out

    cdef int encode(self, const Rows *rows, NormPlan norm, tuple rotation, Binding binding) except -1:
        """Norm and rotary positions of projected queries or keys, in place: each head by itself."""
        if norm is not None:
            norm.apply(rows, rows, rows.width // self.head_dim, binding)
        if rotation is not None:
            rotate_rows(rows, rotation[0], rotation[1], rotation[2], self.head_dim, False,
                        threads_for(binding, 4.0 * rows.count * rows.width))

    cdef int store(
        self, const Rows *rows, cnp.ndarray cache, cnp.ndarray scales, int which, Binding binding
    ) except -1:
        """Appends projected keys, 0, or values, 1, to a cache."""
        cdef Py_ssize_t width = rows.count // max(<Py_ssize_t> 1, binding.batch) * self.head_dim
        cdef Store store
        cdef RowTask task
        store.rows, store.cache = heads_of(rows, binding.batch, self.head_dim), cached(cache, which)
        store.heads = self.key_heads
        store.past_len, store.new_len = <int64_t *> data_of(binding.past_len), <int64_t *> data_of(binding.new_len)
        store.scales.data = NULL
        if scales is not None:
            store.scales, task.kernels = cached(scales, which), kernels_of_int8_keys()
        task.parameters = &store
        each_row(store_head, &task, binding.batch * self.key_heads, width,
                 threads_for(binding, 1.0 * rows.count * rows.width))

    cdef Rows attend(
        self, const Rows *rows, Binding own, tuple rotation, Memory memory, cnp.ndarray cache, cnp.ndarray scales
    ):
        """Attention of rows to themselves, to what their cache holds, or to a memory: the heads side by side, which the
        output projection reads."""
        cdef Rows query, key, value, query_and_key
        cdef Binding binding = own if memory is None else memory.binding
        cdef Py_ssize_t both = self.inner + self.shared
        cdef bint appends = memory is None and cache is not None
        cdef int dtype = self.dtype
        if memory is not None:
            cache, scales = memory.cache, memory.scales
        if cache is not None:
            dtype = self.check_cache(cache, scales, binding.batch)
        if memory is None:
            query_and_key = self.project(self.every, rows, PROJECTED, dtype, own)
            query = part_of(&query_and_key, 0, rows.count, 0, self.inner)
            key = part_of(&query_and_key, 0, rows.count, self.inner, self.shared)
            value = part_of(&query_and_key, 0, rows.count, both, self.shared)
            if self.q_norm is None:  # queries and keys in one pass
                query_and_key = part_of(&query_and_key, 0, rows.count, 0, both)
                self.encode(&query_and_key, None, rotation, own)
            else:
                self.encode(&query, self.q_norm, rotation, own)
                self.encode(&key, self.k_norm, rotation, own)
        else:
            query = self.project(self.query, rows, PROJECTED, dtype, own)
            self.encode(&query, self.q_norm, memory.query_rotation, own)
            if cache is None:
                key, value = rows_of(memory.rows[0]), rows_of(memory.rows[1])
                key = self.project(self.key, &key, KEYS, dtype, own)
                value = self.project(self.value, &value, VALUES, dtype, own)
                self.encode(&key, self.k_norm, memory.key_rotation, own)
        if appends:
            self.store(&key, cache, scales, 0, own)
            self.store(&value, cache, scales, 1, own)
        cdef Rows out = own.workspace.rows(ATTENDED, dtype, rows.count, self.inner)
        cdef Heads all_keys = heads_of(&key, binding.batch, self.head_dim) if cache is None else cached(cache, 0)
        cdef Heads all_values = heads_of(&value, binding.batch, self.head_dim) if cache is None else cached(cache, 1)
        if own.workspace.watch is not None:
            self.show(&query, &all_keys, dtype, scales, binding, own.workspace.watch)
        self.weigh(&query, &all_keys, &all_values, scales, &out, binding)
        return out

    cdef int show(
        self, const Rows *query, const Heads *keys, int dtype, cnp.ndarray scales, Binding binding, watch
    ) except -1:
        """Calls watch(plan, binding, query, key, scales of key or None): of `batch` samples the heads (batch, heads,
        rows, features), of uint16 where they are bits of bfloat16."""
        cdef Py_ssize_t rows = query.count // max(<Py_ssize_t> 1, binding.batch)
        cdef Py_ssize_t seen = binding.key_starts[binding.key_starts.shape[0] - 1]
        cdef int kind = dtype if scales is None else cnp.NPY_INT8
        cdef Heads queries = heads_of(query, binding.batch, self.head_dim)
        watch(
            self, binding, copied(&queries, binding.batch, self.heads, rows, self.head_dim, query.dtype),
            copied(keys, binding.batch, self.key_heads, seen, self.head_dim, kind),
            None if scales is None else scales[0, :, :, :seen].copy(),
        )

    cdef int weigh(
        self, const Rows *query, const Heads *keys, const Heads *values, cnp.ndarray scales, const Rows *out,
        Binding binding,
    ) except -1:
        """out = softmax(query keys^T) values, by the driver of attention."""
        cdef Call call = self.call
        cdef Heads queries = heads_of(query, binding.batch, self.head_dim)
        cdef Heads results = heads_of(out, binding.batch, self.head_dim)
        cdef Heads key_scales, value_scales
        cdef Py_ssize_t size = bytes_of(query.dtype), key_size = size
        self.check_option("mask", binding.mask, binding.batch)
        self.check_option("bias", binding.bias, binding.batch)
        call.batch_shape = &binding.batch
        call.sequences = binding.key_starts.shape[0] - 1
        call.cu_seqlens_q = <const int64_t *> data_of(binding.query_starts)
        call.cu_seqlens_k = <const int64_t *> data_of(binding.key_starts)
        bind(&call, PYATTN_QUERY, queries.data, queries.head, queries.row, size, &queries.batch)
        if scales is not None:
            call.kernels, key_size = kernels_of_int8_keys(), 1
            key_scales, value_scales = cached(scales, 0), cached(scales, 1)
            bind(&call, PYATTN_KEY_SCALES, key_scales.data, key_scales.head, key_scales.row, 0, &key_scales.batch)
            bind(&call, PYATTN_VALUE_SCALES, value_scales.data, value_scales.head, value_scales.row, 0,
                 &value_scales.batch)
        bind(&call, PYATTN_KEY, keys.data, keys.head, keys.row, key_size, &keys.batch)
        bind(&call, PYATTN_VALUE, values.data, values.head, values.row, key_size, &values.batch)
        bind(&call, PYATTN_OUT, results.data, results.head, results.row, size, &results.batch)
        if binding.is_causal:
            set_window(&call, self.left, 0)
        if binding.mask is not None:
            bind_array(&call, PYATTN_MASK, 2, binding.mask, False)
        if binding.bias is not None:
            bind_array(&call, PYATTN_BIAS, 2, binding.bias, False)
            if binding.bias_of_sequence:
                call.rows[PYATTN_BIAS] = OWN_ROWS
        if binding.new_len is not None:
            bind_array(&call, PYATTN_KV_LENGTHS, -1, binding.new_len, False)
        if binding.past_len is not None:
            bind_array(&call, PYATTN_QUERY_OFFSET, -1, binding.past_len, False)
        return run_attention(&call, threads_for(binding, operations(&call)))

    def run(self, cnp.ndarray x not None, Binding own not None, tuple rotation, Memory memory):
        """Attention of rows x to themselves or to a memory, projected; new rows of the compute type."""
        cdef Rows rows = rows_of(x), out, attended
        cdef cnp.npy_intp shape[2]
        shape[0], shape[1] = rows.count, self.output.weights.outputs
        cdef cnp.ndarray result = cnp.PyArray_EMPTY(2, shape, cnp.PyArray_TYPE(x), 0)
        out = rows_of(result)
        attended = self.attend(&rows, own, rotation, memory, None, None)
        self.output.apply(&attended, NULL, &out, 0, own)
        return result

    def precompute(
        self, cnp.ndarray x not None, Binding binding not None, tuple rotation, cnp.ndarray cache not None,
        cnp.ndarray scales,
    ):
        """Stores keys and values of a memory's rows in a cache, for cross-attention."""
        cdef bint alike = self.key.weights.inputs == self.value.weights.inputs
        # One after the other, though they read the same rows: together they leave the nearer caches (a fifth slower).
        cdef int dtype = self.check_cache(cache, scales, binding.batch)
        cdef Rows rows = rows_of(x), value
        cdef Rows key = self.project(self.key if alike else None, &rows, PROJECTED, dtype, binding)
        self.encode(&key, self.k_norm, rotation, binding)
        self.store(&key, cache, scales, 0, binding)
        value = self.project(self.value, &rows, PROJECTED, dtype, binding)
        self.store(&value, cache, scales, 1, binding)


cdef class BlockPlan:
    """The surroundings of a block, attention or feed-forward: a norm before it or after the residual sum, one after the
    block before the sum, each or None, and what its output is multiplied by."""
    cdef NormPlan before, after, inside
    cdef double scale

    def __init__(self, NormPlan norm, NormPlan inside, bint norm_first, double scale):
        self.before, self.after = (norm, None) if norm_first else (None, norm)
        self.inside, self.scale = inside, scale

    cdef Rows enter(self, const Rows *x, Binding binding):
        """What the block reads."""
        if self.before is None:
            return x[0]
        cdef Rows out = binding.workspace.rows(NORMED, x.dtype, x.count, x.width)
        self.before.apply(x, &out, 1, binding)
        return out

    cdef int leave(
        self, WeightsPlan weights, const Rows *input, const Rows *x, const Rows *out, Binding binding
    ) except -1:
        """out, which may be x, = x + the block's last product, of its input."""
        cdef Rows branch
        if self.inside is None and self.scale == 1.0:
            weights.apply(input, x, out, 0, binding)
        else:
            branch = binding.workspace.rows(BRANCH, x.dtype, input.count, x.width)
            weights.apply(input, NULL, &branch, 0, binding)
            if self.inside is not None:
                self.inside.apply(&branch, &branch, 1, binding)
            add_scaled(x, &branch, self.scale, out, threads_for(binding, 2.0 * input.count * x.width))
        if self.after is not None:
            self.after.apply(out, out, 1, binding)


cdef class LayerPlan:
    """What a layer is in every call. `layer` is a Block, whose attributes are read once."""
    cdef readonly object revision
    cdef readonly AttentionPlan self_attention, cross_attention
    cdef BlockPlan around_self, around_cross, around_feed_forward
    cdef WeightsPlan linear1, linear2
    cdef int activation
    cdef bint gated

    def __init__(
        self, layer, AttentionPlan self_attention not None, AttentionPlan cross_attention, list norms not None, revision
    ):
        """norms: for each block, the norm before or after it, and the one before the residual sum; Norm or None."""
        self.revision = revision
        self.self_attention, self.cross_attention = self_attention, cross_attention
        self.linear1, self.linear2 = WeightsPlan([layer.linear1._weights()]), WeightsPlan([layer.linear2._weights()])
        self.activation, self.gated = layer._activation, layer.gated
        arounds = [
            BlockPlan(*[None if norm is None else NormPlan(*norm._arguments()) for norm in pair], layer.norm_first,
                      layer.residual_scale)
            for pair in norms
        ]
        self.around_self, self.around_cross, self.around_feed_forward = arounds

    def run(
        self, cnp.ndarray x not None, cnp.ndarray out not None, Binding own not None, tuple rotation,
        Memory memory, cnp.ndarray cache, cnp.ndarray scales,
    ):
        """Rows x through the layer into out, another array like x. cache, scales: of the rows, or None. memory:
        what cross-attention attends to; without it there is none."""
        cdef Rows read = rows_of(x), written = rows_of(out), fed, attended
        fed = self.around_self.enter(&read, own)
        attended = self.self_attention.attend(&fed, own, rotation, None, cache, scales)
        self.around_self.leave(self.self_attention.output, &attended, &read, &written, own)
        if memory is not None:
            fed = self.around_cross.enter(&written, own)
            attended = self.cross_attention.attend(&fed, own, None, memory, None, None)
            self.around_cross.leave(self.cross_attention.output, &attended, &written, &written, own)
        self.feed_forward(&written, own)

    cdef int feed_forward(self, const Rows *x, Binding own) except -1:
        """x += linear2(activation(linear1 x)), or of two halves that linear1 makes activation(first) * second."""
        cdef Rows fed = self.around_feed_forward.enter(x, own), hidden, inner, part, here
        cdef Py_ssize_t n = x.count, width = self.linear2.weights.inputs, first, count, parts
        cdef Py_ssize_t most = FEED_FORWARD_ROWS * own.threads
        cdef int dtype = self.linear2.weights.operand_dtype
        parts = max(<Py_ssize_t> 1, (n + most // 2) // most)
        count = (n + parts - 1) // parts
        hidden = inner = own.workspace.rows(HIDDEN, dtype, count, width)
        if self.gated:
            inner = own.workspace.rows(GATES, dtype, count, 2 * width)
        for first in range(0, n, max(<Py_ssize_t> 1, count)):
            hidden.count = inner.count = count = min(count, n - first)
            part = part_of(&fed, first, count, 0, fed.width)
            self.linear1.apply(&part, NULL, &inner, 0 if self.gated else self.activation, own)
            if self.gated:
                gate_rows(&inner, &hidden, self.activation, threads_for(own, 20.0 * count * width))
            here = part_of(x, first, count, 0, x.width)
            self.around_feed_forward.leave(self.linear2, &hidden, &here, &here, own)
