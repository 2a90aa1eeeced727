/* The tiny model: see tiny_model.h. Memory is the C library's: the allocation hooks watch the engine. */
#include "tests/support/tiny_model.h"

#include "core/base/random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct tiny_store {
    ht_store base;               /* first */
    ht_shape shape;
    float **owned;               /* every weight, to be freed */
    int32_t n_owned;
    ht_embedding_weights embedding;
    ht_output_weights output;
    ht_attention_weights *attention;
    ht_ffn_weights *ffn;
    void **page;                 /* [n_layers][kv_pages] */
} tiny_store;

void ht_tiny_model_init(ht_model *out)
{
    *out = (ht_model){
        .shape =
            {
                .n_layers = 2,
                .n_embd = 32,
                .n_ff = 48,
                .n_heads = 4,
                .n_kv_heads = 2,
                .head_dim = 8,
                .n_vocab = 97,
                .n_context = 512,
                .n_experts = 1,
                .norm = HT_NORM_RMS,
                .norm_eps = 1e-5f,
                .activation = HT_SILU,
                .gated = true,
                .embd_scale = 1,
                .rope = {.pairing = HT_ROPE_INTERLEAVED, .dims = 8, .base = 10000, .factor = 1, .attn_factor = 1, .freqs = -1},
            },
    };
}

static float *random_floats(tiny_store *s, int64_t n, double mean, double spread)
{
    float *v = malloc((size_t)n * sizeof *v);
    for (int64_t i = 0; i < n; i++)
        v[i] = (float)(mean + spread * ht_random_normal(7, (uint64_t)s->n_owned, (uint64_t)i, 0));
    s->owned[s->n_owned++] = v;
    return v;
}

static ht_matrix random_matrix(tiny_store *s, int64_t rows, int64_t cols, double gain)
{
    return (ht_matrix){
        .data = random_floats(s, rows * cols, 0, gain / sqrt((double)cols)),
        .type = HT_F32,
        .rows = rows,
        .cols = cols,
        .row_bytes = (size_t)cols * sizeof(float),
    };
}

static void fill(tiny_store *s)
{
    const ht_shape *p = &s->shape;
    int64_t d = p->n_embd, f = p->n_ff, he = p->n_heads * p->head_dim, ge = p->n_kv_heads * p->head_dim;

    s->embedding.table = random_matrix(s, p->n_vocab, d, 5);
    s->output.norm = random_floats(s, d, 1, 0.1);
    s->output.head = random_matrix(s, p->n_vocab, d, 2);
    for (int32_t l = 0; l < p->n_layers; l++) {
        s->attention[l] = (ht_attention_weights){
            .norm = random_floats(s, d, 1, 0.1),
            .q = random_matrix(s, he, d, 2),
            .k = random_matrix(s, ge, d, 2),
            .v = random_matrix(s, ge, d, 1),
            .o = random_matrix(s, d, he, 1),
            .k_bias = random_floats(s, ge, 0, 0.1),
            .post_norm = p->post_norms ? random_floats(s, d, 1, 0.1) : NULL,
        };
        s->ffn[l] = (ht_ffn_weights){
            .norm = random_floats(s, d, 1, 0.1),
            .gate = random_matrix(s, f, d, 1),
            .up = random_matrix(s, f, d, 1),
            .down = random_matrix(s, d, f, 1),
            .down_bias = random_floats(s, d, 0, 0.1),
            .post_norm = p->post_norms ? random_floats(s, d, 1, 0.1) : NULL,
        };
    }
}

static int tiny_acquire(ht_store *store, const ht_unit *unit, ht_lease *out, ht_error *err)
{
    const tiny_store *s = (const tiny_store *)store;
    (void)err;
    *out = (ht_lease){0};
    switch (unit->kind) {
    case HT_UNIT_EMBEDDING: out->u.embedding = s->embedding; break;
    case HT_UNIT_ATTENTION: out->u.attention = s->attention[unit->layer]; break;
    case HT_UNIT_FFN: out->u.ffn = s->ffn[unit->layer]; break;
    case HT_UNIT_OUTPUT: out->u.output = s->output; break;
    }
    return 0;
}

static void tiny_release(ht_store *store, ht_lease *lease)
{
    (void)store;
    *lease = (ht_lease){0};
}

static int tiny_kv_acquire(ht_store *store, int32_t layer, const int32_t *ids, int32_t n, int32_t first_written,
                           ht_kv_lease *out, ht_error *err)
{
    const tiny_store *s = (const tiny_store *)store;
    for (int32_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= store->kv_pages) return ht_fail(err, -EINVAL, "no page %d", ids[i]);
    if (first_written < 0 || first_written > n) return ht_fail(err, -EINVAL, "page %d of %d", first_written, n);
    *out = (ht_kv_lease){.page = s->page + (size_t)layer * (size_t)store->kv_pages};
    return 0;
}

static void tiny_kv_release(ht_store *store, ht_kv_lease *lease)
{
    (void)store;
    *lease = (ht_kv_lease){0};
}

static int tiny_kv_copy(ht_store *store, int32_t from, int32_t to, ht_error *err)
{
    const tiny_store *s = (const tiny_store *)store;
    (void)err;
    for (int32_t l = 0; l < s->shape.n_layers; l++) {
        void **page = s->page + (size_t)l * (size_t)store->kv_pages;
        memcpy(page[to], page[from], store->kv.page_bytes);
    }
    return 0;
}

static void tiny_close(ht_store *store)
{
    tiny_store *s = (tiny_store *)store;
    for (int32_t i = 0; i < s->n_owned; i++) free(s->owned[i]);
    for (int64_t i = 0; i < (int64_t)s->shape.n_layers * store->kv_pages; i++) free(s->page[i]);
    free(s->owned);
    free(s->page);
    free(s->attention);
    free(s->ffn);
    free(s);
}

static const ht_store_ops tiny_ops = {
    .name = "tiny",
    .acquire = tiny_acquire,
    .release = tiny_release,
    .kv_acquire = tiny_kv_acquire,
    .kv_release = tiny_kv_release,
    .kv_copy = tiny_kv_copy,
    .close = tiny_close,
};

int ht_tiny_store_open(ht_store **out, const ht_model *model, const ht_kv_layout *kv, int32_t kv_pages, ht_error *err)
{
    size_t layers = (size_t)model->shape.n_layers, pages = layers * (size_t)kv_pages;
    tiny_store *s = calloc(1, sizeof *s);

    (void)err;
    s->base = (ht_store){.ops = &tiny_ops, .kv = *kv, .kv_pages = kv_pages, .share = ht_share_all(&model->shape)};
    s->shape = model->shape;
    s->owned = calloc(3 + 16 * layers, sizeof *s->owned);
    s->attention = calloc(layers, sizeof *s->attention);
    s->ffn = calloc(layers, sizeof *s->ffn);
    s->page = calloc(pages, sizeof *s->page);
    for (size_t i = 0; i < pages; i++) memset(s->page[i] = malloc(kv->page_bytes), 0xff, kv->page_bytes); /* NaN */
    fill(s);
    *out = &s->base;
    return 0;
}
