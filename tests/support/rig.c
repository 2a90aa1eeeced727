/* The rig: see rig.h. */
#include "tests/support/rig.h"

#include "core/base/memory.h"
#include "core/base/random.h"
#include "tests/support/harness.h"
#include "tests/support/store_wrap.h"
#include "tests/support/tiny_model.h"

#include <string.h>

void ht_rig_open(ht_rig *rig, const ht_rig_options *o)
{
    ht_error err = {0};
    ht_ops_limits limits = {
        .columns = o->columns ? o->columns : 64,
        .sequences = o->sequences ? o->sequences : 4,
        .context = o->context ? o->context : 512,
        .act = HT_ACT_F32,
    };
    int32_t pages = o->kv_pages ? o->kv_pages : limits.sequences * ht_kv_pages_of(limits.context);

    memset(rig, 0, sizeof *rig);
    rig->fake = o->fake || test_store_is_fake();
    ht_tiny_model_init(&rig->model);
    limits.shape = rig->model.shape;
    /* KV in F32: rounded to 16 bits, the small difference between the classes would often vanish. */
    cr_assert(ht_kv_layout_init(&limits.kv, &limits.shape, HT_F32, HT_F32, &err) == 0, "%s", err.text);
    cr_assert(ht_ref_backend_open(&rig->backend, &limits, &err) == 0, "%s", err.text);
    cr_assert(ht_tiny_store_open(&rig->store, &rig->model, &limits.kv, pages, &err) == 0, "%s", err.text);
    if (rig->fake) {
        ht_fake_store_options fake = {.seed = 5, .max_delay_us = 30};
        ht_store *inner = rig->store;
        cr_assert(ht_fake_store_open(&rig->store, inner, &rig->model, &fake, &err) == 0, "%s", err.text);
    }
    ht_engine_options options = {rig->backend, rig->store, o->chunk ? o->chunk : limits.columns};
    cr_assert(ht_engine_open(&rig->engine, &options, &err) == 0, "%s", err.text);
}

void ht_rig_close(ht_rig *rig)
{
    cr_expect_eq(rig->engine->kv.n_free, rig->engine->kv.n_pages, "pages are still held");
    cr_expect_eq(rig->engine->n_sessions, 0, "sessions are still open");
    if (rig->fake) cr_expect_eq(ht_fake_store_held(rig->store), 0, "leases are still out");
    cr_expect_eq(ht_guard_violations(), 0, "something was allocated in a pass");
    ht_engine_close(&rig->engine);
    rig->store->ops->close(rig->store);
    rig->backend->ops->close(rig->backend);
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
