/* Norms, activations, RoPE and KV rows at the level AVX2; the same bits as row_ref.c. Sums have 16 lanes: two vectors,
 * elements i mod 16 below and from 8. Tails are masked: a masked lane adds nothing. */
#include "cpu/kernels.h"
#include "cpu/simd_avx2.h"

#include <math.h>
#include <string.h>

static void rms_norm_avx2(float *y, const float *x, const float *gain, float eps, int64_t n)
{
    __m256 sum[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};

    for (int64_t i = 0; i < n; i += 16)
        for (int j = 0; j < 2; j++) {
            __m256 v = _mm256_maskload_ps(x + i + 8 * j, ht_mask_256(n - i - 8 * j));
            sum[j] = _mm256_fmadd_ps(v, v, sum[j]);
        }
    __m256 scale = _mm256_set1_ps(1.0f / sqrtf(ht_tree_sum_256(sum[0], sum[1]) / (float)n + eps));
    for (int64_t i = 0; i < n; i += 8) {
        __m256i m = ht_mask_256(n - i);
        __m256 v = _mm256_mul_ps(_mm256_maskload_ps(x + i, m), scale);
        _mm256_maskstore_ps(y + i, m, gain ? _mm256_mul_ps(v, _mm256_maskload_ps(gain + i, m)) : v);
    }
}

static void layer_norm_avx2(float *y, const float *x, const float *gain, const float *bias, float eps, int64_t n)
{
    __m256 sum[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()}, square[2] = {sum[0], sum[0]};

    for (int64_t i = 0; i < n; i += 16)
        for (int j = 0; j < 2; j++)
            sum[j] = _mm256_add_ps(sum[j], _mm256_maskload_ps(x + i + 8 * j, ht_mask_256(n - i - 8 * j)));
    __m256 mean = _mm256_set1_ps(ht_tree_sum_256(sum[0], sum[1]) / (float)n);
    for (int64_t i = 0; i < n; i += 16)
        for (int j = 0; j < 2; j++) {
            __m256i m = ht_mask_256(n - i - 8 * j);
            __m256 v = _mm256_sub_ps(_mm256_maskload_ps(x + i + 8 * j, m), mean);
            v = _mm256_and_ps(v, _mm256_castsi256_ps(m));
            square[j] = _mm256_fmadd_ps(v, v, square[j]);
        }
    __m256 scale = _mm256_set1_ps(1.0f / sqrtf(ht_tree_sum_256(square[0], square[1]) / (float)n + eps));
    for (int64_t i = 0; i < n; i += 8) {
        __m256i m = ht_mask_256(n - i);
        __m256 v = _mm256_mul_ps(_mm256_sub_ps(_mm256_maskload_ps(x + i, m), mean), scale);
        if (gain) v = _mm256_mul_ps(v, _mm256_maskload_ps(gain + i, m));
        if (bias) v = _mm256_add_ps(v, _mm256_maskload_ps(bias + i, m));
        _mm256_maskstore_ps(y + i, m, v);
    }
}

#define GLU(name)                                                                                                     \
    static void glu_##name##_avx2(float *h, const float *g, const float *u, int64_t n)                                \
    {                                                                                                                 \
        for (int64_t i = 0; i < n; i += 8) {                                                                          \
            __m256i m = ht_mask_256(n - i);                                                                           \
            __m256 v = ht_##name##_256(_mm256_maskload_ps(g + i, m));                                                 \
            if (u) v = _mm256_mul_ps(v, _mm256_maskload_ps(u + i, m));                                                \
            _mm256_maskstore_ps(h + i, m, v);                                                                         \
        }                                                                                                             \
    }
GLU(silu)
GLU(relu)
GLU(gelu)
GLU(gelu_tanh)

/* Pairs are neighbours: (a, b) (c, s) -> a c - b s in even lanes, b c + a s in odd ones. */
static void rope_interleaved_avx2(float *head, const float *cos_sin, int64_t dims)
{
    for (int64_t i = 0; i < dims; i += 8) {
        __m256i m = ht_mask_256(dims - i);
        __m256 x = _mm256_maskload_ps(head + i, m), cs = _mm256_maskload_ps(cos_sin + i, m);
        __m256 direct = _mm256_mul_ps(x, _mm256_moveldup_ps(cs));
        __m256 crossed = _mm256_mul_ps(_mm256_permute_ps(x, 0xb1), _mm256_movehdup_ps(cs));
        _mm256_maskstore_ps(head + i, m, _mm256_addsub_ps(direct, crossed));
    }
}

static void rope_halves_avx2(float *head, const float *cos_sin, int64_t dims)
{
    int64_t half = dims / 2;

    for (int64_t i = 0; i < half; i += 8) {
        __m256i m = ht_mask_256(half - i);
        __m256 cs0 = _mm256_maskload_ps(cos_sin + 2 * i, ht_mask_256(2 * (half - i)));
        __m256 cs1 = _mm256_maskload_ps(cos_sin + 2 * i + 8, ht_mask_256(2 * (half - i) - 8));
        __m256 front = _mm256_permute2f128_ps(cs0, cs1, 0x20), back = _mm256_permute2f128_ps(cs0, cs1, 0x31);
        __m256 c = _mm256_shuffle_ps(front, back, 0x88), s = _mm256_shuffle_ps(front, back, 0xdd);
        __m256 a = _mm256_maskload_ps(head + i, m), b = _mm256_maskload_ps(head + half + i, m);
        _mm256_maskstore_ps(head + i, m, _mm256_sub_ps(_mm256_mul_ps(a, c), _mm256_mul_ps(b, s)));
        _mm256_maskstore_ps(head + half + i, m, _mm256_add_ps(_mm256_mul_ps(a, s), _mm256_mul_ps(b, c)));
    }
}

static void kv_store_f16_avx2(const float *in, void *tile, int32_t t, int64_t n)
{
    ht_half *out = (ht_half *)tile + t * n;

    for (int64_t i = 0; i < n; i += 8) {
        __m128i v = _mm256_cvtps_ph(_mm256_maskload_ps(in + i, ht_mask_256(n - i)),
                                    _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        memcpy(out + i, &v, (size_t)(n - i < 8 ? n - i : 8) * sizeof(*out));
    }
}

void ht_kernels_row_avx2(ht_kernels *k)
{
    k->rms_norm = rms_norm_avx2;
    k->layer_norm = layer_norm_avx2;
    k->glu_silu = glu_silu_avx2;
    k->glu_relu = glu_relu_avx2;
    k->glu_gelu = glu_gelu_avx2;
    k->glu_gelu_tanh = glu_gelu_tanh_avx2;
    k->rope_interleaved = rope_interleaved_avx2;
    k->rope_halves = rope_halves_avx2;
    k->kv_store[HT_F16][0] = k->kv_store[HT_F16][1] = kv_store_f16_avx2;
}
