/* The block class in 16-bit fixed point in plain C: the arithmetic of fixed.h as it is defined. What it is worth beside exact
 * sums is checked in tests/cpu; every faster level gives its bits.
 *
 * A packed column is a row of scales, one a group, then a row of integers; columns past the end are zeros.
 */
#include "core/base/arith.h"
#include "cpu/fixed.h"
#include "cpu/kernels.h"

#include <string.h>

static size_t column_bytes(int64_t cols)
{
    return (size_t)ht_ceil_div(cols, FIXED_GROUP) * (sizeof(float) + FIXED_GROUP * sizeof(int16_t));
}

/* One group of `len` values to q; its scale. */
static float round_group(const float *v, int64_t len, int16_t *q)
{
    float max = 0;
    for (int64_t i = 0; i < len; i++)
        max = isnan(v[i]) || fabsf(v[i]) > max ? fabsf(v[i]) : max; /* which stays a NaN */
    fixed_scale s = fixed_scale_of(max);
    for (int64_t i = 0; i < len; i++)
        q[i] = isfinite(v[i]) ? (int16_t)(fmaf(v[i], s.inverse, FIXED_MAGIC) - FIXED_MAGIC) : 0;
    return s.d;
}

static size_t packed_bytes(int64_t n, int64_t cols) { return (size_t)n * column_bytes(cols); }
static size_t scratch_bytes(int64_t cols)
{
    (void)cols;
    return 0;
}

static void pack(void *packed, const void *x, size_t x_bytes, int64_t begin, int64_t end, int64_t n, int64_t cols)
{
    const int64_t groups = ht_ceil_div(cols, FIXED_GROUP);
    (void)n;
    for (int64_t c = begin; c < end; c++) {
        float *d = (float *)(void *)((char *)packed + (size_t)c * column_bytes(cols));
        int16_t *q = (int16_t *)(void *)(d + groups);
        const float *v = (const float *)(const void *)((const char *)x + (size_t)c * x_bytes);
        memset(q, 0, (size_t)groups * FIXED_GROUP * sizeof(*q));
        for (int64_t g = 0; g < groups; g++) {
            int64_t k = g * FIXED_GROUP;
            d[g] = round_group(v + k, cols - k < FIXED_GROUP ? cols - k : FIXED_GROUP, q + k);
        }
    }
}

static void run(ht_type type, float *y, int64_t y_stride, const void *w, size_t row_bytes, int64_t rows, const void *packed,
                int64_t n, int64_t cols)
{
    const ht_type_info *info = ht_type_get(type);
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t k = 0; k < cols; k += FIXED_PANEL) {
            int64_t len = cols - k < FIXED_PANEL ? cols - k : FIXED_PANEL;
            float panel[FIXED_PANEL];
            int16_t q[FIXED_PANEL] = {0};
            info->dequantize((const char *)w + (size_t)r * row_bytes + ht_row_bytes(info, k), panel, len);
            float d_w = round_group(panel, len, q);
            for (int64_t c = 0; c < n; c++) {
                const float *d = (const float *)(const void *)((const char *)packed + (size_t)c * column_bytes(cols));
                const int16_t *x = (const int16_t *)(const void *)(d + ht_ceil_div(cols, FIXED_GROUP)) + k;
                float acc = 0, *out = y + c * y_stride + r;
                for (int64_t g = 0; g < ht_ceil_div(len, FIXED_GROUP); g++) {
                    int32_t sum = 0;
                    for (int64_t i = g * FIXED_GROUP; i < (g + 1) * FIXED_GROUP; i++)
                        sum += q[i] * x[i];
                    acc = fmaf((float)sum, d[k / FIXED_GROUP + g], acc);
                }
                *out = fmaf(acc, d_w, k == 0 ? 0 : *out);
            }
        }
    }
}

#define RUN(name, type)                                                                                            \
    static void run_##name(float *y, int64_t y_stride, const void *w, size_t row_bytes, int64_t rows,              \
                           const void *packed, int64_t n, int64_t cols, void *scratch)                             \
    {                                                                                                              \
        (void)scratch;                                                                                             \
        run(type, y, y_stride, w, row_bytes, rows, packed, n, cols);                                               \
    }
RUN(f16, HT_F16)
RUN(bf16, HT_BF16)

void ht_kernels_matmul_fixed_ref(ht_kernels *k)
{
    ht_matmul m = {packed_bytes, scratch_bytes, pack, run_f16, NULL, 1, 1, false};
    k->matmul[HT_F16][0] = m;
    m.run = run_bf16;
    k->matmul[HT_BF16][0] = m;
}
