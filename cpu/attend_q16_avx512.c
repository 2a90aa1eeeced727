/* Attention over a KV tile in Q16 at the level AVX512; the same bits as attend_q16_ref.c.
 *
 * scores: R query rows against two blocks of sixteen tokens, a token a lane; mix: R rows by N vectors of V, an element a lane.
 * There are registers for 16 sums.
 */
#include "cpu/attend.h"
#include "cpu/attend_q16.h"
#include "cpu/simd_avx512.h"

#define INLINE static inline __attribute__((always_inline))

enum {
    FEW_ROWS = 4, /* up to here memory is what is waited for */
    SCORES_ROWS = 8,
    BLOCKS = 2,
    MIX_ROWS = 4,
    MIX_VECTORS = 4,
};

/* ---- rows ------------------------------------------------------------------------------------------------ */

INLINE __m512i magnitude_bits(const float *v)
{
    return _mm512_and_si512(_mm512_loadu_si512(v), _mm512_set1_epi32(INT32_MAX));
}

/* As integers, since the larger bits of an infinity or a NaN shall win. */
static float largest_of(const float *v, int32_t n)
{
    __m512i most = _mm512_setzero_si512();
    for (int32_t i = 0; i < n; i += 16) most = _mm512_max_epi32(most, magnitude_bits(v + i));
    return _mm512_cvtss_f32(_mm512_castsi512_ps(_mm512_set1_epi32(_mm512_reduce_max_epi32(most))));
}

static float sum_of(const float *v, int32_t n)
{
    __m512 sum = _mm512_setzero_ps();
    for (int32_t i = 0; i < n; i += 16) sum = _mm512_add_ps(sum, _mm512_castsi512_ps(magnitude_bits(v + i)));
    return ht_tree_sum_512(sum);
}

/* The integers are the low halves. */
INLINE void round_16(__m512 v, __m512 inverse, int16_t *out)
{
    __m512i q = _mm512_castps_si512(_mm512_fmadd_ps(v, inverse, _mm512_set1_ps(FIXED_MAGIC)));
    _mm256_storeu_si256((__m256i *)(void *)out, _mm512_cvtepi32_epi16(q));
}

static void round_row(const float *v, int32_t n, float inverse, int16_t *out)
{
    for (int32_t i = 0; i < n; i += 16) round_16(_mm512_loadu_ps(v + i), _mm512_set1_ps(inverse), out + i);
}

Q16_ROW_ENTRIES

/* Two neighbours, in all lanes. */
INLINE __m512i pair_at(const int16_t *q)
{
    int32_t pair;
    memcpy(&pair, q, sizeof(pair));
    return _mm512_set1_epi32(pair);
}

/* GCC would move all sums to other registers and back. */
INLINE void add_products(__m512i *sum, __m512i a, __m512i b)
{
    *sum = _mm512_dpwssd_epi32(*sum, a, b);
    __asm__ volatile("" : "+v"(*sum));
}

/* ---- scores ---------------------------------------------------------------------------------------------- */

INLINE void scores_tile(const int R, float *s, const void *q, size_t q_bytes, const void *k, int32_t block, int32_t head_dim,
                        attend_ahead *next)
{
    const float *d = (const float *)k + block * HT_Q16_TOKENS;
    const int16_t *values = ht_q16_values(k);
    const int64_t block_values = (int64_t)head_dim * HT_Q16_TOKENS;
    __m512i sum[SCORES_ROWS * BLOCKS];

    values += block * block_values;
    HT_UNROLL for (int x = 0; x < R * BLOCKS; x++) sum[x] = _mm512_setzero_si512();
    for (int32_t i = 0; i < head_dim; i += 2) {
        __m512i keys[BLOCKS];
        HT_UNROLL for (int b = 0; b < BLOCKS; b++)
            keys[b] = _mm512_loadu_si512(values + b * block_values + i * HT_Q16_TOKENS);
        attend_prefetch_next(next, BLOCKS, R <= FEW_ROWS);
        HT_UNROLL for (int r = 0; r < R; r++) {
            __m512i pair = pair_at(q16_query(q, q_bytes, r) + i);
            HT_UNROLL for (int b = 0; b < BLOCKS; b++) add_products(&sum[r * BLOCKS + b], keys[b], pair);
        }
    }
    HT_UNROLL for (int r = 0; r < R; r++) {
        float scale = q16_query_scale(q16_query(q, q_bytes, r), head_dim);
        HT_UNROLL for (int b = 0; b < BLOCKS; b++) {
            __m512 scales = _mm512_mul_ps(_mm512_set1_ps(scale), _mm512_loadu_ps(d + b * HT_Q16_TOKENS));
            _mm512_storeu_ps(s + r * HT_KV_TILE + b * HT_Q16_TOKENS,
                             _mm512_mul_ps(_mm512_cvtepi32_ps(sum[r * BLOCKS + b]), scales));
        }
    }
}

/* Up to SCORES_ROWS rows. */
static void scores_rows(float *s, const void *q, size_t q_bytes, int32_t m, const void *k, int32_t block, int32_t head_dim,
                        attend_ahead *next)
{
    switch (m) {
    case 1: scores_tile(1, s, q, q_bytes, k, block, head_dim, next); break;
    case 2: scores_tile(2, s, q, q_bytes, k, block, head_dim, next); break;
    case 3: scores_tile(3, s, q, q_bytes, k, block, head_dim, next); break;
    case 4: scores_tile(4, s, q, q_bytes, k, block, head_dim, next); break;
    case 5: scores_tile(5, s, q, q_bytes, k, block, head_dim, next); break;
    case 6: scores_tile(6, s, q, q_bytes, k, block, head_dim, next); break;
    case 7: scores_tile(7, s, q, q_bytes, k, block, head_dim, next); break;
    default: scores_tile(8, s, q, q_bytes, k, block, head_dim, next); break;
    }
}

static void scores(float *s, const void *q, size_t q_bytes, int32_t m, const void *k, size_t row_bytes, int32_t head_dim,
                   int32_t begin, int32_t end, const ht_attend_next *next)
{
    const int32_t step = BLOCKS * HT_Q16_TOKENS;
    attend_ahead k_ahead = attend_ahead_of(k, next->k, next->k_bytes, m);

    (void)row_bytes;
    for (int32_t t = begin / step * step; t < end; t += step)
        for (int32_t i = 0; i < m; i += SCORES_ROWS)
            scores_rows(s + i * HT_KV_TILE + t, q16_query(q, q_bytes, i), q_bytes, m - i, k, t / HT_Q16_TOKENS,
                        head_dim, &k_ahead);
}

/* ---- mix ------------------------------------------------------------------------------------------------- */

/* s times the scales of V, which are 0 for what nobody sees. */
INLINE void round_weights(q16_weights *out, const float *s, const __m512 scales[4])
{
    __m512 w[4], sum = _mm512_setzero_ps(), most = sum;

    HT_UNROLL for (int j = 0; j < 4; j++) {
        w[j] = _mm512_mul_ps(_mm512_loadu_ps(s + 16 * j), scales[j]);
        sum = _mm512_add_ps(sum, w[j]);
        most = _mm512_max_ps(most, w[j]);
    }
    fixed_scale scale = q16_scale_of(_mm512_reduce_max_ps(most), ht_tree_sum_512(sum));
    HT_UNROLL for (int j = 0; j < 4; j++) round_16(w[j], _mm512_set1_ps(scale.inverse), out->q + 16 * j);
    out->d = scale.d;
}

/* acc[r][i, i + 16 N) for R rows over pairs of tokens [begin, end). */
INLINE void mix_tile(const int R, const int N, float *acc, int64_t acc_stride, const q16_weights *w, const float *carry,
                     const int16_t *values, int32_t head_dim, int32_t i, int32_t begin, int32_t end, attend_ahead *next,
                     int lines)
{
    __m512i sum[MIX_ROWS * MIX_VECTORS];

    HT_UNROLL for (int x = 0; x < R * N; x++) sum[x] = _mm512_setzero_si512();
    for (int32_t p = begin; p < end; p++) {
        const int16_t *v = values + ((int64_t)p * head_dim + i) * 2;
        __m512i y[MIX_VECTORS];
        HT_UNROLL for (int x = 0; x < N; x++) y[x] = _mm512_loadu_si512(v + 32 * x);
        attend_prefetch_next(next, N > 1 ? lines : 1, lines == MIX_VECTORS);
        HT_UNROLL for (int r = 0; r < R; r++) {
            __m512i pair = pair_at(w[r].q + 2 * p);
            HT_UNROLL for (int x = 0; x < N; x++) add_products(&sum[r * N + x], y[x], pair);
        }
    }
    HT_UNROLL for (int r = 0; r < R; r++)
        HT_UNROLL for (int x = 0; x < N; x++) {
            float *a = acc + r * acc_stride + i + 16 * x;
            __m512 before = _mm512_mul_ps(_mm512_loadu_ps(a), _mm512_set1_ps(carry[r]));
            _mm512_storeu_ps(a, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r * N + x]), _mm512_set1_ps(w[r].d), before));
        }
}

/* R rows over all of e. */
INLINE void mix_rows(const int R, float *acc, int64_t acc_stride, const q16_weights *w, const float *carry,
                     const int16_t *values, int32_t head_dim, int32_t begin, int32_t end, attend_ahead *next, int lines)
{
    int32_t i = 0;

    for (; i + 16 * MIX_VECTORS <= head_dim; i += 16 * MIX_VECTORS)
        mix_tile(R, MIX_VECTORS, acc, acc_stride, w, carry, values, head_dim, i, begin, end, next, lines);
    for (; i < head_dim; i += 16) mix_tile(R, 1, acc, acc_stride, w, carry, values, head_dim, i, begin, end, next, lines);
}

static void mix(float *acc, int64_t acc_stride, const float *s, const float *carry, int32_t m, const void *v,
                size_t row_bytes, int32_t head_dim, int32_t begin, int32_t end, const ht_attend_next *next)
{
    const float *d = v;
    const int16_t *values = ht_q16_values(v);
    const uint64_t seen = (end >= 64 ? ~0ull : (1ull << end) - 1) & ~0ull << begin;
    const int32_t first = begin / 2, last = (end + 1) / 2;
    const int lines = m > MIX_ROWS ? MIX_VECTORS / 2 : MIX_VECTORS; /* spread over two passes: too many at once are dropped */
    q16_weights w[MIX_ROWS];
    __m512 scales[4];
    attend_ahead v_ahead = attend_ahead_of(v, next->v, next->v_bytes, m);

    (void)row_bytes;
    HT_UNROLL for (int j = 0; j < 4; j++) scales[j] = _mm512_maskz_loadu_ps((__mmask16)(seen >> (16 * j)), d + 16 * j);
    for (int32_t i = 0; i < m; i += MIX_ROWS) {
        int32_t rows = m - i < MIX_ROWS ? m - i : MIX_ROWS;
        float *a = acc + i * acc_stride;
        for (int32_t r = 0; r < rows; r++) round_weights(&w[r], s + (i + r) * HT_KV_TILE, scales);
        switch (rows) {
        case 1: mix_rows(1, a, acc_stride, w, carry + i, values, head_dim, first, last, &v_ahead, lines); break;
        case 2: mix_rows(2, a, acc_stride, w, carry + i, values, head_dim, first, last, &v_ahead, lines); break;
        case 3: mix_rows(3, a, acc_stride, w, carry + i, values, head_dim, first, last, &v_ahead, lines); break;
        default: mix_rows(4, a, acc_stride, w, carry + i, values, head_dim, first, last, &v_ahead, lines); break;
        }
    }
}

void ht_kernels_attend_q16_avx512(ht_kernels *k) { Q16_FILL(k); }
