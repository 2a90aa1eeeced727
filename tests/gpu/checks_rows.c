/* Checks of the kernels that work on columns: norms, quantising, embedding, gathering, the sparse FFN. */
#include "tests/gpu/checks.h"

#include "core/base/memory.h"
#include "core/model/types.h"

#include <math.h>
#include <string.h>

const gpu_check gpu_checks[] = {
    {"norm", check_norm},
    {"quantize", check_quantize},
    {"matvec", check_matvec},
    {"matvec columns", check_matvec_columns},
    {"fused norm", check_fused},
    {"planar rows", check_planar},
    {"glu", check_glu},
    {"matmat", check_matmat},
    {"matmat columns", check_matmat_columns},
    {"embed", check_embed},
    {"simple", check_simple},
    {"rope append", check_rope_append},
    {"attention", check_attention},
    {"attention block", check_attention_block},
    {"sparse", check_sparse},
};
const int n_gpu_checks = sizeof gpu_checks / sizeof *gpu_checks;

static bool launched(gpu_rig *rig, int code, const char *kernel)
{
    ht_error err = {0};

    if (rig->gpu->device.ops->launched(&rig->gpu->device, code, kernel, &err) < 0) return gpu_failed(rig, "%s", err.text);
    return gpu_synced(rig);
}

/* ---- norms ----------------------------------------------------------------------------------------------- */

static void norm_in_double(const float *x, double *y, int32_t n, int kind, double eps, const float *gain,
                           const float *bias)
{
    double mean = 0, sum = 0;

    for (int32_t i = 0; kind == HT_K_NORM_LAYER && i < n; i++) mean += x[i] / (double)n;
    for (int32_t i = 0; i < n; i++) sum += (x[i] - mean) * (x[i] - mean);
    double factor = kind == HT_K_NORM_NONE ? 1 : 1 / sqrt(sum / n + eps);
    for (int32_t i = 0; i < n; i++) y[i] = (x[i] - mean) * factor * (gain ? gain[i] : 1) + (bias ? bias[i] : 0);
}

static bool one_norm(gpu_rig *rig, int32_t n, int32_t cols, int kind, bool gain, bool bias)
{
    size_t total = (size_t)n * (size_t)cols;
    bool q8 = cols % 32 == 0;
    float *x = gpu_floats(rig, total, -3, 5), *g = gpu_floats(rig, (size_t)cols, 0.5f, 1.5f),
          *b = gpu_floats(rig, (size_t)cols, -1, 1), *y = gpu_array(rig, total * 4),
          *scale = gpu_array(rig, (size_t)n * 4);
    uint8_t *rows = gpu_array(rig, (size_t)n * HT_K_ACT_STRIDE(cols));
    ht_half *halves = gpu_array(rig, (size_t)n * HT_K_HALF_STRIDE(cols));
    ht_k_norm k = {
        .x = gpu_twin(rig, x), .n = n, .cols = cols,
        .norm = {gain ? gpu_twin(rig, g) : NULL, bias ? gpu_twin(rig, b) : NULL, kind, 1e-5f},
        .f32 = gpu_twin(rig, y), .q8 = q8 ? gpu_twin(rig, rows) : NULL,
        .f16 = gpu_twin(rig, halves), .f16_scale = gpu_twin(rig, scale),
    };
    double *want = ht_alloc((size_t)cols, sizeof *want);
    uint8_t *row = ht_alloc(1, HT_ACT_ROW_BYTES(cols) + 8);
    size_t padded = HT_K_HALF_STRIDE(cols) / 2;
    bool ok = launched(rig, rig->gpu->kernels.norm(&k, rig->stream), "norm");

    gpu_pull(rig, y), gpu_pull(rig, rows), gpu_pull(rig, halves), gpu_pull(rig, scale);
    for (int32_t c = 0; c < n && ok; c++) {
        const float *yc = y + (size_t)c * (size_t)cols;
        norm_in_double(x + (size_t)c * (size_t)cols, want, cols, kind, 1e-5, gain ? g : NULL, bias ? b : NULL);
        ok = gpu_close(rig, "norm", yc, want, (size_t)cols, 2e-6, 2e-6);
        if (ok && q8) {
            ht_act_quantize(yc, row, cols);
            if (memcmp(row, rows + (size_t)c * HT_K_ACT_STRIDE(cols), HT_ACT_ROW_BYTES(cols)))
                ok = gpu_failed(rig, "norm: quantised column %d of %d elements differs", c, cols);
        }
        for (size_t i = 0; i < padded && ok; i++) {
            float h = ht_half_to_float(halves[(size_t)c * padded + i]) * scale[c], v = i < (size_t)cols ? yc[i] : 0;
            if (!(fabsf(h - v) <= 0x1p-11f * fabsf(v) + 1e-6f))
                ok = gpu_failed(rig, "norm: F16 element %zu of column %d is %g, expected %g", i, c, (double)h, (double)v);
        }
    }
    /* Added to what is there: normed once more on top of itself. */
    float *before = ht_alloc(total, 4);
    memcpy(before, y, total * 4);
    ht_k_norm added = {.x = k.x, .n = n, .cols = cols, .norm = k.norm, .add = 1, .f32 = k.f32};
    ok = ok && launched(rig, rig->gpu->kernels.norm(&added, rig->stream), "norm");
    gpu_pull(rig, y);
    for (size_t i = 0; i < total && ok; i++)
        if (y[i] != 2 * before[i]) ok = gpu_failed(rig, "norm with add: element %zu", i);
    ht_free(before);
    ht_free(want);
    ht_free(row);
    gpu_rig_reset(rig);
    return ok;
}

bool check_norm(gpu_rig *rig)
{
    return one_norm(rig, 3, 576, HT_K_NORM_RMS, true, false) && one_norm(rig, 1, 32, HT_K_NORM_RMS, false, false) &&
           one_norm(rig, 2, 1056, HT_K_NORM_LAYER, true, true) && one_norm(rig, 5, 75, HT_K_NORM_LAYER, true, false) &&
           one_norm(rig, 2, 96, HT_K_NORM_NONE, false, false);
}

/* A block with a NaN or an infinity is NaN with quants 0, as ht_act_quantize has it; its neighbours are not touched. */
static bool check_not_finite(gpu_rig *rig)
{
    enum { BLOCKS = 6, COLS = 32 * BLOCKS };
    const float bad[BLOCKS] = {NAN, 1, INFINITY, -INFINITY, 0, -NAN};
    float *x = gpu_floats(rig, COLS, -1, 1);
    uint8_t *rows = gpu_array(rig, HT_K_ACT_STRIDE(COLS)), want[HT_ACT_ROW_BYTES(COLS)];

    for (int b = 0; b < BLOCKS; b++) x[32 * b + 5 * b + 1] = bad[b];
    for (int i = 0; i < 32; i++) x[5 * 32 + i] = NAN; /* all of one */
    gpu_push(rig, x);
    ht_k_norm k = {.x = gpu_twin(rig, x), .n = 1, .cols = COLS, .norm.kind = HT_K_NORM_NONE, .q8 = gpu_twin(rig, rows)};
    bool ok = launched(rig, rig->gpu->kernels.norm(&k, rig->stream), "norm");
    gpu_pull(rig, rows);
    ht_act_quantize(x, want, COLS);
    if (memcmp(rows, want, COLS)) return gpu_failed(rig, "quantize: the quants beside a NaN differ");
    for (size_t i = 0; i < 2 * BLOCKS && ok; i++) { /* scales, then sums; NaNs have many bits */
        float got, right;
        memcpy(&got, rows + COLS + 4 * i, 4), memcpy(&right, want + COLS + 4 * i, 4);
        if (!(got == right || (isnan(got) && isnan(right))))
            ok = gpu_failed(rig, "quantize: scale or sum %zu is %g, expected %g", i, (double)got, (double)right);
    }
    gpu_rig_reset(rig);
    return ok;
}

/* Extremes: zeros, denormals, ties of rounding, large values, columns of one magnitude. */
bool check_quantize(gpu_rig *rig)
{
    enum { COLS = 32 * 8 };
    float *x = gpu_floats(rig, COLS, -1, 1), *scale = gpu_array(rig, 4);
    uint8_t *rows = gpu_array(rig, HT_K_ACT_STRIDE(COLS)), want[HT_ACT_ROW_BYTES(COLS)];
    ht_half *halves = gpu_array(rig, HT_K_HALF_STRIDE(COLS));

    for (int i = 0; i < 32; i++) {
        x[i] = 0;
        x[32 + i] = 1e-42f * (float)i;
        x[64 + i] = (float)i * 0.5f + 0.5f; /* ties */
        x[64] = 127;
        x[96 + i] = i % 2 ? 3e37f : -3e37f;
        x[128 + i] = i % 2 ? 1 : -1;
        x[160 + i] = i == 7 ? 1e-29f : 0;
    }
    gpu_push(rig, x);
    ht_k_norm k = {.x = gpu_twin(rig, x), .n = 1, .cols = COLS, .norm.kind = HT_K_NORM_NONE, .q8 = gpu_twin(rig, rows),
                   .f16 = gpu_twin(rig, halves), .f16_scale = gpu_twin(rig, scale)};
    bool ok = launched(rig, rig->gpu->kernels.norm(&k, rig->stream), "norm");
    gpu_pull(rig, rows), gpu_pull(rig, halves), gpu_pull(rig, scale);
    ht_act_quantize(x, want, COLS);
    for (size_t i = 0; i < sizeof want && ok; i++)
        if (want[i] != rows[i]) ok = gpu_failed(rig, "quantize: byte %zu is %d, expected %d", i, rows[i], want[i]);
    for (int i = 96; i < 128 && ok; i++) /* the largest survive the trip through F16 */
        if (!(fabsf(ht_half_to_float(halves[i]) * scale[0] / x[i] - 1) < 1e-3f))
            ok = gpu_failed(rig, "quantize: F16 of %g is %g", (double)x[i], (double)(ht_half_to_float(halves[i]) * scale[0]));
    gpu_rig_reset(rig);
    return ok && check_not_finite(rig);
}

/* ---- embedding, gathering, top k ------------------------------------------------------------------------ */

bool check_embed(gpu_rig *rig)
{
    for (int type = 0; type < HT_TYPE_COUNT; type++) {
        const ht_type_info *t = ht_type_get((uint32_t)type);
        enum { ROWS = 11, COLS = 512, N = 3 };
        if (!t) continue;
        uint8_t *w = gpu_weights(rig, (ht_type)type, ROWS, COLS);
        int32_t *token = gpu_array(rig, N * 4);
        float *x = gpu_array(rig, N * COLS * 4), row[COLS];
        for (int c = 0; c < N; c++) token[c] = (int32_t)gpu_random(rig, ROWS);
        gpu_push(rig, token);
        ht_k_embed k = {.type = (ht_type)type, .table = gpu_twin(rig, w), .row_bytes = (int64_t)ht_row_bytes(t, COLS),
                        .token = gpu_twin(rig, token), .n = N, .cols = COLS, .scale = 1.5f, .x = gpu_twin(rig, x)};
        bool ok = launched(rig, rig->gpu->kernels.embed(&k, rig->stream), "embed");
        gpu_pull(rig, x);
        for (int c = 0; c < N && ok; c++) {
            double want[COLS];
            t->dequantize(w + (size_t)token[c] * ht_row_bytes(t, COLS), row, COLS);
            for (int i = 0; i < COLS; i++) want[i] = 1.5 * row[i];
            ok = gpu_close(rig, t->name, x + c * COLS, want, COLS, 1e-6, 1e-6);
        }
        gpu_rig_reset(rig);
        if (!ok) return false;
    }
    return true;
}

bool check_simple(gpu_rig *rig)
{
    enum { N = 5, COLS = 1000, K = 7 };
    float *x = gpu_floats(rig, N * COLS, -1, 1), *y = gpu_array(rig, 2 * COLS * 4);
    int32_t *columns = gpu_array(rig, 8), *best = gpu_array(rig, N * K * 4);
    float *values = gpu_array(rig, N * K * 4);
    bool ok;

    columns[0] = 4, columns[1] = 1;
    gpu_push(rig, columns);
    ht_k_gather gather = {.dst = gpu_twin(rig, y), .src = gpu_twin(rig, x), .columns = gpu_twin(rig, columns), .m = 2,
                          .cols = COLS};
    ok = launched(rig, rig->gpu->kernels.gather(&gather, rig->stream), "gather");
    gpu_pull(rig, y);
    if (ok && (memcmp(y, x + 4 * COLS, COLS * 4) || memcmp(y + COLS, x + COLS, COLS * 4)))
        ok = gpu_failed(rig, "gather: wrong columns");

    x[COLS + 17] = x[COLS + 900] = 2;           /* the first of equals */
    x[2 * COLS] = NAN, x[2 * COLS + 999] = 3;   /* NaN never wins */
    gpu_push(rig, x);
    ht_k_top top = {.x = gpu_twin(rig, x), .n = N, .cols = COLS, .k = K, .index = gpu_twin(rig, best),
                    .value = gpu_twin(rig, values)};
    ok = ok && launched(rig, rig->gpu->kernels.top(&top, rig->stream), "top");
    gpu_pull(rig, best), gpu_pull(rig, values);
    for (int c = 0; c < N && ok; c++) {
        char taken[COLS] = {0};
        for (int k = 0; k < K && ok; k++) {
            int want = -1;
            for (int i = 0; i < COLS; i++)
                if (!taken[i] && !isnan(x[c * COLS + i]) && (want < 0 || x[c * COLS + i] > x[c * COLS + want])) want = i;
            taken[want] = 1;
            if (best[c * K + k] != want || values[c * K + k] != x[c * COLS + want])
                ok = gpu_failed(rig, "top: column %d gives %d at place %d, expected %d", c, best[c * K + k], k, want);
        }
    }

    ht_device_info info;
    rig->gpu->device.ops->info(&rig->gpu->device, &info);
    float *sums = gpu_array(rig, 2 * 256 * 4);
    ht_k_probe probe = {.blocks = 2, .turns = 2, .out = gpu_twin(rig, sums)};
    ok = ok && (!info.tensor_cores || launched(rig, rig->gpu->kernels.probe(&probe, rig->stream), "probe"));
    gpu_pull(rig, sums);
    for (int i = 0; i < 512 && ok && info.tensor_cores; i++)
        if (sums[i] != 2 * 512) ok = gpu_failed(rig, "probe: element %d is %g", i, (double)sums[i]);

    ht_k_activate act = {.g = gpu_twin(rig, x), .u = gpu_twin(rig, y), .h = gpu_twin(rig, x), .n = COLS,
                         .activation = HT_K_SILU};
    float before[COLS];
    memcpy(before, x, sizeof before);
    ok = ok && launched(rig, rig->gpu->kernels.activate(&act, rig->stream), "activate");
    gpu_pull(rig, x);
    double want[COLS];
    for (int i = 0; i < COLS; i++) want[i] = before[i] / (1 + exp(-(double)before[i])) * y[i];
    ok = ok && gpu_close(rig, "activate", x, want, COLS, 1e-7, 1e-6);
    gpu_rig_reset(rig);
    return ok;
}

/* ---- sparse FFN ------------------------------------------------------------------------------------------ */

/* Neurons [first, first + f) of a layer, gated or not; x (d), and the payload's type for up and down alike. */
static bool one_sparse(gpu_rig *rig, ht_type type, int32_t first, int32_t f, int32_t cols, float density, int gated)
{
    const ht_type_info *t = ht_type_get(type);
    size_t row_bytes = ht_row_bytes(t, cols), groups = (size_t)HT_K_GROUPS(first, f);
    float *h = gpu_floats(rig, (size_t)f, -1, 1), *x = gpu_floats(rig, (size_t)cols, -1, 1),
          *in = gpu_floats(rig, (size_t)cols, -1, 1), *bias = gpu_floats(rig, (size_t)f, -1, 1),
          *partial = gpu_array(rig, groups * (size_t)cols * 4), *row = ht_alloc((size_t)cols, 4);
    uint8_t *w = gpu_weights(rig, type, 2 * (int64_t)f, cols); /* up and down rows of a neuron side by side */
    int32_t *list = gpu_array(rig, (size_t)f * 4), *n = gpu_array(rig, 4), expected = 0;
    double *want = ht_alloc((size_t)cols, sizeof *want);
    float threshold = 0.25f;
    bool ok, q8 = t->block_len > 1 && gated == 2;

    for (int32_t i = 0; i < f; i++)
        if (gpu_uniform(rig, 0, 1) >= density) h[i] = i % 2 ? 0 : -threshold; /* on the threshold is not above it */
    gpu_push(rig, h);
    ht_k_active active = {.h = gpu_twin(rig, h), .f = f, .threshold = threshold, .list = gpu_twin(rig, list),
                          .n_active = gpu_twin(rig, n)};
    ht_k_up up = {.type = type, .f = f, .row_bytes = 2 * (int64_t)row_bytes, .up = gpu_twin(rig, w),
                  .bias = gpu_twin(rig, bias), .list = active.list, .n_active = active.n_active, .h = gpu_twin(rig, h),
                  .x = {.x = gpu_twin(rig, in), .bytes = 4 * (int64_t)cols, .cols = cols, .n = 1, .q8 = q8, .fused = q8,
                        .norm.kind = HT_K_NORM_NONE, .blocks = 3}};
    ht_k_axpy axpy = {.type = type, .f = f, .cols = cols, .first = first, .row_bytes = 2 * (int64_t)row_bytes,
                      .down = (char *)gpu_twin(rig, w) + row_bytes, .h = active.h, .list = active.list,
                      .n_active = active.n_active, .partial = gpu_twin(rig, partial), .x = gpu_twin(rig, x)};
    for (int32_t i = 0; i < cols; i++) want[i] = x[i];
    ok = launched(rig, rig->gpu->kernels.active(&active, rig->stream), "active") &&
         (!gated || launched(rig, rig->gpu->kernels.up(&up, rig->stream), "up")) &&
         launched(rig, rig->gpu->kernels.axpy(&axpy, rig->stream), "axpy");
    gpu_pull(rig, list), gpu_pull(rig, n), gpu_pull(rig, x);
    double size = 0; /* of what is summed: errors are relative to it */
    if (q8) { /* what the kernel multiplies */
        uint8_t *a = ht_alloc(1, HT_ACT_ROW_BYTES(cols));
        ht_act_quantize(in, a, cols);
        for (int32_t c = 0; c < cols; c++) in[c] = ht_act_scales(a, cols)[c / 32] * (float)ht_act_quants(a)[c];
        ht_free(a);
    }
    for (int32_t i = 0; i < f && ok; i++) {
        double a = h[i];
        if (!(fabsf(h[i]) > threshold)) continue;
        if (list[expected++] != i) ok = gpu_failed(rig, "active list: place %d holds %d, not %d", expected - 1,
                                                   list[expected - 1], i);
        double terms = fabs(a);
        if (gated) {
            double u = bias[i], us = fabs(u);
            t->dequantize(w + 2 * (size_t)i * row_bytes, row, cols);
            for (int32_t c = 0; c < cols; c++) u += (double)in[c] * row[c], us += fabs((double)in[c] * row[c]);
            a *= u, terms *= us;
        }
        t->dequantize(w + (2 * (size_t)i + 1) * row_bytes, row, cols);
        for (int32_t c = 0; c < cols; c++) want[c] += a * row[c], size += terms * fabs(row[c]) / cols;
    }
    if (ok && *n != expected) ok = gpu_failed(rig, "active list: %d neurons, expected %d", *n, expected);
    ok = ok && gpu_close(rig, t->name, x, want, (size_t)cols, 1e-6 + 2e-5 * size, 0);
    ht_free(row);
    ht_free(want);
    gpu_rig_reset(rig);
    return ok;
}

bool check_sparse(gpu_rig *rig)
{
    for (int type = 0; type < HT_TYPE_COUNT; type++)
        if (ht_type_get((uint32_t)type) && !one_sparse(rig, (ht_type)type, 0, 300, 256, 0.3f, type % 3)) return false;
    return one_sparse(rig, HT_Q4_0, 200, 2600, 96, 0.1f, 0) && one_sparse(rig, HT_Q8_0, 0, 70, 64, 0, 1) &&
           one_sparse(rig, HT_F16, 255, 1025, 75, 1, 1) && one_sparse(rig, HT_Q4_1, 31, 40, 64, 0.5f, 2);
}
