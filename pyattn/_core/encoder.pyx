"""Layers of an encoder, each one call. Arguments are trusted; what they mean is said where layers/ makes them.

Rows stand in a contiguous array (n, E). `threads` are the most that an operation uses, one where it is of fewer than
`small` floating-point operations.
"""

cimport numpy as cnp

from pyattn._core.attention import WIDTH_BLOCK, attention
from pyattn._core.linear cimport Packed, linear
from pyattn._core.rowwise cimport gate, layer_norm, rotate

cnp.import_array()

cdef Py_ssize_t MOST_WIDTH = WIDTH_BLOCK

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


cdef turn(cnp.ndarray rows, tuple rotation, const Team *team):
    cdef cnp.ndarray positions, cosines, sines
    positions, cosines, sines = rotation
    rotate(rows, positions, cosines, sines, team_for(team, 4.0 * rows.shape[0] * rows.shape[1]))


cdef cnp.ndarray attended(
    list inputs, list projections, Packed out_proj, cnp.ndarray residual, cnp.ndarray out, int heads, Py_ssize_t batch,
    cnp.ndarray query_starts, cnp.ndarray key_starts, dict options, tuple query_rotation, tuple key_rotation,
    Workspace workspace, const Team *team,
):
    cdef cnp.ndarray rows = inputs[0], together, keys, values
    cdef cnp.ndarray query, key, value, result
    cdef Py_ssize_t n = rows.shape[0], width = out_proj.inputs, head = width // heads, at = 0, values_at = 0, first
    cdef Packed projection
    cdef list parts
    cdef int kind = kind_for(out_proj), buffer
    if len(inputs) == 1:
        together = keys = values = workspace.rows(PROJECTED, kind, n, 3 * width)
        at, values_at = width, 2 * width
        linear(rows, projections, None, together, 0, team_for(team, 6.0 * rows.size * width))
        if query_rotation is not None:
            turn(view(together, 0, n, 0, 2 * width), query_rotation, team)
    else:
        parts = []
        for buffer, rows, projection in zip((PROJECTED, KEYS, VALUES), inputs, projections):
            together = workspace.rows(buffer, kind, rows.shape[0], width)
            linear(rows, [projection], None, together, 0, team_for(team, 2.0 * rows.size * width))
            parts.append(together)
        together, keys, values = parts
        if query_rotation is not None:
            turn(together, query_rotation, team)
            turn(keys, key_rotation, team)
    cdef cnp.ndarray sums = workspace.rows(ATTENDED, kind, n, width)
    query = heads_of(together, 0, batch, heads, head)
    key = heads_of(keys, at, batch, heads, head)
    value = heads_of(values, values_at, batch, heads, head)
    result = heads_of(sums, 0, batch, heads, head)
    cdef double pairs = 1.0 * n * heads * (keys.shape[0] // max(1, batch) // max(1, key_starts.shape[0] - 1))
    for first in range(0, head, MOST_WIDTH):
        if head > MOST_WIDTH:
            value = heads_of(values, values_at, batch, heads, head)[..., first:first + MOST_WIDTH]
            result = heads_of(sums, 0, batch, heads, head)[..., first:first + MOST_WIDTH]
        attention(
            query, key, value, result, query_starts=query_starts, key_starts=key_starts,
            threads=team_for(team, 4.0 * pairs * head), **options,
        )
    linear(sums, [out_proj], residual, out, 0, team_for(team, 2.0 * sums.size * width))
    return out


def multi_head_attention(
    list inputs not None, list projections not None, Packed out_proj not None, int heads, Py_ssize_t batch,
    cnp.ndarray query_starts not None, cnp.ndarray key_starts not None, dict options not None, tuple query_rotation,
    tuple key_rotation, int threads, double small,
):
    """Attention of inputs [x] to itself, or [query, key, value], projected; new rows of reals.

    Rows are `batch` times the sequences that the starts describe; options are attention's. A rotation is (positions,
    cosines, sines), as rowwise.rotate takes them, or None.
    """
    cdef Team team = Team(threads, small)
    cdef cnp.ndarray query = inputs[0]
    cdef cnp.npy_intp shape[2]
    shape[0], shape[1] = query.shape[0], out_proj.outputs
    cdef cnp.ndarray out = cnp.PyArray_EMPTY(2, shape, cnp.PyArray_TYPE(query), 0)
    return attended(inputs, projections, out_proj, None, out, heads, batch, query_starts, key_starts, options,
                    query_rotation, key_rotation, Workspace(), &team)


cdef normalise(cnp.ndarray x, tuple norm, cnp.ndarray out, const Team *team):
    """norm is (weight, bias or None, eps)."""
    cdef cnp.ndarray weight, bias
    weight, bias, eps = norm
    layer_norm(x, weight, bias, out, eps, team_for(team, 10.0 * x.size))


def encoder_layer(
    cnp.ndarray x not None, cnp.ndarray out not None, list projections not None, Packed out_proj not None,
    Packed linear1 not None, Packed linear2 not None, tuple norm1, tuple norm2 not None, bint norm_first,
    int activation, bint gated, int heads, Py_ssize_t batch, cnp.ndarray starts not None, dict options not None,
    tuple rotation, Workspace workspace not None, int threads, double small,
):
    """Self-attention and a feed-forward block of rows x into out, another array like it.

    Norms are (weight, bias or None, eps), norm1 None for none; the rest is as in multi_head_attention. gated: linear1
    makes two halves, and linear2 reads activation(first) * second.
    """
    cdef Team team = Team(threads, small)
    cdef cnp.ndarray fed = x, normed = None, hidden, both, part, into
    cdef Py_ssize_t n = x.shape[0], width = x.shape[1], inner = linear2.inputs, first, count, parts
    cdef int kind = kind_for(linear2)
    if norm_first:
        normed = workspace.rows(NORMED, cnp.PyArray_TYPE(x), n, width)
    if norm_first and norm1 is not None:
        fed = normed
        normalise(x, norm1, fed, &team)
    attended([fed], projections, out_proj, x, out, heads, batch, starts, starts, options, rotation, rotation, workspace,
             &team)
    if norm_first:
        fed = normed
        normalise(out, norm2, fed, &team)
    else:
        if norm1 is not None:
            normalise(out, norm1, out, &team)
        fed = out
    parts = max(<Py_ssize_t> 1, (n + FEED_FORWARD_ROWS * threads // 2) // (FEED_FORWARD_ROWS * threads))
    count = (n + parts - 1) // parts
    hidden = both = workspace.rows(HIDDEN, kind, count, inner)
    if gated:
        both = workspace.rows(GATES, kind, count, 2 * inner)
    for first in range(0, n, max(<Py_ssize_t> 1, count)):
        count = min(count, n - first)
        part, into = view(both, 0, count, 0, both.shape[1]), view(hidden, 0, count, 0, inner)
        linear(view(fed, first, count, 0, width), [linear1], None, part, 0 if gated else activation,
               team_for(&team, 2.0 * count * width * linear1.outputs))
        if gated:
            gate(part, into, activation, team_for(&team, 20.0 * count * inner))
        part = view(out, first, count, 0, width)
        linear(into, [linear2], part, part, 0, team_for(&team, 2.0 * count * width * inner))
    if not norm_first:
        normalise(out, norm2, out, &team)
