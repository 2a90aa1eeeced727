/* KV pages: who holds which page id. Ids alone: the bytes of a page, in every layer, live behind the store port.
 *
 * A page holds HT_KV_TILE tokens of one sequence. Sequences that began alike share pages (reference counts); a page
 * that is to be written must be held by one sequence alone (copy on write).
 */
#ifndef HEARTH_CORE_ENGINE_KV_H
#define HEARTH_CORE_ENGINE_KV_H

#include "core/engine/forward.h"

#include <stdbool.h>

typedef struct ht_kv {
    ht_store *store[HT_MOST_SITES]; /* borrowed: each has the pages in its layers */
    int32_t n_stores;
    int32_t n_pages;      /* ids are [0, n_pages) */
    int32_t n_free;
    int32_t *free_ids;    /* [n_free used], owned; the last one is taken next */
    int32_t *refs;        /* [n_pages], owned: tables that hold the page; 0: free */
} ht_kv;

/* The pages of one sequence: token p is in page id[p / HT_KV_TILE]. */
typedef struct ht_kv_table {
    int32_t *id;          /* [capacity], owned */
    int32_t n, capacity;
} ht_kv_table;

int ht_kv_open(ht_kv *kv, const ht_site *sites, int32_t n_sites, ht_error *err);
void ht_kv_close(ht_kv *kv);

int ht_kv_table_open(ht_kv_table *t, int32_t tokens, ht_error *err);
/* Gives its pages back. */
void ht_kv_table_close(ht_kv *kv, ht_kv_table *t);

/* Gives back the pages beyond the first `tokens` tokens. */
void ht_kv_trim(ht_kv *kv, ht_kv_table *t, int64_t tokens);
/* Makes the table long enough for `tokens` tokens and every page from token `from` on its own, copying a shared page
 * that has older tokens too. -ENOMEM: the pages are used up; the table is as long as it was. */
int ht_kv_prepare(ht_kv *kv, ht_kv_table *t, int64_t from, int64_t tokens, ht_error *err);
/* to (empty) = the first `tokens` of from, shared. */
void ht_kv_share(ht_kv *kv, ht_kv_table *to, const ht_kv_table *from, int64_t tokens);

/* A dry run for several tables at once: would it be possible to trim each to `from` tokens and then to prepare it for
 * `tokens`? -ENOMEM says how many pages are missing. Changes nothing. */
typedef struct ht_kv_wish { const ht_kv_table *table; int64_t from, tokens; } ht_kv_wish;
int ht_kv_check(ht_kv *kv, const ht_kv_wish *wish, int32_t n, ht_error *err);

#endif
