"""A call of attention, checked: see call.pxd."""

cimport numpy as cnp
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.string cimport memset

from pyattn._core.attention cimport operations, run_attention
from pyattn._core.gradients cimport run_gradients
from pyattn._core.runtime cimport kernels_of, kernels_of_int8_keys
from pyattn._core.kernels cimport (
    PYATTN_ALIBI_SLOPES, PYATTN_BIAS, PYATTN_COLUMN_SUMS, PYATTN_ENTROPY, PYATTN_GRAD_BIAS, PYATTN_GRAD_KEY,
    PYATTN_GRAD_LSE, PYATTN_GRAD_OUT, PYATTN_GRAD_QUERY, PYATTN_GRAD_SLOPES, PYATTN_GRAD_VALUE, PYATTN_KEY,
    PYATTN_KEY_SCALES,
    PYATTN_KV_LENGTHS, PYATTN_LSE, PYATTN_MASK, PYATTN_MASK_BOOL, PYATTN_MASK_NONE, PYATTN_MASK_REAL, PYATTN_MAX,
    PYATTN_MOMENTS, PYATTN_OPERANDS, PYATTN_OUT, PYATTN_QUERY, PYATTN_QUERY_OFFSET, PYATTN_SINKS, PYATTN_TOP_KEYS,
    PYATTN_TOP_WEIGHTS, PYATTN_VALUE, PYATTN_VALUE_SCALES, PYATTN_WEIGHTS,
)
from pyattn._core.rows cimport data_of
from pyattn._core.tasks cimport KEY_ROWS, QUERY_ROWS, SEQUENCE_ROWS

cnp.import_array()

cdef enum:
    UNBOUNDED = 0x7fffffff  # farther than any key from any query

# Operands by name, and how many of their axes follow those of batch and heads: see bind_array.
NAMES = {
    "query": (PYATTN_QUERY, 2), "key": (PYATTN_KEY, 2), "value": (PYATTN_VALUE, 2),
    "key_scales": (PYATTN_KEY_SCALES, 1), "value_scales": (PYATTN_VALUE_SCALES, 1), "mask": (PYATTN_MASK, 2),
    "bias": (PYATTN_BIAS, 2), "alibi_slopes": (PYATTN_ALIBI_SLOPES, 0), "sinks": (PYATTN_SINKS, 0),
    "kv_lengths": (PYATTN_KV_LENGTHS, -1), "query_offset": (PYATTN_QUERY_OFFSET, -1),
    "out": (PYATTN_OUT, 2), "lse": (PYATTN_LSE, 1), "max": (PYATTN_MAX, 1), "entropy": (PYATTN_ENTROPY, 1),
    "moments": (PYATTN_MOMENTS, 2), "weights": (PYATTN_WEIGHTS, 2), "top_keys": (PYATTN_TOP_KEYS, 2),
    "top_weights": (PYATTN_TOP_WEIGHTS, 2), "column_sums": (PYATTN_COLUMN_SUMS, 1),
    "grad_out": (PYATTN_GRAD_OUT, 2), "grad_lse": (PYATTN_GRAD_LSE, 1), "grad_query": (PYATTN_GRAD_QUERY, 2),
    "grad_key": (PYATTN_GRAD_KEY, 2), "grad_value": (PYATTN_GRAD_VALUE, 2), "grad_bias": (PYATTN_GRAD_BIAS, 2),
    "grad_slopes": (PYATTN_GRAD_SLOPES, 1),
}


cdef void begin_call_of(Call *call, const pyattn_kernels *kernels, Py_ssize_t heads, Py_ssize_t key_heads) noexcept:
    """A call without operands, and without numbers."""
    memset(call, 0, sizeof(Call))
    call.kernels = kernels
    call.heads, call.key_heads = heads, key_heads
    call.shared.mask_kind = PYATTN_MASK_NONE
    call.rows[PYATTN_KEY] = call.rows[PYATTN_VALUE] = call.rows[PYATTN_COLUMN_SUMS] = KEY_ROWS
    call.rows[PYATTN_GRAD_KEY] = call.rows[PYATTN_GRAD_VALUE] = KEY_ROWS
    call.rows[PYATTN_KEY_SCALES] = call.rows[PYATTN_VALUE_SCALES] = KEY_ROWS
    call.rows[PYATTN_KV_LENGTHS] = call.rows[PYATTN_QUERY_OFFSET] = SEQUENCE_ROWS


cdef void set_window(Call *call, Py_ssize_t left, Py_ssize_t right) noexcept:
    """How many keys a query sees on both sides of its position; -1 for all."""
    call.shared.left = UNBOUNDED if left < 0 else min(left, <Py_ssize_t> UNBOUNDED)
    call.shared.right = UNBOUNDED if right < 0 else min(right, <Py_ssize_t> UNBOUNDED)


cdef void bind_array(Call *call, int operand, int trailing, cnp.ndarray array, bint packed) noexcept:
    """Gives a call an operand, which lives until the call has run; packed: sequences are parts of one array.

    trailing: how many axes follow those of batch and heads, -1 where there are no heads either.
    """
    cdef int ndim = array.ndim
    cdef const cnp.npy_intp *strides = cnp.PyArray_STRIDES(array)
    cdef Py_ssize_t head = 0, row = 0, column = 0
    if trailing < 0:
        row = strides[ndim - 1] if packed else 0
    else:
        column = strides[ndim - 1] if trailing == 2 else 0
        row = strides[ndim - trailing] if trailing > 0 else 0
        head = strides[ndim - trailing - 1] if ndim > trailing else 0
    bind(call, operand, data_of(array), head, row, column, <const Py_ssize_t *> strides)
    if operand == PYATTN_MASK:
        call.shared.mask_kind = PYATTN_MASK_BOOL if cnp.PyArray_TYPE(array) == cnp.NPY_BOOL else PYATTN_MASK_REAL
    elif operand == PYATTN_VALUE:
        call.shared.value_width = cnp.PyArray_DIMS(array)[ndim - 1]
    elif operand == PYATTN_TOP_KEYS:
        call.shared.top_k = cnp.PyArray_DIMS(array)[ndim - 1]
    if operand == PYATTN_WEIGHTS or operand == PYATTN_ENTROPY or operand == PYATTN_TOP_KEYS:
        call.second_pass = True


cdef class AttentionCall:
    """Attention of query (..., H, L, D) to key (..., Hkv, S, D) and value (..., Hkv, S, Dv), or (L, D) without heads.

    Arrays are of any strides, and are trusted: pyattn._checks.attention_call makes calls of what users give. value may
    be None: only statistics are computed. To float32 queries, keys and values may be int8, whose scales are bound then.
    With cu_seqlens_q and cu_seqlens_k, contiguous int64 (sequences + 1,), query is (H, total L, D) and sequence i is
    rows cu_seqlens_q[i] ... cu_seqlens_q[i + 1] of it against those rows of keys.
    """

    def __init__(
        self, cnp.ndarray query not None, cnp.ndarray key not None, cnp.ndarray value=None, *,
        cnp.ndarray cu_seqlens_q=None, cnp.ndarray cu_seqlens_k=None,
    ):
        cdef int ndim = query.ndim, dtype = cnp.PyArray_TYPE(query)
        cdef const cnp.npy_intp *shape = cnp.PyArray_DIMS(query)
        cdef bint has_heads = ndim > 2
        cdef const pyattn_kernels *kernels
        if cnp.PyArray_ITEMSIZE(query) == 2 and dtype != cnp.NPY_FLOAT16:
            dtype = cnp.NPY_UINT16  # the bits of bfloat16, which NumPy does not know
        kernels = kernels_of_int8_keys() if cnp.PyArray_TYPE(key) == cnp.NPY_INT8 else kernels_of(dtype)
        begin_call_of(&self.call, kernels, shape[ndim - 3] if has_heads else 1,
                      cnp.PyArray_DIMS(key)[ndim - 3] if has_heads else 1)
        self.operands = {}
        self.call.batch_axes = ndim - 3 if has_heads else 0
        self.call.batch_shape = <const Py_ssize_t *> shape
        self.call.shared.width = shape[ndim - 1]
        if cu_seqlens_q is not None:
            self.operands["cu_seqlens"] = cu_seqlens_q, cu_seqlens_k
            self.call.sequences = cu_seqlens_q.shape[0] - 1
            self.call.cu_seqlens_q = <const int64_t *> data_of(cu_seqlens_q)
            self.call.cu_seqlens_k = <const int64_t *> data_of(cu_seqlens_k)
        else:
            self.cu_seqlens[0] = self.cu_seqlens[2] = 0
            self.cu_seqlens[1], self.cu_seqlens[3] = shape[ndim - 2], cnp.PyArray_DIMS(key)[ndim - 2]
            self.call.sequences = 1
            self.call.cu_seqlens_q, self.call.cu_seqlens_k = &self.cu_seqlens[0], &self.cu_seqlens[2]
        self.call.sum_to = shape[ndim - 2]
        self.bind("query", query)
        self.bind("key", key)
        if value is not None:
            self.bind("value", value)

    def bind(self, str name not None, cnp.ndarray array not None):
        """Gives the call an operand, whose leading axes are the query's.

        Read: key_scales and value_scales (..., Hkv, S), float32; mask (..., H, L, S), boolean or of query's dtype; bias
        (..., H, L, S); alibi_slopes and sinks (..., H) of the compute type, which is float64 for float64 and otherwise
        float32; kv_lengths and query_offset, int64, (...) or, packed, (sequences,).

        Written: out (..., H, L, Dv); lse, max and entropy (..., H, L) of the compute type; weights (..., H, L, S),
        which are zeros before; top_keys int64 and top_weights (..., H, L, k); column_sums (..., H, S) of the compute
        type, which need moments (..., H, L, 2) of it.
        """
        operand, trailing = NAMES[name]
        bind_array(&self.call, operand, trailing, array, "cu_seqlens" in self.operands)
        self.operands[name] = array

    def bind_csr(self, cnp.ndarray indptr not None, cnp.ndarray indices not None, cnp.ndarray data=None):
        """The mask in sparse form: contiguous indptr int64 (L + 1,), indices int32, and a bias for each or None."""
        self.call.indptr, self.call.indices = <const int64_t *> data_of(indptr), <const int32_t *> data_of(indices)
        self.call.index_bias = data_of(data)
        self.call.shared.index_bias = data is not None
        self.operands["csr"] = indptr, indices, data

    def set_numbers(self, double scale, double softcap, Py_ssize_t left, Py_ssize_t right):
        """softcap: 0 for none. left, right: how many keys a query sees before and after its position; -1 for all."""
        self.call.shared.scale, self.call.shared.softcap = scale, softcap
        set_window(&self.call, left, right)

    def set_dropout(self, double probability, uint64_t seed):
        """Weights are dropped with that probability, as the seed decides."""
        self.call.shared.dropout, self.call.shared.dropout_seed = probability, seed

    @property
    def scale(self):
        return self.call.shared.scale

    def sum_queries(self, Py_ssize_t first, Py_ssize_t end):
        """The queries that column_sums are over; all without this."""
        self.call.sum_from, self.call.sum_to = first, end

    def start_at(self, Py_ssize_t first):
        """Queries follow so many others: query_offset, which is bound, counts from these, and so does dropout."""
        self.call.first_query = first

    def of_queries(self, Py_ssize_t first, Py_ssize_t end):
        """The call for queries first ... end of the only sequence alone, whose query_offset is bound."""
        cdef AttentionCall part = AttentionCall.__new__(AttentionCall)
        cdef int i
        part.call = self.call
        part.operands = self.operands.copy()
        part.cu_seqlens[0] = part.cu_seqlens[2] = 0
        part.cu_seqlens[1], part.cu_seqlens[3] = end - first, self.cu_seqlens[3]
        part.call.cu_seqlens_q, part.call.cu_seqlens_k = &part.cu_seqlens[0], &part.cu_seqlens[2]
        part.call.first_query += first
        if part.call.indptr != NULL:
            part.call.indptr += first
        part.call.sum_to = end - first
        for i in range(PYATTN_OPERANDS):
            if part.call.rows[i] == QUERY_ROWS and part.call.shared.operands[i].data != NULL:
                part.call.shared.operands[i].data += first * part.call.shared.operands[i].row
        return part

    def run(self, threads_for, **results):
        """Writes results, bound to this run alone of several, on threads_for(floating-point operations) at most."""
        cdef Call call = self.call
        for name, array in results.items():
            operand, trailing = NAMES[name]
            bind_array(&call, operand, trailing, array, "cu_seqlens" in self.operands)
        run_attention(&call, threads_for(operations(&call)))

    @property
    def has_gradients(self):
        """Whether there are gradients of the query's type; else they are those of copies of another."""
        return self.call.kernels.gradient_bytes != NULL

    def run_gradients(self, threads_for, **arrays):
        """Writes gradients, bound to this run alone, given grad_out, out and lse, and grad_lse if there is one.

        grad_query (..., H, L, D), grad_key (..., Hkv, S, D) and grad_value (..., Hkv, S, Dv), whose rows lie one after
        the other in each head; or grad_bias (..., H, L, S), zeros before, where strides of 0 sum over an axis, and
        grad_slopes (..., H, L), zeros before, both of the compute type. The others are of query's dtype, with columns
        side by side and widths of whole vectors. No mask is sparse.
        """
        cdef Call call = self.call
        for name, array in arrays.items():
            operand, trailing = NAMES[name]
            bind_array(&call, operand, trailing, array, "cu_seqlens" in self.operands)
        run_gradients(&call, threads_for(2.5 * operations(&call)))
