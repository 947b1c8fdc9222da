/* Gradients of attention, with queries along the lanes as in prefill, whose logits they begin with. With P the weights,
 * D = dO . O - dlse for each row, and z a logit before biases, which is capped at c where there is a soft cap:
 *
 *     pairs        P[key][N] = 2^(logit - lse),  dS[key][N] = scale P (V dO^T - D) (1 - (z / c)^2)
 *     products     dV[key] += sum over rows of P dO,  dK[key] += sum over rows of dS Q,  dQ[row] += sum over keys of dS K
 *
 * Dao et al. 2022 (arXiv:2205.14135), appendix B.4: five products, where a pass for keys and one for queries have
 * seven. P and dS of several blocks of queries against a range of keys stand in the scratch memory; then each row of K,
 * V, Q and dO is read as it lies, and dK and dV pass through memory once for so many queries. Masked pairs have the
 * weight NOTHING and no part in the products: where an operand is not finite, these are computed pair by pair.
 *
 * Where there are dot products of two, P, dS and the rows of Q, dO and K that they meet are rounded to pairs of
 * bfloat16: those of neighbouring queries are neighbouring lanes, those of neighbouring keys are joined. All sums are
 * of the compute type, and rounded at the end.
 *
 * What a bias and the slopes of ALiBi get is dS before scale and soft cap: a pass of its own, as the rows of others
 * may have to be added to theirs. */
#include "../gemm.h"
#include "dropout.h"
#include "options.h"

enum {
  /* The tile of a product with rows as they lie, wider than that of scores: it has no row of packed vectors to read. */
  PRODUCT_VECTORS = TILE_VECTORS == 3 ? 4 : TILE_VECTORS,
  PRODUCT_ROWS = TILE_ROWS * TILE_VECTORS / PRODUCT_VECTORS,
  MOST_ROWS = 8,
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
  vec *ds;                 /* [key][N] dO V^T, then dS: of products [group of keys][N] */
  char *weights, *ds_rows; /* of products: [key] P and dS of elements, a row of pair_row bytes */
  ptrdiff_t pair_row;
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
  state->weights = (char *)state_of(block)->p;
  state->ds_rows = (char *)state->ds;
  if (GROUP > 1) {
    state->weights = next;
    state->ds_rows = next + PYATTN_KEY_BLOCK * state->pair_row;
    next = state->ds_rows + PYATTN_KEY_BLOCK * state->pair_row;
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

/* P and dS of a group of keys from the j-th of the range on. */
INLINE void store_pairs(const struct pyattn_query_block *block, ptrdiff_t j, int n, int vectors, const vec *weight,
                        const vec *ds) {
  const struct gradient_state *state = gradients_of(block);
  if (GROUP == 1) {
    state_of(block)->p[j * vectors + n] = *weight;
    state->ds[j * vectors + n] = *ds;
    return;
  }
  const ptrdiff_t row = vectors * VECTOR_BYTES / GROUP, offset = j * row + n * (VECTOR_BYTES / GROUP);
  state->ds[j / GROUP * vectors + n] = join_groups(ds[0], ds[GROUP - 1]);
  UNROLL for (int s = 0; s < GROUP; s++) {
    store_elements(state->weights + offset + s * row, weight[s], LANES);
    store_elements(state->ds_rows + offset + s * row, ds[s], LANES);
  }
}

/* dO V^T of some keys, from the j-th of the range on; plain: and what follows from it and logits in p. */
INLINE void pair_tile(const struct pyattn_query_block *block, struct tile_a value, ptrdiff_t j, int plain, int rows,
                      int vectors) {
  const struct gradient_state *state = gradients_of(block);
  const real to_log2 = state_of(block)->to_log2, factor = state->factor;
  tile acc;
  UNROLL for (int r = 0; r < rows; r++) { UNROLL for (int n = 0; n < vectors; n++) acc[r][n] = (vec){0}; }
  const struct tile_b b = {(const char *)state->grad_groups, PLAIN_FORMAT, ATTENTION_UNROLL, 0};
  tile_multiply(acc, rows, vectors, value, b, block->call->value_width / GROUP);
  UNROLL for (int r = 0; r < rows; r += plain ? GROUP : 1) {
    UNROLL for (int n = 0; n < vectors; n++) {
      vec weight[2] = {NOTHING, NOTHING}, ds[2] = {{0}, {0}};
      if (!plain) {
        state->ds[(j + r) * vectors + n] = acc[r][n];
        continue;
      }
      UNROLL for (int s = 0; s < GROUP; s++) {
        if (s > 0 && r + s == rows) break;
        weight[s] = weight_of_pair(state_of(block)->p[(j + r + s) * vectors + n], state->lse[n], to_log2);
        ds[s] = weight[s] * (acc[r + s][n] * factor - state->delta[n]);
      }
      store_pairs(block, j + r, n, vectors, weight, ds);
    }
  }
}

INLINE void multiply_pairs(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                           ptrdiff_t count, int plain, int vectors) {
  const struct pyattn_array *array = &block->call->operands[PYATTN_VALUE];
  const char *data = keys->value + first * array->row;
  for (ptrdiff_t j = 0, rows; j < count; j += rows) {
    rows = least(count - j, TILE_ROWS);
    const char *source = data + j * array->row;
    const struct tile_a value = {source, array->row, sizeof(real), source + rows * array->row, rows * sizeof(real)};
    if (rows == TILE_ROWS)
      pair_tile(block, value, j, plain, TILE_ROWS, vectors);
    else
      WITH_CONSTANT(ROWS, rows, TILE_ROWS - 1, pair_tile(block, value, j, plain, ROWS, vectors))
  }
}

/* P and dS of pairs that may be masked or dropped, or under a soft cap, from dO V^T and the logits of the keys offset ...
 * offset + some of the range. With m = 1 / (1 - p) for those that are kept, else 0: m P, and P (m dO V^T - D). */
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
        store_pairs(block, j, n, vectors, weight, ds);
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

/* A product left right: group (row, step) of the one lies row and step times so many bytes after left, rows of the other
 * are contiguous. */
struct factors {
  const char *left, *right;
  ptrdiff_t left_row, left_step, right_row, steps;
};

/* Rows of out, from feature d on, += the sum of some products, or = it. */
INLINE void product_tile(const struct factors *factors, int count, ptrdiff_t r0, ptrdiff_t d, char *out,
                         ptrdiff_t out_row, int add, int rows, int vectors) {
  vec acc[MOST_ROWS][PRODUCT_VECTORS];
  UNROLL for (int r = 0; r < rows; r++) { UNROLL for (int n = 0; n < vectors; n++) acc[r][n] = (vec){0}; }
  for (int i = 0; i < count; i++) {
    const ptrdiff_t row = factors[i].left_row, step = factors[i].left_step, next = factors[i].right_row;
    const char *left = factors[i].left + r0 * row, *right = factors[i].right + d * (ptrdiff_t)sizeof(real);
    for (ptrdiff_t t = factors[i].steps; t > 0; t--) {
      vec x[PRODUCT_VECTORS];
      UNROLL for (int n = 0; n < vectors; n++) x[n] = load(right + n * VECTOR_BYTES);
      UNROLL for (int r = 0; r < rows; r++) {
        const vec y = splat(load_real(left + r * row));
        UNROLL for (int n = 0; n < vectors; n++) acc[r][n] = multiply_add(y, x[n], acc[r][n]);
      }
      left += step;
      right += next;
    }
  }
  UNROLL for (int r = 0; r < rows; r++) {
    char *place = out + (r0 + r) * out_row + d * (ptrdiff_t)sizeof(real);
    UNROLL for (int n = 0; n < vectors; n++) {
      store(place + n * VECTOR_BYTES, add ? load(place + n * VECTOR_BYTES) + acc[r][n] : acc[r][n]);
    }
  }
}

INLINE void product_rows(const struct factors *factors, int count, ptrdiff_t rows, ptrdiff_t d, char *out,
                         ptrdiff_t out_row, int add, int most, int vectors) {
  ptrdiff_t r = 0;
  for (; r + most <= rows; r += most) product_tile(factors, count, r, d, out, out_row, add, most, vectors);
  if (r < rows)
    WITH_CONSTANT(ROWS, rows - r, MOST_ROWS, product_tile(factors, count, r, d, out, out_row, add, ROWS, vectors))
}

static void product(const struct factors *factors, int count, ptrdiff_t rows, ptrdiff_t width, char *out,
                    ptrdiff_t out_row, int add) {
  ptrdiff_t d = 0;
  for (; width - d >= PRODUCT_VECTORS * LANES; d += PRODUCT_VECTORS * LANES) {
    product_rows(factors, count, rows, d, out, out_row, add, PRODUCT_ROWS, PRODUCT_VECTORS);
  }
  if (d < width) /* by whole vectors */
    WITH_CONSTANT(VECTORS, (width - d) / LANES, PRODUCT_VECTORS - 1,
                  product_rows(factors, count, rows, d, out, out_row, add, MOST_ROWS, VECTORS))
}

INLINE void add_scaled(char *sum, const char *row, real factor, ptrdiff_t width) {
  for (ptrdiff_t d = 0; d < width; d += LANES, sum += VECTOR_BYTES, row += LANES * ELEMENT_BYTES) {
    store(sum, load(sum) + factor * load_elements(row, LANES));
  }
}

/* Products of pairs that are live alone: what is masked may be NaN. */
static void product_of_pairs(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                             ptrdiff_t count) {
  const struct pyattn_attention *call = block->call;
  const struct gradient_state *state = gradients_of(block);
  const struct pyattn_array query = operand(block, PYATTN_QUERY), grad = operand(block, PYATTN_GRAD_OUT);
  const struct pyattn_array to_key = operand(block, PYATTN_GRAD_KEY), to_value = operand(block, PYATTN_GRAD_VALUE);
  for (ptrdiff_t j = first; j < first + count; j++) {
    for (ptrdiff_t r = 0; r < block->rows; r++) {
      const ptrdiff_t place = (j - first) * state->pair_row + r * ELEMENT_BYTES;
      const real weight = load_elements(state->weights + place, 1)[0], ds = load_elements(state->ds_rows + place, 1)[0];
      if (weight == 0 && signbit(weight)) continue;
      add_scaled(to_value.data + j * to_value.row, grad.data + r * grad.row, weight, call->value_width);
      add_scaled(to_key.data + j * to_key.row, query.data + r * query.row, ds, call->width);
      add_scaled(state->to_query.data + r * state->to_query.row, keys->key + j * call->operands[PYATTN_KEY].row, ds,
                 call->width);
    }
  }
}

INLINE int finite_rows(const char *data, ptrdiff_t row, ptrdiff_t rows, ptrdiff_t width) {
  vec zeros = {0}; /* x * 0 is NaN for NaN and inf */
  for (ptrdiff_t r = 0; r < rows; r++) {
    for (ptrdiff_t d = 0; d < width; d += LANES) zeros += load_elements(data + r * row + d * ELEMENT_BYTES, LANES) * 0;
  }
  return sum_lanes(zeros) == 0;
}

static int is_finite(const struct pyattn_query_block *block) {
  const struct pyattn_attention *call = block->call;
  struct gradient_state *state = gradients_of(block);
  if (state->finite < 0) {
    state->finite =
        finite_rows(block->data[PYATTN_QUERY], call->operands[PYATTN_QUERY].row, block->rows, call->width) &&
        finite_rows(block->data[PYATTN_GRAD_OUT], call->operands[PYATTN_GRAD_OUT].row, block->rows, call->value_width);
  }
  return state->finite;
}

static void zero_rows(char *data, ptrdiff_t row, ptrdiff_t rows, ptrdiff_t width) {
  for (ptrdiff_t r = 0; r < rows; r++) memset(data + r * row, 0, (size_t)width * sizeof(real));
}

/* dQ of a block is what is added to. */
static void begin_queries(const struct pyattn_query_block *block) {
  struct gradient_state *state = gradients_of(block);
  if (!state->has_queries) zero_rows(state->to_query.data, state->to_query.row, block->rows, block->call->width);
  state->has_queries = 1;
}

/* Adds what pairs of blocks of one head and keys first ... first + count give to dQ, dK and dV; add: not for the first
 * time to those of the keys. masked: of each block, whether some pairs are. */
static void gradient_products(const struct pyattn_query_block *blocks, int count_of_blocks, const int *masked,
                              const struct pyattn_keys *keys, ptrdiff_t first, ptrdiff_t count, int add) {
  const struct pyattn_attention *call = blocks->call;
  const struct pyattn_array values = from_key(call, PYATTN_GRAD_VALUE, blocks->data[PYATTN_GRAD_VALUE], first);
  const struct pyattn_array grad_keys = from_key(call, PYATTN_GRAD_KEY, blocks->data[PYATTN_GRAD_KEY], first);
  const struct pyattn_array key = from_key(call, PYATTN_KEY, keys->key, first);
  char *room = gradients_of(blocks)->joined;
  const struct pyattn_array right = product_rows_of(key, call->width, count, &room);
  struct factors to_value[PYATTN_GRADIENT_BLOCKS], to_key[PYATTN_GRADIENT_BLOCKS];
  int factors = 0, finite_keys = -1, apart[PYATTN_GRADIENT_BLOCKS];
  for (int i = 0; i < count_of_blocks; i++) {
    const struct pyattn_query_block *block = &blocks[i];
    struct gradient_state *state = gradients_of(block);
    const ptrdiff_t row = state->pair_row, each = sizeof(real);
    apart[i] = 0;
    if (masked[i]) {
      if (finite_keys < 0) finite_keys = finite_rows(key.data, key.row, count, call->width);
      apart[i] = !finite_keys || !is_finite(block);
      if (apart[i]) continue;
    }
    to_value[factors] = (struct factors){state->weights, state->grad.data, row, each, state->grad.row, state->steps};
    to_key[factors++] = (struct factors){state->ds_rows, state->query.data, row, each, state->query.row, state->steps};
    const struct factors to_query = {(const char *)state->ds,       right.data, each,
                                     block->vectors * VECTOR_BYTES, right.row,  (count + GROUP - 1) / GROUP};
    product(&to_query, 1, block->rows, call->width, state->to_query.data, state->to_query.row, state->has_queries);
    state->has_queries = 1;
  }
  if (factors > 0) {
    product(to_value, factors, count, call->value_width, values.data, values.row, add);
    product(to_key, factors, count, call->width, grad_keys.data, grad_keys.row, add);
  } else if (!add) {
    zero_rows(values.data, values.row, count, call->value_width);
    zero_rows(grad_keys.data, grad_keys.row, count, call->width);
  }
  for (int i = 0; i < count_of_blocks; i++) {
    if (!apart[i]) continue;
    begin_queries(&blocks[i]);
    product_of_pairs(&blocks[i], keys, first, count);
  }
}

/* Writes elements: the sum of `parts` arrays of reals, `step` bytes apart, in order. */
static void gradient_sum(const char *sums, ptrdiff_t step, ptrdiff_t parts, char *out, ptrdiff_t count) {
  for (ptrdiff_t i = 0; i < count; i += LANES, sums += VECTOR_BYTES, out += LANES * ELEMENT_BYTES) {
    vec x = load(sums);
    for (ptrdiff_t part = 1; part < parts; part++) x += load(sums + part * step);
    store_elements(out, x, LANES);
  }
}

/* Writes what of dQ is not where it belongs: of a block that saw no keys; and rounds sums. */
static void gradient_finish(const struct pyattn_query_block *block) {
  const struct pyattn_array to = operand(block, PYATTN_GRAD_QUERY), from = gradients_of(block)->to_query;
  begin_queries(block);
  for (ptrdiff_t r = 0; GROUP > 1 && r < block->rows; r++) {
    gradient_sum(from.data + r * from.row, 0, 1, to.data + r * to.row, block->call->width);
  }
}

/* Adds dS, which is not final, to what bias and slopes get. */
static void gradient_options(const struct pyattn_query_block *block, ptrdiff_t first, ptrdiff_t count) {
  const struct pyattn_array bias = operand(block, PYATTN_GRAD_BIAS), slopes = operand(block, PYATTN_GRAD_SLOPES);
  const struct gradient_state *state = gradients_of(block);
  const int vectors = block->vectors;
  for (int n = 0; n < vectors; n++) {
    const ptrdiff_t rows = least(block->rows - n * LANES, LANES);
    for (ptrdiff_t j = 0; bias.data && j < count; j += LANES) {
      const ptrdiff_t columns = least(count - j, LANES);
      vec x[LANES];
      UNROLL for (int i = 0; i < LANES; i++) x[i] = i < columns ? state->ds[(j + i) * vectors + n] : (vec){0};
      transpose(x);
      for (ptrdiff_t i = 0; i < rows; i++) {
        char *place = bias.data + (n * LANES + i) * bias.row + (first + j) * bias.column;
        if (bias.column == 0)
          store_real(place, load_real(place) + sum_lanes(x[i]));
        else
          store_reals(place, load_reals(place, columns) + x[i], columns);
      }
    }
    if (!slopes.data) continue;
    const vec position = __builtin_convertvector(state_of(block)->position[n], vec);
    vec sum = {0};
    for (ptrdiff_t j = 0; j < count; j++) {
      const vec ds = state->ds[j * vectors + n];
      sum -= ds * magnitude(position - (real)(first + j));
    }
    for (ptrdiff_t i = 0; i < rows; i++) {
      char *place = slopes.data + (n * LANES + i) * slopes.row;
      store_real(place, load_real(place) + sum[i]);
    }
  }
}
