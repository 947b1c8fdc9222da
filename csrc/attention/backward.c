/* Gradients of attention, with queries along the lanes as in prefill, whose logits they begin with. With P the weights,
 * D = dO . O - dlse for each row, and z a logit before biases, which is capped at c where there is a soft cap:
 *
 *     pairs        P[key][N] = 2^(logit - lse),  dS[key][N] = scale P (V dO^T - D) (1 - (z / c)^2)
 *     products     dV[key] += sum over rows of P dO,  dK[key] += sum over rows of dS Q,
 *                  dQ[row] += sum over keys of dS K
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
#include "backward_pairs.h"

enum {
  /* The tile of a product with rows as they lie, wider than that of scores: it has no row of packed vectors to read. */
  PRODUCT_VECTORS = TILE_VECTORS == 3 ? 4 : TILE_VECTORS,
  PRODUCT_ROWS = TILE_ROWS * TILE_VECTORS / PRODUCT_VECTORS,
  MOST_ROWS = 8,
};

/* A product left right: group (row, step) of the one lies row and step times so many bytes after left, rows of the
 * other are contiguous. */
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
      const real weight = load_elements(state->pairs.weights + place, 1)[0];
      const real ds = load_elements(state->pairs.ds_rows + place, 1)[0];
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
    const struct pairs pairs = state->pairs;
    const ptrdiff_t row = state->pair_row, each = sizeof(real);
    apart[i] = 0;
    if (masked[i]) {
      if (finite_keys < 0) finite_keys = finite_rows(key.data, key.row, count, call->width);
      apart[i] = !finite_keys || !is_finite(block);
      if (apart[i]) continue;
    }
    to_value[factors] = (struct factors){pairs.weights, state->grad.data, row, each, state->grad.row, state->steps};
    to_key[factors++] = (struct factors){pairs.ds_rows, state->query.data, row, each, state->query.row, state->steps};
    const struct factors to_query = {(const char *)pairs.ds,        right.data, each,
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
