/* A device, a stream and the shuttling of arrays, for the kernel checks: the same checks run on the emulated GPU in the
 * tests and on a real one in gpu_check. */
#ifndef HEARTH_TESTS_GPU_RIG_H
#define HEARTH_TESTS_GPU_RIG_H

#include "gpu/device.h"

#include <stdbool.h>

#define GPU_RIG_ARRAYS 128

typedef struct gpu_rig {
    ht_gpu *gpu;                    /* borrowed */
    ht_stream *stream;              /* owned */
    uint64_t seed, draws;           /* of the random inputs */
    char text[1024];                /* why the last check failed */
    struct { void *device, *host; size_t bytes; } arrays[GPU_RIG_ARRAYS]; /* freed by gpu_rig_reset */
    int n_arrays;
} gpu_rig;

bool gpu_rig_open(gpu_rig *rig, ht_gpu *gpu, uint64_t seed);
void gpu_rig_close(gpu_rig *rig);
/* Frees all arrays: between checks. */
void gpu_rig_reset(gpu_rig *rig);

/* A host array with a twin on the device; the host side begins zeroed. */
void *gpu_array(gpu_rig *rig, size_t bytes);
void *gpu_twin(gpu_rig *rig, const void *host);      /* the device's address */
void gpu_push(gpu_rig *rig, const void *host);       /* host to device, waits */
void gpu_pull(gpu_rig *rig, void *host);             /* device to host, waits */
bool gpu_synced(gpu_rig *rig);                       /* waits; false and text when the device failed */
/* False, with the reason in text; for `return gpu_failed(...)`. */
bool gpu_failed(gpu_rig *rig, const char *format, ...) __attribute__((format(printf, 2, 3)));

float gpu_uniform(gpu_rig *rig, float low, float high);
uint32_t gpu_random(gpu_rig *rig, uint32_t below);
/* n random values, pushed. */
float *gpu_floats(gpu_rig *rig, size_t n, float low, float high);
/* Random valid rows of a block type (finite scales of a sensible size), pushed. */
void *gpu_weights(gpu_rig *rig, ht_type type, int64_t rows, int64_t cols);

/* |got - want| <= absolute + relative * |want| everywhere; NaN fails. */
bool gpu_close(gpu_rig *rig, const char *what, const float *got, const double *want, size_t n, double absolute,
               double relative);

#endif
