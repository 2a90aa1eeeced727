/* The store port in RAM: all weights resident (mapped, or read into huge pages), all KV pages in one allocation. */
#ifndef HEARTH_OFFLOAD_RAM_STORE_H
#define HEARTH_OFFLOAD_RAM_STORE_H

#include "core/base/threads.h"
#include "core/ports/store.h"

typedef enum ht_load_mode { HT_LOAD_AUTO, HT_LOAD_MMAP, HT_LOAD_READ } ht_load_mode;

typedef struct ht_ram_store_options {
    const ht_model *model;      /* borrowed; outlives the store */
    const ht_share *share;      /* read at open; NULL: all of the model */
    ht_kv_layout kv;
    int32_t kv_pages;
    ht_load_mode load;
    bool quiet;                 /* no progress bar */
    const bool *woven;          /* [HT_TYPE_COUNT], read at open: types whose matrices the backend rather has woven, unless
                                   they are mapped; NULL: none */
    ht_pool *pool;              /* borrowed, used at open: to weave. NULL: only without `woven` */
} ht_ram_store_options;

typedef struct ht_load_stats { uint64_t bytes; double seconds; const char *how; } ht_load_stats;

/* Loads everything; errors name file and tensor. Closed by (*out)->ops->close. */
int ht_ram_store_open(ht_store **out, const ht_ram_store_options *options, ht_load_stats *stats, ht_error *err);

#endif
