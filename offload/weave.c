/* Weaving: see weave.h. A tile is copied aside, into the thread's cache, and woven back to where it was. */
#include "offload/weave.h"

#include "core/base/arith.h"
#include "core/base/memory.h"
#include "core/model/tiles.h"

#include <string.h>

enum { LAYER_MATRICES = 7 };

typedef struct job {
    const ht_matrix *w;
    uint8_t *aside;      /* a tile of each thread */
    size_t tile_bytes;   /* of the largest */
} job;

/* Attention and FFN of a layer; absent ones have no data. */
static void list_layer(ht_resident *r, int32_t layer, ht_matrix *out[LAYER_MATRICES])
{
    ht_attention_weights *a = &r->attention[layer];
    ht_ffn_weights *f = &r->ffn[layer];
    ht_matrix *const list[LAYER_MATRICES] = {&a->q, &a->k, &a->v, &a->o, &f->gate, &f->up, &f->down};

    memcpy(out, list, sizeof(list));
}

/* Matrices of experts follow each other, and each has to have whole tiles. */
static bool fits(const ht_resident *r, const ht_matrix *w, const bool *types)
{
    int32_t experts = r->model->shape.n_experts;

    return w->data && types[w->type] && w->rows % experts == 0 && ht_tiles_fit(w->type, w->rows / experts, w->cols);
}

static void weave_range(void *context, int64_t begin, int64_t end, int thread)
{
    const job *j = context;
    const size_t bytes = HT_TILE_ROWS * j->w->row_bytes;
    uint8_t *aside = j->aside + (size_t)thread * j->tile_bytes;

    for (int64_t t = begin; t < end; t++) {
        uint8_t *tile = (uint8_t *)j->w->data + (size_t)t * bytes; /* the store's own memory */
        memcpy(aside, tile, bytes);
        ht_tile_weave(j->w->type, aside, tile, j->w->cols);
    }
}

static void weave(job *j, ht_matrix *w, ht_pool *pool)
{
    j->w = w;
    ht_pool_for(pool, w->rows / HT_TILE_ROWS, 4, weave_range, j);
    w->woven = true;
}

int ht_weave(ht_resident *views, const bool *types, ht_pool *pool, ht_error *err)
{
    ht_matrix *w[LAYER_MATRICES], *head = &views->output.head, *table = &views->embedding.table;
    size_t most = fits(views, head, types) ? head->row_bytes : 0, bytes;
    job j = {0};

    for (int32_t l = views->share.layer_begin; l < views->share.layer_end; l++) {
        list_layer(views, l, w);
        for (int i = 0; i < LAYER_MATRICES; i++)
            if (fits(views, w[i], types) && w[i]->row_bytes > most) most = w[i]->row_bytes;
    }
    if (!most) return 0;
    j.tile_bytes = ht_align_up(HT_TILE_ROWS * most, 64);
    if (!ht_mul_size(j.tile_bytes, (size_t)ht_pool_threads(pool), &bytes) || !(j.aside = ht_alloc_aligned(bytes, 64)))
        return ht_fail(err, -ENOMEM, "out of memory for the tiles of %s", views->model->name);
    for (int32_t l = views->share.layer_begin; l < views->share.layer_end; l++) {
        list_layer(views, l, w);
        for (int i = 0; i < LAYER_MATRICES; i++)
            if (fits(views, w[i], types)) weave(&j, w[i], pool);
    }
    if (fits(views, head, types)) {
        bool shared = table->data == head->data;
        weave(&j, head, pool);
        if (shared) table->woven = true;
    }
    ht_free(j.aside);
    return 0;
}
