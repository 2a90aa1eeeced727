/* The RAM store: see ram_store.h. Everything is there before the first acquire, so a lease is a copy of a few
 * pointers that were worked out at open, and its event has always happened. */
#include "offload/ram_store.h"

#include "core/base/arith.h"
#include "core/base/memory.h"
#include "offload/load.h"

#include <string.h>

typedef struct ram_store {
    ht_store base;                       /* first */
    const ht_model *model;               /* borrowed */
    ht_loaded loaded;
    float **vectors;                     /* [n_tensors]: F32 copies of small tensors; NULL: not a vector */
    ht_embedding_weights embedding;
    ht_output_weights output;
    ht_attention_weights *attention;     /* [n_layers] */
    ht_ffn_weights *ffn;                 /* [n_layers], all neurons of all experts */
    uint8_t *kv;                         /* [n_layers][kv_pages][page_bytes] */
    size_t kv_bytes;
    void **page;                         /* [n_layers][kv_pages]: addresses in kv */
} ram_store;

/* ---- building the views --------------------------------------------------------------------------------- */

static ht_matrix matrix_of(const ram_store *s, ht_tensor_ref ref)
{
    if (ref.tensor < 0) return (ht_matrix){0};
    const ht_tensor_info *t = &s->model->dir->tensors[ref.tensor];
    size_t row_bytes = ht_row_bytes(ht_type_get(t->type), t->dim[0]);
    return (ht_matrix){
        .data = (const uint8_t *)ht_loaded_tensor(&s->loaded, t) + (size_t)ref.row * row_bytes,
        .type = t->type,
        .rows = ref.rows,
        .cols = t->dim[0],
        .row_bytes = row_bytes,
    };
}

/* Vectors are copied as F32, once a tensor: files may hold them in any type and at any alignment. */
static int vector_of(ram_store *s, ht_tensor_ref ref, const float **out, ht_error *err)
{
    *out = NULL;
    if (ref.tensor < 0) return 0;
    const ht_tensor_info *t = &s->model->dir->tensors[ref.tensor];
    if (!s->vectors[ref.tensor]) {
        int64_t n = t->dim[0] * t->dim[1] * t->dim[2] * t->dim[3];
        float *v = ht_alloc_aligned((size_t)n * sizeof *v, 64);
        if (!v) return ht_fail(err, -ENOMEM, "%s: out of memory", t->name);
        ht_type_get(t->type)->dequantize(ht_loaded_tensor(&s->loaded, t), v, n);
        s->vectors[ref.tensor] = v;
    }
    *out = s->vectors[ref.tensor] + ref.row;
    return 0;
}

static int build_layer(ram_store *s, int32_t layer, ht_error *err)
{
    const ht_layer_refs *r = &s->model->layers[layer];
    ht_attention_weights *a = &s->attention[layer];
    ht_ffn_weights *f = &s->ffn[layer];
    const struct { ht_tensor_ref ref; const float **out; } vectors[] = {
        {r->attn_norm, &a->norm}, {r->attn_norm_bias, &a->norm_bias},
        {r->q_bias, &a->q_bias},  {r->k_bias, &a->k_bias},
        {r->v_bias, &a->v_bias},  {r->q_norm, &a->q_norm},
        {r->k_norm, &a->k_norm},  {r->o_bias, &a->o_bias},
        {r->ffn_norm, &f->norm},  {r->ffn_norm_bias, &f->norm_bias},
        {r->gate_bias, &f->gate_bias}, {r->up_bias, &f->up_bias},
        {r->down_bias, &f->down_bias},
        {{.tensor = s->model->shape.rope.freqs}, &a->rope_freqs},
    };
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        int result = vector_of(s, vectors[i].ref, vectors[i].out, err);
        if (result < 0) return result;
    }
    a->q = matrix_of(s, r->q);
    a->k = matrix_of(s, r->k);
    a->v = matrix_of(s, r->v);
    a->o = matrix_of(s, r->o);
    f->router = matrix_of(s, r->router);
    f->gate = matrix_of(s, r->gate);
    f->up = matrix_of(s, r->up);
    f->down = matrix_of(s, r->down);
    return 0;
}

static int build_views(ram_store *s, ht_error *err)
{
    const ht_model *m = s->model;
    s->embedding.table = matrix_of(s, m->embd);
    s->output.head = matrix_of(s, m->output);
    int result = vector_of(s, m->output_norm, &s->output.norm, err);
    if (result >= 0) result = vector_of(s, m->output_norm_bias, &s->output.norm_bias, err);
    for (int32_t i = 0; i < m->shape.n_layers && result >= 0; i++) result = build_layer(s, i, err);
    return result;
}

static int build_kv(ram_store *s, ht_error *err)
{
    size_t pages, bytes;
    if (!ht_mul_size((size_t)s->model->shape.n_layers, (size_t)s->base.kv_pages, &pages) ||
        !ht_mul_size(pages, s->base.kv.page_bytes, &bytes))
        return ht_fail(err, -EINVAL, "%d KV pages of %zu bytes are too many", s->base.kv_pages, s->base.kv.page_bytes);
    s->page = ht_alloc(pages, sizeof *s->page);
    s->kv = bytes ? ht_alloc_pages(bytes) : NULL;
    s->kv_bytes = bytes;
    if (!s->page || (bytes && !s->kv))
        return ht_fail(err, -ENOMEM, "no memory for %.2f GiB of KV cache", (double)bytes / (1 << 30));
    for (size_t i = 0; i < pages; i++) s->page[i] = s->kv + i * s->base.kv.page_bytes;
    return 0;
}

/* ---- the port ------------------------------------------------------------------------------------------- */

/* Neurons [nb, ne): rows of gate and up, columns of down. A part of the neurons is lent of one expert at a time,
 * because the experts' parts do not follow each other in memory. */
static int lend_ffn(const ram_store *s, const ht_unit *u, ht_ffn_weights *out, ht_error *err)
{
    const ht_shape *shape = &s->model->shape;
    int32_t f = shape->n_ff, experts = u->expert_end - u->expert_begin, neurons = u->neuron_end - u->neuron_begin;
    if (u->expert_begin < 0 || u->expert_end > shape->n_experts || experts < 1 || u->neuron_begin < 0 ||
        u->neuron_end > f || neurons < 0 || (neurons != f && experts != 1))
        return ht_fail(err, -EINVAL, "layer %d: no such FFN range: experts [%d, %d), neurons [%d, %d)", u->layer,
                       u->expert_begin, u->expert_end, u->neuron_begin, u->neuron_end);
    *out = s->ffn[u->layer];
    const ht_type_info *down = ht_type_get(out->down.type);
    if (u->neuron_begin % down->block_len || neurons % down->block_len)
        return ht_fail(err, -EINVAL, "layer %d: neurons [%d, %d) cut blocks of %s in ffn_down", u->layer, u->neuron_begin,
                       u->neuron_end, down->name);
    int64_t row = (int64_t)u->expert_begin * f + u->neuron_begin;
    ht_matrix *rows[2] = {&out->gate, &out->up};
    for (int i = 0; i < 2; i++) {
        if (!rows[i]->data) continue;
        rows[i]->data = (const uint8_t *)rows[i]->data + (size_t)row * rows[i]->row_bytes;
        rows[i]->rows = (int64_t)experts * neurons;
    }
    if (out->gate_bias) out->gate_bias += row;
    if (out->up_bias) out->up_bias += row;
    if (out->down_bias) out->down_bias += (int64_t)u->expert_begin * shape->n_embd;
    out->down.data = (const uint8_t *)out->down.data +
                     (size_t)u->expert_begin * (size_t)shape->n_embd * out->down.row_bytes +
                     ht_row_bytes(down, u->neuron_begin);
    out->down.rows = (int64_t)experts * shape->n_embd;
    out->down.cols = neurons;
    return 0;
}

static int ram_acquire(ht_store *store, const ht_unit *unit, ht_lease *out, ht_error *err)
{
    ram_store *s = (ram_store *)store;
    *out = (ht_lease){0};
    if ((unit->kind == HT_UNIT_ATTENTION || unit->kind == HT_UNIT_FFN) &&
        (unit->layer < 0 || unit->layer >= s->model->shape.n_layers))
        return ht_fail(err, -EINVAL, "no layer %d", unit->layer);
    switch (unit->kind) {
    case HT_UNIT_EMBEDDING: out->u.embedding = s->embedding; return 0;
    case HT_UNIT_ATTENTION: out->u.attention = s->attention[unit->layer]; return 0;
    case HT_UNIT_FFN: return lend_ffn(s, unit, &out->u.ffn, err);
    case HT_UNIT_OUTPUT: out->u.output = s->output; return 0;
    }
    return ht_fail(err, -EINVAL, "no unit kind %d", (int)unit->kind);
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
    if (layer < 0 || layer >= s->model->shape.n_layers) return ht_fail(err, -EINVAL, "no layer %d", layer);
    *out = (ht_kv_lease){.page = s->page + (size_t)layer * (size_t)store->kv_pages};
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
    for (int32_t layer = 0; layer < s->model->shape.n_layers; layer++) {
        void **page = s->page + (size_t)layer * (size_t)store->kv_pages;
        memcpy(page[to], page[from], store->kv.page_bytes);
    }
    return 0;
}

static void ram_close(ht_store *store)
{
    ram_store *s = (ram_store *)store;
    if (!s) return;
    if (s->vectors)
        for (int32_t i = 0; i < s->model->dir->n_tensors; i++) ht_free(s->vectors[i]);
    ht_free(s->vectors);
    ht_free(s->attention);
    ht_free(s->ffn);
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
    s->base = (ht_store){.ops = &ram_ops, .kv = options->kv, .kv_pages = options->kv_pages};
    s->model = m;
    s->vectors = ht_calloc((size_t)m->dir->n_tensors, sizeof *s->vectors);
    s->attention = ht_calloc((size_t)m->shape.n_layers, sizeof *s->attention);
    s->ffn = ht_calloc((size_t)m->shape.n_layers, sizeof *s->ffn);
    if (!s->vectors || !s->attention || !s->ffn) {
        ht_fail(err, result, "out of memory opening the store of %s", m->name);
        goto fail;
    }
    result = ht_load(&s->loaded, m->dir, options->load, options->quiet, stats ? stats : &ignored, err);
    if (result < 0) goto fail;
    result = build_views(s, err);
    if (result < 0) goto fail;
    result = build_kv(s, err);
    if (result < 0) goto fail;
    *out = &s->base;
    return 0;
fail:
    ram_close(&s->base);
    return result;
}
