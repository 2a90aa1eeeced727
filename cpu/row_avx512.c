/* Norms, activations, RoPE and KV rows at the level AVX512; the same bits as row_ref.c. */
#include "cpu/kernels.h"
#include "cpu/simd_avx512.h"

#include <math.h>

static void rms_norm_avx512(float *y, const float *x, const float *gain, float eps, int64_t n)
{
    __m512 sum = _mm512_setzero_ps();
    int64_t i = 0, whole = n / 16 * 16;
    __mmask16 rest = ht_mask_512(n - whole);

    for (; i < whole; i += 16) {
        __m512 v = _mm512_loadu_ps(x + i);
        sum = _mm512_fmadd_ps(v, v, sum);
    }
    __m512 tail = _mm512_maskz_loadu_ps(rest, x + i);
    sum = _mm512_fmadd_ps(tail, tail, sum);
    __m512 scale = _mm512_set1_ps(1.0f / sqrtf(ht_tree_sum_512(sum) / (float)n + eps));
    for (i = 0; i < whole; i += 16) {
        __m512 v = _mm512_mul_ps(_mm512_loadu_ps(x + i), scale);
        _mm512_storeu_ps(y + i, gain ? _mm512_mul_ps(v, _mm512_loadu_ps(gain + i)) : v);
    }
    tail = _mm512_mul_ps(tail, scale);
    _mm512_mask_storeu_ps(y + i, rest, gain ? _mm512_mul_ps(tail, _mm512_maskz_loadu_ps(rest, gain + i)) : tail);
}

static void layer_norm_avx512(float *y, const float *x, const float *gain, const float *bias, float eps, int64_t n)
{
    __m512 sum = _mm512_setzero_ps(), square = _mm512_setzero_ps();

    for (int64_t i = 0; i < n; i += 16)
        sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(ht_mask_512(n - i < 16 ? n - i : 16), x + i));
    __m512 mean = _mm512_set1_ps(ht_tree_sum_512(sum) / (float)n);
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 m = ht_mask_512(n - i < 16 ? n - i : 16);
        __m512 v = _mm512_maskz_sub_ps(m, _mm512_maskz_loadu_ps(m, x + i), mean);
        square = _mm512_fmadd_ps(v, v, square);
    }
    __m512 scale = _mm512_set1_ps(1.0f / sqrtf(ht_tree_sum_512(square) / (float)n + eps));
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 m = ht_mask_512(n - i < 16 ? n - i : 16);
        __m512 v = _mm512_mul_ps(_mm512_sub_ps(_mm512_maskz_loadu_ps(m, x + i), mean), scale);
        if (gain) v = _mm512_mul_ps(v, _mm512_maskz_loadu_ps(m, gain + i));
        if (bias) v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(m, bias + i));
        _mm512_mask_storeu_ps(y + i, m, v);
    }
}

#define GLU(name)                                                                                                     \
    static void glu_##name##_avx512(float *h, const float *g, const float *u, int64_t n)                              \
    {                                                                                                                 \
        for (int64_t i = 0; i < n; i += 16) {                                                                         \
            __mmask16 m = ht_mask_512(n - i < 16 ? n - i : 16);                                                       \
            __m512 v = ht_##name##_512(_mm512_maskz_loadu_ps(m, g + i));                                              \
            if (u) v = _mm512_mul_ps(v, _mm512_maskz_loadu_ps(m, u + i));                                             \
            _mm512_mask_storeu_ps(h + i, m, v);                                                                       \
        }                                                                                                             \
    }
GLU(silu)
GLU(relu)
GLU(gelu)
GLU(gelu_tanh)

/* Pairs are neighbours: (a, b) (c, s) -> a c - b s in even lanes, b c + a s in odd ones. */
static void rope_interleaved_avx512(float *head, const float *cos_sin, int64_t dims)
{
    for (int64_t i = 0; i < dims; i += 16) {
        __mmask16 m = ht_mask_512(dims - i < 16 ? dims - i : 16);
        __m512 x = _mm512_maskz_loadu_ps(m, head + i), cs = _mm512_maskz_loadu_ps(m, cos_sin + i);
        __m512 direct = _mm512_mul_ps(x, _mm512_moveldup_ps(cs));
        __m512 crossed = _mm512_mul_ps(_mm512_permute_ps(x, 0xb1), _mm512_movehdup_ps(cs));
        __m512 v = _mm512_mask_sub_ps(_mm512_add_ps(direct, crossed), 0x5555, direct, crossed);
        _mm512_mask_storeu_ps(head + i, m, v);
    }
}

static void rope_halves_avx512(float *head, const float *cos_sin, int64_t dims)
{
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    int64_t half = dims / 2;

    for (int64_t i = 0; i < half; i += 16) {
        int64_t n = half - i < 16 ? half - i : 16;
        __mmask16 m = ht_mask_512(n);
        __mmask32 m2 = (__mmask32)((1ull << 2 * n) - 1);
        __m512 cs0 = _mm512_maskz_loadu_ps((__mmask16)m2, cos_sin + 2 * i);
        __m512 cs1 = _mm512_maskz_loadu_ps((__mmask16)(m2 >> 16), cos_sin + 2 * i + 16);
        __m512 c = _mm512_permutex2var_ps(cs0, even, cs1), s = _mm512_permutex2var_ps(cs0, odd, cs1);
        __m512 a = _mm512_maskz_loadu_ps(m, head + i), b = _mm512_maskz_loadu_ps(m, head + half + i);
        _mm512_mask_storeu_ps(head + i, m, _mm512_sub_ps(_mm512_mul_ps(a, c), _mm512_mul_ps(b, s)));
        _mm512_mask_storeu_ps(head + half + i, m, _mm512_add_ps(_mm512_mul_ps(a, s), _mm512_mul_ps(b, c)));
    }
}

static void kv_store_f16_avx512(const float *in, void *tile, int32_t t, int64_t n)
{
    ht_half *out = (ht_half *)tile + t * n;

    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 m = ht_mask_512(n - i < 16 ? n - i : 16);
        __m256i v = _mm512_cvtps_ph(_mm512_maskz_loadu_ps(m, in + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm256_mask_storeu_epi16(out + i, m, v);
    }
}

void ht_kernels_row_avx512(ht_kernels *k)
{
    k->rms_norm = rms_norm_avx512;
    k->layer_norm = layer_norm_avx512;
    k->glu_silu = glu_silu_avx512;
    k->glu_relu = glu_relu_avx512;
    k->glu_gelu = glu_gelu_avx512;
    k->glu_gelu_tanh = glu_gelu_tanh_avx512;
    k->rope_interleaved = rope_interleaved_avx512;
    k->rope_halves = rope_halves_avx512;
    k->kv_store[HT_F16][0] = k->kv_store[HT_F16][1] = kv_store_f16_avx512;
}
