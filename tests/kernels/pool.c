/* Callers at once, regions of all sizes: each turn is taken once, by a thread of the team. Ends with 0 if so. */
#define _GNU_SOURCE
#include "pool.h"

#include <stdio.h>

enum { CALLERS = 5, MOST_TURNS = 300, REGIONS = 3000, TEAM = 4 };

struct work {
  int team;
  int taken[MOST_TURNS];
};

static int wrong;

static void take(const void *context, ptrdiff_t number, int thread) {
  struct work *work = (struct work *)context;
  work->taken[number]++; /* a turn that two threads took is a race, which the sanitizer sees too */
  if (thread < 0 || thread >= work->team) ADD(&wrong, 1);
}

static void *call(void *argument) {
  uint32_t state = (uint32_t)(intptr_t)argument;
  for (int region = 0; region < REGIONS; region++) {
    state = state * 1664525 + 1013904223;
    const ptrdiff_t count = state >> 8 & 1 ? state >> 16 & 7 : (state >> 16) % MOST_TURNS, piece = 1 + (state >> 9 & 3);
    struct work work = {0};
    work.team = pyattn_team(1 + (int)(state >> 12 & 3));
    pyattn_run(work.team, count, piece, take, &work);
    for (ptrdiff_t i = 0; i < MOST_TURNS; i++) {
      if (work.taken[i] != (i < count)) ADD(&wrong, 1);
    }
    if (region % 1000 == 999) { /* until the others sleep */
      struct timespec pause = {0, 3 * SPIN};
      nanosleep(&pause, NULL);
    }
  }
  return NULL;
}

int main(void) {
  pthread_t threads[CALLERS];
  if (pyattn_team(TEAM) != TEAM) return 2;
  for (intptr_t i = 0; i < CALLERS; i++) pthread_create(&threads[i], NULL, call, (void *)(i + 1));
  for (int i = 0; i < CALLERS; i++) pthread_join(threads[i], NULL);
  if (wrong) fprintf(stderr, "%d wrong\n", wrong);
  return wrong != 0;
}
