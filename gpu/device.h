/* Opening devices. What a device of this module has beyond the port: its build of the kernels. */
#ifndef HEARTH_GPU_DEVICE_H
#define HEARTH_GPU_DEVICE_H

#include "core/ports/device.h"
#include "gpu/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Every device of this module begins with it. */
typedef struct ht_gpu {
    ht_device device;
    ht_gpu_kernels kernels;
} ht_gpu;

/* A real GPU. budget 0: what is free on it now, less a reserve for the driver; never more than is free. -ENODEV: no driver,
 * no GPU, no such ordinal, or a build without CUDA; the text says which. */
int ht_device_cuda_open(ht_gpu **out, int32_t ordinal, size_t budget, ht_error *err);
/* GPUs in this machine, 0 when there is no driver. */
int ht_device_cuda_count(void);

/* The order in which the emulation runs the threads of a block between two barriers, and the blocks of a grid. */
typedef enum ht_emu_order { HT_EMU_FORWARD, HT_EMU_REVERSE, HT_EMU_SHUFFLED } ht_emu_order;

/* Failures on purpose. Counts are 1-based, from open or from set_faults; 0: never. */
typedef struct ht_emu_faults {
    int64_t alloc, copy, launch;  /* the N-th of its kind fails: an alloc at the call, the others when they run */
    int64_t lost;                 /* the device is lost when it has run N pieces of work */
    int64_t call;                 /* the N-th call of the port that may fail does, as does a launch, without more harm */
} ht_emu_faults;

typedef struct ht_emu_options {
    const char *name;            /* NULL: "emulated GPU" */
    int32_t ordinal;
    size_t budget;               /* 0: 1 GiB */
    int32_t capability;          /* 0: 80; below 75 there are no tensor cores */
    double memory_bandwidth;     /* virtual time; 0: 1e12 bytes/s */
    double link_bandwidth;       /* 0: 25e9 bytes/s, each way */
    double link_latency;         /* seconds a copy costs besides; 0: 8e-6 */
    double launch_latency;       /* seconds a kernel costs besides; 0: 3e-6 */
    double graph_latency;        /* the same in a graph; 0: 1e-6 */
    ht_emu_order order;
    uint32_t seed;               /* of the shuffled order */
    int32_t trace;               /* spans to keep, 0: none */
    ht_emu_faults faults;
} ht_emu_options;

int ht_device_emu_open(ht_gpu **out, const ht_emu_options *options, ht_error *err);
/* While the device is idle. */
void ht_device_emu_set_faults(ht_gpu *d, const ht_emu_faults *faults);

/* ---- the virtual trace of an emulated device ---- */

/* One piece of work. Times are seconds since the device was opened, by the model: never a measurement. */
typedef struct ht_emu_span {
    const char *lane;            /* stream name, or the lane of a ht_device_span */
    const char *name;
    double start, end;
    double bytes;
} ht_emu_span;

/* Spans recorded so far in order of submission; *n may exceed the capacity given at open: then the rest is lost. */
const ht_emu_span *ht_device_emu_trace(ht_gpu *d, int64_t *n);
void ht_device_emu_trace_clear(ht_gpu *d);
/* Chrome trace JSON (chrome://tracing, Perfetto). */
int ht_device_emu_trace_write(ht_gpu *d, const char *path, ht_error *err);
/* The virtual time at which all work submitted so far has ended. */
double ht_device_emu_now(ht_gpu *d);
/* Kernels run since open: how many launches a pass makes. */
int64_t ht_device_emu_launches(ht_gpu *d);
/* Graphs launched since open; their kernels are counted above too. */
int64_t ht_device_emu_graphs(ht_gpu *d);

#ifdef __cplusplus
}
#endif
#endif
