/* Checks of the matrix kernels: all types, odd shapes, both forms of activations. */
#include "tests/gpu/checks.h"

#include "core/base/math.h"
#include "core/base/memory.h"
#include "core/model/types.h"

#include <math.h>
#include <string.h>

static const ht_type types[] = {HT_F32,  HT_F16,  HT_BF16, HT_Q8_0, HT_Q4_0, HT_Q4_1,  HT_Q5_0,  HT_Q5_1,
                                HT_Q2_K, HT_Q3_K, HT_Q4_K, HT_Q5_K, HT_Q6_K, HT_IQ4_NL, HT_IQ4_XS};
enum { N_TYPES = sizeof types / sizeof *types };

/* A matrix and columns, with what the product must be. */
typedef struct problem {
    ht_type type;
    int32_t rows, cols, n;
    void *w;
    float *x;           /* (n, cols) */
    uint8_t *q8;        /* activation rows */
    float *y, *bias;
    double *want;       /* (n, rows), of x or of what q8 stands for */
    double *size;       /* sum of |terms|: what errors are relative to */
} problem;

static bool is_float(ht_type t) { return t == HT_F32 || t == HT_F16 || t == HT_BF16; }

static void multiply(gpu_rig *rig, problem *p, bool q8, bool half)
{
    const ht_type_info *t = ht_type_get(p->type);
    float *row = ht_alloc((size_t)p->cols, sizeof *row);

    for (int32_t r = 0; r < p->rows; r++) {
        t->dequantize((char *)p->w + (size_t)r * ht_row_bytes(t, p->cols), row, p->cols);
        for (int32_t c = 0; c < p->n; c++) {
            double sum = p->bias ? p->bias[r] : 0, size = fabs(sum);
            const uint8_t *a = p->q8 + (size_t)c * HT_K_ACT_STRIDE(p->cols);
            for (int32_t k = 0; k < p->cols; k++) {
                double x = q8 ? (double)ht_act_scales(a, p->cols)[k / 32] * ht_act_quants(a)[k]
                              : p->x[(size_t)c * (size_t)p->cols + (size_t)k];
                sum += x * row[k];
                size += fabs(x * row[k]);
            }
            p->want[(size_t)c * (size_t)p->rows + (size_t)r] = sum;
            p->size[(size_t)c * (size_t)p->rows + (size_t)r] = size;
        }
    }
    (void)rig, (void)half;
    ht_free(row);
}

static void make(gpu_rig *rig, problem *p, ht_type type, int32_t rows, int32_t cols, int32_t n, bool q8)
{
    size_t out = (size_t)n * (size_t)rows;

    *p = (problem){.type = type, .rows = rows, .cols = cols, .n = n};
    p->w = gpu_weights(rig, type, rows, cols);
    p->x = gpu_floats(rig, (size_t)n * (size_t)cols, -2, 2);
    p->q8 = gpu_array(rig, (size_t)n * HT_K_ACT_STRIDE(cols));
    for (int32_t c = 0; c < n && cols % 32 == 0; c++)
        ht_act_quantize(p->x + (size_t)c * (size_t)cols, p->q8 + (size_t)c * HT_K_ACT_STRIDE(cols), cols);
    gpu_push(rig, p->q8);
    p->y = gpu_floats(rig, out, -1, 1);
    p->bias = gpu_floats(rig, (size_t)rows, -1, 1);
    p->want = ht_alloc(out, sizeof(double));
    p->size = ht_alloc(out, sizeof(double));
    multiply(rig, p, q8, false);
}

static void drop(gpu_rig *rig, problem *p)
{
    ht_free(p->want);
    ht_free(p->size);
    gpu_rig_reset(rig);
}

/* Errors are relative to the sum of the terms' magnitudes. */
static bool right(gpu_rig *rig, const problem *p, const char *what, double relative)
{
    for (size_t i = 0; i < (size_t)p->n * (size_t)p->rows; i++)
        if (!(fabs(p->y[i] - p->want[i]) <= relative * (p->size[i] + 1e-6)))
            return gpu_failed(rig, "%s %s (%d, %d) x %d: row %zu of column %zu is %.9g, expected %.9g (terms %.3g, "
                              "seed %llu)", what, ht_type_get(p->type)->name, p->rows, p->cols, p->n,
                              i % (size_t)p->rows, i / (size_t)p->rows, (double)p->y[i], p->want[i], p->size[i],
                              (unsigned long long)rig->seed);
    return true;
}

static ht_k_rows rows_of(gpu_rig *rig, const problem *p)
{
    return (ht_k_rows){
        .w = gpu_twin(rig, p->w),
        .row_bytes = (int64_t)ht_row_bytes(ht_type_get(p->type), p->cols),
        .rows = p->rows,
        .bias = gpu_twin(rig, p->bias),
        .y = gpu_twin(rig, p->y),
    };
}

static bool launched(gpu_rig *rig, int code, const char *kernel)
{
    ht_error err = {0};

    if (rig->gpu->device.ops->launched(&rig->gpu->device, code, kernel, &err) < 0) return gpu_failed(rig, "%s", err.text);
    return gpu_synced(rig);
}

/* The first n columns as they lie in memory. */
static ht_k_columns columns_of(gpu_rig *rig, const problem *p, bool q8, int32_t n)
{
    return (ht_k_columns){
        .x = gpu_twin(rig, q8 ? (void *)p->q8 : (void *)p->x),
        .bytes = q8 ? (int64_t)HT_K_ACT_STRIDE(p->cols) : (int64_t)p->cols * 4,
        .cols = p->cols,
        .n = n,
        .q8 = q8,
    };
}

static bool run_matvec(gpu_rig *rig, const problem *p, bool q8, int add)
{
    ht_k_matvec k = {
        .type = p->type, .n_out = 1, .add = add, .out = {rows_of(rig, p)}, .x = columns_of(rig, p, q8, p->n)};

    if (!launched(rig, rig->gpu->kernels.matvec(&k, rig->stream), "matvec")) return false;
    gpu_pull(rig, p->y);
    return true;
}

bool check_matvec(gpu_rig *rig)
{
    static const int32_t shapes[][3] = {{1, 256, 1}, {9, 512, 2}, {19, 768, 5}, {8, 2304, 8}, {3, 256, 11}};

    for (int t = 0; t < N_TYPES; t++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            for (int q8 = 0; q8 <= !is_float(types[t]); q8++) {
                problem p;
                make(rig, &p, types[t], shapes[s][0], shapes[s][1], shapes[s][2], q8);
                bool ok = run_matvec(rig, &p, q8, 0) && right(rig, &p, q8 ? "matvec q8" : "matvec f32", 2e-6);
                drop(rig, &p);
                if (!ok) return false;
            }
    for (int32_t cols = 32; cols < 200; cols += 32) { /* fewer chunks than lanes; blocks of 32 only */
        problem p;
        make(rig, &p, HT_Q5_1, 5, cols, 3, true);
        bool ok = run_matvec(rig, &p, true, 0) && right(rig, &p, "short matvec", 2e-6);
        drop(rig, &p);
        if (!ok) return false;
    }
    problem p; /* floats have no blocks */
    make(rig, &p, HT_F16, 4, 37, 2, false);
    bool ok = run_matvec(rig, &p, false, 0) && right(rig, &p, "odd matvec", 2e-6);
    drop(rig, &p);
    return ok;
}

/* A column's bits do not depend on how many others there are, nor on its place; add adds; three matrices are three. */
bool check_matvec_columns(gpu_rig *rig)
{
    static const ht_type some[] = {HT_Q4_0, HT_Q6_K, HT_F16, HT_Q2_K};
    for (size_t t = 0; t < sizeof some / sizeof *some; t++) {
        problem p;
        float alone[8][40];
        bool q8 = !is_float(some[t]), ok = true;
        make(rig, &p, some[t], 40, 512, 8, q8);
        ht_k_matvec k = {.type = p.type, .n_out = 1, .out = {rows_of(rig, &p)}, .x = columns_of(rig, &p, q8, 1)};
        const char *first = k.x.x;
        for (int32_t c = 0; c < 8 && ok; c++) {
            k.x.x = first + c * k.x.bytes;
            ok = launched(rig, rig->gpu->kernels.matvec(&k, rig->stream), "matvec");
            gpu_pull(rig, p.y);
            memcpy(alone[c], p.y, sizeof alone[c]);
        }
        for (int32_t n = 2; n <= 8 && ok; n++) {
            k.x.n = n;
            k.x.x = first;
            ok = launched(rig, rig->gpu->kernels.matvec(&k, rig->stream), "matvec");
            gpu_pull(rig, p.y);
            if (ok && memcmp(p.y, alone, (size_t)n * sizeof alone[0]))
                ok = gpu_failed(rig, "matvec %s: the bits of %d columns differ from one at a time",
                                ht_type_get(some[t])->name, n);
        }
        if (ok) { /* y += : twice the product */
            ok = run_matvec(rig, &p, q8, 0) && run_matvec(rig, &p, q8, 1);
            for (size_t i = 0; i < 40 * 8 && ok; i++)
                if (p.y[i] != 2 * alone[i / 40][i % 40]) ok = gpu_failed(rig, "matvec with add: element %zu", i);
        }
        if (ok) { /* three matrices of one launch: parts of the same rows */
            ht_k_rows all = k.out[0];
            k.x.n = 8;
            k.n_out = 3;
            k.out[0].rows = 3, k.out[1] = all, k.out[1].rows = 16, k.out[2] = all, k.out[2].rows = 21;
            k.out[1].w = (char *)(uintptr_t)all.w + 3 * all.row_bytes, k.out[1].bias = all.bias + 3;
            k.out[1].y = all.y + 3 * 8;
            k.out[2].w = (char *)(uintptr_t)all.w + 19 * all.row_bytes, k.out[2].bias = NULL;
            k.out[2].y = all.y + 19 * 8;
            ok = launched(rig, rig->gpu->kernels.matvec(&k, rig->stream), "matvec");
            gpu_pull(rig, p.y);
            for (int32_t c = 0; c < 8 && ok; c++)
                for (int32_t r = 0; r < 40 && ok; r++) {
                    float got = r < 3 ? p.y[c * 3 + r] : r < 19 ? p.y[24 + c * 16 + r - 3] : p.y[19 * 8 + c * 21 + r - 19];
                    float want = alone[c][r];
                    if (r >= 19 ? fabsf(got + p.bias[r] - want) > 1e-4f : got != want)
                        ok = gpu_failed(rig, "three matrices: row %d of column %d", r, c);
                }
        }
        drop(rig, &p);
        if (!ok) return false;
    }
    return true;
}

static double activation(int kind, double x)
{
    switch (kind) {
    case HT_K_SILU: return x / (1 + exp(-x));
    case HT_K_RELU: return x > 0 ? x : 0;
    case HT_K_GELU: return 0.5 * x * erfc(-x / sqrt(2));
    default: return 0.5 * x * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
    }
}

static bool one_glu(gpu_rig *rig, ht_type type, int32_t f, int32_t cols, int32_t n, int kind, bool gated, bool q8)
{
    problem gate, up;
    bool ok;

    make(rig, &gate, type, f, cols, n, q8);
    make(rig, &up, type, f, cols, n, q8);
    memcpy(up.x, gate.x, (size_t)n * (size_t)cols * 4);
    memcpy(up.q8, gate.q8, (size_t)n * HT_K_ACT_STRIDE(cols));
    multiply(rig, &up, q8, false);
    bool out8 = f % 32 == 0;
    uint8_t *h8 = gpu_array(rig, (size_t)n * HT_K_ACT_STRIDE(f));
    ht_k_glu k = {
        .type = type,
        .gate = gated ? gpu_twin(rig, gate.w) : NULL,
        .up = gpu_twin(rig, up.w),
        .row_bytes = (int64_t)ht_row_bytes(ht_type_get(type), cols),
        .f = f,
        .activation = kind,
        .x = columns_of(rig, &gate, q8, n),
        .gate_bias = gpu_twin(rig, gate.bias),
        .up_bias = gpu_twin(rig, up.bias),
        .h = gpu_twin(rig, up.y),
        .h_q8 = out8 ? gpu_twin(rig, h8) : NULL,
    };
    ok = launched(rig, rig->gpu->kernels.glu(&k, rig->stream), "glu");
    gpu_pull(rig, up.y);
    gpu_pull(rig, h8);
    for (size_t i = 0; i < (size_t)n * (size_t)f; i++) {
        double g = gate.want[i], u = up.want[i];
        up.want[i] = gated ? activation(kind, g) * u : activation(kind, u);
        up.size[i] = gated ? (gate.size[i] + 1) * (up.size[i] + 1) : up.size[i] + 1;
    }
    ok = ok && right(rig, &up, "glu", 4e-6);
    for (int32_t c = 0; c < n && ok && out8; c++) { /* h quantised is the reference's bytes of h */
        uint8_t *want = ht_alloc(1, HT_ACT_ROW_BYTES(f));
        ht_act_quantize(up.y + (size_t)c * (size_t)f, want, f);
        if (memcmp(want, h8 + (size_t)c * HT_K_ACT_STRIDE(f), HT_ACT_ROW_BYTES(f)))
            ok = gpu_failed(rig, "glu: quantised column %d differs", c);
        ht_free(want);
    }
    ht_free(gate.want);
    ht_free(gate.size);
    drop(rig, &up);
    return ok;
}

bool check_glu(gpu_rig *rig)
{
    for (int t = 0; t < N_TYPES; t++)
        for (int q8 = 0; q8 <= !is_float(types[t]); q8++)
            if (!one_glu(rig, types[t], 32, 256, 1 + t % 3, t % 4, t % 2 == 0, q8)) return false;
    return one_glu(rig, HT_Q4_0, 45, 96, 9, HT_K_SILU, true, true) &&
           one_glu(rig, HT_Q8_0, 64, 64, 8, HT_K_RELU, false, true);
}

/* The columns as the tensor-core product takes them, made by the kernel under test elsewhere (check_norm). How wide its
 * tiles are depends on `multiprocessors`: 128 columns for none. */
static bool run_matmat(gpu_rig *rig, const problem *p, bool plain, int add, int32_t multiprocessors)
{
    ht_half *x16 = gpu_array(rig, (size_t)p->n * HT_K_HALF_STRIDE(p->cols));
    float *scale = gpu_array(rig, (size_t)p->n * 4);
    ht_k_matmat k = {.type = p->type, .out = rows_of(rig, p), .cols = p->cols, .n = p->n, .add = add,
                     .multiprocessors = multiprocessors};

    if (plain) {
        k.x = gpu_twin(rig, p->x);
    } else {
        ht_k_norm norm = {.x = gpu_twin(rig, p->x), .n = p->n, .cols = p->cols, .norm.kind = HT_K_NORM_NONE,
                          .f16 = gpu_twin(rig, x16), .f16_scale = gpu_twin(rig, scale)};
        if (!launched(rig, rig->gpu->kernels.norm(&norm, rig->stream), "norm")) return false;
        k.x_f16 = gpu_twin(rig, x16);
        k.x_scale = gpu_twin(rig, scale);
    }
    if (!launched(rig, rig->gpu->kernels.matmat(&k, rig->stream), "matmat")) return false;
    gpu_pull(rig, p->y);
    return true;
}

static bool has_tensor_cores(gpu_rig *rig)
{
    ht_device_info info;

    rig->gpu->device.ops->info(&rig->gpu->device, &info);
    return info.tensor_cores;
}

bool check_matmat(gpu_rig *rig)
{
    static const int32_t shapes[][4] = {{1, 256, 1, 1}, {70, 256, 33, 0}, {130, 512, 5, 1}}; /* tiles of 32, 128, 32 columns */

    for (int t = 0; t < N_TYPES; t++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            for (int plain = !has_tensor_cores(rig); plain < 2; plain++) {
                if (s == 2 && t % 4) continue; /* the large one for some types is enough */
                problem p;
                make(rig, &p, types[t], shapes[s][0], shapes[s][1], shapes[s][2], false);
                /* F16 rounds both factors by 2^-11. */
                bool ok = run_matmat(rig, &p, plain, 0, shapes[s][3]) &&
                          right(rig, &p, plain ? "matmat plain" : "matmat mma", plain ? 5e-6 : 8e-4);
                drop(rig, &p);
                if (!ok) return false;
            }
    /* Rows that end within a span of chunks, at no multiple of 16 bytes, within a chunk. */
    static const struct { ht_type type; int32_t cols; } odd[] = {
        {HT_Q8_0, 96}, {HT_Q4_0, 160}, {HT_Q5_0, 32}, {HT_F16, 75}, {HT_F32, 75}};
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        problem p;
        make(rig, &p, odd[i].type, 20, odd[i].cols, 7, false);
        bool ok = run_matmat(rig, &p, true, 0, 1) && right(rig, &p, "matmat odd", 5e-6);
        if (ok && has_tensor_cores(rig)) ok = run_matmat(rig, &p, false, 0, 1) && right(rig, &p, "matmat mma odd", 8e-4);
        drop(rig, &p);
        if (!ok) return false;
    }
    return true;
}

/* Columns are the same however wide tiles are, here 128, 64 and 32; rows do not fill a tile of theirs. */
static bool check_tile_widths(gpu_rig *rig)
{
    static const ht_type some[] = {HT_Q4_0, HT_Q4_K, HT_Q6_K, HT_F16};
    enum { ROWS = 130, COLS = 256, N = 40 };

    for (size_t t = 0; t < sizeof some / sizeof *some; t++) {
        problem p;
        make(rig, &p, some[t], ROWS, COLS, N, false);
        float *wide = ht_alloc(ROWS * N, sizeof *wide);
        bool ok = run_matmat(rig, &p, false, 0, 0);
        memcpy(wide, p.y, ROWS * N * sizeof *wide);
        for (int32_t multiprocessors = 1; multiprocessors <= 2 && ok; multiprocessors++) {
            ok = run_matmat(rig, &p, false, 0, multiprocessors);
            if (ok && memcmp(wide, p.y, ROWS * N * sizeof *wide))
                ok = gpu_failed(rig, "matmat %s: narrower tiles give other bits", ht_type_get(some[t])->name);
        }
        ht_free(wide);
        drop(rig, &p);
        if (!ok) return false;
    }
    return true;
}

bool check_matmat_columns(gpu_rig *rig)
{
    for (int plain = !has_tensor_cores(rig); plain < 2; plain++) {
        problem p;
        make(rig, &p, HT_Q4_K, 33, 256, 40, false);
        bool ok = run_matmat(rig, &p, plain, 0, 0);
        float all[40 * 33];
        memcpy(all, p.y, sizeof all);
        problem one = p;
        one.n = 1;
        for (int32_t c = 0; c < 40 && ok; c += 13) {
            memmove(p.x, p.x + (size_t)c * 256, 256 * 4);
            gpu_push(rig, p.x);
            ok = run_matmat(rig, &one, plain, 0, 1);
            if (ok && memcmp(p.y, all + c * 33, 33 * 4))
                ok = gpu_failed(rig, "matmat %s: column %d alone has other bits", plain ? "plain" : "mma", c);
            ok = ok && run_matmat(rig, &one, plain, 1, 1);
            for (int i = 0; i < 33 && ok; i++)
                if (p.y[i] != 2 * all[c * 33 + i]) ok = gpu_failed(rig, "matmat with add: row %d", i);
        }
        drop(rig, &p);
        if (!ok) return false;
    }
    return !has_tensor_cores(rig) || check_tile_widths(rig);
}

/* A product that norms and quantises its columns itself gives the bits of a norm in a launch before it, in as many blocks
 * as it likes. */
static bool one_fused(gpu_rig *rig, ht_type type, int32_t cols, int32_t n, int kind, bool q8, int64_t blocks)
{
    enum { ROWS = 64 };
    problem p;
    bool ok;

    make(rig, &p, type, ROWS, cols, n, q8);
    float *gain = gpu_floats(rig, (size_t)cols, 0.5f, 1.5f), *bias = gpu_floats(rig, (size_t)cols, -1, 1),
          *normed = gpu_array(rig, (size_t)n * (size_t)cols * 4), *y = gpu_array(rig, (size_t)n * ROWS * 4);
    uint8_t *rows = gpu_array(rig, (size_t)n * HT_K_ACT_STRIDE(cols)), *h8[2];
    ht_k_affine affine = {.kind = kind, .eps = 1e-5f, .gain = kind == HT_K_NORM_NONE ? NULL : gpu_twin(rig, gain),
                          .bias = kind == HT_K_NORM_LAYER ? gpu_twin(rig, bias) : NULL};
    ht_k_norm norm = {.x = gpu_twin(rig, p.x), .n = n, .cols = cols, .norm = affine,
                      .f32 = q8 ? NULL : gpu_twin(rig, normed), .q8 = q8 ? gpu_twin(rig, rows) : NULL};
    ht_k_columns apart = columns_of(rig, &p, q8, n), fused = columns_of(rig, &p, false, n);
    apart.x = gpu_twin(rig, q8 ? (void *)rows : (void *)normed);
    fused.q8 = q8, fused.fused = 1, fused.norm = affine, fused.blocks = blocks;
    ht_k_matvec k = {.type = type, .n_out = 1, .out = {rows_of(rig, &p)}, .x = apart};
    ok = launched(rig, rig->gpu->kernels.norm(&norm, rig->stream), "norm") &&
         launched(rig, rig->gpu->kernels.matvec(&k, rig->stream), "matvec");
    k.x = fused, k.out[0].y = gpu_twin(rig, y);
    ok = ok && launched(rig, rig->gpu->kernels.matvec(&k, rig->stream), "fused matvec");
    gpu_pull(rig, p.y), gpu_pull(rig, y);
    if (ok && memcmp(p.y, y, (size_t)n * ROWS * 4)) ok = gpu_failed(rig, "matvec: a norm of its own gives other bits");

    for (int i = 0; i < 2 && ok; i++) {
        h8[i] = gpu_array(rig, (size_t)n * HT_K_ACT_STRIDE(ROWS));
        ht_k_glu g = {.type = type, .f = ROWS, .activation = HT_K_SILU, .row_bytes = k.out[0].row_bytes,
                      .gate = gpu_twin(rig, p.w), .up = gpu_twin(rig, p.w), .x = i ? fused : apart,
                      .h = gpu_twin(rig, i ? y : p.y), .h_q8 = gpu_twin(rig, h8[i])};
        ok = launched(rig, rig->gpu->kernels.glu(&g, rig->stream), i ? "fused glu" : "glu");
        gpu_pull(rig, h8[i]), gpu_pull(rig, i ? y : p.y);
    }
    if (ok && (memcmp(p.y, y, (size_t)n * ROWS * 4) || memcmp(h8[0], h8[1], (size_t)n * HT_K_ACT_STRIDE(ROWS))))
        ok = gpu_failed(rig, "glu: a norm of its own gives other bits");
    drop(rig, &p);
    return ok;
}

bool check_fused(gpu_rig *rig)
{
    return one_fused(rig, HT_Q4_0, 576, 1, HT_K_NORM_RMS, true, 2) &&
           one_fused(rig, HT_Q6_K, 512, 5, HT_K_NORM_LAYER, true, 0) &&
           one_fused(rig, HT_Q8_0, 96, 10, HT_K_NORM_NONE, true, 1) &&
           one_fused(rig, HT_F16, 75, 2, HT_K_NORM_RMS, false, 3) &&
           one_fused(rig, HT_Q4_K, 256, 8, HT_K_NORM_RMS, false, 5);
}

/* Planar rows give the bits of the interleaved ones. */
bool check_planar(gpu_rig *rig)
{
    static const ht_type some[] = {HT_Q4_0, HT_Q8_0};

    for (int t = 0; t < 2; t++)
        for (int32_t n = 1; n <= 7; n += 3) {
            enum { ROWS = 21, COLS = 512, CHUNKS = COLS / 32 };
            problem p;
            make(rig, &p, some[t], ROWS, COLS, n, true);
            size_t quants = some[t] == HT_Q4_0 ? 16 : 32, block = quants + 2, row = block * CHUNKS;
            uint8_t *planar = gpu_array(rig, ROWS * row);
            for (size_t r = 0; r < ROWS; r++)
                for (size_t c = 0; c < CHUNKS; c++) {
                    const uint8_t *from = (uint8_t *)p.w + r * row + c * block;
                    memcpy(planar + r * row + c * quants, from + 2, quants);
                    memcpy(planar + r * row + CHUNKS * quants + 2 * c, from, 2);
                }
            gpu_push(rig, planar);
            float *y = gpu_array(rig, (size_t)n * ROWS * 4);
            ht_k_matvec k = {.type = some[t], .n_out = 1, .out = {rows_of(rig, &p)}, .x = columns_of(rig, &p, true, n)};
            k.out[0].bias = NULL;
            bool ok = launched(rig, rig->gpu->kernels.matvec(&k, rig->stream), "matvec");
            k.out[0].w = gpu_twin(rig, planar);
            k.out[0].y = gpu_twin(rig, y);
            ok = ok && launched(rig, rig->gpu->kernels.matvec_planar(&k, rig->stream), "matvec_planar");
            gpu_pull(rig, p.y), gpu_pull(rig, y);
            if (ok && memcmp(y, p.y, (size_t)n * ROWS * 4)) ok = gpu_failed(rig, "planar rows give other bits");
            drop(rig, &p);
            if (!ok) return false;
        }
    return true;
}
