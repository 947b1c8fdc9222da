"""Drives the packed matmul over blocks of rows and panels of output features.

Arguments are trusted but for their sizes: a layer's parts are public, and so may be replaced by others that do not fit.
"""

cimport numpy as cnp
from libc.stdlib cimport free, malloc
from libc.string cimport memset

import numpy as np

from pyattn._core.runtime cimport (
    Watch, begin_call, begin_watch, end_call, kernels_of, no_scratch, raise_error, run, stopped,
)
from pyattn._core.kernels cimport (
    PYATTN_ALIGNMENT, PYATTN_FLOAT16, PYATTN_FLOAT32, pyattn_kernels, pyattn_linear, pyattn_packed_rows, pyattn_weight,
)
from pyattn._core.memory cimport Memory
from pyattn._core.rows cimport MAX_BYTES, Rows, bytes_of, data_of, rows_of

cnp.import_array()

cdef enum:
    MAX_TILE_ROWS = 32
    TASK_ROWS = 48
    PACKED_ROWS = 4  # at once, by a thread
    FEW_INPUTS = 16384  # are packed sooner than another thread has come
    MAX_PANEL = 256  # outputs that packing may add, of padding
    MAX_GROUP = 4  # and inputs
    FEW_ROWS = 16  # take all tiles through a panel before the next
    CACHED = 655360  # bytes of panels that a task multiplies with each tile of rows: they stay in second-level cache


cdef class Packed:  # linear.pxd names its fields
    """A weight (outputs, inputs) as tiles read it, with its bias (outputs,) of the compute type or None.

    The weight, of any strides, is of float32, float64, uint16 (the bits of bfloat16) or int8; the last is multiplied by
    scales (outputs,), float32. A float32 weight whose values are all representable in 16 bits is stored in these,
    unless narrow is false.
    """
    def __init__(self, cnp.ndarray weight not None, cnp.ndarray bias=None, cnp.ndarray scales=None, bint narrow=True):
        if weight.ndim != 2:
            raise ValueError(f"Linear: a weight has two axes, not {weight.ndim}")
        cdef Py_ssize_t outputs = weight.shape[0], inputs = weight.shape[1], size
        self.kernels = kernels_of(cnp.PyArray_TYPE(weight))
        self.dtype = weight.dtype
        self.bias = bias
        if (outputs + MAX_PANEL) * 8.0 * (inputs + MAX_GROUP) > MAX_BYTES:
            raise MemoryError(f"Linear: no memory holds a weight ({outputs}, {inputs})")
        check_vector("bias", bias, outputs, np.float64 if self.kernels.real_bytes == 8 else np.float32)
        check_vector("scales", scales, outputs, np.float32)
        if (scales is None) != (weight.dtype != np.int8):
            raise ValueError(f"Linear: scales are for int8, and needed there; the weight is {weight.dtype}")
        cdef const char *elements = data_of(weight)
        cdef Py_ssize_t row = cnp.PyArray_STRIDES(weight)[0], column = cnp.PyArray_STRIDES(weight)[1]
        cdef int format = PYATTN_FLOAT32
        if narrow or weight.dtype != np.float32:
            size = self.kernels.linear_packed_bytes(outputs, inputs, PYATTN_FLOAT16)
            np.empty(size, np.uint8)  # what no memory holds is refused before each value is looked at
            with nogil:
                format = self.kernels.linear_format(elements, row, column, outputs, inputs)
        size = self.kernels.linear_packed_bytes(outputs, inputs, format)
        self.memory = Memory(size)
        cdef char *packed = self.memory.data
        self.weight = pyattn_weight(packed=packed, bias=data_of(bias), outputs=outputs, inputs=inputs, format=format)
        cdef const float *scale = <const float *> data_of(scales)
        with nogil:
            self.kernels.linear_pack(&self.weight, elements, row, column, scale, packed)

    @property
    def format(self):
        """How the weight is stored, as kernels.h numbers it."""
        return self.weight.format

    def unpack(self):
        """The weight, and the scales or None."""
        cdef cnp.ndarray weight = np.empty((self.weight.outputs, self.weight.inputs), self.dtype), scales = None
        if self.dtype == np.int8:
            scales = np.empty(self.weight.outputs, np.float32)
        cdef float *scale = <float *> data_of(scales)
        with nogil:
            self.kernels.linear_unpack(&self.weight, <char *> cnp.PyArray_DATA(weight), scale)
        return weight, scales


cdef int check_vector(str name, cnp.ndarray x, Py_ssize_t size, dtype) except -1:
    """Refuses what a kernel would read as so many contiguous elements of dtype, but is something else; None is fine."""
    if x is not None and (x.ndim != 1 or x.shape[0] != size or x.dtype != dtype or not cnp.PyArray_IS_C_CONTIGUOUS(x)):
        raise ValueError(f"Linear: {name} of {size} outputs must be contiguous {np.dtype(dtype)} ({size},), "
                         f"not {x.dtype} {(<object> x).shape}")


cdef int join(list parts, Weights *weights) except -1:
    cdef Packed first = parts[0], part
    cdef bint fits = len(parts) <= MAX_PARTS
    memset(weights, 0, sizeof(Weights))
    weights.kernels = first.kernels
    weights.inputs = first.weight.inputs
    weights.element_dtype = (<cnp.dtype> first.dtype).type_num
    weights.compute_dtype = cnp.NPY_FLOAT32 if first.kernels.real_bytes == 4 else cnp.NPY_FLOAT64
    weights.operand_dtype = cnp.NPY_UINT16 if first.dtype.itemsize < 4 else weights.compute_dtype
    for part in parts:
        fits = fits and part.kernels == first.kernels and part.weight.inputs == weights.inputs
        if fits:
            weights.parts[weights.count] = part.weight
            weights.count += 1
            weights.outputs += part.weight.outputs
    if not fits:
        sizes = [((<Packed> x).weight.outputs, (<Packed> x).weight.inputs) for x in parts]
        listed = ", ".join([f"{x.dtype} {size}" for x, size in zip(parts, sizes)])
        raise ValueError(f"Linear: weights {listed} do not read the same inputs, or are more than {MAX_PARTS}")


cdef bint fits(const Weights *weights, const Rows *input, const Rows *residual, const Rows *out) noexcept:
    """Whether rows are such as the weights were made for."""
    cdef int compute = weights.compute_dtype, operand = weights.operand_dtype
    return (
        input.width == weights.inputs and (input.dtype == compute or input.dtype == operand)
        and out.width == weights.outputs and (out.dtype == compute or out.dtype == operand) and out.count == input.count
        and (residual == NULL or residual.dtype == compute)
        and (residual == NULL or residual.count == out.count and residual.width == out.width)
    )


cdef object misfit(const Weights *weights, const Rows *input, const Rows *out):
    weight, read, written = [cnp.PyArray_DescrFromType(t) for t in (weights.element_dtype, input.dtype, out.dtype)]
    listed = ", ".join([
        f"{weight} ({weights.parts[i].outputs}, {weights.parts[i].inputs})" for i in range(weights.count)
    ])
    return ValueError(f"Linear: a weight {listed} does not make {written} ({input.count}, {out.width}) of {read} "
                      f"({input.count}, {input.width})")


cdef struct Job:
    const Weights *weights
    pyattn_linear parts[MAX_PARTS]
    Py_ssize_t first_panel[MAX_PARTS + 1]
    Py_ssize_t groups, blocks  # tasks: groups of panels x blocks of rows, which are so many tiles of rows
    Py_ssize_t tiles
    const char *input
    Py_ssize_t rows, input_row
    Py_ssize_t dot_groups  # of a row
    Py_ssize_t row_bytes  # of packed rows; 0 where the input is multiplied in place
    bint input_is_bf16
    char *packed  # of all rows, or of a tile for each thread, which packs its own
    float *scales  # of all rows, where these are packed before the first task; else NULL
    Watch *watch
    bint few  # whether the rows are so few that the time is that of reading the weight


def linear(
    cnp.ndarray input not None, list parts not None, cnp.ndarray residual, cnp.ndarray out not None, int activation,
    int threads,
):
    """out = activation(input weight^T + bias) + residual, for the weights of all parts side by side.

    input (rows, inputs), residual and out (rows, sum of outputs) with contiguous rows any distance apart; input and out
    are of the compute type or, where weights are bfloat16 or int8, uint16 (the bits of bfloat16). residual may be None,
    or out.
    """
    cdef Weights weights
    cdef Rows read = rows_of(input), written = rows_of(out), added
    join(parts, &weights)
    if residual is not None:
        added = rows_of(residual)
    multiply(&weights, &read, NULL if residual is None else &added, &written, activation, threads)


cdef int multiply(
    const Weights *weights, const Rows *input, const Rows *residual, const Rows *out, int activation, int threads
) except -1:
    if not fits(weights, input, residual, out):
        raise misfit(weights, input, out)
    cdef Job job
    cdef Watch watch = begin_watch()
    cdef const pyattn_kernels *kernels = weights.kernels
    cdef int team = begin_call(threads)
    lay_out(&job, weights, input, residual, out, activation)
    job.watch = &watch
    cdef Py_ssize_t tasks = plan(&job, team)
    # Tasks of one group pack their rows, a tile at a time; with several groups each row is packed once, before them.
    cdef bint shared = (job.groups > 1 or job.few) and job.row_bytes > 0
    cdef Py_ssize_t scratch = job.row_bytes * (job.rows if shared else team * kernels.tile_rows)
    cdef char *memory = NULL
    if scratch > 0:
        memory = <char *> malloc(PYATTN_ALIGNMENT + scratch + (job.rows * sizeof(float) if shared else 0))
        if memory == NULL:
            end_call()
            raise no_scratch()
        job.packed = memory + PYATTN_ALIGNMENT - <size_t> memory % PYATTN_ALIGNMENT
    with nogil:
        if shared:
            job.scales = <float *> (job.packed + scratch)
            run(team if job.rows * weights.inputs > FEW_INPUTS else 1, job.rows, PACKED_ROWS, pack_row, &job)
            job.input = job.packed
            job.input_row = job.row_bytes
        run(team, tasks, 1, run_task, &job)
    end_call()
    free(memory)
    raise_error(&watch)


cdef void lay_out(
    Job *job, const Weights *weights, const Rows *input, const Rows *residual, const Rows *out, int activation
) noexcept:
    """Places the parts side by side in out."""
    cdef Py_ssize_t offset = 0, width = weights.kernels.lanes * weights.kernels.tile_vectors
    cdef pyattn_linear *part
    cdef int i
    memset(job, 0, sizeof(Job))
    job.weights = weights
    job.input, job.input_row, job.rows = input.data, input.stride, input.count
    job.dot_groups = max(<Py_ssize_t> 1, (weights.inputs + weights.kernels.group - 1) // weights.kernels.group)
    job.input_is_bf16 = input.dtype == cnp.NPY_UINT16
    job.row_bytes = weights.kernels.linear_row_bytes(weights.inputs, job.input_is_bf16)
    for i in range(weights.count):
        part = &job.parts[i]
        part.weight = &weights.parts[i]
        if residual != NULL:
            part.residual = residual.data + offset * bytes_of(residual.dtype)
            part.residual_row = residual.stride
        part.out = out.data + offset * bytes_of(out.dtype)
        part.out_row = out.stride
        part.activation = activation
        part.out_is_bf16 = out.dtype == cnp.NPY_UINT16
        offset += part.weight.outputs
        job.first_panel[i + 1] = job.first_panel[i] + (part.weight.outputs + width - 1) // width


cdef Py_ssize_t plan(Job *job, int team) noexcept:
    """How many tasks: a thread takes long runs of them, so that a group of panels stays in its cache while rows stream
    by; with few rows groups are small enough for all threads."""
    cdef const pyattn_kernels *kernels = job.weights.kernels
    cdef Py_ssize_t panels = job.first_panel[job.weights.count], bytes = 0, size
    cdef int i
    for i in range(job.weights.count):
        bytes = max(bytes, kernels.linear_packed_bytes(kernels.lanes * kernels.tile_vectors, job.weights.inputs,
                                                       job.weights.parts[i].format))
    job.tiles = (job.rows + kernels.tile_rows - 1) // kernels.tile_rows
    job.blocks = (job.rows + TASK_ROWS - 1) // TASK_ROWS
    if job.blocks > 1:  # as much for each thread
        job.blocks = min(job.tiles, (job.blocks + team - 1) // team * team)
    size = max(<Py_ssize_t> 1, min(CACHED // max(<Py_ssize_t> 1, bytes), panels * job.blocks // (4 * team)))
    job.groups = (panels + size - 1) // size
    job.few = job.rows <= FEW_ROWS
    return job.groups * job.blocks


cdef void pack_row(const void *context, Py_ssize_t row, int thread) noexcept nogil:
    cdef const Job *job = <const Job *> context
    job.weights.kernels.linear_pack_row(job.input + row * job.input_row, job.input_is_bf16, job.weights.inputs,
                                        job.packed + row * job.row_bytes, &job.scales[row])


cdef void run_task(const void *context, Py_ssize_t number, int thread) noexcept nogil:
    """A block of rows through a group of panels."""
    cdef const Job *job = <const Job *> context
    if stopped(job.watch, thread):
        return
    cdef Py_ssize_t tile = job.weights.kernels.tile_rows, group = number // job.blocks, part, panel, first
    cdef Py_ssize_t panels = job.first_panel[job.weights.count]
    cdef Py_ssize_t start = group * panels // job.groups, stop = (group + 1) * panels // job.groups
    cdef Py_ssize_t block = number % job.blocks, row = block * job.tiles // job.blocks * tile, end, rows
    cdef Py_ssize_t last = min(job.rows, (block + 1) * job.tiles // job.blocks * tile)
    cdef char *scratch = job.packed + thread * job.row_bytes * tile
    cdef float scales[MAX_TILE_ROWS]
    while row < last:
        # Few rows meet a panel one after the other, which is read from memory once; many stream by cached panels.
        end = last if job.few else row + next_tile(last - row, tile)
        if job.row_bytes > 0 and job.scales == NULL:
            for first in range(end - row):
                job.weights.kernels.linear_pack_row(job.input + (row + first) * job.input_row, job.input_is_bf16,
                                                    job.weights.inputs, scratch + first * job.row_bytes, &scales[first])
        part = 0
        for panel in range(start, stop):
            while job.first_panel[part + 1] <= panel:
                part += 1
            first = row
            while first < end:
                rows = next_tile(end - first, tile)
                run_tile(job, part, panel, first, rows, scratch, scales)
                first += rows
        row = end


cdef inline Py_ssize_t next_tile(Py_ssize_t rows, Py_ssize_t most) noexcept nogil:
    """Of rows that are left: about as many in each tile, since a tile of one or two waits for its sums. The smallest
    comes first: it leaves most time for what it fetches ahead."""
    return rows // ((rows + most - 1) // most)


cdef inline void run_tile(
    const Job *job, Py_ssize_t part, Py_ssize_t panel, Py_ssize_t row, Py_ssize_t rows, const char *packed,
    const float *scales,
) noexcept nogil:
    """A tile of one panel, on rows that are packed in `packed` unless all are."""
    cdef pyattn_packed_rows input
    input.data = job.input + row * job.input_row
    input.row = job.input_row
    input.scales = job.scales + row if job.scales != NULL else scales
    # The next rows, as they are before they are packed. Where a group has several lines, tiles fetch these in turn.
    input.ahead_step = rows * job.input_row // job.dot_groups
    input.ahead = input.data + rows * job.input_row + 64 * panel % max(input.ahead_step, 64)
    if job.row_bytes > 0 and job.scales == NULL:
        input.data = packed
        input.row = job.row_bytes
    job.weights.kernels.linear_tile(&job.parts[part], &input, row, rows, panel - job.first_panel[part])
