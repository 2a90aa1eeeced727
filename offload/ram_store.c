/* The RAM store: see ram_store.h. Everything is there before the first acquire, so a lease is a copy of a few
 * pointers that were worked out at open, and its event has always happened. */
#include "offload/ram_store.h"

#include "core/base/arith.h"
#include "core/base/memory.h"
#include "core/ports/resident.h"
#include "offload/load.h"
#include "offload/weave.h"

#include <string.h>

typedef struct ram_store {
    ht_store base;                       /* first */
    const ht_model *model;               /* borrowed */
    ht_loaded loaded;
    void **copies;                       /* [n_tensors]: matrices that were not aligned, owned */
    float **vectors;                     /* [n_tensors]: F32 copies of small tensors, owned; NULL: not a vector */
    ht_resident views;
    uint8_t *use;                        /* [n_tensors]: HT_USED_AS_*, owned */
    uint8_t *kv;                         /* [layers of the share][kv_pages][page_bytes] */
    size_t kv_bytes;
    void **page;                         /* [layers of the share][kv_pages]: addresses in kv */
} ram_store;

/* Vectors are copied as F32: files may hold them in any type and at any alignment. */
static int copy_vector(ram_store *s, int32_t tensor, ht_error *err)
{
    const ht_tensor_info *t = &s->model->dir->tensors[tensor];
    int64_t n = ht_tensor_elements(t);

    s->vectors[tensor] = ht_alloc_aligned((size_t)n * sizeof **s->vectors, 64);
    if (!s->vectors[tensor]) return ht_fail(err, -ENOMEM, "%s: out of memory", t->name);
    ht_tensor_expand(t, ht_loaded_tensor(&s->loaded, t), s->vectors[tensor]);
    return 0;
}

/* Where a matrix is: kernels want it at the alignment of its elements. A GGUF has that, and safetensors as good as
 * always; what has not is copied. */
static int place_matrix(ram_store *s, int32_t tensor, const void **out, ht_error *err)
{
    const ht_tensor_info *t = &s->model->dir->tensors[tensor];
    size_t align = t->type == HT_F32 ? 4 : 2;

    *out = ht_loaded_tensor(&s->loaded, t);
    if ((uintptr_t)*out % align == 0) return 0;
    s->copies[tensor] = ht_alloc_pages(t->bytes);
    if (!s->copies[tensor]) return ht_fail(err, -ENOMEM, "%s: out of memory for an aligned copy", t->name);
    *out = memcpy(s->copies[tensor], *out, t->bytes);
    return 0;
}

static int build_views(ram_store *s, ht_error *err)
{
    const ht_tensor_dir *dir = s->model->dir;
    const void **matrix = ht_calloc((size_t)dir->n_tensors, sizeof *matrix);
    int r = matrix ? 0 : ht_fail(err, -ENOMEM, "out of memory for the views of %s", s->model->name);

    for (int32_t i = 0; i < dir->n_tensors && r >= 0; i++) {
        if (s->use[i] & HT_USED_AS_MATRIX) r = place_matrix(s, i, &matrix[i], err);
        if (r >= 0 && s->use[i] & HT_USED_AS_VECTOR) r = copy_vector(s, i, err);
    }
    if (r >= 0)
        r = ht_resident_open(&s->views, s->model, &s->base.share,
                             &(ht_resident_bytes){.matrix = matrix, .vector = (const float *const *)s->vectors}, err);
    ht_free(matrix);
    return r;
}

static bool is_mapped(const ht_loaded *loaded)
{
    for (int32_t i = 0; i < loaded->n_spans; i++)
        if (loaded->spans[i].data && !loaded->spans[i].pages) return true;
    return false;
}

static int build_kv(ram_store *s, ht_error *err)
{
    size_t pages, bytes;
    if (!ht_mul_size((size_t)ht_share_layers(&s->base.share), (size_t)s->base.kv_pages, &pages) ||
        !ht_mul_size(pages, s->base.kv.page_bytes, &bytes))
        return ht_fail(err, -EINVAL, "%d KV pages of %zu bytes are too many", s->base.kv_pages, s->base.kv.page_bytes);
    s->page = ht_alloc(pages + 1, sizeof *s->page); /* a share may have no layers */
    s->kv = bytes ? ht_alloc_pages(bytes) : NULL;
    s->kv_bytes = bytes;
    if (!s->page || (bytes && !s->kv))
        return ht_fail(err, -ENOMEM, "no memory for %.2f GiB of KV cache", (double)bytes / (1 << 30));
    for (size_t i = 0; i < pages; i++) s->page[i] = s->kv + i * s->base.kv.page_bytes;
    return 0;
}

/* ---- the port ------------------------------------------------------------------------------------------- */

static int ram_acquire(ht_store *store, const ht_unit *unit, ht_lease *out, ht_error *err)
{
    return ht_resident_lend(&((ram_store *)store)->views, unit, out, err);
}

static void ram_release(ht_store *store, ht_lease *lease)
{
    (void)store;
    *lease = (ht_lease){0};
}

static int ram_kv_acquire(ht_store *store, int32_t layer, const int32_t *ids, int32_t n, int32_t first_written,
                          ht_kv_lease *out, ht_error *err)
{
    ram_store *s = (ram_store *)store;
    (void)ids, (void)n, (void)first_written;
    if (!ht_share_has_layer(&store->share, layer)) return ht_fail(err, -EINVAL, "no KV pages of layer %d", layer);
    *out = (ht_kv_lease){.page = s->page + (size_t)(layer - store->share.layer_begin) * (size_t)store->kv_pages};
    return 0;
}

static void ram_kv_release(ht_store *store, ht_kv_lease *lease)
{
    (void)store;
    *lease = (ht_kv_lease){0};
}

static int ram_kv_copy(ht_store *store, int32_t from, int32_t to, ht_error *err)
{
    ram_store *s = (ram_store *)store;
    (void)err;
    for (int32_t i = 0; i < ht_share_layers(&store->share); i++) {
        void **page = s->page + (size_t)i * (size_t)store->kv_pages;
        memcpy(page[to], page[from], store->kv.page_bytes);
    }
    return 0;
}

static void ram_close(ht_store *store)
{
    ram_store *s = (ram_store *)store;
    if (!s) return;
    for (int32_t i = 0; i < s->model->dir->n_tensors; i++) {
        if (s->vectors) ht_free(s->vectors[i]);
        if (s->copies && s->copies[i]) ht_free_pages(s->copies[i], s->model->dir->tensors[i].bytes);
    }
    ht_free(s->vectors);
    ht_free(s->copies);
    ht_free(s->use);
    ht_resident_close(&s->views);
    ht_free(s->page);
    ht_free_pages(s->kv, s->kv_bytes);
    ht_unload(&s->loaded);
    ht_free(s);
}

static const ht_store_ops ram_ops = {
    .name = "ram",
    .acquire = ram_acquire,
    .release = ram_release,
    .kv_acquire = ram_kv_acquire,
    .kv_release = ram_kv_release,
    .kv_copy = ram_kv_copy,
    .close = ram_close,
};

int ht_ram_store_open(ht_store **out, const ht_ram_store_options *options, ht_load_stats *stats, ht_error *err)
{
    const ht_model *m = options->model;
    ht_load_stats ignored;
    int result = -ENOMEM;
    *out = NULL;
    ram_store *s = ht_calloc(1, sizeof *s);
    if (!s) return ht_fail(err, result, "out of memory opening the store of %s", m->name);
    s->base = (ht_store){.ops = &ram_ops,
                         .kv = options->kv,
                         .kv_pages = options->kv_pages,
                         .share = options->share ? *options->share : ht_share_all(&m->shape)};
    s->model = m;
    s->vectors = ht_calloc((size_t)m->dir->n_tensors, sizeof *s->vectors);
    s->copies = ht_calloc((size_t)m->dir->n_tensors, sizeof *s->copies);
    s->use = ht_calloc((size_t)m->dir->n_tensors, sizeof *s->use);
    if (!s->vectors || !s->copies || !s->use) {
        ht_fail(err, result, "out of memory opening the store of %s", m->name);
        goto fail;
    }
    ht_resident_mark(m, &s->base.share, s->use);
    result = ht_load(&s->loaded, m->dir, s->use, options->load, options->quiet, stats ? stats : &ignored, err);
    if (result < 0) goto fail;
    result = build_views(s, err);
    if (result < 0) goto fail;
    if (options->woven && !is_mapped(&s->loaded)) {
        double started = ht_now();
        result = ht_weave(&s->views, options->woven, options->pool, err);
        if (stats) stats->seconds += ht_now() - started;
    }
    if (result < 0) goto fail;
    result = build_kv(s, err);
    if (result < 0) goto fail;
    *out = &s->base;
    return 0;
fail:
    ram_close(&s->base);
    return result;
}
