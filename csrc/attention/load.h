/* Keys and values of 16-bit elements, converted once for all blocks of a task to what tiles read: float32, or
 * dot-product groups of bfloat16. Those of float32 and float64 are read in place. */
#ifndef PYATTN_ATTENTION_LOAD_H
#define PYATTN_ATTENTION_LOAD_H

#include "state.h"

static ptrdiff_t prefill_load_bytes(const struct pyattn_attention *call) {
  if (ELEMENT_BYTES == sizeof(real)) return 0;
  const ptrdiff_t width = round_up(call->width, LANES * GROUP) / GROUP,
                  value_width = round_up(call->value_width, LANES);
  return (width + value_width / GROUP) * PYATTN_KEY_BLOCK * (ptrdiff_t)sizeof(real);
}

/* Rows of keys to dot-product groups: [key][group of features] */
static void load_keys(const struct pyattn_attention *call, const char *key, ptrdiff_t count, real *target) {
  const ptrdiff_t row = call->operands[PYATTN_KEY].row, column = call->operands[PYATTN_KEY].column;
  const ptrdiff_t ahead = PYATTN_KEY_BLOCK * row;
  for (ptrdiff_t j = 0; j < count; j++, key += row) {
    ptrdiff_t d = 0;
    for (; column == ELEMENT_BYTES && d + LANES * GROUP <= call->width; d += LANES * GROUP, target += LANES) {
      store(target, load_groups(key + d * ELEMENT_BYTES, ELEMENT_BYTES, LANES * GROUP));
      __builtin_prefetch(key + d * ELEMENT_BYTES + ahead, 0, 3);
    }
    for (; d < call->width; d += LANES * GROUP, target += LANES) {
      const ptrdiff_t columns = call->width - d < LANES * GROUP ? call->width - d : LANES * GROUP;
      store(target, load_groups(key + d * column, column, columns));
    }
  }
}

/* Rows of values, joined to dot-product groups of keys: [group of keys][feature] */
static void load_values(const struct pyattn_attention *call, const char *value, ptrdiff_t count, real *target) {
  const ptrdiff_t row = call->operands[PYATTN_VALUE].row, column = call->operands[PYATTN_VALUE].column;
  const ptrdiff_t ahead = PYATTN_KEY_BLOCK * row;
  for (ptrdiff_t j = 0; j < count; j += GROUP, value += GROUP * row) {
    ptrdiff_t d = 0;
    for (; column == ELEMENT_BYTES && j + GROUP <= count && d + LANES <= call->value_width;
         d += LANES, target += LANES) {
      const char *low = value + d * ELEMENT_BYTES;
      store(target, join_rows(low, low + row, ELEMENT_BYTES, LANES));
      __builtin_prefetch(low + ahead, 0, 3);
      if (GROUP == 2) __builtin_prefetch(low + ahead + row, 0, 3);
    }
    for (; d < call->value_width; d += LANES, target += LANES) {
      const ptrdiff_t columns = call->value_width - d < LANES ? call->value_width - d : LANES;
      const char *low = value + d * column;
      store(target, join_rows(low, j + 1 < count ? low + row : NULL, column, columns));
    }
  }
}

static void prefill_load(const struct pyattn_attention *call, struct pyattn_keys *keys, char *scratch) {
  const struct pyattn_array *key = &call->operands[PYATTN_KEY], *value = &call->operands[PYATTN_VALUE];
  const int keys_are_groups = GROUP == 2 && key->column == ELEMENT_BYTES && call->width % GROUP == 0;
  keys->finite = -1;
  keys->tile_key = keys->key + keys->first * key->row;
  keys->tile_key_row = key->row;
  keys->tile_key_step = GROUP * key->column;
  keys->tile_value = keys->value ? keys->value + keys->first * value->row : NULL;
  keys->tile_value_step = value->row;
  keys->tile_value_column = value->column;
  if (ELEMENT_BYTES == sizeof(real)) return;
  if (!keys_are_groups) {
    load_keys(call, keys->tile_key, keys->count, (real *)scratch);
    keys->tile_key = scratch;
    keys->tile_key_row = round_up(call->width, LANES * GROUP) / GROUP * (ptrdiff_t)sizeof(real);
    keys->tile_key_step = sizeof(real);
    scratch += keys->tile_key_row * PYATTN_KEY_BLOCK;
  }
  if (keys->value) {
    load_values(call, keys->tile_value, keys->count, (real *)scratch);
    keys->tile_value = scratch;
    keys->tile_value_step = round_up(call->value_width, LANES) * (ptrdiff_t)sizeof(real);
    keys->tile_value_column = sizeof(real);
  }
}

#endif
