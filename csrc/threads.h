/* The threads of parallel regions: how calls share them, that the system grants them, and what a fork does to them.
 * Included once, by pyattn/_core/runtime.pyx, with the flags that switch OpenMP on. */
#pragma once

#include <stdlib.h>
#include <time.h>

static double pyattn_seconds(void) {
  struct timespec now;
  timespec_get(&now, TIME_UTC);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int pyattn_running;           /* calls */
static _Thread_local int pyattn_own; /* those of this thread: a call, and what signals' handlers call during it */

static int pyattn_begin(void) {
  pyattn_own++;
  return __atomic_add_fetch(&pyattn_running, 1, __ATOMIC_RELAXED);
}

static void pyattn_end(void) {
  pyattn_own--;
  __atomic_sub_fetch(&pyattn_running, 1, __ATOMIC_RELAXED);
}

#ifndef _OPENMP

#define PYATTN_OPENMP 0
enum { pyattn_orphaned };
static size_t pyattn_stack_size;
static int omp_get_max_threads(void) { return 1; }
static int omp_get_thread_limit(void) { return 1; }
static int pyattn_guard_forks(void) { return 0; }
static int pyattn_granted(int wanted) { return wanted; }
static int pyattn_team(int threads) { return (void)threads, 1; }

#else

#include <omp.h>
#include <pthread.h>
#ifdef __linux__
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#define PYATTN_OPENMP _OPENMP
#define ASK_AGAIN 1.0        /* seconds after the system refused a thread */
#define TEAM_BYTES (1 << 10) /* more than OpenMP allocates for each thread of a team */
#define MIN_BYTES (1 << 16)
#define MAX_YIELDS 1000

/* OpenMP keeps the threads of a region for the next one of the same thread, and ends those that are too many for it. So
 * regions have as many threads as pyattn_team says, or one, which changes nothing. */
static _Thread_local int pyattn_pool = 1;
static _Thread_local double pyattn_refused; /* when the system did that last; 0 for never */
static size_t pyattn_stack_size;            /* what OMP_STACKSIZE asks for; 0 for the system's own */

struct pyattn_trial {
  pthread_mutex_t *gate;
  pthread_t thread;
  long number; /* the kernel's */
};

static void *pyattn_try(void *argument) {
  struct pyattn_trial *trial = argument;
#ifdef __linux__
  trial->number = syscall(SYS_gettid);
#endif
  pthread_mutex_lock(trial->gate);
  pthread_mutex_unlock(trial->gate);
  return NULL;
}

/* How many of so many further threads the system grants: they are made, all of them before the first ends. They have
 * left the kernel's accounts on return, which is somewhat later than pthread_join returns. */
static int pyattn_granted(int wanted) {
  pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
  struct pyattn_trial *trials = malloc(MIN_BYTES + (size_t)wanted * TEAM_BYTES); /* OpenMP needs it next */
  pthread_attr_t attributes;
  int granted = 0;
  if (trials == NULL || pthread_attr_init(&attributes)) {
    free(trials);
    return 0;
  }
  if (pyattn_stack_size > 0) pthread_attr_setstacksize(&attributes, pyattn_stack_size);
  pthread_mutex_lock(&gate);
  for (; granted < wanted; granted++) {
    trials[granted].gate = &gate;
    if (pthread_create(&trials[granted].thread, &attributes, pyattn_try, &trials[granted])) break;
  }
  pthread_mutex_unlock(&gate);
  for (int i = 0; i < granted; i++) pthread_join(trials[i].thread, NULL);
#ifdef __linux__
  for (int i = 0, yields = 0; i < granted; i++) {
    for (; yields < MAX_YIELDS && syscall(SYS_tgkill, getpid(), trials[i].number, 0) == 0; yields++) sched_yield();
  }
#endif
  pthread_attr_destroy(&attributes);
  free(trials);
  return granted;
}

/* Of so many threads that a region could use, how many it is to have. OpenMP ends the process where the system refuses
 * it one, so those that this thread does not have yet are tried first, and OpenMP makes them here, at once. What is
 * left to chance: that another process, or another thread, takes the last ones between the two; and regions of other
 * libraries in this thread, smaller than ours, of which nothing is known here. */
static int pyattn_team(int threads) {
  const int limit = omp_get_thread_limit();
  if (threads > limit) threads = limit;
  if (threads < 2 || omp_get_level() > 0) return 1; /* nested, in a handler of signals: its threads would not be kept */
  if (threads > pyattn_pool) {
    const double now = pyattn_seconds();
    if (pyattn_refused <= now && now < pyattn_refused + ASK_AGAIN) return pyattn_pool;
    const int wanted = threads - pyattn_pool, granted = pyattn_granted(wanted);
    pyattn_refused = granted < wanted ? now : 0;
    threads = pyattn_pool + granted;
    if (granted > 0) {
#pragma omp parallel num_threads(threads)
      {
#pragma omp barrier
      }
    }
  }
  return pyattn_pool = threads;
}

static _Thread_local int pyattn_paused;
static int pyattn_orphaned;

/* OpenMP's threads do not survive a fork, and a child that counted on them would wait forever: those of the forking
 * thread end before it, and come again when they are needed. Where they cannot, in a parallel region, the child
 * computes on one thread. */
static void pyattn_before_fork(void) {
  pyattn_paused = omp_pause_resource_all(omp_pause_hard) == 0;
  if (pyattn_paused) pyattn_pool = 1;
}

static void pyattn_in_child(void) {
  pyattn_orphaned |= !pyattn_paused;
  pyattn_running = pyattn_own; /* the child has no other threads */
}

static int pyattn_guard_forks(void) { return pthread_atfork(pyattn_before_fork, NULL, pyattn_in_child); }

#endif
