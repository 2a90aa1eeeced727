/* Whole models on the device: the forward pass over weights of the right shapes and types but without content, resident
 * in device memory, so that no file is needed. Prompt tokens/s as a share of the tensor cores' rate, generated tokens/s as
 * a share of the bytes that a token has to read. */
#include "tests/gpu/gpu_check.h"

#include "core/base/memory.h"
#include "core/base/threads.h"
#include "core/engine/forward.h"
#include "core/model/types.h"
#include "gpu/backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct shape { const char *name; int32_t layers, d, f, heads, kv_heads, vocab; ht_type type; } shape;

enum { CONTEXT = 1024, PROMPT = 512, TOKENS = 32, SMALL_CONTEXT = 128, SMALL_PROMPT = 8, SMALL_TOKENS = 3 };

/* ---- a store of blanks ----------------------------------------------------------------------------------- */

typedef struct layer { void *w, *kv; } layer;

typedef struct blank_store {
    ht_store base; /* first */
    session *s;
    ht_shape shape;
    ht_type type;
    layer *layers;
    void *table, *norm, **addresses;
    int32_t n_layers;
} blank_store;

static ht_matrix matrix_at(const blank_store *b, char **at, int64_t rows, int64_t cols)
{
    const ht_type_info *t = ht_type_get(b->type);
    ht_matrix m = {.data = *at, .type = b->type, .rows = rows, .cols = cols, .row_bytes = ht_row_bytes(t, cols)};

    *at += ((size_t)rows * m.row_bytes + 255) / 256 * 256;
    return m;
}

/* The weights of a layer one after another; returns their bytes. */
static size_t lay_out(const blank_store *b, char *at, ht_attention_weights *a, ht_ffn_weights *f)
{
    const ht_shape *s = &b->shape;
    int64_t d = s->n_embd, he = (int64_t)s->n_heads * s->head_dim, ge = (int64_t)s->n_kv_heads * s->head_dim;
    char *begin = at;

    *a = (ht_attention_weights){.norm = b->norm};
    *f = (ht_ffn_weights){.norm = b->norm};
    a->q = matrix_at(b, &at, he, d), a->k = matrix_at(b, &at, ge, d), a->v = matrix_at(b, &at, ge, d);
    a->o = matrix_at(b, &at, d, he);
    f->gate = matrix_at(b, &at, s->n_ff, d), f->up = matrix_at(b, &at, s->n_ff, d), f->down = matrix_at(b, &at, d, s->n_ff);
    return (size_t)(at - begin);
}

static int acquire(ht_store *store, const ht_unit *unit, ht_lease *out, ht_error *err)
{
    blank_store *b = (blank_store *)store;
    ht_attention_weights a;
    ht_ffn_weights f;
    char *at = b->table;

    (void)err;
    *out = (ht_lease){0};
    if (unit->kind == HT_UNIT_EMBEDDING) out->u.embedding.table = matrix_at(b, &at, b->shape.n_vocab, b->shape.n_embd);
    if (unit->kind == HT_UNIT_OUTPUT) {
        out->u.output.norm = b->norm;
        out->u.output.head = matrix_at(b, &at, b->shape.n_vocab, b->shape.n_embd);
    }
    if (unit->kind != HT_UNIT_ATTENTION && unit->kind != HT_UNIT_FFN) return 0;
    lay_out(b, b->layers[unit->layer].w, &a, &f);
    if (unit->kind == HT_UNIT_ATTENTION) out->u.attention = a;
    else out->u.ffn = f;
    return 0;
}
static void release(ht_store *store, ht_lease *lease) { (void)store, (void)lease; }
static int kv_acquire(ht_store *store, int32_t l, const int32_t *ids, int32_t n, int32_t first_written, ht_kv_lease *out, ht_error *err)
{
    blank_store *b = (blank_store *)store;

    (void)ids, (void)n, (void)first_written, (void)err;
    *out = (ht_kv_lease){.page = gpu_twin(&b->s->rig, b->addresses + (ptrdiff_t)0)};
    out->page += (ptrdiff_t)l * store->kv_pages;
    return 0;
}
static void kv_release(ht_store *store, ht_kv_lease *lease) { (void)store, (void)lease; }
static const ht_store_ops blank_ops = {
    .name = "blank", .acquire = acquire, .release = release, .kv_acquire = kv_acquire, .kv_release = kv_release};

/* As many of the layers as the device holds. */
static void open_store(blank_store *b, session *s, const shape *of, const ht_ops_limits *limits, size_t others)
{
    ht_attention_weights a;
    ht_ffn_weights f;
    ht_device_memory memory;
    int32_t pages = limits->context / HT_KV_TILE;

    *b = (blank_store){.base = {.ops = &blank_ops, .kv = limits->kv, .kv_pages = pages}, .s = s, .shape = limits->shape,
                       .type = of->type};
    size_t bytes = lay_out(b, NULL, &a, &f), kv = (size_t)pages * limits->kv.page_bytes,
           table = (size_t)of->vocab * ht_row_bytes(ht_type_get(of->type), of->d);
    s->gpu->device.ops->memory(&s->gpu->device, &memory);
    size_t room = memory.budget - memory.used, fixed = others + table + ((size_t)64 << 20);
    size_t fit = room > fixed ? (room - fixed) / (bytes + kv + 512) : 0;
    b->n_layers = fit < (size_t)of->layers ? (int32_t)fit : of->layers;
    b->layers = ht_calloc((size_t)b->n_layers + 1, sizeof *b->layers);
    b->table = blank(s, table);
    b->norm = blank(s, (size_t)of->d * 4);
    b->addresses = gpu_array(&s->rig, (size_t)(b->n_layers + 1) * (size_t)pages * sizeof(void *));
    for (int32_t l = 0; l < b->n_layers; l++) {
        b->layers[l] = (layer){blank(s, bytes), blank(s, kv)};
        for (int32_t p = 0; p < pages; p++)
            b->addresses[l * pages + p] = (char *)b->layers[l].kv + (size_t)p * limits->kv.page_bytes;
    }
    gpu_push(&s->rig, b->addresses);
}

static void close_store(blank_store *b)
{
    for (int32_t l = 0; l < b->n_layers; l++) unblank(b->s, b->layers[l].w), unblank(b->s, b->layers[l].kv);
    unblank(b->s, b->table), unblank(b->s, b->norm);
    gpu_rig_reset(&b->s->rig);
    ht_free(b->layers);
}

/* ---- timing ---------------------------------------------------------------------------------------------- */

static void ignore(void *user, int32_t column, const float *logits) { (void)user, (void)column, (void)logits; }

static int smaller_first(const void *a, const void *b) { return *(const double *)a < *(const double *)b ? -1 : 1; }

/* One pass of n columns from `position` on. */
static int pass(ht_forward *f, ht_class class_, int32_t position, int32_t n, ht_error *err)
{
    static int32_t token[PROMPT], positions[PROMPT], sequence[PROMPT], pages[CONTEXT / HT_KV_TILE];
    const int32_t *const lists[] = {pages};
    int32_t length = position + n, last = n - 1;

    for (int32_t i = 0; i < n; i++) positions[i] = position + i;
    for (int32_t i = 0; i < CONTEXT / HT_KV_TILE; i++) pages[i] = i;
    const ht_step step = {.class_ = class_, .n = n, .token = token, .position = positions, .sequence = sequence,
                          .n_sequences = 1, .pages = lists, .length = &length};
    return ht_forward_run(f, &(ht_pass){.step = &step, .out = &last, .n_out = 1, .sink = ignore}, err);
}

static result *add_rate(session *s, const shape *of, const blank_store *b, const char *what)
{
    char name[64];

    if (b->n_layers < of->layers) snprintf(name, sizeof name, "%s %s (%d of %d layers)", of->name, what, b->n_layers, of->layers);
    else snprintf(name, sizeof name, "%s %s", of->name, what);
    return add_result(s, name);
}

static int time_passes(session *s, const shape *of, blank_store *b, ht_forward *f, ht_error *err)
{
    int32_t prompt = s->info.emulated ? SMALL_PROMPT : PROMPT, tokens = s->info.emulated ? SMALL_TOKENS : TOKENS;
    ht_attention_weights a;
    ht_ffn_weights w;
    double seconds[TOKENS], layers = (double)lay_out(b, NULL, &a, &w) * b->n_layers,
           head = (double)of->vocab * (double)ht_row_bytes(ht_type_get(of->type), of->d),
           parameters = (layers + head) / (double)ht_row_bytes(ht_type_get(of->type), of->d) * of->d;
    double kv = 2.0 * b->n_layers * prompt * (double)(b->base.kv.k_row_bytes + b->base.kv.v_row_bytes) / 2 * of->kv_heads;
    int r = 0;

    for (int i = 0; i < (s->info.emulated ? 1 : 4) && r >= 0; i++) {
        double t = ht_now();
        r = pass(f, HT_CLASS_BLOCK, 0, prompt, err);
        seconds[i] = ht_now() - t;
    }
    if (r < 0) return r;
    result *p = add_rate(s, of, b, s->info.emulated ? "prompt" : "prompt of 512");
    if (!s->info.emulated) qsort(seconds, 4, sizeof *seconds, smaller_first);
    p->seconds = seconds[0], p->bytes = layers + head, p->flops = 2 * parameters * prompt, p->tokens = prompt;
    p->tensor = s->tensor_rate > 0;
    for (int32_t i = -4; i < tokens && r >= 0; i++) {
        double t = ht_now();
        r = pass(f, HT_CLASS_DECODE, prompt + 4 + i, 1, err);
        if (i >= 0) seconds[i] = ht_now() - t;
    }
    if (r < 0) return r;
    result *d = add_rate(s, of, b, "decode");
    qsort(seconds, (size_t)tokens, sizeof *seconds, smaller_first);
    d->seconds = seconds[tokens / 2], d->bytes = layers + head + kv, d->flops = 2 * parameters, d->tokens = 1;
    return 0;
}

static int time_model(session *s, const shape *of, ht_error *err)
{
    ht_ops_limits limits = {
        .columns = s->info.emulated ? SMALL_PROMPT : PROMPT, .sequences = 1,
        .context = s->info.emulated ? SMALL_CONTEXT : CONTEXT,
        .shape = {.n_layers = of->layers, .n_embd = of->d, .n_ff = of->f, .n_heads = of->heads, .n_kv_heads = of->kv_heads,
                  .head_dim = 128, .n_vocab = of->vocab, .n_context = CONTEXT, .n_experts = 1, .norm_eps = 1e-5f,
                  .activation = HT_SILU, .gated = true, .embd_scale = 1,
                  .rope = {.dims = 128, .base = 1e4f, .factor = 1, .attn_factor = 1, .freqs = -1}},
    };
    blank_store store = {0};
    ht_backend *backend = NULL;
    ht_forward f = {0};
    size_t buffers = 0;

    int r = ht_kv_layout_init(&limits.kv, &limits.shape, HT_F16, HT_F16, err);
    if (r >= 0) r = ht_forward_bytes(&limits, true, HT_DEVICE_ALIGN, &buffers, err);
    if (r < 0) return r;
    open_store(&store, s, of, &limits, buffers + ht_gpu_backend_bytes(&limits));
    limits.shape.n_layers = store.n_layers;
    store.base.share = ht_share_all(&limits.shape);
    if (store.n_layers < 1) r = ht_fail(err, -ENOMEM, "no layer fits");
    if (r >= 0) r = ht_gpu_backend_open(&backend, &(ht_gpu_backend_options){.limits = limits, .gpu = s->gpu, .resident = true}, err);
    if (r >= 0) r = ht_forward_open(&f, &(ht_site){backend, &store.base}, 1, err);
    if (r >= 0) r = time_passes(s, of, &store, &f, err);
    ht_forward_close(&f);
    if (backend) backend->ops->close(backend);
    close_store(&store);
    return r;
}

void run_models(session *s)
{
    static const shape shapes[] = {
        {"7B Q4_0", 32, 4096, 11008, 32, 32, 32000, HT_Q4_0},
        {"8B Q4_K", 32, 4096, 14336, 32, 8, 128256, HT_Q4_K},
        {"70B Q4_0", 80, 8192, 28672, 64, 8, 32000, HT_Q4_0},
    };
    static const shape small = {"small Q4_0", 2, 256, 512, 2, 1, 300, HT_Q4_0};
    ht_error err = {0};

    for (size_t i = 0; i < (s->info.emulated ? 1 : sizeof shapes / sizeof *shapes); i++) {
        const shape *of = s->info.emulated ? &small : &shapes[i];
        if (!chosen(s, of->name)) continue;
        if (time_model(s, of, &err) >= 0) continue;
        add_result(s, of->name)->ok = false;
        fprintf(stderr, "  FAILED: %s\n", err.text);
    }
}
