/* Gradients of attention, with queries along the lanes as in prefill, whose logits they begin with. With P the weights,
 * D = dO . O - dlse for each row, and z a logit before biases, which is capped at c where there is a soft cap:
 *
 *     pairs        P[key][N] = 2^(logit - lse),  dS[key][N] = scale P (V dO^T - D) (1 - (z / c)^2)
 *     products     dV[key] += sum over rows of P dO,  dK[key] += sum over rows of dS Q,  dQ[row] += sum over keys of dS
 * K
 *
 * Dao et al. 2022 (arXiv:2205.14135), appendix B.4: five products, where a pass for keys and one for queries have
 * seven. P and dS of several blocks of queries against a range of keys stand in the scratch memory; then each row of K,
 * V, Q and dO is read as it lies, and dK and dV pass through memory once for so many queries. Masked pairs have the
 * weight NOTHING and no part in the products: where an operand is not finite, these are computed pair by pair.
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
  vec delta[TILE_VECTORS]; /* D, times factor, but with dropout, where 0 */
  vec apart[TILE_VECTORS]; /* stands for it in the tiles, and this is subtracted after them */
  real factor;             /* of dS: the scale, or 1 where it is what a bias gets */
  int is_final;            /* whether it is that of a scaled product */
  int has_queries;         /* whether dQ of the block has been written */
  int finite;              /* whether its rows of Q and dO are; -1 until asked */
  vec *grads;              /* dO [feature][N] */
  vec *capped;             /* [key][N] logits between soft cap and biases */
  vec *ds;                 /* [key][N] */
};

INLINE struct gradient_state *gradients_of(const struct pyattn_query_block *block) {
  return (struct gradient_state *)(block->scratch +
                                   round_up(state_bytes(block->call, block->vectors), PYATTN_ALIGNMENT));
}

static ptrdiff_t gradient_bytes(const struct pyattn_attention *call, int vectors) {
  const ptrdiff_t pairs = PYATTN_KEY_BLOCK * vectors;
  const ptrdiff_t arrays = call->value_width * vectors + pairs + (call->softcap > 0 ? pairs : 0);
  return round_up(state_bytes(call, vectors), PYATTN_ALIGNMENT) +
         round_up(sizeof(struct gradient_state), PYATTN_ALIGNMENT) + arrays * (ptrdiff_t)sizeof(vec);
}

/* The rows of a vector of dO, transposed, and D. */
static void load_gradients(const struct pyattn_query_block *block, int n) {
  const struct pyattn_array grad = operand(block, PYATTN_GRAD_OUT), out = operand(block, PYATTN_OUT);
  struct gradient_state *state = gradients_of(block);
  char *rows[LANES], *out_rows[LANES];
  vec sums[LANES];
  find_rows(block, &grad, n, rows);
  find_rows(block, &out, n, out_rows);
  for (int i = 0; i < LANES; i++) sums[i] = (vec){0};
  for (ptrdiff_t d = 0; d < block->call->value_width; d += LANES) {
    vec x[LANES];
    UNROLL for (int i = 0; i < LANES; i++) {
      x[i] = load(rows[i] + d * ELEMENT_BYTES);
      sums[i] += x[i] * load(out_rows[i] + d * ELEMENT_BYTES);
    }
    transpose(x);
    UNROLL for (int i = 0; i < LANES; i++) state->grads[(d + i) * block->vectors + n] = x[i];
  }
  state->delta[n] = sum_rows(sums);
}

static void gradient_begin(const struct pyattn_query_block *block, int stage) {
  const struct pyattn_array lse = operand(block, PYATTN_LSE), grad_lse = operand(block, PYATTN_GRAD_LSE);
  struct gradient_state *state = gradients_of(block);
  begin(block);
  state->grads = (vec *)((char *)state + round_up(sizeof *state, PYATTN_ALIGNMENT));
  state->ds = state->grads + block->call->value_width * block->vectors;
  state->capped = block->call->softcap > 0 ? state->ds + PYATTN_KEY_BLOCK * block->vectors : NULL;
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
    state->apart[n] = state->delta[n];
    if (block->call->dropout > 0) state->delta[n] = (vec){0};
  }
}

/* p: logits, of which the first `count` stand at its begin, to weights from key `offset` on, nothing elsewhere. */
INLINE void weigh_pairs(const struct pyattn_query_block *block, ptrdiff_t offset, ptrdiff_t count, ptrdiff_t all,
                        int masked, int vectors) {
  const struct gradient_state *gradients = gradients_of(block);
  const real to_log2 = state_of(block)->to_log2;
  vec *p = state_of(block)->p, lse[TILE_VECTORS];
  UNROLL for (int n = 0; n < vectors; n++) lse[n] = gradients->lse[n];
  if (offset > 0) {
    memmove(p + offset * vectors, p, (size_t)(count * vectors) * sizeof *p);
    if (gradients->capped) {
      memmove(gradients->capped + offset * vectors, gradients->capped, (size_t)(count * vectors) * sizeof *p);
    }
  }
  for (ptrdiff_t i = 0; i < offset * vectors; i++) p[i] = NOTHING;
  for (ptrdiff_t i = (offset + count) * vectors; i < all * vectors; i++) p[i] = NOTHING;
  for (ptrdiff_t j = offset; j < offset + count; j++) {
    UNROLL for (int n = 0; n < vectors; n++) {
      const vec logit = p[j * vectors + n], x = (logit - lse[n]) * to_log2;
      const vec weight = exp2_of_negative(choose(x > 0, (vec){0}, x)); /* lse is rounded */
      p[j * vectors + n] = masked ? choose(is_masked(logit), NOTHING, weight) : weight;
    }
  }
}

/* ds of some keys, from the first of the range on. */
INLINE void pair_tile(const struct pyattn_query_block *block, struct tile_a value, ptrdiff_t j, int masked, int rows,
                      int vectors) {
  const struct gradient_state *state = gradients_of(block);
  const vec *p = state_of(block)->p + j * vectors;
  tile acc;
  vec *ds = state->ds + j * vectors;
  UNROLL for (int r = 0; r < rows; r++) { UNROLL for (int n = 0; n < vectors; n++) acc[r][n] = (vec){0}; }
  const struct tile_b b = {(const char *)state->grads, PLAIN_FORMAT, ATTENTION_UNROLL, 0};
  tile_multiply(acc, rows, vectors, value, b, block->call->value_width);
  UNROLL for (int n = 0; n < vectors; n++) {
    const vec delta = state->delta[n];
    UNROLL for (int r = 0; r < rows; r++) {
      const vec weight = p[r * vectors + n], x = weight * (acc[r][n] * state->factor - delta);
      ds[r * vectors + n] = masked ? choose((ivec)weight == (ivec)NOTHING, (vec){0}, x) : x;
    }
  }
}

INLINE void multiply_pairs(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                           ptrdiff_t count, int masked, int vectors) {
  const struct pyattn_array *array = &block->call->operands[PYATTN_VALUE];
  const char *data = keys->value + first * array->row;
  for (ptrdiff_t j = 0, rows; j < count; j += rows) {
    rows = least(count - j, TILE_ROWS);
    const char *source = data + j * array->row;
    const struct tile_a value = {source, array->row, sizeof(real), source + rows * array->row, rows * sizeof(real)};
    if (rows == TILE_ROWS)
      pair_tile(block, value, j, masked, TILE_ROWS, vectors);
    else
      WITH_CONSTANT(ROWS, rows, TILE_ROWS - 1, pair_tile(block, value, j, masked, ROWS, vectors))
  }
}

/* dS of what the soft cap got. */
static void pass_soft_cap(const struct pyattn_query_block *block, ptrdiff_t count, int masked) {
  struct gradient_state *state = gradients_of(block);
  const real inverse = 1 / state_of(block)->cap_scale;
  const vec *p = state_of(block)->p;
  for (ptrdiff_t i = 0; i < count * block->vectors; i++) {
    const vec x = state->capped[i] * inverse, passed = state->ds[i] * (1 - x * x);
    state->ds[i] = masked ? choose((ivec)p[i] == (ivec)NOTHING, (vec){0}, passed) : passed;
  }
}

/* With m = 1 / (1 - p) for the pairs that are kept, else 0: P to m P, and m P dO V^T to dS. */
static void drop_pairs(const struct pyattn_query_block *block, ptrdiff_t first, ptrdiff_t count, int masked) {
  struct gradient_state *state = gradients_of(block);
  vec *p = state_of(block)->p, *ds = state->ds;
  const vec factor = splat(kept_factor(block->call));
  for (ptrdiff_t j = 0; j < count; j++) {
    for (int n = 0; n < block->vectors; n++, p++, ds++) {
      const vec kept = choose(kept_pairs(state_of(block), n, first + j), factor, (vec){0});
      const vec all = kept * *ds - *p * state->apart[n];
      *ds = masked ? choose((ivec)*p == (ivec)NOTHING, (vec){0}, all) : all;
      *p *= kept; /* -0 stays */
    }
  }
}

/* P and dS of keys first ... first + count; returns whether some are masked. */
static int gradient_pairs(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                          ptrdiff_t count) {
  ptrdiff_t begin = first, some = count;
  int masked = prefill_logits(block, keys, &begin, &some);
  if (some <= 0) some = 0, begin = first;
  masked |= some < count;
  const ptrdiff_t offset = begin - first;
  if (masked)
    WITH_CONSTANT(VECTORS, block->vectors, TILE_VECTORS, weigh_pairs(block, offset, some, count, 1, VECTORS);
                  multiply_pairs(block, keys, first, count, 1, VECTORS))
  else
    WITH_CONSTANT(VECTORS, block->vectors, TILE_VECTORS, weigh_pairs(block, 0, count, count, 0, VECTORS);
                  multiply_pairs(block, keys, first, count, 0, VECTORS))
  if (block->call->dropout > 0) drop_pairs(block, first, count, masked);
  if (gradients_of(block)->capped && gradients_of(block)->is_final) pass_soft_cap(block, count, masked);
  return masked;
}

/* A product left right: element (row, step) of the one lies row and step times so many bytes after left, rows of the
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
    const char *left = factors[i].left + r0 * row, *right = factors[i].right + d * ELEMENT_BYTES;
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
    char *place = out + (r0 + r) * out_row + d * ELEMENT_BYTES;
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

/* The same, of pairs that are live alone: what is masked may be NaN. */
static void product_of_pairs(const struct pyattn_query_block *block, const struct pyattn_keys *keys, ptrdiff_t first,
                             ptrdiff_t count) {
  const struct pyattn_attention *call = block->call;
  const struct pyattn_array query = operand(block, PYATTN_QUERY), grad = operand(block, PYATTN_GRAD_OUT);
  const struct pyattn_array to_query = operand(block, PYATTN_GRAD_QUERY), to_key = operand(block, PYATTN_GRAD_KEY);
  const struct pyattn_array to_value = operand(block, PYATTN_GRAD_VALUE);
  for (ptrdiff_t j = 0; j < count; j++) {
    const char *key = keys->key + (first + j) * call->operands[PYATTN_KEY].row;
    for (ptrdiff_t r = 0; r < block->rows; r++) {
      const ptrdiff_t place = j * block->vectors + r / LANES;
      const real weight = state_of(block)->p[place][r % LANES], ds = gradients_of(block)->ds[place][r % LANES];
      if (weight == 0 && signbit(weight)) continue;
      const struct factors parts[] = {{(const char *)&weight, operand_row(block, &grad, r), 0, 0, 0, 1},
                                      {(const char *)&ds, operand_row(block, &query, r), 0, 0, 0, 1},
                                      {(const char *)&ds, key, 0, 0, 0, 1}};
      product(&parts[0], 1, 1, call->value_width, to_value.data + (first + j) * to_value.row, 0, 1);
      product(&parts[1], 1, 1, call->width, to_key.data + (first + j) * to_key.row, 0, 1);
      product(&parts[2], 1, 1, call->width, operand_row(block, &to_query, r), 0, 1);
    }
  }
}

INLINE int finite_rows(const char *data, ptrdiff_t row, ptrdiff_t rows, ptrdiff_t width) {
  vec zeros = {0}; /* x * 0 is NaN for NaN and inf */
  for (ptrdiff_t r = 0; r < rows; r++) {
    for (ptrdiff_t d = 0; d < width; d += LANES) zeros += load(data + r * row + d * ELEMENT_BYTES) * 0;
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
  for (ptrdiff_t r = 0; r < rows; r++) memset(data + r * row, 0, (size_t)(width * ELEMENT_BYTES));
}

/* Adds what pairs of blocks of one head and keys first ... first + count give to dQ, dK and dV; add: not for the first
 * time to those of the keys. masked: of each block, whether some pairs are. */
static void gradient_products(const struct pyattn_query_block *blocks, int count_of_blocks, const int *masked,
                              const struct pyattn_keys *keys, ptrdiff_t first, ptrdiff_t count, int add) {
  const struct pyattn_attention *call = blocks->call;
  const struct pyattn_array *operands = call->operands;
  const ptrdiff_t key_row = operands[PYATTN_KEY].row, query_row = operands[PYATTN_QUERY].row;
  struct factors to_value[PYATTN_GRADIENT_BLOCKS], to_key[PYATTN_GRADIENT_BLOCKS];
  char *values = blocks->data[PYATTN_GRAD_VALUE] + first * operands[PYATTN_GRAD_VALUE].row;
  char *grad_keys = blocks->data[PYATTN_GRAD_KEY] + first * operands[PYATTN_GRAD_KEY].row;
  const char *key = keys->key + first * key_row;
  int factors = 0, finite_keys = -1, apart[PYATTN_GRADIENT_BLOCKS];
  for (int i = 0; i < count_of_blocks; i++) {
    const struct pyattn_query_block *block = &blocks[i];
    struct gradient_state *state = gradients_of(block);
    const ptrdiff_t pair_row = block->vectors * VECTOR_BYTES;
    apart[i] = 0;
    if (masked[i]) {
      if (finite_keys < 0) finite_keys = finite_rows(key, key_row, count, call->width);
      apart[i] = !finite_keys || !is_finite(block);
      if (apart[i]) continue;
    }
    to_value[factors] = (struct factors){(const char *)state_of(block)->p,
                                         block->data[PYATTN_GRAD_OUT],
                                         pair_row,
                                         sizeof(real),
                                         operands[PYATTN_GRAD_OUT].row,
                                         block->rows};
    to_key[factors++] = (struct factors){
        (const char *)state->ds, block->data[PYATTN_QUERY], pair_row, sizeof(real), query_row, block->rows};
    const struct factors to_query = {(const char *)state->ds, key, sizeof(real), pair_row, key_row, count};
    product(&to_query, 1, block->rows, call->width, block->data[PYATTN_GRAD_QUERY], operands[PYATTN_GRAD_QUERY].row,
            state->has_queries);
    state->has_queries = 1;
  }
  if (factors > 0) {
    product(to_value, factors, count, call->value_width, values, operands[PYATTN_GRAD_VALUE].row, add);
    product(to_key, factors, count, call->width, grad_keys, operands[PYATTN_GRAD_KEY].row, add);
  } else if (!add) {
    zero_rows(values, operands[PYATTN_GRAD_VALUE].row, count, call->value_width);
    zero_rows(grad_keys, operands[PYATTN_GRAD_KEY].row, count, call->width);
  }
  for (int i = 0; i < count_of_blocks; i++) {
    if (!apart[i]) continue;
    if (!gradients_of(&blocks[i])->has_queries) {
      zero_rows(blocks[i].data[PYATTN_GRAD_QUERY], operands[PYATTN_GRAD_QUERY].row, blocks[i].rows, call->width);
      gradients_of(&blocks[i])->has_queries = 1;
    }
    product_of_pairs(&blocks[i], keys, first, count);
  }
}

/* Writes dQ of a block that saw no keys. */
static void gradient_finish(const struct pyattn_query_block *block) {
  const struct pyattn_array to = operand(block, PYATTN_GRAD_QUERY);
  if (!gradients_of(block)->has_queries) zero_rows(to.data, to.row, block->rows, block->call->width);
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
          store_elements(place, load_elements(place, columns) + x[i], columns);
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
