/* Weaving: see weave.h. A tile is copied aside, into the thread's cache, and woven back to where it was. */
#include "offload/weave.h"

#include "core/base/arith.h"
#include "core/base/memory.h"
#include "core/model/tiles.h"

typedef struct job {
    const ht_matrix *w;
    uint8_t *aside;      /* a tile of each thread */
    size_t tile_bytes;   /* of the largest */
} job;

/* Matrices of experts follow each other, and each has to have whole tiles. */
static bool fits(const ht_resident *r, const ht_matrix *w, const bool *types)
{
    int32_t experts = r->model->shape.n_experts;

    return w->data && types[w->type] && w->rows % experts == 0 && ht_tiles_fit(w->type, w->rows / experts, w->cols);
}

/* Those to be woven, each once. Returns how many. */
static int32_t list_matrices(ht_resident *r, const bool *types, ht_matrix **out)
{
    int32_t n = 0;

    for (int32_t l = r->share.layer_begin; l < r->share.layer_end; l++) {
        ht_matrix *w[HT_LAYER_MATRICES];
        ht_resident_matrices(r, l, w);
        for (int i = 0; i < HT_LAYER_MATRICES; i++)
            if (fits(r, w[i], types)) out[n++] = w[i];
    }
    if (fits(r, &r->output.head, types)) out[n++] = &r->output.head;
    return n;
}

static void weave_range(void *context, int64_t begin, int64_t end, int thread)
{
    const job *j = context;

    for (int64_t t = begin; t < end; t++) /* the store's own memory */
        ht_tile_weave_in_place(j->w->type, (uint8_t *)j->w->data + (size_t)(t * HT_TILE_ROWS) * j->w->row_bytes,
                               j->aside + (size_t)thread * j->tile_bytes, j->w->cols);
}

int ht_weave(ht_resident *views, const bool *types, ht_pool *pool, ht_error *err)
{
    size_t most = (size_t)ht_share_layers(&views->share) * HT_LAYER_MATRICES + 1, bytes;
    ht_matrix **list = ht_alloc(most, sizeof(*list));
    int32_t n = list ? list_matrices(views, types, list) : 0;
    job j = {0};

    for (int32_t i = 0; i < n; i++)
        j.tile_bytes = (size_t)ht_max_i64((int64_t)j.tile_bytes, (int64_t)ht_align_up(HT_TILE_ROWS * list[i]->row_bytes, 64));
    if (!list || !ht_mul_size(j.tile_bytes, (size_t)ht_pool_threads(pool), &bytes) ||
        (n && !(j.aside = ht_alloc_aligned(bytes, 64)))) {
        ht_free(list);
        return ht_fail(err, -ENOMEM, "out of memory for the tiles of %s", views->model->name);
    }
    for (int32_t i = 0; i < n; i++) {
        j.w = list[i];
        ht_pool_for(pool, list[i]->rows / HT_TILE_ROWS, 4, weave_range, &j);
        list[i]->woven = true;
    }
    if (views->embedding.table.data == views->output.head.data) views->embedding.table.woven = views->output.head.woven;
    ht_free(j.aside);
    ht_free(list);
    return 0;
}
