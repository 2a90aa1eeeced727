/* KV rows in Q8_0 and Q4_0 at the level AVX2: the bytes of the quantisers in core/model (quants_small.c), whose formulas these
 * follow step by step. Their sums are exact, so that the order of them does not matter: an element counts with a quant of
 * four bits that is not 0, so it is within a factor of 32 of the largest, and 24 + 4 + 5 + 5 bits fit into a double. */
#include "cpu/kernels.h"
#include "cpu/simd_avx2.h"

#include "core/model/blocks.h"

#include <math.h>

#define TINY 1e-20f
#define LARGEST 1e9f
#define TRIES 19

typedef struct block { __m256 v[4]; } block;

static block load_block(const float *in)
{
    const __m256 most = _mm256_set1_ps(LARGEST), least = _mm256_set1_ps(-LARGEST);
    block x;
    HT_UNROLL for (int i = 0; i < 4; i++) /* NaN stays: it is what is returned where one operand is none */
        x.v[i] = _mm256_max_ps(least, _mm256_min_ps(most, _mm256_loadu_ps(in + 8 * i)));
    return x;
}

/* round-to-nearest-even(v * inverse) cut to [low, high]; NaN gives low. */
static __m256i quants(__m256 v, __m256 inverse, float low, float high)
{
    __m256 q = _mm256_max_ps(_mm256_mul_ps(v, inverse), _mm256_set1_ps(low));
    return _mm256_cvtps_epi32(_mm256_min_ps(q, _mm256_set1_ps(high)));
}

/* The 32 quants as bytes in order. */
static __m256i pack_bytes(const __m256i q[4])
{
    __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

/* The largest magnitude. NaN does not count. */
static float magnitude(const block *x)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 m = _mm256_setzero_ps();
    HT_UNROLL for (int i = 0; i < 4; i++) m = _mm256_max_ps(_mm256_andnot_ps(sign, x->v[i]), m);
    __m128 h = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
    h = _mm_max_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_max_ss(h, _mm_movehdup_ps(h)));
}

/* Stores the scale as F16, and returns 1 / what was stored. */
static __m256 store_scale(float d, ht_half *out)
{
    *out = ht_half_from_float(d > 65504.0f ? 65504.0f : d < -65504.0f ? -65504.0f : d);
    float stored = ht_half_to_float(*out);
    return _mm256_set1_ps(stored != 0.0f ? 1.0f / stored : 0.0f);
}

static void kv_store_q8_0_avx2(const float *in, void *tile, int32_t t, int64_t n)
{
    ht_block_q8_0 *b = (ht_block_q8_0 *)tile + t * (n / HT_QK);
    for (; n >= HT_QK; n -= HT_QK, in += HT_QK, b++) {
        block x = load_block(in);
        __m256 inverse = store_scale(magnitude(&x) / 127.0f, &b->d);
        __m256i q[4];
        HT_UNROLL for (int i = 0; i < 4; i++) q[i] = quants(x.v[i], inverse, -127.0f, 127.0f);
        _mm256_storeu_si256((__m256i *)(void *)b->qs, pack_bytes(q));
    }
}

/* The first element of the largest magnitude, with its sign. */
static float extreme(const block *x)
{
    float most = magnitude(x), v[HT_QK];
    unsigned found = 0;
    HT_UNROLL for (int i = 0; i < 4; i++) {
        __m256 same = _mm256_cmp_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), x->v[i]), _mm256_set1_ps(most), _CMP_EQ_OQ);
        found |= (unsigned)_mm256_movemask_ps(same) << 8 * i;
        _mm256_storeu_ps(v + 8 * i, x->v[i]);
    }
    return found ? v[__builtin_ctz(found)] : 0.0f;
}

static double sum_pd(__m256d v)
{
    __m128d h = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));
    return _mm_cvtsd_f64(_mm_add_sd(h, _mm_unpackhi_pd(h, h)));
}

/* The scale of least squared error among those that the extreme quant, moved a little, leads to (ht_fit_scale). */
static float fit_scale(const block *x)
{
    float peak = extreme(x), best_scale = 0.0f;
    double best_gain = -1.0;
    __m256d wide[8];
    if (fabsf(peak) < TINY) return 0.0f;
    HT_UNROLL for (int i = 0; i < 4; i++) {
        wide[2 * i] = _mm256_cvtps_pd(_mm256_castps256_ps128(x->v[i]));
        wide[2 * i + 1] = _mm256_cvtps_pd(_mm256_extractf128_ps(x->v[i], 1));
    }
    for (int k = 0; k < TRIES; k++) {
        __m256 inverse = _mm256_set1_ps((-8.0f + 0.1f * (float)(k - TRIES / 2)) / peak);
        __m256d xq = _mm256_setzero_pd();
        __m256i qq = _mm256_setzero_si256();
        HT_UNROLL for (int i = 0; i < 4; i++) {
            __m256i q = quants(x->v[i], inverse, -8.0f, 7.0f);
            xq = _mm256_fmadd_pd(wide[2 * i], _mm256_cvtepi32_pd(_mm256_castsi256_si128(q)), xq);
            xq = _mm256_fmadd_pd(wide[2 * i + 1], _mm256_cvtepi32_pd(_mm256_extracti128_si256(q, 1)), xq);
            qq = _mm256_add_epi32(qq, _mm256_mullo_epi32(q, q));
        }
        __m128i t = _mm_add_epi32(_mm256_castsi256_si128(qq), _mm256_extracti128_si256(qq, 1));
        t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0x4e));
        double squares = _mm_cvtsi128_si32(_mm_add_epi32(t, _mm_shuffle_epi32(t, 0xb1))), product = sum_pd(xq);
        double gain = squares > 0.0 ? product * product / squares : -1.0;
        if (gain <= best_gain) continue;
        best_gain = gain;
        best_scale = (float)(product / squares);
    }
    return best_scale;
}

static void kv_store_q4_0_avx2(const float *in, void *tile, int32_t t, int64_t n)
{
    ht_block_q4_0 *b = (ht_block_q4_0 *)tile + t * (n / HT_QK);
    for (; n >= HT_QK; n -= HT_QK, in += HT_QK, b++) {
        block x = load_block(in);
        __m256 inverse = store_scale(fit_scale(&x), &b->d);
        __m256i q[4];
        HT_UNROLL for (int i = 0; i < 4; i++)
            q[i] = _mm256_add_epi32(quants(x.v[i], inverse, -8.0f, 7.0f), _mm256_set1_epi32(8));
        __m256i bytes = pack_bytes(q);
        __m128i low = _mm256_castsi256_si128(bytes), high = _mm256_extracti128_si256(bytes, 1);
        _mm_storeu_si128((__m128i *)(void *)b->qs, _mm_or_si128(low, _mm_slli_epi16(high, 4)));
    }
}

void ht_kernels_kv_store_avx2(ht_kernels *k)
{
    k->kv_store[HT_Q8_0][0] = k->kv_store[HT_Q8_0][1] = kv_store_q8_0_avx2;
    k->kv_store[HT_Q4_0][0] = k->kv_store[HT_Q4_0][1] = kv_store_q4_0_avx2;
}
