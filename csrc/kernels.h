/* The contract between the Cython drivers and the kernels: what a kernel is given, and the table it is called through.
 * Data pointers are untyped and all strides are in bytes, so that one driver serves every element type. */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum { PYATTN_IDENTITY, PYATTN_RELU, PYATTN_GELU, PYATTN_GELU_TANH, PYATTN_SILU };

/* Storage formats of packed weights. A weight of float32 is stored as float16 or bfloat16 where every value is exactly
 * representable in it, and widened in the tile. */
enum { PYATTN_FLOAT32, PYATTN_FLOAT64, PYATTN_FLOAT16, PYATTN_BFLOAT16, PYATTN_INT8 };

/* Rows that a panel of weights is multiplied with at once by AMX: linear/amx.h */
#define PYATTN_TILES_ROWS 32

enum { PYATTN_MASK_NONE, PYATTN_MASK_BOOL, PYATTN_MASK_REAL };

enum {
  PYATTN_KEY_BLOCK = 128,     /* keys scored at a time: from a multiple of it, whichever of them a query may see */
  PYATTN_SPLIT = 1024,        /* keys whose weighted sum is complete in itself; splits are then added up in order */
  PYATTN_WIDTH_BLOCK = 1024,  /* head width transposed at a time; the widest value a block accumulates */
  PYATTN_DECODE_ROWS = 8,     /* query rows of a block that decode takes, at most, and no more than lanes; of those with
                                 keys of their own, as many as lanes */
  PYATTN_GRADIENT_BLOCKS = 4, /* of queries, whose gradients are added to those of keys at once, at most */
  PYATTN_ALIGNMENT = 64,
};

/* Of gradients: what a bias gets; or what the operands of products do, from the first keys or from more of them. */
enum { PYATTN_GRADIENT_OF_OPTIONS, PYATTN_GRADIENT_FIRST, PYATTN_GRADIENT_MORE };

/* A strided array: element (head, row, column) lies head, row and column times so many bytes after data. */
struct pyattn_array {
  char *data;
  ptrdiff_t row, column, head;
};

/* The operands of attention. Arrays of the caller's element type, (head, row, column), but where another type is named;
 * "compute type" is that of lse: the elements' own, float for 16-bit elements. A head is a query head but for keys,
 * values, their scales and gradients. Data is NULL where an operand is not given. */
enum {
  PYATTN_QUERY,        /* row: query, column: feature */
  PYATTN_KEY,          /* row: key, column: feature */
  PYATTN_VALUE,        /* row: key, column: feature */
  PYATTN_KEY_SCALES,   /* of int8 keys: float, row: key; what the key's features are multiplied by */
  PYATTN_VALUE_SCALES, /* of int8 values: the same */
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
  /* Of gradients, which read out and lse: rows are contiguous and whole vectors. */
  PYATTN_GRAD_OUT,    /* row: query, column: feature of the values */
  PYATTN_GRAD_LSE,    /* row: query */
  PYATTN_GRAD_QUERY,  /* written; row: query, column: feature */
  PYATTN_GRAD_KEY,    /* the same of keys, */
  PYATTN_GRAD_VALUE,  /* and of values; products add to arrays of compute type */
  PYATTN_GRAD_BIAS,   /* of compute type, added to; row: query, column: key; strides of 0 sum over an axis */
  PYATTN_GRAD_SLOPES, /* of compute type, added to; row: query */
  PYATTN_OPERANDS,
};

/* What all blocks of a call share. */
struct pyattn_attention {
  struct pyattn_array operands[PYATTN_OPERANDS]; /* of the whole call; blocks have pointers of their own into them */
  ptrdiff_t width, value_width;                  /* value_width at most PYATTN_WIDTH_BLOCK; 0 computes no output */
  int mask_kind;
  int index_bias; /* whether gathered keys carry biases */
  const struct pyattn_attention_path *path;
  double scale, softcap; /* softcap 0: none */
  double dropout;        /* the probability that a weight is dropped; 0: none. It decides with dropout_seed, below */
  uint64_t dropout_seed;
  ptrdiff_t left, right; /* a query at position p sees the keys from p - left to p + right */
  ptrdiff_t top_k;
};

/* The bias or floating mask of a block's rows and keys, transposed once for all heads that share it. */
struct pyattn_addends {
  char *lines;      /* aligned, PYATTN_KEY_BLOCK times the table's tile_vectors vectors; NULL: each head has its own */
  int placed;       /* whether a block has placed them */
  int masked;       /* whether some are -inf */
  const char *next; /* in the operand, of the same keys or the next: what is placed soon, which is prefetched, */
  ptrdiff_t next_rows; /* so many rows of it */
};

/* A block of query rows on its way over the keys of one head. Row r is query first + r % length of the r / length-th of
 * the query heads that share the head of keys. */
struct pyattn_query_block {
  const struct pyattn_attention *call;
  char *data[PYATTN_OPERANDS];    /* at row 0, and key 0 where columns are keys; keys and values: at key 0 */
  int vectors;                    /* vectors of lanes that the rows fill, 1 to the table's tile_vectors */
  ptrdiff_t rows, first, length;  /* at most vectors * lanes */
  ptrdiff_t query_offset;         /* position of query 0 */
  ptrdiff_t kv_length;            /* keys at or after this are masked */
  ptrdiff_t head_number;          /* of row 0, counted over batch, or packed sequences, and heads: for dropout */
  ptrdiff_t query_number;         /* what `first` counts from, for dropout */
  char *scratch;                  /* aligned, state_bytes; the block's state, from begin to finish */
  struct pyattn_addends *addends; /* or NULL */
  const char *next_query; /* row 0 of the block that takes this one's place later on, of as many rows, or NULL */
};

/* Keys first ... first + count of one head: at most PYATTN_KEY_BLOCK, within one block of them. */
struct pyattn_keys {
  char *key, *value;             /* key 0; value may be NULL */
  char *key_scale, *value_scale; /* of key 0, where they are int8 */
  const int32_t *index;          /* NULL, or the true number of each key, ascending: keys are gathered (decode alone) */
  const int64_t *starts;         /* NULL, or where in index the keys of each row of the block begin, and the last end:
                                    rows with at most PYATTN_KEY_BLOCK keys each, all of which they see, no options */
  const char *index_bias;        /* NULL, or a bias of compute type for each element of index */
  ptrdiff_t first, count;
  struct pyattn_array tile_key, tile_value; /* as tiles read them, from key `first`, columns in groups: set by load */
  int finite;                               /* whether all loaded values are; -1 until a block asks */
};

/* A weight (outputs, inputs), packed: what linear/format.h says. */
struct pyattn_weight {
  const char *packed;
  const char *bias; /* outputs of compute type, contiguous, or NULL */
  ptrdiff_t outputs, inputs;
  int format; /* PYATTN_FLOAT32, ... */
};

/* out = activation(input weight^T + bias) + residual. Rows of out and residual are contiguous. */
struct pyattn_linear {
  const struct pyattn_weight *weight;
  const char *residual; /* of compute type, or NULL */
  char *out;            /* of compute type, or of bfloat16 */
  ptrdiff_t residual_row, out_row;
  int activation, out_is_bf16;
};

/* Packed left operand of the tile: rows of dot-product groups. */
struct pyattn_packed_rows {
  const char *data;     /* the first row of the tile */
  ptrdiff_t row;        /* bytes from one row to the next */
  const float *scales;  /* int8: what each of these rows was divided by */
  const char *ahead;    /* what to prefetch: with each dot-product group the line there, */
  ptrdiff_t ahead_step; /* which moves on by so many bytes */
};

/* Queries and documents of late interaction, each a range of tokens: float32 packed as a weight is, without a bias, and
 * rows of PYATTN_FLOAT32, PYATTN_FLOAT16 or PYATTN_BFLOAT16, each contiguous. */
struct pyattn_maxsim {
  const struct pyattn_weight *queries;
  const int64_t *query_starts; /* counted from the first of them; and the last end. NULL: maxima are the result */
  ptrdiff_t count;             /* of queries, 0 for maxima */
  const char *documents;
  ptrdiff_t row;
  int format;
  const int64_t *document_starts;
  char *out;         /* float, (query, document); or maxima (document, token) */
  ptrdiff_t out_row; /* rows are contiguous */
};

/* One of the three ways to attend, chosen once for a call: prefill, with queries along the lanes; decode, for at most
 * PYATTN_DECODE_ROWS rows, with keys and then features along the lanes; or mixed, for rows that one vector holds, with
 * queries and then features along them. Results have the same bits. A block of queries goes through begin; then load
 * and update for ranges of keys in ascending order, each within one block of PYATTN_KEY_BLOCK keys, and merge after the
 * last range of each PYATTN_SPLIT keys if more follow; then finish. */
struct pyattn_attention_path {
  int along_keys; /* whether keys are along the lanes of scores, not queries */
  int by_row;     /* whether weighted sums lie row by row, not feature by feature */
  ptrdiff_t (*state_bytes)(const struct pyattn_attention *, int vectors); /* of a block whose rows fill so many */
  /* Converts keys and values, in a scratch memory of load_bytes, where update multiplies other types. */
  ptrdiff_t (*load_bytes)(const struct pyattn_attention *);
  void (*load)(const struct pyattn_attention *, struct pyattn_keys *, char *scratch);
  /* Makes the state of a block that has seen no keys. */
  void (*begin)(const struct pyattn_query_block *);
  /* Adds keys first ... first + count, which are loaded, to the present split. */
  void (*update)(const struct pyattn_query_block *, struct pyattn_keys *, ptrdiff_t first, ptrdiff_t count);
  /* Adds the present split, or all that another state of the same rows has seen, to the splits before it, and begins
   * another split. */
  void (*merge)(const struct pyattn_query_block *, char *from);
  /* Merges the last split and writes out, lse, max and moments. */
  void (*finish)(const struct pyattn_query_block *);
  /* Fills the state with the logits of keys first ... first + count, which it may narrow to those that some row sees.
   * Returns whether some are masked. */
  int (*logits)(const struct pyattn_query_block *, const struct pyattn_keys *, ptrdiff_t *first, ptrdiff_t *count);
};

struct pyattn_kernels {
  int lanes;        /* compute-type elements in a vector */
  int tile_rows;    /* rows of a linear_tile */
  int tile_vectors; /* vectors of queries in the largest block, and of output features in a panel */
  int real_bytes;   /* bytes of the compute type */
  int key_bytes;    /* bytes of an element of keys and values */
  int group;        /* elements of a dot-product group: 2 of bfloat16, 4 of int8 where there are instructions for it */

  struct pyattn_attention_path prefill, mixed, decode;

  /* Rounds `width` features to int8: the largest is 127, or -127, times the scale; features are zeros and the scale is
   * NaN where one is not finite. */
  void (*round_row)(const char *features, ptrdiff_t width, char *rounded, float *scale);

  /* The second pass of a block that is finished, once more over its ranges of keys: weights, entropy, best keys. */
  void (*weights_begin)(const struct pyattn_query_block *);
  void (*weights_update)(const struct pyattn_query_block *, const struct pyattn_keys *, ptrdiff_t first,
                         ptrdiff_t count);
  void (*weights_finish)(const struct pyattn_query_block *);
  /* Adds the weights of a block's rows, whose moments are known, to the sums of keys first ... first + count; those of
   * gathered keys to sums[index]. */
  void (*column_sums)(const struct pyattn_query_block *, const struct pyattn_keys *, ptrdiff_t first, ptrdiff_t count,
                      double *sums);

  /* Gradients of a block of prefill: begin; then pairs of ranges of keys in ascending order, within blocks of
   * PYATTN_KEY_BLOCK, each followed by products, of several blocks of the same head at once, or by options; finish.
   * Those of keys and values are added up in compute type; sum writes as elements what `parts` arrays, `step` bytes
   * apart, add up to. Of 16 bits there are gradients where there are dot products. */
  ptrdiff_t (*gradient_bytes)(const struct pyattn_attention *, int vectors); /* of scratch memory */
  void (*gradient_begin)(const struct pyattn_query_block *, int stage);
  int (*gradient_pairs)(const struct pyattn_query_block *, const struct pyattn_keys *, ptrdiff_t first,
                        ptrdiff_t count);
  void (*gradient_products)(const struct pyattn_query_block *, int count_of_blocks, const int *masked,
                            const struct pyattn_keys *, ptrdiff_t first, ptrdiff_t count, int add);
  void (*gradient_options)(const struct pyattn_query_block *, ptrdiff_t first, ptrdiff_t count);
  void (*gradient_finish)(const struct pyattn_query_block *);
  void (*gradient_sum)(const char *sums, ptrdiff_t step, ptrdiff_t parts, char *out, ptrdiff_t count);

  /* The format of least memory that multiplies to the same bits as a strided (outputs, inputs) array of elements. */
  int (*linear_format)(const char *elements, ptrdiff_t row, ptrdiff_t column, ptrdiff_t outputs, ptrdiff_t inputs);
  ptrdiff_t (*linear_packed_bytes)(ptrdiff_t outputs, ptrdiff_t inputs, int format); /* of a weight */
  /* Packs such an array; int8: with the scale of each output. weight->packed is not read. */
  void (*linear_pack)(const struct pyattn_weight *, const char *elements, ptrdiff_t row, ptrdiff_t column,
                      const float *scales, char *packed);
  /* The contrary: writes elements (outputs, inputs), contiguous; int8: and the scales. */
  void (*linear_unpack)(const struct pyattn_weight *, char *elements, float *scales);
  /* Bytes of a packed row of inputs; 0 where rows of inputs, of bfloat16 or compute type, are multiplied in place. */
  ptrdiff_t (*linear_row_bytes)(ptrdiff_t inputs, int input_is_bf16);
  /* Converts one row of inputs, of bfloat16 or compute type, to dot-product groups: rounded to bfloat16, or to int8
   * with the scale that it was divided by. */
  void (*linear_pack_row)(const char *input, int input_is_bf16, ptrdiff_t inputs, char *packed, float *scale);
  /* Computes rows first ... first + rows, at most tile_rows, of the output features of one panel: those of tile_vectors
   * vectors. The packed rows are the inputs of these rows alone. */
  void (*linear_tile)(const struct pyattn_linear *, const struct pyattn_packed_rows *, ptrdiff_t first, ptrdiff_t rows,
                      ptrdiff_t panel);

  /* Scores of documents first ... last, in a scratch memory of maxsim_bytes, aligned. float32 alone. */
  ptrdiff_t (*maxsim_bytes)(const struct pyattn_maxsim *);
  void (*maxsim)(const struct pyattn_maxsim *, ptrdiff_t first, ptrdiff_t last, char *scratch);

  /* out[i] = activation(input[i]) * input[width + i], i < width: elements. */
  void (*gate)(const char *input, char *out, ptrdiff_t width, int activation);
  /* Rotates the first 2 half elements of each head of a row in place; heads begin `stride` bytes apart. Element i is
   * paired with i + half or, interleaved, 2 i with 2 i + 1. cosines and sines: half of compute type each. */
  void (*rotate)(char *row, const char *cosines, const char *sines, ptrdiff_t heads, ptrdiff_t stride, ptrdiff_t half,
                 int interleaved);
  /* Normalises one row; centred: its mean is subtracted first. weight and bias may be NULL, out may be input. */
  void (*normalise_row)(const char *input, const char *weight, const char *bias, char *out, ptrdiff_t width, double eps,
                        int centred);
  void (*add_row)(const char *input, char *sum, ptrdiff_t width);
  /* out[i] = activation(input[i]), i < count; out may be input. */
  void (*activate)(const char *input, char *out, ptrdiff_t count, int activation);
  /* out[i] = activation(input[i]) with dropout; or, of the gradient of that, input's. grad may be NULL, and any may be
   * out. */
  void (*drop)(const char *input, const char *grad, char *out, ptrdiff_t width, uint64_t seed, ptrdiff_t row,
               double probability, int activation);

  /* Runs rounds of independent multiply-adds; returns how many floating-point operations those were. */
  double (*probe_multiply_add)(ptrdiff_t rounds);
  /* Reads count vectors from p; returns their sum. */
  double (*probe_read)(const char *p, ptrdiff_t count);
};

/* An instruction set that was compiled in. The table of float16 holds attention and probes; that of bfloat16 packed
 * matmuls, gates and rotations as well; that of int8 packed matmuls and probes alone, that of int8_keys (float32 with
 * keys and values of int8) attention. */
struct pyattn_isa {
  const char *name;
  int supported; /* by this machine and its operating system */
  const struct pyattn_kernels *float32, *float64, *float16, *bfloat16, *int8, *int8_keys;
};

/* Best last, ended by a name of NULL. */
const struct pyattn_isa *pyattn_isas(void);
