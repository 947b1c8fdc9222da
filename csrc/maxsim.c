/* Late interaction (Khattab and Zaharia 2020, arXiv:2004.12832, section 3.3):
 *
 *     out[q][d] = sum over tokens i of query q: max over tokens j of document d: query[i] . document[j]
 *
 * Tokens of queries lie along the lanes, packed as a weight of float32 is; those of documents are broadcast, a tile of
 * them at a time, as they lie. A product is one sum over the features in ascending order, and a maximum is the same in
 * any order: a score depends on its query and its document alone. What no document's tokens are the maximum of is -inf;
 * a product that is no number is the maximum. The sum over a query's tokens is in double.
 *
 * Without queries the maxima themselves are the result: of a vocabulary in place of tokens, they are SPLADE's.
 *
 * Documents lie one after the other, and a tile goes on into the next one: short ones fill it as well. */
#include "linear/format.h"

/* Vectors of scratch memory: maxima of all tokens of queries; products of a tile with them, row by row, where rows of
 * several documents meet; rows of a tile, where they are not multiplied as they lie. */
struct maxsim_scratch {
  ptrdiff_t vectors, row_vectors;
  vec *maxima, *products;
  char *rows;
};

INLINE struct maxsim_scratch maxsim_layout(const struct pyattn_maxsim *job, char *memory) {
  struct maxsim_scratch s;
  s.vectors = padded(job->queries->outputs) / LANES;
  s.row_vectors = round_up(job->queries->inputs, LANES) / LANES;
  s.maxima = (vec *)memory;
  s.products = s.maxima + s.vectors;
  s.rows = (char *)(s.products + TILE_ROWS * s.vectors);
  return s;
}

static ptrdiff_t maxsim_bytes(const struct pyattn_maxsim *job) {
  const struct maxsim_scratch s = maxsim_layout(job, NULL);
  return (s.vectors + TILE_ROWS * (s.vectors + s.row_vectors)) * VECTOR_BYTES;
}

/* The larger one, or NaN if one is. */
INLINE vec larger_or_nan(vec m, vec x) {
  const ivec keep = (ivec)(m >= x) | (ivec)(m != m);
  return (vec)(((ivec)m & keep) | ((ivec)x & ~keep));
}

/* A tile of rows and one panel of queries. inside: all rows are of the document whose maxima these are. */
INLINE void maxsim_panel(const struct pyattn_maxsim *job, struct tile_a a, const char *packed, int inside,
                         ptrdiff_t product_row, vec *maxima, vec *products, int vectors) {
  tile c;
  UNROLL for (int r = 0; r < TILE_ROWS; r++) { UNROLL for (int n = 0; n < vectors; n++) c[r][n] = (vec){0}; }
  const struct tile_b b = {packed, PYATTN_FLOAT32, 0, 0};
  tile_multiply(c, TILE_ROWS, vectors, a, b, job->queries->inputs);
  if (!inside) {
    UNROLL for (int r = 0; r < TILE_ROWS; r++) {
      UNROLL for (int n = 0; n < vectors; n++) products[r * product_row + n] = c[r][n];
    }
    return;
  }
  vec odd = {0}; /* 0 times the products: NaN where one of them is not finite, which vmax would pass over */
  UNROLL for (int n = 0; n < vectors; n++) {
    vec m = c[0][n], zero = c[0][n] * 0;
    UNROLL for (int r = 1; r < TILE_ROWS; r++) {
      m = vmax(m, c[r][n]);
      zero = multiply_add(c[r][n], (vec){0}, zero);
    }
    products[n] = m;
    odd += zero;
  }
  if (any_lane((ivec)(odd != 0))) {
    UNROLL for (int r = 0; r < TILE_ROWS; r++) {
      UNROLL for (int n = 0; n < vectors; n++) maxima[n] = larger_or_nan(maxima[n], c[r][n]);
    }
    return;
  }
  UNROLL for (int n = 0; n < vectors; n++) maxima[n] = larger_or_nan(maxima[n], products[n]);
}

/* Copies rows that follow one another as float32; the last one fills the tile. */
INLINE void maxsim_rows(const struct pyattn_maxsim *job, const char *from, ptrdiff_t rows, char *to, ptrdiff_t to_row) {
  const ptrdiff_t width = job->queries->inputs;
  for (ptrdiff_t r = 0; r < TILE_ROWS; r++, to += to_row) {
    const char *row = from + least(r, rows - 1) * job->row;
    if (job->format == PYATTN_FLOAT32) {
      memcpy(to, row, (size_t)width * sizeof(real));
      continue;
    }
    for (ptrdiff_t i = 0; i < width; i += LANES) {
      vec16 x = {0};
      if (width - i >= LANES)
        memcpy(&x, row + i * 2, sizeof x);
      else
        memcpy(&x, row + i * 2, (size_t)(width - i) * 2);
      *(vec *)(to + i * (ptrdiff_t)sizeof(real)) = job->format == PYATTN_FLOAT16 ? widen_float16(x) : widen_bfloat16(x);
    }
  }
}

/* Writes the scores of a document, or its maxima, and begins another. */
static void maxsim_finish(const struct pyattn_maxsim *job, ptrdiff_t document, const struct maxsim_scratch *s) {
  const float *maximum = (const float *)s->maxima;
  if (!job->query_starts) {
    memcpy(job->out + document * job->out_row, maximum, (size_t)job->queries->outputs * sizeof(float));
  }
  for (ptrdiff_t q = 0; q < job->count; q++) {
    double sum = 0;
    const ptrdiff_t first = job->query_starts[q] - job->query_starts[0];
    for (ptrdiff_t i = first; i < job->query_starts[q + 1] - job->query_starts[0]; i++) sum += maximum[i];
    *(float *)(job->out + q * job->out_row + document * (ptrdiff_t)sizeof(float)) = (float)sum;
  }
  for (ptrdiff_t n = 0; n < s->vectors; n++) s->maxima[n] = splat(-INFINITY);
}

static void maxsim(const struct pyattn_maxsim *job, ptrdiff_t first, ptrdiff_t last, char *memory) {
  const struct maxsim_scratch s = maxsim_layout(job, memory);
  const int64_t *starts = job->document_starts;
  const ptrdiff_t panel_bytes = packed_vector_bytes(job->queries->inputs, PYATTN_FLOAT32), end = starts[last];
  const ptrdiff_t scratch_row = s.row_vectors * VECTOR_BYTES;
  ptrdiff_t document = first, rows;
  for (ptrdiff_t n = 0; n < s.vectors; n++) s.maxima[n] = splat(-INFINITY);
  for (ptrdiff_t row = starts[first]; row < end; row += rows) {
    for (; row >= starts[document + 1]; document++) maxsim_finish(job, document, &s);
    rows = least(TILE_ROWS, end - row);
    const int inside = row + rows <= starts[document + 1];
    const char *from = job->documents + row * job->row;
    /* Two tiles ahead: what comes from memory arrives in time. One and four were a little slower on one thread. */
    struct tile_a a = {from, job->row, sizeof(real), from + 2 * TILE_ROWS * job->row, 0};
    a.ahead_step = TILE_ROWS * job->row / (job->queries->inputs ? job->queries->inputs : 1);
    if (job->format != PYATTN_FLOAT32 || rows < TILE_ROWS) {
      maxsim_rows(job, from, rows, s.rows, scratch_row);
      a.data = s.rows;
      a.row = scratch_row;
    }
    for (ptrdiff_t n = 0; n < s.vectors; n += TILE_VECTORS) {
      WITH_CONSTANT(VECTORS, least(s.vectors - n, TILE_VECTORS), TILE_VECTORS,
                    maxsim_panel(job, a, job->queries->packed + n * panel_bytes, inside, s.vectors, s.maxima + n,
                                 s.products + n, VECTORS))
      a.ahead_step = 0;
    }
    for (ptrdiff_t r = 0; !inside && r < rows; r++) {
      for (; row + r >= starts[document + 1]; document++) maxsim_finish(job, document, &s);
      for (ptrdiff_t n = 0; n < s.vectors; n++) {
        s.maxima[n] = larger_or_nan(s.maxima[n], s.products[r * s.vectors + n]);
      }
    }
  }
  for (; document < last; document++) maxsim_finish(job, document, &s);
}
