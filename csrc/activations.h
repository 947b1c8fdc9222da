/* Elementwise activations of a vector; the codes are those of kernels.h. */
#ifndef PYATTN_ACTIVATIONS_H
#define PYATTN_ACTIVATIONS_H

#include "kernels.h"
#include "simd.h"

#define LOG2_E 1.44269504088896340736

/* e^x in the normal range; huge beyond it, which as the denominator of 1 / (1 + e^x) gives the same 0 as inf. */
INLINE vec exp_any(vec x) {
  const vec log2 = x * (real)LOG2_E;
  const vec small = exp2_of_negative(choose(log2 > 0, -log2, log2));
  return choose(log2 > 0, 1 / small, small);
}

INLINE vec sigmoid(vec x) { return 1 / (1 + exp_any(-x)); }

/* To 2.4e-7 (float32; 3e-7 without fused multiply-add) or 5e-16 (float64) relative, odd to the bit, never beyond 1, 1
 * from 8.3 (float32) or 19.5 on. On n = -|x|, which vmax keeps if NaN: n P / Q + n S with polynomials in t = n^2
 * (coefficients.py). S, a third of the sum where tanh is near 1, keeps the roundings of P and Q down. In float32 that
 * is tanh(n), and grows past -1 where tanh rounds to it. In float64 it is z = 2 tanh(n / 2), which takes half the
 * terms, and z / (1 + z^2 / 4) = tanh(n) forgives its roundings. On Zen 5 a Newton step to 1 / Q is slower. */
INLINE vec vtanh(vec x) {
#if REAL_BITS == 32
  static const real s[] = {0x1.b55aecp-24f, -0x1.327f98p-14f, 0x1.910e64p-5f};
  static const real p[] = {0x1.f0a8b2p+2f, 0x1.c1e8fep+8f, 0x1.f29dcep+11f};
  static const real q[] = {0x1.93b554p+6f, 0x1.e5b3aep+10f, 0x1.062454p+12f}; /* behind a leading 1 */
#else
  static const real s[] = {0x1.4e6cbb73563bap-32, -0x1.7766944682045p-19, 0x1.a76505821420bp-6};
  static const real p[] = {0x1.db23d1033464fp+5, 0x1.44e1832c1083cp+16, 0x1.fe13c1894d7f0p+24, 0x1.fffa8a2d1317dp+31,
                           0x1.d7bf3cae07b3dp+36};
  static const real q[] = {0x1.fec54e7793243p+10, 0x1.280535e8ed969p+20, 0x1.de07930b75573p+27, 0x1.cec8af68dad0dp+33,
                           0x1.e442e32696b2ap+36};
#endif
  const ivec flipped = ~(ivec)x & SIGN_BIT;
  const vec n = vmax(splat(-20), (vec)((ivec)x | SIGN_BIT));
  const vec t = n * n;
  vec above = splat(p[0]), below = t + q[0];
  UNROLL for (int i = 1; i < (int)(sizeof p / sizeof *p); i++) {
    above = above * t + p[i];
    below = below * t + q[i];
  }
  const vec z = n * (above / below) + n * ((s[0] * t + s[1]) * t + s[2]);
#if REAL_BITS == 32
  const vec y = vmax(splat(-1), z);
#else
  const vec y = z / (1 + (real)0.25 * z * z);
#endif
  return (vec)((ivec)y ^ flipped);
}

/* x Phi(x) = max(x, 0) - |x| erfc(|x| / sqrt(2)) / 2, Hendrycks & Gimpel 2016 (arXiv:1606.08415), equation 1. */
INLINE vec gelu(vec x) {
#if REAL_BITS == 32
  /* erfc(x / sqrt(2)) = 2^-(x q(x)) on [0, 7], 1e-7 of x erfc(x / sqrt(2)), or 2e-5 beside weights of 8 bits
   * (coefficients.py); behind 7, where the polynomials still grow for a while, the product is below 2e-11 */
#if ELEMENT == BF16 || ELEMENT == I8
  static const real c[] = {-0x1.10ae6cp-8f, 0x1.76a2eap-5f, 0x1.dc17ccp-2f, 0x1.2649eep+0f};
#else
  static const real c[] = {0x1.8bf982p-21f, -0x1.ada230p-17f, 0x1.b6ab96p-15f, 0x1.f8f216p-12f,
                           -0x1.ee9c08p-8f, 0x1.b108eap-5f,   0x1.d617a6p-2f,  0x1.26b000p+0f};
#endif
  const vec size = vmin(magnitude(x), splat(12));
  vec q = splat(c[0]);
  UNROLL for (int i = 1; i < (int)(sizeof c / sizeof *c); i++) q = q * size + c[i];
  return vmax((vec){0}, x) - size * exp2_of_negative(-size * q - 1);
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

#endif
