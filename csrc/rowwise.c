/* What runs along a row: normalisation, activations on their own, gates, rotations and dropout. Rows are contiguous. */
#include "activations.h"
#include "dropout.h"
#include "kernels.h"

/* activation(a) b of a row [a, b]: GLU, Dauphin et al. 2016 (arXiv:1612.08083); Shazeer 2020 (arXiv:2002.05202). */
static void gate(const char *input, char *out, ptrdiff_t width, int activation) {
  const ptrdiff_t step = ELEMENT_BYTES;
  for (ptrdiff_t i = 0; i < width; i += LANES) {
    vec x = load_elements(input + i * step, width - i);
    activate_all(&x, 1, activation);
    store_elements(out + i * step, x * load_elements(input + (width + i) * step, width - i), width - i);
  }
}

/* Rotary positions of heads, whose pairs (a, b) become (a cos - b sin, b cos + a sin): RoFormer, Su et al. 2021
 * (arXiv:2104.09864), equation 34, whose pairs are the interleaved ones. */
static void rotate(char *row, const char *cosines, const char *sines, ptrdiff_t heads, ptrdiff_t stride, ptrdiff_t half,
                   int interleaved) {
  const ptrdiff_t step = interleaved ? 2 * ELEMENT_BYTES : ELEMENT_BYTES;
  char *partner = row + (interleaved ? 1 : half) * ELEMENT_BYTES;
  for (ptrdiff_t head = 0; head < heads; head++, row += stride, partner += stride) {
    for (ptrdiff_t i = 0; i < half; i += LANES) {
      const ptrdiff_t left = half - i;
      const vec a = load_strided(row + i * step, step, left), b = load_strided(partner + i * step, step, left);
      const vec cosine = load_reals(cosines + i * (ptrdiff_t)sizeof(real), left);
      const vec sine = load_reals(sines + i * (ptrdiff_t)sizeof(real), left);
      store_strided(row + i * step, step, a * cosine - b * sine, left);
      store_strided(partner + i * step, step, b * cosine + a * sine, left);
    }
  }
}

#if ELEMENT == F32 || ELEMENT == F64
/* The first n lanes from p, then the value fill. */
INLINE vec load_filled(const char *p, ptrdiff_t n, real fill) {
  if (n >= LANES) return load(p);
  ivec lanes;
  UNROLL for (int i = 0; i < LANES; i++) lanes[i] = i;
  return choose(lanes < (word)n, load_first(p, n), splat(fill));
}

/* (x - mean) / sqrt(variance + eps) * weight + bias: Ba, Kiros & Hinton 2016 (arXiv:1607.06450), equation 4. The
 * variance is summed from differences to the mean, in a second pass, so that a large mean costs no digits. Not centred,
 * with 0 for the mean: RMSNorm, Zhang & Sennrich 2019 (arXiv:1910.07467), equation 4. */
static void normalise_row(const char *input, const char *weight, const char *bias, char *out, ptrdiff_t width,
                          double eps, int centred) {
  const ptrdiff_t step = sizeof(real);
  vec sum = {0}, squares = {0};
  for (ptrdiff_t i = 0; centred && i < width; i += LANES) sum += load_filled(input + i * step, width - i, 0);
  const real mean = sum_lanes(sum) / (real)width;
  for (ptrdiff_t i = 0; i < width; i += LANES) {
    const vec difference = load_filled(input + i * step, width - i, mean) - mean;
    squares += difference * difference;
  }
  const real factor = (real)(1 / sqrt((double)(sum_lanes(squares) / (real)width) + eps));
  for (ptrdiff_t i = 0; i < width; i += LANES) {
    vec x = (load_reals(input + i * step, width - i) - mean) * factor;
    if (weight) x *= load_reals(weight + i * step, width - i);
    if (bias) x += load_reals(bias + i * step, width - i);
    store_reals(out + i * step, x, width - i);
  }
}

static void add_row(const char *input, char *sum, ptrdiff_t width) {
  const ptrdiff_t step = sizeof(real);
  for (ptrdiff_t i = 0; i < width; i += LANES) {
    const vec x = load_reals(input + i * step, width - i);
    store_reals(sum + i * step, load_reals(sum + i * step, width - i) + x, width - i);
  }
}

static void activate(const char *input, char *out, ptrdiff_t count, int activation) {
  const ptrdiff_t step = sizeof(real);
  for (ptrdiff_t i = 0; i < count; i += LANES) {
    vec x = load_reals(input + i * step, count - i);
    activate_all(&x, 1, activation);
    store_reals(out + i * step, x, count - i);
  }
}

INLINE void drop_as(const char *input, const char *grad, char *out, ptrdiff_t width, uint64_t seed, ptrdiff_t row,
                    double probability, int activation) {
  const ptrdiff_t step = sizeof(real);
  const uvec bits = (uvec){0} + (uword)dropout_row(seed, 0, (uint64_t)row);
  const uword below = dropped_below(probability);
  const vec factor = splat((real)(1 / (1 - probability)));
  uvec column;
  UNROLL for (int i = 0; i < LANES; i++) column[i] = (uint32_t)i * DROPOUT_COLUMN;
  for (ptrdiff_t i = 0; i < width; i += LANES) {
    vec x = load_reals(input + i * step, width - i);
    if (grad) {
      x = slope_of(x, activation) * load_reals(grad + i * step, width - i);
    } else {
      activate_all(&x, 1, activation);
    }
    store_reals(out + i * step, choose(is_kept(bits ^ column, below), x * factor, (vec){0}), width - i);
    column = low_bits(column + (uword)(LANES * DROPOUT_COLUMN));
  }
}

static void drop(const char *input, const char *grad, char *out, ptrdiff_t width, uint64_t seed, ptrdiff_t row,
                 double probability, int activation) {
  switch (activation) { /* a loop for each, in which nothing is asked */
    case PYATTN_RELU: drop_as(input, grad, out, width, seed, row, probability, PYATTN_RELU); break;
    case PYATTN_GELU: drop_as(input, grad, out, width, seed, row, probability, PYATTN_GELU); break;
    case PYATTN_GELU_TANH: drop_as(input, grad, out, width, seed, row, probability, PYATTN_GELU_TANH); break;
    case PYATTN_SILU: drop_as(input, grad, out, width, seed, row, probability, PYATTN_SILU); break;
    default: drop_as(input, grad, out, width, seed, row, probability, PYATTN_IDENTITY); break;
  }
}
#endif
