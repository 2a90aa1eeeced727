/* Vector twins of core/base/math.h, and the fixed tree sum, for files compiled at the level AVX512. Lane by lane the
 * same operations as the scalar definitions, so the same bits. */
#ifndef HEARTH_CPU_SIMD_AVX512_H
#define HEARTH_CPU_SIMD_AVX512_H

#include "core/base/math.h"

#include <immintrin.h>

/* Unrolls a loop with constant bounds whole, so that its arrays of vectors become registers at -O2. */
#if defined(__clang__)
#define HT_UNROLL _Pragma("unroll")
#else
#define HT_UNROLL _Pragma("GCC unroll 16")
#endif

/* The first n of 16 lanes, n <= 16. */
static inline __mmask16 ht_mask_512(int64_t n) { return (__mmask16)((1u << n) - 1u); }

/* Lanes j + (j + 8), then + 4, + 2, + 1. */
static inline float ht_tree_sum_512(__m512 v)
{
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

/* exp(x) up to HT_EXP_HIGH, NaN of NaN. vscalefps is the exponent's addition of ht_expf: no result is subnormal. */
static inline __m512 ht_exp_low_512(__m512 x)
{
    const __m512 magic = _mm512_set1_ps(HT_EXP_MAGIC);
    __m512 k = _mm512_fmadd_ps(x, _mm512_set1_ps(HT_EXP_LOG2E), magic);
    __m512 n = _mm512_sub_ps(k, magic);
    __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-HT_EXP_LN2_HIGH), x);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(-HT_EXP_LN2_LOW), r);
    __m512 q = _mm512_fmadd_ps(r, _mm512_set1_ps(HT_EXP_P4), _mm512_set1_ps(HT_EXP_P3));
    q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(HT_EXP_P2));
    q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(HT_EXP_P1));
    q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(HT_EXP_P0));
    q = _mm512_fmadd_ps(q, _mm512_mul_ps(r, r), r);
    __m512 p = _mm512_add_ps(q, _mm512_set1_ps(1.0f));
    return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(HT_EXP_LOW), _CMP_NLT_UQ), p, n);
}

static inline __m512 ht_exp_512(__m512 x)
{
    return _mm512_mask_mov_ps(ht_exp_low_512(x), _mm512_cmp_ps_mask(x, _mm512_set1_ps(HT_EXP_HIGH), _CMP_GT_OQ),
                              _mm512_set1_ps(__builtin_inff()));
}

static inline __m512 ht_negate_512(__m512 x)
{
    return _mm512_xor_ps(x, _mm512_set1_ps(-0.0f));
}

static inline __m512 ht_silu_512(__m512 x)
{
    return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), ht_exp_512(ht_negate_512(x))));
}

static inline __m512 ht_gelu_tanh_512(__m512 x)
{
    __m512 a = _mm512_fmadd_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(HT_GELU_B), _mm512_set1_ps(HT_GELU_A));
    return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), ht_exp_512(_mm512_mul_ps(x, a))));
}

static inline __m512 ht_erfc_512(__m512 z)
{
    const __m512 one = _mm512_set1_ps(1.0f);
    __m512 t = _mm512_div_ps(one, _mm512_fmadd_ps(z, _mm512_set1_ps(0.5f), one));
    __m512 q = _mm512_fmadd_ps(t, _mm512_set1_ps(HT_ERFC_Q9), _mm512_set1_ps(HT_ERFC_Q8));
    q = _mm512_fmadd_ps(q, t, _mm512_set1_ps(HT_ERFC_Q7));
    q = _mm512_fmadd_ps(q, t, _mm512_set1_ps(HT_ERFC_Q6));
    q = _mm512_fmadd_ps(q, t, _mm512_set1_ps(HT_ERFC_Q5));
    q = _mm512_fmadd_ps(q, t, _mm512_set1_ps(HT_ERFC_Q4));
    q = _mm512_fmadd_ps(q, t, _mm512_set1_ps(HT_ERFC_Q3));
    q = _mm512_fmadd_ps(q, t, _mm512_set1_ps(HT_ERFC_Q2));
    q = _mm512_fmadd_ps(q, t, _mm512_set1_ps(HT_ERFC_Q1));
    q = _mm512_fmadd_ps(q, t, _mm512_set1_ps(HT_ERFC_Q0));
    return _mm512_mul_ps(t, ht_exp_512(_mm512_fnmadd_ps(z, z, q)));
}

static inline __m512 ht_gelu_512(__m512 x)
{
    __mmask16 negative = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ);
    __m512 z = _mm512_mask_mov_ps(x, negative, ht_negate_512(x));
    __m512 e = _mm512_mul_ps(_mm512_mul_ps(_mm512_set1_ps(0.5f), x),
                             ht_erfc_512(_mm512_mul_ps(z, _mm512_set1_ps(HT_SQRT_HALF))));
    return _mm512_mask_mov_ps(_mm512_sub_ps(x, e), negative, e);
}

static inline __m512 ht_relu_512(__m512 x)
{
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_NLT_UQ), x);
}

#endif
