/* Attention over a KV tile in Q16 at the level AVX2; the same bits as attend_q16_ref.c.
 *
 * scores: R query rows against sixteen tokens, mix: R rows by sixteen elements; both in two vectors, a token or an element a
 * lane. R is at most 4.
 */
#include "cpu/attend.h"
#include "cpu/attend_q16.h"
#include "cpu/simd_avx2.h"

#define INLINE static inline __attribute__((always_inline))

enum { ROWS = 4 };

/* ---- rows ------------------------------------------------------------------------------------------------ */

static float largest_of(const float *v, int32_t n) { return ht_largest_256(v, n); }

INLINE __m256 magnitudes(const float *v)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), _mm256_loadu_ps(v));
}

static float sum_of(const float *v, int32_t n)
{
    __m256 low = _mm256_setzero_ps(), high = low;
    for (int32_t i = 0; i < n; i += 16) {
        low = _mm256_add_ps(low, magnitudes(v + i));
        high = _mm256_add_ps(high, magnitudes(v + i + 8));
    }
    return ht_tree_sum_256(low, high);
}

/* The integers are the low halves; sign-extended they pass the saturation of the pack unchanged. */
INLINE __m256i round_8(const float *v, __m256 inverse)
{
    __m256i q = _mm256_castps_si256(_mm256_fmadd_ps(_mm256_loadu_ps(v), inverse, _mm256_set1_ps(FIXED_MAGIC)));
    return _mm256_srai_epi32(_mm256_slli_epi32(q, 16), 16);
}

static void round_row(const float *v, int32_t n, float inverse, int16_t *out)
{
    const __m256 scale = _mm256_set1_ps(inverse);
    for (int32_t i = 0; i < n; i += 16) {
        __m256i q = _mm256_packs_epi32(round_8(v + i, scale), round_8(v + i + 8, scale));
        _mm256_storeu_si256((__m256i *)(void *)(out + i), _mm256_permute4x64_epi64(q, 0xd8));
    }
}

Q16_ROW_ENTRIES

/* Two neighbours, in all lanes. */
INLINE __m256i pair_at(const int16_t *q)
{
    int32_t pair;
    memcpy(&pair, q, sizeof(pair));
    return _mm256_set1_epi32(pair);
}

INLINE __m256i load_pairs(const int16_t *q) { return _mm256_loadu_si256((const __m256i *)(const void *)q); }

/* Row by row: GCC would load all pairs first, for which registers do not do. */
INLINE void multiply_add(__m256i sum[2], __m256i low, __m256i high, __m256i pair)
{
    sum[0] = _mm256_add_epi32(sum[0], _mm256_madd_epi16(low, pair));
    sum[1] = _mm256_add_epi32(sum[1], _mm256_madd_epi16(high, pair));
    __asm__ volatile("" : "+x"(sum[0]), "+x"(sum[1]));
}

/* ---- scores ---------------------------------------------------------------------------------------------- */

INLINE void scores_tile(const int R, float *s, const void *q, size_t q_bytes, const void *k, int32_t block, int32_t head_dim,
                        attend_ahead *next)
{
    const float *d = (const float *)k + block * HT_Q16_TOKENS;
    const int16_t *values = ht_q16_values(k);
    __m256i sum[2 * ROWS];

    values += (int64_t)block * head_dim * HT_Q16_TOKENS;
    HT_UNROLL for (int x = 0; x < 2 * R; x++) sum[x] = _mm256_setzero_si256();
    for (int32_t i = 0; i < head_dim; i += 2) {
        __m256i low = load_pairs(values + i * HT_Q16_TOKENS), high = load_pairs(values + i * HT_Q16_TOKENS + 16);
        attend_prefetch_next(next, 1, false);
        HT_UNROLL for (int r = 0; r < R; r++) {
            __m256i pair = pair_at(q16_query(q, q_bytes, r) + i);
            multiply_add(sum + 2 * r, low, high, pair);
        }
    }
    HT_UNROLL for (int r = 0; r < R; r++) {
        float scale = q16_query_scale(q16_query(q, q_bytes, r), head_dim);
        HT_UNROLL for (int x = 0; x < 2; x++) {
            __m256 scales = _mm256_mul_ps(_mm256_set1_ps(scale), _mm256_loadu_ps(d + 8 * x));
            _mm256_storeu_ps(s + r * HT_KV_TILE + 8 * x, _mm256_mul_ps(_mm256_cvtepi32_ps(sum[2 * r + x]), scales));
        }
    }
}

static void scores(float *s, const void *q, size_t q_bytes, int32_t m, const void *k, size_t row_bytes, int32_t head_dim,
                   int32_t begin, int32_t end, const ht_attend_next *next)
{
    attend_ahead ahead = attend_ahead_of(k, next->k, next->k_bytes, m);

    (void)row_bytes;
    for (int32_t t = begin / HT_Q16_TOKENS * HT_Q16_TOKENS; t < end; t += HT_Q16_TOKENS)
        for (int32_t i = 0; i < m; i += ROWS) {
            const int16_t *qi = q16_query(q, q_bytes, i);
            float *si = s + i * HT_KV_TILE + t;
            switch (m - i) {
            case 1: scores_tile(1, si, qi, q_bytes, k, t / HT_Q16_TOKENS, head_dim, &ahead); break;
            case 2: scores_tile(2, si, qi, q_bytes, k, t / HT_Q16_TOKENS, head_dim, &ahead); break;
            case 3: scores_tile(3, si, qi, q_bytes, k, t / HT_Q16_TOKENS, head_dim, &ahead); break;
            default: scores_tile(4, si, qi, q_bytes, k, t / HT_Q16_TOKENS, head_dim, &ahead); break;
            }
        }
}

/* ---- mix ------------------------------------------------------------------------------------------------- */

/* s times the scales of V; 0 for what nobody sees. */
INLINE void round_weights(q16_weights *out, const float *s, const float *scales, int32_t begin, int32_t end)
{
    _Alignas(32) float w[HT_KV_TILE];

    for (int32_t t = 0; t < HT_KV_TILE; t += 8) {
        __m256i seen = _mm256_andnot_si256(ht_mask_256(begin - t), ht_mask_256(end - t));
        __m256 product = _mm256_mul_ps(_mm256_loadu_ps(s + t), _mm256_loadu_ps(scales + t));
        _mm256_store_ps(w + t, _mm256_and_ps(product, _mm256_castsi256_ps(seen)));
    }
    fixed_scale scale = q16_scale_of(largest_of(w, HT_KV_TILE), sum_of(w, HT_KV_TILE));
    round_row(w, HT_KV_TILE, scale.inverse, out->q);
    out->d = scale.d;
}

/* acc[r][i, i + 16) for R rows over pairs of tokens [begin, end). */
INLINE void mix_tile(const int R, float *acc, int64_t acc_stride, const q16_weights *w, const float *carry,
                     const int16_t *values, int32_t head_dim, int32_t i, int32_t begin, int32_t end, attend_ahead *next)
{
    __m256i sum[2 * ROWS];

    HT_UNROLL for (int x = 0; x < 2 * R; x++) sum[x] = _mm256_setzero_si256();
    for (int32_t p = begin; p < end; p++) {
        const int16_t *v = values + ((int64_t)p * head_dim + i) * 2;
        __m256i low = load_pairs(v), high = load_pairs(v + 16);
        attend_prefetch_next(next, 1, false);
        HT_UNROLL for (int r = 0; r < R; r++) {
            __m256i pair = pair_at(w[r].q + 2 * p);
            multiply_add(sum + 2 * r, low, high, pair);
        }
    }
    HT_UNROLL for (int r = 0; r < R; r++)
        HT_UNROLL for (int x = 0; x < 2; x++) {
            float *a = acc + r * acc_stride + i + 8 * x;
            __m256 before = _mm256_mul_ps(_mm256_loadu_ps(a), _mm256_set1_ps(carry[r]));
            _mm256_storeu_ps(a, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[2 * r + x]), _mm256_set1_ps(w[r].d), before));
        }
}

static void mix(float *acc, int64_t acc_stride, const float *s, const float *carry, int32_t m, const void *v,
                size_t row_bytes, int32_t head_dim, int32_t begin, int32_t end, const ht_attend_next *next)
{
    const float *d = v;
    const int16_t *values = ht_q16_values(v);
    const int32_t first = begin / 2, last = (end + 1) / 2;
    attend_ahead ahead = attend_ahead_of(v, next->v, next->v_bytes, m);
    q16_weights w[ROWS];

    (void)row_bytes;
    for (int32_t i = 0; i < m; i += ROWS) {
        int32_t rows = m - i < ROWS ? m - i : ROWS;
        float *a = acc + i * acc_stride;
        const float *c = carry + i;
        for (int32_t r = 0; r < rows; r++) round_weights(&w[r], s + (i + r) * HT_KV_TILE, d, begin, end);
        for (int32_t e = 0; e < head_dim; e += 16) switch (rows) {
            case 1: mix_tile(1, a, acc_stride, w, c, values, head_dim, e, first, last, &ahead); break;
            case 2: mix_tile(2, a, acc_stride, w, c, values, head_dim, e, first, last, &ahead); break;
            case 3: mix_tile(3, a, acc_stride, w, c, values, head_dim, e, first, last, &ahead); break;
            default: mix_tile(4, a, acc_stride, w, c, values, head_dim, e, first, last, &ahead); break;
            }
    }
}

void ht_kernels_attend_q16_avx2(ht_kernels *k) { Q16_FILL(k); }
