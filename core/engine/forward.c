/* The forward pass, layer by layer. */
#include "core/engine/forward.h"

#include "core/base/arith.h"
#include "core/base/math.h"
#include "core/base/memory.h"

#include <math.h>
#include <string.h>

/* ---- open and close ------------------------------------------------------------------------------------- */

/* Steps of a layer in which buffers live. x lives through all of them; the last one is the output, where x is read again
 * for every slice of logits. Divisors stay from pass to pass. */
typedef enum place { PROJECT, ROPE, ATTEND, ADD_ATTENTION, FFN, ADD_FFN, OUTPUT } place;

typedef struct buffer { float **at; int64_t columns, width; place first, last; } buffer;

static int32_t logit_columns(const ht_ops_limits *lim)
{
    return lim->columns < HT_LOGIT_COLUMNS ? lim->columns : HT_LOGIT_COLUMNS;
}

/* All that a pass needs in a backend's memory. */
static void list_buffers(ht_forward_site *f, const ht_ops_limits *lim, bool output, buffer out[HT_FORWARD_BUFFERS])
{
    const ht_shape *s = &lim->shape;
    int64_t n = lim->columns, m = output ? logit_columns(lim) : 0, he = (int64_t)s->n_heads * s->head_dim,
            ge = (int64_t)s->n_kv_heads * s->head_dim, wide = s->post_norms ? ht_max_i64(he, s->n_embd) : he;
    const buffer list[HT_FORWARD_BUFFERS] = {
        {&f->x, n, s->n_embd, PROJECT, OUTPUT},
        {&f->q, n, wide, PROJECT, s->post_norms ? ADD_FFN : ATTEND},
        {&f->k, n, ge, PROJECT, ROPE},
        {&f->v, n, ge, PROJECT, ROPE},
        {&f->mixed, n, he, ATTEND, ADD_ATTENTION},
        {&f->hidden, n, s->n_ff, FFN, ADD_FFN},
        {&f->chosen, m, s->n_embd, OUTPUT, OUTPUT},
        {&f->logits, m, s->n_vocab, OUTPUT, OUTPUT},
        {&f->divisors, 1, s->rope.divisors ? s->rope.dims / 2 : 0, PROJECT, OUTPUT},
    };
    memcpy(out, list, sizeof(list));
}

int ht_forward_buffers(const ht_ops_limits *limits, bool output, ht_arena_item out[HT_FORWARD_BUFFERS], size_t *bytes,
                       ht_error *err)
{
    ht_forward_site unused;
    buffer list[HT_FORWARD_BUFFERS];
    size_t sum = 0;

    list_buffers(&unused, limits, output, list);
    for (int i = 0; i < HT_FORWARD_BUFFERS; i++) {
        int64_t n;
        out[i] = (ht_arena_item){.first = (int32_t)list[i].first, .last = (int32_t)list[i].last};
        if (!ht_mul_i64(list[i].columns, list[i].width, &n) || !ht_mul_size((size_t)n, sizeof(float), &out[i].bytes) ||
            !ht_add_size(sum, out[i].bytes, &sum) || sum > SIZE_MAX / 4)
            return ht_fail(err, -ENOMEM, "the buffers of a pass of %d columns are too large", limits->columns);
    }
    *bytes = ht_arena_plan(out, HT_FORWARD_BUFFERS, HT_FORWARD_ALIGN);
    return 0;
}

int ht_forward_bytes(const ht_ops_limits *limits, bool output, size_t align, size_t *out, ht_error *err)
{
    ht_arena_item items[HT_FORWARD_BUFFERS];
    size_t bytes;

    *out = 0;
    int r = ht_forward_buffers(limits, output, items, &bytes, err);
    if (r >= 0) *out = ht_align_up(bytes, align);
    return r;
}

static int alloc_buffers(ht_forward_site *f, ht_error *err)
{
    const ht_ops_limits *lim = &f->backend->limits;
    const bool output = f->store->share.output;
    buffer list[HT_FORWARD_BUFFERS];
    ht_arena_item items[HT_FORWARD_BUFFERS];
    size_t bytes;
    void *p = NULL;

    int r = ht_forward_buffers(lim, output, items, &bytes, err);
    if (r >= 0) r = f->backend->ops->alloc(f->backend, bytes, &p, err);
    if (r < 0) return r;
    f->arena = p;
    list_buffers(f, lim, output, list);
    for (int i = 0; i < HT_FORWARD_BUFFERS; i++)
        if (list[i].columns && list[i].width) *list[i].at = (float *)(void *)(f->arena + items[i].offset);
    if (!f->divisors) return 0;
    return f->backend->ops->upload(f->backend, f->divisors, lim->shape.rope.divisors,
                                   (size_t)lim->shape.rope.dims / 2 * sizeof(float), err);
}

static int alloc_host_side(ht_forward *f, ht_error *err)
{
    const ht_ops_limits *lim = &f->site[0].backend->limits;
    size_t pages = (size_t)f->site[0].store->kv_pages, values, stream;

    f->units = ht_calloc((size_t)f->n_units, sizeof(*f->units));
    f->page_ids = ht_alloc(pages, sizeof(*f->page_ids));
    f->page_use = ht_calloc(pages, sizeof(*f->page_use));
    if (!ht_mul_size((size_t)f->logit_columns, (size_t)lim->shape.n_vocab, &values) ||
        !ht_mul_size((size_t)lim->columns, (size_t)lim->shape.n_embd, &stream) || !f->units || !f->page_ids || !f->page_use ||
        !(f->host_logits = ht_alloc(values, sizeof(float))) ||
        (f->n_sites > 1 && !(f->carried = ht_alloc(stream, sizeof(float)))))
        return ht_fail(err, -ENOMEM, "out of memory for the buffers of the forward pass");
    return 0;
}

/* In the order of a pass. */
static void list_units(ht_forward *f)
{
    int32_t u = 0;

    for (int32_t i = 0; i < f->n_sites; i++) {
        ht_forward_site *site = &f->site[i];
        const ht_share *share = &site->store->share;
        site->first = u;
        if (share->embedding) f->units[u++] = (ht_unit){.kind = HT_UNIT_EMBEDDING};
        for (int32_t l = share->layer_begin; l < share->layer_end; l++) {
            f->units[u++] = (ht_unit){.kind = HT_UNIT_ATTENTION, .layer = l};
            f->units[u++] = (ht_unit){.kind = HT_UNIT_FFN, .layer = l, .expert_end = 1,
                                      .neuron_end = site->backend->limits.shape.n_ff};
        }
        if (share->output) f->units[u++] = (ht_unit){.kind = HT_UNIT_OUTPUT};
        site->n_units = u - site->first;
    }
}

static int check_sites(const ht_site *sites, int32_t n, ht_error *err)
{
    const ht_shape *shape = &sites[0].backend->limits.shape;
    int32_t layer = 0;

    if (n > HT_MOST_SITES) return ht_fail(err, -EINVAL, "%d sites are more than %d", n, HT_MOST_SITES);
    for (int32_t i = 0; i < n; i++) {
        const ht_share *share = &sites[i].store->share;
        if (share->layer_begin != layer || share->layer_end < layer || share->embedding != (i == 0) ||
            share->output != (i == n - 1))
            return ht_fail(err, -EINVAL, "site %d has layers [%d, %d)%s%s where layer %d comes next", i, share->layer_begin,
                           share->layer_end, share->embedding ? ", the embedding" : "", share->output ? ", the output" : "",
                           layer);
        if (sites[i].store->kv_pages != sites[0].store->kv_pages)
            return ht_fail(err, -EINVAL, "site %d has %d KV pages, the first one %d", i, sites[i].store->kv_pages,
                           sites[0].store->kv_pages);
        if (shape->post_norms && !sites[i].backend->ops->add_norm)
            return ht_fail(err, -ENOTSUP, "norms after attention and FFN (gemma-2, gemma-3) cannot be computed by the "
                           "backend \"%s\" yet", sites[i].backend->ops->name);
        layer = share->layer_end;
    }
    if (layer != shape->n_layers) return ht_fail(err, -EINVAL, "the sites have %d of %d layers", layer, shape->n_layers);
    if (shape->n_experts != 1) return ht_fail(err, -ENOTSUP, "models with %d experts cannot be run yet", shape->n_experts);
    return 0;
}

int ht_forward_open(ht_forward *f, const ht_site *sites, int32_t n_sites, ht_error *err)
{
    const ht_ops_limits *lim = &sites[0].backend->limits;

    *f = (ht_forward){0};
    int r = check_sites(sites, n_sites, err);
    if (r < 0) return r;
    f->n_sites = n_sites;
    f->n_units = 2 * lim->shape.n_layers + 2;
    f->logit_columns = logit_columns(lim);
    for (int32_t i = 0; i < n_sites; i++)
        f->site[i] = (ht_forward_site){.backend = sites[i].backend, .store = sites[i].store};
    r = alloc_host_side(f, err);
    for (int32_t i = 0; i < n_sites && r >= 0; i++) r = alloc_buffers(&f->site[i], err);
    if (r < 0) {
        ht_forward_close(f);
        return r;
    }
    list_units(f);
    return 0;
}

void ht_forward_close(ht_forward *f)
{
    for (int32_t i = 0; i < f->n_sites; i++)
        if (f->site[i].arena) f->site[i].backend->ops->free(f->site[i].backend, f->site[i].arena);
    ht_free(f->units);
    ht_free(f->carried);
    ht_free(f->host_logits);
    ht_free(f->page_ids);
    ht_free(f->page_use);
    *f = (ht_forward){0};
}

/* ---- leases --------------------------------------------------------------------------------------------- */

static int borrow(ht_forward_site *f, const ht_unit *unit, ht_lease *lease, ht_error *err)
{
    int r = f->store->ops->acquire(f->store, unit, lease, err);
    if (r < 0) return r;
    r = f->backend->ops->await(f->backend, lease->ready, err);
    if (r < 0) f->store->ops->release(f->store, lease);
    return r;
}

typedef struct page_list { const int32_t *ids; int32_t n, first_written; } page_list;

/* The pages that the step reads or writes, each once: first those only read, then those written too. Sequences share
 * pages only to read them. */
static page_list list_pages(ht_forward *f, const ht_step *step)
{
    enum { READ = 1, WRITTEN = 2 };
    int32_t begin[2] = {0, 0}, n = 0;

    for (int32_t c = 0; c < step->n; c++)
        f->page_use[step->pages[step->sequence[c]][step->position[c] / HT_KV_TILE]] = WRITTEN;
    for (uint8_t use = READ; use <= WRITTEN; use++) {
        begin[use - 1] = n;
        for (int32_t s = 0; s < step->n_sequences; s++) {
            int32_t pages = ht_kv_pages_of(step->length[s]);
            for (int32_t i = 0; i < pages; i++) {
                int32_t id = step->pages[s][i];
                if (use == READ && f->page_use[id] == 0) {
                    f->page_use[id] = READ;
                    f->page_ids[n++] = id;
                } else if (use == WRITTEN && f->page_use[id] == WRITTEN) {
                    f->page_use[id] = READ; /* listed */
                    f->page_ids[n++] = id;
                }
            }
        }
    }
    for (int32_t i = 0; i < n; i++) f->page_use[f->page_ids[i]] = 0;
    return (page_list){f->page_ids, n, begin[1]};
}

/* ---- layers --------------------------------------------------------------------------------------------- */

static ht_norm norm_of(const ht_shape *s, const float *gain, const float *bias)
{
    return (ht_norm){.kind = s->norm, .eps = s->norm_eps, .gain = gain, .bias = bias};
}

/* x += W y + bias, or, with a norm of the result, x += norm(W y + bias) by way of q, which is free by then. */
static void add_result(const ht_forward_site *f, const ht_matrix *w, const float *bias, const float *post_norm, const float *y)
{
    const ht_ops *ops = f->backend->ops;
    const ht_shape *s = &f->backend->limits.shape;

    if (!post_norm) {
        ops->add_project(f->backend, &(ht_add_project_args){.x = f->x, .w = *w, .bias = bias, .y = y});
        return;
    }
    ops->project(f->backend, &(ht_project_args){.x = y, .n_out = 1, .w = {*w}, .bias = {bias}, .y = {f->q}});
    ops->add_norm(f->backend, &(ht_add_norm_args){.x = f->x, .y = f->q, .norm = norm_of(s, post_norm, NULL)});
}

static void compute_attention(const ht_forward_site *f, const ht_attention_weights *w, int32_t layer, void *const *page)
{
    const ht_ops *ops = f->backend->ops;
    const ht_shape *s = &f->backend->limits.shape;
    bool local = ht_layer_is_local(s, layer);

    ops->project(f->backend, &(ht_project_args){.x = f->x,
                                                .norm = norm_of(s, w->norm, w->norm_bias),
                                                .n_out = 3,
                                                .w = {w->q, w->k, w->v},
                                                .bias = {w->q_bias, w->k_bias, w->v_bias},
                                                .y = {f->q, f->k, f->v}});
    ops->rope_append(f->backend, &(ht_rope_append_args){.q = f->q,
                                                        .k = f->k,
                                                        .v = f->v,
                                                        .q_norm = w->q_norm,
                                                        .k_norm = w->k_norm,
                                                        .norm_eps = s->norm_eps,
                                                        .freqs = f->divisors ? f->divisors : w->rope_freqs,
                                                        .local_base = local ? s->rope_local_base : 0.0f,
                                                        .page = page});
    ops->attention(f->backend, &(ht_attention_args){.q = f->q,
                                                    .page = page,
                                                    .scale = s->attn_scale > 0.0f ? s->attn_scale
                                                                                  : 1.0f / sqrtf((float)s->head_dim),
                                                    .softcap = s->attn_softcap,
                                                    .window = local ? s->window : 0,
                                                    .out = f->mixed});
    add_result(f, &w->o, w->o_bias, w->post_norm, f->mixed);
}

/* x += attention(norm(x)) */
static int run_attention(ht_forward_site *f, const ht_unit *unit, const page_list *pages, ht_error *err)
{
    const ht_store_ops *store = f->store->ops;
    ht_lease lease;
    ht_kv_lease kv;

    /* Both are asked for before either is awaited, so that they arrive beside each other. */
    int r = store->acquire(f->store, unit, &lease, err);
    if (r < 0) return r;
    r = store->kv_acquire(f->store, unit->layer, pages->ids, pages->n, pages->first_written, &kv, err);
    if (r >= 0) {
        r = f->backend->ops->await(f->backend, lease.ready, err);
        if (r >= 0) r = f->backend->ops->await(f->backend, kv.ready, err);
        if (r >= 0) compute_attention(f, &lease.u.attention, unit->layer, kv.page);
        store->kv_release(f->store, &kv);
    }
    store->release(f->store, &lease);
    return r;
}

/* x += down h + bias, h = act(gate norm(x)) * up norm(x) */
static int run_ffn(ht_forward_site *f, const ht_unit *unit, ht_error *err)
{
    const ht_ops *ops = f->backend->ops;
    const ht_shape *s = &f->backend->limits.shape;
    ht_lease lease;

    int r = borrow(f, unit, &lease, err);
    if (r < 0) return r;
    const ht_ffn_weights *w = &lease.u.ffn;
    ops->ffn(f->backend, &(ht_ffn_args){.x = f->x,
                                        .norm = norm_of(s, w->norm, w->norm_bias),
                                        .gate = w->gate,
                                        .up = w->up,
                                        .gate_bias = w->gate_bias,
                                        .up_bias = w->up_bias,
                                        .activation = s->activation,
                                        .h = f->hidden});
    add_result(f, &w->down, w->down_bias, w->post_norm, f->hidden);
    f->store->ops->release(f->store, &lease);
    return 0;
}

static int run_embedding(ht_forward_site *f, const ht_unit *unit, ht_error *err)
{
    ht_lease lease;

    int r = borrow(f, unit, &lease, err);
    if (r < 0) return r;
    f->backend->ops->embed(f->backend, &lease.u.embedding.table, f->backend->limits.shape.embd_scale, f->x);
    f->store->ops->release(f->store, &lease);
    return 0;
}

static void cap_logits(float *v, int64_t n, float cap)
{
    for (int64_t i = 0; i < n; i++) v[i] = ht_softcapf(v[i], cap);
}

/* Logits of the wanted columns, a slice at a time. */
static int run_output(ht_forward *f, ht_forward_site *site, const ht_unit *unit, const ht_pass *pass, ht_error *err)
{
    const ht_ops *ops = site->backend->ops;
    const ht_shape *s = &site->backend->limits.shape;
    ht_lease lease;

    int r = borrow(site, unit, &lease, err);
    if (r < 0) return r;
    const ht_output_weights *w = &lease.u.output;
    for (int32_t at = 0; at < pass->n_out && r >= 0; at += f->logit_columns) {
        int32_t m = pass->n_out - at < f->logit_columns ? pass->n_out - at : f->logit_columns;
        ops->select(site->backend, site->chosen, site->x, pass->out + at, m);
        ops->project(site->backend, &(ht_project_args){.x = site->chosen,
                                                       .norm = norm_of(s, w->norm, w->norm_bias),
                                                       .n_out = 1,
                                                       .w = {w->head},
                                                       .y = {site->logits}});
        size_t bytes = (size_t)m * (size_t)s->n_vocab * sizeof(float);
        r = ops->download(site->backend, f->host_logits, site->logits, bytes, err);
        if (r >= 0) r = ops->sync(site->backend, err);
        if (r >= 0 && s->logit_softcap > 0.0f) cap_logits(f->host_logits, (int64_t)m * s->n_vocab, s->logit_softcap);
        for (int32_t i = 0; i < m && r >= 0; i++)
            pass->sink(pass->user, pass->out[at + i], f->host_logits + (size_t)i * (size_t)s->n_vocab);
    }
    site->store->ops->release(site->store, &lease);
    return r;
}

/* ---- the pass ------------------------------------------------------------------------------------------- */

/* x of the step's columns from one site to the next. A failure of what was queued for it is found here, not later. */
static int carry(ht_forward *f, const ht_forward_site *from, const ht_forward_site *to, int32_t columns, ht_error *err)
{
    size_t bytes = (size_t)columns * (size_t)from->backend->limits.shape.n_embd * sizeof(float);

    int r = from->backend->ops->download(from->backend, f->carried, from->x, bytes, err);
    if (r >= 0) r = from->backend->ops->sync(from->backend, err);
    return r < 0 ? r : to->backend->ops->upload(to->backend, to->x, f->carried, bytes, err);
}

static int run_site(ht_forward *f, ht_forward_site *site, const ht_pass *pass, const page_list *pages, ht_error *err)
{
    int r = 0;

    for (int32_t u = site->first; u < site->first + site->n_units && r >= 0; u++) {
        const ht_unit *unit = &f->units[u];
        if (unit->kind == HT_UNIT_OUTPUT && pass->n_out == 0) break;
        if (unit->kind != HT_UNIT_OUTPUT && pass->cancel && atomic_load_explicit(pass->cancel, memory_order_relaxed))
            return ht_fail(err, -ECANCELED, "canceled");
        switch (unit->kind) {
        case HT_UNIT_EMBEDDING: r = run_embedding(site, unit, err); break;
        case HT_UNIT_ATTENTION: r = run_attention(site, unit, pages, err); break;
        case HT_UNIT_FFN: r = run_ffn(site, unit, err); break;
        case HT_UNIT_OUTPUT: r = run_output(f, site, unit, pass, err); break;
        }
    }
    return r;
}

static int run_sites(ht_forward *f, const ht_pass *pass, ht_error *err)
{
    const page_list pages = list_pages(f, pass->step);
    int r = 0;

    for (int32_t i = 0; i < f->n_sites && r >= 0; i++) {
        ht_forward_site *site = &f->site[i];
        r = site->backend->ops->begin(site->backend, pass->step, err);
        if (r >= 0 && i > 0) r = carry(f, site - 1, site, pass->step->n, err);
        if (r >= 0) r = run_site(f, site, pass, &pages, err);
    }
    return r;
}

/* Tells a store that runs ahead what comes, when that has changed. */
static void expect(const ht_forward *f, ht_forward_site *site, const ht_pass *pass)
{
    int32_t n = site->n_units - (site->store->share.output && pass->n_out == 0);

    if (!site->store->ops->expect || site->expected == n) return;
    site->store->ops->expect(site->store, f->units + site->first, n);
    site->expected = n;
}

int ht_forward_run(ht_forward *f, const ht_pass *pass, ht_error *err)
{
    for (int32_t i = 0; i < f->n_sites; i++) expect(f, &f->site[i], pass);
    int r = run_sites(f, pass, err);
    for (int32_t i = 0; i < f->n_sites; i++) { /* also after a failure: nothing stays queued */
        ht_forward_site *site = &f->site[i];
        int s = site->backend->ops->sync(site->backend, r < 0 ? NULL : err);
        if (r >= 0 && s < 0) r = s;
    }
    for (int32_t i = 0; i < f->n_sites && r < 0; i++) f->site[i].expected = 0; /* who ran ahead has lost its place */
    return r < 0 ? r : 0;
}
