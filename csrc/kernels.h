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
  PYATTN_SPLIT = 1024,       /* keys whose weighted sum is complete in itself; splits are then added up in order */
  PYATTN_WIDTH_BLOCK = 1024, /* head width transposed at a time; the widest value a block accumulates */
  PYATTN_DECODE_ROWS = 8,    /* query rows of a block that decode takes, at most, and no more than lanes */
  PYATTN_ALIGNMENT = 64,
};

/* A strided array: element (head, row, column) lies head, row and column times so many bytes behind data. */
struct pyattn_array {
  char *data;
  ptrdiff_t row, column, head;
};

/* The operands of attention. Arrays of the caller's element type, (head, row, column), but where another type is named;
 * "compute type" is that of lse: the elements' own, float for 16-bit elements. A head is a query head but for keys and
 * values. Data is NULL where an operand is not given. */
enum {
  PYATTN_QUERY,        /* row: query, column: feature */
  PYATTN_KEY,          /* row: key, column: feature */
  PYATTN_VALUE,        /* row: key, column: feature */
  PYATTN_MASK,         /* row: query, column: key; bytes 0 and 1, or elements */
  PYATTN_BIAS,         /* row: query, column: key */
  PYATTN_ALIBI_SLOPES, /* of compute type, one for each head */
  PYATTN_SINKS,        /* of compute type, one for each head */
  PYATTN_KV_LENGTHS,   /* int64, row: sequence; the driver reads it */
  PYATTN_QUERY_OFFSET, /* int64, row: sequence; the driver reads it */
  PYATTN_OUT,          /* row: query, column: feature of the values */
  PYATTN_LSE,          /* of compute type, row: query */
  PYATTN_MAX,          /* of compute type, row: query; the largest logit */
  PYATTN_ENTROPY,      /* of compute type, row: query */
  PYATTN_MOMENTS,      /* pairs of compute type, row: query; largest logit and sum, as the second pass needs them */
  PYATTN_WEIGHTS,      /* row: query, column: key */
  PYATTN_TOP_KEYS,     /* int64, row: query, column: rank */
  PYATTN_TOP_WEIGHTS,  /* of compute type, row: query, column: rank */
  PYATTN_COLUMN_SUMS,  /* of compute type, row: key; the driver writes it */
  PYATTN_OPERANDS,
};

/* What all blocks of a call share. */
struct pyattn_attention {
  struct pyattn_array operands[PYATTN_OPERANDS]; /* of the whole call; blocks have pointers of their own into them */
  ptrdiff_t width, value_width;                  /* value_width at most PYATTN_WIDTH_BLOCK; 0 computes no output */
  int mask_kind;
  int index_bias; /* whether gathered keys carry biases */
  const struct pyattn_attention_path *path;
  double scale, softcap;  /* softcap 0: none */
  ptrdiff_t left, right;  /* a query at position p sees the keys from p - left to p + right */
  ptrdiff_t top_k;
};

/* A block of query rows on its way over the keys of one head. Row r is query first + r % length of the r / length-th of
 * the query heads that share the head of keys. */
struct pyattn_query_block {
  const struct pyattn_attention *call;
  char *data[PYATTN_OPERANDS];   /* at row 0, and key 0 where columns are keys; keys and values: at key 0 */
  int vectors;                   /* vectors of lanes that the rows fill, 1 to the table's tile_vectors */
  ptrdiff_t rows, first, length; /* at most vectors * lanes */
  ptrdiff_t query_offset;        /* position of query 0 */
  ptrdiff_t kv_length;           /* keys at or behind this are masked */
  char *scratch;                 /* aligned, state_bytes; the block's state, from begin to finish */
};

/* Keys first ... first + count of one head: at most PYATTN_KEY_BLOCK, within one block of them. */
struct pyattn_keys {
  const char *key, *value; /* key 0; value may be NULL */
  const int32_t *index;    /* NULL, or the true number of each key, ascending: keys are gathered (decode alone) */
  const char *index_bias;  /* NULL, or a bias of compute type for each element of index */
  ptrdiff_t first, count;
  const char *tile_key, *tile_value; /* as tiles read them, from key `first`: set by load */
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

/* One of the two ways to attend, chosen once for a call: prefill, with queries along the lanes, or decode, for at most
 * PYATTN_DECODE_ROWS rows, with keys and then features along the lanes. Results have the same bits. A block of queries
 * goes through begin; then load and update for ranges of keys in ascending order, each within one block of
 * PYATTN_KEY_BLOCK keys, and merge after the last range of each PYATTN_SPLIT keys if more follow; then finish. */
struct pyattn_attention_path {
  /* Bytes of the state of a block whose rows fill so many vectors. */
  ptrdiff_t (*state_bytes)(const struct pyattn_attention *, int vectors);
  /* Bytes of the scratch memory of load. */
  ptrdiff_t (*load_bytes)(const struct pyattn_attention *);
  /* Converts keys and values to what update multiplies, where that differs from what the caller holds. */
  void (*load)(const struct pyattn_attention *, struct pyattn_keys *, char *scratch);
  /* Makes the state of a block that has seen no keys. */
  void (*begin)(const struct pyattn_query_block *);
  /* Adds keys first ... first + count, which are loaded, to the present split. */
  void (*update)(const struct pyattn_query_block *, struct pyattn_keys *, ptrdiff_t first, ptrdiff_t count);
  /* Adds the present split, or all that another state of the same rows has seen, to the splits before it, and begins
   * another split. */
  void (*merge)(const struct pyattn_query_block *, const char *from);
  /* Merges the last split and writes out, lse, max and moments. */
  void (*finish)(const struct pyattn_query_block *);
  /* Fills the state with the logits of keys first ... first + count, which it may narrow to those that some row sees.
   * Returns whether some are masked. */
  int (*logits)(const struct pyattn_query_block *, const struct pyattn_keys *, ptrdiff_t *first, ptrdiff_t *count);
  int few;
};

struct pyattn_kernels {
  int lanes;        /* elements in a vector */
  int tile_rows;    /* rows of a linear_tile */
  int tile_vectors; /* vectors of queries in the largest block, and of output features in a panel */
  int real_bytes;   /* of lse and the like */
  int widens_float16;
  int step; /* elements that are multiplied at once: 2 of bfloat16, 4 of bytes where there are instructions for it */

  struct pyattn_attention_path prefill, decode;

  /* The second pass of a block that is finished, once more over its ranges of keys: weights, entropy, best keys. */
  void (*weights_begin)(const struct pyattn_query_block *);
  void (*weights_update)(const struct pyattn_query_block *, const struct pyattn_keys *, ptrdiff_t first,
                         ptrdiff_t count);
  void (*weights_finish)(const struct pyattn_query_block *);
  /* Adds the weights of a block's rows, whose moments are known, to the sums of keys first ... first + count; those of
   * gathered keys to sums[index]. */
  void (*column_sums)(const struct pyattn_query_block *, const struct pyattn_keys *, ptrdiff_t first, ptrdiff_t count,
                      double *sums);

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
