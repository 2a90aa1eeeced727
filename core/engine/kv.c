/* KV pages: the free list, the reference counts, copy on write. */
#include "core/engine/kv.h"

#include "core/base/memory.h"

#include <string.h>

int ht_kv_open(ht_kv *kv, const ht_site *sites, int32_t n_sites, ht_error *err)
{
    int32_t n = sites[0].store->kv_pages;

    *kv = (ht_kv){.n_stores = n_sites, .n_pages = n, .n_free = n};
    for (int32_t i = 0; i < n_sites; i++) kv->store[i] = sites[i].store;
    kv->free_ids = ht_alloc((size_t)n, sizeof(*kv->free_ids));
    kv->refs = ht_calloc((size_t)n, sizeof(*kv->refs));
    if (!kv->free_ids || !kv->refs) {
        ht_kv_close(kv);
        return ht_fail(err, -ENOMEM, "out of memory for the table of %d KV pages", n);
    }
    for (int32_t i = 0; i < n; i++) kv->free_ids[i] = n - 1 - i; /* page 0 is taken first */
    return 0;
}

void ht_kv_close(ht_kv *kv)
{
    ht_free(kv->free_ids);
    ht_free(kv->refs);
    *kv = (ht_kv){0};
}

static int32_t take(ht_kv *kv)
{
    int32_t id = kv->free_ids[--kv->n_free];

    kv->refs[id] = 1;
    return id;
}

static void drop(ht_kv *kv, int32_t id)
{
    if (--kv->refs[id] == 0) kv->free_ids[kv->n_free++] = id;
}

int ht_kv_table_open(ht_kv_table *t, int32_t tokens, ht_error *err)
{
    *t = (ht_kv_table){.capacity = ht_kv_pages_of(tokens)};
    t->id = ht_alloc((size_t)t->capacity, sizeof(*t->id));
    if (!t->id) return ht_fail(err, -ENOMEM, "out of memory for a page table of %d tokens", tokens);
    return 0;
}

void ht_kv_table_close(ht_kv *kv, ht_kv_table *t)
{
    ht_kv_trim(kv, t, 0);
    ht_free(t->id);
    *t = (ht_kv_table){0};
}

void ht_kv_trim(ht_kv *kv, ht_kv_table *t, int64_t tokens)
{
    int32_t keep = ht_kv_pages_of(tokens);

    while (t->n > keep) drop(kv, t->id[--t->n]);
}

static int out_of_pages(const ht_kv *kv, int32_t missing, ht_error *err)
{
    return ht_fail(err, -ENOMEM, "the KV cache is full: %d of %d pages (of %d tokens) are in use, %d more are needed",
                   kv->n_pages - kv->n_free, kv->n_pages, HT_KV_TILE, missing);
}

/* Page i of the table becomes the table's own, with the same bytes. */
static int unshare(ht_kv *kv, ht_kv_table *t, int32_t i, ht_error *err)
{
    int32_t old = t->id[i];

    if (kv->refs[old] == 1) return 0;
    if (!kv->n_free) return out_of_pages(kv, 1, err);
    int32_t own = take(kv);
    int r = 0;
    for (int32_t s = 0; s < kv->n_stores && r >= 0; s++) r = kv->store[s]->ops->kv_copy(kv->store[s], old, own, err);
    if (r < 0) {
        drop(kv, own);
        return r;
    }
    t->id[i] = own;
    drop(kv, old);
    return 0;
}

int ht_kv_prepare(ht_kv *kv, ht_kv_table *t, int64_t from, int64_t tokens, ht_error *err)
{
    int32_t before = t->n, want = ht_kv_pages_of(tokens);

    /* Pages that are written but hold nothing older than `from` need no copy: the caller has trimmed them, so only
     * the page in which `from` lies can be shared. */
    if (from % HT_KV_TILE) {
        int r = unshare(kv, t, (int32_t)(from / HT_KV_TILE), err);
        if (r < 0) return r;
    }
    while (t->n < want) {
        if (!kv->n_free) {
            int32_t missing = want - t->n;
            while (t->n > before) drop(kv, t->id[--t->n]);
            return out_of_pages(kv, missing, err);
        }
        t->id[t->n++] = take(kv);
    }
    return 0;
}

void ht_kv_share(ht_kv *kv, ht_kv_table *to, const ht_kv_table *from, int64_t tokens)
{
    to->n = ht_kv_pages_of(tokens);
    for (int32_t i = 0; i < to->n; i++) {
        to->id[i] = from->id[i];
        kv->refs[from->id[i]]++;
    }
}

int ht_kv_check(ht_kv *kv, const ht_kv_wish *wish, int32_t n, ht_error *err)
{
    int64_t free_pages = kv->n_free, needed = 0;

    /* Every wish lets go of all its pages from `from` on and asks for as many as it will have; a page that everybody
     * lets go of becomes free. (A partly kept page that is its owner's alone counts once on each side.) */
    for (int32_t w = 0; w < n; w++) {
        int32_t first = (int32_t)(wish[w].from / HT_KV_TILE);
        for (int32_t i = first; i < wish[w].table->n; i++)
            if (--kv->refs[wish[w].table->id[i]] == 0) free_pages++;
        needed += ht_kv_pages_of(wish[w].tokens) - first;
    }
    for (int32_t w = 0; w < n; w++)
        for (int32_t i = (int32_t)(wish[w].from / HT_KV_TILE); i < wish[w].table->n; i++)
            kv->refs[wish[w].table->id[i]]++;
    return needed > free_pages ? out_of_pages(kv, (int32_t)(needed - free_pages), err) : 0;
}
