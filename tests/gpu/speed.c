/* The rates of single kernels, at the shapes of a 7B and a 70B model. On the emulated GPU only that they run. */
#include "tests/gpu/gpu_check.h"

#include "core/base/threads.h"
#include "core/model/types.h"

#include <stdio.h>
#include <string.h>

/* Queues one run; 0, or the code of what was not queued. */
typedef int job_fn(session *s, void *job);

/* Seconds of `runs` runs one after another; negative when one of them failed. */
static double time_runs(session *s, job_fn *fn, void *job, int runs)
{
    int code = 0;
    double t = ht_now();

    for (int i = 0; i < runs && !code; i++) code = fn(s, job);
    bool done = gpu_synced(&s->rig);
    return code || !done ? -1 : ht_now() - t;
}

/* Median of several batches, each long enough to hide the host's part. What fails has no rate. */
static void time_job(session *s, result *r, job_fn *fn, void *job)
{
    enum { BATCHES = 7 };
    double seconds[BATCHES], t = time_runs(s, fn, job, 3);
    int runs = 1;

    for (; t >= 0; runs *= 2) { /* how many runs are 20 ms */
        t = time_runs(s, fn, job, runs);
        if (t > 0.02 || runs > 20000 || s->info.emulated) break;
    }
    for (int b = 0; b < BATCHES && t >= 0; b++) {
        t = time_runs(s, fn, job, runs);
        seconds[b] = t / runs;
        for (int i = b; i > 0 && seconds[i] < seconds[i - 1]; i--) {
            double swap = seconds[i];
            seconds[i] = seconds[i - 1], seconds[i - 1] = swap;
        }
    }
    r->ok = t >= 0;
    r->seconds = r->ok ? seconds[BATCHES / 2] : 0;
    if (!r->ok) fprintf(stderr, "  FAILED: %s\n", s->rig.text[0] ? s->rig.text : "a launch was refused");
}

typedef struct copy_job { void *dst, *src; size_t bytes; } copy_job;
static int run_copy(session *s, void *job)
{
    copy_job *c = job;
    return s->gpu->device.ops->copy(&s->gpu->device, s->rig.stream, c->dst, c->src, c->bytes, HT_COPY_ON_DEVICE, NULL);
}

/* Weights that take turns, so that no cache holds them: together they are larger than any. */
typedef struct rotation { char *w; size_t bytes; int32_t copies, turn; } rotation;

static rotation rotate_open(session *s, size_t bytes)
{
    rotation r = {.bytes = (bytes + 255) / 256 * 256};

    r.copies = s->info.emulated ? 1 : (int32_t)(((size_t)512 << 20) / r.bytes) + 1;
    r.w = blank(s, (size_t)r.copies * r.bytes);
    return r;
}
static const char *rotate(rotation *r) { return r->w + (size_t)(r->turn++ % r->copies) * r->bytes; }

typedef enum arrangement { STORED, PLANAR, FUSED } arrangement;
typedef struct matvec_job { ht_k_matvec k; rotation w; arrangement how; } matvec_job;
static int run_matvec(session *s, void *job)
{
    matvec_job *j = job;
    j->k.out[0].w = rotate(&j->w);
    return j->how == PLANAR ? s->gpu->kernels.matvec_planar(&j->k, s->rig.stream) : s->gpu->kernels.matvec(&j->k, s->rig.stream);
}
typedef struct glu_job { ht_k_glu k; rotation w; } glu_job;
static int run_glu(session *s, void *job)
{
    glu_job *j = job;
    const char *w = rotate(&j->w);
    j->k.gate = w, j->k.up = w + j->w.bytes / 2;
    return s->gpu->kernels.glu(&j->k, s->rig.stream);
}
static int run_axpy(session *s, void *job) { return s->gpu->kernels.axpy(job, s->rig.stream); }
static int run_probe(session *s, void *job) { return s->gpu->kernels.probe(job, s->rig.stream); }
static int run_matmat(session *s, void *job) { return s->gpu->kernels.matmat(job, s->rig.stream); }
static int run_attend(session *s, void *job) { return s->gpu->kernels.attend(job, s->rig.stream); }

static void time_copy(session *s)
{
    copy_job c = {.bytes = s->info.emulated ? (size_t)1 << 20 : (size_t)1 << 29};
    result *r = add_result(s, "copy on device");

    c.dst = blank(s, c.bytes), c.src = blank(s, c.bytes);
    time_job(s, r, run_copy, &c);
    r->bytes = 2.0 * (double)c.bytes;
    if (r->ok) s->copy_rate = r->bytes / r->seconds;
    unblank(s, c.dst), unblank(s, c.src);
}

static void time_tensor_cores(session *s)
{
    ht_k_probe k = {.blocks = s->info.emulated ? 1 : 4 * s->info.multiprocessors, .turns = s->info.emulated ? 2 : 2000};

    if (!s->info.tensor_cores) return;
    result *r = add_result(s, "tensor cores on registers");
    k.out = blank(s, (size_t)k.blocks * 256 * 4);
    time_job(s, r, run_probe, &k);
    r->flops = HT_K_PROBE_FLOPS * k.blocks * k.turns;
    r->tensor = true;
    if (r->ok) s->tensor_rate = r->flops / r->seconds;
    unblank(s, k.out);
}

static void time_matvec(session *s, ht_type type, int32_t rows, int32_t cols, int32_t n, arrangement how)
{
    static const char *const hows[] = {"", "planar ", "fused "};
    const ht_type_info *t = ht_type_get(type);
    size_t bytes = (size_t)rows * ht_row_bytes(t, cols);
    bool q8 = t->block_len > 1;
    int64_t x_bytes = q8 && how != FUSED ? (int64_t)HT_K_ACT_STRIDE(cols) : 4LL * cols;
    char name[64];

    snprintf(name, sizeof name, "matvec %s%s %dx%d n=%d", hows[how], t->name, rows, cols, n);
    if (!chosen(s, name)) return;
    void *x = blank(s, (size_t)(x_bytes * n)), *y = blank(s, (size_t)rows * (size_t)n * 4);
    matvec_job j = {.how = how, .w = rotate_open(s, bytes)};
    j.k = (ht_k_matvec){.type = type, .n_out = 1, .out = {{NULL, (int64_t)ht_row_bytes(t, cols), rows, NULL, y}},
                        .x = {.x = x, .bytes = x_bytes, .cols = cols, .n = n, .q8 = q8, .fused = how == FUSED,
                              .norm.eps = 1e-5f, .blocks = s->info.resident_blocks}};
    result *r = add_result(s, name);
    time_job(s, r, run_matvec, &j);
    r->bytes = (double)bytes + (double)x_bytes * n + 4.0 * rows * n;
    r->flops = 2.0 * rows * cols * n;
    unblank(s, j.w.w), unblank(s, x), unblank(s, y);
}

/* The first half of an FFN with its norm. */
static void time_glu(session *s, ht_type type, int32_t f, int32_t d)
{
    const ht_type_info *t = ht_type_get(type);
    size_t bytes = 2 * (size_t)f * ht_row_bytes(t, d);
    char name[64];

    snprintf(name, sizeof name, "glu fused %s 2x%dx%d", t->name, f, d);
    if (!chosen(s, name)) return;
    void *x = blank(s, (size_t)d * 4), *h = blank(s, (size_t)f * 4), *h8 = blank(s, HT_K_ACT_STRIDE(f));
    glu_job j = {.w = rotate_open(s, bytes)};
    j.k = (ht_k_glu){.type = type, .f = f, .activation = HT_K_SILU, .row_bytes = (int64_t)ht_row_bytes(t, d), .h = h, .h_q8 = h8,
                     .x = {.x = x, .bytes = 4LL * d, .cols = d, .n = 1, .q8 = 1, .fused = 1, .norm.eps = 1e-5f,
                           .blocks = s->info.resident_blocks}};
    result *r = add_result(s, name);
    time_job(s, r, run_glu, &j);
    r->bytes = (double)bytes + 8.0 * f + 4.0 * d;
    r->flops = 4.0 * f * d;
    unblank(s, j.w.w), unblank(s, x), unblank(s, h), unblank(s, h8);
}

/* The payload of every tenth neuron, by the bytes of their rows. */
static void time_axpy(session *s, ht_type type, int32_t f, int32_t d)
{
    const ht_type_info *t = ht_type_get(type);
    size_t row = ht_row_bytes(t, d);
    int32_t active = f / 10;
    char name[64];

    snprintf(name, sizeof name, "axpy %s %d of %dx%d", t->name, active, f, d);
    if (!chosen(s, name)) return;
    void *w = blank(s, (size_t)f * row), *partial = blank(s, (size_t)HT_K_GROUPS(0, f) * (size_t)d * 4), *x = blank(s, (size_t)d * 4),
         *h = blank(s, (size_t)f * 4);
    int32_t *list = gpu_array(&s->rig, (size_t)active * 4), *n = gpu_array(&s->rig, 4);
    for (int32_t i = 0; i < active; i++) list[i] = 10 * i;
    *n = active;
    gpu_push(&s->rig, list), gpu_push(&s->rig, n);
    ht_k_axpy k = {.type = type, .f = f, .cols = d, .row_bytes = (int64_t)row, .down = w, .h = h, .list = gpu_twin(&s->rig, list),
                   .n_active = gpu_twin(&s->rig, n), .partial = partial, .x = x};
    result *r = add_result(s, name);
    time_job(s, r, run_axpy, &k);
    r->bytes = (double)active * (double)row + 8.0 * HT_K_GROUPS(0, f) * d;
    r->flops = 2.0 * active * d;
    gpu_rig_reset(&s->rig);
    unblank(s, w), unblank(s, partial), unblank(s, x), unblank(s, h);
}

static void time_matmat(session *s, ht_type type, int32_t rows, int32_t cols, int32_t n, bool tensor)
{
    const ht_type_info *t = ht_type_get(type);
    size_t bytes = (size_t)rows * ht_row_bytes(t, cols);
    char name[64];

    snprintf(name, sizeof name, "matmat %s %s %dx%d n=%d", tensor ? "mma" : "plain", t->name, rows, cols, n);
    if (!chosen(s, name)) return;
    void *w = blank(s, bytes), *y = blank(s, (size_t)rows * (size_t)n * 4), *scale = blank(s, (size_t)n * 4),
         *x = blank(s, (size_t)n * (tensor ? HT_K_HALF_STRIDE(cols) : (size_t)cols * 4));
    ht_k_matmat k = {.type = type, .out = {w, (int64_t)ht_row_bytes(t, cols), rows, NULL, y}, .cols = cols, .n = n,
                     .x = tensor ? NULL : x, .x_f16 = tensor ? x : NULL, .x_scale = tensor ? scale : NULL,
                     .multiprocessors = s->info.multiprocessors};
    result *r = add_result(s, name);
    time_job(s, r, run_matmat, &k);
    r->bytes = (double)bytes + 4.0 * n * (rows + cols);
    r->flops = 2.0 * rows * cols * n;
    r->tensor = tensor;
    unblank(s, w), unblank(s, x), unblank(s, y), unblank(s, scale);
}

/* Decode of one column over a long context: H heads, G KV heads. */
static void time_attention(session *s, ht_type type, int32_t heads, int32_t kv_heads, int32_t tokens)
{
    enum { E = 128 };
    const ht_type_info *t = ht_type_get(type);
    int32_t pages = tokens / HT_K_TILE, split_tiles = (pages + 63) / 64, splits = (pages + split_tiles - 1) / split_tiles;
    size_t row = ht_row_bytes(t, E), page = 2 * (size_t)kv_heads * HT_K_TILE * row;
    char name[64];

    snprintf(name, sizeof name, "attend %s %d/%d heads %d tokens", t->name, heads, kv_heads, tokens);
    if (!chosen(s, name)) return;
    char *kv = blank(s, (size_t)pages * page);
    void **addresses = gpu_array(&s->rig, (size_t)pages * sizeof(void *));
    int32_t *table = gpu_array(&s->rig, (size_t)pages * 4), *where = gpu_array(&s->rig, 8);
    ht_k_group *group = gpu_array(&s->rig, sizeof *group);
    float *q = gpu_floats(&s->rig, (size_t)heads * E, -1, 1), *state = gpu_array(&s->rig, (size_t)(heads * splits) * (E + 2) * 4),
          *out = gpu_array(&s->rig, (size_t)heads * E * 4);
    int32_t *arrived = gpu_array(&s->rig, (size_t)heads * 4);
    for (int32_t i = 0; i < pages; i++) addresses[i] = kv + (size_t)i * page, table[i] = i;
    where[1] = tokens - 1, *group = (ht_k_group){0, 1};
    gpu_push(&s->rig, addresses), gpu_push(&s->rig, table), gpu_push(&s->rig, where), gpu_push(&s->rig, group);
    gpu_push(&s->rig, arrived);
    float *acc = gpu_twin(&s->rig, state), *max = acc + (size_t)(heads * splits) * E;
    ht_k_attend k = {
        .q = gpu_twin(&s->rig, q), .groups = gpu_twin(&s->rig, group), .n_groups = 1, .columns_per_group = 1,
        .heads = heads, .kv_heads = kv_heads, .head_dim = E, .scale = 0.1f, .splits = splits, .split_tiles = split_tiles,
        .pages = {(void *const *)gpu_twin(&s->rig, addresses), gpu_twin(&s->rig, table), pages, gpu_twin(&s->rig, where),
                  (int32_t *)gpu_twin(&s->rig, where) + 1, type, type, (int64_t)row, (int64_t)row, (int64_t)(page / 2)},
        .out = gpu_twin(&s->rig, out), .max = max, .sum = max + heads * splits, .acc = acc,
        .arrived = gpu_twin(&s->rig, arrived),
    };
    result *r = add_result(s, name);
    time_job(s, r, run_attend, &k);
    r->bytes = (double)pages * (double)page;
    r->flops = 4.0 * heads * E * tokens;
    gpu_rig_reset(&s->rig);
    unblank(s, kv);
}

void run_speed(session *s)
{
    static const ht_type types[] = {HT_F16,  HT_Q8_0, HT_Q4_0, HT_Q4_1,  HT_Q5_0,  HT_Q5_1, HT_Q2_K,
                                    HT_Q3_K, HT_Q4_K, HT_Q5_K, HT_Q6_K, HT_IQ4_NL, HT_IQ4_XS};
    int32_t scale = s->info.emulated ? 64 : 1; /* the emulation only shows that the table is made */

    time_copy(s);
    time_tensor_cores(s);
    if (!s->o.speed) return; /* only what others are measured against */
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) time_matvec(s, types[i], 28672 / scale, 8192, 1, STORED);
    time_matvec(s, HT_Q4_0, 8192 / scale, 28672 / (scale > 1 ? 14 : 1), 1, STORED);
    time_matvec(s, HT_Q4_0, 4096 / scale, 4096, 1, STORED);
    time_matvec(s, HT_Q4_K, 11008 / scale, 4096, 1, STORED);
    for (int32_t n = 2; n <= 8; n *= 2) time_matvec(s, HT_Q4_0, 28672 / scale, 8192, n, STORED);
    for (int32_t n = 1; n <= 8; n *= 2) time_matvec(s, HT_Q4_0, 28672 / scale, 8192, n, PLANAR); /* are they worth 10 %? */
    time_matvec(s, HT_Q8_0, 28672 / scale, 8192, 1, PLANAR);
    time_matvec(s, HT_Q4_0, 4096 / scale, 4096, 1, PLANAR);
    time_matvec(s, HT_Q4_0, 10240 / scale, 8192, 1, FUSED);
    time_matvec(s, HT_Q4_0, 28672 / scale, 8192, 4, FUSED);
    time_glu(s, HT_Q4_0, 28672 / scale, 8192);
    time_glu(s, HT_Q4_K, (11008 / scale + 31) / 32 * 32, 4096);
    time_axpy(s, HT_Q4_0, 28672 / scale, 8192);
    time_axpy(s, HT_Q8_0, 28672 / scale, 8192);
    for (int tensor = 0; tensor <= s->info.tensor_cores; tensor++) {
        time_matmat(s, HT_Q4_0, 8192 / scale, 8192 / scale, 512 / (scale > 1 ? 8 : 1), tensor);
        time_matmat(s, HT_Q4_K, 8192 / scale, 8192 / (scale > 1 ? 32 : 1), 512 / (scale > 1 ? 8 : 1), tensor);
    }
    time_attention(s, HT_F16, 32, 32, 512 / (scale > 1 ? 8 : 1));
    time_attention(s, HT_F16, 64, 8, 512 / (scale > 1 ? 8 : 1));
    time_attention(s, HT_F16, 64, 8, 8192 / scale);
    time_attention(s, HT_Q8_0, 64, 8, 8192 / scale);
    time_attention(s, HT_Q4_0, 64, 8, 8192 / scale);
}
