/* The matrix kernels in plain C: what every faster one is checked against. One code for all weight types, by way of
 * the type table's dequantize; sums are carried in double, so a reference is as good as exact beside the F32 sums of
 * the fast kernels.
 */
#include "cpu/kernels.h"

#include <string.h>

enum { CHUNK = HT_QK_K }; /* weights dequantised at a time: the longest block */

/* Weights w[k0, k0 + len) against one column. Quantised x: integers times exact weights, scaled a block at a time. */
static double chunk_dot(const float *w, const void *x, bool quantised, int64_t k0, int64_t len, int64_t cols)
{
    double sum = 0;
    if (!quantised) {
        const float *f = (const float *)x + k0;
        for (int64_t i = 0; i < len; i++)
            sum += (double)w[i] * f[i];
        return sum;
    }
    const int8_t *q = ht_act_quants(x) + k0;
    const float *d = ht_act_scales(x, cols) + k0 / HT_QK;
    for (int64_t b = 0; b < len / HT_QK; b++) {
        double block = 0;
        for (int64_t i = b * HT_QK; i < (b + 1) * HT_QK; i++)
            block += (double)w[i] * q[i];
        sum += block * d[b];
    }
    return sum;
}

static void dot(ht_type type, bool quantised, float *y, int64_t y_stride, const void *w, size_t row_bytes,
                int64_t rows, const void *x, size_t x_bytes, int64_t n, int64_t cols)
{
    const ht_type_info *info = ht_type_get(type);
    float chunk[CHUNK];
    for (int64_t r = 0; r < rows; r++) {
        const char *row = (const char *)w + (size_t)r * row_bytes;
        double sum[HT_DECODE_COLUMNS] = {0};
        for (int64_t k = 0; k < cols; k += CHUNK) {
            int64_t len = cols - k < CHUNK ? cols - k : CHUNK;
            info->dequantize(row + ht_row_bytes(info, k), chunk, len);
            for (int64_t c = 0; c < n; c++)
                sum[c] += chunk_dot(chunk, (const char *)x + (size_t)c * x_bytes, quantised, k, len, cols);
        }
        for (int64_t c = 0; c < n; c++)
            y[c * y_stride + r] = (float)sum[c];
    }
}

/* The block class: columns are packed one after another, and computed a few at a time as above. */
static size_t column_bytes(bool quantised, int64_t cols)
{
    return quantised ? HT_ACT_ROW_BYTES(cols) : (size_t)cols * sizeof(float);
}

static void pack(bool quantised, void *packed, const void *x, size_t x_bytes, int64_t begin, int64_t end,
                 int64_t cols)
{
    size_t bytes = column_bytes(quantised, cols);
    for (int64_t c = begin; c < end; c++)
        memcpy((char *)packed + (size_t)c * bytes, (const char *)x + (size_t)c * x_bytes, bytes);
}

static void run(ht_type type, bool quantised, float *y, int64_t y_stride, const void *w, size_t row_bytes,
                int64_t rows, const void *packed, int64_t n, int64_t cols)
{
    size_t bytes = column_bytes(quantised, cols);
    for (int64_t c = 0; c < n; c += HT_DECODE_COLUMNS) {
        int64_t some = n - c < HT_DECODE_COLUMNS ? n - c : HT_DECODE_COLUMNS;
        dot(type, quantised, y + c * y_stride, y_stride, w, row_bytes, rows, (const char *)packed + (size_t)c * bytes,
            bytes, some, cols);
    }
}

static size_t packed_bytes_q8(int64_t n, int64_t cols) { return (size_t)n * column_bytes(true, cols); }
static size_t packed_bytes_f32(int64_t n, int64_t cols) { return (size_t)n * column_bytes(false, cols); }
static size_t scratch_bytes(int64_t cols)
{
    (void)cols;
    return 0;
}
static void pack_q8(void *packed, const void *x, size_t x_bytes, int64_t begin, int64_t end, int64_t n, int64_t cols)
{
    (void)n;
    pack(true, packed, x, x_bytes, begin, end, cols);
}
static void pack_f32(void *packed, const void *x, size_t x_bytes, int64_t begin, int64_t end, int64_t n, int64_t cols)
{
    (void)n;
    pack(false, packed, x, x_bytes, begin, end, cols);
}

/* The table's functions carry no type, so each type gets its own. */
#define DOT_AND_RUN(name, type, quantised)                                                                         \
    static void dot_##name(float *y, int64_t y_stride, const void *w, size_t row_bytes, int64_t rows,              \
                           const void *x, size_t x_bytes, int64_t n, int64_t cols)                                 \
    {                                                                                                              \
        dot(type, quantised, y, y_stride, w, row_bytes, rows, x, x_bytes, n, cols);                                \
    }                                                                                                              \
    static void run_##name(float *y, int64_t y_stride, const void *w, size_t row_bytes, int64_t rows,              \
                           const void *packed, int64_t n, int64_t cols, void *scratch)                             \
    {                                                                                                              \
        (void)scratch;                                                                                             \
        run(type, quantised, y, y_stride, w, row_bytes, rows, packed, n, cols);                                    \
    }
#define QUANTISED(name, type) DOT_AND_RUN(name##_q8, type, true) DOT_AND_RUN(name##_f32, type, false)

DOT_AND_RUN(f32, HT_F32, false)
DOT_AND_RUN(f16, HT_F16, false)
DOT_AND_RUN(bf16, HT_BF16, false)
QUANTISED(q4_0, HT_Q4_0)
QUANTISED(q4_1, HT_Q4_1)
QUANTISED(q5_0, HT_Q5_0)
QUANTISED(q5_1, HT_Q5_1)
QUANTISED(q8_0, HT_Q8_0)
QUANTISED(q2_k, HT_Q2_K)
QUANTISED(q3_k, HT_Q3_K)
QUANTISED(q4_k, HT_Q4_K)
QUANTISED(q5_k, HT_Q5_K)
QUANTISED(q6_k, HT_Q6_K)
QUANTISED(iq4_nl, HT_IQ4_NL)
QUANTISED(iq4_xs, HT_IQ4_XS)

static const struct { ht_dot_fn *dot[2]; void (*run[2])(float *, int64_t, const void *, size_t, int64_t, const void *,
                                                        int64_t, int64_t, void *); } by_type[HT_TYPE_COUNT] = {
#define SAME(name) {{dot_##name, dot_##name}, {run_##name, run_##name}}
#define BOTH(name) {{dot_##name##_q8, dot_##name##_f32}, {run_##name##_q8, run_##name##_f32}}
    [HT_F32] = SAME(f32), [HT_F16] = SAME(f16), [HT_BF16] = SAME(bf16),
    [HT_Q4_0] = BOTH(q4_0), [HT_Q4_1] = BOTH(q4_1), [HT_Q5_0] = BOTH(q5_0), [HT_Q5_1] = BOTH(q5_1),
    [HT_Q8_0] = BOTH(q8_0), [HT_Q2_K] = BOTH(q2_k), [HT_Q3_K] = BOTH(q3_k), [HT_Q4_K] = BOTH(q4_k),
    [HT_Q5_K] = BOTH(q5_k), [HT_Q6_K] = BOTH(q6_k), [HT_IQ4_NL] = BOTH(iq4_nl), [HT_IQ4_XS] = BOTH(iq4_xs),
};

void ht_kernels_dot_ref(ht_kernels *k)
{
    for (int type = 0; type < HT_TYPE_COUNT; type++) {
        const ht_type_info *info = ht_type_get((uint32_t)type);
        if (!by_type[type].dot[0] || !info)
            continue;
        bool is_float = info->block_len == 1;
        for (int mode = 0; mode < 2; mode++) {
            bool quantised = mode == 0 && !is_float;
            k->dot[type][mode] = by_type[type].dot[mode];
            k->matmul[type][mode] = (ht_matmul){
                .packed_bytes = quantised ? packed_bytes_q8 : packed_bytes_f32,
                .scratch_bytes = scratch_bytes,
                .pack = quantised ? pack_q8 : pack_f32,
                .run = by_type[type].run[mode],
                .row_tile = 1,
                .column_tile = 1,
                .decode_bits = true,
            };
        }
        k->expand[type] = info->dequantize;
    }
    k->act_quantize = ht_act_quantize;
}
