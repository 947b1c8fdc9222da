"""Drives the packed matmul over blocks of rows and panels of output features.

Arguments are trusted but for their sizes: a layer's parts are public, and so may be replaced by others that do not fit.
"""

cimport numpy as cnp
from cython.parallel cimport prange, threadid
from libc.stdlib cimport free, malloc
from libc.string cimport memset

import numpy as np

from pyattn._core.dispatch cimport (
    Watch, begin_call, begin_watch, end_call, kernels_of, no_scratch, raise_error, stopped,
)
from pyattn._core.kernels cimport (
    PYATTN_ALIGNMENT, PYATTN_BFLOAT16, PYATTN_FLOAT16, PYATTN_WHOLE, pyattn_kernels, pyattn_linear, pyattn_steps,
)

cnp.import_array()

cdef enum:
    MOST_PARTS = 3
    MOST_ROWS = 16  # of a tile
    ROWS = 96  # of a task
    MOST_PANEL = 256  # outputs that packing may add, of padding
    MOST_STEP = 4  # and inputs
    FEW_TILES = 2
    NUMBERS_AT_ONCE = 1048576
    CACHED = 655360  # bytes of panels that a task multiplies with each tile of rows: they stay in second-level cache

cdef double MOST_BYTES = 2.0**62  # sizes of weights are counted in Py_ssize_t


cdef class Packed:  # linear.pxd names its fields
    """A weight (outputs, inputs) as tiles read it, with its bias (outputs,) of reals or None.

    The weight, of any strides, is of float32, float64, uint16 (the bits of bfloat16) or int8; the last is multiplied by
    scales (outputs,), float32. One of float32 whose numbers are all of 16 bits is held in these, unless `whole`.
    """
    def __init__(
        self, cnp.ndarray weight not None, cnp.ndarray bias=None, cnp.ndarray scales=None, bint whole=False
    ):
        cdef Py_ssize_t size
        if weight.ndim != 2:
            raise ValueError(f"Linear: a weight has two axes, not {weight.ndim}")
        self.kernels = kernels_of(weight.dtype)
        self.dtype = weight.dtype
        self.bias = bias
        self.outputs, self.inputs = weight.shape[0], weight.shape[1]
        if (self.outputs + MOST_PANEL) * 8.0 * (self.inputs + MOST_STEP) > MOST_BYTES:
            raise MemoryError(f"Linear: no memory holds a weight ({self.outputs}, {self.inputs})")
        check_vector("bias", bias, self.outputs, np.float64 if self.kernels.real_bytes == 8 else np.float32)
        check_vector("scales", scales, self.outputs, np.float32)
        if (scales is None) != (weight.dtype != np.int8):
            raise ValueError(f"Linear: scales are for int8, and needed there; the weight is {weight.dtype}")
        if weight.dtype == np.uint16 and self.kernels.step == 1:
            self.held = PYATTN_BFLOAT16
        elif weight.dtype == np.float32 and not whole:
            size = self.kernels.linear_packed_bytes(self.outputs, self.inputs, PYATTN_FLOAT16)
            np.empty(size, np.uint8)  # what no memory holds is refused before each number is looked at
            self.held = narrowest(weight, self.kernels.widens_float16)
        size = self.kernels.linear_packed_bytes(self.outputs, self.inputs, self.held)
        self.memory = np.empty(size + PYATTN_ALIGNMENT, np.uint8)
        self.data = <char *> cnp.PyArray_DATA(self.memory)
        self.data += (PYATTN_ALIGNMENT - <size_t> self.data % PYATTN_ALIGNMENT) % PYATTN_ALIGNMENT
        self.kernels.linear_pack(
            <const char *> cnp.PyArray_DATA(weight), cnp.PyArray_STRIDES(weight)[0], cnp.PyArray_STRIDES(weight)[1],
            NULL if scales is None else <const float *> cnp.PyArray_DATA(scales), self.outputs, self.inputs, self.held,
            self.data,
        )

    def unpack(self):
        """The weight, and the scales or None."""
        cdef Py_ssize_t lanes = self.kernels.lanes, width = lanes * self.kernels.tile_vectors, step = self.kernels.step
        cdef Py_ssize_t steps = (self.inputs + step - 1) // step, real = self.kernels.real_bytes, first, rows, lines
        cdef Py_ssize_t padded = (self.outputs + lanes - 1) // lanes * lanes
        start = self.data - <char *> cnp.PyArray_DATA(self.memory)
        if self.held == PYATTN_BFLOAT16:
            steps = (steps + 1) // 2
        words = self.memory[start:start + padded * steps * (2 if self.held == PYATTN_FLOAT16 else real)]
        words = words.view({8: np.float64, 4: np.float16 if self.held == PYATTN_FLOAT16 else np.float32}[real])
        weight = np.empty((self.outputs, self.inputs), self.dtype)
        for first in range(0, self.outputs, width):
            rows = min(self.outputs - first, width)
            lines = (rows + lanes - 1) // lanes * lanes
            panel = words[first * steps:][:lines * steps].reshape(steps, lines)[:, :rows].T
            if self.held == PYATTN_BFLOAT16:  # two steps in a word
                parts = np.ascontiguousarray(panel).view(np.uint16)[:, :self.inputs]
                whole = parts if self.dtype.itemsize == 2 else (parts.astype(np.uint32) << 16).view(np.float32)
                weight[first:first + rows] = whole
            elif self.dtype.itemsize == real:
                weight[first:first + rows] = panel
            else:
                parts = np.ascontiguousarray(panel).view(
                    np.uint16 if self.dtype.itemsize == 2 else np.int8 if step == 4 else np.int16
                )
                weight[first:first + rows] = parts[:, :self.inputs]
        if self.dtype.itemsize != 1:
            return weight, None
        return weight, self.memory[start + padded * steps * real:][:self.outputs * 4].view(np.float32).copy()


def narrowest(cnp.ndarray weight not None, bint float16=True):
    """PYATTN_BFLOAT16, or PYATTN_FLOAT16 if allowed, where all numbers of a float32 weight are of that format."""
    cdef bint bfloat16 = True
    cdef Py_ssize_t rows = 1, first = 0  # the first row tells of nearly all weights
    while first < weight.shape[0] and (float16 or bfloat16):
        part = np.ascontiguousarray(weight[first:first + rows])
        if bfloat16:
            bfloat16 = not (part.view(np.uint32) & np.uint32(0xFFFF)).any()
        if float16:
            with np.errstate(all="ignore"):
                float16 = np.array_equal(part.astype(np.float16), part)
        first += rows
        rows = 1 + NUMBERS_AT_ONCE // max(<Py_ssize_t> 1, weight.shape[1])
    # bfloat16 of both: it is widened at less cost
    return PYATTN_BFLOAT16 if bfloat16 else PYATTN_FLOAT16 if float16 else PYATTN_WHOLE


cdef int check_vector(str name, cnp.ndarray x, Py_ssize_t size, dtype) except -1:
    """Refuses what a kernel would read as so many contiguous numbers of dtype, but is something else; None is fine."""
    if x is not None and (x.ndim != 1 or x.shape[0] != size or x.dtype != dtype or not cnp.PyArray_IS_C_CONTIGUOUS(x)):
        raise ValueError(f"Linear: {name} of {size} outputs must be contiguous {np.dtype(dtype)} ({size},), "
                         f"not {x.dtype} {(<object> x).shape}")
    return 0


cdef int check_sizes(cnp.ndarray input, list parts, cnp.ndarray residual, cnp.ndarray out) except -1:
    """Refuses rows that the weights were not made for."""
    cdef Packed first = parts[0], part
    cdef Py_ssize_t rows = input.shape[0], outputs = 0
    cdef int real = first.kernels.real_bytes, read = cnp.PyArray_ITEMSIZE(input), written = cnp.PyArray_ITEMSIZE(out)
    cdef bint fits = len(parts) <= MOST_PARTS
    for part in parts:
        outputs += part.outputs
        fits = fits and part.kernels == first.kernels and part.inputs == input.shape[1]
    fits = fits and out.shape[0] == rows and out.shape[1] == outputs
    if first.dtype.itemsize < 4:  # may read and write bits of bfloat16
        fits = fits and (read == real or read == 2) and (written == real or written == 2)
    else:
        fits = fits and read == written == real
    if residual is not None:
        fits = fits and cnp.PyArray_ITEMSIZE(residual) == real
        fits = fits and residual.shape[0] == rows and residual.shape[1] == outputs
    if not fits:
        weights = ", ".join([f"{weight.dtype} ({weight.outputs}, {weight.inputs})" for weight in parts])
        raise ValueError(f"Linear: a weight {weights} does not make {out.dtype} ({rows}, {out.shape[1]}) of "
                         f"{input.dtype} ({rows}, {input.shape[1]})")
    return 0


cdef struct Job:
    const pyattn_kernels *kernels
    pyattn_linear parts[MOST_PARTS]
    Py_ssize_t first_panel[MOST_PARTS + 1]
    const char *input
    Py_ssize_t input_row, row_bytes  # row_bytes: of loaded steps; 0 where the input is steps already
    int half  # whether the input is of bfloat16
    float *scales  # of all rows, where these are loaded before the first task; NULL where a task loads its own
    bint few  # whether the rows are so few that the time is that of reading the weight


cpdef linear(
    cnp.ndarray input,
    list parts,
    cnp.ndarray residual,
    cnp.ndarray out,
    int activation,
    int threads,
):
    """out = activation(input weight^T + bias) + residual, for the weights of all parts side by side.

    input (rows, inputs), residual and out (rows, sum of outputs) with contiguous rows any distance apart; input and out
    are of reals or, where weights are bfloat16 or int8, uint16 (the bits of bfloat16). residual may be None, or out.
    """
    check_sizes(input, parts, residual, out)
    cdef Job job
    cdef Watch watch = begin_watch()
    cdef Packed part = parts[0]
    cdef Py_ssize_t rows = input.shape[0], count = len(parts), offset = 0, real = part.kernels.real_bytes
    cdef Py_ssize_t i, panels, blocks, size = 0, groups, width = part.kernels.lanes * part.kernels.tile_vectors
    cdef Py_ssize_t team, scratch, out_bytes = cnp.PyArray_ITEMSIZE(out)
    team = begin_call(threads)
    memset(&job, 0, sizeof(Job))
    job.kernels = part.kernels
    job.input = <const char *> cnp.PyArray_DATA(input)
    job.input_row = cnp.PyArray_STRIDES(input)[0]
    job.half = cnp.PyArray_ITEMSIZE(input) == 2
    job.row_bytes = part.kernels.linear_row_bytes(part.inputs)
    if job.half and part.dtype.itemsize == 2 and part.kernels.step == 2 and part.inputs % 2 == 0:
        job.row_bytes = 0
    for i in range(count):
        part = parts[i]
        job.parts[i].packed = part.data
        if part.bias is not None:
            job.parts[i].bias = <const char *> cnp.PyArray_DATA(part.bias)
        if residual is not None:
            job.parts[i].residual = <const char *> cnp.PyArray_DATA(residual) + offset * real
            job.parts[i].residual_row = cnp.PyArray_STRIDES(residual)[0]
        job.parts[i].out = <char *> cnp.PyArray_DATA(out) + offset * out_bytes
        job.parts[i].out_row = cnp.PyArray_STRIDES(out)[0]
        job.parts[i].inputs = part.inputs
        job.parts[i].outputs = part.outputs
        job.parts[i].activation = activation
        job.parts[i].held = part.held
        job.parts[i].half = out_bytes == 2
        offset += part.outputs
        job.first_panel[i + 1] = job.first_panel[i] + (part.outputs + width - 1) // width
        size = max(size, (part.inputs + part.kernels.step - 1) // part.kernels.step * (2 if part.held else real))
    # Tasks: groups of panels x blocks of rows. A thread takes long runs of them, so that a group stays in its cache
    # while rows stream by; with few rows groups are small enough for all threads.
    panels = job.first_panel[count]
    blocks = (rows + ROWS - 1) // ROWS
    size = min(CACHED // max(<Py_ssize_t> 1, size * width), panels * blocks // (4 * team))
    groups = (panels + max(1, size) - 1) // max(1, size)
    # Tasks of one group load their rows, a tile at a time; with several groups each row is loaded once, before them.
    job.few = rows <= FEW_TILES * job.kernels.tile_rows
    cdef bint shared = (groups > 1 or job.few) and job.row_bytes > 0
    scratch = job.row_bytes * (rows if shared else team * job.kernels.tile_rows)
    cdef char *memory = <char *> malloc(PYATTN_ALIGNMENT + scratch + (rows * sizeof(float) if shared else 0))
    if memory == NULL:
        end_call()
        raise no_scratch()
    cdef char *aligned = memory + PYATTN_ALIGNMENT - <size_t> memory % PYATTN_ALIGNMENT
    with nogil:
        if shared:
            job.scales = <float *> (aligned + scratch)
            for i in prange(rows, num_threads=team if rows > 1 else 1, schedule="static"):
                job.kernels.linear_load(job.input + i * job.input_row, job.half, job.parts[0].inputs,
                                        aligned + i * job.row_bytes, &job.scales[i])
            job.input = aligned
            job.input_row = job.row_bytes
        for i in prange(groups * blocks, num_threads=team, schedule="guided"):
            if not stopped(&watch, threadid()):
                run_task(&job, i // blocks * panels // groups, (i // blocks + 1) * panels // groups, i % blocks * ROWS,
                         min(rows, (i % blocks + 1) * ROWS),
                         aligned + threadid() * job.row_bytes * job.kernels.tile_rows)
    end_call()
    free(memory)
    raise_error(&watch)


cdef void run_task(
    const Job *job, Py_ssize_t start, Py_ssize_t stop, Py_ssize_t row, Py_ssize_t last, char *scratch
) noexcept nogil:
    """Rows row ... last of the panels start ... stop."""
    cdef Py_ssize_t tile = job.kernels.tile_rows, part = 0, panel, first
    cdef float scales[MOST_ROWS]
    if job.few:  # each panel is read from memory once
        for panel in range(start, stop):
            while job.first_panel[part + 1] <= panel:
                part += 1
            first = row
            while first < last:
                run_tile(job, part, panel, first, min(last - first, tile), scratch, scales)
                first += tile
        return
    while row < last:  # rows stream by panels that stay in the cache
        if job.row_bytes > 0 and job.scales == NULL:
            for first in range(min(last - row, tile)):
                job.kernels.linear_load(job.input + (row + first) * job.input_row, job.half, job.parts[0].inputs,
                                        scratch + first * job.row_bytes, &scales[first])
        part = 0
        for panel in range(start, stop):
            while job.first_panel[part + 1] <= panel:
                part += 1
            run_tile(job, part, panel, row, min(last - row, tile), scratch, scales)
        row += tile


cdef inline void run_tile(
    const Job *job, Py_ssize_t part, Py_ssize_t panel, Py_ssize_t row, Py_ssize_t rows, const char *loaded,
    const float *scales,
) noexcept nogil:
    """A tile of one panel, on rows that stand in `loaded` unless they are steps already."""
    cdef pyattn_steps steps
    steps.data = job.input + row * job.input_row
    steps.row = job.input_row
    steps.scales = job.scales + row if job.scales != NULL else scales
    if job.row_bytes > 0 and job.scales == NULL:
        steps.data = loaded
        steps.row = job.row_bytes
    job.kernels.linear_tile(&job.parts[part], &steps, row, rows, panel - job.first_panel[part])
