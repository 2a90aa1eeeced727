/* hearth-port: what the store port costs when the weights lie in RAM. A development tool.
 *
 *     hearth-port MODEL [TOKENS]
 *
 * Borrows and gives back everything that a generated token needs (each unit of weights, each layer's KV pages), computing
 * nothing, and prints the time for one token. `hearth bench` tells the time that a token takes in all.
 */
#include "core/base/threads.h"
#include "core/model/model.h"
#include "offload/ram_store.h"

#include <stdio.h>
#include <stdlib.h>

enum { KV_PAGES = 64 }; /* a context of 4096 tokens */

static int borrow(ht_store *s, const ht_unit *unit, ht_error *err)
{
    ht_lease lease;
    int r = s->ops->acquire(s, unit, &lease, err);
    if (r == 0) s->ops->release(s, &lease);
    return r;
}

static int borrow_kv(ht_store *s, int32_t layer, const int32_t *ids, ht_error *err)
{
    ht_kv_lease lease;
    int r = s->ops->kv_acquire(s, layer, ids, KV_PAGES, KV_PAGES - 1, &lease, err);
    if (r == 0) s->ops->kv_release(s, &lease);
    return r;
}

static int borrow_token(ht_store *s, const ht_shape *shape, const int32_t *ids, ht_error *err)
{
    int r = borrow(s, &(ht_unit){.kind = HT_UNIT_EMBEDDING}, err);
    for (int32_t l = 0; l < shape->n_layers && r == 0; l++) {
        r = borrow(s, &(ht_unit){.kind = HT_UNIT_ATTENTION, .layer = l}, err);
        if (r == 0) r = borrow_kv(s, l, ids, err);
        if (r == 0) r = borrow(s, &(ht_unit){.kind = HT_UNIT_FFN, .layer = l, .expert_end = 1, .neuron_end = shape->n_ff}, err);
    }
    return r == 0 ? borrow(s, &(ht_unit){.kind = HT_UNIT_OUTPUT}, err) : r;
}

int main(int argc, char **argv)
{
    ht_error err = {0};
    ht_model *model = NULL;
    ht_store *store = NULL;
    ht_kv_layout kv;
    int32_t ids[KV_PAGES];
    int tokens = argc > 2 ? atoi(argv[2]) : 10000;

    if (argc < 2 || tokens < 1) {
        fprintf(stderr, "usage: hearth-port MODEL [TOKENS]\n");
        return 2;
    }
    for (int32_t i = 0; i < KV_PAGES; i++) ids[i] = i;
    int r = ht_model_open(&model, argv[1], &err);
    if (r >= 0) r = ht_kv_layout_init(&kv, &model->shape, HT_F16, HT_F16, &err);
    if (r >= 0)
        r = ht_ram_store_open(&store,
                              &(ht_ram_store_options){.model = model, .kv = kv, .kv_pages = KV_PAGES, .load = HT_LOAD_MMAP,
                                                      .quiet = true},
                              NULL, &err);
    double started = ht_now();
    for (int i = 0; i < tokens && r >= 0; i++) r = borrow_token(store, &model->shape, ids, &err);
    if (r >= 0) printf("%.3f us a token, %d layers\n", (ht_now() - started) / tokens * 1e6, model->shape.n_layers);
    else fprintf(stderr, "hearth-port: %s\n", err.text);
    if (store) store->ops->close(store);
    ht_model_close(&model);
    return r < 0;
}
