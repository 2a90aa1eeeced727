/* Devices and arrays of the kernel checks. */
#include "tests/gpu/rig.h"

#include "core/base/memory.h"
#include "core/base/random.h"
#include "core/model/types.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const ht_device_ops *ops_of(gpu_rig *rig) { return rig->gpu->device.ops; }

bool gpu_failed(gpu_rig *rig, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(rig->text, sizeof rig->text, format, args);
    va_end(args);
    return false;
}

bool gpu_rig_open(gpu_rig *rig, ht_gpu *gpu, uint64_t seed)
{
    ht_error err = {0};

    *rig = (gpu_rig){.gpu = gpu, .seed = seed};
    if (ops_of(rig)->stream_open(&gpu->device, "checks", &rig->stream, &err) < 0) return gpu_failed(rig, "%s", err.text);
    return true;
}

void gpu_rig_reset(gpu_rig *rig)
{
    ops_of(rig)->stream_sync(&rig->gpu->device, rig->stream, NULL);
    for (int i = 0; i < rig->n_arrays; i++) {
        ops_of(rig)->free(&rig->gpu->device, rig->arrays[i].device);
        ops_of(rig)->free_pinned(&rig->gpu->device, rig->arrays[i].host);
    }
    rig->n_arrays = 0;
}

void gpu_rig_close(gpu_rig *rig)
{
    if (!rig->stream) return;
    gpu_rig_reset(rig);
    ops_of(rig)->stream_close(&rig->gpu->device, rig->stream);
    rig->stream = NULL;
}

/* Checks have no plan B for missing memory: they stop the program with the reason. */
static void need(int result, const ht_error *err)
{
    if (result >= 0) return;
    fprintf(stderr, "kernel checks: %s\n", err->text);
    exit(1);
}

void *gpu_array(gpu_rig *rig, size_t bytes)
{
    ht_error err = {0};
    int i = rig->n_arrays;

    if (i == GPU_RIG_ARRAYS) need(ht_fail(&err, -ENOSPC, "too many arrays"), &err);
    rig->arrays[i].bytes = bytes;
    need(ops_of(rig)->alloc(&rig->gpu->device, bytes, "a check", &rig->arrays[i].device, &err), &err);
    need(ops_of(rig)->alloc_pinned(&rig->gpu->device, bytes, "a check", &rig->arrays[i].host, &err), &err);
    memset(rig->arrays[i].host, 0, bytes);
    rig->n_arrays++;
    return rig->arrays[i].host;
}

static int find(gpu_rig *rig, const void *host)
{
    for (int i = 0; i < rig->n_arrays; i++)
        if (rig->arrays[i].host == host) return i;
    fprintf(stderr, "kernel checks: not an array\n");
    exit(1);
}

void *gpu_twin(gpu_rig *rig, const void *host) { return host ? rig->arrays[find(rig, host)].device : NULL; }

void gpu_push(gpu_rig *rig, const void *host)
{
    ht_error err = {0};
    int i = find(rig, host);

    need(ops_of(rig)->copy(&rig->gpu->device, rig->stream, rig->arrays[i].device, host, rig->arrays[i].bytes,
                           HT_COPY_TO_DEVICE, &err), &err);
    ops_of(rig)->stream_sync(&rig->gpu->device, rig->stream, NULL); /* the host side may change at once */
}

bool gpu_synced(gpu_rig *rig)
{
    ht_error err = {0};

    if (ops_of(rig)->stream_sync(&rig->gpu->device, rig->stream, &err) < 0) return gpu_failed(rig, "%s", err.text);
    return true;
}

void gpu_pull(gpu_rig *rig, void *host)
{
    ht_error err = {0};
    int i = find(rig, host);

    need(ops_of(rig)->copy(&rig->gpu->device, rig->stream, host, rig->arrays[i].device, rig->arrays[i].bytes,
                           HT_COPY_TO_HOST, &err), &err);
    need(ops_of(rig)->stream_sync(&rig->gpu->device, rig->stream, &err), &err);
}

float gpu_uniform(gpu_rig *rig, float low, float high)
{
    return low + (high - low) * (float)ht_random_uniform(rig->seed, 1, rig->draws++, 0);
}

uint32_t gpu_random(gpu_rig *rig, uint32_t below)
{
    return (uint32_t)(ht_random_uniform(rig->seed, 2, rig->draws++, 0) * below);
}

float *gpu_floats(gpu_rig *rig, size_t n, float low, float high)
{
    float *x = gpu_array(rig, n * sizeof *x);

    for (size_t i = 0; i < n; i++) x[i] = gpu_uniform(rig, low, high);
    gpu_push(rig, x);
    return x;
}

/* Where the F16 scales of a block are; the rest of a block may hold any bits. */
static int scales_of(ht_type type, int offsets[2])
{
    switch (type) {
    case HT_Q4_0: case HT_Q5_0: case HT_Q8_0: case HT_IQ4_NL: case HT_IQ4_XS: offsets[0] = 0; return 1;
    case HT_Q4_1: case HT_Q5_1: case HT_Q4_K: case HT_Q5_K: offsets[0] = 0, offsets[1] = 2; return 2;
    case HT_Q2_K: offsets[0] = 80, offsets[1] = 82; return 2;
    case HT_Q3_K: offsets[0] = 108; return 1;
    case HT_Q6_K: offsets[0] = 208; return 1;
    default: return 0;
    }
}

void *gpu_weights(gpu_rig *rig, ht_type type, int64_t rows, int64_t cols)
{
    const ht_type_info *t = ht_type_get(type);
    size_t bytes = (size_t)rows * ht_row_bytes(t, cols);
    uint8_t *w = gpu_array(rig, bytes);
    int offsets[2], n = scales_of(type, offsets);

    if (!n) { /* floats */
        for (int64_t i = 0; i < rows * cols; i++) {
            float v = gpu_uniform(rig, -1, 1);
            t->quantize(&v, w + (size_t)i * (size_t)t->block_bytes, 1);
        }
    } else {
        uint32_t counter[4] = {0}, key[2] = {(uint32_t)rig->seed, (uint32_t)rig->draws++}, draw[4];
        for (size_t i = 0; i < bytes; i++) {
            if (i % 16 == 0) counter[0]++, ht_philox(counter, key, draw);
            w[i] = (uint8_t)(draw[i % 16 / 4] >> 8 * (i % 4));
        }
        for (size_t b = 0; b < bytes / (size_t)t->block_bytes; b++)
            for (int s = 0; s < n; s++) {
                ht_half h = ht_half_from_float(gpu_uniform(rig, -0.02f, 0.02f));
                memcpy(w + b * (size_t)t->block_bytes + offsets[s], &h, sizeof h);
            }
    }
    gpu_push(rig, w);
    return w;
}

bool gpu_close(gpu_rig *rig, const char *what, const float *got, const double *want, size_t n, double absolute,
               double relative)
{
    for (size_t i = 0; i < n; i++)
        if (!(fabs(got[i] - want[i]) <= absolute + relative * fabs(want[i])))
            return gpu_failed(rig, "%s: element %zu of %zu is %.9g, expected %.9g (seed %llu)", what, i, n,
                              (double)got[i], want[i], (unsigned long long)rig->seed);
    return true;
}
