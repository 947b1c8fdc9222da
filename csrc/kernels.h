/* The contract between the Cython drivers and the kernels: what a kernel is given, and the table it is called through.
 * Data pointers are untyped and all strides are in bytes, so that one driver serves every element type. */
#ifndef PYATTN_KERNELS_H
#define PYATTN_KERNELS_H

#include <stddef.h>
#include <stdint.h>

enum { PYATTN_IDENTITY, PYATTN_RELU, PYATTN_GELU, PYATTN_GELU_TANH, PYATTN_SILU };

/* How packed weights are held: as tiles multiply them, or, of float32, as numbers of 16 bits that are the same. */
enum { PYATTN_WHOLE, PYATTN_FLOAT16, PYATTN_BFLOAT16 };

enum { PYATTN_MASK_NONE, PYATTN_MASK_BOOL, PYATTN_MASK_REAL };

enum {
  PYATTN_KEY_BLOCK = 128,    /* keys scored at a time: from a multiple of it, whichever of them a query may see */
  PYATTN_PIECE = 1024,       /* keys whose weighted sum is complete in itself; pieces are then added up in order */
  PYATTN_WIDTH_BLOCK = 1024, /* head width transposed at a time; the widest value a block accumulates */
  PYATTN_FEW = 8,            /* rows of a block, at most, that are attended with lanes along keys and widths */
  PYATTN_ALIGNMENT = 64,
};

/* What all blocks of a call share. Strides are of rows (queries or keys), columns, and query heads. */
struct pyattn_attention {
  ptrdiff_t query_row, query_column, query_head, key_row, key_column, value_row, value_column;
  ptrdiff_t out_row, out_column, out_head, lse_row, lse_head, weights_row, weights_column, weights_head;
  ptrdiff_t mask_row, mask_column, mask_head, bias_row, bias_column, bias_head;
  ptrdiff_t slopes_head, sinks_head;
  ptrdiff_t width, value_width; /* value_width at most PYATTN_WIDTH_BLOCK; 0 computes no output */
  int mask_kind;                /* of mask; bias is always of elements */
  int index_bias;               /* whether gathered keys carry biases */
  int few;                      /* blocks of at most PYATTN_FEW rows, each a lane of one vector */
  double scale, softcap;        /* softcap 0: none */
  ptrdiff_t low, high;          /* a query at position x sees the keys from x + low to before x + high */
  ptrdiff_t top_k;
};

/* A block of query rows on its way over the keys of one head. Row r is query first + r % length of the r / length-th of
 * the query heads that share the head of keys; the pointers are to row 0. Those but query and out may be NULL. */
struct pyattn_query_block {
  const struct pyattn_attention *call;
  const char *query, *mask, *bias, *slopes, *sinks; /* mask and bias at key 0 */
  char *out, *lse, *weights;                        /* weights at key 0 */
  char *maximum, *entropy, *top_weights;            /* like lse; top_weights and top_keys contiguous, k a row */
  char *moments;                                    /* two reals a row, contiguous: largest logit and sum */
  int64_t *top_keys;
  int vectors;                   /* vectors of lanes that the rows fill, 1 to the table's tile_vectors */
  ptrdiff_t rows, first, length; /* at most vectors * lanes */
  ptrdiff_t offset;              /* position of query 0 */
  ptrdiff_t keys;                /* keys at or behind this are masked */
  char *scratch;                 /* aligned, attention_scratch bytes; the block's state, from begin to finish */
};

/* Keys first ... first + count of one head: at most PYATTN_KEY_BLOCK, within one block of them. */
struct pyattn_keys {
  const char *key, *value; /* key 0; value may be NULL */
  const int32_t *index;    /* NULL, or the true number of each key, ascending: keys are gathered (blocks of few rows) */
  const char *index_bias;  /* NULL, or a real for each element of index */
  ptrdiff_t first, count;
  const char *tile_key, *tile_value; /* as tiles read them, from key `first`: set by attention_load */
  ptrdiff_t tile_key_row, tile_key_step, tile_value_column, tile_value_step;
  int finite; /* whether all loaded values are; -1 until a block asks */
};

/* out = activation(input weight^T + bias) + residual, of reals; bias and residual may be NULL. Rows are contiguous. */
struct pyattn_linear {
  const char *packed, *bias, *residual;
  char *out;
  ptrdiff_t residual_row, out_row;
  ptrdiff_t inputs, outputs; /* features */
  int activation;
  int half; /* whether out is of bfloat16 */
  int held;
};

/* Rows of input as tiles read them. */
struct pyattn_steps {
  const char *data;
  ptrdiff_t row;
  const float *scales; /* of bytes: what each row was divided by */
};

struct pyattn_kernels {
  int lanes;        /* elements in a vector */
  int tile_rows;    /* rows of a linear_tile */
  int tile_vectors; /* vectors of queries in the largest block, and of output features in a panel */
  int real_bytes;   /* of lse and the like */
  int widens_float16;
  int step; /* elements that are multiplied at once: 2 of bfloat16, 4 of bytes where there are instructions for it */

  /* Attention of a block of queries: begin; then attend to ranges of keys in ascending order, the keys loaded if the
   * block is not of few rows, and fold after the last of each piece if there are several; then
   * finish, which writes out, lse and the like. Folding `from`, the state of an equal block, adds the pieces that this
   * one has seen. */
  ptrdiff_t (*attention_scratch)(const struct pyattn_attention *, int vectors);
  ptrdiff_t (*attention_load_scratch)(const struct pyattn_attention *);
  void (*attention_load)(const struct pyattn_attention *, struct pyattn_keys *, char *scratch);
  void (*attention_begin)(const struct pyattn_query_block *);
  void (*attention_attend)(const struct pyattn_query_block *, struct pyattn_keys *, ptrdiff_t first, ptrdiff_t count);
  void (*attention_fold)(const struct pyattn_query_block *, const char *from);
  void (*attention_finish)(const struct pyattn_query_block *);
  /* Then, where wanted, once more over the ranges of keys: weights, entropy and top_k. */
  void (*attention_review_begin)(const struct pyattn_query_block *);
  void (*attention_review)(const struct pyattn_query_block *, const struct pyattn_keys *, ptrdiff_t first,
                           ptrdiff_t count);
  void (*attention_review_finish)(const struct pyattn_query_block *);
  /* Adds the weights of a block's rows, whose moments are known, to the sums of keys first ... first + count, or of
   * gathered keys to those of their numbers. */
  void (*attention_receive)(const struct pyattn_query_block *, const struct pyattn_keys *, ptrdiff_t first,
                            ptrdiff_t count, double *sums);

  /* Packs a strided (outputs, inputs) array of elements into linear_packed_bytes; scales, one for each output,
   * are those that bytes were divided by. linear_load makes inputs reals, or bfloat16 where half, steps, of
   * linear_row_bytes(inputs), and a scale; 0 bytes: reals are steps as they stand. */
  ptrdiff_t (*linear_packed_bytes)(ptrdiff_t outputs, ptrdiff_t inputs, int held);
  void (*linear_pack)(const char *weight, ptrdiff_t row, ptrdiff_t column, const float *scales, ptrdiff_t outputs,
                      ptrdiff_t inputs, int held, char *packed);
  ptrdiff_t (*linear_row_bytes)(ptrdiff_t inputs);
  void (*linear_load)(const char *input, int half, ptrdiff_t inputs, char *steps, float *scale);
  /* Rows first ... first + rows, at most tile_rows, of the output features of one panel; the steps are those rows'. */
  void (*linear_tile)(const struct pyattn_linear *, const struct pyattn_steps *, ptrdiff_t first, ptrdiff_t rows,
                      ptrdiff_t panel);

  /* One row: of 2 width elements to width; in place, of the first 2 half elements of heads that begin `stride` apart,
   * with half reals of each table; pairs are half apart or, interleaved, next to each other. */
  void (*gate)(const char *input, char *out, ptrdiff_t width, int kind);
  void (*rotate)(char *row, const char *cosines, const char *sines, ptrdiff_t heads, ptrdiff_t stride, ptrdiff_t half,
                 int interleaved);
  /* One row, its mean taken away first if centred; weight and bias may be NULL. */
  void (*normalise_row)(const char *input, const char *weight, const char *bias, char *out, ptrdiff_t width, double eps,
                        int centred);
  void (*add_row)(const char *input, char *sum, ptrdiff_t width);
  void (*activation)(const char *input, char *out, ptrdiff_t count, int kind);

  double (*probe_multiply_add)(ptrdiff_t rounds);
  double (*probe_read)(const char *p, ptrdiff_t vectors);
};

/* An instruction set that was compiled in. The table of float16 holds attention and probes, of bfloat16 packed matmuls,
 * gates and rotations as well, of bytes nothing else but these and a probe. */
struct pyattn_isa {
  const char *name;
  int supported; /* by this machine and its operating system */
  const struct pyattn_kernels *float32, *float64, *float16, *bfloat16, *int8;
};

/* Best last, ended by a name of NULL. */
const struct pyattn_isa *pyattn_isas(void);

#endif
