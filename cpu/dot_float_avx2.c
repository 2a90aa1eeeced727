/* The decode class with float weights, AVX2: four rows at a time, lanes along the columns, so that four streams
 * of weights meet each load of x. A row's sum has 8 lanes, added at the end by a fixed tree. Woven tiles are read line by
 * line: F16, one column, one Zen 4 core, 11008 columns, 87% of a streaming read of 29 GB/s, plain rows 76%; two cores, 4096
 * columns, 97% and 92% of 34 GB/s.
 */
#include "core/model/tiles.h"
#include "cpu/tile_avx2.h"

#include <float.h>
#include <math.h>

enum {
    GROUP = 4,
    CHUNK = 32,
    LINE = 64,        /* bytes of a row that lie together in a woven tile */
    SEGMENT = 8,      /* lines of each row of a woven tile that meet all columns before the next: they stay in L1 */
    AHEAD = 16 << 10, /* bytes ahead that later ones are prefetched meanwhile */
};

TILE_INLINE int64_t weight_bytes(ht_type type) { return type == HT_F32 ? 4 : 2; }

/* Columns k..k + 8, of which the first `lanes` are there, of NR rows . NC columns; both are constants. */
TILE_INLINE void float_step(ht_type type, int nr, int nc, int64_t lanes, __m256 acc[GROUP][2], const char *w,
                            size_t row_bytes, const char *x, size_t x_bytes, int64_t k)
{
    __m256 v[GROUP];
    TILE_UNROLL for (int r = 0; r < nr; r++)
        v[r] = load_floats(type, w + (size_t)r * row_bytes, k, lanes);
    TILE_UNROLL for (int c = 0; c < nc; c++) {
        __m256 column = load_floats(HT_F32, x + (size_t)c * x_bytes, k, lanes);
        TILE_UNROLL for (int r = 0; r < nr; r++)
            acc[r][c] = _mm256_fmadd_ps(v[r], column, acc[r][c]);
    }
}

/* NR rows . NC columns. */
TILE_INLINE void float_tile(ht_type type, int nr, int nc, float *y, int64_t y_stride, const char *w, size_t row_bytes,
                            const char *x, size_t x_bytes, int64_t cols)
{
    __m256 acc[GROUP][2];
    TILE_UNROLL for (int r = 0; r < nr; r++)
        TILE_UNROLL for (int c = 0; c < nc; c++)
            acc[r][c] = _mm256_setzero_ps();
    const size_t chunk_bytes = (size_t)(nr * CHUNK * weight_bytes(type));
    uintptr_t next = (uintptr_t)w + (size_t)nr * row_bytes; /* the next rows, in the order of addresses: see tile_prefetch */
    int64_t k = 0;
    for (; k + CHUNK <= cols; k += CHUNK, next += chunk_bytes) {
        TILE_UNROLL for (size_t line = 0; line < chunk_bytes; line += 64)
            _mm_prefetch((const char *)(next + line), _MM_HINT_T1);
        TILE_UNROLL for (int i = 0; i < CHUNK; i += 8)
            float_step(type, nr, nc, 8, acc, w, row_bytes, x, x_bytes, k + i);
    }
    for (; k < cols; k += 8)
        float_step(type, nr, nc, cols - k, acc, w, row_bytes, x, x_bytes, k);
    TILE_UNROLL for (int r = 0; r < nr; r++)
        TILE_UNROLL for (int c = 0; c < nc; c++)
            y[c * y_stride + r] = sum_lanes(acc[r][c]);
}

TILE_INLINE void float_rows(ht_type type, int nc, float *y, int64_t y_stride, const char *w, size_t row_bytes,
                            int64_t rows, const char *x, size_t x_bytes, int64_t cols)
{
    int64_t r = 0;
    for (; r + GROUP <= rows; r += GROUP)
        float_tile(type, GROUP, nc, y + r, y_stride, w + (size_t)r * row_bytes, row_bytes, x, x_bytes, cols);
    for (; r < rows; r++)
        float_tile(type, 1, nc, y + r, y_stride, w + (size_t)r * row_bytes, row_bytes, x, x_bytes, cols);
}

/* acc[c][r] += `lines` lines of each of GROUP rows of a woven tile . NC columns. Prefetches as many lines from `next` on. */
TILE_INLINE void woven_part(ht_type type, int nc, __m256 (*acc)[HT_TILE_ROWS], const char *w, int64_t lines, const char *x,
                            size_t x_bytes, uintptr_t next)
{
    const int columns = LINE / (int)weight_bytes(type);
    __m256 sum[GROUP][2];
    TILE_UNROLL for (int r = 0; r < GROUP; r++)
        TILE_UNROLL for (int c = 0; c < nc; c++)
            sum[r][c] = acc[c][r];
    for (int64_t l = 0; l < lines; l++, w += HT_TILE_ROWS * LINE, next += GROUP * LINE) {
        TILE_UNROLL for (size_t line = 0; line < GROUP; line++)
            _mm_prefetch((const char *)(next + LINE * line), _MM_HINT_T1);
        TILE_UNROLL for (int k = 0; k < columns; k += 8)
            float_step(type, GROUP, nc, 8, sum, w, LINE, x, x_bytes, k);
        x += columns * (int)sizeof(float);
    }
    TILE_UNROLL for (int r = 0; r < GROUP; r++)
        TILE_UNROLL for (int c = 0; c < nc; c++)
            acc[c][r] = sum[r][c];
}

/* A woven tile . n columns: see woven_several of dot_float_avx512.c. */
TILE_INLINE void woven_several(ht_type type, float *y, int64_t y_stride, const char *w, const char *x, size_t x_bytes,
                               int64_t n, int64_t cols)
{
    __m256 acc[HT_DECODE_COLUMNS][HT_TILE_ROWS];
    for (int64_t c = 0; c < n; c++)
        TILE_UNROLL for (int r = 0; r < HT_TILE_ROWS; r++)
            acc[c][r] = _mm256_setzero_ps();
    for (int64_t left = cols * weight_bytes(type) / LINE; left > 0; left -= SEGMENT) {
        const int64_t lines = left < SEGMENT ? left : SEGMENT;
        for (int64_t c = 0; c < n; c += 2) {
            uintptr_t next = (uintptr_t)w + AHEAD; /* may leave the matrix */
            for (int r = 0; r < HT_TILE_ROWS; r += GROUP, next += (size_t)lines * GROUP * LINE) {
                __m256 (*at)[HT_TILE_ROWS] = (void *)(acc[c] + r);
                if (n - c > 1)
                    woven_part(type, 2, at, w + LINE * r, lines, x + (size_t)c * x_bytes, x_bytes, next);
                else
                    woven_part(type, 1, at, w + LINE * r, lines, x + (size_t)c * x_bytes, x_bytes, next);
            }
        }
        w += SEGMENT * HT_TILE_ROWS * LINE, x += SEGMENT * LINE / weight_bytes(type) * (int64_t)sizeof(float);
    }
    for (int64_t c = 0; c < n; c++)
        for (int r = 0; r < HT_TILE_ROWS; r++)
            y[c * y_stride + r] = sum_lanes(acc[c][r]);
}

/* One column, line after line in the order of addresses. There are as many sums as registers: they wait in memory. */
TILE_INLINE void woven_one(ht_type type, float *y, const char *w, const float *x, int64_t cols)
{
    const int columns = LINE / (int)weight_bytes(type);
    __m256 acc[HT_TILE_ROWS];
    for (int r = 0; r < HT_TILE_ROWS; r++)
        acc[r] = _mm256_setzero_ps();
    for (int64_t k = 0; k < cols; k += columns, x += columns) {
        __m256 column[4];
        TILE_UNROLL for (int i = 0; i < columns; i += 8)
            column[i / 8] = _mm256_loadu_ps(x + i);
        for (int r = 0; r < HT_TILE_ROWS; r++, w += LINE) {
            TILE_UNROLL for (int i = 0; i < columns; i += 8)
                acc[r] = _mm256_fmadd_ps(load_floats(type, w, i, 8), column[i / 8], acc[r]);
        }
    }
    for (int r = 0; r < HT_TILE_ROWS; r++)
        y[r] = sum_lanes(acc[r]);
}

/* At most two columns at once: 8 accumulators. What is left is computed alike, fewer at a time. */
#define DOT(name, type)                                                                                            \
    static void dot_##name(float *y, int64_t y_stride, const void *w, size_t row_bytes, int64_t rows,              \
                           const void *x, size_t x_bytes, int64_t n, int64_t cols)                                 \
    {                                                                                                              \
        int64_t c = 0;                                                                                             \
        for (; n - c >= 2; c += 2)                                                                                 \
            float_rows(type, 2, y + c * y_stride, y_stride, w, row_bytes, rows,                                    \
                       (const char *)x + (size_t)c * x_bytes, x_bytes, cols);                                      \
        for (; c < n; c++)                                                                                         \
            float_rows(type, 1, y + c * y_stride, y_stride, w, row_bytes, rows,                                    \
                       (const char *)x + (size_t)c * x_bytes, x_bytes, cols);                                      \
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
        for (int64_t k = 0; k < cols; k += 8)                                                                      \
            _mm256_maskstore_ps(out + k, lanes_mask(cols - k), load_floats(type, row, k, cols - k));               \
    }
DOT(f32, HT_F32)
DOT(f16, HT_F16)
DOT(bf16, HT_BF16)

/* As ht_act_quantize in core/model, bit for bit. */
static void act_quantize(const float *x, void *row, int64_t cols)
{
    int8_t *q = row;
    float *scale = (float *)(void *)(q + cols), *sum = scale + cols / HT_QK;
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (int64_t b = 0; b < cols / HT_QK; b++, x += HT_QK, q += HT_QK) {
        __m256 v[4];
        __m256i most = _mm256_setzero_si256(); /* as integers magnitudes have the same order, and NaN is the largest */
        TILE_UNROLL for (int i = 0; i < 4; i++) {
            v[i] = _mm256_loadu_ps(x + 8 * i);
            most = _mm256_max_epi32(most, _mm256_and_si256(magnitude, _mm256_castps_si256(v[i])));
        }
        __m128i m = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
        m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
        float amax = _mm_cvtss_f32(_mm_castsi128_ps(_mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1))));
        if (!(amax >= HT_ACT_TINY && amax <= FLT_MAX)) {
            _mm256_storeu_si256((__m256i *)(void *)q, _mm256_setzero_si256());
            scale[b] = sum[b] = amax < HT_ACT_TINY ? 0.0f : NAN;
            continue;
        }
        __m256 inverse = _mm256_set1_ps(127.0f / amax);
        __m256i i32[4];
        TILE_UNROLL for (int i = 0; i < 4; i++)
            i32[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
        __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(i32[0], i32[1]), _mm256_packs_epi32(i32[2], i32[3]));
        _mm256_storeu_si256((__m256i *)(void *)q, _mm256_permutevar8x32_epi32(bytes, order));
        __m256i total = _mm256_add_epi32(_mm256_add_epi32(i32[0], i32[1]), _mm256_add_epi32(i32[2], i32[3]));
        __m128i t = _mm_add_epi32(_mm256_castsi256_si128(total), _mm256_extracti128_si256(total, 1));
        t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0x4e));
        t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0xb1));
        scale[b] = amax / 127.0f;
        sum[b] = scale[b] * (float)_mm_cvtsi128_si32(t);
    }
}

void ht_kernels_dot_float_avx2(ht_kernels *k)
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
