/* Elementwise activations of a vector; the codes are those of kernels.h. */
#pragma once

#include "kernels.h"
#include "vmath.h"

INLINE vec sigmoid(vec x) { return 1 / (1 + exp_any(-x)); }

/* x Phi(x) = max(x, 0) - |x| erfc(|x| / sqrt(2)) / 2, Hendrycks & Gimpel 2016 (arXiv:1606.08415), equation 1. */
INLINE vec gelu(vec x) {
#if REAL_BITS == 32
  return vmax((vec){0}, x) - gelu_tail(magnitude(x));
#else
  vec y;
  UNROLL for (int i = 0; i < LANES; i++) y[i] = x[i] < -40 ? -0.0 : 0.5 * x[i] * erfc(-0.70710678118654752440 * x[i]);
  return y;
#endif
}

/* The tanh form of the same article, by (1 + tanh u) / 2 = sigmoid(2 u). */
INLINE vec gelu_tanh(vec x) {
  const vec u = (real)0.79788456080286535588 * (x + (real)0.044715 * x * x * x);
  return x * sigmoid(2 * u);
}

INLINE vec relu(vec x) { return choose(x < 0, (vec){0}, x); }

INLINE vec silu(vec x) { return x * sigmoid(x); }

/* Each of `count` vectors; which activation is asked once. */
INLINE void activate_all(vec *x, ptrdiff_t count, int activation) {
#define EACH(function) \
  for (ptrdiff_t i = 0; i < count; i++) x[i] = function(x[i])
  switch (activation) {
    case PYATTN_RELU: EACH(relu); break;
    case PYATTN_GELU: EACH(gelu); break;
    case PYATTN_GELU_TANH: EACH(gelu_tanh); break;
    case PYATTN_SILU: EACH(silu); break;
    default: break;
  }
#undef EACH
}

/* Their derivatives. */
INLINE vec relu_slope(vec x) { return choose(x <= 0, (vec){0}, splat(1)); }

INLINE vec silu_slope(vec x) {
  const vec s = sigmoid(x);
  return s * (1 + x * (1 - s));
}

INLINE vec gelu_tanh_slope(vec x) {
  const vec u = (real)0.79788456080286535588 * (x + (real)0.044715 * x * x * x), s = sigmoid(2 * u);
  return s + x * s * (1 - s) * (real)1.59576912160573071176 * (1 + (real)0.134145 * x * x);
}

/* Phi(x) + x phi(x), with phi the normal density. */
INLINE vec gelu_slope(vec x) {
  const vec density = (real)0.39894228040143267794 * exp2_of_negative(x * x * (real)(-0.5 * LOG2_E));
#if REAL_BITS == 32
  const vec size = magnitude(x), tail = choose(size <= (real)1e-20, splat((real)0.5), gelu_tail(size) / size);
  const vec below = choose(x > 0, 1 - tail, tail);
#else
  vec below;
  UNROLL for (int i = 0; i < LANES; i++) below[i] = 0.5 * erfc(-0.70710678118654752440 * x[i]);
#endif
  return below + choose(density == 0, (vec){0}, x * density); /* not inf 0 */
}

INLINE vec slope_of(vec x, int activation) {
  switch (activation) {
    case PYATTN_RELU: return relu_slope(x);
    case PYATTN_GELU: return gelu_slope(x);
    case PYATTN_GELU_TANH: return gelu_tanh_slope(x);
    case PYATTN_SILU: return silu_slope(x);
    default: return splat(1);
  }
}
