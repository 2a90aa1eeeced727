/* The device port on a real GPU, through the CUDA runtime linked statically: a binary with it starts on machines
 * without a driver, where opening answers -ENODEV. Streams and events are CUDA's own, behind the port's names.
 *
 * The budget is kept here, not by the driver: it counts requested bytes, so that the accounting is the plan's. */
#include "gpu/device.h"

#if !HEARTH_HAVE_CUDA

int ht_device_cuda_open(ht_gpu **out, int32_t ordinal, size_t budget, ht_error *err)
{
    (void)ordinal, (void)budget;
    *out = NULL;
    return ht_fail(err, -ENODEV, "this build has no CUDA (it was configured without nvcc)");
}

int ht_device_cuda_count(void) { return 0; }

#else

#include "core/base/arith.h"
#include "core/base/memory.h"
#include "gpu/kernels/table.h"

#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

HT_DEFINE_FILL(cuda)

#define RESERVE ((size_t)512 << 20) /* left to the driver and the display when the budget is "all" */

typedef struct cuda_block { void *p; size_t bytes; bool pinned; } cuda_block;

typedef struct cuda_device {
    ht_gpu gpu;
    ht_device_info info;
    pthread_mutex_t lock;     /* what follows */
    ht_device_memory memory;
    cuda_block *blocks;       /* live allocations, for their sizes */
    int32_t n_blocks, capacity;
} cuda_device;

struct ht_device_event {
    cuda_device *device;
    cudaEvent_t event;
    bool recorded;
};

static cuda_device *cuda(ht_device *d) { return (cuda_device *)d; }
static cudaStream_t native(ht_stream *s) { return (cudaStream_t)(void *)s; }

/* ---- errors ---------------------------------------------------------------------------------------------- */

static int errno_of(cudaError_t e)
{
    switch (e) {
    case cudaErrorMemoryAllocation: return -ENOMEM;
    case cudaErrorInvalidValue:
    case cudaErrorInvalidConfiguration: return -EINVAL;
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorInvalidDevice:
    case cudaErrorDevicesUnavailable: return -ENODEV;
    default: return -EIO;
    }
}

/* What went wrong is told here, and must not be blamed on the next launch, which asks for the last error: an error that
 * ruined the context stays one all the same. */
static int check(cuda_device *d, cudaError_t e, const char *what, ht_error *err)
{
    if (e == cudaSuccess) return 0;
    (void)cudaGetLastError();
    return ht_fail(err, errno_of(e), "%s: %s: %s (%s)", d->info.name, what, cudaGetErrorString(e), cudaGetErrorName(e));
}

static int enter(cuda_device *d, ht_error *err)
{
    return check(d, cudaSetDevice(d->info.ordinal), "selecting the device", err);
}

/* ---- what it is ------------------------------------------------------------------------------------------ */

static void cuda_info(ht_device *device, ht_device_info *out) { *out = cuda(device)->info; }

static void cuda_memory(ht_device *device, ht_device_memory *out)
{
    cuda_device *d = cuda(device);

    pthread_mutex_lock(&d->lock);
    *out = d->memory;
    pthread_mutex_unlock(&d->lock);
}

/* ---- memory ---------------------------------------------------------------------------------------------- */

static int reserve_block(cuda_device *d)
{
    if (d->n_blocks < d->capacity) return 0;
    int32_t capacity = d->capacity ? 2 * d->capacity : 256;
    cuda_block *blocks = ht_realloc(d->blocks, (size_t)capacity, sizeof *blocks);
    if (!blocks) return -ENOMEM;
    d->blocks = blocks;
    d->capacity = capacity;
    return 0;
}

static int allocate(cuda_device *d, size_t bytes, bool pinned, const char *what, void **out, ht_error *err)
{
    size_t rounded = ht_align_up(bytes ? bytes : 1, HT_DEVICE_ALIGN);
    ht_device_memory *m = &d->memory;
    void *p = NULL;

    *out = NULL;
    int r = enter(d, err);
    if (r < 0) return r;
    if (rounded < bytes || (!pinned && rounded > m->budget - m->used))
        return ht_fail(err, -ENOMEM, "%s: out of memory for %s: %zu bytes asked for, %zu of %zu are in use",
                       d->info.name, what, bytes, m->used, m->budget);
    if (reserve_block(d) < 0) return ht_fail(err, -ENOMEM, "out of host memory");
    r = check(d, pinned ? cudaMallocHost(&p, rounded) : cudaMalloc(&p, rounded), what, err);
    if (r < 0) return r;
    d->blocks[d->n_blocks++] = (cuda_block){p, rounded, pinned};
    size_t *used = pinned ? &m->pinned : &m->used, *peak = pinned ? &m->pinned_peak : &m->peak;
    *used += rounded;
    if (*used > *peak) *peak = *used;
    *out = p;
    return 0;
}

static int cuda_alloc(ht_device *device, size_t bytes, const char *what, void **out, ht_error *err)
{
    cuda_device *d = cuda(device);

    pthread_mutex_lock(&d->lock);
    int r = allocate(d, bytes, false, what, out, err);
    pthread_mutex_unlock(&d->lock);
    return r;
}

static int cuda_alloc_pinned(ht_device *device, size_t bytes, const char *what, void **out, ht_error *err)
{
    cuda_device *d = cuda(device);

    pthread_mutex_lock(&d->lock);
    int r = allocate(d, bytes, true, what, out, err);
    pthread_mutex_unlock(&d->lock);
    return r;
}

static void cuda_free(ht_device *device, void *p)
{
    cuda_device *d = cuda(device);

    if (!p) return;
    pthread_mutex_lock(&d->lock);
    for (int32_t i = 0; i < d->n_blocks; i++) {
        if (d->blocks[i].p != p) continue;
        *(d->blocks[i].pinned ? &d->memory.pinned : &d->memory.used) -= d->blocks[i].bytes;
        (void)cudaSetDevice(d->info.ordinal);
        (void)(d->blocks[i].pinned ? cudaFreeHost(p) : cudaFree(p));
        d->blocks[i] = d->blocks[--d->n_blocks];
        break;
    }
    pthread_mutex_unlock(&d->lock);
}

/* ---- streams and events ---------------------------------------------------------------------------------- */

static int cuda_stream_open(ht_device *device, const char *name, ht_stream **out, ht_error *err)
{
    cudaStream_t s = NULL;

    *out = NULL;
    int r = enter(cuda(device), err);
    if (r == 0) r = check(cuda(device), cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), name, err);
    if (r == 0) *out = (ht_stream *)(void *)s;
    return r;
}

static void cuda_stream_close(ht_device *device, ht_stream *s)
{
    if (!s) return;
    (void)enter(cuda(device), NULL);
    (void)cudaStreamSynchronize(native(s));
    (void)cudaStreamDestroy(native(s));
}

static int cuda_stream_sync(ht_device *device, ht_stream *s, ht_error *err)
{
    int r = enter(cuda(device), err);

    return r < 0 ? r : check(cuda(device), cudaStreamSynchronize(native(s)), "queued work", err);
}

static int cuda_event_open(ht_device *device, ht_device_event **out, ht_error *err)
{
    ht_device_event *e = ht_calloc(1, sizeof *e);

    *out = NULL;
    if (!e) return ht_fail(err, -ENOMEM, "out of memory for an event");
    e->device = cuda(device);
    int r = enter(e->device, err);
    if (r == 0)
        r = check(e->device, cudaEventCreateWithFlags(&e->event, cudaEventDisableTiming | cudaEventBlockingSync),
                  "an event", err);
    if (r < 0) ht_free(e);
    else *out = e;
    return r;
}

static void cuda_event_close(ht_device *device, ht_device_event *e)
{
    if (!e) return;
    (void)enter(cuda(device), NULL);
    (void)cudaEventDestroy(e->event);
    ht_free(e);
}

static int cuda_event_record(ht_device *device, ht_device_event *e, ht_stream *s, ht_error *err)
{
    int r = enter(cuda(device), err);

    if (r < 0) return r;
    e->recorded = true;
    return check(cuda(device), cudaEventRecord(e->event, native(s)), "recording an event", err);
}

static int cuda_stream_wait(ht_device *device, ht_stream *s, ht_device_event *e, ht_error *err)
{
    int r = enter(cuda(device), err);

    return r < 0 ? r : check(cuda(device), cudaStreamWaitEvent(native(s), e->event, 0), "waiting in a stream", err);
}

static int cuda_event_sync(ht_device *device, ht_device_event *e, ht_error *err)
{
    int r = enter(cuda(device), err);

    return r < 0 ? r : check(cuda(device), cudaEventSynchronize(e->event), "queued work", err);
}

static int cuda_event_poll(ht_device *device, ht_device_event *e)
{
    (void)device;
    cudaError_t r = cudaEventQuery(e->event);
    if (r != cudaSuccess) (void)cudaGetLastError(); /* "not ready" counts as an error too: see check */
    return r == cudaSuccess ? 1 : r == cudaErrorNotReady ? 0 : errno_of(r);
}

static int exported_wait(void *owner, uint64_t stamp, ht_error *err)
{
    ht_device_event *e = owner;

    (void)stamp;
    return cuda_event_sync(&e->device->gpu.device, e, err);
}

static int exported_poll(void *owner, uint64_t stamp)
{
    (void)stamp;
    return cuda_event_poll(NULL, owner);
}

static ht_event cuda_event_export(ht_device *device, ht_device_event *e)
{
    (void)device;
    return (ht_event){exported_wait, exported_poll, e, 0, e};
}

static ht_device_event *cuda_event_import(ht_device *device, ht_event e)
{
    (void)device;
    return e.wait == exported_wait ? e.device : NULL;
}

/* ---- work ------------------------------------------------------------------------------------------------ */

static int cuda_copy(ht_device *device, ht_stream *s, void *dst, const void *src, size_t bytes, ht_copy_kind kind,
                     ht_error *err)
{
    static const enum cudaMemcpyKind kinds[] = {
        [HT_COPY_TO_DEVICE] = cudaMemcpyHostToDevice,
        [HT_COPY_TO_HOST] = cudaMemcpyDeviceToHost,
        [HT_COPY_ON_DEVICE] = cudaMemcpyDeviceToDevice,
    };
    int r = enter(cuda(device), err);

    return r < 0 ? r : check(cuda(device), cudaMemcpyAsync(dst, src, bytes, kinds[kind], native(s)), "a copy", err);
}

static int cuda_fill(ht_device *device, ht_stream *s, void *dst, int byte, size_t bytes, ht_error *err)
{
    int r = enter(cuda(device), err);

    return r < 0 ? r : check(cuda(device), cudaMemsetAsync(dst, byte, bytes, native(s)), "a fill", err);
}

static int cuda_use(ht_device *device, ht_error *err) { return enter(cuda(device), err); }

static int cuda_launched(ht_device *device, int code, const char *kernel, ht_error *err)
{
    char what[64];

    if (!code) return 0;
    snprintf(what, sizeof what, "kernel %s", kernel);
    return check(cuda(device), (cudaError_t)code, what, err);
}

/* ---- graphs ---------------------------------------------------------------------------------------------- */

struct ht_device_graph { cudaGraphExec_t exec; };

/* The driver sizes graphs itself, when they are recorded. */
static int cuda_graph_open(ht_device *device, int32_t pieces, ht_device_graph **out, ht_error *err)
{
    (void)device, (void)pieces;
    *out = ht_calloc(1, sizeof **out);
    return *out ? 0 : ht_fail(err, -ENOMEM, "out of memory for a graph");
}

static void empty_graph(ht_device_graph *g)
{
    if (g->exec) (void)cudaGraphExecDestroy(g->exec);
    g->exec = NULL;
}

static void cuda_graph_close(ht_device *device, ht_device_graph *g)
{
    if (!g) return;
    (void)enter(cuda(device), NULL);
    empty_graph(g);
    ht_free(g);
}

static int cuda_graph_begin(ht_device *device, ht_device_graph *g, ht_stream *s, ht_error *err)
{
    int r = enter(cuda(device), err);

    if (r < 0) return r;
    empty_graph(g);
    return check(cuda(device), cudaStreamBeginCapture(native(s), cudaStreamCaptureModeThreadLocal), "recording a graph",
                 err);
}

static int cuda_graph_end(ht_device *device, ht_device_graph *g, ht_stream *s, ht_error *err)
{
    cudaGraph_t recorded = NULL;

    int r = check(cuda(device), cudaStreamEndCapture(native(s), &recorded), "recording a graph", err);
    if (r == 0) r = check(cuda(device), cudaGraphInstantiateWithFlags(&g->exec, recorded, 0), "preparing a graph", err);
    if (recorded) (void)cudaGraphDestroy(recorded);
    if (r < 0) g->exec = NULL; /* the caller queues the work without it */
    return r;
}

static int cuda_graph_launch(ht_device *device, ht_device_graph *g, ht_stream *s, ht_error *err)
{
    int r = enter(cuda(device), err);

    if (r < 0) return r;
    if (!g->exec) return ht_fail(err, -EINVAL, "%s: the graph is empty", cuda(device)->info.name);
    return check(cuda(device), cudaGraphLaunch(g->exec, native(s)), "a graph", err);
}

/* ---- open and close -------------------------------------------------------------------------------------- */

static void cuda_close(ht_device *device)
{
    cuda_device *d = cuda(device);

    while (d->n_blocks) cuda_free(device, d->blocks[0].p);
    ht_free(d->blocks);
    pthread_mutex_destroy(&d->lock);
    ht_free(d);
}

static const ht_device_ops cuda_ops = {
    .kind = "cuda",
    .info = cuda_info,
    .memory = cuda_memory,
    .alloc = cuda_alloc,
    .free = cuda_free,
    .alloc_pinned = cuda_alloc_pinned,
    .free_pinned = cuda_free,
    .stream_open = cuda_stream_open,
    .stream_close = cuda_stream_close,
    .stream_sync = cuda_stream_sync,
    .event_open = cuda_event_open,
    .event_close = cuda_event_close,
    .event_record = cuda_event_record,
    .stream_wait = cuda_stream_wait,
    .event_sync = cuda_event_sync,
    .event_poll = cuda_event_poll,
    .event_export = cuda_event_export,
    .event_import = cuda_event_import,
    .copy = cuda_copy,
    .fill = cuda_fill,
    .use = cuda_use,
    .launched = cuda_launched,
    .graph_open = cuda_graph_open,
    .graph_close = cuda_graph_close,
    .graph_begin = cuda_graph_begin,
    .graph_end = cuda_graph_end,
    .graph_launch = cuda_graph_launch,
    .close = cuda_close,
};

int ht_device_cuda_count(void)
{
    int n = 0; /* without a driver the call fails and leaves n alone */

    return cudaGetDeviceCount(&n) == cudaSuccess ? n : 0;
}

static int describe(cuda_device *d, int32_t ordinal, ht_error *err)
{
    struct cudaDeviceProp p;
    int clock_khz = 0, bus_bits = 0;

    d->info.ordinal = ordinal;
    snprintf(d->info.name, sizeof d->info.name, "GPU %d", ordinal);
    int r = check(d, cudaGetDeviceProperties(&p, ordinal), "its properties", err);
    if (r < 0) return r;
    (void)check(d, cudaDeviceGetAttribute(&clock_khz, cudaDevAttrMemoryClockRate, ordinal), "its memory's clock", NULL);
    (void)check(d, cudaDeviceGetAttribute(&bus_bits, cudaDevAttrGlobalMemoryBusWidth, ordinal), "its memory's width", NULL);
    snprintf(d->info.name, sizeof d->info.name, "%.90s", p.name);
    d->info.capability = p.major * 10 + p.minor;
    d->info.multiprocessors = p.multiProcessorCount;
    d->info.resident_blocks = p.multiProcessorCount * (p.maxThreadsPerMultiProcessor / 256);
    d->info.tensor_cores = d->info.capability >= 75;
    d->info.memory_bytes = p.totalGlobalMem;
    d->info.memory_bandwidth = 2e3 * clock_khz * bus_bits / 8; /* double data rate */
    return 0;
}

static int set_budget(cuda_device *d, size_t budget, ht_error *err)
{
    size_t free_bytes = 0, total = 0;

    int r = check(d, cudaMemGetInfo(&free_bytes, &total), "its free memory", err);
    if (r < 0) return r;
    d->memory.budget = !budget ? (free_bytes > RESERVE ? free_bytes - RESERVE : 0) : budget < free_bytes ? budget : free_bytes;
    return 0;
}

int ht_device_cuda_open(ht_gpu **out, int32_t ordinal, size_t budget, ht_error *err)
{
    int n = ht_device_cuda_count();

    *out = NULL;
    if (!n) return ht_fail(err, -ENODEV, "no CUDA GPU (no driver, or the driver sees none)");
    if (ordinal < 0 || ordinal >= n) return ht_fail(err, -ENODEV, "no GPU %d: this machine has %d", ordinal, n);
    cuda_device *d = ht_calloc(1, sizeof *d);
    if (!d) return ht_fail(err, -ENOMEM, "out of memory for a device");
    d->gpu.device.ops = &cuda_ops;
    pthread_mutex_init(&d->lock, NULL);
    int r = describe(d, ordinal, err);
    if (r == 0) r = enter(d, err);
    if (r == 0) r = set_budget(d, budget, err);
    if (r < 0) {
        cuda_close(&d->gpu.device);
        return r;
    }
    ht_gpu_kernels_fill_cuda(&d->gpu.kernels);
    *out = &d->gpu;
    return 0;
}

#endif
