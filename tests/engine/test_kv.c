/* KV pages: random histories of several tables against a plain model of who holds what. */
#include "tests/support/harness.h"

#include "core/base/memory.h"
#include "core/base/random.h"
#include "core/engine/kv.h"

#include <string.h>

enum { PAGES = 12, TABLES = 4, CONTEXT = 6 * HT_KV_TILE };

/* A store whose pages hold one number: what was "written" there. */
typedef struct number_store { ht_store base; int value[PAGES]; int copies, fail_copy; } number_store;

static int copy_number(ht_store *store, int32_t from, int32_t to, ht_error *err)
{
    number_store *s = (number_store *)store;
    if (s->fail_copy) return ht_fail(err, -EIO, "copy failed on purpose");
    s->value[to] = s->value[from];
    s->copies++;
    return 0;
}

static const ht_store_ops number_ops = {.name = "numbers", .kv_copy = copy_number};

static uint64_t draws;
static int32_t below(int32_t n) { return (int32_t)(n * ht_random_uniform(1, 2, draws++, 0)); }

/* Reference counts are those of the tables, and free pages are free. */
static void check_counts(const ht_kv *kv, const ht_kv_table *t)
{
    int32_t refs[PAGES] = {0}, used = 0;
    for (int i = 0; i < TABLES; i++)
        for (int32_t p = 0; p < t[i].n; p++) refs[t[i].id[p]]++;
    for (int i = 0; i < PAGES; i++) {
        cr_assert_eq(refs[i], kv->refs[i]);
        used += refs[i] > 0;
    }
    cr_assert_eq(kv->n_free, PAGES - used);
}

Test(kv, random_histories)
{
    number_store store = {.base = {.ops = &number_ops, .kv_pages = PAGES}};
    ht_kv kv;
    ht_kv_table t[TABLES];
    int64_t tokens[TABLES] = {0};
    int written[TABLES][8] = {{0}}, next = 1, refused = 0, shared = 0;
    ht_error err = {0};

    draws = 0;
    cr_assert(ht_kv_open(&kv, &(ht_site){NULL, &store.base}, 1, &err) == 0);
    for (int i = 0; i < TABLES; i++) cr_assert(ht_kv_table_open(&t[i], CONTEXT, &err) == 0);
    for (int step = 0; step < 20000; step++) {
        int i = below(TABLES), o = below(TABLES);
        int64_t from = below(2) ? tokens[i] : below((int32_t)tokens[i] + 1), room = CONTEXT - from;
        int64_t to = from + below((int32_t)(room < 150 ? room : 150) + 1);
        switch (below(6)) {
        case 0: /* shorter */
            if (below(8) == 0) from = 0;
            ht_kv_trim(&kv, &t[i], tokens[i] = from);
            break;
        case 1: /* fork */
            if (o == i || tokens[i]) break;
            tokens[i] = below(2) ? tokens[o] : below((int32_t)tokens[o] + 1);
            ht_kv_share(&kv, &t[i], &t[o], tokens[i]);
            memcpy(written[i], written[o], sizeof written[i]);
            shared++;
            break;
        default: { /* a new tail, as a sync does: check, trim, prepare, write */
            int r = ht_kv_check(&kv, &(ht_kv_wish){&t[i], from, to}, 1, &err);
            check_counts(&kv, t);
            if (r < 0) {
                cr_assert_eq(r, -ENOMEM);
                refused++;
                break;
            }
            ht_kv_trim(&kv, &t[i], from);
            cr_assert(ht_kv_prepare(&kv, &t[i], from, to, &err) == 0, "the check had promised: %s", err.text);
            tokens[i] = to;
            for (int32_t p = (int32_t)(from / HT_KV_TILE); p < t[i].n; p++)
                store.value[t[i].id[p]] = written[i][p] = next++;
            break;
        }
        }
        check_counts(&kv, t);
        for (int k = 0; k < TABLES; k++) {
            cr_assert_eq(t[k].n, ht_kv_pages_of(tokens[k]));
            for (int32_t p = 0; p < t[k].n; p++)
                cr_assert_eq(store.value[t[k].id[p]], written[k][p], "step %d: somebody wrote into a page of another", step);
        }
    }
    cr_assert(refused > 100 && shared > 50 && store.copies > 100, "%d %d %d", refused, shared, store.copies);
    for (int i = 0; i < TABLES; i++) ht_kv_table_close(&kv, &t[i]);
    cr_assert_eq(kv.n_free, PAGES);
    ht_kv_close(&kv);
}

/* What the check refuses is impossible: prepare fails too, and leaves the table as long as it was. */
Test(kv, the_check_is_exact)
{
    number_store store = {.base = {.ops = &number_ops, .kv_pages = 4}};
    ht_kv kv;
    ht_kv_table a, b;
    ht_error err = {0};
    cr_assert(ht_kv_open(&kv, &(ht_site){NULL, &store.base}, 1, &err) == 0);
    cr_assert(ht_kv_table_open(&a, CONTEXT, &err) == 0 && ht_kv_table_open(&b, CONTEXT, &err) == 0);
    for (int64_t first = 0; first <= CONTEXT; first += 16)
        for (int64_t from = 0; from <= first; from += 16)
            for (int64_t to = from; to <= CONTEXT; to += 16)
                for (int fork = 0; fork < 2; fork++) {
                    if (ht_kv_check(&kv, &(ht_kv_wish){&a, 0, first}, 1, &err) < 0) continue;
                    cr_assert(ht_kv_prepare(&kv, &a, 0, first, &err) == 0);
                    if (fork) ht_kv_share(&kv, &b, &a, first);
                    int promised = ht_kv_check(&kv, &(ht_kv_wish){&a, from, to}, 1, &err);
                    ht_kv_trim(&kv, &a, from);
                    int32_t n = a.n;
                    int got = ht_kv_prepare(&kv, &a, from, to, &err);
                    cr_assert_eq(promised, got, "%d..%d, then %d..%d, shared: %d", 0, (int)first, (int)from, (int)to, fork);
                    if (got < 0) cr_assert_eq(a.n, n);
                    ht_kv_trim(&kv, &a, 0);
                    ht_kv_trim(&kv, &b, 0);
                    cr_assert_eq(kv.n_free, 4);
                }
    /* a failing copy takes nothing */
    cr_assert(ht_kv_prepare(&kv, &a, 0, 10, &err) == 0);
    ht_kv_share(&kv, &b, &a, 10);
    store.fail_copy = 1;
    cr_assert_eq(ht_kv_prepare(&kv, &b, 10, 11, &err), -EIO);
    cr_assert(kv.n_free == 3 && b.id[0] == a.id[0]);
    ht_kv_table_close(&kv, &a);
    ht_kv_table_close(&kv, &b);
    ht_kv_close(&kv);
}

/* A page is copied on every site, and belongs to nobody when one of them cannot. */
Test(kv, pages_are_copied_on_every_site)
{
    number_store stores[2] = {{.base = {.ops = &number_ops, .kv_pages = 4}, .value = {7}, .fail_copy = 0},
                              {.base = {.ops = &number_ops, .kv_pages = 4}, .value = {8}, .fail_copy = 1}};
    const ht_site sites[] = {{NULL, &stores[0].base}, {NULL, &stores[1].base}};
    ht_kv kv;
    ht_kv_table a, b;
    ht_error err = {0};
    cr_assert(ht_kv_open(&kv, sites, 2, &err) == 0);
    cr_assert(ht_kv_table_open(&a, CONTEXT, &err) == 0 && ht_kv_table_open(&b, CONTEXT, &err) == 0);
    cr_assert(ht_kv_prepare(&kv, &a, 0, 10, &err) == 0);
    ht_kv_share(&kv, &b, &a, 10);
    cr_assert_eq(ht_kv_prepare(&kv, &b, 10, 11, &err), -EIO);
    cr_assert(kv.n_free == 3 && b.id[0] == a.id[0]);
    stores[1].fail_copy = 0;
    cr_assert(ht_kv_prepare(&kv, &b, 10, 11, &err) == 0);
    cr_assert(kv.n_free == 2 && b.id[0] != a.id[0]);
    cr_assert(stores[0].value[b.id[0]] == 7 && stores[1].value[b.id[0]] == 8);
    ht_kv_table_close(&kv, &a);
    ht_kv_table_close(&kv, &b);
    ht_kv_close(&kv);
}
