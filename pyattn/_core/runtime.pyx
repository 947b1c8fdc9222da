"""What each call of a driver needs: the kernels of an instruction set, which is chosen once, at import; a team of
threads; a watch for signals; the error of scratch memory that cannot be allocated. And facts about the machine."""

import os
import re
import sys
import threading

cimport numpy as cnp
from cpython.exc cimport PyErr_CheckSignals
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t
from libc.string cimport memset

from pyattn._core.kernels cimport PYATTN_ALIGNMENT, pyattn_isa, pyattn_isas, pyattn_kernels

cdef extern from *:
    """
    #include "threads.h"
    #ifdef __SANITIZE_ADDRESS__
    #define PYATTN_SANITIZED 1
    #else
    #define PYATTN_SANITIZED 0
    #endif
    #ifndef PYATTN_DEBUG
    #define PYATTN_DEBUG 0
    #endif
    #if defined(__clang__)
    #define PYATTN_COMPILER "clang " __clang_version__
    #else
    #define PYATTN_COMPILER "gcc " __VERSION__
    #endif
    """
    const long PYATTN_OPENMP
    const char *PYATTN_COMPILER
    const bint PYATTN_SANITIZED
    const bint PYATTN_DEBUG
    const int pyattn_running
    int64_t pyattn_spin
    size_t pyattn_stack_size
    int pyattn_guard_forks() nogil
    int pyattn_places() nogil
    int omp_get_max_threads() nogil
    int omp_get_thread_limit() nogil
    int pyattn_begin() nogil
    void pyattn_end() nogil
    int pyattn_granted(int wanted) nogil
    int pyattn_team(int threads) nogil
    void pyattn_run(int team, Py_ssize_t count, Py_ssize_t piece, turn_function turn, const void *context) nogil
    int64_t pyattn_nanoseconds() noexcept nogil

cdef enum:
    MAX_PROBES = 1024

cdef const pyattn_isa *chosen = NULL
cdef int64_t SIGNALS = 100_000_000  # nanoseconds between two looks for signals


cdef list choose():
    """Chooses the instruction set that PYATTN_ISA names, or the best that the machine supports; returns all these."""
    global chosen
    cdef const pyattn_isa *isa = pyattn_isas()
    asked, names = os.environ.get("PYATTN_ISA"), []
    while isa.name != NULL:  # the best is last
        if isa.supported:
            name = isa.name.decode()
            names.append(name)
            chosen = isa if not asked or name == asked else chosen
        isa += 1
    if chosen == NULL:
        raise ImportError(f"pyattn: PYATTN_ISA={asked!r} is not available here; choose one of {', '.join(names)}")
    return names


cdef const pyattn_kernels *kernels_of(int dtype) except NULL:
    cdef const pyattn_kernels *kernels = chosen.float32
    if dtype != cnp.NPY_FLOAT32:
        kernels = chosen.float64 if dtype == cnp.NPY_FLOAT64 else chosen.float16 if dtype == cnp.NPY_FLOAT16 else \
            chosen.int8 if dtype == cnp.NPY_INT8 else chosen.bfloat16
    return built(kernels)


cdef const pyattn_kernels *kernels_of_int8_keys() except NULL:
    return built(chosen.int8_keys)


cdef const pyattn_kernels *built(const pyattn_kernels *kernels) except NULL:
    if kernels == NULL:
        raise NotImplementedError("pyattn: built by `make dev`, for float32 alone; `pip install .` builds every dtype")
    return kernels


cdef int begin_call(int threads) noexcept:
    """Calls that run at once share the threads that each alone would use: a server's workers are many."""
    return pyattn_team(threads // pyattn_begin())


cdef void end_call() noexcept:
    pyattn_end()


cdef void run(int team, Py_ssize_t count, Py_ssize_t piece, turn_function turn, const void *context) noexcept nogil:
    pyattn_run(team, count, piece, turn, context)


cdef object no_scratch():
    """A MemoryError that begins with what the library's caller called. Its name is looked for here, where it is needed:
    calls then need not hand it down."""
    frame, name = sys._getframe(), "pyattn"
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "pyattn":
        if frame.f_globals["__name__"] != "pyattn._namespaces":  # which stands between, under a name of its own
            name, owner = frame.f_code.co_name, frame.f_locals.get("self")
            if owner is not None:
                name = type(owner).__name__ if name == "__call__" else f"{type(owner).__name__}.{name}"
        frame = frame.f_back
    return MemoryError(f"{name}: cannot allocate scratch memory")


cdef unsigned long main_thread = threading.main_thread().ident


def note_main_thread():
    """In the child of a fork, whose only thread this is."""
    global main_thread
    main_thread = PyThread_get_thread_ident()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=note_main_thread)


cdef Watch begin_watch() noexcept:
    cdef Watch watch
    memset(&watch, 0, sizeof(Watch))
    watch.handles = PyThread_get_thread_ident() == main_thread
    return watch


cdef bint stopped(Watch *watch, int thread) noexcept nogil:
    """Thread 0 is the caller's: if it is the main one, it lets Python handle signals, Ctrl-C among them, several times
    a second.

    No other thread handles signals, so none asks for the interpreter's lock here: while a program ends, Python gives it
    to no daemon but ends the thread, which must not be in the midst of a parallel region.
    """
    cdef int64_t now
    if thread == 0 and watch.handles and not watch.stopped:
        now = pyattn_nanoseconds()
        if watch.due == 0:  # the first task
            watch.due = now + SIGNALS
        elif now >= watch.due:
            watch.due = now + SIGNALS
            handle_signals(watch)
    return watch.stopped


cdef void handle_signals(Watch *watch) noexcept with gil:
    try:
        PyErr_CheckSignals()
    except BaseException as error:
        Py_INCREF(error)
        watch.error = <void *> error
        watch.stopped = True


cdef int raise_error(Watch *watch) except -1:
    if watch.error != NULL:
        error = <object> watch.error
        Py_DECREF(error)
        watch.error = NULL
        raise error
    return 0


cdef size_t stack_size() except? 0:
    """Bytes of a thread's stack, as libgomp reads them from the environment; 0 for the system's own."""
    for name in ("OMP_STACKSIZE", "GOMP_STACKSIZE"):
        size = re.fullmatch(r"\s*(\d{1,9})\s*([bkmg]?)\s*", os.environ.get(name, ""), re.ASCII | re.IGNORECASE)
        if size is not None:
            return int(size[1]) << {"b": 0, "": 10, "k": 10, "m": 20, "g": 30}[size[2].lower()]
    return 0


isa_available = tuple(choose())
isa = chosen.name.decode()
pyattn_stack_size = stack_size()
if os.environ.get("OMP_WAIT_POLICY", "").strip().lower() == "passive":
    pyattn_spin = 0
if pyattn_guard_forks():
    raise MemoryError("pyattn: cannot register a handler of forks")
if not os.environ.get("OMP_NUM_THREADS", "1").strip():
    del os.environ["OMP_NUM_THREADS"]  # over which LLVM's OpenMP runtime would end the process
cdef int threads_at_import = omp_get_max_threads()


def thread_limit():
    """Most threads that OpenMP's runtime allows: by OMP_THREAD_LIMIT, or as it has been limited to since the import."""
    cdef int now = omp_get_max_threads(), most = omp_get_thread_limit()
    return most if now == threads_at_import else min(now, most)


def places():
    """To how many places OpenMP's runtime binds threads, one to each; 0 if it does not."""
    return pyattn_places()


def calls_running():
    """How many calls of drivers have begun and have not ended."""
    return pyattn_running


def granted(int threads):
    """How many of so many further threads the system would grant now."""
    cdef int count
    with nogil:
        count = pyattn_granted(threads)
    return count


openmp = int(PYATTN_OPENMP)  # the specification's date, e.g. 201511; 0 when built without
compiler = PYATTN_COMPILER.decode()
sanitized = bool(PYATTN_SANITIZED)
debug = bool(PYATTN_DEBUG)


float32_alone = chosen.float64 == NULL  # as `make dev` builds it
native_bfloat16 = not float32_alone and chosen.bfloat16.group == 2  # whether the machine has dot products of them
native_int8 = not float32_alone and chosen.int8.group == 4


cdef dict TYPES = {
    "float32": cnp.NPY_FLOAT32, "float64": cnp.NPY_FLOAT64, "bfloat16": cnp.NPY_UINT16, "int8": cnp.NPY_INT8,
}


cdef struct Probe:
    const pyattn_kernels *kernels
    Py_ssize_t rounds, share
    const char *start
    double results[MAX_PROBES]


cdef void multiply_and_add(const void *context, Py_ssize_t number, int thread) noexcept nogil:
    cdef Probe *probe = <Probe *> context
    probe.results[number] = probe.kernels.probe_multiply_add(probe.rounds)


cdef void read_share(const void *context, Py_ssize_t number, int thread) noexcept nogil:
    cdef Probe *probe = <Probe *> context
    probe.results[number] = probe.kernels.probe_read(probe.start + number * probe.share,
                                                     probe.share // (4 * probe.kernels.lanes))


def multiply_add(str dtype not None, int threads, Py_ssize_t rounds):
    """Independent multiply-adds in registers of each thread; returns how many floating-point operations they were."""
    cdef Probe probe
    cdef double operations = 0
    cdef int i
    threads = min(pyattn_team(threads), MAX_PROBES)
    probe.kernels, probe.rounds = kernels_of(TYPES[dtype]), rounds
    with nogil:
        run(threads, threads, 1, multiply_and_add, &probe)
    for i in range(threads):
        operations += probe.results[i]
    return operations


def read_memory(cnp.ndarray memory not None, int threads, Py_ssize_t rounds):
    """Reads bytes, each thread a share of them, so many times; returns how many were read."""
    cdef Probe probe
    cdef Py_ssize_t _round
    threads = min(pyattn_team(threads), MAX_PROBES)
    probe.kernels, probe.start = kernels_of(cnp.NPY_FLOAT32), <const char *> cnp.PyArray_DATA(memory)
    probe.share = memory.size // threads // PYATTN_ALIGNMENT * PYATTN_ALIGNMENT
    with nogil:
        for _round in range(rounds):
            run(threads, threads, 1, read_share, &probe)
    return rounds * probe.share * threads
