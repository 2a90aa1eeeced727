/* Attention over a KV tile at the level AVX512; the same bits as attend_ref.c.
 *
 * scores: R query rows against T tokens at a time, R * T <= 16 accumulators, whose sums are then made by one shared
 * tree. mix: R query rows by up to 8 vectors of V. K and V are converted in registers for every four query rows, or,
 * when more than `direct` rows share the tile, once into an F32 buffer, PIECE tokens at a time.
 */
#include "cpu/attend.h"
#include "cpu/simd_avx512.h"

#define PIECE 16
#define BUFFER_DIM 256 /* heads up to this use the buffer */

/* ---- thirty-two elements of a stored row ----------------------------------------------------------------- */

typedef void load_fn(const void *row, int32_t i, __m512 out[2]); /* elements [i, i + 32), i a multiple of 32 */

#define INLINE static inline __attribute__((always_inline))

INLINE void load_f32(const void *row, int32_t i, __m512 out[2])
{
    out[0] = _mm512_loadu_ps((const float *)row + i);
    out[1] = _mm512_loadu_ps((const float *)row + i + 16);
}

INLINE void load_f16(const void *row, int32_t i, __m512 out[2])
{
    const __m256i *h = (const __m256i *)(const void *)((const ht_half *)row + i);
    out[0] = _mm512_cvtph_ps(_mm256_loadu_si256(h));
    out[1] = _mm512_cvtph_ps(_mm256_loadu_si256(h + 1));
}

INLINE __m512 half_scale(ht_half d)
{
    return _mm512_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(d)));
}

INLINE void load_q8_0(const void *row, int32_t i, __m512 out[2])
{
    const ht_block_q8_0 *b = (const ht_block_q8_0 *)row + i / HT_QK;
    const __m128i *q = (const __m128i *)(const void *)b->qs;
    __m512 d = half_scale(b->d);
    out[0] = _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(q))));
    out[1] = _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(q + 1))));
}

/* The sixteen values that a block can hold, looked up by the low four bits of each index: no mask needed. */
INLINE void load_q4_0(const void *row, int32_t i, __m512 out[2])
{
    const ht_block_q4_0 *b = (const ht_block_q4_0 *)row + i / HT_QK;
    const __m512 levels = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    __m512 table = _mm512_mul_ps(half_scale(b->d), levels);
    __m512i q = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)b->qs));
    out[0] = _mm512_permutexvar_ps(q, table);
    out[1] = _mm512_permutexvar_ps(_mm512_srli_epi32(q, 4), table);
}

/* What is left of heads that are no multiple of 32: float types alone can have it. */
INLINE __m512 load_tail(bool half, const void *row, int32_t i, __mmask16 m)
{
    if (half) return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(m, (const ht_half *)row + i));
    return _mm512_maskz_loadu_ps(m, (const float *)row + i);
}

/* ---- scores ---------------------------------------------------------------------------------------------- */

/* Lane l of the result is the tree sum of v[l % 4 * 4 + l / 4]: the trees of sixteen vectors, level by level. */
INLINE __m512 tree_sums(const __m512 v[16])
{
    __m512 a[8], b[4], c[2];

    HT_UNROLL for (int i = 0; i < 8; i++) /* lanes j + (j + 8), of two vectors */
        a[i] = _mm512_add_ps(_mm512_shuffle_f32x4(v[2 * i], v[2 * i + 1], 0x44),
                             _mm512_shuffle_f32x4(v[2 * i], v[2 * i + 1], 0xee));
    HT_UNROLL for (int i = 0; i < 4; i++) /* j + (j + 4), of four */
        b[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a[2 * i], a[2 * i + 1], 0x88),
                             _mm512_shuffle_f32x4(a[2 * i], a[2 * i + 1], 0xdd));
    HT_UNROLL for (int i = 0; i < 2; i++) /* j + (j + 2) */
        c[i] = _mm512_add_ps(_mm512_shuffle_ps(b[2 * i], b[2 * i + 1], 0x44),
                             _mm512_shuffle_ps(b[2 * i], b[2 * i + 1], 0xee));
    return _mm512_add_ps(_mm512_shuffle_ps(c[0], c[1], 0x88), _mm512_shuffle_ps(c[0], c[1], 0xdd));
}

/* s[r][t] for R rows and T tokens. */
INLINE void scores_tile(const int R, const int T, load_fn *load, bool half, float *s, const float *q, int64_t q_stride,
                        const char *k, size_t k_row_bytes, int32_t head_dim)
{
    __m512 acc[16], sum[16];
    int32_t i = 0;

    HT_UNROLL for (int x = 0; x < 16; x++) acc[x] = _mm512_setzero_ps();
    for (; i + 32 <= head_dim; i += 32) {
        __m512 x[8];
        HT_UNROLL for (int r = 0; r < R; r++) {
            x[2 * r] = _mm512_loadu_ps(q + r * q_stride + i);
            x[2 * r + 1] = _mm512_loadu_ps(q + r * q_stride + i + 16);
        }
        HT_UNROLL for (int t = 0; t < T; t++) {
            __m512 y[2];
            load(k + (size_t)t * k_row_bytes, i, y);
            HT_UNROLL for (int r = 0; r < R; r++) {
                acc[r * T + t] = _mm512_fmadd_ps(x[2 * r], y[0], acc[r * T + t]);
                acc[r * T + t] = _mm512_fmadd_ps(x[2 * r + 1], y[1], acc[r * T + t]);
            }
        }
    }
    for (; i < head_dim; i += 16) {
        __mmask16 m = ht_mask_512(head_dim - i < 16 ? head_dim - i : 16);
        HT_UNROLL for (int t = 0; t < T; t++) {
            __m512 y = load_tail(half, k + (size_t)t * k_row_bytes, i, m);
            HT_UNROLL for (int r = 0; r < R; r++)
                acc[r * T + t] = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(m, q + r * q_stride + i), y, acc[r * T + t]);
        }
    }
    HT_UNROLL for (int l = 0; l < 16; l++) sum[l % 4 * 4 + l / 4] = acc[l];
    __m512 out = tree_sums(sum);
    if (T == 16) _mm512_storeu_ps(s, out);
    if (T == 8) {
        _mm256_storeu_ps(s, _mm512_castps512_ps256(out));
        _mm256_storeu_ps(s + HT_KV_TILE, _mm512_extractf32x8_ps(out, 1));
    }
    if (T == 4) {
        _mm_storeu_ps(s, _mm512_castps512_ps128(out));
        _mm_storeu_ps(s + HT_KV_TILE, _mm512_extractf32x4_ps(out, 1));
        _mm_storeu_ps(s + 2 * HT_KV_TILE, _mm512_extractf32x4_ps(out, 2));
        if (R == 4) _mm_storeu_ps(s + 3 * HT_KV_TILE, _mm512_extractf32x4_ps(out, 3));
    }
}

/* All m rows against tokens [begin, end), widened to multiples of 16; rows of the tile exist whether seen or not. */
INLINE void scores_rows(load_fn *load, bool half, float *s, const float *q, int64_t q_stride, int32_t m, const char *k,
                        size_t k_row_bytes, int32_t head_dim, int32_t begin, int32_t end, const char *next,
                        size_t next_bytes)
{
    for (int32_t t = begin; t < end; t += 16) {
        const char *kt = k + (size_t)t * k_row_bytes;
        int32_t i = 0;
        for (; i < m; i += 4) {
            float *si = s + i * HT_KV_TILE + t;
            const float *qi = q + i * q_stride;
            for (int u = 0; u < 16; u += 4) {
                const char *ku = kt + (size_t)u * k_row_bytes;
                if (i == 0) attend_prefetch(k, next, next_bytes, t + u, 4);
                if (m - i >= 4) scores_tile(4, 4, load, half, si + u, qi, q_stride, ku, k_row_bytes, head_dim);
                else if (m - i == 3) scores_tile(3, 4, load, half, si + u, qi, q_stride, ku, k_row_bytes, head_dim);
                else if (m - i == 2 && u % 8 == 0)
                    scores_tile(2, 8, load, half, si + u, qi, q_stride, ku, k_row_bytes, head_dim);
                else if (m - i == 1 && u == 0)
                    scores_tile(1, 16, load, half, si + u, qi, q_stride, ku, k_row_bytes, head_dim);
            }
        }
    }
}

/* PIECE rows to F32. */
INLINE void expand_rows(load_fn *load, bool half, float *out, const char *rows, size_t row_bytes, int32_t n,
                        int32_t head_dim)
{
    for (int32_t t = 0; t < n; t++) {
        const char *row = rows + (size_t)t * row_bytes;
        float *to = out + t * BUFFER_DIM;
        int32_t i = 0;
        for (; i + 32 <= head_dim; i += 32) {
            __m512 y[2];
            load(row, i, y);
            _mm512_store_ps(to + i, y[0]);
            _mm512_store_ps(to + i + 16, y[1]);
        }
        for (; i < head_dim; i += 16)
            _mm512_store_ps(to + i, load_tail(half, row, i, ht_mask_512(head_dim - i < 16 ? head_dim - i : 16)));
    }
}

INLINE void scores(load_fn *load, bool half, int32_t direct, float *s, const float *q, int64_t q_stride, int32_t m,
                   const char *k, size_t k_row_bytes, int32_t head_dim, int32_t begin, int32_t end, const char *next,
                   size_t next_bytes)
{
    _Alignas(64) float buffer[PIECE * BUFFER_DIM];

    begin = begin / PIECE * PIECE;
    end = (end + PIECE - 1) / PIECE * PIECE;
    if (m <= direct || head_dim > BUFFER_DIM) {
        scores_rows(load, half, s, q, q_stride, m, k, k_row_bytes, head_dim, begin, end, next, next_bytes);
        return;
    }
    for (int32_t t = begin; t < end; t += PIECE) {
        attend_prefetch(k, next, next_bytes, t, PIECE);
        expand_rows(load, half, buffer, k + (size_t)t * k_row_bytes, k_row_bytes, PIECE, head_dim);
        scores_rows(load_f32, false, s + t, q, q_stride, m, (const char *)buffer, BUFFER_DIM * sizeof(float), head_dim,
                    0, PIECE, NULL, 0);
    }
}

/* ---- softmax --------------------------------------------------------------------------------------------- */

/* s = scale s, and its maximum, over the tokens that are seen. */
INLINE float scale_row(float *s, float scale, uint64_t seen, float max)
{
    __m512 top = _mm512_set1_ps(max);
    HT_UNROLL for (int j = 0; j < 4; j++) {
        __mmask16 mask = (__mmask16)(seen >> (16 * j));
        __m512 x = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, s + 16 * j), _mm512_set1_ps(scale));
        _mm512_storeu_ps(s + 16 * j, x);
        top = _mm512_mask_max_ps(top, mask, x, top); /* a NaN score leaves top as it is */
    }
    return _mm512_reduce_max_ps(top);
}

/* s = exp(s - max) where seen, 0 elsewhere; returns the sum. */
INLINE float exp_row(float *s, uint64_t seen, float max)
{
    __m512 total = _mm512_setzero_ps();
    HT_UNROLL for (int j = 0; j < 4; j++) {
        __m512 x = ht_exp_low_512(_mm512_sub_ps(_mm512_loadu_ps(s + 16 * j), _mm512_set1_ps(max)));
        x = _mm512_maskz_mov_ps((__mmask16)(seen >> (16 * j)), x);
        _mm512_storeu_ps(s + 16 * j, x);
        total = _mm512_add_ps(total, x);
    }
    return ht_tree_sum_512(total);
}

/* Sixteen rows at a time: their maxima are chains of their own that can overlap, and their carries are one vector. */
static void softmax_avx512(float *s, int32_t m, float scale, const int32_t *first, const int32_t *limit, float *max,
                           float *sum, float *carry, const ht_attend_next *next)
{
    for (int32_t row = 0; row < m; row += 16) {
        int32_t n = m - row < 16 ? m - row : 16;
        _Alignas(64) float new_max[16] = {0};
        uint64_t seen[16];
        __mmask16 any = 0, rows = ht_mask_512(n);

        for (int32_t j = 0; j < n; j++) {
            int32_t i = row + j;
            uint64_t below = limit[i] >= 64 ? ~0ull : (1ull << limit[i]) - 1;
            seen[j] = first[i] >= 64 ? 0 : below & ~((1ull << first[i]) - 1);
            any |= (__mmask16)((seen[j] != 0) << j);
            new_max[j] = scale_row(s + i * HT_KV_TILE, scale, seen[j], max[i]);
        }
        __m512 top = _mm512_load_ps(new_max), fall = _mm512_sub_ps(_mm512_maskz_loadu_ps(rows, max + row), top);
        _mm512_mask_storeu_ps(carry + row, rows, _mm512_mask_mov_ps(_mm512_set1_ps(1.0f), any, ht_exp_low_512(fall)));
        _mm512_mask_storeu_ps(max + row, any, top);
        for (int32_t j = 0; j < n; j++) {
            int32_t i = row + j;
            attend_prefetch_ends(next, i, m);
            float total = exp_row(s + i * HT_KV_TILE, seen[j], new_max[j]);
            if (seen[j]) sum[i] = ht_fmaf(sum[i], carry[i], total);
        }
    }
}

/* ---- mix ------------------------------------------------------------------------------------------------- */

/* acc[r][i, i + 16 N) for R rows over tokens [begin, end). */
INLINE void mix_tile(const int R, const int N, load_fn *load, float *acc, int64_t acc_stride, const float *s,
                     const float *carry, const char *v, size_t v_row_bytes, int32_t i, int32_t begin, int32_t end)
{
    __m512 a[16];

    HT_UNROLL for (int r = 0; r < R; r++)
        HT_UNROLL for (int x = 0; x < N; x++)
            a[r * N + x] = _mm512_mul_ps(_mm512_loadu_ps(acc + r * acc_stride + i + 16 * x), _mm512_set1_ps(carry[r]));
    for (int32_t t = begin; t < end; t++) {
        __m512 y[8];
        HT_UNROLL for (int x = 0; x < N; x += 2) load(v + (size_t)t * v_row_bytes, i + 16 * x, y + x);
        HT_UNROLL for (int r = 0; r < R; r++) {
            __m512 p = _mm512_set1_ps(s[r * HT_KV_TILE + t]);
            HT_UNROLL for (int x = 0; x < N; x++) a[r * N + x] = _mm512_fmadd_ps(p, y[x], a[r * N + x]);
        }
    }
    HT_UNROLL for (int r = 0; r < R; r++)
        HT_UNROLL for (int x = 0; x < N; x++) _mm512_storeu_ps(acc + r * acc_stride + i + 16 * x, a[r * N + x]);
}

/* The same for at most 16 elements from i on, of a float type. */
INLINE void mix_tail(const int R, bool half, float *acc, int64_t acc_stride, const float *s, const float *carry,
                     const char *v, size_t v_row_bytes, int32_t i, __mmask16 m, int32_t begin, int32_t end)
{
    __m512 a[4];

    HT_UNROLL for (int r = 0; r < R; r++)
        a[r] = _mm512_mul_ps(_mm512_maskz_loadu_ps(m, acc + r * acc_stride + i), _mm512_set1_ps(carry[r]));
    for (int32_t t = begin; t < end; t++) {
        __m512 y = load_tail(half, v + (size_t)t * v_row_bytes, i, m);
        HT_UNROLL for (int r = 0; r < R; r++) a[r] = _mm512_fmadd_ps(_mm512_set1_ps(s[r * HT_KV_TILE + t]), y, a[r]);
    }
    HT_UNROLL for (int r = 0; r < R; r++) _mm512_mask_storeu_ps(acc + r * acc_stride + i, m, a[r]);
}

/* R rows over all of e. */
INLINE void mix_width(const int R, const int N, load_fn *load, bool half, float *acc, int64_t acc_stride,
                      const float *s, const float *carry, const char *v, size_t v_row_bytes, int32_t head_dim,
                      int32_t begin, int32_t end)
{
    int32_t i = 0;

    for (; i + 16 * N <= head_dim; i += 16 * N)
        mix_tile(R, N, load, acc, acc_stride, s, carry, v, v_row_bytes, i, begin, end);
    if (N > 4 && i + 64 <= head_dim) {
        mix_tile(R, 4, load, acc, acc_stride, s, carry, v, v_row_bytes, i, begin, end);
        i += 64;
    }
    if (i + 32 <= head_dim) {
        mix_tile(R, 2, load, acc, acc_stride, s, carry, v, v_row_bytes, i, begin, end);
        i += 32;
    }
    for (; i < head_dim; i += 16)
        mix_tail(R, half, acc, acc_stride, s, carry, v, v_row_bytes, i,
                 ht_mask_512(head_dim - i < 16 ? head_dim - i : 16), begin, end);
}

INLINE void mix_rows(load_fn *load, bool half, float *acc, int64_t acc_stride, const float *s, const float *carry,
                     int32_t m, const char *v, size_t v_row_bytes, int32_t head_dim, int32_t begin, int32_t end)
{
    for (int32_t i = 0; i < m; i += 4) {
        float *a = acc + i * acc_stride;
        const float *si = s + i * HT_KV_TILE, *c = carry + i;
        if (m - i >= 4) mix_width(4, 4, load, half, a, acc_stride, si, c, v, v_row_bytes, head_dim, begin, end);
        else if (m - i == 3) mix_width(3, 4, load, half, a, acc_stride, si, c, v, v_row_bytes, head_dim, begin, end);
        else if (m - i == 2) mix_width(2, 8, load, half, a, acc_stride, si, c, v, v_row_bytes, head_dim, begin, end);
        else mix_width(1, 8, load, half, a, acc_stride, si, c, v, v_row_bytes, head_dim, begin, end);
    }
}

static const float ones[HT_KV_TILE] = {
    1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
    1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

INLINE void mix(load_fn *load, bool half, int32_t direct, float *acc, int64_t acc_stride, const float *s,
                const float *carry, int32_t m, const char *v, size_t v_row_bytes, int32_t head_dim, int32_t begin,
                int32_t end, const char *next, size_t next_bytes)
{
    _Alignas(64) float buffer[PIECE * BUFFER_DIM];
    bool as_stored = m <= direct || head_dim > BUFFER_DIM;

    /* In pieces either way: a piece of V stays in L1 while the rows and the vectors of e pass over it. */
    for (int32_t t = begin; t < end; t += PIECE) {
        int32_t n = end - t < PIECE ? end - t : PIECE;
        const char *vt = v + (size_t)t * v_row_bytes;
        attend_prefetch(v, next, next_bytes, t, n);
        for (int32_t i = 0; i < m; i += HT_KV_TILE) {
            int32_t rows = m - i < HT_KV_TILE ? m - i : HT_KV_TILE;
            const float *c = t == begin ? carry + i : ones, *st = s + i * HT_KV_TILE + t;
            float *a = acc + i * acc_stride;
            if (as_stored) {
                mix_rows(load, half, a, acc_stride, st, c, rows, vt, v_row_bytes, head_dim, 0, n);
                continue;
            }
            if (i == 0) expand_rows(load, half, buffer, vt, v_row_bytes, n, head_dim);
            mix_rows(load_f32, false, a, acc_stride, st, c, rows, (const char *)buffer, BUFFER_DIM * sizeof(float),
                     head_dim, 0, n);
        }
    }
}

/* ---- by type --------------------------------------------------------------------------------------------- */

ATTEND(f32, false, INT32_MAX)
ATTEND(f16, true, 8)
ATTEND(q8_0, false, 4)
ATTEND(q4_0, false, 4)

void ht_kernels_attend_avx512(ht_kernels *k)
{
    k->attend_softmax = softmax_avx512;
    ATTEND_FILL(k, f32, HT_F32);
    ATTEND_FILL(k, f16, HT_F16);
    ATTEND_FILL(k, q8_0, HT_Q8_0);
    ATTEND_FILL(k, q4_0, HT_Q4_0);
}
