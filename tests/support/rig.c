/* The rig: see rig.h. */
#include "tests/support/rig.h"

#include "core/base/memory.h"
#include "core/base/random.h"
#include "tests/support/harness.h"
#include "tests/support/store_wrap.h"
#include "tests/support/tiny_model.h"

#include <stdlib.h>
#include <string.h>

static int32_t sites_by_environment(void)
{
    const char *n = getenv("HEARTH_TEST_SITES");

    return n ? atoi(n) : 1;
}

/* A site more: of three, the last one has no layers, but the output. */
static void open_site(ht_rig *rig, const ht_ops_limits *limits, int32_t pages)
{
    ht_error err = {0};
    const int32_t i = rig->n_sites++, layers = limits->shape.n_layers;
    ht_site *site = &rig->site[i];

    cr_assert(ht_ref_backend_open(&site->backend, limits, &err) == 0, "%s", err.text);
    cr_assert(ht_tiny_store_open(&site->store, &rig->model, &limits->kv, pages, &err) == 0, "%s", err.text);
    site->store->share = (ht_share){.layer_begin = i < layers ? i : layers, .layer_end = i < layers ? i + 1 : layers,
                                    .embedding = i == 0};
    if (!rig->fake) return;
    ht_fake_store_options fake = {.seed = 5 + (uint32_t)i, .max_delay_us = 30};
    ht_store *inner = site->store;
    cr_assert(ht_fake_store_open(&site->store, inner, &rig->model, &fake, &err) == 0, "%s", err.text);
}

void ht_rig_open(ht_rig *rig, const ht_rig_options *o)
{
    ht_error err = {0};
    ht_ops_limits limits = {
        .columns = o->columns ? o->columns : 64,
        .sequences = o->sequences ? o->sequences : 4,
        .context = o->context ? o->context : 512,
        .act = HT_ACT_F32,
    };
    int32_t pages = o->kv_pages ? o->kv_pages : limits.sequences * ht_kv_pages_of(limits.context),
            sites = o->sites ? o->sites : sites_by_environment();

    memset(rig, 0, sizeof *rig);
    rig->fake = o->fake || test_store_is_fake();
    ht_tiny_model_init(&rig->model);
    limits.shape = rig->model.shape;
    /* KV in F32: rounded to 16 bits, the small difference between the classes would often vanish. */
    cr_assert(ht_kv_layout_init(&limits.kv, &limits.shape, HT_F32, HT_F32, &err) == 0, "%s", err.text);
    cr_assert(sites >= 1 && sites <= 3);
    while (rig->n_sites < sites) open_site(rig, &limits, pages);
    ht_share *last = &rig->site[sites - 1].store->share;
    last->layer_end = limits.shape.n_layers;
    last->output = true;
    rig->backend = rig->site[0].backend;
    rig->store = rig->site[0].store;
    ht_engine_options options = {rig->site, sites, o->chunk ? o->chunk : limits.columns};
    cr_assert(ht_engine_open(&rig->engine, &options, &err) == 0, "%s", err.text);
}

void ht_rig_close(ht_rig *rig)
{
    cr_expect_eq(rig->engine->kv.n_free, rig->engine->kv.n_pages, "pages are still held");
    cr_expect_eq(rig->engine->n_sessions, 0, "sessions are still open");
    cr_expect_eq(ht_guard_violations(), 0, "something was allocated in a pass");
    ht_engine_close(&rig->engine);
    for (int32_t i = 0; i < rig->n_sites; i++) {
        const ht_site *site = &rig->site[i];
        if (rig->fake) cr_expect_eq(ht_fake_store_held(site->store), 0, "leases are still out");
        site->store->ops->close(site->store);
        site->backend->ops->close(site->backend);
    }
}

ht_session *ht_rig_session(ht_rig *rig)
{
    ht_error err = {0};
    ht_session *s;

    cr_assert(ht_session_open(&s, rig->engine, 0, 0, &err) == 0, "%s", err.text);
    return s;
}

void ht_rig_tokens(int32_t *out, int64_t n, uint64_t seed)
{
    for (int64_t i = 0; i < n; i++) out[i] = (int32_t)(97 * ht_random_uniform(seed, 0, (uint64_t)i, 0));
}

void ht_rig_sync(ht_session *s, const int32_t *tokens, int64_t n)
{
    ht_error err = {0};

    cr_assert(ht_session_sync(&(ht_prompt){s, tokens, n}, 1, &err) == 0, "%s", err.text);
    cr_assert(s->n_tokens == n && s->has_logits);
}
