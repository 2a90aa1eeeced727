/* The checks of a machine with a GPU: every kernel against its scalar reference on fresh random inputs, the timing of
 * the kernels that matter, and one table last. Needs no test framework.
 *
 *     gpu_check [--device cuda|emu] [--ordinal N] [--seed N] [--checks] [--speed] [--only NAME] [--json FILE]
 *
 * Rates count the bytes that must be moved (weights once, activations once), and are given as a share of a plain copy
 * on the device, which counts what it reads and what it writes. */
#include "tests/gpu/checks.h"

#include "core/base/threads.h"
#include "core/model/types.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_RESULTS = 128 };

typedef struct result {
    char name[64];
    double seconds, bytes, flops; /* of one run; 0: a check */
    bool ok;
} result;

typedef struct options {
    const char *device, *only, *json;
    int ordinal;
    uint64_t seed;
    bool checks, speed;
} options;

typedef struct session {
    options o;
    ht_gpu *gpu;
    gpu_rig rig;
    result results[MAX_RESULTS];
    int n;
    double copy_rate; /* bytes/s, read + write */
} session;

static bool chosen(const session *s, const char *name) { return !s->o.only || strstr(name, s->o.only); }

static result *add(session *s, const char *name)
{
    if (s->n == MAX_RESULTS) s->n--;
    result *r = &s->results[s->n++];
    *r = (result){.ok = true};
    snprintf(r->name, sizeof r->name, "%s", name);
    fprintf(stderr, "%s\n", name);
    return r;
}

/* ---- checks ---------------------------------------------------------------------------------------------- */

static bool run_checks(session *s)
{
    bool all = true;

    for (int i = 0; i < n_gpu_checks; i++) {
        if (!chosen(s, gpu_checks[i].name)) continue;
        result *r = add(s, gpu_checks[i].name);
        r->ok = gpu_checks[i].run(&s->rig);
        if (!r->ok) fprintf(stderr, "  FAILED: %s\n", s->rig.text);
        all &= r->ok;
        gpu_rig_reset(&s->rig);
    }
    return all;
}

/* ---- timing ---------------------------------------------------------------------------------------------- */

/* Queues one run; the device's code of the launch. */
typedef int job_fn(session *s, void *job);

/* Median of several batches, each long enough to hide the host's part. */
static double time_job(session *s, job_fn *fn, void *job)
{
    enum { BATCHES = 7 };
    double seconds[BATCHES];
    int runs = 1;

    for (int warm = 0; warm < 3; warm++) fn(s, job);
    gpu_synced(&s->rig);
    for (;;) { /* how many runs are 20 ms */
        double t = ht_now();
        for (int i = 0; i < runs; i++) fn(s, job);
        gpu_synced(&s->rig);
        t = ht_now() - t;
        if (t > 0.02 || runs > 20000 || !strcmp(s->o.device, "emu")) break;
        runs *= 2;
    }
    for (int b = 0; b < BATCHES; b++) {
        double t = ht_now();
        for (int i = 0; i < runs; i++) fn(s, job);
        gpu_synced(&s->rig);
        seconds[b] = (ht_now() - t) / runs;
        for (int i = b; i > 0 && seconds[i] < seconds[i - 1]; i--) {
            double swap = seconds[i];
            seconds[i] = seconds[i - 1], seconds[i - 1] = swap;
        }
    }
    return seconds[BATCHES / 2];
}

typedef struct copy_job { void *dst, *src; size_t bytes; } copy_job;
static int run_copy(session *s, void *job)
{
    copy_job *c = job;
    return s->gpu->device.ops->copy(&s->gpu->device, s->rig.stream, c->dst, c->src, c->bytes, HT_COPY_ON_DEVICE, NULL);
}
static int run_matvec(session *s, void *job) { return s->gpu->kernels.matvec(job, s->rig.stream); }
static int run_planar(session *s, void *job) { return s->gpu->kernels.matvec_planar(job, s->rig.stream); }
static int run_matmat(session *s, void *job) { return s->gpu->kernels.matmat(job, s->rig.stream); }
static int run_attend(session *s, void *job) { return s->gpu->kernels.attend(job, s->rig.stream); }

static bool emulated(const session *s) { return !strcmp(s->o.device, "emu"); }

/* Device memory whose contents do not matter to time: zeros are valid blocks of every type. */
static void *blank(session *s, size_t bytes)
{
    void *p = NULL;
    ht_error err = {0};

    if (s->gpu->device.ops->alloc(&s->gpu->device, bytes, "a benchmark", &p, &err) < 0 ||
        s->gpu->device.ops->fill(&s->gpu->device, s->rig.stream, p, 0, bytes, &err) < 0) {
        fprintf(stderr, "gpu_check: %s\n", err.text);
        exit(1);
    }
    return p;
}
static void unblank(session *s, void *p)
{
    gpu_synced(&s->rig);
    s->gpu->device.ops->free(&s->gpu->device, p);
}

static void time_copy(session *s)
{
    copy_job c = {.bytes = emulated(s) ? (size_t)1 << 20 : (size_t)1 << 29};
    result *r = add(s, "copy on device");

    c.dst = blank(s, c.bytes), c.src = blank(s, c.bytes);
    r->seconds = time_job(s, run_copy, &c);
    r->bytes = 2.0 * (double)c.bytes;
    s->copy_rate = r->bytes / r->seconds;
    unblank(s, c.dst), unblank(s, c.src);
}

/* The 70B shapes are larger than the caches of the cards there are. */
static void time_matvec(session *s, ht_type type, int32_t rows, int32_t cols, int32_t n, bool planar)
{
    const ht_type_info *t = ht_type_get(type);
    size_t bytes = (size_t)rows * ht_row_bytes(t, cols);
    bool q8 = t->block_len > 1;
    int64_t x_bytes = q8 ? (int64_t)HT_K_ACT_STRIDE(cols) : 4LL * cols;
    char name[64];

    snprintf(name, sizeof name, "matvec %s%s %dx%d n=%d", planar ? "planar " : "", t->name, rows, cols, n);
    if (!chosen(s, name)) return;
    void *w = blank(s, bytes), *x = blank(s, (size_t)(x_bytes * n)), *y = blank(s, (size_t)rows * (size_t)n * 4);
    ht_k_matvec k = {.type = type, .n_out = 1, .out = {{w, (int64_t)ht_row_bytes(t, cols), rows, NULL, y}},
                     .x = {.x = x, .bytes = x_bytes, .cols = cols, .n = n, .q8 = q8}};
    result *r = add(s, name);
    r->seconds = time_job(s, planar ? run_planar : run_matvec, &k);
    r->bytes = (double)bytes + (double)x_bytes * n + 4.0 * rows * n;
    r->flops = 2.0 * rows * cols * n;
    unblank(s, w), unblank(s, x), unblank(s, y);
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
                     .x = tensor ? NULL : x, .x_f16 = tensor ? x : NULL, .x_scale = tensor ? scale : NULL};
    result *r = add(s, name);
    r->seconds = time_job(s, run_matmat, &k);
    r->bytes = (double)bytes + 4.0 * n * (rows + cols);
    r->flops = 2.0 * rows * cols * n;
    unblank(s, w), unblank(s, x), unblank(s, y), unblank(s, scale);
}

/* Decode of one column over a long context: H heads, G KV heads. */
static void time_attention(session *s, ht_type type, int32_t heads, int32_t kv_heads, int32_t tokens)
{
    enum { E = 128 };
    const ht_type_info *t = ht_type_get(type);
    int32_t pages = tokens / HT_K_TILE, split_tiles = pages < 256 ? 4 : pages / 64, splits = (pages + split_tiles - 1) / split_tiles;
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
    result *r = add(s, name);
    r->seconds = time_job(s, run_attend, &k);
    r->bytes = (double)pages * (double)page;
    r->flops = 4.0 * heads * E * tokens;
    gpu_rig_reset(&s->rig);
    unblank(s, kv);
}

static void run_speed(session *s)
{
    static const ht_type types[] = {HT_F16,  HT_Q8_0, HT_Q4_0, HT_Q4_1,  HT_Q5_0,  HT_Q5_1, HT_Q2_K,
                                    HT_Q3_K, HT_Q4_K, HT_Q5_K, HT_Q6_K, HT_IQ4_NL, HT_IQ4_XS};
    int32_t scale = emulated(s) ? 64 : 1; /* the emulation only shows that the table is made */
    ht_device_info info;

    s->gpu->device.ops->info(&s->gpu->device, &info);
    time_copy(s);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) time_matvec(s, types[i], 28672 / scale, 8192, 1, false);
    time_matvec(s, HT_Q4_0, 8192 / scale, 28672 / (scale > 1 ? 14 : 1), 1, false);
    time_matvec(s, HT_Q4_0, 4096 / scale, 4096, 1, false);
    time_matvec(s, HT_Q4_K, 11008 / scale, 4096, 1, false);
    time_matvec(s, HT_Q4_0, 28672 / scale, 8192, 1, true);
    time_matvec(s, HT_Q8_0, 28672 / scale, 8192, 1, true);
    for (int32_t n = 2; n <= 8; n *= 2) time_matvec(s, HT_Q4_0, 28672 / scale, 8192, n, false);
    for (int tensor = 0; tensor <= info.tensor_cores; tensor++) {
        time_matmat(s, HT_Q4_0, 8192 / scale, 8192 / scale, 512 / (scale > 1 ? 8 : 1), tensor);
        time_matmat(s, HT_Q4_K, 8192 / scale, 8192 / (scale > 1 ? 32 : 1), 512 / (scale > 1 ? 8 : 1), tensor);
    }
    time_attention(s, HT_F16, 64, 8, 8192 / scale);
    time_attention(s, HT_Q8_0, 64, 8, 8192 / scale);
    time_attention(s, HT_Q4_0, 64, 8, 8192 / scale);
}

/* ---- the table ------------------------------------------------------------------------------------------- */

static void print_table(const session *s)
{
    ht_device_info info;

    s->gpu->device.ops->info(&s->gpu->device, &info);
    printf("\n%s, compute capability %d.%d, %d multiprocessors, seed %llu%s\n", info.name, info.capability / 10,
           info.capability % 10, info.multiprocessors, (unsigned long long)s->o.seed,
           info.emulated ? ", emulated: no rates" : "");
    printf("%-44s %8s %10s %9s %9s %7s\n", "", "result", "us", "GB/s", "TFLOP/s", "% copy");
    for (int i = 0; i < s->n; i++) {
        const result *r = &s->results[i];
        if (r->seconds <= 0) {
            printf("%-44s %8s\n", r->name, r->ok ? "ok" : "FAILED");
            continue;
        }
        if (info.emulated) { /* an emulation has no speed to quote */
            printf("%-44s %8s\n", r->name, "ran");
            continue;
        }
        double rate = r->bytes / r->seconds;
        printf("%-44s %8s %10.1f %9.1f %9.2f %7.1f\n", r->name, "", r->seconds * 1e6, rate / 1e9,
               r->flops / r->seconds / 1e12, s->copy_rate > 0 ? 100 * rate / s->copy_rate : 0);
    }
}

static bool write_json(const session *s)
{
    ht_device_info info;
    FILE *f = fopen(s->o.json, "w");

    if (!f) {
        fprintf(stderr, "gpu_check: cannot write %s\n", s->o.json);
        return false;
    }
    s->gpu->device.ops->info(&s->gpu->device, &info);
    fprintf(f, "{\"device\":\"%s\",\"capability\":%d,\"emulated\":%s,\"time\":%lld,\"copy_bytes_per_s\":%.6g,\"results\":[",
            info.name, info.capability, info.emulated ? "true" : "false", (long long)time(NULL), s->copy_rate);
    for (int i = 0; i < s->n; i++) {
        const result *r = &s->results[i];
        fprintf(f, "%s\n{\"name\":\"%s\",\"ok\":%s,\"seconds\":%.9g,\"bytes\":%.9g,\"flops\":%.9g}", i ? "," : "", r->name,
                r->ok ? "true" : "false", info.emulated ? 0 : r->seconds, r->bytes, r->flops);
    }
    fprintf(f, "\n]}\n");
    return fclose(f) == 0;
}

/* ---- options --------------------------------------------------------------------------------------------- */

static int usage(const char *what)
{
    fprintf(stderr, "gpu_check: %s\nusage: gpu_check [--device cuda|emu] [--ordinal N] [--seed N] [--checks] [--speed] "
                    "[--only NAME] [--json FILE]\n", what);
    return 2;
}

static int parse(options *o, int argc, char **argv)
{
    *o = (options){.device = "cuda", .seed = (uint64_t)time(NULL)};
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (!strcmp(a, "--checks")) { o->checks = true; continue; }
        if (!strcmp(a, "--speed")) { o->speed = true; continue; }
        if (!value) return usage(a);
        i++;
        if (!strcmp(a, "--device")) o->device = value;
        else if (!strcmp(a, "--ordinal")) o->ordinal = atoi(value);
        else if (!strcmp(a, "--seed")) o->seed = strtoull(value, NULL, 10);
        else if (!strcmp(a, "--only")) o->only = value;
        else if (!strcmp(a, "--json")) o->json = value;
        else return usage(a);
    }
    if (!o->checks && !o->speed) o->checks = o->speed = true;
    if (strcmp(o->device, "cuda") && strcmp(o->device, "emu")) return usage("--device");
    return 0;
}

int main(int argc, char **argv)
{
    session s = {0};
    ht_error err = {0};

    int r = parse(&s.o, argc, argv);
    if (r) return r;
    r = emulated(&s) ? ht_device_emu_open(&s.gpu, NULL, &err) : ht_device_cuda_open(&s.gpu, s.o.ordinal, 0, &err);
    if (r < 0) {
        fprintf(stderr, "gpu_check: %s\n", err.text);
        return 1;
    }
    if (!gpu_rig_open(&s.rig, s.gpu, s.o.seed)) return 1;
    bool ok = !s.o.checks || run_checks(&s);
    if (s.o.speed) run_speed(&s);
    print_table(&s);
    if (s.o.json) ok &= write_json(&s);
    printf("%s\n", ok ? "all ok" : "FAILED");
    gpu_rig_close(&s.rig);
    s.gpu->device.ops->close(&s.gpu->device);
    return ok ? 0 : 1;
}
