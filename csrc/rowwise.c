/* What runs along a row: normalisation, and activations on their own. Rows are contiguous. */
#include "activations.h"
#include "kernels.h"

/* The first n lanes from p, the value fill behind. */
INLINE vec load_filled(const char *p, ptrdiff_t n, real fill) {
  if (n >= LANES) return load(p);
  vec x = splat(fill);
  memcpy(&x, p, (size_t)n * sizeof(real));
  return x;
}

/* (x - mean) / sqrt(variance + eps) * weight + bias: Ba, Kiros & Hinton 2016 (arXiv:1607.06450), equation 4. The
 * variance is summed from differences to the mean, in a second pass, so that a large mean costs no digits. */
static void layer_norm(const char *input, const char *weight, const char *bias, char *out, ptrdiff_t width,
                       double eps) {
  const ptrdiff_t step = sizeof(real);
  vec sum = {0}, squares = {0};
  for (ptrdiff_t i = 0; i < width; i += LANES) sum += load_filled(input + i * step, width - i, 0);
  const real mean = sum_lanes(sum) / (real)width;
  for (ptrdiff_t i = 0; i < width; i += LANES) {
    const vec difference = load_filled(input + i * step, width - i, mean) - mean;
    squares += difference * difference;
  }
  const real factor = (real)(1 / sqrt((double)(sum_lanes(squares) / (real)width) + eps));
  for (ptrdiff_t i = 0; i < width; i += LANES) {
    const ptrdiff_t columns = width - i < LANES ? width - i : LANES;
    vec x = (load_strided(input + i * step, step, columns) - mean) * factor;
    if (weight) x *= load_strided(weight + i * step, step, columns);
    if (bias) x += load_strided(bias + i * step, step, columns);
    store_strided(out + i * step, step, x, columns);
  }
}

static void activation(const char *input, char *out, ptrdiff_t count, int kind) {
  const ptrdiff_t step = sizeof(real);
  for (ptrdiff_t i = 0; i < count; i += LANES) {
    const ptrdiff_t columns = count - i < LANES ? count - i : LANES;
    vec x = load_reals(input + i * step, columns);
    activate_all(&x, 1, kind);
    store_reals(out + i * step, x, columns);
  }
}
