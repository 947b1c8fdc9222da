"""Drives the kernels that run along rows. Arguments are trusted: rows contiguous, of one dtype, checked by the callers.

cu_seqlens, int64 (sequences + 1,), says where packed sequences start and end, as parts of rows.

A norm's sizes are not: it is a part of layers that may be replaced by one that does not fit.
"""

cimport numpy as cnp
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, memset

import numpy as np

from pyattn._core.runtime cimport begin_call, end_call, kernels_of, run
from pyattn._core.kernels cimport PYATTN_GELU, PYATTN_GELU_TANH, PYATTN_IDENTITY, PYATTN_RELU, PYATTN_SILU
from pyattn._core.rows cimport Rows, bytes_of, contiguous, data_of, rows_of

cnp.import_array()

cdef enum:
    ELEMENTS = 16384  # of a task
    MAX_TABLES = 3

ACTIVATIONS = {
    None: PYATTN_IDENTITY, "relu": PYATTN_RELU, "gelu": PYATTN_GELU, "gelu_tanh": PYATTN_GELU_TANH, "silu": PYATTN_SILU,
}


cdef struct EachRow:
    row_function function
    const RowTask *task


cdef void row_turn(const void *context, Py_ssize_t row, int thread) noexcept nogil:
    cdef const EachRow *each = <const EachRow *> context
    each.function(each.task, row)


cdef void each_row(
    row_function function, const RowTask *task, Py_ssize_t count, Py_ssize_t width, int threads
) noexcept:
    cdef Py_ssize_t piece = max(<Py_ssize_t> 1, ELEMENTS // max(<Py_ssize_t> 1, width))
    cdef EachRow each
    each.function, each.task = function, task
    cdef int team = begin_call(threads)
    with nogil:
        run(team, count, piece, row_turn, &each)
    end_call()


cdef RowTask task_of(const Rows *input, const Rows *out, const void *parameters) except *:
    cdef RowTask task
    task.kernels = kernels_of(out.dtype)
    task.input, task.out, task.parameters = input[0], out[0], parameters
    return task


cdef int check_part(cnp.ndarray part, Py_ssize_t width, int dtype, bint centred) except -1:
    """Refuses a norm's weight or bias that is not of rows' features; None is fine."""
    if part is not None and (part.shape[0] != width or cnp.PyArray_TYPE(part) != dtype):
        name = "LayerNorm" if centred else "RMSNorm"
        raise ValueError(f"{name}: a norm of {part.shape[0]} {part.dtype} does not fit rows of {width} "
                         f"{cnp.PyArray_DescrFromType(dtype)}")


cdef struct Norm:  # of parts of a row, each by itself
    const char *weight
    const char *bias
    double eps
    bint centred
    Py_ssize_t parts, width


cdef void normalise_row(const RowTask *task, Py_ssize_t row) noexcept nogil:
    cdef const Norm *norm = <const Norm *> task.parameters
    cdef Py_ssize_t i, stride = norm.width * task.kernels.real_bytes
    for i in range(norm.parts):
        task.kernels.normalise_row(
            task.input.data + row * task.input.stride + i * stride, norm.weight, norm.bias,
            task.out.data + row * task.out.stride + i * stride, norm.width, norm.eps, norm.centred,
        )


cdef int normalise_rows(
    const Rows *input, cnp.ndarray weight, cnp.ndarray bias, double eps, bint centred, const Rows *out,
    Py_ssize_t heads, int threads,
) except -1:
    cdef Norm norm = Norm(data_of(weight), data_of(bias), eps, centred, heads, input.width // heads)
    cdef RowTask task = task_of(input, out, &norm)
    check_part(weight, norm.width, input.dtype, centred)
    check_part(bias, norm.width, input.dtype, centred)
    each_row(normalise_row, &task, input.count, input.width, threads)


def normalise(
    cnp.ndarray input not None, cnp.ndarray weight, cnp.ndarray bias, cnp.ndarray out not None, double eps,
    bint centred, int threads,
):
    """Normalises rows of input (rows, width), centred ones less their mean, by weight and bias (width,), which may be
    None, into out, which may be input."""
    cdef Rows read = rows_of(input), written = rows_of(out)
    normalise_rows(&read, weight, bias, eps, centred, &written, 1, threads)


cdef void gate_row(const RowTask *task, Py_ssize_t row) noexcept nogil:
    task.kernels.gate(task.input.data + row * task.input.stride, task.out.data + row * task.out.stride, task.out.width,
                      (<const int *> task.parameters)[0])


cdef int gate_rows(const Rows *input, const Rows *out, int activation, int threads) except -1:
    cdef RowTask task = task_of(input, out, &activation)
    each_row(gate_row, &task, out.count, out.width, threads)


cdef struct Branch:
    const Rows *rows
    double scale


cdef void add_scaled_row(const RowTask *task, Py_ssize_t row) noexcept nogil:
    cdef const Branch *branch = <const Branch *> task.parameters
    cdef const char *x = task.input.data + row * task.input.stride
    cdef const char *added = branch.rows.data + row * branch.rows.stride
    cdef char *out = task.out.data + row * task.out.stride
    cdef float scale = <float> branch.scale
    cdef Py_ssize_t i
    if task.out.dtype == cnp.NPY_FLOAT32:
        for i in range(task.out.width):
            (<float *> out)[i] = (<const float *> x)[i] + scale * (<const float *> added)[i]
    else:
        for i in range(task.out.width):
            (<double *> out)[i] = (<const double *> x)[i] + branch.scale * (<const double *> added)[i]


cdef int add_scaled(const Rows *x, const Rows *branch, double scale, const Rows *out, int threads) except -1:
    cdef Branch scaled = Branch(branch, scale)
    cdef RowTask task = task_of(x, out, &scaled)
    each_row(add_scaled_row, &task, branch.count, out.width, threads)


cdef void activate_part(const RowTask *task, Py_ssize_t part) noexcept nogil:
    cdef Py_ssize_t first = part * ELEMENTS, offset = first * task.kernels.real_bytes
    task.kernels.activate(
        task.input.data + offset, task.out.data + offset, min(task.out.width - first, <Py_ssize_t> ELEMENTS),
        (<const int *> task.parameters)[0],
    )


def activate(cnp.ndarray input not None, cnp.ndarray out not None, int activation, int threads):
    """Applies an activation to each element of a contiguous input; out may be input."""
    cdef Rows read = contiguous(cnp.PyArray_DATA(input), 1, input.size, cnp.PyArray_TYPE(input))
    cdef Rows written = contiguous(cnp.PyArray_DATA(out), 1, out.size, cnp.PyArray_TYPE(out))
    cdef RowTask task = task_of(&read, &written, &activation)
    cdef Py_ssize_t parts = (out.size + ELEMENTS - 1) // ELEMENTS
    each_row(activate_part, &task, parts, ELEMENTS, threads)


cdef struct Dropout:
    const Rows *grad  # NULL in the forward pass
    uint64_t seed
    double probability
    int activation


cdef void drop_row(const RowTask *task, Py_ssize_t row) noexcept nogil:
    cdef const Dropout *dropout = <const Dropout *> task.parameters
    task.kernels.drop(
        task.input.data + row * task.input.stride,
        dropout.grad.data + row * dropout.grad.stride if dropout.grad != NULL else NULL,
        task.out.data + row * task.out.stride, task.out.width, dropout.seed, row, dropout.probability,
        dropout.activation,
    )


def drop(
    cnp.ndarray input not None, cnp.ndarray grad, cnp.ndarray out not None, uint64_t seed, double probability,
    int activation, int threads,
):
    """Dropout of the activation of rows (n, width) into out; or, of the gradient of that, the gradient of input.

    The same numbers are dropped for the same seed, row and column: pyattn.reference.kept_pairs of (n, width).
    """
    cdef Rows read = rows_of(input), written = rows_of(out), gradient
    cdef Dropout dropout = Dropout(NULL, seed, probability, activation)
    if grad is not None:
        gradient = rows_of(grad)
        dropout.grad = &gradient
    cdef RowTask task = task_of(&read, &written, &dropout)
    each_row(drop_row, &task, written.count, written.width, threads)


cdef struct Rotation:
    const int64_t *positions  # of each row
    const char *cosines  # (positions, half) of compute type
    const char *sines
    Py_ssize_t half, heads, stride, table  # stride, table: bytes of a head, and of a row of a table
    bint interleaved


cdef void rotate_row(const RowTask *task, Py_ssize_t row) noexcept nogil:
    cdef const Rotation *rotation = <const Rotation *> task.parameters
    cdef Py_ssize_t place = rotation.positions[row] * rotation.table
    task.kernels.rotate(task.out.data + row * task.out.stride, rotation.cosines + place, rotation.sines + place,
                        rotation.heads, rotation.stride, rotation.half, rotation.interleaved)


cdef int rotate_rows(
    const Rows *rows, cnp.ndarray positions, cnp.ndarray cosines, cnp.ndarray sines, Py_ssize_t head_width,
    bint interleaved, int threads,
) except -1:
    cdef Rotation rotation
    cdef RowTask task = task_of(rows, rows, &rotation)
    rotation.positions = <const int64_t *> data_of(positions)
    rotation.cosines, rotation.sines = data_of(cosines), data_of(sines)
    rotation.half, rotation.interleaved = cnp.PyArray_DIMS(cosines)[1], interleaved
    rotation.heads, rotation.stride = rows.width // max(<Py_ssize_t> 1, head_width), head_width * bytes_of(rows.dtype)
    rotation.table = rotation.half * task.kernels.real_bytes
    each_row(rotate_row, &task, rows.count, rows.width, threads)


def rotate(
    cnp.ndarray rows not None, cnp.ndarray positions not None, cnp.ndarray cosines not None,
    cnp.ndarray sines not None, int threads, Py_ssize_t head_width, bint interleaved=False,
):
    """Rotates the first 2 half features of heads by the angles of their positions.

    Heads stand side by side in rows (n, heads head_width), each row contiguous; head_width is 2 half or more.
    positions (n,) int64 are rows of cosines and sines, contiguous (positions, half) of the compute type; rows of uint16
    are bits of bfloat16. interleaved: features 2 i and 2 i + 1 are a pair, else i and i + half.
    """
    cdef Rows rotated = rows_of(rows)
    rotate_rows(&rotated, positions, cosines, sines, head_width, interleaved, threads)


cdef struct Tables:
    const char *rows[MAX_TABLES]
    const int64_t *indices[MAX_TABLES]
    int count


cdef void embed_row(const RowTask *task, Py_ssize_t row) noexcept nogil:
    cdef const Tables *tables = <const Tables *> task.parameters
    cdef char *out = task.out.data + row * task.out.stride
    cdef int t
    memcpy(out, tables.rows[0] + tables.indices[0][row] * task.out.stride, task.out.stride)
    for t in range(1, tables.count):
        task.kernels.add_row(tables.rows[t] + tables.indices[t][row] * task.out.stride, out, task.out.width)


def embed(list tables not None, list indices not None, cnp.ndarray out not None, int threads):
    """out (n, width) = the sum of row indices[t][i] of each table t, in their order.

    Raises ValueError unless there are 1 to MAX_TABLES tables (rows, width), contiguous and of the dtype of out, and
    indices are contiguous int64 (n,), of rows: a model's configuration and embeddings are public and may be replaced.
    """
    cdef Rows written = rows_of(out)
    cdef Py_ssize_t n = written.count, width = written.width, i, rows
    cdef Tables read
    cdef RowTask task = task_of(&written, &written, &read)
    cdef cnp.ndarray array
    cdef int t
    if not 1 <= len(tables) <= MAX_TABLES or len(indices) != len(tables):
        raise ValueError(f"embeddings: there are {len(tables)} tables and {len(indices)} arrays of indices; 1 to "
                         f"{MAX_TABLES} tables, and as many arrays, are needed")
    read.count = len(tables)
    for t in range(read.count):
        array = tables[t]
        if array.ndim != 2 or array.shape[1] != width or array.dtype != out.dtype or \
                not cnp.PyArray_IS_C_CONTIGUOUS(array):
            raise ValueError(f"embeddings: a table is {array.dtype} {(<object> array).shape}; {out.dtype} "
                             f"(rows, {width}) is needed; the model's embeddings were replaced")
        read.rows[t] = <const char *> cnp.PyArray_DATA(array)
        rows = array.shape[0]
        array = indices[t]
        if array.ndim != 1 or array.shape[0] != n or cnp.PyArray_TYPE(array) != cnp.NPY_INT64 or \
                not cnp.PyArray_IS_C_CONTIGUOUS(array):
            raise ValueError(f"embeddings: indices are {array.dtype} {(<object> array).shape}; int64 ({n},) is needed")
        read.indices[t] = <const int64_t *> cnp.PyArray_DATA(array)
        for i in range(n):
            if read.indices[t][i] < 0 or read.indices[t][i] >= rows:
                raise ValueError(f"embeddings: row {read.indices[t][i]} of a table of {rows} is needed; the model's "
                                 f"configuration or embeddings were replaced")
    each_row(embed_row, &task, n, width, threads)


def longest(cnp.ndarray cu_seqlens not None):
    """The most rows of a sequence."""
    cdef const int64_t *start = <const int64_t *> cnp.PyArray_DATA(cu_seqlens)
    cdef Py_ssize_t i, result = 0
    for i in range(cu_seqlens.shape[0] - 1):
        result = max(result, start[i + 1] - start[i])
    return result


def positions(cnp.ndarray cu_seqlens not None, Py_ssize_t batch):
    """The place of each row in its sequence, for `batch` times the sequences that cu_seqlens describes."""
    cdef Py_ssize_t sequences = cu_seqlens.shape[0] - 1, i, j, _sample
    cdef const int64_t *start = <const int64_t *> cnp.PyArray_DATA(cu_seqlens)
    cdef Py_ssize_t total = start[sequences]
    cdef cnp.ndarray result = np.empty(batch * total, np.int64)
    cdef int64_t *place = <int64_t *> cnp.PyArray_DATA(result)
    with nogil:
        for _sample in range(batch):
            for i in range(sequences):
                for j in range(start[i + 1] - start[i]):
                    place[start[i] + j] = j
            place += total
    return result


cdef void sum_sequence(const RowTask *task, Py_ssize_t number) noexcept nogil:
    cdef const int64_t *start = <const int64_t *> task.parameters
    cdef char *out = task.out.data + number * task.out.stride
    cdef Py_ssize_t j
    memset(out, 0, task.out.stride)
    for j in range(start[number], start[number + 1]):
        task.kernels.add_row(task.input.data + j * task.input.stride, out, task.out.width)


def sum_sequences(cnp.ndarray rows not None, cnp.ndarray cu_seqlens not None, cnp.ndarray out not None, int threads):
    """out (sequences, width) = the sum of rows cu_seqlens[i] ... cu_seqlens[i + 1], in order; 0 of none. Contiguous."""
    cdef RowTask task
    task.kernels = kernels_of(cnp.PyArray_TYPE(rows))
    task.input, task.out, task.parameters = rows_of(rows), rows_of(out), cnp.PyArray_DATA(cu_seqlens)
    each_row(sum_sequence, &task, out.shape[0], rows.size // max(<Py_ssize_t> 1, out.shape[0]), threads)
