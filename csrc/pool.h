/* The threads of a process, which wait for regions: loops whose turns any of them may take. OpenMP's own are not used,
 * for its regions end with a barrier: where another process takes a core, all threads wait there for the one that lost
 * it, though it may have had nothing left to do. Here turns go to those that come for them, and the caller waits for
 * nobody but those in the midst of some.
 *
 * Turns are cut into pieces, and these into a range for each thread of the team, so that a thread meets the same part
 * of its data in each of several regions; who has finished its own takes others' from their end. Who takes a turn makes
 * no difference to what comes out of it.
 *
 * Included once, by pyattn/_core/runtime.pyx. */
#pragma once

#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __linux__
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

typedef void (*pyattn_turn)(const void *context, ptrdiff_t number, int thread);

enum {
  MOST_THREADS = 1024,
  MOST_REGIONS = 32,             /* at once; further callers work alone */
  SPIN = 1000 * 1000,            /* nanoseconds for which a thread looks out for the next region before it sleeps */
  PATIENCE = 60 * 1000,          /* and a caller, for the end of pieces, beyond the time of two of its own */
  HOLE = 200 * 1000,             /* who looks out and misses so many had lost the core to another process */
  LOADED = 50 * 1000 * 1000,     /* for so long after that threads look out briefly: */
  BRIEF = 5 * 1000,              /* those that sleep are sooner given a core again */
  ASK_AGAIN = 1000 * 1000 * 1000 /* after the system refused a thread */
};

#define LOAD(p) __atomic_load_n(p, __ATOMIC_SEQ_CST)
#define STORE(p, x) __atomic_store_n(p, x, __ATOMIC_SEQ_CST)
#define ADD(p, x) __atomic_add_fetch(p, x, __ATOMIC_SEQ_CST)
#define TAKE(p) __atomic_exchange_n(p, 1, __ATOMIC_SEQ_CST)
#define REPLACE(p, old, new) __atomic_compare_exchange_n(p, old, new, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)

/* A thread's pieces: the first that is left in the lower half, the end in the upper one. */
struct range {
  _Alignas(64) uint64_t left;
  int taken;  /* by a thread of the team */
  int thread; /* its number in the system, while it is at work */
};

/* gate: USER for each thread in the region but the caller, and OPEN while more may enter. A region that a caller has
 * left may be another's at once, so that who is not in it knows nothing of it but its gate. */
enum { OPEN = 1, USER = 2 };
struct region {
  _Alignas(64) uint32_t gate;
  uint32_t owned, waited_for;
  int team, cpu; /* the caller's */
  ptrdiff_t count, piece;
  pyattn_turn turn;
  const void *context;
  struct range ranges[MOST_THREADS]; /* of which memory holds those that were used */
};

static struct region pyattn_regions[MOST_REGIONS];
static uint32_t pyattn_epoch; /* counts regions; sleeping threads wait for it to move */
static uint32_t pyattn_sleepers;
static int pyattn_regions_used, pyattn_workers;
static int64_t pyattn_loaded_until;
static int64_t pyattn_spin = SPIN;                 /* 0: OMP_WAIT_POLICY=passive */
static _Thread_local struct region *pyattn_region; /* the caller's, during it */
static pthread_mutex_t pyattn_making = PTHREAD_MUTEX_INITIALIZER;
static int64_t pyattn_ask_again; /* after the system refused a thread */
static size_t pyattn_stack_size; /* what OMP_STACKSIZE asks for; 0 for the system's own */

static int64_t pyattn_nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

#ifdef __linux__

static void pyattn_sleep(uint32_t *word, uint32_t value) {
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void pyattn_wake(uint32_t *word, int threads) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, threads); }

static void pyattn_renew_sleep(void) {}

#else

static pthread_mutex_t pyattn_sleeping = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t pyattn_awake = PTHREAD_COND_INITIALIZER;

static void pyattn_renew_sleep(void) { /* in a forked child: those who slept, or held it, are not there */
  pthread_mutex_init(&pyattn_sleeping, NULL);
  pthread_cond_init(&pyattn_awake, NULL);
}

static void pyattn_sleep(uint32_t *word, uint32_t value) {
  pthread_mutex_lock(&pyattn_sleeping);
  if (LOAD(word) == value) pthread_cond_wait(&pyattn_awake, &pyattn_sleeping);
  pthread_mutex_unlock(&pyattn_sleeping);
}

static void pyattn_wake(uint32_t *word, int threads) {
  (void)word, (void)threads;
  pthread_mutex_lock(&pyattn_sleeping);
  pthread_cond_broadcast(&pyattn_awake);
  pthread_mutex_unlock(&pyattn_sleeping);
}

#endif

static void pyattn_relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/* Looks at a word for so many nanoseconds; returns whether it has another value than this. */
static int pyattn_look_out(const uint32_t *word, uint32_t value, int64_t spin) {
  const int64_t begin = pyattn_nanoseconds();
  int64_t now = begin;
  if (begin < LOAD(&pyattn_loaded_until) && spin > BRIEF) spin = BRIEF;
  while (now - begin < spin) {
    for (int i = 0; i < 16; i++) {
      if (LOAD(word) != value) return 1;
      pyattn_relax();
    }
    const int64_t last = now;
    now = pyattn_nanoseconds();
    if (now - last > HOLE) STORE(&pyattn_loaded_until, now + LOADED);
  }
  return LOAD(word) != value;
}

/* Waits until it has; `sleepers` counts who sleeps. */
static void pyattn_wait(uint32_t *word, uint32_t value, uint32_t *sleepers) {
  ADD(sleepers, 1);
  while (LOAD(word) == value) pyattn_sleep(word, value);
  ADD(sleepers, -1);
}

#ifdef __linux__

static int pyattn_cpu(void) { return sched_getcpu(); }

static int pyattn_thread(void) { return (int)syscall(SYS_gettid); }

/* Moves a thread to a core, or away from it, at once; then it may run wherever it could before. */
static void pyattn_move(int thread, int cpu, int away) {
  cpu_set_t allowed, wanted;
  if (cpu < 0 || sched_getaffinity(thread, sizeof allowed, &allowed) || !CPU_ISSET(cpu, &allowed)) return;
  CPU_ZERO(&wanted);
  CPU_SET(cpu, &wanted);
  if (away) CPU_XOR(&wanted, &wanted, &allowed);
  if (CPU_COUNT(&wanted) == 0) return;
  sched_setaffinity(thread, sizeof wanted, &wanted);
  sched_setaffinity(thread, sizeof allowed, &allowed);
}

#else

static int pyattn_cpu(void) { return -1; }
static int pyattn_thread(void) { return 0; }
static void pyattn_move(int thread, int cpu, int away) { (void)thread, (void)cpu, (void)away; }

#endif

/* The next piece of a thread's own range, or another's last; -1: there are no more. */
static ptrdiff_t pyattn_take_piece(struct region *region, int thread) {
  for (int i = 0; i < region->team; i++) {
    uint64_t *left = &region->ranges[(thread + i) % region->team].left;
    uint64_t range = LOAD(left);
    for (uint32_t first, end; first = (uint32_t)range, end = range >> 32, first < end;) {
      const uint64_t rest = i == 0 ? range + 1 : range - (UINT64_C(1) << 32);
      if (REPLACE(left, &range, rest)) return i == 0 ? first : end - 1;
    }
  }
  return -1;
}

static void pyattn_take_part(struct region *region, int thread) {
  const ptrdiff_t count = region->count, piece = region->piece;
  for (ptrdiff_t i; (i = pyattn_take_piece(region, thread)) >= 0;) {
    const ptrdiff_t first = i * piece, end = count - first < piece ? count : first + piece;
    for (ptrdiff_t turn = first; turn < end; turn++) region->turn(region->context, turn, thread);
  }
}

/* As one of the pool's threads: in the place of the team that its number has, if it is free. Where all cores are busy
 * the system wakes it on the caller's, which would do none of its own work meanwhile. */
static void pyattn_join(struct region *region, int number, int self) {
  uint32_t gate = LOAD(&region->gate);
  while (gate & OPEN) {
    if (!REPLACE(&region->gate, &gate, gate + USER)) continue;
    const int others = region->team - 1;
    if (region->cpu == pyattn_cpu()) pyattn_move(self, region->cpu, 1);
    for (int i = 0; i < others; i++) {
      const int thread = 1 + (number + i) % others;
      if (TAKE(&region->ranges[thread].taken)) continue;
      STORE(&region->ranges[thread].thread, self);
      pyattn_take_part(region, thread);
      STORE(&region->ranges[thread].thread, 0);
      break;
    }
    if (ADD(&region->gate, -USER) == 0 && LOAD(&region->waited_for)) pyattn_wake(&region->gate, 1);
    return;
  }
}

/* Nobody enters any more; waits until all others have left. One that takes longer than `patience` has lost its core to
 * another process, for some milliseconds: it gets the caller's, which is about to sleep. */
static void pyattn_close(struct region *region, int64_t patience) {
  uint32_t gate = __atomic_and_fetch(&region->gate, ~(uint32_t)OPEN, __ATOMIC_SEQ_CST);
  for (; gate != 0; gate = LOAD(&region->gate)) {
    if (pyattn_look_out(&region->gate, gate, patience)) continue;
    for (int i = 1; i < region->team; i++) {
      const int thread = LOAD(&region->ranges[i].thread);
      if (thread == 0) continue;
      pyattn_move(thread, pyattn_cpu(), 0);
      break;
    }
    pyattn_wait(&region->gate, gate, &region->waited_for);
  }
}

/* One that nobody owns, if there is one. */
static struct region *pyattn_own_region(void) {
  for (int i = 0; i < MOST_REGIONS; i++) {
    struct region *region = &pyattn_regions[i];
    if (LOAD(&region->owned) || TAKE(&region->owned)) continue;
    int used = LOAD(&pyattn_regions_used);
    while (used <= i && !REPLACE(&pyattn_regions_used, &used, i + 1)) continue;
    return region;
  }
  return NULL;
}

/* Calls turn(context, i, thread) for each i < count, on at most `team` threads, as pyattn_team has granted them; the
 * caller is thread 0. `piece` turns that follow each other are taken at once. */
static void pyattn_run(int team, ptrdiff_t count, ptrdiff_t piece, pyattn_turn turn, const void *context) {
  const ptrdiff_t pieces = (count + piece - 1) / piece;
  struct region *region = NULL;
  if (team > pieces) team = (int)pieces;
  if (team > 1 && pieces < UINT32_MAX) region = pyattn_own_region();
  if (region == NULL) {
    for (ptrdiff_t i = 0; i < count; i++) turn(context, i, 0);
    return;
  }
  region->team = team, region->count = count, region->piece = piece;
  region->turn = turn, region->context = context, region->cpu = pyattn_cpu();
  for (int i = 0; i < team; i++) {
    const uint64_t first = (uint64_t)(pieces / team * i + (i < pieces % team ? i : pieces % team));
    const uint64_t end = first + (uint64_t)(pieces / team + (i < pieces % team));
    region->ranges[i].left = first | end << 32;
    region->ranges[i].taken = region->ranges[i].thread = 0;
  }
  pyattn_region = region;
  STORE(&region->gate, OPEN);
  ADD(&pyattn_epoch, 1);
  if (LOAD(&pyattn_sleepers) > 0) pyattn_wake(&pyattn_epoch, team - 1);
  const int64_t begin = pyattn_nanoseconds();
  pyattn_take_part(region, 0);
  pyattn_close(region, PATIENCE + (pyattn_nanoseconds() - begin) / pieces * team * 2);
  pyattn_region = NULL;
  STORE(&region->owned, 0);
}

/* The places to which OpenMP binds threads (OMP_PROC_BIND, OMP_PLACES); 0 if it does not. */
static inline int pyattn_places(void) {
#if defined(_OPENMP) && defined(__linux__)
  return omp_get_proc_bind() == omp_proc_bind_false ? 0 : omp_get_num_places();
#else
  return 0;
#endif
}

/* Those of the pool are bound likewise; they would share the place of the thread that made them. */
static void pyattn_bind(int number) {
#if defined(_OPENMP) && defined(__linux__)
  const int places = pyattn_places(), place = places > 0 ? number % places : 0;
  const int count = places > 0 ? omp_get_place_num_procs(place) : 0;
  int *cpus = calloc((size_t)count + 1, sizeof *cpus);
  cpu_set_t set;
  CPU_ZERO(&set);
  if (cpus != NULL && count > 0) {
    omp_get_place_proc_ids(place, cpus);
    for (int i = 0; i < count; i++) CPU_SET((size_t)cpus[i], &set);
    sched_setaffinity(0, sizeof set, &set);
  }
  free(cpus);
#else
  (void)number;
#endif
}

/* A thread of the pool. */
static void *pyattn_work(void *argument) {
  const int number = (int)(intptr_t)argument, self = pyattn_thread();
  pyattn_bind(number + 1);
  for (;;) {
    const uint32_t epoch = LOAD(&pyattn_epoch);
    for (int i = 0; i < LOAD(&pyattn_regions_used); i++) pyattn_join(&pyattn_regions[i], number, self);
    if (!pyattn_look_out(&pyattn_epoch, epoch, pyattn_spin)) pyattn_wait(&pyattn_epoch, epoch, &pyattn_sleepers);
  }
  return NULL;
}

/* Makes threads until there are so many, or the system refuses one. */
static void pyattn_make(int wanted) {
  sigset_t all, before;
  pthread_attr_t attributes;
  pthread_mutex_lock(&pyattn_making);
  const int64_t now = pyattn_nanoseconds();
  if (now >= pyattn_ask_again && pthread_attr_init(&attributes) == 0) {
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    if (pyattn_stack_size > 0) pthread_attr_setstacksize(&attributes, pyattn_stack_size);
    sigfillset(&all); /* signals are for the threads of the program */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (pyattn_workers < wanted) {
      pthread_t thread;
      if (pthread_create(&thread, &attributes, pyattn_work, (void *)(intptr_t)pyattn_workers)) {
        pyattn_ask_again = now + ASK_AGAIN;
        break;
      }
      ADD(&pyattn_workers, 1);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
  }
  pthread_mutex_unlock(&pyattn_making);
}

/* Of so many threads that a region could use, how many it may have. */
static int pyattn_team(int threads) {
  if (threads < 2 || pyattn_region != NULL) return 1; /* the latter in a handler of signals, called amid a region */
  if (threads > MOST_THREADS) threads = MOST_THREADS;
  if (threads - 1 > LOAD(&pyattn_workers)) pyattn_make(threads - 1);
  const int most = LOAD(&pyattn_workers) + 1;
  return threads < most ? threads : most;
}

/* Threads do not survive a fork. A region of the forking thread, whose handler of signals forks, is left by them
 * before, so that parent and child end it alone; those of other threads are not the child's. */
static void pyattn_before_fork(void) {
  if (pyattn_region != NULL) pyattn_close(pyattn_region, PATIENCE);
  pthread_mutex_lock(&pyattn_making);
}

static void pyattn_in_parent(void) { pthread_mutex_unlock(&pyattn_making); }

static void pyattn_in_child(void) {
  pthread_mutex_unlock(&pyattn_making);
  for (int i = 0; i < MOST_REGIONS; i++) {
    pyattn_regions[i].gate = pyattn_regions[i].waited_for = 0;
    pyattn_regions[i].owned = pyattn_region == &pyattn_regions[i];
  }
  pyattn_workers = 0;
  pyattn_sleepers = 0;
  pyattn_renew_sleep();
}
