/* Sums of products on the tiles of AMX: up to 32 rows by a panel of at most three vectors of features.
 *
 * A tile has 16 lines of 64 bytes. One of the right operand holds a vector of features for each of 16 dot-product
 * groups, as a panel lies; one of the left operand the same groups of up to 16 rows. These are a step. Rows of a call
 * are two halves, each with three tiles of sums, so that a line of the panel comes from the second-level cache once for
 * two products, which take longer than it does. Of odd numbers of rows the halves share one, whose sums are the same.
 *
 * A step adds to each sum the products of the first elements of its groups and of the others, summed apart: the bits
 * are not those of multiply_add, but a row's depend on nothing but the row. */
#pragma once

#include "format.h"

enum { TILE_LINES = 16, TILE_LINE = 64 };

/* Tiles, which instructions name, so that these are macros. */
#define FIRST 0, 1, 2  /* sums of the first half */
#define SECOND 3, 4, 5 /* and of the second */
#define LEFT 6
#define RIGHT 7

#if ELEMENT == I8
#define MULTIPLY_TILES(sums) _tile_dpbusd(sums, LEFT, RIGHT)
#else
#define MULTIPLY_TILES(sums) _tile_dpbf16ps(sums, LEFT, RIGHT)
#endif

struct tile_shapes { /* as ldtilecfg reads them */
  uint8_t palette, start_row, reserved[14];
  uint16_t line_bytes[16];
  uint8_t lines[16];
};

/* Makes all tiles zeros, of sums of so many rows and steps of so many groups. */
INLINE void shape_tiles(int rows, int groups) {
  struct tile_shapes shapes = {.palette = 1};
  UNROLL for (int i = 0; i < 8; i++) shapes.line_bytes[i] = TILE_LINE, shapes.lines[i] = (uint8_t)rows;
  shapes.line_bytes[LEFT] = (uint16_t)(4 * groups), shapes.lines[RIGHT] = (uint8_t)groups;
  __asm__ volatile("" : : "r"(&shapes) : "memory"); /* the intrinsic does not say that it reads all of them */
  _tile_loadconfig(&shapes);
}

/* Adds a step's products to the sums of a half. */
#define ADD_STEP(half, left, row, right, vectors) ADD_STEP_TO(half, left, row, right, vectors)
#define ADD_STEP_TO(sums_0, sums_1, sums_2, left, row, right, vectors)    \
  do {                                                                    \
    _tile_loadd(LEFT, left, row);                                         \
    _tile_loadd(RIGHT, right, (vectors) * TILE_LINE);                     \
    MULTIPLY_TILES(sums_0);                                               \
    if ((vectors) > 1) {                                                  \
      _tile_loadd(RIGHT, (right) + TILE_LINE, (vectors) * TILE_LINE);     \
      MULTIPLY_TILES(sums_1);                                             \
    }                                                                     \
    if ((vectors) > 2) {                                                  \
      _tile_loadd(RIGHT, (right) + 2 * TILE_LINE, (vectors) * TILE_LINE); \
      MULTIPLY_TILES(sums_2);                                             \
    }                                                                     \
  } while (0)

/* Moves the sums of a half, by _tile_loadd or _tile_stored. */
#define MOVE_SUMS(move, half, sums, vectors) MOVE_SUMS_OF(move, half, sums, vectors)
#define MOVE_SUMS_OF(move, sums_0, sums_1, sums_2, sums, vectors)                   \
  do {                                                                              \
    move(sums_0, sums, (vectors) * TILE_LINE);                                      \
    if ((vectors) > 1) move(sums_1, (sums) + TILE_LINE, (vectors) * TILE_LINE);     \
    if ((vectors) > 2) move(sums_2, (sums) + 2 * TILE_LINE, (vectors) * TILE_LINE); \
  } while (0)

/* sums: `vectors` vectors for each row. */
INLINE void multiply_tiles(const struct pyattn_packed_rows *input, const char *packed, char *sums, int rows,
                           int vectors, ptrdiff_t groups) {
  const int halves = rows > TILE_LINES, half = halves ? (rows + 1) / 2 : rows, rest = (int)(groups % TILE_LINES);
  const ptrdiff_t row = input->row, second = rows - half, step = (ptrdiff_t)vectors * TILE_LINES * TILE_LINE;
  const char *left = input->data, *right = packed;
  char *other = sums + second * vectors * TILE_LINE;
  shape_tiles(half, groups < TILE_LINES ? rest : TILE_LINES);
  for (ptrdiff_t t = groups / TILE_LINES; t > 0; t--, left += TILE_LINE, right += step) {
    ADD_STEP(FIRST, left, row, right, vectors);
    if (halves) ADD_STEP(SECOND, left + second * row, row, right, vectors);
  }
  if (rest && groups > TILE_LINES) { /* other shapes, with which the sums begin at zero */
    MOVE_SUMS(_tile_stored, FIRST, sums, vectors);
    if (halves) MOVE_SUMS(_tile_stored, SECOND, other, vectors);
    shape_tiles(half, rest);
    MOVE_SUMS(_tile_loadd, FIRST, sums, vectors);
    if (halves) MOVE_SUMS(_tile_loadd, SECOND, other, vectors);
  }
  if (rest) {
    ADD_STEP(FIRST, left, row, right, vectors);
    if (halves) ADD_STEP(SECOND, left + second * row, row, right, vectors);
  }
  MOVE_SUMS(_tile_stored, FIRST, sums, vectors);
  if (halves) MOVE_SUMS(_tile_stored, SECOND, other, vectors);
  _tile_release();
}

/* In registers, as probe.c's. */
INLINE double probe_of_tiles(ptrdiff_t rounds) {
  char line[TILE_LINES * TILE_LINE];
  for (size_t i = 0; i < sizeof line; i++)
    line[i] = (char)(ELEMENT == I8 || i % 2 == 0 ? 37 * i : 0x3e); /* about 1/6 */
  shape_tiles(TILE_LINES, TILE_LINES);
  __asm__ volatile("" : : "r"(line) : "memory");
  _tile_loadd(LEFT, line, TILE_LINE);
  _tile_loadd(RIGHT, line, TILE_LINE);
  for (ptrdiff_t i = 0; i < rounds; i++) {
    MULTIPLY_TILES(0);
    MULTIPLY_TILES(1);
    MULTIPLY_TILES(2);
    MULTIPLY_TILES(3);
    MULTIPLY_TILES(4);
    MULTIPLY_TILES(5);
  }
  _tile_release();
  return (double)rounds * 6 * TILE_LINES * TILE_LINES * LANES * GROUP * 2;
}
