/* The store port on a device: the weights and KV pages of a share of the model resident in its memory. */
#ifndef HEARTH_GPU_DEVICE_STORE_H
#define HEARTH_GPU_DEVICE_STORE_H

#include "core/ports/store.h"
#include "gpu/device.h"

typedef struct ht_device_store_options {
    const ht_model *model;  /* borrowed; outlives the store */
    ht_gpu *gpu;            /* borrowed; outlives the store */
    const ht_share *share;  /* read at open; NULL: all of the model */
    ht_kv_layout kv;
    int32_t kv_pages;
    size_t reserve;         /* device bytes that others will still allocate: left free, or open fails */
    bool quiet;             /* no progress bar */
} ht_device_store_options;

/* What the store takes of the device, exactly. */
typedef struct ht_device_store_plan {
    size_t weights;         /* matrices as stored, vectors in F32 */
    size_t kv;              /* pages, and the tables of their addresses */
    size_t kv_page;         /* what one more page costs, in all layers */
    size_t layer;           /* of weights: the largest layer of the model */
    size_t rest;            /* of weights: what comes with any number of layers, that is the output */
} ht_device_store_plan;

int ht_device_store_plan_make(ht_device_store_plan *out, const ht_device_store_options *options, ht_error *err);

/* Uploads everything. -ENOMEM: it does not fit; the text says what is needed, what there is, and what would fit.
 * The array of page addresses that a KV lease gives lies in device memory, like the pages: kernels read it.
 * Closed by (*out)->ops->close. */
int ht_device_store_open(ht_store **out, const ht_device_store_options *options, ht_error *err);

#endif
