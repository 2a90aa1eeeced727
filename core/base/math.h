/* The transcendental functions of hearth, one definition for scalar C, the vector kernels and CUDA.
 *
 * Each is a fixed sequence of IEEE operations with its fused multiply-adds written out, so whoever repeats the
 * sequence lane by lane gets the same bits: cpu/simd_*.h do, and GPU kernels include this file. Header only; no
 * includes beyond the compiler's own. The scalar fmaf is a library call below -march=haswell: this is the
 * reference, hot loops use the vector twins.
 */
#ifndef HEARTH_CORE_BASE_MATH_H
#define HEARTH_CORE_BASE_MATH_H

#include <stdint.h>

#ifdef __CUDACC__
#define HT_HD __host__ __device__
#else
#define HT_HD
#endif

/* exp(x) = 2^k exp(r), k = round(x / ln 2), |r| <= ln(2) / 2; exp(r) = 1 + r + r^2 P(r), P minimax of degree 4
 * (relative error of the whole 3e-9 before rounding). Below HT_EXP_LOW the result is 0 (never subnormal), above
 * HT_EXP_HIGH infinity. */
#define HT_EXP_LOW (-87.33f)
#define HT_EXP_HIGH 88.72f
#define HT_EXP_LOG2E 0x1.715476p+0f
#define HT_EXP_MAGIC 12582912.0f          /* 1.5 * 2^23: adding it rounds to an integer in the low bits */
#define HT_EXP_LN2_HIGH 0x1.62e000p-1f    /* ln 2 in two parts; k * the first is exact */
#define HT_EXP_LN2_LOW 0x1.0bfbe8p-15f
#define HT_EXP_P0 0x1.fffffcp-2f
#define HT_EXP_P1 0x1.555490p-3f
#define HT_EXP_P2 0x1.5558f6p-5f
#define HT_EXP_P3 0x1.123a8ep-7f
#define HT_EXP_P4 0x1.6a2316p-10f

/* erfc(z) = t exp(-z^2 + Q(t)), t = 1 / (1 + z / 2), z >= 0: Q minimax of degree 9, relative error 5e-8 for z up to
 * 10 (the form is from W. Press et al., the coefficients are a fit of our own). */
#define HT_ERFC_Q0 -1.265453f
#define HT_ERFC_Q1 0.9987261f
#define HT_ERFC_Q2 0.38590693f
#define HT_ERFC_Q3 0.037811454f
#define HT_ERFC_Q4 -0.0073931753f
#define HT_ERFC_Q5 -0.065245055f
#define HT_ERFC_Q6 -0.71311563f
#define HT_ERFC_Q7 1.1685627f
#define HT_ERFC_Q8 -0.6855509f
#define HT_ERFC_Q9 0.14575066f

#define HT_SQRT_HALF 0x1.6a09e6p-1f
/* gelu_tanh(x) = x / (1 + exp(x (A + B x^2))): A = -2 sqrt(2 / pi), B = 0.044715 A. */
#define HT_GELU_A -1.5957691f
#define HT_GELU_B -0.071354814f

static HT_HD inline float ht_fmaf(float a, float b, float c)
{
#ifdef __CUDACC__
    return fmaf(a, b, c);
#else
    return __builtin_fmaf(a, b, c);
#endif
}

/* Within 1 ulp of exp(x) in the range where it is neither 0 nor infinity; NaN gives NaN. */
static HT_HD inline float ht_expf(float x)
{
    union { float f; uint32_t u; } k, p;

    k.f = ht_fmaf(x, HT_EXP_LOG2E, HT_EXP_MAGIC);
    float n = k.f - HT_EXP_MAGIC;
    float r = ht_fmaf(n, -HT_EXP_LN2_HIGH, x);
    r = ht_fmaf(n, -HT_EXP_LN2_LOW, r);
    float q = ht_fmaf(r, HT_EXP_P4, HT_EXP_P3);
    q = ht_fmaf(q, r, HT_EXP_P2);
    q = ht_fmaf(q, r, HT_EXP_P1);
    q = ht_fmaf(q, r, HT_EXP_P0);
    q = ht_fmaf(q, r * r, r);
    p.f = q + 1.0f;
    p.u += k.u << 23; /* times 2^k; the bits of the magic number are shifted out */
    if (x < HT_EXP_LOW) p.f = 0.0f;
    if (x > HT_EXP_HIGH) p.f = __builtin_inff();
    return x != x ? x : p.f;
}

/* x / (1 + exp(-x)) */
static HT_HD inline float ht_siluf(float x) { return x / (1.0f + ht_expf(-x)); }

/* x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2 */
static HT_HD inline float ht_gelu_tanhf(float x)
{
    return x / (1.0f + ht_expf(x * ht_fmaf(x * x, HT_GELU_B, HT_GELU_A)));
}

/* erfc(z) for z >= 0. */
static HT_HD inline float ht_erfcf(float z)
{
    float t = 1.0f / ht_fmaf(z, 0.5f, 1.0f);
    float q = ht_fmaf(t, HT_ERFC_Q9, HT_ERFC_Q8);
    q = ht_fmaf(q, t, HT_ERFC_Q7);
    q = ht_fmaf(q, t, HT_ERFC_Q6);
    q = ht_fmaf(q, t, HT_ERFC_Q5);
    q = ht_fmaf(q, t, HT_ERFC_Q4);
    q = ht_fmaf(q, t, HT_ERFC_Q3);
    q = ht_fmaf(q, t, HT_ERFC_Q2);
    q = ht_fmaf(q, t, HT_ERFC_Q1);
    q = ht_fmaf(q, t, HT_ERFC_Q0);
    return t * ht_expf(ht_fmaf(-z, z, q));
}

/* x (1 + erf(x / sqrt 2)) / 2, by the side of erfc that does not cancel. */
static HT_HD inline float ht_geluf(float x)
{
    float half = 0.5f * x;
    float e = half * ht_erfcf((x < 0.0f ? -x : x) * HT_SQRT_HALF);
    return x < 0.0f ? e : x - e;
}

/* cap tanh(x / cap): tanh z = m / (m + 2), m = exp(2 z) - 1 = 2^k (exp(r) - 1) + (2^k - 1), which does not cancel
 * around 0. Multiplications and additions apart, so that a plain loop over it is vectorised without FMA too. */
static HT_HD inline float ht_softcapf(float x, float cap)
{
    union { float f; uint32_t u; } k, s;
    float z = x / cap * 2.0f;

    z = z < -18.0f ? -18.0f : z > 18.0f ? 18.0f : z; /* tanh is 1 there */
    k.f = z * HT_EXP_LOG2E + HT_EXP_MAGIC;
    float n = k.f - HT_EXP_MAGIC;
    float r = (z - n * HT_EXP_LN2_HIGH) - n * HT_EXP_LN2_LOW;
    float q = r * HT_EXP_P4 + HT_EXP_P3;
    q = q * r + HT_EXP_P2;
    q = q * r + HT_EXP_P1;
    q = q * r + HT_EXP_P0;
    q = q * (r * r) + r;
    s.u = (k.u << 23) + 0x3f800000u; /* 2^k */
    float m = s.f * q + (s.f - 1.0f);
    return cap * (m / (m + 2.0f));
}

#endif
