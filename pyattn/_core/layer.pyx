"""Layers of the Transformer, each one call.

A plan holds what does not change from call to call: weights, norms, sizes, scale, window, element types. It is made from
a layer's attributes, and refuses those that do not fit each other. A binding holds what the layers of one call share:
where its sequences begin, masks, memory and threads. `run` takes a plan, a binding and rows.

Rows stand in a contiguous array (n, E). `threads` is an upper bound; operations below `small` floating-point operations
run on the calling thread.
"""

cimport numpy as cnp
from libc.stdint cimport int64_t

from pyattn._core.attention import WIDTH_BLOCK, attention
from pyattn._core.linear cimport Packed, linear
from pyattn._core.rows cimport Rows, bytes_of, contiguous, part_of, rows_of
from pyattn._core.rowwise cimport gate, normalise, rotate
from pyattn._core.sequences cimport store

cnp.import_array()

cdef Py_ssize_t MAX_WIDTH = WIDTH_BLOCK

# Rows of a thread that pass through a feed-forward block at a time: the hidden activations stay in its cache.
cdef enum:
    FEED_FORWARD_ROWS = 256


cdef enum:  # the buffers of a workspace
    PROJECTED
    KEYS
    VALUES
    ATTENDED
    NORMED
    GATES
    HIDDEN
    BRANCH
    BUFFERS


cdef class Workspace:
    """Memory for intermediate results of a layer, kept for the next layer: new memory costs a fault for each page.

    It serves one call at a time.
    """
    cdef list buffers

    def __init__(self):
        self.buffers = [None] * BUFFERS

    def __reduce__(self):
        return Workspace, ()  # a copy begins with none

    cdef Rows rows(self, int buffer, int dtype, Py_ssize_t count, Py_ssize_t width):
        """Uninitialised rows, valid until the buffer is asked for again."""
        cdef cnp.npy_intp size = max(<Py_ssize_t> 1, count * width * bytes_of(dtype))
        cdef cnp.ndarray memory = self.buffers[buffer]
        if memory is None or memory.shape[0] < size:
            self.buffers[buffer] = None
            memory = self.buffers[buffer] = cnp.PyArray_EMPTY(1, &size, cnp.NPY_UINT8, 0)
        return contiguous(cnp.PyArray_DATA(memory), count, width, dtype)


cdef class Rotation:
    """Rotary positions of a call's rows: int64 (n,), and tables (positions, half) of cosines and sines."""
    cdef cnp.ndarray positions, cosines, sines

    def __init__(self, cnp.ndarray positions not None, cnp.ndarray cosines not None, cnp.ndarray sines not None):
        self.positions, self.cosines, self.sines = positions, cosines, sines


cdef class Binding:
    """Which rows attend to which keys, in one call: `batch` times the sequences that the starts describe.

    mask and bias are as attention's; bias_of_sequence says that bias is for each sequence from its first row. is_causal
    replaces the right side of a layer's window. past_len and new_len, int64 (batch,): tokens in a cache before and after
    the call. With both, keys and values of the rows are appended to it; with new_len alone it is complete.
    """
    cdef Py_ssize_t batch
    cdef cnp.ndarray query_starts, key_starts
    cdef readonly Workspace workspace
    cdef public cnp.ndarray mask, bias, past_len, new_len
    cdef public bint is_causal, bias_of_sequence
    cdef public int threads
    cdef public double small

    def __init__(
        self, Py_ssize_t batch, cnp.ndarray query_starts not None, cnp.ndarray key_starts not None,
        Workspace workspace not None,
    ):
        self.batch, self.query_starts, self.key_starts = batch, query_starts, key_starts
        self.workspace = workspace
        self.threads = 1

    cdef inline int team(self, double operations) noexcept:
        return 1 if operations < self.small else self.threads

    cdef double mean_keys(self):
        """Keys that a query meets, on average."""
        cdef Py_ssize_t sequences = self.key_starts.shape[0] - 1
        return (<int64_t *> cnp.PyArray_DATA(self.key_starts))[sequences] / max(1.0, <double> sequences)


cdef class Memory:
    """What cross-attention attends to, in one call: rows of keys and of values, or a cache that has them.

    binding says which rows attend to which of its keys.
    """
    cdef Binding binding
    cdef cnp.ndarray key_rows, value_rows, keys, values
    cdef public Rotation query_rotation, key_rotation

    def __init__(
        self, Binding binding not None, cnp.ndarray key_rows=None, cnp.ndarray value_rows=None, cnp.ndarray keys=None,
        cnp.ndarray values=None,
    ):
        self.binding = binding
        self.key_rows, self.value_rows, self.keys, self.values = key_rows, value_rows, keys, values


cdef class NormPlan:
    """A norm's parameters, (width,) each; bias may be None. centred: the mean is subtracted first."""
    cdef cnp.ndarray weight, bias
    cdef double eps
    cdef bint centred

    def __init__(self, cnp.ndarray weight, cnp.ndarray bias, double eps, bint centred):
        self.weight, self.bias, self.eps, self.centred = weight, bias, eps, centred


cdef class AttentionPlan:
    """What multi-head attention is in every call. `layer` is a MultiHeadAttention, whose attributes are read once."""
    cdef readonly object revision
    cdef readonly object rotary, compute_dtype
    cdef readonly bint bf16  # whether attention's operands, and caches, are of bfloat16
    cdef readonly int heads, key_heads
    cdef readonly Py_ssize_t head_dim
    cdef list projections
    cdef Packed out_proj
    cdef Py_ssize_t inner, shared  # features of all heads of queries, and of keys
    cdef int dtype  # of attention's operands
    cdef double scale, softcap
    cdef Py_ssize_t left, right
    cdef cnp.ndarray slopes, sinks
    cdef NormPlan q_norm, k_norm

    def __init__(self, layer, revision):
        self.revision, self.rotary, self.compute_dtype = revision, layer.rotary, layer.out_proj.dtype
        self.projections = [projection._weights() for projection in layer._projections]
        self.out_proj = layer.out_proj._weights()
        self.heads, self.key_heads, self.head_dim = layer.num_heads, layer.num_key_value_heads, layer.head_dim
        self.inner, self.shared = self.heads * self.head_dim, self.key_heads * self.head_dim
        self.scale, self.softcap = layer.scale, layer.softcap or 0.0
        self.left, self.right = layer.left, layer.right
        self.slopes, self.sinks = layer._slopes(), layer._parameters.get("sinks")
        self.bf16 = layer._attends_in_bf16()
        self.dtype = cnp.NPY_UINT16 if self.bf16 else real_dtype(self.out_proj)
        if layer.q_norm is not None:
            self.q_norm, self.k_norm = NormPlan(*layer.q_norm._arguments()), NormPlan(*layer.k_norm._arguments())
        self.check()

    def __reduce__(self):
        return type(None), ()  # a copy of a layer makes its own

    cdef int check(self) except -1:
        """Refuses parts that were not made for each other."""
        cdef list outputs = [(<Packed> part).outputs for part in self.projections]
        if min(self.heads, self.key_heads, self.head_dim) < 1 or self.heads % self.key_heads \
                or self.out_proj.inputs != self.inner or outputs != [self.inner, self.shared, self.shared]:
            raise ValueError(f"MultiHeadAttention: {self.heads} heads and {self.key_heads} of keys, of {self.head_dim} "
                             f"features each, do not fit projections to {outputs} features and one from "
                             f"{self.out_proj.inputs}; layers or sizes were replaced")
        if self.sinks is not None and self.sinks.shape[0] != self.heads:
            raise ValueError(f"MultiHeadAttention: sinks of {self.sinks.shape[0]} heads do not fit {self.heads} heads; "
                             "sizes were replaced")
        return 0

    cdef int check_cache(self, cnp.ndarray cache, Py_ssize_t batch) except -1:
        """Refuses a cache of keys or values that was made for another layer."""
        if cache.ndim != 4 or cache.shape[0] != batch or cache.shape[1] != self.key_heads \
                or cache.shape[3] != self.head_dim or cnp.PyArray_TYPE(cache) != self.dtype:
            seen = [cache.shape[i] for i in range(cache.ndim)]
            raise ValueError(f"MultiHeadAttention: a cache of {cache.dtype} {seen} does not fit a layer that needs "
                             f"({batch}, {self.key_heads}, capacity, {self.head_dim}), of the kind that its own "
                             "caches are")
        return 0

    cdef int check_option(self, str name, cnp.ndarray option, Py_ssize_t batch) except -1:
        """Refuses a mask or bias that a stack made for the heads of its first layer, where this one has others."""
        if option is not None and (option.shape[0] != batch or option.shape[1] != self.heads):
            raise ValueError(f"MultiHeadAttention: {name} is for {option.shape[0]} sequences and {option.shape[1]} heads, "
                             f"the layer's are {batch} and {self.heads}; layers were replaced")
        return 0

    cdef Rows project(self, int first, int last, const Rows *rows, int buffer, Binding binding):
        """Rows through some of the projections, side by side."""
        cdef Py_ssize_t width = 0
        cdef Packed part
        cdef list parts = self.projections[first:last]
        for part in parts:
            width += part.outputs
        cdef Rows out = binding.workspace.rows(buffer, self.dtype, rows.count, width)
        multiply(parts, rows, NULL, &out, 0, binding.team(2.0 * rows.count * rows.width * width))
        return out

    cdef int encode(self, const Rows *rows, NormPlan norm, Rotation rotation, Binding binding) except -1:
        """Norm and rotary positions of projected queries or keys, in place: each head by itself."""
        if norm is not None:
            normalise_heads(rows, norm, self.head_dim, binding.team(10.0 * rows.count * rows.width))
        if rotation is not None:
            rotate_rows(rows, rotation, self.head_dim, binding.team(4.0 * rows.count * rows.width))
        return 0

    cdef Rows attend(
        self, const Rows *rows, Binding own, Rotation rotation, Memory memory, cnp.ndarray keys, cnp.ndarray values
    ):
        """Attention of projected rows to themselves, to what their cache `keys`, `values` holds, or to a memory: the heads
        side by side, which out_proj reads."""
        cdef Rows query, key, value, query_and_key
        cdef Binding binding = own if memory is None else memory.binding
        cdef Py_ssize_t both = self.inner + self.shared
        cdef bint appends = memory is None and keys is not None
        if memory is None:
            query_and_key = self.project(0, 3, rows, PROJECTED, own)
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
            query = self.project(0, 1, rows, PROJECTED, own)
            self.encode(&query, self.q_norm, memory.query_rotation, own)
            if memory.keys is None:
                key, value = rows_of(memory.key_rows), rows_of(memory.value_rows)
                key = self.project(1, 2, &key, KEYS, own)
                value = self.project(2, 3, &value, VALUES, own)
                self.encode(&key, self.k_norm, memory.key_rotation, own)
            else:
                keys, values = memory.keys, memory.values
        if keys is not None:
            self.check_cache(keys, binding.batch)
            self.check_cache(values, binding.batch)
        if appends:
            store_rows(&key, keys, own)
            store_rows(&value, values, own)
        cdef Rows out = own.workspace.rows(ATTENDED, self.dtype, rows.count, self.inner)
        if keys is None:
            keys = heads_of(&key, binding.batch, self.key_heads, self.head_dim)
            values = heads_of(&value, binding.batch, self.key_heads, self.head_dim)
        self.weigh(&query, keys, values, &out, binding)
        return out

    cdef int weigh(
        self, const Rows *query, cnp.ndarray keys, cnp.ndarray values, const Rows *out, Binding binding
    ) except -1:
        """Calls the driver of attention: out = softmax(query keys^T) values."""
        cdef dict options = {"scale": self.scale, "left": self.left, "right": 0 if binding.is_causal else self.right}
        cdef Py_ssize_t first
        self.check_option("mask", binding.mask, binding.batch)
        self.check_option("bias", binding.bias, binding.batch)
        if self.softcap:
            options["softcap"] = self.softcap
        if binding.mask is not None:
            options["mask"] = binding.mask
        if binding.bias is not None:
            options["bias"], options["bias_of_sequence"] = binding.bias, binding.bias_of_sequence
        if self.slopes is not None:
            options["slopes"] = repeated(self.slopes, 0, binding.batch, self.heads)
        if self.sinks is not None:
            options["sinks"] = repeated(self.sinks, 0, binding.batch, self.heads)
        if binding.new_len is not None:
            options["kv_lengths"] = repeated(binding.new_len, 1, binding.batch, self.heads)[..., None]
        if binding.past_len is not None:
            options["offsets"] = repeated(binding.past_len, 1, binding.batch, self.heads)[..., None]
        queries = heads_of(query, binding.batch, self.heads, self.head_dim)
        result = heads_of(out, binding.batch, self.heads, self.head_dim)
        cdef int threads = binding.team(4.0 * query.count * self.heads * binding.mean_keys() * self.head_dim)
        for first in range(0, self.head_dim, MAX_WIDTH):
            here, there = values, result
            if self.head_dim > MAX_WIDTH:
                here, there = values[..., first:first + MAX_WIDTH], result[..., first:first + MAX_WIDTH]
            attention(queries, keys, here, there, query_starts=binding.query_starts, key_starts=binding.key_starts,
                      threads=threads, **options)
        return 0

    def run(self, cnp.ndarray x not None, Binding own not None, Rotation rotation=None, Memory memory=None):
        """Attention of rows x to themselves or to a memory, projected; new rows of the compute type."""
        cdef Rows rows = rows_of(x), out, attended
        cdef cnp.npy_intp shape[2]
        shape[0], shape[1] = rows.count, self.out_proj.outputs
        cdef cnp.ndarray result = cnp.PyArray_EMPTY(2, shape, cnp.PyArray_TYPE(x), 0)
        out = rows_of(result)
        attended = self.attend(&rows, own, rotation, memory, None, None)
        multiply([self.out_proj], &attended, NULL, &out, 0, own.team(2.0 * rows.count * self.inner * out.width))
        return result

    def precompute(
        self, cnp.ndarray x not None, Binding binding not None, Rotation rotation, cnp.ndarray keys not None,
        cnp.ndarray values not None,
    ):
        """Stores keys and values of a memory's rows in a cache, for cross-attention."""
        cdef Rows rows = rows_of(x), both = self.project(1, 3, &rows, PROJECTED, binding), key, value
        key = part_of(&both, 0, rows.count, 0, self.shared)
        value = part_of(&both, 0, rows.count, self.shared, self.shared)
        self.check_cache(keys, binding.batch)
        self.check_cache(values, binding.batch)
        self.encode(&key, self.k_norm, rotation, binding)
        store_rows(&key, keys, binding)
        store_rows(&value, values, binding)


cdef class BlockPlan:
    """What stands around a block, attention or feed-forward: the norms in front of it, behind the residual sum, and behind
    the block in front of the sum, each or None, and what its output is multiplied by."""
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
        normalise_rows(x, self.before, &out, binding.team(10.0 * x.count * x.width))
        return out

    cdef int leave(self, Packed weight, const Rows *input, const Rows *x, const Rows *out, Binding binding) except -1:
        """out, which may be x, = x + the block's last product, of its input."""
        cdef int threads = binding.team(2.0 * input.count * input.width * weight.outputs)
        if self.inside is None and self.scale == 1.0:
            multiply([weight], input, x, out, 0, threads)
            return 0
        cdef Rows branch = binding.workspace.rows(BRANCH, x.dtype, input.count, x.width)
        multiply([weight], input, NULL, &branch, 0, threads)
        if self.inside is not None:
            normalise_rows(&branch, self.inside, &branch, binding.team(10.0 * branch.count * branch.width))
        add_scaled(x, &branch, self.scale, out, binding.team(2.0 * branch.count * branch.width))
        return 0

    cdef int finish(self, const Rows *out, Binding binding) except -1:
        if self.after is not None:
            normalise_rows(out, self.after, out, binding.team(10.0 * out.count * out.width))
        return 0


cdef class LayerPlan:
    """What a layer is in every call. `layer` is a Block, whose attributes are read once."""
    cdef readonly object revision
    cdef readonly AttentionPlan self_attention, cross_attention
    cdef BlockPlan around_self, around_cross, around_feed_forward
    cdef Packed linear1, linear2
    cdef int hidden_dtype, activation
    cdef bint gated

    def __init__(self, layer, AttentionPlan self_attention not None, AttentionPlan cross_attention, list norms, revision):
        """norms: for each block, the norm and the one behind it; norms are _arguments() of Norm, or None."""
        self.revision = revision
        self.self_attention, self.cross_attention = self_attention, cross_attention
        self.linear1, self.linear2 = layer.linear1._weights(), layer.linear2._weights()
        self.hidden_dtype = operand_dtype(self.linear2)
        self.activation, self.gated = layer._activation, layer.gated
        arounds = [
            BlockPlan(*[None if norm is None else NormPlan(*norm._arguments()) for norm in pair], layer.norm_first,
                      layer.residual_scale)
            for pair in norms
        ]
        self.around_self, self.around_cross, self.around_feed_forward = arounds

    def __reduce__(self):
        return type(None), ()  # a copy of a layer makes its own

    def run(
        self, cnp.ndarray x not None, cnp.ndarray out not None, Binding own not None, Rotation rotation=None,
        Memory memory=None, cnp.ndarray keys=None, cnp.ndarray values=None,
    ):
        """Rows x through the layer into out, another array like x.

        keys and values: the cache (batch, key heads, capacity, head_dim) of the rows' sequences. memory: what
        cross-attention attends to; without it there is none.
        """
        cdef Rows read = rows_of(x), written = rows_of(out), fed, attended
        fed = self.around_self.enter(&read, own)
        attended = self.self_attention.attend(&fed, own, rotation, None, keys, values)
        self.around_self.leave(self.self_attention.out_proj, &attended, &read, &written, own)
        self.around_self.finish(&written, own)
        if memory is not None:
            fed = self.around_cross.enter(&written, own)
            attended = self.cross_attention.attend(&fed, own, None, memory, None, None)
            self.around_cross.leave(self.cross_attention.out_proj, &attended, &written, &written, own)
            self.around_cross.finish(&written, own)
        self.feed_forward(&written, own)

    cdef int feed_forward(self, const Rows *x, Binding own) except -1:
        """x += linear2(activation(linear1 x)), or of two halves that linear1 makes activation(first) * second."""
        cdef Rows fed = self.around_feed_forward.enter(x, own), hidden, inner, part, here
        cdef Py_ssize_t n = x.count, width = self.linear2.inputs, first, count, parts
        cdef Py_ssize_t most = FEED_FORWARD_ROWS * own.threads
        parts = max(<Py_ssize_t> 1, (n + most // 2) // most)
        count = (n + parts - 1) // parts
        hidden = inner = own.workspace.rows(HIDDEN, self.hidden_dtype, count, width)
        if self.gated:
            inner = own.workspace.rows(GATES, self.hidden_dtype, count, 2 * width)
        for first in range(0, n, max(<Py_ssize_t> 1, count)):
            hidden.count = inner.count = count = min(count, n - first)
            part = part_of(&fed, first, count, 0, fed.width)
            multiply([self.linear1], &part, NULL, &inner, 0 if self.gated else self.activation,
                     own.team(2.0 * count * x.width * self.linear1.outputs))
            if self.gated:
                gate_rows(&inner, &hidden, self.activation, own.team(20.0 * count * width))
            here = part_of(x, first, count, 0, x.width)
            self.around_feed_forward.leave(self.linear2, &hidden, &here, &here, own)
        return self.around_feed_forward.finish(x, own)


cdef int real_dtype(Packed weight):
    """The type that products with a weight are computed in."""
    return cnp.NPY_FLOAT32 if weight.kernels.real_bytes == 4 else cnp.NPY_FLOAT64


cdef int operand_dtype(Packed weight):
    """The type that a product with a weight reads best, and attention in front of it: the bits of bfloat16 if it may."""
    return cnp.NPY_UINT16 if weight.dtype.itemsize < 4 else real_dtype(weight)


cdef int add_scaled(const Rows *x, const Rows *branch, double scale, const Rows *out, int threads) except -1:
    """out, which may be x, = x + scale * branch."""
    cdef Py_ssize_t i
    for i in range(branch.count):
        if out.dtype == cnp.NPY_FLOAT32:
            add_row[float](<float *> (x.data + i * x.stride), <float *> (branch.data + i * branch.stride), <float> scale,
                           <float *> (out.data + i * out.stride), out.width)
        else:
            add_row[double](<double *> (x.data + i * x.stride), <double *> (branch.data + i * branch.stride), scale,
                            <double *> (out.data + i * out.stride), out.width)
    return 0


ctypedef fused real:
    float
    double


cdef inline void add_row(const real *x, const real *branch, real scale, real *out, Py_ssize_t width) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(width):
        out[i] = x[i] + scale * branch[i]


# What follows hands rows to drivers that take arrays.


cdef cnp.ndarray array_of(const Rows *rows):
    """The rows as an array, valid while their memory is."""
    cdef cnp.npy_intp shape[2]
    cdef cnp.npy_intp strides[2]
    shape[0], shape[1] = rows.count, rows.width
    strides[0], strides[1] = rows.stride, bytes_of(rows.dtype)
    return cnp.PyArray_New(cnp.ndarray, 2, shape, rows.dtype, strides, rows.data, 0, cnp.NPY_ARRAY_BEHAVED, None)


cdef cnp.ndarray heads_of(const Rows *rows, Py_ssize_t batch, int heads, Py_ssize_t width):
    """Rows (batch n, heads width) as (batch, heads, n, width)."""
    cdef cnp.npy_intp shape[4]
    cdef cnp.npy_intp strides[4]
    shape[0], shape[1], shape[3] = batch, heads, width
    shape[2] = rows.count // batch if batch else 0
    strides[3] = bytes_of(rows.dtype)
    strides[0], strides[1], strides[2] = shape[2] * rows.stride, width * strides[3], rows.stride
    return cnp.PyArray_New(cnp.ndarray, 4, shape, rows.dtype, strides, rows.data, 0, cnp.NPY_ARRAY_BEHAVED, None)


cdef cnp.ndarray repeated(cnp.ndarray x, int repeated_axis, Py_ssize_t batch, int heads):
    """One axis seen as (batch, heads), the same along one of the two."""
    cdef cnp.npy_intp shape[2]
    cdef cnp.npy_intp strides[2]
    shape[0], shape[1] = batch, heads
    strides[0] = strides[1] = cnp.PyArray_STRIDES(x)[0]
    strides[repeated_axis] = 0
    return cnp.PyArray_New(cnp.ndarray, 2, shape, cnp.PyArray_TYPE(x), strides, cnp.PyArray_DATA(x), 0,
                           cnp.NPY_ARRAY_BEHAVED, None)


cdef int multiply(
    list parts, const Rows *input, const Rows *residual, const Rows *out, int activation, int threads
) except -1:
    linear(array_of(input), parts, None if residual == NULL else array_of(residual), array_of(out), activation, threads)
    return 0


cdef int normalise_rows(const Rows *input, NormPlan norm, const Rows *out, int threads) except -1:
    normalise(array_of(input), norm.weight, norm.bias, array_of(out), norm.eps, norm.centred, threads)
    return 0


cdef int normalise_heads(const Rows *rows, NormPlan norm, Py_ssize_t head_dim, int threads) except -1:
    x = array_of(rows)
    heads = x.reshape(rows.count * rows.width // head_dim, head_dim).copy()
    normalise(heads, norm.weight, norm.bias, heads, norm.eps, norm.centred, threads)
    x[...] = heads.reshape(rows.count, rows.width)
    return 0


cdef int rotate_rows(const Rows *rows, Rotation rotation, Py_ssize_t head_dim, int threads) except -1:
    rotate(array_of(rows), rotation.positions, rotation.cosines, rotation.sines, threads, head_dim)
    return 0


cdef int store_rows(const Rows *rows, cnp.ndarray cache, Binding binding) except -1:
    store(array_of(rows), 0, cache, binding.past_len, binding.new_len, binding.team(1.0 * rows.count * rows.width))
    return 0


cdef int gate_rows(const Rows *input, const Rows *out, int activation, int threads) except -1:
    gate(array_of(input), array_of(out), activation, threads)
    return 0
