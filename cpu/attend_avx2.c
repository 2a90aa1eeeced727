/* Attention over a KV tile at the level AVX2; the same bits as attend_ref.c.
 *
 * The sixteen lanes of a sum are two vectors. scores: R query rows against T tokens at a time, R * T = 4 sums; mix: R
 * query rows by N vectors of V, R * N = 8. K and V are converted in registers, or, when more than DIRECT_ROWS query
 * rows share the tile, once into an F32 buffer, PIECE tokens at a time.
 */
#include "cpu/attend.h"
#include "cpu/simd_avx2.h"

#include <math.h>
#include <string.h>

#define DIRECT_ROWS 2
#define PIECE 16
#define BUFFER_DIM 256 /* heads up to this use the buffer */

#define INLINE static inline __attribute__((always_inline))

/* ---- eight elements of a stored row ---------------------------------------------------------------------- */

typedef __m256 load_fn(const void *row, int32_t i); /* elements [i, i + 8), i a multiple of 8 */

INLINE __m256 load_f32(const void *row, int32_t i) { return _mm256_loadu_ps((const float *)row + i); }

INLINE __m256 load_f16(const void *row, int32_t i)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)((const ht_half *)row + i)));
}

INLINE __m256 half_scale(ht_half d) { return _mm256_cvtph_ps(_mm_set1_epi16((short)d)); }

INLINE __m256 load_q8_0(const void *row, int32_t i)
{
    const ht_block_q8_0 *b = (const ht_block_q8_0 *)row + i / HT_QK;
    __m128i q = _mm_loadl_epi64((const __m128i *)(const void *)(b->qs + i % HT_QK));
    return _mm256_mul_ps(half_scale(b->d), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q)));
}

INLINE __m256 load_q4_0(const void *row, int32_t i)
{
    const ht_block_q4_0 *b = (const ht_block_q4_0 *)row + i / HT_QK;
    __m128i q = _mm_loadl_epi64((const __m128i *)(const void *)(b->qs + i % 16));
    if (i % HT_QK >= 16) q = _mm_srli_epi16(q, 4);
    q = _mm_sub_epi8(_mm_and_si128(q, _mm_set1_epi8(15)), _mm_set1_epi8(8));
    return _mm256_mul_ps(half_scale(b->d), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q)));
}

/* The last, broken vector of heads that are no multiple of 8: float types alone can have one. */
INLINE __m256 load_tail(bool half, const void *row, int32_t i, int32_t n)
{
    if (!half) return _mm256_maskload_ps((const float *)row + i, ht_mask_256(n));
    ht_half h[8] = {0};
    memcpy(h, (const ht_half *)row + i, (size_t)n * sizeof(*h));
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)h));
}

/* ---- scores ---------------------------------------------------------------------------------------------- */

/* The tree sums of four pairs of vectors (lanes 0..7 and 8..15), as out[0..3]. */
INLINE __m128 tree_sums(const __m256 low[4], const __m256 high[4])
{
    __m256 a[4], b[2];

    HT_UNROLL for (int i = 0; i < 4; i++) a[i] = _mm256_add_ps(low[i], high[i]);
    HT_UNROLL for (int i = 0; i < 2; i++) /* lanes j + (j + 4), of two sums */
        b[i] = _mm256_add_ps(_mm256_permute2f128_ps(a[2 * i], a[2 * i + 1], 0x20),
                             _mm256_permute2f128_ps(a[2 * i], a[2 * i + 1], 0x31));
    /* j + (j + 2): per half 0 0 2 2, 1 1 3 3; then j + (j + 1): 0 2 . ., 1 3 . . */
    __m256 c = _mm256_add_ps(_mm256_shuffle_ps(b[0], b[1], 0x44), _mm256_shuffle_ps(b[0], b[1], 0xee));
    c = _mm256_add_ps(_mm256_shuffle_ps(c, c, 0x88), _mm256_shuffle_ps(c, c, 0xdd));
    return _mm_unpacklo_ps(_mm256_castps256_ps128(c), _mm256_extractf128_ps(c, 1));
}

/* s[r][t] for R rows and T tokens, R * T = 4. */
INLINE void scores_tile(const int R, const int T, load_fn *load, bool half, float *s, const float *q, int64_t q_stride,
                        const char *k, size_t k_row_bytes, int32_t head_dim)
{
    __m256 acc[2][4];
    int32_t whole = head_dim / 8 * 8, i = 0;

    HT_UNROLL for (int x = 0; x < 4; x++) acc[0][x] = acc[1][x] = _mm256_setzero_ps();
    for (; i + 16 <= whole; i += 16)
        HT_UNROLL for (int j = 0; j < 2; j++)
            HT_UNROLL for (int t = 0; t < T; t++) {
                __m256 y = load(k + (size_t)t * k_row_bytes, i + 8 * j);
                HT_UNROLL for (int r = 0; r < R; r++)
                    acc[j][r * T + t] = _mm256_fmadd_ps(_mm256_loadu_ps(q + r * q_stride + i + 8 * j), y, acc[j][r * T + t]);
            }
    HT_UNROLL for (int j = 0; j < 2; j++) { /* up to two more vectors, the second or the only one broken */
        int32_t n = head_dim - i - 8 * j;
        if (n <= 0) continue;
        HT_UNROLL for (int t = 0; t < T; t++) {
            const char *kt = k + (size_t)t * k_row_bytes;
            __m256 y = n >= 8 ? load(kt, i + 8 * j) : load_tail(half, kt, i + 8 * j, n);
            HT_UNROLL for (int r = 0; r < R; r++)
                acc[j][r * T + t] = _mm256_fmadd_ps(_mm256_maskload_ps(q + r * q_stride + i + 8 * j, ht_mask_256(n)), y,
                                                    acc[j][r * T + t]);
        }
    }
    __m128 out = tree_sums(acc[0], acc[1]);
    if (T == 4) {
        _mm_storeu_ps(s, out);
        return;
    }
    _mm_storel_pi((__m64 *)(void *)s, out);
    _mm_storeh_pi((__m64 *)(void *)(s + HT_KV_TILE), out);
}

/* All m rows against tokens [begin, end), multiples of 4; rows of the tile exist whether seen or not. */
INLINE void scores_rows(load_fn *load, bool half, float *s, const float *q, int64_t q_stride, int32_t m, const char *k,
                        size_t k_row_bytes, int32_t head_dim, int32_t begin, int32_t end, const char *next,
                        size_t next_bytes)
{
    for (int32_t t = begin; t < end; t += 4) {
        const char *kt = k + (size_t)t * k_row_bytes;
        attend_prefetch(k, next, next_bytes, t, 4);
        for (int32_t i = 0; i < m; i += 2) {
            float *si = s + i * HT_KV_TILE + t;
            const float *qi = q + i * q_stride;
            if (m - i == 1) {
                scores_tile(1, 4, load, half, si, qi, q_stride, kt, k_row_bytes, head_dim);
                continue;
            }
            scores_tile(2, 2, load, half, si, qi, q_stride, kt, k_row_bytes, head_dim);
            scores_tile(2, 2, load, half, si + 2, qi, q_stride, kt + 2 * k_row_bytes, k_row_bytes, head_dim);
        }
    }
}

/* Rows to F32. */
INLINE void expand_rows(load_fn *load, bool half, float *out, const char *rows, size_t row_bytes, int32_t n,
                        int32_t head_dim)
{
    int32_t whole = head_dim / 8 * 8;

    for (int32_t t = 0; t < n; t++) {
        const char *row = rows + (size_t)t * row_bytes;
        for (int32_t i = 0; i < whole; i += 8) _mm256_store_ps(out + t * BUFFER_DIM + i, load(row, i));
        if (whole < head_dim)
            _mm256_store_ps(out + t * BUFFER_DIM + whole, load_tail(half, row, whole, head_dim - whole));
    }
}

INLINE void scores(load_fn *load, bool half, bool convert, float *s, const float *q, int64_t q_stride, int32_t m,
                   const char *k, size_t k_row_bytes, int32_t head_dim, int32_t begin, int32_t end, const char *next,
                   size_t next_bytes)
{
    _Alignas(32) float buffer[PIECE * BUFFER_DIM];

    begin = begin / PIECE * PIECE;
    end = (end + PIECE - 1) / PIECE * PIECE;
    if (!convert || m <= DIRECT_ROWS || head_dim > BUFFER_DIM) {
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

INLINE float max_lane(__m256 v)
{
    __m128 a = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    a = _mm_max_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)));
}

static void softmax_avx2(float *s, int32_t m, float scale, const int32_t *first, const int32_t *limit, float *max,
                         float *sum, float *carry, const ht_attend_next *next)
{
    const __m256 lowest = _mm256_set1_ps(-INFINITY);

    for (int32_t i = 0; i < m; i++, s += HT_KV_TILE) {
        __m256 seen[8], x[8], top = _mm256_set1_ps(max[i]), total[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};

        attend_prefetch_ends(next, i, m);
        for (int j = 0; j < 8; j++) {
            seen[j] = _mm256_castsi256_ps(_mm256_andnot_si256(ht_mask_256(first[i] - 8 * j), ht_mask_256(limit[i] - 8 * j)));
            x[j] = _mm256_blendv_ps(lowest, _mm256_mul_ps(_mm256_loadu_ps(s + 8 * j), _mm256_set1_ps(scale)), seen[j]);
            top = _mm256_max_ps(x[j], top); /* a NaN score leaves top as it is */
        }
        float new_max = max_lane(top);
        top = _mm256_set1_ps(new_max);
        for (int j = 0; j < 8; j++) {
            x[j] = _mm256_and_ps(ht_exp_256(_mm256_sub_ps(x[j], top)), seen[j]);
            _mm256_storeu_ps(s + 8 * j, x[j]);
            total[j % 2] = _mm256_add_ps(total[j % 2], x[j]);
        }
        carry[i] = 1.0f;
        if (first[i] >= limit[i]) continue;
        carry[i] = ht_expf(max[i] - new_max);
        sum[i] = ht_fmaf(sum[i], carry[i], ht_tree_sum_256(total[0], total[1]));
        max[i] = new_max;
    }
}

/* ---- mix ------------------------------------------------------------------------------------------------- */

/* acc[r][i, i + 8 N) for R rows over tokens [0, n). */
INLINE void mix_tile(const int R, const int N, load_fn *load, float *acc, int64_t acc_stride, const float *s,
                     const float *carry, const char *v, size_t v_row_bytes, int32_t i, int32_t n)
{
    __m256 a[8];

    HT_UNROLL for (int r = 0; r < R; r++)
        HT_UNROLL for (int x = 0; x < N; x++)
            a[r * N + x] = _mm256_mul_ps(_mm256_loadu_ps(acc + r * acc_stride + i + 8 * x), _mm256_set1_ps(carry[r]));
    for (int32_t t = 0; t < n; t++) {
        __m256 y[8];
        HT_UNROLL for (int x = 0; x < N; x++) y[x] = load(v + (size_t)t * v_row_bytes, i + 8 * x);
        HT_UNROLL for (int r = 0; r < R; r++) {
            __m256 p = _mm256_set1_ps(s[r * HT_KV_TILE + t]);
            HT_UNROLL for (int x = 0; x < N; x++) a[r * N + x] = _mm256_fmadd_ps(p, y[x], a[r * N + x]);
        }
    }
    HT_UNROLL for (int r = 0; r < R; r++)
        HT_UNROLL for (int x = 0; x < N; x++) _mm256_storeu_ps(acc + r * acc_stride + i + 8 * x, a[r * N + x]);
}

INLINE void mix_tail(bool half, float *acc, const float *s, float carry, const char *v, size_t v_row_bytes, int32_t i,
                     int32_t head_dim, int32_t n)
{
    __m256i m = ht_mask_256(head_dim - i);
    __m256 a = _mm256_mul_ps(_mm256_maskload_ps(acc + i, m), _mm256_set1_ps(carry));

    for (int32_t t = 0; t < n; t++)
        a = _mm256_fmadd_ps(_mm256_set1_ps(s[t]), load_tail(half, v + (size_t)t * v_row_bytes, i, head_dim - i), a);
    _mm256_maskstore_ps(acc + i, m, a);
}

/* R rows over all of e. */
INLINE void mix_width(const int R, const int N, load_fn *load, bool half, float *acc, int64_t acc_stride,
                      const float *s, const float *carry, const char *v, size_t v_row_bytes, int32_t head_dim, int32_t n)
{
    int32_t i = 0;

    for (; i + 8 * N <= head_dim; i += 8 * N)
        mix_tile(R, N, load, acc, acc_stride, s, carry, v, v_row_bytes, i, n);
    for (; i + 8 <= head_dim; i += 8) mix_tile(R, 1, load, acc, acc_stride, s, carry, v, v_row_bytes, i, n);
    for (int r = 0; i < head_dim && r < R; r++)
        mix_tail(half, acc + r * acc_stride, s + r * HT_KV_TILE, carry[r], v, v_row_bytes, i, head_dim, n);
}

INLINE void mix_rows(load_fn *load, bool half, float *acc, int64_t acc_stride, const float *s, const float *carry,
                     int32_t m, const char *v, size_t v_row_bytes, int32_t head_dim, int32_t n)
{
    for (int32_t i = 0; i < m;) {
        float *a = acc + i * acc_stride;
        const float *si = s + i * HT_KV_TILE, *c = carry + i;
        int32_t rows = m - i >= 4 ? 4 : m - i >= 2 ? 2 : 1;
        if (rows == 4) mix_width(4, 2, load, half, a, acc_stride, si, c, v, v_row_bytes, head_dim, n);
        else if (rows == 2) mix_width(2, 4, load, half, a, acc_stride, si, c, v, v_row_bytes, head_dim, n);
        else mix_width(1, 8, load, half, a, acc_stride, si, c, v, v_row_bytes, head_dim, n);
        i += rows;
    }
}

static const float ones[HT_KV_TILE] = {
    1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
    1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

INLINE void mix(load_fn *load, bool half, bool convert, float *acc, int64_t acc_stride, const float *s,
                const float *carry, int32_t m, const char *v, size_t v_row_bytes, int32_t head_dim, int32_t begin,
                int32_t end, const char *next, size_t next_bytes)
{
    _Alignas(32) float buffer[PIECE * BUFFER_DIM];
    bool direct = !convert || m <= DIRECT_ROWS || head_dim > BUFFER_DIM;

    /* In pieces either way: a piece of V stays in L1 while the rows and the vectors of e pass over it. */
    for (int32_t t = begin; t < end; t += PIECE) {
        int32_t n = end - t < PIECE ? end - t : PIECE;
        const char *vt = v + (size_t)t * v_row_bytes;
        attend_prefetch(v, next, next_bytes, t, n);
        for (int32_t i = 0; i < m; i += HT_KV_TILE) {
            int32_t rows = m - i < HT_KV_TILE ? m - i : HT_KV_TILE;
            const float *c = t == begin ? carry + i : ones, *st = s + i * HT_KV_TILE + t;
            float *a = acc + i * acc_stride;
            if (direct) {
                mix_rows(load, half, a, acc_stride, st, c, rows, vt, v_row_bytes, head_dim, n);
                continue;
            }
            if (i == 0) expand_rows(load, half, buffer, vt, v_row_bytes, n, head_dim);
            mix_rows(load_f32, false, a, acc_stride, st, c, rows, (const char *)buffer, BUFFER_DIM * sizeof(float),
                     head_dim, n);
        }
    }
}

/* ---- by type --------------------------------------------------------------------------------------------- */

ATTEND(f32, false, false)
ATTEND(f16, true, true)
ATTEND(q8_0, false, true)
ATTEND(q4_0, false, true)

void ht_kernels_attend_avx2(ht_kernels *k)
{
    k->attend_softmax = softmax_avx2;
    ATTEND_FILL(k, f32, HT_F32);
    ATTEND_FILL(k, f16, HT_F16);
    ATTEND_FILL(k, q8_0, HT_Q8_0);
    ATTEND_FILL(k, q4_0, HT_Q4_0);
}
