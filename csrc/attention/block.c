/* How a block begins, how results over its splits of keys are merged, and how it finishes, on either path.
 *
 * Results over disjoint keys, (max, sum, o) and (max', sum', o'), are merged by the factors 2^(max - joint max) and
 * 2^(max' - joint max). */
#include "dropout.h"

static ptrdiff_t state_bytes(const struct pyattn_attention *call, int vectors) {
  const ptrdiff_t arrays = query_groups(call) * vectors + 2 * (output_vectors(call, vectors) + call->top_k * vectors);
  return round_up(sizeof(struct attention_state), PYATTN_ALIGNMENT) + arrays * (ptrdiff_t)sizeof(vec);
}

static void begin_split(const struct pyattn_query_block *block) {
  struct partial *split = &state_of(block)->split;
  for (int n = 0; n < block->vectors; n++) {
    split->max[n] = splat(-INFINITY);
    split->sum[n] = NOTHING;
  }
  split->empty = 1;
  if (block->call->path->by_row) clear_output(block, split); /* which decode adds to */
}

/* Which multiplication takes on the scale, and log2(e) where it can; int8 keys are in units of their own. */
static void choose_scales(const struct pyattn_query_block *block) {
  const struct pyattn_attention *call = block->call;
  struct attention_state *state = state_of(block);
  /* A finite bias stays finite only without log2(e): the most negative number, used as a mask, differs from -inf. */
  const int biased = call->mask_kind == PYATTN_MASK_REAL || block->data[PYATTN_BIAS] || call->index_bias;
  const double units = biased ? 1 : LOG2_E;
  const double scale = call->softcap > 0 ? call->scale / call->softcap : call->scale * units;
  const int plain = !biased && !block->data[PYATTN_ALIBI_SLOPES] && call->softcap <= 0 && scale > 0;
  state->query_scale = (real)(scale / KEY_UNIT);
  state->score_scale = GROUP == 1 || plain ? 1 : (real)scale;
  state->cap_scale = (real)(call->softcap * units);
  state->to_log2 = GROUP == 1 || !plain ? (real)(LOG2_E / units) : (real)scale;
  state->to_nats = biased ? 1 : LN_2 * state->to_log2;
  state->exponential = biased ? EXP_SUBTRACT_FIRST : state->to_log2 == 1 ? EXP_BASE_2 : EXP_FUSED;
  const struct pyattn_array slopes = operand(block, PYATTN_ALIBI_SLOPES);
  for (int n = 0; slopes.data && n < block->vectors; n++) {
    for (int i = 0; i < LANES; i++) {
      const char *slope = slopes.data + lane_row(block, n, i) / block->length * slopes.head;
      state->slope[n][i] = (real)(load_real(slope) * units);
    }
  }
}

/* Of each row, 32 bits of its seed, head and number: ../dropout.h. */
static void begin_dropout(const struct pyattn_query_block *block) {
  const struct pyattn_attention *call = block->call;
  struct attention_state *state = state_of(block);
  state->dropped_below = dropped_below(call->dropout);
  if (state->dropped_below == 0) return;
  for (int n = 0; n < block->vectors; n++) {
    for (int i = 0; i < LANES; i++) {
      const ptrdiff_t r = lane_row(block, n, i), length = block->length;
      const uint64_t head = (uint64_t)(block->head_number + (block->rows > length ? r / length : 0));
      const uint64_t row = (uint64_t)(block->query_number + block->first + (block->rows > length ? r % length : r));
      state->dropped_rows[n][i] = dropout_row(call->dropout_seed, head, row);
    }
  }
}

/* What lies apart from all that short sequences have touched so far: the rows of the output, and of the next queries.
 */
static void expect_rows(const struct pyattn_query_block *block) {
  const struct pyattn_attention *call = block->call;
  struct attention_state *state = state_of(block);
  const struct pyattn_array *query = &call->operands[PYATTN_QUERY], *out = &call->operands[PYATTN_OUT];
  const int soon = block->kv_length <= PYATTN_SPLIT && block->rows <= block->length;
  const int reads = soon && block->next_query && query->column == ELEMENT_BYTES;
  const int writes = soon && out->column == ELEMENT_BYTES;
  state->read_ahead =
      (struct strip){block->next_query, query->row, call->width * ELEMENT_BYTES, reads ? block->rows : 0};
  state->written_ahead =
      (struct strip){block->data[PYATTN_OUT], out->row, call->value_width * ELEMENT_BYTES, writes ? block->rows : 0};
}

static void begin(const struct pyattn_query_block *block) {
  const struct pyattn_attention *call = block->call;
  struct attention_state *state = state_of(block);
  state->q = (vec *)(block->scratch + round_up(sizeof *state, PYATTN_ALIGNMENT));
  state->split.o = state->q + query_groups(call) * block->vectors;
  state->total.o = state->split.o + output_vectors(call, block->vectors);
  state->best = state->total.o + output_vectors(call, block->vectors);
  state->best_key = (ivec *)(state->best + call->top_k * block->vectors);
  state->has_total = 0;
  state->capped = NULL;
  begin_dropout(block);
  expect_rows(block);
  choose_scales(block);
  const word position = (word)(block->query_offset + block->first), last = (word)block->rows - 1;
  for (int n = 0; n < block->vectors; n++) {
    ivec row;
    for (int i = 0; i < LANES; i++) row[i] = i;
    row += n * LANES;
    row = (ivec)choose(row > last, (vec)(last - (ivec){0}), (vec)row); /* as lane_row does */
    for (int i = 0; i < LANES && block->rows > block->length; i++) row[i] %= (word)block->length;
    state->position[n] = position + row;
  }
  begin_split(block);
  if (call->width > PYATTN_WIDTH_BLOCK) return;
  if (call->path->along_keys)
    load_query_rows(block, 0);
  else
    load_queries(block, 0);
}

/* (max, sum) of vector n of the total and another result, merged; returns the factors of their weighted sums. */
INLINE void merge_sums(struct attention_state *state, int n, vec max, vec sum, vec *old, vec *new) {
  struct partial *total = &state->total;
  const vec joint = vmax(total->max[n], max), base = choose(joint == -INFINITY, (vec){0}, joint);
  *old = exp2_of_negative((total->max[n] - base) * state->to_log2);
  *new = exp2_of_negative((max - base) * state->to_log2);
  total->max[n] = joint;
  total->sum[n] = total->sum[n] * *old + sum * *new;
}

/* Merges the present split into the total, or all that another state has seen. For the first split buffers are swapped
 * instead: bitwise the same as adding to nothing, one pass less. */
static void merge_split(const struct pyattn_query_block *block, char *from) {
  const int by_row = block->call->path->by_row;
  struct attention_state *state = state_of(block), *other = (struct attention_state *)from;
  struct partial *part = other != state && other->has_total ? &other->total : &other->split;
  vec *total = state->total.o, old[TILE_VECTORS], new[TILE_VECTORS];
  if (part->empty) clear_output(block, part);
  if (other == state && !state->has_total) {
    state->total = state->split;
    state->split.o = total;
    state->has_total = 1;
    return;
  }
  const vec *o = part->o;
  for (int n = 0; n < block->vectors; n++) merge_sums(state, n, part->max[n], part->sum[n], &old[n], &new[n]);
  const ptrdiff_t lines = by_row ? block->rows : block->call->value_width;
  const ptrdiff_t vectors = by_row ? value_vectors(block->call) : block->vectors;
  for (ptrdiff_t line = 0; line < lines; line++) {
    for (ptrdiff_t n = 0; n < vectors; n++, total++, o++) {
      const vec of_total = by_row ? splat(old[0][line]) : old[n], of_o = by_row ? splat(new[0][line]) : new[n];
      *total = *total * of_total + *o * of_o;
    }
  }
}

static void merge(const struct pyattn_query_block *block, char *from) {
  merge_split(block, from);
  begin_split(block);
}

/* Sinks join the denominator, Xiao et al. 2023 (arXiv:2309.17453), equation 2; -inf is none. Returns the factor of the
 * weighted sums so far. */
static vec add_sinks(const struct pyattn_query_block *block, int n) {
  struct attention_state *state = state_of(block);
  const struct pyattn_array sinks = operand(block, PYATTN_SINKS);
  vec sink, old, new;
  if (!sinks.data) return splat(1);
  for (int i = 0; i < LANES; i++) {
    sink[i] = load_real(sinks.data + lane_row(block, n, i) / block->length * sinks.head);
  }
  sink *= (real)(LOG2_E / state->to_log2);
  merge_sums(state, n, sink, choose(sink == -INFINITY, NOTHING, splat(1)), &old, &new);
  return old;
}

/* Writes lse, max and moments of the rows of vector n, whose total is complete; seen: their largest logits without
 * sinks. Returns 1 / sum, or 0 for a row that saw nothing. */
static vec finish_sums(const struct pyattn_query_block *block, int n, vec seen) {
  const struct attention_state *state = state_of(block);
  const struct partial *total = &state->total;
  const struct pyattn_array lse = operand(block, PYATTN_LSE), maxima = operand(block, PYATTN_MAX);
  const struct pyattn_array moments = operand(block, PYATTN_MOMENTS);
  const int wanted = lse.data || maxima.data || moments.data;
  for (ptrdiff_t i = 0; wanted && i < LANES && n * LANES + i < block->rows; i++) {
    const ptrdiff_t r = n * LANES + i;
    const double max = total->max[n][i], sum = total->sum[n][i];
    if (lse.data) store_real(operand_row(block, &lse, r), (real)(max * state->to_nats + LN_2 * log2(sum)));
    if (maxima.data) { /* the running maximum passes over NaN */
      const double most = isnan(sum) && seen[i] < (real)INFINITY ? NAN : state->to_nats * (double)seen[i];
      store_real(operand_row(block, &maxima, r), (real)most);
    }
    if (moments.data) {
      char *row = operand_row(block, &moments, r);
      store_real(row, total->max[n][i]);
      store_real(row + moments.column, total->sum[n][i]);
    }
  }
  return choose((ivec)total->sum[n] == (ivec)NOTHING, (vec){0}, 1 / total->sum[n]);
}

/* Writes the rows of vector n: o factor share, which prefill transposes, with whatever follows the width. */
static void write_rows(const struct pyattn_query_block *block, vec factor, vec share, int n) {
  const struct pyattn_attention *call = block->call;
  const struct pyattn_array out = operand(block, PYATTN_OUT);
  const vec *o = state_of(block)->total.o;
  const ptrdiff_t width = call->value_width, rows = least(block->rows - n * LANES, LANES);
  char *places[LANES];
  find_rows(block, &out, n, places);
  for (ptrdiff_t d = 0; d < width; d += LANES) {
    const ptrdiff_t offset = d * out.column;
    if (call->path->by_row) {
      for (ptrdiff_t i = 0; i < rows; i++) {
        const vec x = o[i * value_vectors(call) + d / LANES] * factor[i] * share[i];
        store_strided(places[i] + offset, out.column, x, width - d);
      }
      continue;
    }
    const vec *sum = o + d * block->vectors + n;
    vec x[LANES];
    UNROLL for (int i = 0; i < LANES; i++, sum += block->vectors) x[i] = *sum * factor * share;
    transpose(x);
    if (rows == LANES && out.column == ELEMENT_BYTES && width - d >= LANES) {
      UNROLL for (int i = 0; i < LANES; i++) store_elements(places[i] + offset, x[i], LANES);
    } else {
      vec part[LANES]; /* x stays in registers */
      UNROLL for (int i = 0; i < LANES; i++) part[i] = x[i];
      for (ptrdiff_t i = 0; i < rows; i++) store_strided(places[i] + offset, out.column, part[i], width - d);
    }
  }
}

static void finish(const struct pyattn_query_block *block) {
  const struct attention_state *state = state_of(block);
  merge_split(block, block->scratch);
  for (int n = 0; n < block->vectors; n++) {
    const vec seen = state->total.max[n], factor = add_sinks(block, n);
    const vec share = finish_sums(block, n, seen);
    write_rows(block, factor, block->call->dropout > 0 ? share * kept_factor(block->call) : share, n);
  }
}
