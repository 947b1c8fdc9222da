/* Weights to and from the packed layout of format.h, once; rows of inputs to the tile's left operand, in each call. */
#include "format.h"

static int linear_format(const char *elements, ptrdiff_t row, ptrdiff_t column, ptrdiff_t outputs, ptrdiff_t inputs) {
#if ELEMENT == F32
  int bfloat16 = 1, float16 = WIDENS_FLOAT16; /* the first row tells of nearly all weights */
  for (ptrdiff_t o = 0; o < outputs && (bfloat16 || float16); o++) {
    ivec beyond_bfloat16 = {0}, beyond_float16 = {0};
    for (ptrdiff_t k = 0; k < inputs; k += LANES) {
      const vec x = load_strided(elements + o * row + k * column, column, inputs - k);
      beyond_bfloat16 |= (ivec)x & 0xffff;
      if (WIDENS_FLOAT16) beyond_float16 |= widen_float16(narrow_float16(x)) != x;
    }
    bfloat16 &= !any_lane(beyond_bfloat16);
    float16 &= !any_lane(beyond_float16);
  }
  return bfloat16 ? PYATTN_BFLOAT16 : float16 ? PYATTN_FLOAT16 : PYATTN_FLOAT32; /* bfloat16 is widened at less cost */
#else
  (void)elements, (void)row, (void)column, (void)outputs, (void)inputs;
  return ELEMENT_FORMAT;
#endif
}

static ptrdiff_t linear_packed_bytes(ptrdiff_t outputs, ptrdiff_t inputs, int format) {
  return padded(outputs) / LANES * (packed_vector_bytes(inputs, format) + (ELEMENT == I8 ? 2 * VECTOR_BYTES : 0));
}

/* Offset of the vectors that hold feature `first`; line: bytes from one of them to that of the next inputs. */
INLINE ptrdiff_t vectors_at(const struct pyattn_weight *weight, ptrdiff_t first, ptrdiff_t *line) {
  const ptrdiff_t panel = first / PANEL, place = first % PANEL, bytes = LANES * lane_bytes(format_of(weight));
  *line = least(padded(weight->outputs - panel * PANEL), PANEL) / LANES * bytes;
  return panel * TILE_VECTORS * packed_vector_bytes(weight->inputs, format_of(weight)) + place / LANES * bytes;
}

/* A vector of group t, as load_b will read it. */
INLINE void store_group(char *p, vec x, int format, ptrdiff_t t) {
#if REAL_BITS == 32
  if (format == PYATTN_FLOAT16) {
    const vec16 y = narrow_float16(x);
    memcpy(p, &y, sizeof y);
  } else if (shares_lanes(format)) {
    store(p, t % 2 == 0 ? (vec)((uvec)x >> 16) : (vec)((uvec)load(p) | (uvec)x));
  } else
#endif
    store(p, x);
  (void)format, (void)t;
}

static void linear_pack(const struct pyattn_weight *weight, const char *elements, ptrdiff_t row, ptrdiff_t column,
                        const float *scales, char *packed) {
  const ptrdiff_t outputs = weight->outputs, inputs = weight->inputs;
  const int format = format_of(weight);
  const ptrdiff_t groups = lane_inputs(format) / GROUP; /* of a lane */
  for (ptrdiff_t first = 0; first < outputs; first += LANES) {
    ptrdiff_t line;
    char *base = packed + vectors_at(weight, first, &line);
    for (ptrdiff_t k = 0; k < inputs; k += LANES * GROUP) {
      vec x[LANES];
      UNROLL for (int i = 0; i < LANES; i++) {
        x[i] = (vec){0};
        if (first + i < outputs) x[i] = load_groups(elements + (first + i) * row + k * column, column, inputs - k);
      }
      transpose(x);
      for (ptrdiff_t t = k / GROUP, i = 0; i < LANES && t < groups_of(inputs); i++, t++) {
        store_group(base + t / groups * line, x[i], format, t);
      }
    }
  }
#if ELEMENT == I8
  float *scale = (float *)scales_of(packed, outputs, inputs);
  int32_t *initial = (int32_t *)(scale + padded(outputs));
  for (ptrdiff_t o = 0; o < padded(outputs); o++) {
    scale[o] = o < outputs ? scales[o] : 0;
    initial[o] = 0;
    for (ptrdiff_t k = 0; o < outputs && k < inputs; k++) {
      initial[o] += *(const int8_t *)(elements + o * row + k * column);
    }
    initial[o] *= -INPUT_ZERO;
  }
#else
  (void)scales;
#endif
}

/* The element at this place of the groups in a vector that load_b has read. */
INLINE void unpack_element(char *element, vec x, ptrdiff_t place) {
#if ELEMENT == I8
  grouped y;
  memcpy(&y, (const char *)&x + place * (ptrdiff_t)sizeof y, sizeof y);
  *(int8_t *)element = (int8_t)y;
#else
  const ptrdiff_t size = sizeof(real) / GROUP; /* of an element in the vector; its upper bits, if there are more */
  memcpy(element, (const char *)&x + place * size + size - ELEMENT_BYTES, ELEMENT_BYTES);
#endif
}

static void linear_unpack(const struct pyattn_weight *weight, char *elements, float *scales) {
  const int format = format_of(weight);
  const ptrdiff_t outputs = weight->outputs, inputs = weight->inputs, groups = lane_inputs(format) / GROUP;
  for (ptrdiff_t first = 0; first < outputs; first += LANES) {
    ptrdiff_t line;
    const char *base = weight->packed + vectors_at(weight, first, &line);
    for (ptrdiff_t k = 0; k < inputs; k++) {
      const ptrdiff_t t = k / GROUP;
      const vec x = load_b(base + t / groups * line, format, t % groups != 0, 0);
      for (ptrdiff_t i = 0; i < least(outputs - first, LANES); i++) {
        unpack_element(elements + ((first + i) * inputs + k) * ELEMENT_BYTES, x, i * GROUP + k % GROUP);
      }
    }
  }
  if (ELEMENT == I8) memcpy(scales, scales_of(weight->packed, outputs, inputs), (size_t)outputs * sizeof *scales);
}

static ptrdiff_t linear_row_bytes(ptrdiff_t inputs, int input_is_bf16) {
  const int in_place = PAIRS_OF_BFLOAT16 ? input_is_bf16 && inputs % 2 == 0 : ELEMENT == F32 || ELEMENT == F64;
  return in_place ? 0 : round_up(inputs, LANES * GROUP) / GROUP * (ptrdiff_t)sizeof(real);
}

#if ELEMENT == BF16 || ELEMENT == I8
/* LANES inputs from k on, zeros after the last. */
INLINE vec load_input(const char *input, int is_bf16, ptrdiff_t k, ptrdiff_t inputs) {
  if (k >= inputs) return (vec){0};
  return is_bf16 ? load_elements(input + k * 2, inputs - k)
                 : load_reals(input + k * (ptrdiff_t)sizeof(real), inputs - k);
}

#if ELEMENT == BF16
INLINE void pack_row(const char *input, int is_bf16, ptrdiff_t inputs, char *packed, float *scale) {
  for (ptrdiff_t k = 0; k < inputs; k += LANES * GROUP, packed += VECTOR_BYTES) {
    const vec low = load_input(input, is_bf16, k, inputs);
    store(packed, GROUP == 2 ? pack_groups(low, load_input(input, is_bf16, k + LANES, inputs)) : widen(narrow(low)));
  }
  *scale = 1;
}
#else
/* Inputs of a vector of groups from k on, LANES after the other. whole: all of them are there. */
INLINE void load_inputs(vec x[GROUP], const char *input, int is_bf16, ptrdiff_t k, ptrdiff_t inputs, int whole) {
  UNROLL for (int s = 0; s < GROUP; s++) {
    const ptrdiff_t first = k + s * LANES;
    x[s] = load_input(input, is_bf16, first, whole ? first + LANES : inputs);
  }
}

/* The largest magnitude, inf or NaN if there are any: as integers, floats without a sign are in this order. */
INLINE float largest(const char *input, int is_bf16, ptrdiff_t inputs) {
  const ptrdiff_t step = LANES * GROUP;
  ivec most[GROUP] = {{0}}; /* several, as each waits for the last of its own */
  vec x[GROUP];
  for (ptrdiff_t k = 0; k < inputs; k += step) {
    if (k + step <= inputs)
      load_inputs(x, input, is_bf16, k, inputs, 1);
    else
      load_inputs(x, input, is_bf16, k, inputs, 0);
    UNROLL for (int s = 0; s < GROUP; s++) most[s] = larger(most[s], (ivec)magnitude(x[s]));
  }
  UNROLL for (int s = 1; s < GROUP; s++) most[0] = larger(most[0], most[s]);
  word bits = 0;
  UNROLL for (int i = 0; i < LANES; i++) bits = most[0][i] > bits ? most[0][i] : bits;
  float result;
  memcpy(&result, &bits, sizeof result);
  return result;
}

INLINE void pack_row(const char *input, int is_bf16, ptrdiff_t inputs, char *packed, float *scale) {
  const ptrdiff_t step = LANES * GROUP;
  const float max = largest(input, is_bf16, inputs);
  const int finite = max < (float)INFINITY;
  const float into = finite && max > 0 ? 127 / max : 0;
  vec x[GROUP];
  *scale = finite ? max / 127 : (float)NAN; /* so that NaN and inf come out */
  for (ptrdiff_t k = 0; k < inputs; k += step, packed += VECTOR_BYTES) {
    if (k + step <= inputs)
      load_inputs(x, input, is_bf16, k, inputs, 1);
    else
      load_inputs(x, input, is_bf16, k, inputs, 0);
    UNROLL for (int s = 0; s < GROUP; s++) x[s] = finite ? x[s] * into : (vec){0};
    store(packed, round_groups(x));
  }
}
#endif

static void linear_pack_row(const char *input, int input_is_bf16, ptrdiff_t inputs, char *packed, float *scale) {
  if (input_is_bf16)
    pack_row(input, 1, inputs, packed, scale);
  else
    pack_row(input, 0, inputs, packed, scale);
}
#endif
