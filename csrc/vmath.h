/* Elementary functions of vectors, with the polynomials that coefficients.py derives. */
#pragma once

#include "simd.h"

#define LOG2_E 1.44269504088896340736

/* A polynomial of so many coefficients, highest power first. */
INLINE vec polynomial(const real *coefficients, int count, vec x) {
  vec p = splat(coefficients[0]);
  UNROLL for (int i = 1; i < count; i++) p = p * x + coefficients[i];
  return p;
}
#define POLYNOMIAL(coefficients, x) polynomial(coefficients, (int)(sizeof coefficients / sizeof *coefficients), x)

/* exp2_of_negative is 2^x for x <= 0, to 2e-7 (float32), 3e-16 (float64) or, where AVX-512 makes weights that are
 * rounded to pairs of bfloat16, or activations beside int8, 9e-5 relative; 0 at -inf, NaN at NaN.
 *
 * x = n + r, and 2^r is a minimax polynomial that is exactly 1 at r = 0. In float64 AVX-512 takes n to sixteenths,
 * whose 2^n but for the power of two it looks up in two registers: half the terms, while in float32 the look-up costs
 * what it saves. */
static const real exp2_coefficients[] = {
#if EXP2_REDUCTION == EXP2_FLOOR && (PAIRS_OF_BFLOAT16 || ELEMENT == I8)
    0x1.3baaa6p-4f, 0x1.d2378ap-3f, 0x1.63e658p-1f
#elif EXP2_REDUCTION == EXP2_FLOOR
    0x1.e974fap-10f, 0x1.277856p-7f, 0x1.c91ce6p-5f, 0x1.ebdb56p-3f, 0x1.62e4bap-1f
#elif EXP2_REDUCTION == EXP2_SIXTEENTHS
    0x1.430a1d08ec681p-13, 0x1.5d897e525c216p-10, 0x1.3b2ab6fb41213p-7, 0x1.c6b08d6f2a289p-5,
    0x1.ebfbdff82c590p-3,  0x1.62e42fefa39f3p-1
#elif REAL_BITS == 32
    0x1.5bba14p-10f, 0x1.3cea88p-7f, 0x1.c6b752p-5f, 0x1.ebf9bcp-3f, 0x1.62e42ap-1f
#else
    0x1.e9d3fe3952179p-32, 0x1.e6063f7217bc6p-28, 0x1.b524fae627834p-24, 0x1.62bfd47773353p-20,
    0x1.ffcbfc670dcd4p-17, 0x1.430913096fd9fp-13, 0x1.5d87fe78a5276p-10, 0x1.3b2ab6fba1ddap-7,
    0x1.c6b08d704a0c2p-5,  0x1.ebfbdff82c598p-3,  0x1.62e42fefa39efp-1
#endif
};

/* 2^r */
INLINE vec exp2_polynomial(vec r) { return POLYNOMIAL(exp2_coefficients, r) * r + 1; }

/* e^x in the normal range; huge beyond it, which as the denominator of 1 / (1 + e^x) gives the same 0 as inf. */
INLINE vec exp_any(vec x) {
  const vec log2 = x * (real)LOG2_E;
  const vec small = exp2_of_negative(choose(log2 > 0, -log2, log2));
  return choose(log2 > 0, 1 / small, small);
}

/* To 2.4e-7 (float32; 3e-7 without fused multiply-add) or 5e-16 (float64) relative, odd to the bit, never beyond 1, 1
 * from 8.3 (float32) or 19.5 on. On n = -|x|, which vmax keeps if NaN: n P / Q + n S with polynomials in t = n^2
 * (coefficients.py). S, a third of the sum where tanh is near 1, keeps the roundings of P and Q down. In float32 that
 * is tanh(n), and grows past -1 where tanh rounds to it. In float64 it is z = 2 tanh(n / 2), which takes half the
 * terms, and z / (1 + z^2 / 4) = tanh(n) forgives its roundings. On Zen 5 a Newton step to 1 / Q is slower. */
INLINE vec vtanh(vec x) {
#if REAL_BITS == 32
  static const real s[] = {0x1.b55aecp-24f, -0x1.327f98p-14f, 0x1.910e64p-5f};
  static const real p[] = {0x1.f0a8b2p+2f, 0x1.c1e8fep+8f, 0x1.f29dcep+11f};
  static const real q[] = {0x1p+0f, 0x1.93b554p+6f, 0x1.e5b3aep+10f, 0x1.062454p+12f};
#else
  static const real s[] = {0x1.4e6cbb73563bap-32, -0x1.7766944682045p-19, 0x1.a76505821420bp-6};
  static const real p[] = {0x1.db23d1033464fp+5, 0x1.44e1832c1083cp+16, 0x1.fe13c1894d7f0p+24, 0x1.fffa8a2d1317dp+31,
                           0x1.d7bf3cae07b3dp+36};
  static const real q[] = {0x1.0000000000000p+0,  0x1.fec54e7793243p+10, 0x1.280535e8ed969p+20,
                           0x1.de07930b75573p+27, 0x1.cec8af68dad0dp+33, 0x1.e442e32696b2ap+36};
#endif
  const ivec flipped = ~(ivec)x & SIGN_BIT;
  const vec n = vmax(splat(-20), (vec)((ivec)x | SIGN_BIT));
  const vec t = n * n;
  const vec z = n * (POLYNOMIAL(p, t) / POLYNOMIAL(q, t)) + n * POLYNOMIAL(s, t);
#if REAL_BITS == 32
  const vec y = vmax(splat(-1), z);
#else
  const vec y = z / (1 + (real)0.25 * z * z);
#endif
  return (vec)((ivec)y ^ flipped);
}

#if REAL_BITS == 32
/* tanh(x) / x in x^2, to 1.5e-8 for |x| <= TANH_NEAR, without a division. */
#define TANH_NEAR 0.5f
static const real tanh_near[] = {0x1.1a7c0ep-6f, -0x1.b28c76p-5f, 0x1.10e9fcp-3f, -0x1.5554d6p-2f, 1};
enum { TANH_NEAR_TERMS = 5 };

/* The q of erfc(x / sqrt(2)) = 2^-(x q(x)) for x from 0 to 12, to 1e-7 of x erfc(x / sqrt(2)), or 2e-5 beside weights
 * of 8 bits, on [0, 7]; beyond 7, where the polynomials still grow for a while, that product is below 2e-11. */
INLINE vec erfc_exponent(vec x) {
#if ELEMENT == BF16 || ELEMENT == I8
  static const real c[] = {-0x1.10ae6cp-8f, 0x1.76a2eap-5f, 0x1.dc17ccp-2f, 0x1.2649eep+0f};
#else
  static const real c[] = {0x1.8bf982p-21f, -0x1.ada230p-17f, 0x1.b6ab96p-15f, 0x1.f8f216p-12f,
                           -0x1.ee9c08p-8f, 0x1.b108eap-5f,   0x1.d617a6p-2f,  0x1.26b000p+0f};
#endif
  return POLYNOMIAL(c, x);
}

/* x erfc(x / sqrt(2)) / 2 for x >= 0. */
#if LOOKS_UP && (ELEMENT == BF16 || ELEMENT == I8)
/* To 2e-5, and 0 from 5 on: parabolas on 31 steps, whose coefficients are looked up in two registers. The time of an
 * int8 tile of 384 inputs with GELU is 4 % less than by the exponent. */
INLINE vec gelu_tail(vec x) {
  static const real c[] = {
      0x0.000000p-0f,   0x1.1fff22p-4f,   0x1.ed82acp-4f,   0x1.376684p-3f,   0x1.56c1f8p-3f,   0x1.5ad302p-3f,
      0x1.4a29fap-3f,   0x1.2b4db6p-3f,   0x1.043692p-3f,   0x1.b3daecp-4f,   0x1.60abb0p-4f,   0x1.144348p-4f,
      0x1.a39f76p-5f,   0x1.354c68p-5f,   0x1.badfbcp-6f,   0x1.342712p-6f,   0x1.a0f5f0p-7f,   0x1.126336p-7f,
      0x1.5f5d34p-8f,   0x1.b5de28p-9f,   0x1.0990acp-9f,   0x1.3997d6p-10f,  0x1.688a0ep-11f,  0x1.939ee0p-12f,
      0x1.b80348p-13f,  0x1.d32730p-14f,  0x1.e30996p-15f,  0x1.e6771cp-16f,  0x1.dd3088p-17f,  0x1.c7f252p-18f,
      0x1.a85c2ap-19f,  0x0.000000p-0f,   0x1.4a5294p-4f,   0x1.ec57f8p-5f,   0x1.4c9a86p-5f,   0x1.7a0736p-6f,
      0x1.0d8664p-7f,   -0x1.ccad6ep-9f,  -0x1.89e498p-7f,  -0x1.1dd354p-6f,  -0x1.4a5d02p-6f,  -0x1.531250p-6f,
      -0x1.4179ccp-6f,  -0x1.1ee574p-6f,  -0x1.e70be2p-7f,  -0x1.8bb740p-7f,  -0x1.350764p-7f,  -0x1.d14130p-8f,
      -0x1.524a6cp-8f,  -0x1.dbe6eap-9f,  -0x1.4433a6p-9f,  -0x1.ac3000p-10f, -0x1.124c52p-10f, -0x1.551b80p-11f,
      -0x1.9beb6ep-12f, -0x1.e33b46p-13f, -0x1.13712ap-13f, -0x1.3138f2p-14f, -0x1.48d726p-15f, -0x1.5886fcp-16f,
      -0x1.5f14b0p-17f, -0x1.5c0484p-18f, -0x1.4fa1dcp-19f, 0x0.000000p-0f,   -0x1.53d73ap-7f,  -0x1.4b0e16p-7f,
      -0x1.31d2aep-7f,  -0x1.0af210p-7f,  -0x1.b5438cp-8f,  -0x1.4b93dep-8f,  -0x1.c52826p-9f,  -0x1.054946p-9f,
      -0x1.8edd7ap-11f, 0x1.8cf8f2p-13f,  0x1.bb631ap-11f,  0x1.42a230p-10f,  0x1.6c44bep-10f,  0x1.696458p-10f,
      0x1.491644p-10f,  0x1.18bfe2p-10f,  0x1.c5e3d2p-11f,  0x1.5e129ap-11f,  0x1.02cbc6p-11f,  0x1.6fecf2p-12f,
      0x1.f81fcep-13f,  0x1.4d6f7ep-13f,  0x1.aa67a6p-14f,  0x1.07dadcp-14f,  0x1.3c46f4p-15f,  0x1.6f738ep-16f,
      0x1.9e0246p-17f,  0x1.c49722p-18f,  0x1.e03edap-19f,  0x1.eece4ap-20f,  0x1.ef2a48p-21f,  0x0.000000p-0f};
  const vec place = vmin(x * (real)6.2, splat(31)), nearest = place + (real)0x1.8p23; /* its last bits count steps */
  const vec r = place - (nearest - (real)0x1.8p23);
  return (look_up(c + 64, nearest) * r + look_up(c + 32, nearest)) * r + look_up(c, nearest);
}
#else
INLINE vec gelu_tail(vec x) {
  const vec size = vmin(x, splat(12));
  return size * exp2_of_negative(-size * erfc_exponent(size) - 1);
}
#endif
#endif
