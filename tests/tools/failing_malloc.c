/* Preloaded into a process (LD_PRELOAD), makes allocations of the calling thread fail: failing_malloc.py.
 *
 * Those fail that pyattn's modules ask for, and those of arrays, for which NumPy is given the functions below. The rest
 * is spared, since nobody above could do anything about it: libgomp, the dynamic linker and Rust's libraries end the
 * process, CPython's compiler and locks and NumPy's iterators raise SystemError or RuntimeError.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *old, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);

static __thread long before, failing, failed;

/* Of the thread's next allocations, `skip` succeed and so many after them fail. */
void fail_allocations(long skip, long count) {
  before = skip;
  failing = count;
  failed = 0;
}

/* Ends that; returns how many have failed. */
long stop_failing(void) {
  failing = 0;
  return failed;
}

static int fails(void) {
  if (failing == 0 || before-- > 0) return 0;
  --failing;
  ++failed;
  errno = ENOMEM;
  return 1;
}

static int fails_for(void *caller) {
  Dl_info place;
  return failing > 0 && dladdr(caller, &place) != 0 && strstr(place.dli_fname, "/pyattn/_core/") != NULL && fails();
}

#define FAILS fails_for(__builtin_return_address(0))

void *malloc(size_t size) { return FAILS ? NULL : __libc_malloc(size); }

void *calloc(size_t count, size_t size) { return FAILS ? NULL : __libc_calloc(count, size); }

void *realloc(void *old, size_t size) { return FAILS ? NULL : __libc_realloc(old, size); }

void *aligned_alloc(size_t alignment, size_t size) { return FAILS ? NULL : __libc_memalign(alignment, size); }

int posix_memalign(void **result, size_t alignment, size_t size) {
  void *memory = FAILS ? NULL : __libc_memalign(alignment, size);
  if (memory == NULL) return ENOMEM;
  *result = memory;
  return 0;
}

static void *array_malloc(void *context, size_t size) {
  (void)context;
  return fails() ? NULL : __libc_malloc(size);
}

static void *array_calloc(void *context, size_t count, size_t size) {
  (void)context;
  return fails() ? NULL : __libc_calloc(count, size);
}

static void *array_realloc(void *context, void *old, size_t size) {
  (void)context;
  return fails() ? NULL : __libc_realloc(old, size);
}

static void array_free(void *context, void *memory, size_t size) {
  (void)context;
  (void)size;
  free(memory);
}

/* NumPy's PyDataMem_Handler (its NEP 49). */
struct {
  char name[127];
  unsigned char version;
  void *context;
  void *(*malloc)(void *, size_t);
  void *(*calloc)(void *, size_t, size_t);
  void *(*realloc)(void *, void *, size_t);
  void (*free)(void *, void *, size_t);
} array_handler = {"failing", 1, NULL, array_malloc, array_calloc, array_realloc, array_free};
