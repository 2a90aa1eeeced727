/* gpu_check's parts: the program (gpu_check.c), the rates of kernels (speed.c), whole models (whole.c). */
#ifndef HEARTH_TESTS_GPU_GPU_CHECK_H
#define HEARTH_TESTS_GPU_GPU_CHECK_H

#include "tests/gpu/rig.h"

enum { MAX_RESULTS = 160 };

typedef struct result {
    char name[64];
    double seconds, bytes, flops; /* of one run; seconds 0: a check */
    double tokens;                /* of one run of a whole model */
    bool ok, tensor;              /* tensor: its share is of the tensor cores' rate, else of a copy's */
} result;

typedef struct options {
    const char *device, *only, *json;
    int ordinal;
    uint64_t seed;
    bool checks, speed, models;
} options;

typedef struct session {
    options o;
    ht_gpu *gpu;
    ht_device_info info;
    gpu_rig rig;
    result results[MAX_RESULTS];
    int n;
    double copy_rate;   /* bytes/s of a plain copy on the device, what it reads and what it writes */
    double tensor_rate; /* flops/s of tensor-core instructions on registers; 0: none */
} session;

bool chosen(const session *s, const char *name);
result *add_result(session *s, const char *name);
/* Zeroed device memory (valid blocks of every type), or the end of the program. */
void *blank(session *s, size_t bytes);
void unblank(session *s, void *p);

void run_speed(session *s);
void run_models(session *s);

#endif
