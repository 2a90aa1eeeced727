/* The decode class with float weights, AVX-512: four rows at a time, lanes along the columns, so that four streams
 * of weights meet each load of x. A row's sum has 16 lanes, added at the end by a fixed tree.
 */
#include "cpu/tile_avx512.h"

enum { GROUP = 4 };

TILE_INLINE int64_t weight_bytes(ht_type type) { return type == HT_F32 ? 4 : 2; }

/* NR rows . NC columns; both are constants. */
TILE_INLINE void float_tile(ht_type type, int nr, int nc, float *y, int64_t y_stride, const char *w, size_t row_bytes,
                            const char *x, size_t x_bytes, int64_t cols)
{
    __m512 acc[GROUP][HT_DECODE_COLUMNS];
    TILE_UNROLL for (int r = 0; r < nr; r++)
        TILE_UNROLL for (int c = 0; c < nc; c++)
            acc[r][c] = _mm512_setzero_ps();
    for (int64_t k = 0; k < cols; k += 16) {
        __mmask16 mask = lanes_mask(cols - k);
        __m512 v[GROUP];
        /* the next rows, in the order of addresses: see tile_prefetch */
        const size_t step = (size_t)(nr * 16 * weight_bytes(type)), at = (size_t)(k / 16) * step;
        for (size_t line = (at + 63) & ~(size_t)63; line < at + step; line += 64)
            _mm_prefetch((const char *)((uintptr_t)w + (size_t)nr * row_bytes + line), _MM_HINT_T1);
        TILE_UNROLL for (int r = 0; r < nr; r++)
            v[r] = load_floats(type, w + (size_t)r * row_bytes, k, mask);
        TILE_UNROLL for (int c = 0; c < nc; c++) {
            __m512 column = _mm512_maskz_loadu_ps(mask, (const float *)(const void *)(x + (size_t)c * x_bytes) + k);
            TILE_UNROLL for (int r = 0; r < nr; r++)
                acc[r][c] = _mm512_fmadd_ps(v[r], column, acc[r][c]);
        }
    }
    TILE_UNROLL for (int r = 0; r < nr; r++)
        TILE_UNROLL for (int c = 0; c < nc; c++)
            y[c * y_stride + r] = _mm512_reduce_add_ps(acc[r][c]);
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

/* At most four columns at once: 16 accumulators. What is left is computed alike, fewer at a time. */
#define DOT(name, type)                                                                                            \
    static void dot_##name(float *y, int64_t y_stride, const void *w, size_t row_bytes, int64_t rows,              \
                           const void *x, size_t x_bytes, int64_t n, int64_t cols)                                 \
    {                                                                                                              \
        int64_t c = 0;                                                                                             \
        for (; n - c >= 4; c += 4)                                                                                 \
            float_rows(type, 4, y + c * y_stride, y_stride, w, row_bytes, rows,                                    \
                       (const char *)x + (size_t)c * x_bytes, x_bytes, cols);                                      \
        for (; n - c >= 2; c += 2)                                                                                 \
            float_rows(type, 2, y + c * y_stride, y_stride, w, row_bytes, rows,                                    \
                       (const char *)x + (size_t)c * x_bytes, x_bytes, cols);                                      \
        for (; c < n; c++)                                                                                         \
            float_rows(type, 1, y + c * y_stride, y_stride, w, row_bytes, rows,                                    \
                       (const char *)x + (size_t)c * x_bytes, x_bytes, cols);                                      \
    }                                                                                                              \
    static void expand_##name(const void *row, float *out, int64_t cols)                                           \
    {                                                                                                              \
        for (int64_t k = 0; k < cols; k += 16) {                                                                   \
            __mmask16 mask = lanes_mask(cols - k);                        \
            _mm512_mask_storeu_ps(out + k, mask, load_floats(type, row, k, mask));                                \
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
        float amax = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high)));
        if (amax < HT_ACT_TINY) {
            _mm256_storeu_si256((__m256i *)(void *)q, _mm256_setzero_si256());
            scale[b] = sum[b] = 0.0f;
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
