/* The store port on a device, a share of the model resident: tensors are read from the file into pinned memory and copied up,
 * two pieces in flight; a lease is then a copy of pointers, and its event has always happened. */
#include "gpu/device_store.h"

#include "core/base/arith.h"
#include "core/base/memory.h"
#include "core/base/progress.h"
#include "core/ports/resident.h"

#include <stdio.h>
#include <string.h>

#define PIECE_BYTES ((size_t)4 << 20)
enum { PIECES = 2 };

typedef struct device_store {
    ht_store base;                       /* first */
    const ht_model *model;               /* borrowed */
    ht_gpu *gpu;                         /* borrowed */
    const ht_device_ops *device;
    ht_stream *stream;                   /* uploads and page copies */
    uint8_t *use;                        /* [n_tensors]: HT_USED_AS_* */
    void **matrix;                       /* [n_tensors]: bytes as stored, on the device */
    float **vector;                      /* [n_tensors]: F32, on the device */
    void **kv;                           /* [layers of the share]: pages, on the device */
    void **addresses;                    /* (layers of the share, kv_pages), on the device: addresses of the pages */
    void *pinned[PIECES];                /* while uploading */
    ht_device_event *sent[PIECES];
    ht_resident views;
} device_store;

static size_t rounded(size_t bytes) { return ht_align_up(bytes ? bytes : 1, HT_DEVICE_ALIGN); }

/* ---- what is needed -------------------------------------------------------------------------------------- */

static size_t bytes_used(const ht_model *m, const uint8_t *use)
{
    size_t total = 0;

    for (int32_t i = 0; i < m->dir->n_tensors; i++) {
        const ht_tensor_info *t = &m->dir->tensors[i];
        if (use[i] & HT_USED_AS_MATRIX) total += rounded(t->bytes);
        if (use[i] & HT_USED_AS_VECTOR) total += rounded((size_t)ht_tensor_elements(t) * sizeof(float));
    }
    return total;
}

static ht_share share_of(const ht_device_store_options *o)
{
    return o->share ? *o->share : ht_share_all(&o->model->shape);
}

static size_t bytes_of(const ht_model *m, ht_share share, uint8_t *use)
{
    memset(use, 0, (size_t)m->dir->n_tensors);
    ht_resident_mark(m, &share, use);
    return bytes_used(m, use);
}

int ht_device_store_plan_make(ht_device_store_plan *out, const ht_device_store_options *o, ht_error *err)
{
    const ht_model *m = o->model;
    const ht_share share = share_of(o);
    size_t layers = (size_t)ht_share_layers(&share), pages = (size_t)o->kv_pages, bytes;
    uint8_t *use = ht_calloc((size_t)m->dir->n_tensors, 1);

    *out = (ht_device_store_plan){0};
    if (!use) return ht_fail(err, -ENOMEM, "out of memory planning %s", m->name);
    for (int32_t i = 0; i < m->shape.n_layers; i++) {
        bytes = bytes_of(m, (ht_share){.layer_begin = i, .layer_end = i + 1}, use);
        if (bytes > out->layer) out->layer = bytes;
    }
    out->rest = bytes_of(m, (ht_share){.output = share.output}, use);
    out->weights = bytes_of(m, share, use);
    ht_free(use);
    if (!ht_mul_size(pages, o->kv.page_bytes, &bytes) || bytes > SIZE_MAX / 4 / (layers + 1))
        return ht_fail(err, -EINVAL, "%d KV pages of %zu bytes are too many", o->kv_pages, o->kv.page_bytes);
    out->kv = layers * rounded(bytes) + rounded(layers * pages * sizeof(void *));
    out->kv_page = layers * (o->kv.page_bytes + sizeof(void *));
    return 0;
}

/* Nothing is uploaded that will not fit. The text is for somebody who wants to know what to do about it. */
static int check_fit(const ht_device_store_options *o, const ht_device_store_plan *p, ht_error *err)
{
    const double mib = 1.0 / (1 << 20);
    const ht_share share = share_of(o);
    const size_t layers = (size_t)ht_share_layers(&share);
    ht_device_memory memory;
    char hint[160];

    o->gpu->device.ops->memory(&o->gpu->device, &memory);
    size_t need = p->weights + p->kv + o->reserve, room = memory.budget - memory.used;
    if (need <= room) return 0;
    size_t fixed = p->weights + o->reserve + (layers + 1) * HT_DEVICE_ALIGN, others = p->rest + o->reserve,
           layer = p->layer + (layers ? p->kv / layers + HT_DEVICE_ALIGN : 0);
    size_t fit = room > others ? (room - others) / layer : 0;
    if (share.embedding && layers && fit >= layers) fit = layers - 1; /* with all of them comes the embedding */
    if (room > fixed && (room - fixed) / p->kv_page > 0)
        snprintf(hint, sizeof hint, "a KV cache of %zu tokens would fit", (room - fixed) / p->kv_page * HT_KV_TILE);
    else if (fit > 0)
        snprintf(hint, sizeof hint, "%zu of the %d layers would fit", fit, o->model->shape.n_layers);
    else
        snprintf(hint, sizeof hint, "not even one layer would fit with its KV cache");
    return ht_fail(err, -ENOMEM,
                   "%s does not fit on the GPU: weights %.1f MiB + KV cache %.1f MiB (%lld tokens) + scratch %.1f MiB = "
                   "%.1f MiB, and %.1f of %.1f MiB are free; %s",
                   o->model->name, (double)p->weights * mib, (double)p->kv * mib, (long long)o->kv_pages * HT_KV_TILE,
                   (double)o->reserve * mib, (double)need * mib, (double)room * mib, (double)memory.budget * mib, hint);
}

/* ---- uploading ------------------------------------------------------------------------------------------- */

/* Copies what `fill` puts into pinned memory, piece by piece. */
typedef int piece_fn(void *context, size_t at, void *to, size_t bytes, ht_error *err);

static int send(device_store *s, void *device, size_t bytes, piece_fn *fill, void *context, ht_error *err)
{
    ht_device *d = &s->gpu->device;
    int r = 0, piece = 0;

    for (size_t at = 0; at < bytes && r >= 0; at += PIECE_BYTES, piece = (piece + 1) % PIECES) {
        size_t n = bytes - at < PIECE_BYTES ? bytes - at : PIECE_BYTES;
        r = s->device->event_sync(d, s->sent[piece], err);
        if (r >= 0) r = fill(context, at, s->pinned[piece], n, err);
        if (r >= 0)
            r = s->device->copy(d, s->stream, (char *)device + at, s->pinned[piece], n, HT_COPY_TO_DEVICE, err);
        if (r >= 0) r = s->device->event_record(d, s->sent[piece], s->stream, err);
    }
    return r;
}

typedef struct file_piece { const ht_file *file; uint64_t offset; } file_piece;

static int fill_from_file(void *context, size_t at, void *to, size_t bytes, ht_error *err)
{
    const file_piece *p = context;

    return ht_file_read(p->file, p->offset + at, to, bytes, err);
}

static int fill_from_memory(void *context, size_t at, void *to, size_t bytes, ht_error *err)
{
    (void)err;
    memcpy(to, (const char *)context + at, bytes);
    return 0;
}

static int upload_matrix(device_store *s, int32_t tensor, ht_error *err)
{
    const ht_tensor_info *t = &s->model->dir->tensors[tensor];
    file_piece p = {&s->model->dir->files[t->file], t->offset};

    int r = s->device->alloc(&s->gpu->device, t->bytes, t->name, &s->matrix[tensor], err);
    return r < 0 ? r : send(s, s->matrix[tensor], t->bytes, fill_from_file, &p, err);
}

/* Vectors are converted to F32 on the host: they are small. */
static int upload_vector(device_store *s, int32_t tensor, ht_error *err)
{
    const ht_tensor_info *t = &s->model->dir->tensors[tensor];
    int64_t n = ht_tensor_elements(t);
    void *stored = ht_alloc(t->bytes, 1), *device = NULL;
    float *v = ht_alloc((size_t)n, sizeof *v);
    int r = -ENOMEM;

    if (!stored || !v) {
        ht_fail(err, r, "%s: out of memory", t->name);
        goto done;
    }
    r = ht_file_read(&s->model->dir->files[t->file], t->offset, stored, t->bytes, err);
    if (r < 0) goto done;
    ht_tensor_expand(t, stored, v);
    r = s->device->alloc(&s->gpu->device, (size_t)n * sizeof *v, t->name, &device, err);
    if (r < 0) goto done;
    s->vector[tensor] = device;
    r = send(s, device, (size_t)n * sizeof *v, fill_from_memory, v, err);
done:
    ht_free(stored);
    ht_free(v);
    return r;
}

static int upload_tensors(device_store *s, bool quiet, ht_error *err)
{
    const ht_tensor_dir *dir = s->model->dir;
    ht_progress progress = {0};
    uint64_t done = 0, all = 0;
    int r = 0;

    for (int32_t i = 0; i < dir->n_tensors; i++)
        if (s->use[i]) all += dir->tensors[i].bytes;
    if (!quiet) ht_progress_begin(&progress, "uploading", all);
    for (int32_t i = 0; i < dir->n_tensors && r >= 0; i++) {
        if (s->use[i] & HT_USED_AS_MATRIX) r = upload_matrix(s, i, err);
        if (r >= 0 && s->use[i] & HT_USED_AS_VECTOR) r = upload_vector(s, i, err);
        if (s->use[i]) done += dir->tensors[i].bytes;
        if (!quiet) ht_progress_update(&progress, done);
    }
    if (!quiet) ht_progress_end(&progress);
    return r;
}

static int open_kv(device_store *s, ht_error *err)
{
    size_t layers = (size_t)ht_share_layers(&s->base.share), pages = (size_t)s->base.kv_pages;
    void **table = ht_alloc(layers * pages + 1, sizeof *table), *device = NULL;
    int r = table ? 0 : ht_fail(err, -ENOMEM, "out of memory for %d KV pages", s->base.kv_pages);

    for (size_t l = 0; l < layers && r >= 0; l++) {
        r = s->device->alloc(&s->gpu->device, pages * s->base.kv.page_bytes, "KV pages", &s->kv[l], err);
        for (size_t i = 0; i < pages; i++) table[l * pages + i] = (char *)s->kv[l] + i * s->base.kv.page_bytes;
    }
    if (r >= 0)
        r = s->device->alloc(&s->gpu->device, layers * pages * sizeof *table, "the table of KV pages", &device, err);
    s->addresses = device;
    if (r >= 0) r = send(s, device, layers * pages * sizeof *table, fill_from_memory, table, err);
    ht_free(table);
    return r;
}

/* ---- the port -------------------------------------------------------------------------------------------- */

static int store_acquire(ht_store *store, const ht_unit *unit, ht_lease *out, ht_error *err)
{
    return ht_resident_lend(&((device_store *)store)->views, unit, out, err);
}

static void store_release(ht_store *store, ht_lease *lease)
{
    (void)store;
    *lease = (ht_lease){0};
}

static int store_kv_acquire(ht_store *store, int32_t layer, const int32_t *ids, int32_t n, int32_t first_written,
                            ht_kv_lease *out, ht_error *err)
{
    device_store *s = (device_store *)store;

    (void)ids, (void)n, (void)first_written;
    if (!ht_share_has_layer(&store->share, layer)) return ht_fail(err, -EINVAL, "no KV pages of layer %d", layer);
    *out = (ht_kv_lease){.page = s->addresses + (size_t)(layer - store->share.layer_begin) * (size_t)store->kv_pages};
    return 0;
}

static void store_kv_release(ht_store *store, ht_kv_lease *lease)
{
    (void)store;
    *lease = (ht_kv_lease){0};
}

/* Waits for the copies: nobody holds the pages, so nothing else can wait for them. */
static int store_kv_copy(ht_store *store, int32_t from, int32_t to, ht_error *err)
{
    device_store *s = (device_store *)store;
    size_t bytes = store->kv.page_bytes;
    int r = 0;

    for (int32_t l = 0; l < ht_share_layers(&store->share) && r >= 0; l++)
        r = s->device->copy(&s->gpu->device, s->stream, (char *)s->kv[l] + (size_t)to * bytes,
                            (const char *)s->kv[l] + (size_t)from * bytes, bytes, HT_COPY_ON_DEVICE, err);
    return r < 0 ? r : s->device->stream_sync(&s->gpu->device, s->stream, err);
}

/* ---- open and close -------------------------------------------------------------------------------------- */

static void drop_staging(device_store *s)
{
    ht_device *d = &s->gpu->device;

    if (s->stream) (void)s->device->stream_sync(d, s->stream, NULL);
    for (int i = 0; i < PIECES; i++) {
        s->device->free_pinned(d, s->pinned[i]);
        s->device->event_close(d, s->sent[i]);
        s->pinned[i] = NULL;
        s->sent[i] = NULL;
    }
}

static void store_close(ht_store *store)
{
    device_store *s = (device_store *)store;
    ht_device *d = &s->gpu->device;

    drop_staging(s);
    s->device->stream_close(d, s->stream);
    for (int32_t i = 0; i < s->model->dir->n_tensors; i++) {
        if (s->matrix) s->device->free(d, s->matrix[i]);
        if (s->vector) s->device->free(d, s->vector[i]);
    }
    for (int32_t l = 0; s->kv && l < ht_share_layers(&store->share); l++) s->device->free(d, s->kv[l]);
    s->device->free(d, s->addresses);
    ht_free(s->use);
    ht_free(s->matrix);
    ht_free(s->vector);
    ht_free(s->kv);
    ht_resident_close(&s->views);
    ht_free(s);
}

static const ht_store_ops store_ops = {
    .name = "device",
    .acquire = store_acquire,
    .release = store_release,
    .kv_acquire = store_kv_acquire,
    .kv_release = store_kv_release,
    .kv_copy = store_kv_copy,
    .close = store_close,
};

static int open_host_side(device_store *s, ht_error *err)
{
    size_t tensors = (size_t)s->model->dir->n_tensors, layers = (size_t)ht_share_layers(&s->base.share);
    ht_device *d = &s->gpu->device;
    int r = 0;

    s->use = ht_calloc(tensors, 1);
    s->matrix = ht_calloc(tensors, sizeof *s->matrix);
    s->vector = ht_calloc(tensors, sizeof *s->vector);
    s->kv = ht_calloc(layers + 1, sizeof *s->kv); /* a share may have no layers */
    if (!s->use || !s->matrix || !s->vector || !s->kv)
        return ht_fail(err, -ENOMEM, "out of memory opening the store of %s", s->model->name);
    ht_resident_mark(s->model, &s->base.share, s->use);
    r = s->device->stream_open(d, "upload", &s->stream, err);
    for (int i = 0; i < PIECES && r >= 0; i++) {
        r = s->device->alloc_pinned(d, PIECE_BYTES, "staging", &s->pinned[i], err);
        if (r >= 0) r = s->device->event_open(d, &s->sent[i], err);
    }
    return r;
}

int ht_device_store_open(ht_store **out, const ht_device_store_options *o, ht_error *err)
{
    ht_device_store_plan plan;

    *out = NULL;
    int r = ht_device_store_plan_make(&plan, o, err);
    if (r >= 0) r = check_fit(o, &plan, err);
    if (r < 0) return r;
    device_store *s = ht_calloc(1, sizeof *s);
    if (!s) return ht_fail(err, -ENOMEM, "out of memory opening the store of %s", o->model->name);
    s->base = (ht_store){.ops = &store_ops, .kv = o->kv, .kv_pages = o->kv_pages, .share = share_of(o)};
    s->model = o->model;
    s->gpu = o->gpu;
    s->device = o->gpu->device.ops;
    r = open_host_side(s, err);
    if (r >= 0) r = upload_tensors(s, o->quiet, err);
    if (r >= 0) r = open_kv(s, err);
    if (r >= 0) r = s->device->stream_sync(&s->gpu->device, s->stream, err);
    if (r >= 0)
        r = ht_resident_open(&s->views, s->model, &s->base.share,
                             &(ht_resident_bytes){.matrix = (const void *const *)s->matrix,
                                                  .vector = (const float *const *)s->vector},
                             err);
    if (r < 0) {
        store_close(&s->base);
        return r;
    }
    drop_staging(s);
    *out = &s->base;
    return 0;
}
