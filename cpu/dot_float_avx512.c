/* The decode class with float weights, AVX-512: lanes along the columns. A row's sum has 64 lanes (index mod 64), added at
 * the end by a fixed tree. That many keep the multiply-adds busy with one row at a time.
 *
 * How many rows side by side, and whether they are prefetched, depends on how much of L1 x fills. F16, two Zen 4 cores,
 * share of a streaming read between (read 30 to 35 GB/s), with prefetches / without:
 *
 *   columns   1 row     2 rows    4 rows
 *    4096     92 / 95   93 / 83   89 / 88
 *    5632     80 / 62   88 / 76   88 / 84
 *   11008     80 / 69   88 / 85   88 / 91
 */
#include "cpu/simd_avx512.h"
#include "cpu/tile_avx512.h"

#include <float.h>
#include <math.h>

enum {
    CHAINS = 4,
    CHUNK = 16 * CHAINS,
    NEXT = 16 << 10,   /* bytes ahead, for each row side by side, that weights are prefetched */
    SHORT = 4096,      /* columns of x that leave half of L1 free */
    LONG = 8192,       /* and that fill it */
    PIECE = 128 << 10, /* bytes of rows that meet all columns before the next: they stay in L2 */
};

TILE_INLINE int64_t weight_bytes(ht_type type) { return type == HT_F32 ? 4 : 2; }

/* Columns k..k + CHUNK of NR rows . NC columns; both are constants, NR * NC <= 4. `whole`: none of them is past the end. */
TILE_INLINE void float_chunk(ht_type type, int nr, int nc, bool whole, __m512 acc[CHAINS][CHAINS], const char *w,
                             size_t row_bytes, const char *x, size_t x_bytes, int64_t k, int64_t cols)
{
    TILE_UNROLL for (int j = 0; j < CHAINS; j++) {
        const int64_t at = k + 16 * j;
        const __mmask16 mask = whole ? 0xffff : lanes_mask(cols - at);
        __m512 column[CHAINS];
        TILE_UNROLL for (int c = 0; c < nc; c++)
            column[c] = _mm512_maskz_loadu_ps(mask, (const float *)(const void *)(x + (size_t)c * x_bytes) + at);
        TILE_UNROLL for (int r = 0; r < nr; r++) {
            __m512 v = load_floats(type, w + (size_t)r * row_bytes, at, mask);
            TILE_UNROLL for (int c = 0; c < nc; c++)
                acc[r * nc + c][j] = _mm512_fmadd_ps(v, column[c], acc[r * nc + c][j]);
        }
    }
}

/* NR rows . NC columns. */
TILE_INLINE void float_tile(ht_type type, int nr, int nc, float *y, int64_t y_stride, const char *w, size_t row_bytes,
                            const char *x, size_t x_bytes, int64_t cols, bool prefetch)
{
    __m512 acc[CHAINS][CHAINS]; /* [row and column][chain] */
    TILE_UNROLL for (int i = 0; i < nr * nc; i++)
        TILE_UNROLL for (int j = 0; j < CHAINS; j++)
            acc[i][j] = _mm512_setzero_ps();
    const size_t chunk_bytes = (size_t)(nr * CHUNK * weight_bytes(type));
    uintptr_t next = (uintptr_t)w + (size_t)nr * NEXT; /* may leave the matrix */
    int64_t k = 0;
    for (; k + CHUNK <= cols; k += CHUNK, next += chunk_bytes) {
        if (prefetch) {
            TILE_UNROLL for (size_t line = 0; line < chunk_bytes; line += 64)
                _mm_prefetch((const char *)(next + line), _MM_HINT_T1);
        }
        float_chunk(type, nr, nc, true, acc, w, row_bytes, x, x_bytes, k, cols);
    }
    if (k < cols)
        float_chunk(type, nr, nc, false, acc, w, row_bytes, x, x_bytes, k, cols);
    TILE_UNROLL for (int i = 0; i < nr * nc; i++)
        y[i % nc * y_stride + i / nc] = ht_tree_sum_512(_mm512_add_ps(_mm512_add_ps(acc[i][0], acc[i][1]),
                                                                      _mm512_add_ps(acc[i][2], acc[i][3])));
}

/* NR rows at a time; what is left, one by one. */
TILE_INLINE void float_rows(ht_type type, int nr, int nc, bool prefetch, float *y, int64_t y_stride, const char *w,
                            size_t row_bytes, int64_t rows, const char *x, size_t x_bytes, int64_t cols)
{
    int64_t r = 0;
    for (; r + nr <= rows; r += nr)
        float_tile(type, nr, nc, y + r, y_stride, w + (size_t)r * row_bytes, row_bytes, x, x_bytes, cols, prefetch);
    for (; r < rows; r++)
        float_tile(type, 1, nc, y + r, y_stride, w + (size_t)r * row_bytes, row_bytes, x, x_bytes, cols, prefetch);
}

/* Two columns at once, for two rows each; the second two find the rows in cache. Alone, a column is shared by as many rows
 * as the table above says; by four where F32 weights outrun one stream. */
TILE_INLINE void float_columns(ht_type type, float *y, int64_t y_stride, const char *w, size_t row_bytes, int64_t rows,
                               const char *x, size_t x_bytes, int64_t n, int64_t cols)
{
    int64_t c = 0;
    for (; n - c >= 2; c += 2)
        float_rows(type, 2, 2, true, y + c * y_stride, y_stride, w, row_bytes, rows, x + (size_t)c * x_bytes, x_bytes,
                   cols);
    y += c * y_stride, x += (size_t)c * x_bytes;
    if (c == n) return;
    if (type == HT_F32) float_rows(type, 4, 1, true, y, y_stride, w, row_bytes, rows, x, x_bytes, cols);
    else if (cols <= SHORT) float_rows(type, 1, 1, false, y, y_stride, w, row_bytes, rows, x, x_bytes, cols);
    else if (cols <= LONG) float_rows(type, 2, 1, true, y, y_stride, w, row_bytes, rows, x, x_bytes, cols);
    else float_rows(type, 4, 1, false, y, y_stride, w, row_bytes, rows, x, x_bytes, cols);
}

#define DOT(name, type)                                                                                            \
    static void dot_##name(float *y, int64_t y_stride, const void *w, size_t row_bytes, int64_t rows,              \
                           const void *x, size_t x_bytes, int64_t n, int64_t cols)                                 \
    {                                                                                                              \
        const int64_t piece = row_bytes < PIECE / 4 ? (int64_t)(PIECE / row_bytes / 4 * 4) : 4;                    \
        for (int64_t r = 0; r < rows; r += piece)                                                                  \
            float_columns(type, y + r, y_stride, (const char *)w + (size_t)r * row_bytes, row_bytes,               \
                          rows - r < piece ? rows - r : piece, x, x_bytes, n, cols);                               \
    }                                                                                                              \
    static void expand_##name(const void *row, float *out, int64_t cols)                                           \
    {                                                                                                              \
        for (int64_t k = 0; k < cols; k += 16) {                                                                   \
            __mmask16 mask = lanes_mask(cols - k);                                                                 \
            _mm512_mask_storeu_ps(out + k, mask, load_floats(type, row, k, mask));                                 \
        }                                                                                                          \
    }
DOT(f32, HT_F32)
DOT(f16, HT_F16)
DOT(bf16, HT_BF16)

/* As ht_act_quantize in core/model, bit for bit. */
static void act_quantize(const float *x, void *row, int64_t cols)
{
    int8_t *q = row;
    float *scale = (float *)(void *)(q + cols), *sum = scale + cols / HT_QK;
    for (int64_t b = 0; b < cols / HT_QK; b++, x += HT_QK, q += HT_QK) {
        __m512 low = _mm512_loadu_ps(x), high = _mm512_loadu_ps(x + 16);
        /* as integers magnitudes have the same order, and NaN is the largest */
        __m512i most = _mm512_max_epi32(_mm512_castps_si512(_mm512_abs_ps(low)), _mm512_castps_si512(_mm512_abs_ps(high)));
        float amax = _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(_mm512_reduce_max_epi32(most))));
        if (!(amax >= HT_ACT_TINY && amax <= FLT_MAX)) {
            _mm256_storeu_si256((__m256i *)(void *)q, _mm256_setzero_si256());
            scale[b] = sum[b] = amax < HT_ACT_TINY ? 0.0f : NAN;
            continue;
        }
        __m512 inverse = _mm512_set1_ps(127.0f / amax);
        __m512i a = _mm512_cvtps_epi32(_mm512_mul_ps(low, inverse));
        __m512i c = _mm512_cvtps_epi32(_mm512_mul_ps(high, inverse));
        _mm_storeu_si128((__m128i *)(void *)q, _mm512_cvtepi32_epi8(a));
        _mm_storeu_si128((__m128i *)(void *)(q + 16), _mm512_cvtepi32_epi8(c));
        scale[b] = amax / 127.0f;
        sum[b] = scale[b] * (float)_mm512_reduce_add_epi32(_mm512_add_epi32(a, c));
    }
}

void ht_kernels_dot_float_avx512(ht_kernels *k)
{
#define FILL(name, id)                                                                                             \
    k->dot[id][0] = k->dot[id][1] = dot_##name;                                                                    \
    k->expand[id] = expand_##name;
    FILL(f32, HT_F32)
    FILL(f16, HT_F16)
    FILL(bf16, HT_BF16)
    k->act_quantize = act_quantize;
}
