/* The decode class with float weights, AVX-512: lanes along the columns. A row's sum has 16 lanes (index mod 16), added at
 * the end by a fixed tree; several rows, or columns, keep the multiply-adds busy.
 *
 * Woven tiles (core/model/tiles.h) are read line by line, with 16 sums of as many rows: x comes from L2 whatever its length,
 * since the weights push it out of L1, but once for 16 rows. F16, one column, Zen 4, share in % of a streaming read between,
 * plain rows / tiles, by how fast the memory was at the time (it has two speeds with two cores):
 *
 *   columns   1 core, 28-30 GB/s   2 cores, 31-34 GB/s   2 cores, 50-57 GB/s
 *    2048          77 / 94              94 / 97
 *    4096          75 / 94              92 / 98                74 / 93
 *    5632          61 / 92              85 / 99                63 / 88
 *   11008          65 / 92              84 / 100               67 / 88
 *   14336          66 / 91              90 / 99                66 / 94
 *
 * At 14336 columns and 59 GB/s tiles of 4 rows gave 71, of 8 rows 82, of 16 rows 92.
 */
#include "core/model/tiles.h"
#include "cpu/simd_avx512.h"
#include "cpu/tile_avx512.h"

#include <float.h>
#include <math.h>

enum {
    LINE = 64,         /* bytes of a row that are taken together, as they lie in a woven tile */
    SIDE = 4,          /* rows, and columns, that are multiplied side by side at most; of a woven tile and one column 16 rows */
    PAIR = 2,          /* plain rows, with one column */
    NEXT = 16 << 10,   /* bytes ahead, for each plain row side by side, that weights are prefetched */
    SEGMENT = 8,       /* lines of each row of a woven tile that meet all columns before the next: they stay in L1 */
    AHEAD = 16 << 10,  /* bytes ahead that later ones are prefetched meanwhile */
};

TILE_INLINE int64_t line_columns(ht_type type) { return LINE / (type == HT_F32 ? 4 : 2); }
TILE_INLINE size_t line_floats(ht_type type) { return (size_t)line_columns(type) * sizeof(float); } /* bytes of x */

/* acc[row][column] += a line of each of NR rows, row_bytes apart, . NC columns; both are constants. Columns from `left` on
 * are past the end; `whole`: none of them is. */
TILE_INLINE void float_line(ht_type type, int nr, int nc, bool whole, __m512 *acc, const char *line, size_t row_bytes,
                            const char *x, size_t x_bytes, int64_t left)
{
    const int parts = (int)line_columns(type) / 16;
    __mmask16 mask[2];
    __m512 column[2][SIDE];
    TILE_UNROLL for (int i = 0; i < parts; i++) {
        mask[i] = whole ? 0xffff : lanes_mask(left - 16 * i);
        TILE_UNROLL for (int c = 0; c < nc; c++)
            column[i][c] = _mm512_maskz_loadu_ps(mask[i], (const float *)(const void *)(x + (size_t)c * x_bytes) + 16 * i);
    }
    TILE_UNROLL for (int r = 0; r < nr; r++) {
        if (nr == HT_TILE_ROWS) /* lines are loaded in the order of addresses: in another, 75% of a read instead of 92 */
            __asm__ volatile("" ::: "memory");
        TILE_UNROLL for (int i = 0; i < parts; i++) {
            __m512 v = load_floats(type, line + (size_t)r * row_bytes, 16 * i, mask[i]);
            TILE_UNROLL for (int c = 0; c < nc; c++)
                acc[r * nc + c] = _mm512_fmadd_ps(v, column[i][c], acc[r * nc + c]);
        }
    }
}

/* ---- plain rows ---------------------------------------------------------------------------------------------- */

/* NR rows . NC columns. */
TILE_INLINE void float_rows(ht_type type, int nr, int nc, float *y, int64_t y_stride, const char *w, size_t row_bytes,
                            const char *x, size_t x_bytes, int64_t cols)
{
    __m512 acc[SIDE * SIDE];
    TILE_UNROLL for (int i = 0; i < nr * nc; i++)
        acc[i] = _mm512_setzero_ps();
    uintptr_t next = (uintptr_t)w + (size_t)nr * NEXT; /* may leave the matrix */
    int64_t k = 0;
    for (; k + line_columns(type) <= cols; k += line_columns(type)) {
        TILE_UNROLL for (size_t line = 0; line < (size_t)nr; line++)
            _mm_prefetch((const char *)(next + LINE * line), _MM_HINT_T1);
        float_line(type, nr, nc, true, acc, w, row_bytes, x, x_bytes, 0);
        w += LINE, x += line_floats(type), next += (size_t)nr * LINE;
    }
    if (k < cols)
        float_line(type, nr, nc, false, acc, w, row_bytes, x, x_bytes, cols - k);
    TILE_UNROLL for (int i = 0; i < nr * nc; i++)
        y[i % nc * y_stride + i / nc] = ht_tree_sum_512(acc[i]);
}

/* NR rows . n columns; the columns after the first few find the rows in cache. */
TILE_INLINE void float_columns(ht_type type, int nr, float *y, int64_t y_stride, const char *w, size_t row_bytes,
                               const char *x, size_t x_bytes, int64_t n, int64_t cols)
{
    for (; n > 0; n -= SIDE, y += SIDE * y_stride, x += SIDE * x_bytes) {
        switch (n) {
        case 1: float_rows(type, nr, 1, y, y_stride, w, row_bytes, x, x_bytes, cols); break;
        case 2: float_rows(type, nr, 2, y, y_stride, w, row_bytes, x, x_bytes, cols); break;
        case 3: float_rows(type, nr, 3, y, y_stride, w, row_bytes, x, x_bytes, cols); break;
        default: float_rows(type, nr, SIDE, y, y_stride, w, row_bytes, x, x_bytes, cols); break;
        }
    }
}

/* ---- woven tiles --------------------------------------------------------------------------------------------- */

/* acc[c][r] += `lines` lines of each of SIDE rows of a tile . NC columns. Prefetches as many lines from `next` on. */
TILE_INLINE void woven_part(ht_type type, int nc, __m512 (*acc)[HT_TILE_ROWS], const char *w, int64_t lines, const char *x,
                            size_t x_bytes, uintptr_t next)
{
    __m512 sum[SIDE * SIDE];
    TILE_UNROLL for (int i = 0; i < SIDE * nc; i++)
        sum[i] = acc[i % nc][i / nc];
    for (int64_t l = 0; l < lines; l++, w += HT_TILE_ROWS * LINE, x += line_floats(type), next += SIDE * LINE) {
        TILE_UNROLL for (size_t line = 0; line < SIDE; line++)
            _mm_prefetch((const char *)(next + LINE * line), _MM_HINT_T1);
        float_line(type, SIDE, nc, true, sum, w, LINE, x, x_bytes, 0);
    }
    TILE_UNROLL for (int i = 0; i < SIDE * nc; i++)
        acc[i % nc][i / nc] = sum[i];
}

/* A tile . n columns: SEGMENT lines of all its rows meet all columns, and later ones are prefetched in their order. */
TILE_INLINE void woven_several(ht_type type, float *y, int64_t y_stride, const char *w, const char *x, size_t x_bytes,
                               int64_t n, int64_t cols)
{
    __m512 acc[HT_DECODE_COLUMNS][HT_TILE_ROWS];
    for (int64_t c = 0; c < n; c++)
        TILE_UNROLL for (int r = 0; r < HT_TILE_ROWS; r++)
            acc[c][r] = _mm512_setzero_ps();
    for (int64_t left = cols / line_columns(type); left > 0; left -= SEGMENT) {
        const int64_t lines = left < SEGMENT ? left : SEGMENT;
        for (int64_t c = 0; c < n; c += SIDE) {
            uintptr_t next = (uintptr_t)w + AHEAD; /* may leave the matrix; asked for again if n > SIDE */
            for (int r = 0; r < HT_TILE_ROWS; r += SIDE, next += (size_t)lines * SIDE * LINE) {
                __m512 (*at)[HT_TILE_ROWS] = (void *)(acc[c] + r);
                const char *rows = w + LINE * r, *columns = x + (size_t)c * x_bytes;
                switch (n - c) {
                case 1: woven_part(type, 1, at, rows, lines, columns, x_bytes, next); break;
                case 2: woven_part(type, 2, at, rows, lines, columns, x_bytes, next); break;
                case 3: woven_part(type, 3, at, rows, lines, columns, x_bytes, next); break;
                default: woven_part(type, SIDE, at, rows, lines, columns, x_bytes, next); break;
                }
            }
        }
        w += SEGMENT * HT_TILE_ROWS * LINE, x += SEGMENT * line_floats(type);
    }
    for (int64_t c = 0; c < n; c++)
        for (int r = 0; r < HT_TILE_ROWS; r++)
            y[c * y_stride + r] = ht_tree_sum_512(acc[c][r]);
}

/* One column. x never stays in L1, and a line of it is asked for before the next. */
TILE_INLINE void woven_one(ht_type type, float *y, const char *w, const char *x, int64_t cols)
{
    __m512 acc[HT_TILE_ROWS];
    TILE_UNROLL for (int r = 0; r < HT_TILE_ROWS; r++)
        acc[r] = _mm512_setzero_ps();
    for (int64_t lines = cols / line_columns(type); lines > 0; lines--) {
        TILE_UNROLL for (size_t at = 0; at < line_floats(type); at += LINE)
            _mm_prefetch((const char *)((uintptr_t)x + line_floats(type) + at), _MM_HINT_T0);
        float_line(type, HT_TILE_ROWS, 1, true, acc, w, LINE, x, 0, 0);
        w += HT_TILE_ROWS * LINE, x += line_floats(type);
    }
    TILE_UNROLL for (int r = 0; r < HT_TILE_ROWS; r++)
        y[r] = ht_tree_sum_512(acc[r]);
}

#define DOT(name, type)                                                                                            \
    static void dot_##name(float *y, int64_t y_stride, const void *w, size_t row_bytes, int64_t rows,              \
                           const void *x, size_t x_bytes, int64_t n, int64_t cols)                                 \
    {                                                                                                              \
        const char *row = w;                                                                                       \
        int64_t r = 0;                                                                                             \
        for (; n == 1 && r + PAIR <= rows; r += PAIR, row += PAIR * row_bytes)                                     \
            float_rows(type, PAIR, 1, y + r, y_stride, row, row_bytes, x, x_bytes, cols);                          \
        for (; r + SIDE <= rows; r += SIDE, row += SIDE * row_bytes)                                               \
            float_columns(type, SIDE, y + r, y_stride, row, row_bytes, x, x_bytes, n, cols);                       \
        for (; r < rows; r++, row += row_bytes)                                                                    \
            float_columns(type, 1, y + r, y_stride, row, row_bytes, x, x_bytes, n, cols);                          \
    }                                                                                                              \
    static void woven_##name(float *y, int64_t y_stride, const void *w, size_t row_bytes, int64_t rows,            \
                             const void *x, size_t x_bytes, int64_t n, int64_t cols)                               \
    {                                                                                                              \
        const char *tile = w;                                                                                      \
        for (int64_t r = 0; r < rows; r += HT_TILE_ROWS, tile += HT_TILE_ROWS * row_bytes) {                       \
            if (n == 1)                                                                                            \
                woven_one(type, y + r, tile, x, cols);                                                             \
            else                                                                                                   \
                woven_several(type, y + r, y_stride, tile, x, x_bytes, n, cols);                                   \
        }                                                                                                          \
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
    k->dot_woven[id] = woven_##name;                                                                               \
    k->expand[id] = expand_##name;
    FILL(f32, HT_F32)
    FILL(f16, HT_F16)
    FILL(bf16, HT_BF16)
    k->act_quantize = act_quantize;
}
