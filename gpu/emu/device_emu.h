/* The emulated device's insides, shared by its files alone. */
#ifndef HEARTH_GPU_EMU_DEVICE_EMU_H
#define HEARTH_GPU_EMU_DEVICE_EMU_H

#include "gpu/device.h"
#include "gpu/emu/exec.h"
#include "gpu/emu/timeline.h"

#include <pthread.h>

typedef struct ht_emu_block { void *p; size_t bytes; bool pinned; } ht_emu_block;

typedef struct ht_emu_device {
    ht_gpu gpu;
    ht_emu_options options;
    pthread_mutex_t lock;          /* what follows, up to the atomics; never taken by a worker while it works */
    ht_device_memory memory;
    ht_emu_block *blocks;          /* live allocations */
    int32_t n_blocks, capacity;
    ht_timeline timeline;
    int64_t allocs, launches, graphs;
    /* Atomics. */
    int64_t copies_run, kernels_run, work_run, calls;
    int32_t failure;               /* 0, or the negative errno of the first failure; text is set before it */
    int32_t failing;               /* somebody is writing the text */
    char failure_text[384];
} ht_emu_device;

/* Remembers the first failure of queued work. */
void ht_emu_device_fail(ht_emu_device *d, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* 0, or the remembered failure. */
int ht_emu_device_status(ht_emu_device *d, ht_error *err);
static inline bool ht_emu_device_failed(const ht_emu_device *d)
{
    return __atomic_load_n(&d->failure, __ATOMIC_ACQUIRE) != 0;
}

#endif
