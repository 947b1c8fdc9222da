/* What parallel calls need beside the pool: how they share its threads, what OpenMP's settings allow, which threads the
 * system would grant to others, and forks. Included once, by pyattn/_core/runtime.pyx, with the flags that switch
 * OpenMP on. */
#pragma once

#include "pool.h"

#ifdef _OPENMP
#define PYATTN_OPENMP _OPENMP
#else
#define PYATTN_OPENMP 0
static int omp_get_max_threads(void) { return MOST_THREADS; }
static int omp_get_thread_limit(void) { return MOST_THREADS; }
#endif

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

static void pyattn_child_begins(void) {
  pyattn_in_child();
  pyattn_running = pyattn_own; /* the child has no other threads */
}

static int pyattn_guard_forks(void) {
  return pthread_atfork(pyattn_before_fork, pyattn_in_parent, pyattn_child_begins);
}

enum { MAX_YIELDS = 1000 };

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
  struct pyattn_trial *trials = malloc((size_t)wanted * sizeof *trials + 1);
  int granted = 0;
  if (trials == NULL) return 0;
  pthread_mutex_lock(&gate);
  for (; granted < wanted; granted++) {
    trials[granted].gate = &gate;
    if (pthread_create(&trials[granted].thread, NULL, pyattn_try, &trials[granted])) break;
  }
  pthread_mutex_unlock(&gate);
  for (int i = 0; i < granted; i++) pthread_join(trials[i].thread, NULL);
#ifdef __linux__
  for (int i = 0, yields = 0; i < granted; i++) {
    for (; yields < MAX_YIELDS && syscall(SYS_tgkill, getpid(), trials[i].number, 0) == 0; yields++) sched_yield();
  }
#endif
  free(trials);
  return granted;
}
