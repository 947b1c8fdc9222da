/* Gradients of attention, up to the pairs of a block of queries and a range of keys: how a block begins, and P and dS.
 *
 *     tiles           dO V^T, and of plain pairs, while it is in registers, P and dS
 *     weigh_pairs     P and dS of the others: masked, dropped, under a soft cap, or of which a bias gets dS */
#pragma once

#include "../gemm.h"
#include "dropout.h"
#include "options.h"

/* Where P and dS of a block and a range of keys stand, as products read them. */
struct pairs {
  char *weights, *ds_rows; /* elements, of each key a row of vectors of them */
  vec *ds;                 /* [group of keys][N] */
};

/* Of a block, behind its attention_state. */
struct gradient_state {
  vec lse[TILE_VECTORS];   /* in the units of logits; inf for a row that saw nothing */
  vec delta[TILE_VECTORS]; /* D, times factor */
  real factor;             /* of dS: the scale, or 1 where it is what a bias gets */
  int is_final;            /* whether it is that of a scaled product */
  int has_queries;         /* whether dQ of the block has been written */
  int finite;              /* whether its rows of Q and dO are; -1 until asked */
  vec *grad_groups;        /* dO [group of features][N] */
  vec *capped;             /* [key][N] logits between soft cap and biases */
  vec *ds;                 /* [key][N] dO V^T; then dS, if it is not final; and here stand pairs.ds */
  struct pairs pairs;
  ptrdiff_t pair_row;              /* bytes of a row of them */
  struct pyattn_array query, grad; /* right operands: rows of Q and dO, of whose groups `steps` are enough */
  ptrdiff_t steps;
  struct pyattn_array to_query; /* where dQ is summed */
  char *joined;                 /* room for keys as right operands */
};

INLINE struct gradient_state *gradients_of(const struct pyattn_query_block *block) {
  return (struct gradient_state *)(block->scratch +
                                   round_up(state_bytes(block->call, block->vectors), PYATTN_ALIGNMENT));
}

/* Of `rows` rows in dot-product groups, each of which is a real. */
INLINE ptrdiff_t joined_bytes(ptrdiff_t rows, ptrdiff_t width) {
  return GROUP == 1 ? 0 : (rows + 1) / 2 * round_up(width, LANES) * (ptrdiff_t)sizeof(real);
}

static ptrdiff_t gradient_bytes(const struct pyattn_attention *call, int vectors) {
  const ptrdiff_t pairs = PYATTN_KEY_BLOCK * vectors, rows = vectors * LANES;
  const ptrdiff_t lines = round_up(call->value_width, LANES * GROUP) / GROUP * vectors;
  const ptrdiff_t arrays = lines + pairs * (GROUP == 1 ? 1 : 2) + (call->softcap > 0 ? pairs : 0);
  return round_up(state_bytes(call, vectors), PYATTN_ALIGNMENT) +
         round_up(sizeof(struct gradient_state), PYATTN_ALIGNMENT) + arrays * (ptrdiff_t)sizeof(vec) +
         joined_bytes(rows, call->value_width) + joined_bytes(rows, call->width) * 3 +
         joined_bytes(PYATTN_KEY_BLOCK, call->width);
}

/* Rows as the right operand of a product: as they lie, or joined in scratch memory, which is moved on. */
INLINE struct pyattn_array product_rows_of(struct pyattn_array from, ptrdiff_t width, ptrdiff_t count, char **scratch) {
  if (GROUP == 1) return from;
  const struct pyattn_array joined = {*scratch, round_up(width, LANES) * (ptrdiff_t)sizeof(real), sizeof(real), 0};
  load_rows(from, 1, width, count, (real *)*scratch, 1);
  *scratch += joined_bytes(count, width);
  return joined;
}

static void place_arrays(const struct pyattn_query_block *block) {
  const struct pyattn_attention *call = block->call;
  struct gradient_state *state = gradients_of(block);
  const ptrdiff_t pairs = PYATTN_KEY_BLOCK * block->vectors;
  state->grad_groups = (vec *)((char *)state + round_up(sizeof *state, PYATTN_ALIGNMENT));
  state->ds = state->grad_groups + round_up(call->value_width, LANES * GROUP) / GROUP * block->vectors;
  state->capped = call->softcap > 0 ? state->ds + pairs : NULL;
  state->pair_row = block->vectors * VECTOR_BYTES / GROUP;
  state->steps = (block->rows + GROUP - 1) / GROUP;
  state->to_query = operand(block, PYATTN_GRAD_QUERY);
  char *next = (char *)(state->ds + pairs + (state->capped ? pairs : 0));
  state->pairs = (struct pairs){(char *)state_of(block)->p, (char *)state->ds, state->ds};
  if (GROUP > 1) {
    state->pairs.weights = next;
    state->pairs.ds_rows = next + PYATTN_KEY_BLOCK * state->pair_row;
    next += 2 * PYATTN_KEY_BLOCK * state->pair_row;
    state->to_query = (struct pyattn_array){next, call->width * (ptrdiff_t)sizeof(real), sizeof(real), 0};
    next += 2 * joined_bytes(block->vectors * LANES, call->width);
  }
  state->query = product_rows_of(operand(block, PYATTN_QUERY), call->width, block->rows, &next);
  state->grad = product_rows_of(operand(block, PYATTN_GRAD_OUT), call->value_width, block->rows, &next);
  state->joined = next;
}

/* The rows of a vector of dO, transposed, and D. */
static void load_gradients(const struct pyattn_query_block *block, int n) {
  const struct pyattn_array grad = operand(block, PYATTN_GRAD_OUT), out = operand(block, PYATTN_OUT);
  struct gradient_state *state = gradients_of(block);
  const ptrdiff_t width = block->call->value_width;
  char *rows[LANES], *out_rows[LANES];
  vec sums[LANES];
  find_rows(block, &grad, n, rows);
  find_rows(block, &out, n, out_rows);
  for (int i = 0; i < LANES; i++) sums[i] = (vec){0};
  for (ptrdiff_t d = 0; d < width; d += LANES * GROUP) {
    const ptrdiff_t offset = d * ELEMENT_BYTES;
    vec x[LANES], *to = state->grad_groups + d / GROUP * block->vectors + n;
    UNROLL for (int i = 0; i < LANES; i++) {
      x[i] = load_groups(rows[i] + offset, ELEMENT_BYTES, width - d);
      sums[i] = multiply_add(x[i], load_groups(out_rows[i] + offset, ELEMENT_BYTES, width - d), sums[i]);
    }
    transpose(x);
    UNROLL for (int i = 0; i < LANES; i++, to += block->vectors) *to = x[i];
  }
  state->delta[n] = sum_rows(sums);
}

static void gradient_begin(const struct pyattn_query_block *block, int stage) {
  const struct pyattn_array lse = operand(block, PYATTN_LSE), grad_lse = operand(block, PYATTN_GRAD_LSE);
  struct gradient_state *state = gradients_of(block);
  begin(block);
  place_arrays(block);
  state_of(block)->capped = state->capped;
  state->is_final = stage != PYATTN_GRADIENT_OF_OPTIONS;
  state->factor = state->is_final ? (real)block->call->scale : 1;
  state->has_queries = stage == PYATTN_GRADIENT_MORE;
  state->finite = -1;
  const real units = (real)(1 / state_of(block)->to_nats);
  for (int n = 0; n < block->vectors; n++) {
    load_gradients(block, n);
    for (int i = 0; i < LANES; i++) {
      const ptrdiff_t r = lane_row(block, n, i);
      const real x = load_real(operand_row(block, &lse, r));
      state->lse[n][i] = x == -(real)INFINITY ? (real)INFINITY : x * units;
      if (grad_lse.data) state->delta[n][i] -= load_real(operand_row(block, &grad_lse, r));
    }
    state->delta[n] *= state->factor;
  }
}

/* lse is rounded: no weight is more than 1. */
INLINE vec weight_of_pair(vec logit, vec lse, real to_log2) {
  return exp2_of_negative(vmin((vec){0}, (logit - lse) * to_log2));
}

/* P and dS of a group of keys, from the j-th of the range on. */
INLINE void store_pairs(struct pairs to, ptrdiff_t j, int n, int vectors, const vec *weight, const vec *ds) {
  const ptrdiff_t row = vectors * VECTOR_BYTES / GROUP, offset = j * row + n * (VECTOR_BYTES / GROUP);
  store_packed(to.weights + offset, to.weights + offset + row, pack_groups(weight[0], weight[1]));
  store_packed(to.ds_rows + offset, to.ds_rows + offset + row, pack_groups(ds[0], ds[1]));
  if (GROUP > 1) to.ds[j / GROUP * vectors + n] = join_groups(ds[0], ds[1]);
}

/* dO V^T of some keys, from the j-th of the range on; plain: and what follows from it and logits in p. */
INLINE void pair_tile(const struct pyattn_query_block *block, struct tile_a value, ptrdiff_t j, int plain, int rows,
                      int vectors) {
  tile acc;
  UNROLL for (int r = 0; r < rows; r++) { UNROLL for (int n = 0; n < vectors; n++) acc[r][n] = (vec){0}; }
  const struct tile_b b = {(const char *)gradients_of(block)->grad_groups, PLAIN_FORMAT, ATTENTION_UNROLL, 0};
  tile_multiply(acc, rows, vectors, value, b, block->call->value_width / GROUP);
  HIDE_ADDRESS(block); /* nothing of what follows may wait in registers beside the sums */
  const struct gradient_state *state = gradients_of(block);
  const struct pairs to = state->pairs;
  const vec *logits = state_of(block)->p + j * vectors;
  vec *all = state->ds + j * vectors;
  const real to_log2 = state_of(block)->to_log2, factor = state->factor;
  UNROLL for (int r = 0; r < rows; r += plain ? GROUP : 1) {
    UNROLL for (int n = 0; n < vectors; n++) {
      vec weight[2] = {NOTHING, NOTHING}, ds[2] = {{0}, {0}};
      if (!plain) {
        all[r * vectors + n] = acc[r][n];
        continue;
      }
      UNROLL for (int s = 0; s < GROUP; s++) {
        if (s > 0 && r + s == rows) break;
        weight[s] = weight_of_pair(logits[(r + s) * vectors + n], state->lse[n], to_log2);
        ds[s] = weight[s] * (acc[r + s][n] * factor - state->delta[n]);
      }
      store_pairs(to, j + r, n, vectors, weight, ds);
    }
  }
}

/* A function of its own: among other loops addresses and constants of theirs take registers of the sums. */
static __attribute__((noinline)) void plain_tile(const struct pyattn_query_block *block, struct tile_a value,
                                                 ptrdiff_t j){
    WITH_CONSTANT(VECTORS, block -> vectors, TILE_VECTORS, pair_tile(block, value, j, 1, TILE_ROWS, VECTORS))}

INLINE void multiply_pairs(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                           ptrdiff_t count, int plain, int vectors) {
  const struct pyattn_array *array = &block->call->operands[PYATTN_VALUE];
  const char *data = keys->value + first * array->row;
  for (ptrdiff_t j = 0, rows; j < count; j += rows) {
    rows = least(count - j, TILE_ROWS);
    const char *source = data + j * array->row;
    const struct tile_a value = {source, array->row, sizeof(real), source + rows * array->row, rows * sizeof(real)};
    if (plain && rows == TILE_ROWS)
      plain_tile(block, value, j);
    else if (rows == TILE_ROWS)
      pair_tile(block, value, j, plain, TILE_ROWS, vectors);
    else
      WITH_CONSTANT(ROWS, rows, TILE_ROWS - 1, pair_tile(block, value, j, plain, ROWS, vectors))
  }
}

/* P and dS of pairs that may be masked or dropped, or under a soft cap, from dO V^T and the logits of the keys offset
 * ... offset + some of the range. With m = 1 / (1 - p) for those that are kept, else 0: m P, and P (m dO V^T - D). */
static void weigh_pairs(const struct pyattn_query_block *block, ptrdiff_t first, ptrdiff_t count, ptrdiff_t offset,
                        ptrdiff_t some) {
  const struct attention_state *logits = state_of(block);
  const struct gradient_state *state = gradients_of(block);
  const int vectors = block->vectors, caps = state->capped && state->is_final, drops = block->call->dropout > 0;
  const real inverse = 1 / logits->cap_scale, factor = kept_factor(block->call);
  for (ptrdiff_t j = 0; j < count; j += GROUP) {
    for (int n = 0; n < vectors; n++) {
      vec weight[2] = {NOTHING, NOTHING}, ds[2] = {{0}, {0}};
      for (int s = 0; s < GROUP; s++) {
        const ptrdiff_t key = j + s, place = key * vectors + n;
        if (key < offset || key >= offset + some) continue;
        const vec logit = logits->p[place], p = weight_of_pair(logit, state->lse[n], logits->to_log2);
        const vec kept = drops ? choose(kept_pairs(logits, n, first + key), splat(factor), (vec){0}) : splat(1);
        const vec z = caps ? state->capped[place] * inverse : (vec){0};
        const vec all = p * (state->ds[place] * kept * state->factor - state->delta[n]) * (1 - z * z);
        weight[s] = choose(is_masked(logit), NOTHING, p * kept);
        ds[s] = choose(is_masked(logit), (vec){0}, all);
      }
      if (state->is_final)
        store_pairs(state->pairs, j, n, vectors, weight, ds);
      else
        for (int s = 0; s < GROUP; s++) state->ds[(j + s) * vectors + n] = ds[s];
    }
  }
}

/* Moves lines of what belongs to a range of keys, `lines` of `vectors`, to where the range's first key is 0. */
static void move_lines(vec *lines, ptrdiff_t offset, ptrdiff_t count, int vectors) {
  if (lines) memmove(lines + offset * vectors, lines, (size_t)(count * vectors) * sizeof *lines);
}

/* P and dS of keys first ... first + count; returns whether some are masked. */
static int gradient_pairs(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                          ptrdiff_t count) {
  const ptrdiff_t row = block->call->operands[PYATTN_KEY].row;
  const struct gradient_state *state = gradients_of(block);
  struct pyattn_keys here = *keys;
  here.first = first;
  here.tile_key = (struct pyattn_array){keys->key + first * row, row, sizeof(real), 0};
  ptrdiff_t begin = first, some = count;
  int masked = prefill_logits(block, &here, &begin, &some);
  if (some <= 0) some = 0, begin = first;
  masked |= some < count;
  if (!masked && !state->capped && block->call->dropout <= 0 && state->is_final) {
    WITH_CONSTANT(VECTORS, block->vectors, TILE_VECTORS, multiply_pairs(block, keys, first, count, 1, VECTORS))
    return 0;
  }
  if (begin > first) {
    move_lines(state_of(block)->p, begin - first, some, block->vectors);
    move_lines(state->capped, begin - first, some, block->vectors);
  }
  WITH_CONSTANT(VECTORS, block->vectors, TILE_VECTORS, multiply_pairs(block, keys, first, count, 0, VECTORS))
  weigh_pairs(block, first, count, begin - first, some);
  return masked;
}
