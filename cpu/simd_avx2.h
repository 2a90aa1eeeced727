/* Vector twins of core/base/math.h, and the fixed tree sum, for files compiled at the level AVX2. Lane by lane the same
 * operations as the scalar definitions, so the same bits. The sixteen lanes of a sum are two vectors. */
#ifndef HEARTH_CPU_SIMD_AVX2_H
#define HEARTH_CPU_SIMD_AVX2_H

#include "core/base/math.h"

#include <immintrin.h>

/* Unrolls a loop with constant bounds whole, so that its arrays of vectors become registers at -O2. */
#if defined(__clang__)
#define HT_UNROLL _Pragma("unroll")
#else
#define HT_UNROLL _Pragma("GCC unroll 16")
#endif

/* The first n of 8 lanes; n below 0 is 0, above 8 is 8. */
static inline __m256i ht_mask_256(int64_t n)
{
    static const int32_t lanes[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
    n = n < 0 ? 0 : n > 8 ? 8 : n;
    return _mm256_loadu_si256((const __m256i *)(const void *)(lanes + 8 - n));
}

/* The largest magnitude of n values, a multiple of 8. As integers, since the larger bits of an infinity or a NaN shall win. */
static inline float ht_largest_256(const float *v, int64_t n)
{
    __m256i most = _mm256_setzero_si256();
    for (int64_t i = 0; i < n; i += 8) {
        __m256i bits = _mm256_loadu_si256((const __m256i *)(const void *)(v + i));
        most = _mm256_max_epi32(most, _mm256_and_si256(bits, _mm256_set1_epi32(INT32_MAX)));
    }
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    return _mm_cvtss_f32(_mm_castsi128_ps(_mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1))));
}

/* Lanes j + (j + 8), then + 4, + 2, + 1. */
static inline float ht_tree_sum_256(__m256 low, __m256 high)
{
    __m256 a = _mm256_add_ps(low, high);
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

static inline __m256 ht_exp_256(__m256 x)
{
    const __m256 magic = _mm256_set1_ps(HT_EXP_MAGIC);
    __m256 k = _mm256_fmadd_ps(x, _mm256_set1_ps(HT_EXP_LOG2E), magic);
    __m256 n = _mm256_sub_ps(k, magic);
    __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-HT_EXP_LN2_HIGH), x);
    r = _mm256_fmadd_ps(n, _mm256_set1_ps(-HT_EXP_LN2_LOW), r);
    __m256 q = _mm256_fmadd_ps(r, _mm256_set1_ps(HT_EXP_P4), _mm256_set1_ps(HT_EXP_P3));
    q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(HT_EXP_P2));
    q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(HT_EXP_P1));
    q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(HT_EXP_P0));
    q = _mm256_fmadd_ps(q, _mm256_mul_ps(r, r), r);
    __m256 p = _mm256_add_ps(q, _mm256_set1_ps(1.0f));
    p = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_castps_si256(k), 23)));
    p = _mm256_and_ps(p, _mm256_cmp_ps(x, _mm256_set1_ps(HT_EXP_LOW), _CMP_NLT_UQ));
    p = _mm256_blendv_ps(p, _mm256_set1_ps(__builtin_inff()), _mm256_cmp_ps(x, _mm256_set1_ps(HT_EXP_HIGH), _CMP_GT_OQ));
    return _mm256_blendv_ps(p, x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}

static inline __m256 ht_negate_256(__m256 x)
{
    return _mm256_xor_ps(x, _mm256_set1_ps(-0.0f));
}

static inline __m256 ht_silu_256(__m256 x)
{
    return _mm256_div_ps(x, _mm256_add_ps(_mm256_set1_ps(1.0f), ht_exp_256(ht_negate_256(x))));
}

static inline __m256 ht_gelu_tanh_256(__m256 x)
{
    __m256 a = _mm256_fmadd_ps(_mm256_mul_ps(x, x), _mm256_set1_ps(HT_GELU_B), _mm256_set1_ps(HT_GELU_A));
    return _mm256_div_ps(x, _mm256_add_ps(_mm256_set1_ps(1.0f), ht_exp_256(_mm256_mul_ps(x, a))));
}

static inline __m256 ht_erfc_256(__m256 z)
{
    const __m256 one = _mm256_set1_ps(1.0f);
    __m256 t = _mm256_div_ps(one, _mm256_fmadd_ps(z, _mm256_set1_ps(0.5f), one));
    __m256 q = _mm256_fmadd_ps(t, _mm256_set1_ps(HT_ERFC_Q9), _mm256_set1_ps(HT_ERFC_Q8));
    q = _mm256_fmadd_ps(q, t, _mm256_set1_ps(HT_ERFC_Q7));
    q = _mm256_fmadd_ps(q, t, _mm256_set1_ps(HT_ERFC_Q6));
    q = _mm256_fmadd_ps(q, t, _mm256_set1_ps(HT_ERFC_Q5));
    q = _mm256_fmadd_ps(q, t, _mm256_set1_ps(HT_ERFC_Q4));
    q = _mm256_fmadd_ps(q, t, _mm256_set1_ps(HT_ERFC_Q3));
    q = _mm256_fmadd_ps(q, t, _mm256_set1_ps(HT_ERFC_Q2));
    q = _mm256_fmadd_ps(q, t, _mm256_set1_ps(HT_ERFC_Q1));
    q = _mm256_fmadd_ps(q, t, _mm256_set1_ps(HT_ERFC_Q0));
    return _mm256_mul_ps(t, ht_exp_256(_mm256_fnmadd_ps(z, z, q)));
}

static inline __m256 ht_gelu_256(__m256 x)
{
    __m256 negative = _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_LT_OQ);
    __m256 z = _mm256_blendv_ps(x, ht_negate_256(x), negative);
    __m256 e = _mm256_mul_ps(_mm256_mul_ps(_mm256_set1_ps(0.5f), x),
                             ht_erfc_256(_mm256_mul_ps(z, _mm256_set1_ps(HT_SQRT_HALF))));
    return _mm256_blendv_ps(_mm256_sub_ps(x, e), e, negative);
}

static inline __m256 ht_relu_256(__m256 x)
{
    return _mm256_and_ps(x, _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_NLT_UQ));
}

#endif
