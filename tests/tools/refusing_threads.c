/* Preloaded into a process (LD_PRELOAD), refuses threads beyond a number: tests/test_threads.py.
 *
 * As the system does under a limit of processes: while so many run, and not once and for all.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

static long running = 1, most = 1L << 40, refused;

/* So many more than run now may run from now on, 2^40 for any number; returns how many have been refused until now. */
long allow_threads(long more) {
  most = more >= 1L << 40 ? more : __atomic_load_n(&running, __ATOMIC_SEQ_CST) + more;
  return __atomic_exchange_n(&refused, 0, __ATOMIC_SEQ_CST);
}

struct start {
  void *(*routine)(void *);
  void *argument;
};

static void ended(void *unused) {
  (void)unused;
  __atomic_sub_fetch(&running, 1, __ATOMIC_SEQ_CST);
}

static void *run(void *memory) {
  struct start start = *(struct start *)memory;
  void *result;
  free(memory);
  pthread_cleanup_push(ended, NULL);
  result = start.routine(start.argument);
  pthread_cleanup_pop(1);
  return result;
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*routine)(void *), void *argument) {
  int (*create)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *) = dlsym(RTLD_NEXT, "pthread_create");
  struct start *start = malloc(sizeof(struct start));
  int error = ENOMEM;
  if (start == NULL) return ENOMEM;
  *start = (struct start){routine, argument};
  if (__atomic_add_fetch(&running, 1, __ATOMIC_SEQ_CST) > most)
    error = EAGAIN;
  else
    error = create(thread, attributes, run, start);
  if (error) {
    ended(NULL);
    __atomic_add_fetch(&refused, 1, __ATOMIC_SEQ_CST);
    free(start);
  }
  return error;
}
