"""Drives the kernel of late interaction: groups of queries, or words, which stay in cache, times runs of documents.

Arguments are trusted: queries are packed float32 of the documents' width; starts ascend from 0 to the documents' rows.
"""

cimport numpy as cnp
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc

import numpy as np

from pyattn._core.kernels cimport (
    PYATTN_ALIGNMENT, PYATTN_BFLOAT16, PYATTN_FLOAT16, PYATTN_FLOAT32, pyattn_kernels, pyattn_maxsim,
)
from pyattn._core.linear cimport Packed
from pyattn._core.rows cimport MAX_BYTES, Rows, data_of, rows_of
from pyattn._core.runtime cimport (
    Watch, begin_call, begin_watch, end_call, kernels_of, no_scratch, raise_error, run, stopped,
)

cnp.import_array()

cdef enum:
    TASK_ROWS = 512  # of documents, about


cdef struct Job:
    const pyattn_kernels *kernels
    const pyattn_maxsim *groups  # of queries
    const int64_t *runs  # of documents: where each begins
    Py_ssize_t count  # of runs
    char *scratch
    Py_ssize_t scratch_bytes  # of a thread
    Watch *watch


def maxsim(
    list queries not None, cnp.ndarray query_starts not None, cnp.ndarray firsts not None,
    cnp.ndarray documents not None, cnp.ndarray starts not None, cnp.ndarray out not None, int threads,
):
    """out[q, d] = the sum over the tokens of query q of the largest product with a token of document d.

    queries: groups of whole queries, the tokens of each `Packed`; group g begins with query firsts[g]. query_starts,
    starts, firsts: contiguous int64, with the last end. documents (rows, width), float32, float16 or uint16 (bits of
    bfloat16), rows contiguous; out (queries, documents) float32, contiguous.
    """
    drive(queries, query_starts, <const int64_t *> data_of(firsts), documents, starts, out, threads)


def maxima(
    list words not None, cnp.ndarray documents not None, cnp.ndarray starts not None, cnp.ndarray out not None,
    int threads,
):
    """out[d, w] = the largest product of word w with a token of document d, -inf of none.

    words: `Packed`, one after another. documents, starts: as in maxsim; out (documents, words) float32, contiguous.
    """
    drive(words, None, NULL, documents, starts, out, threads)


cdef int drive(
    list queries, cnp.ndarray query_starts, const int64_t *first, cnp.ndarray documents, cnp.ndarray starts,
    cnp.ndarray out, int threads,
) except -1:
    cdef Job job
    cdef Watch watch = begin_watch()
    cdef Rows rows = rows_of(documents)
    cdef Py_ssize_t groups = len(queries), i, column = 0
    # Documents that begin within the same TASK_ROWS rows are a run: results do not depend on it, nor on threads.
    runs = np.searchsorted(starts[:starts.shape[0] - 1], np.arange(0, max(1, rows.count), TASK_ROWS))
    cdef cnp.ndarray bounds = np.unique(np.concatenate([[0], runs, [starts.shape[0] - 1]])).astype(np.int64)
    cdef cnp.ndarray table = np.zeros(groups * sizeof(pyattn_maxsim), np.uint8)
    cdef pyattn_maxsim *group = <pyattn_maxsim *> data_of(table)
    cdef Packed packed
    job.kernels = kernels_of(cnp.NPY_FLOAT32)
    job.groups, job.runs, job.count = group, <const int64_t *> data_of(bounds), bounds.shape[0] - 1
    job.watch, job.scratch_bytes = &watch, 0
    for i in range(groups):
        packed = queries[i]
        group[i].queries = &packed.weight
        group[i].documents, group[i].row = rows.data, rows.stride
        group[i].format = PYATTN_FLOAT32 if rows.dtype == cnp.NPY_FLOAT32 else \
            PYATTN_FLOAT16 if rows.dtype == cnp.NPY_FLOAT16 else PYATTN_BFLOAT16
        group[i].document_starts = <const int64_t *> data_of(starts)
        group[i].out_row = cnp.PyArray_STRIDES(out)[0]
        if first != NULL:
            group[i].query_starts = <const int64_t *> data_of(query_starts) + first[i]
            group[i].count = first[i + 1] - first[i]
            group[i].out = <char *> data_of(out) + first[i] * group[i].out_row
        else:
            group[i].out = <char *> data_of(out) + column * sizeof(float)
            column += packed.weight.outputs
        job.scratch_bytes = max(job.scratch_bytes, job.kernels.maxsim_bytes(&group[i]))
    cdef int team = begin_call(threads)
    cdef char *memory = NULL
    if job.scratch_bytes < MAX_BYTES / team:
        memory = <char *> malloc(PYATTN_ALIGNMENT + job.scratch_bytes * team)
    if memory == NULL:
        end_call()
        raise no_scratch()
    job.scratch = memory + PYATTN_ALIGNMENT - <size_t> memory % PYATTN_ALIGNMENT
    with nogil:
        run(team, groups * job.count, 1, run_task, &job)
    end_call()
    free(memory)
    raise_error(&watch)


cdef void run_task(const void *context, Py_ssize_t number, int thread) noexcept nogil:
    """A run of documents, and a group of queries."""
    cdef const Job *job = <const Job *> context
    cdef Py_ssize_t which = number % job.count
    if not stopped(job.watch, thread):
        job.kernels.maxsim(&job.groups[number // job.count], job.runs[which], job.runs[which + 1],
                           job.scratch + thread * job.scratch_bytes)
