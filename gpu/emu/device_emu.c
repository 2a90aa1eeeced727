/* The device port on the emulated GPU. It adds up bytes and virtual time; the work itself is in queue.c and exec.c. */
#include "gpu/emu/device_emu.h"

#include "core/base/arith.h"
#include "core/base/memory.h"
#include "gpu/emu/launch.h"
#include "gpu/emu/queue.h"
#include "gpu/kernels/table.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define POISON_BYTES ((size_t)1 << 30) /* allocations up to this are filled with NaN */

HT_DEFINE_FILL(emu)

static ht_emu_device *emu(ht_device *d) { return (ht_emu_device *)d; }

/* ---- failure --------------------------------------------------------------------------------------------- */

void ht_emu_device_fail(ht_emu_device *d, int code, const char *format, ...)
{
    va_list args;

    if (__atomic_exchange_n(&d->failing, 1, __ATOMIC_ACQ_REL)) return; /* the first failure is the one that counts */
    va_start(args, format);
    vsnprintf(d->failure_text, sizeof d->failure_text, format, args);
    va_end(args);
    __atomic_store_n(&d->failure, code, __ATOMIC_RELEASE);
}

int ht_emu_device_status(ht_emu_device *d, ht_error *err)
{
    int code = __atomic_load_n(&d->failure, __ATOMIC_ACQUIRE);

    return code ? ht_fail(err, code, "%s: %s", d->options.name, d->failure_text) : 0;
}

/* True when this is the call that the tests want to fail. */
static bool struck(ht_emu_device *d)
{
    return __atomic_add_fetch(&d->calls, 1, __ATOMIC_RELAXED) == d->options.faults.call;
}

static int call_fails(ht_device *device, const char *what, ht_error *err)
{
    ht_emu_device *d = (ht_emu_device *)device;

    return struck(d) ? ht_fail(err, -EIO, "%s: %s failed (fault injected)", d->options.name, what) : 0;
}

/* ---- what it is ------------------------------------------------------------------------------------------ */

static void emu_info(ht_device *device, ht_device_info *out)
{
    const ht_emu_options *o = &emu(device)->options;

    *out = (ht_device_info){
        .ordinal = o->ordinal,
        .capability = o->capability,
        .multiprocessors = 2, /* kernels that size their grid by it stay small */
        .resident_blocks = 2,
        .emulated = true,
        .tensor_cores = o->capability >= 75,
        .memory_bytes = o->budget,
        .memory_bandwidth = o->memory_bandwidth,
        .link_bandwidth = o->link_bandwidth,
    };
    snprintf(out->name, sizeof out->name, "%s", o->name);
}

static void emu_memory(ht_device *device, ht_device_memory *out)
{
    ht_emu_device *d = emu(device);

    pthread_mutex_lock(&d->lock);
    *out = d->memory;
    pthread_mutex_unlock(&d->lock);
}

/* ---- memory ---------------------------------------------------------------------------------------------- */

static int remember(ht_emu_device *d, void *p, size_t bytes, bool pinned)
{
    if (d->n_blocks == d->capacity) {
        int32_t capacity = d->capacity ? d->capacity * 2 : 256;
        ht_emu_block *blocks = ht_realloc(d->blocks, (size_t)capacity, sizeof *blocks);
        if (!blocks) return -ENOMEM;
        d->blocks = blocks;
        d->capacity = capacity;
    }
    d->blocks[d->n_blocks++] = (ht_emu_block){p, bytes, pinned};
    return 0;
}

static int allocate(ht_emu_device *d, size_t bytes, bool pinned, const char *what, void **out, ht_error *err)
{
    size_t rounded = ht_align_up(bytes ? bytes : 1, HT_DEVICE_ALIGN);
    ht_device_memory *m = &d->memory;

    *out = NULL;
    if (rounded < bytes) return ht_fail(err, -ENOMEM, "%s: %zu bytes are too many", what, bytes);
    if (++d->allocs == d->options.faults.alloc)
        return ht_fail(err, -ENOMEM, "%s: out of memory for %s, %zu bytes (fault injected)", d->options.name, what, bytes);
    if (!pinned && rounded > m->budget - m->used)
        return ht_fail(err, -ENOMEM, "%s: out of memory for %s: %zu bytes asked for, %zu of %zu are in use",
                       d->options.name, what, rounded, m->used, m->budget);
    void *p = ht_alloc_aligned(bytes ? bytes : 1, HT_DEVICE_ALIGN); /* exact, so that AddressSanitizer sees overruns */
    if (!p || remember(d, p, bytes, pinned) < 0) {
        ht_free(p);
        return ht_fail(err, -ENOMEM, "out of host memory for %s of the emulated GPU, %zu bytes", what, bytes);
    }
    if (bytes <= POISON_BYTES) memset(p, 0xff, bytes);
    size_t *used = pinned ? &m->pinned : &m->used, *peak = pinned ? &m->pinned_peak : &m->peak;
    *used += rounded;
    if (*used > *peak) *peak = *used;
    *out = p;
    return 0;
}

static int emu_alloc(ht_device *device, size_t bytes, const char *what, void **out, ht_error *err)
{
    if (call_fails(device, "an allocation", err) < 0) return -EIO;
    ht_emu_device *d = emu(device);

    pthread_mutex_lock(&d->lock);
    int r = allocate(d, bytes, false, what, out, err);
    pthread_mutex_unlock(&d->lock);
    return r;
}

static int emu_alloc_pinned(ht_device *device, size_t bytes, const char *what, void **out, ht_error *err)
{
    if (call_fails(device, "an allocation of pinned memory", err) < 0) return -EIO;
    ht_emu_device *d = emu(device);

    pthread_mutex_lock(&d->lock);
    int r = allocate(d, bytes, true, what, out, err);
    pthread_mutex_unlock(&d->lock);
    return r;
}

static void emu_free(ht_device *device, void *p)
{
    ht_emu_device *d = emu(device);

    if (!p) return;
    pthread_mutex_lock(&d->lock);
    for (int32_t i = 0; i < d->n_blocks; i++) {
        if (d->blocks[i].p != p) continue;
        size_t rounded = ht_align_up(d->blocks[i].bytes ? d->blocks[i].bytes : 1, HT_DEVICE_ALIGN);
        *(d->blocks[i].pinned ? &d->memory.pinned : &d->memory.used) -= rounded;
        d->blocks[i] = d->blocks[--d->n_blocks];
        ht_free(p);
        break;
    }
    pthread_mutex_unlock(&d->lock);
}

/* Whether [p, p + bytes) lies in one live allocation of that kind. */
static bool inside(const ht_emu_device *d, const void *p, size_t bytes, bool pinned)
{
    uintptr_t at = (uintptr_t)p;

    for (int32_t i = 0; i < d->n_blocks; i++) {
        const ht_emu_block *b = &d->blocks[i];
        uintptr_t begin = (uintptr_t)b->p;
        if (b->pinned == pinned && at >= begin && at - begin <= b->bytes && bytes <= b->bytes - (at - begin)) return true;
    }
    return false;
}

/* ---- streams and events ---------------------------------------------------------------------------------- */

static int emu_stream_open(ht_device *device, const char *name, ht_stream **out, ht_error *err)
{
    if (call_fails(device, "opening a stream", err) < 0) return -EIO;
    return ht_queue_open(out, emu(device), name, err);
}

static void emu_stream_close(ht_device *device, ht_stream *s)
{
    (void)device;
    ht_queue_close(s);
}

/* Of a stream that is recorded, for what a graph cannot hold. */
static int refuse_recorded(const ht_stream *s, const char *what, ht_error *err)
{
    return s->recording ? ht_fail(err, -EINVAL, "%s: %s while the stream is recorded", s->device->options.name, what) : 0;
}

/* The submitting thread has seen the virtual moment `time` pass. */
static void host_reaches(ht_emu_device *d, double time)
{
    pthread_mutex_lock(&d->lock);
    if (time > d->timeline.host) d->timeline.host = time;
    pthread_mutex_unlock(&d->lock);
}

static int emu_stream_sync(ht_device *device, ht_stream *s, ht_error *err)
{
    int r = refuse_recorded(s, "it is waited for", err);
    if (r < 0) return r;
    ht_queue_drain(s);
    host_reaches(s->device, s->ready);
    r = ht_emu_device_status(emu(device), err);
    return r < 0 ? r : call_fails(device, "waiting for a stream", err);
}

static int emu_event_open(ht_device *device, ht_device_event **out, ht_error *err)
{
    if (call_fails(device, "opening an event", err) < 0) return -EIO;
    ht_device_event *e = ht_calloc(1, sizeof *e);

    *out = e;
    if (!e) return ht_fail(err, -ENOMEM, "out of memory for an event");
    e->device = emu(device);
    return 0;
}

static void emu_event_close(ht_device *device, ht_device_event *e)
{
    (void)device;
    if (!e) return;
    ht_mark_wait(e, e->recorded);
    ht_free(e);
}

static int emu_event_record(ht_device *device, ht_device_event *e, ht_stream *s, ht_error *err)
{
    if (call_fails(device, "recording an event", err) < 0) return -EIO;
    int r = refuse_recorded(s, "an event is recorded", err);
    if (r < 0) return r;
    ht_emu_work *w = ht_queue_slot(s);
    w->kind = HT_WORK_RECORD;
    w->u.mark.event = e;
    w->u.mark.stamp = ++e->recorded;
    e->time = s->ready;
    ht_queue_submit(s);
    return 0;
}

static int emu_stream_wait(ht_device *device, ht_stream *s, ht_device_event *e, ht_error *err)
{
    if (call_fails(device, "waiting in a stream", err) < 0) return -EIO;
    int r = refuse_recorded(s, "an event is awaited", err);
    if (r < 0) return r;
    ht_emu_work *w = ht_queue_slot(s);
    w->kind = HT_WORK_WAIT;
    w->u.mark.event = e;
    w->u.mark.stamp = e->recorded;
    if (e->time > s->ready) s->ready = e->time;
    ht_queue_submit(s);
    return 0;
}

static int emu_event_sync(ht_device *device, ht_device_event *e, ht_error *err)
{
    ht_mark_wait(e, e->recorded);
    host_reaches(e->device, e->time);
    int r = ht_emu_device_status(emu(device), err);
    return r < 0 ? r : call_fails(device, "waiting for an event", err);
}

static int emu_event_poll(ht_device *device, ht_device_event *e)
{
    int failure = ht_emu_device_status(emu(device), NULL);

    return failure ? failure : ht_mark_passed(e, e->recorded);
}

static int exported_wait(void *owner, uint64_t stamp, ht_error *err)
{
    ht_device_event *e = owner;

    ht_mark_wait(e, (uint32_t)stamp);
    host_reaches(e->device, e->time);
    return ht_emu_device_status(e->device, err);
}

static int exported_poll(void *owner, uint64_t stamp)
{
    ht_device_event *e = owner;
    int failure = ht_emu_device_status(e->device, NULL);

    return failure ? failure : ht_mark_passed(e, (uint32_t)stamp);
}

static ht_event emu_event_export(ht_device *device, ht_device_event *e)
{
    (void)device;
    return (ht_event){exported_wait, exported_poll, e, e->recorded, e};
}

static ht_device_event *emu_event_import(ht_device *device, ht_event e)
{
    (void)device; /* emulated devices can wait for each other's events */
    return e.wait == exported_wait ? e.device : NULL;
}

/* ---- work ------------------------------------------------------------------------------------------------ */

/* When the work of a stream may start, and how it is accounted. Called with the lock held. */
static void account(ht_emu_device *d, ht_stream *s, const ht_emu_cost *c)
{
    double ready = s->ready > d->timeline.host ? s->ready : d->timeline.host;

    if (s->recording) s->recording->cost[s->recording->n] = *c;
    else s->ready = ht_timeline_add(&d->timeline, c->engine, s->name, c->name, ready, c->seconds, c->bytes);
}

static int emu_copy(ht_device *device, ht_stream *s, void *dst, const void *src, size_t bytes, ht_copy_kind kind,
                    ht_error *err)
{
    if (call_fails(device, "a copy", err) < 0) return -EIO;
    static const struct { ht_engine engine; const char *name; bool from_host, to_host; } kinds[] = {
        [HT_COPY_TO_DEVICE] = {HT_ENGINE_TO_DEVICE, "copy to device", true, false},
        [HT_COPY_TO_HOST] = {HT_ENGINE_TO_HOST, "copy to host", false, true},
        [HT_COPY_ON_DEVICE] = {HT_ENGINE_COMPUTE, "copy on device", false, false},
    };
    ht_emu_device *d = emu(device);
    const ht_emu_options *o = &d->options;
    int r = refuse_recorded(s, "a copy is queued", err);

    if (r < 0) return r;
    pthread_mutex_lock(&d->lock);
    if (!inside(d, dst, bytes, kinds[kind].to_host) || !inside(d, src, bytes, kinds[kind].from_host)) {
        r = ht_fail(err, -EINVAL, "%s: %s of %zu bytes reaches outside the %s's allocations", o->name, kinds[kind].name,
                    bytes, inside(d, dst, bytes, kinds[kind].to_host) ? "source" : "destination");
    } else {
        double rate = kind == HT_COPY_ON_DEVICE ? o->memory_bandwidth / 2 : o->link_bandwidth;
        account(d, s, &(ht_emu_cost){kinds[kind].engine, kinds[kind].name, (double)bytes / rate + o->link_latency,
                                     (double)bytes});
    }
    pthread_mutex_unlock(&d->lock);
    if (r < 0) return r;
    ht_emu_work *w = ht_queue_slot(s);
    w->kind = HT_WORK_COPY;
    w->u.memory.dst = dst;
    w->u.memory.src = src;
    w->u.memory.bytes = bytes;
    ht_queue_submit(s);
    return 0;
}

static int emu_fill(ht_device *device, ht_stream *s, void *dst, int byte, size_t bytes, ht_error *err)
{
    if (call_fails(device, "a fill", err) < 0) return -EIO;
    ht_emu_device *d = emu(device);
    int r = refuse_recorded(s, "a fill is queued", err);

    if (r < 0) return r;
    pthread_mutex_lock(&d->lock);
    if (!inside(d, dst, bytes, false))
        r = ht_fail(err, -EINVAL, "%s: a fill of %zu bytes reaches outside the allocations", d->options.name, bytes);
    else
        account(d, s, &(ht_emu_cost){HT_ENGINE_COMPUTE, "fill", (double)bytes / d->options.memory_bandwidth, (double)bytes});
    pthread_mutex_unlock(&d->lock);
    if (r < 0) return r;
    ht_emu_work *w = ht_queue_slot(s);
    w->kind = HT_WORK_FILL;
    w->u.memory.dst = dst;
    w->u.memory.byte = byte;
    w->u.memory.bytes = bytes;
    ht_queue_submit(s);
    return 0;
}

int ht_emu_submit(void *stream, const char *name, const unsigned grid[3], const unsigned block[3], size_t shared,
                  double bytes, void (*call)(void *), const void *closure, size_t closure_bytes)
{
    ht_stream *s = stream;
    ht_emu_device *d = s->device;
    ht_emu_launch launch = {
        .name = name,
        .grid = {grid[0], grid[1], grid[2]},
        .block = {block[0], block[1], block[2]},
        .shared = shared,
        .call = call,
        .order = (int)d->options.order,
        .seed = d->options.seed,
    };

    if (ht_emu_launch_check(&launch) || closure_bytes > HT_CLOSURE_BYTES) return EINVAL;
    if (struck(d)) return EIO;
    pthread_mutex_lock(&d->lock);
    double latency = s->recording ? d->options.graph_latency : d->options.launch_latency;
    account(d, s, &(ht_emu_cost){HT_ENGINE_COMPUTE, name, bytes / d->options.memory_bandwidth + latency, bytes});
    d->launches += !s->recording;
    pthread_mutex_unlock(&d->lock);
    ht_emu_work *w = ht_queue_slot(s);
    w->kind = HT_WORK_KERNEL;
    w->u.kernel = launch;
    w->u.kernel.closure = w->closure;
    memcpy(w->closure, closure, closure_bytes);
    ht_queue_submit(s);
    return 0;
}

/* ---- graphs ---------------------------------------------------------------------------------------------- */

static void emu_graph_close(ht_device *device, ht_device_graph *g)
{
    (void)device;
    if (!g) return;
    ht_free(g->work);
    ht_free(g->cost);
    ht_free(g);
}

static int emu_graph_open(ht_device *device, int32_t pieces, ht_device_graph **out, ht_error *err)
{
    if (call_fails(device, "opening a graph", err) < 0) return -EIO;
    ht_device_graph *g = ht_calloc(1, sizeof *g);

    *out = NULL;
    if (g) {
        g->capacity = pieces + 1;
        g->work = ht_alloc_aligned((size_t)g->capacity * sizeof *g->work, 64);
        g->cost = ht_calloc((size_t)g->capacity, sizeof *g->cost);
    }
    if (!g || !g->work || !g->cost) {
        emu_graph_close(device, g);
        return ht_fail(err, -ENOMEM, "out of memory for a graph of %d pieces", pieces);
    }
    *out = g;
    return 0;
}

static int emu_graph_begin(ht_device *device, ht_device_graph *g, ht_stream *s, ht_error *err)
{
    if (call_fails(device, "recording a graph", err) < 0) return -EIO;
    int r = refuse_recorded(s, "recording begun", err);

    (void)device;
    if (r < 0) return r;
    g->n = 0;
    g->overflow = false;
    s->recording = g;
    return 0;
}

static int emu_graph_end(ht_device *device, ht_device_graph *g, ht_stream *s, ht_error *err)
{
    if (s->recording != g) return ht_fail(err, -EINVAL, "%s: the stream is not recorded", emu(device)->options.name);
    s->recording = NULL;
    if (!g->overflow && call_fails(device, "preparing a graph", err) >= 0) return 0;
    g->n = 0;
    if (!g->overflow) return -EIO;
    return ht_fail(err, -ENOSPC, "%s: more work than the graph's %d pieces", emu(device)->options.name, g->capacity - 1);
}

static int emu_graph_launch(ht_device *device, ht_device_graph *g, ht_stream *s, ht_error *err)
{
    if (call_fails(device, "launching a graph", err) < 0) return -EIO;
    ht_emu_device *d = emu(device);
    int r = refuse_recorded(s, "a graph is launched", err);

    if (r >= 0 && !g->n) r = ht_fail(err, -EINVAL, "%s: the graph is empty", d->options.name);
    if (r < 0) return r;
    pthread_mutex_lock(&d->lock);
    for (int32_t i = 0; i < g->n; i++) account(d, s, &g->cost[i]);
    d->launches += g->n;
    d->graphs++;
    pthread_mutex_unlock(&d->lock);
    for (int32_t i = 0; i < g->n; i++) {
        ht_emu_work *w = ht_queue_slot(s);
        *w = g->work[i];
        w->u.kernel.closure = w->closure;
        ht_queue_submit(s);
    }
    return 0;
}

static int emu_use(ht_device *device, ht_error *err)
{
    if (call_fails(device, "selecting the device", err) < 0) return -EIO;
    return 0;
}

static int emu_launched(ht_device *device, int code, const char *kernel, ht_error *err)
{
    if (!code) return 0;
    return ht_fail(err, -code, "%s: kernel %s: %s", emu(device)->options.name, kernel,
                   code == EIO ? "launch failed (fault injected)" : "invalid launch");
}

static int emu_span(ht_device *device, const ht_device_span *span, ht_error *err)
{
    ht_emu_device *d = emu(device);
    (void)err;
    pthread_mutex_lock(&d->lock);
    double ready = d->timeline.host;
    for (int32_t i = 0; i < span->n_after; i++)
        if (span->after[i]->time > ready) ready = span->after[i]->time;
    double end = ht_timeline_add(&d->timeline, HT_ENGINE_NONE, span->lane, span->name, ready, span->seconds, 0);
    if (span->done) span->done->time = end;
    pthread_mutex_unlock(&d->lock);
    return 0;
}

/* ---- open, close, trace ---------------------------------------------------------------------------------- */

static void emu_close(ht_device *device)
{
    ht_emu_device *d = emu(device);

    for (int32_t i = 0; i < d->n_blocks; i++) ht_free(d->blocks[i].p);
    ht_free(d->blocks);
    ht_timeline_free(&d->timeline);
    pthread_mutex_destroy(&d->lock);
    ht_free(d);
}

static const ht_device_ops emu_ops = {
    .kind = "emu",
    .info = emu_info,
    .memory = emu_memory,
    .alloc = emu_alloc,
    .free = emu_free,
    .alloc_pinned = emu_alloc_pinned,
    .free_pinned = emu_free,
    .stream_open = emu_stream_open,
    .stream_close = emu_stream_close,
    .stream_sync = emu_stream_sync,
    .event_open = emu_event_open,
    .event_close = emu_event_close,
    .event_record = emu_event_record,
    .stream_wait = emu_stream_wait,
    .event_sync = emu_event_sync,
    .event_poll = emu_event_poll,
    .event_export = emu_event_export,
    .event_import = emu_event_import,
    .copy = emu_copy,
    .fill = emu_fill,
    .use = emu_use,
    .launched = emu_launched,
    .graph_open = emu_graph_open,
    .graph_close = emu_graph_close,
    .graph_begin = emu_graph_begin,
    .graph_end = emu_graph_end,
    .graph_launch = emu_graph_launch,
    .span = emu_span,
    .close = emu_close,
};

static void set_default(double *value, double fallback)
{
    if (*value <= 0) *value = fallback;
}

int ht_device_emu_open(ht_gpu **out, const ht_emu_options *options, ht_error *err)
{
    ht_emu_device *d = ht_calloc(1, sizeof *d);

    *out = NULL;
    if (!d) return ht_fail(err, -ENOMEM, "out of memory for an emulated GPU");
    d->gpu.device.ops = &emu_ops;
    if (options) d->options = *options;
    ht_emu_options *o = &d->options;
    if (!o->name) o->name = "emulated GPU";
    if (!o->budget) o->budget = (size_t)1 << 30;
    if (!o->capability) o->capability = 80;
    set_default(&o->memory_bandwidth, 1e12);
    set_default(&o->link_bandwidth, 25e9);
    set_default(&o->link_latency, 8e-6);
    set_default(&o->launch_latency, 3e-6);
    set_default(&o->graph_latency, 1e-6);
    d->memory.budget = o->budget;
    pthread_mutex_init(&d->lock, NULL);
    if (ht_timeline_init(&d->timeline, o->trace) < 0) {
        emu_close(&d->gpu.device);
        return ht_fail(err, -ENOMEM, "out of memory for the trace of an emulated GPU");
    }
    ht_gpu_kernels_fill_emu(&d->gpu.kernels);
    *out = &d->gpu;
    return 0;
}

void ht_device_emu_set_faults(ht_gpu *gpu, const ht_emu_faults *faults)
{
    ht_emu_device *d = emu(&gpu->device);

    d->options.faults = *faults;
    d->allocs = d->copies_run = d->kernels_run = d->work_run = d->calls = 0;
}

const ht_emu_span *ht_device_emu_trace(ht_gpu *gpu, int64_t *n)
{
    ht_emu_device *d = emu(&gpu->device);

    *n = d->timeline.n_spans;
    return d->timeline.spans;
}

void ht_device_emu_trace_clear(ht_gpu *gpu) { emu(&gpu->device)->timeline.n_spans = 0; }

int ht_device_emu_trace_write(ht_gpu *gpu, const char *path, ht_error *err)
{
    return ht_timeline_write(&emu(&gpu->device)->timeline, path, err);
}

double ht_device_emu_now(ht_gpu *gpu) { return emu(&gpu->device)->timeline.end; }
int64_t ht_device_emu_launches(ht_gpu *gpu) { return emu(&gpu->device)->launches; }
int64_t ht_device_emu_graphs(ht_gpu *gpu) { return emu(&gpu->device)->graphs; }
