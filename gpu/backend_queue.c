/* Commands of the device backend: run at once, or kept until the step is complete and then replayed as a graph.
 *
 * Where weights stay at their addresses, one decode step is like the next: the same kernels with the same arguments,
 * for what changes (tokens, positions, page tables) lies in device memory at fixed places. So the commands of a step are
 * collected; when the same list comes a second time it is recorded as a graph, and from then on it is one launch.
 * "The same" is decided by comparing all arguments, byte for byte: they are written field by field into zeroed memory,
 * so that padding cannot differ (and if it did, only a graph would be recorded once more). */
#include "gpu/backend_internal.h"

#include "core/base/log.h"
#include "core/base/memory.h"

#include <string.h>

/* A failed launch is remembered, and everything after it is skipped until sync. */
static void run(gpu_backend *b, const gpu_command *c)
{
    const ht_gpu_kernels *k = &b->gpu->kernels;
    const char *name = "";
    int code = 0;

    if (gpu_backend_failed(b)) return;
    switch (c->kernel) {
    case GPU_NORM: code = k->norm(&c->u.norm, b->stream), name = "norm"; break;
    case GPU_MATVEC: code = k->matvec(&c->u.matvec, b->stream), name = "matvec"; break;
    case GPU_GLU: code = k->glu(&c->u.glu, b->stream), name = "glu"; break;
    case GPU_MATMAT: code = k->matmat(&c->u.matmat, b->stream), name = "matmat"; break;
    case GPU_ACTIVATE: code = k->activate(&c->u.activate, b->stream), name = "activate"; break;
    case GPU_EMBED: code = k->embed(&c->u.embed, b->stream), name = "embed"; break;
    case GPU_ANGLES: code = k->angles(&c->u.angles, b->stream), name = "angles"; break;
    case GPU_ROPE_APPEND: code = k->rope_append(&c->u.rope_append, b->stream), name = "rope_append"; break;
    case GPU_ATTEND: code = k->attend(&c->u.attend, b->stream), name = "attend"; break;
    case GPU_GATHER: code = k->gather(&c->u.gather, b->stream), name = "gather"; break;
    case GPU_ACTIVE: code = k->active(&c->u.active, b->stream), name = "active"; break;
    case GPU_UP: code = k->up(&c->u.up, b->stream), name = "up"; break;
    case GPU_AXPY: code = k->axpy(&c->u.axpy, b->stream), name = "axpy"; break;
    }
    if (code) (void)b->device->launched(&b->gpu->device, code, name, &b->failure);
}

static void run_all(gpu_backend *b, const gpu_command *list, int32_t n)
{
    for (int32_t i = 0; i < n; i++) run(b, &list[i]);
}

gpu_command *gpu_backend_command(gpu_backend *b, gpu_kernel kernel)
{
    gpu_command *c = &b->queue.pending[b->queue.n];

    memset(c, 0, sizeof *c);
    c->kernel = kernel;
    return c;
}

void gpu_backend_submit(gpu_backend *b, const gpu_command *c)
{
    gpu_queue *q = &b->queue;

    if (!q->collecting) run(b, c);
    else if (++q->n == q->capacity) gpu_backend_flush(b); /* leaves room for the next */
}

/* ---- graphs ---------------------------------------------------------------------------------------------- */

/* The recording of the pending commands, or, with found false, the one that was not used for the longest time. */
static gpu_recording *find(gpu_queue *q, bool *found)
{
    gpu_recording *oldest = &q->recordings[0];

    for (int i = 0; i < GPU_GRAPHS; i++) {
        gpu_recording *r = &q->recordings[i];
        *found = r->n == q->n && !memcmp(r->commands, q->pending, (size_t)q->n * sizeof *r->commands);
        if (*found) return r;
        if (r->used < oldest->used) oldest = r;
    }
    return oldest;
}

/* Without graphs everything works as well: what cannot be recorded is queued as it is, from now on always. */
static bool record(gpu_backend *b, gpu_recording *r)
{
    ht_device *d = &b->gpu->device;
    ht_error err = {0};

    if (b->device->graph_begin(d, r->graph, b->stream, &err) >= 0) {
        run_all(b, r->commands, r->n);
        r->recorded = b->device->graph_end(d, r->graph, b->stream, &err) >= 0 && !gpu_backend_failed(b);
        if (r->recorded || gpu_backend_failed(b)) return r->recorded;
    }
    ht_log(HT_LOG_WARN, "decoding goes on without graphs: %s", err.text);
    b->queue.graphs = false;
    return false;
}

void gpu_backend_flush(gpu_backend *b)
{
    gpu_queue *q = &b->queue;
    int32_t n = q->n;
    bool found;

    q->gathers = false;
    if (!n) return;
    if (!gpu_backend_failed(b) && q->graphs && n < q->capacity) {
        gpu_recording *r = find(q, &found);
        r->used = ++q->turns;
        if (!found) {
            memcpy(r->commands, q->pending, (size_t)n * sizeof *r->commands);
            r->n = n;
            r->recorded = false;
        } else if (r->recorded || record(b, r)) {
            (void)b->device->graph_launch(&b->gpu->device, r->graph, b->stream, &b->failure);
            q->n = 0;
            return;
        }
    }
    run_all(b, q->pending, n);
    q->n = 0;
}

/* ---- open and close -------------------------------------------------------------------------------------- */

int gpu_queue_open(gpu_backend *b, bool graphs, ht_error *err)
{
    gpu_queue *q = &b->queue;

    /* Per layer at most: norm, 3 products, RoPE, attention, norm, product, norm, 2 products, activation, norm, product. */
    q->capacity = b->base.limits.shape.n_layers * 16 + 16;
    q->graphs = graphs && b->device->graph_open;
    q->pending = ht_calloc((size_t)q->capacity, sizeof *q->pending);
    if (!q->pending) return ht_fail(err, -ENOMEM, "out of memory for the GPU's commands");
    for (int i = 0; i < GPU_GRAPHS && q->graphs; i++) {
        gpu_recording *r = &q->recordings[i];
        r->commands = ht_calloc((size_t)q->capacity, sizeof *r->commands);
        if (!r->commands) return ht_fail(err, -ENOMEM, "out of memory for the GPU's commands");
        int code = b->device->graph_open(&b->gpu->device, q->capacity, &r->graph, err);
        if (code < 0) return code;
    }
    return 0;
}

void gpu_queue_close(gpu_backend *b)
{
    gpu_queue *q = &b->queue;

    for (int i = 0; i < GPU_GRAPHS; i++) {
        if (q->recordings[i].graph) b->device->graph_close(&b->gpu->device, q->recordings[i].graph);
        ht_free(q->recordings[i].commands);
    }
    ht_free(q->pending);
}
