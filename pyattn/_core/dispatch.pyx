"""Chooses the instruction set once, at import, and measures what the machine can do with it."""

import os
import time

from cpython.exc cimport PyErr_CheckSignals
from cpython.ref cimport Py_DECREF, Py_INCREF
from cython.parallel cimport prange
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from pyattn._core.kernels cimport PYATTN_ALIGNMENT, pyattn_isa, pyattn_isas, pyattn_kernels

cdef extern from *:
    """
    #include <time.h>
    static double pyattn_seconds(void) {
      struct timespec now;
      timespec_get(&now, TIME_UTC);
      return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    }
    static int pyattn_running; /* calls */
    static _Thread_local int pyattn_own; /* those of this thread: a call, and what signals' handlers call during it */
    #ifdef _OPENMP
    #include <omp.h>
    #include <pthread.h>
    #define PYATTN_OPENMP _OPENMP
    static _Thread_local int pyattn_paused;
    static int pyattn_orphaned;
    /* OpenMP's threads do not survive a fork, and a child that counted on them would wait forever: those of the forking
     * thread end before it, and come again when they are needed. Where they cannot, in a parallel region, the child
     * computes on one thread. */
    static void pyattn_before_fork(void) { pyattn_paused = omp_pause_resource_all(omp_pause_hard) == 0; }
    static void pyattn_in_child(void) {
      pyattn_orphaned |= !pyattn_paused;
      pyattn_running = pyattn_own; /* the child has no other threads */
    }
    static int pyattn_guard_forks(void) { return pthread_atfork(pyattn_before_fork, NULL, pyattn_in_child); }
    #else
    #define PYATTN_OPENMP 0
    enum { pyattn_orphaned };
    static int pyattn_guard_forks(void) { return 0; }
    static int omp_get_max_threads(void) { return 1; }
    #endif
    static int pyattn_begin(void) {
      pyattn_own++;
      return __atomic_add_fetch(&pyattn_running, 1, __ATOMIC_RELAXED);
    }
    static void pyattn_end(void) {
      pyattn_own--;
      __atomic_sub_fetch(&pyattn_running, 1, __ATOMIC_RELAXED);
    }
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
    const int pyattn_orphaned
    int pyattn_guard_forks() nogil
    int omp_get_max_threads() nogil
    int pyattn_begin() nogil
    void pyattn_end() nogil
    double pyattn_seconds() noexcept nogil

cdef const pyattn_isa *chosen = NULL
cdef double SIGNALS = 0.1  # seconds between two looks for signals


cdef list supported_names():
    cdef const pyattn_isa *isa = pyattn_isas()
    names = []
    while isa.name != NULL:
        if isa.supported:
            names.append(isa.name.decode())
        isa += 1
    return names


cdef int choose() except -1:
    """The best instruction set that the machine supports, or the one that PYATTN_ISA names."""
    global chosen
    names = supported_names()
    name = os.environ.get("PYATTN_ISA") or names[len(names) - 1]
    if name not in names:
        raise ImportError(f"pyattn: PYATTN_ISA={name!r} is not available here; choose one of {', '.join(names)}")
    cdef const pyattn_isa *isa = pyattn_isas()
    while isa.name.decode() != name:
        isa += 1
    chosen = isa
    return 0


cdef const pyattn_kernels *kernels_for(Py_ssize_t itemsize) noexcept:
    if itemsize == 1:
        return chosen.int8
    if itemsize == 2:
        return chosen.bfloat16
    return chosen.float32 if itemsize == 4 else chosen.float64


cdef const pyattn_kernels *kernels_of(dtype):
    """Those for arrays of a dtype; uint16 are the bits of bfloat16."""
    return chosen.float16 if dtype.char == "e" else kernels_for(dtype.itemsize)


cdef int begin_call(int threads) noexcept:
    """Calls that run at once share the threads that each alone would use: a server's workers are many."""
    return max(1, threads // pyattn_begin())


cdef void end_call() noexcept:
    pyattn_end()


cdef bint stopped(Watch *watch, int thread) noexcept nogil:
    """Thread 0 is the caller's: several times a second it lets Python handle signals, Ctrl-C among them."""
    cdef double now
    if thread == 0 and not watch.stopped:
        now = pyattn_seconds()
        if watch.due == 0 or now < watch.due - 1:  # the first task; a clock that was set back
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


choose()
if pyattn_guard_forks():
    raise MemoryError("pyattn: cannot register a handler of forks")
cdef int threads_at_import = omp_get_max_threads()


def thread_limit():
    """Most threads that OpenMP's runtime has been limited to since the import, 0 for no new limit."""
    cdef int now = omp_get_max_threads()
    if pyattn_orphaned or PYATTN_OPENMP == 0:
        return 1
    return 0 if now == threads_at_import else now


isa = chosen.name.decode()
isa_available = tuple(supported_names())
openmp = int(PYATTN_OPENMP)  # the specification's date, e.g. 201511; 0 when built without
compiler = PYATTN_COMPILER.decode()
sanitized = bool(PYATTN_SANITIZED)
debug = bool(PYATTN_DEBUG)


native_bfloat16 = chosen.bfloat16.step == 2  # whether the machine has dot products of them
native_int8 = chosen.int8.step == 4


def measure_multiply_add(int itemsize, int threads, double seconds):
    """Peak floating-point operations a second of `threads` threads: independent multiply-adds in registers.

    itemsize is that of float32, float64, bfloat16 or int8.
    """
    cdef const pyattn_kernels *kernels = kernels_for(itemsize)
    cdef Py_ssize_t rounds = 1000
    cdef double operations, best = 0
    cdef int _i
    stop = time.perf_counter() + seconds
    while True:
        operations = 0
        start = time.perf_counter()
        with nogil:
            for _i in prange(threads, num_threads=threads, schedule="static", chunksize=1):
                operations += kernels.probe_multiply_add(rounds)
        now = time.perf_counter()
        if now - start < 0.01:
            rounds *= 2  # too short to time
            continue
        best = max(best, operations / (now - start))
        if now > stop:
            return best


def measure_read(int threads, double seconds, Py_ssize_t size):
    """Bytes a second that `threads` threads read from `size` bytes of memory, larger than any cache."""
    cdef const pyattn_kernels *kernels = kernels_for(4)
    cdef Py_ssize_t vector = kernels.lanes * 4
    cdef Py_ssize_t share = size // threads // PYATTN_ALIGNMENT * PYATTN_ALIGNMENT
    cdef char *memory = <char *> malloc(size)
    cdef double best = 0, total = 0
    cdef int i
    if memory == NULL:
        raise MemoryError(f"measure: cannot allocate {size} bytes")
    try:
        with nogil:
            memset(memory, 0, size)
        stop = time.perf_counter() + seconds
        while True:
            start = time.perf_counter()
            with nogil:
                for i in prange(threads, num_threads=threads, schedule="static", chunksize=1):
                    total += kernels.probe_read(memory + i * share, share // vector)
            now = time.perf_counter()
            best = max(best, share * threads / (now - start))
            if now > stop:
                return best
    finally:
        free(memory)
