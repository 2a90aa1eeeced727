/* The host backend against the reference backend, behind the same engine: every operation of the port at once, on a
 * model small enough that nothing hides. */
#include "tests/support/harness.h"
#include "tests/support/rig.h"
#include "tests/support/tiny_model.h"

#include "cpu/host.h"

#include <math.h>
#include <string.h>

enum { PROMPT = 140, GENERATED = 4 };

typedef struct variant { ht_shape shape; const char *name; } variant;

/* Logits after the prompt and after each generated token, (1 + GENERATED, V). */
static void run(ht_backend *backend, ht_store *store, float *out)
{
    ht_error err = {0};
    ht_engine *e;
    ht_session *s;
    int32_t t[PROMPT + GENERATED], v = backend->limits.shape.n_vocab;

    ht_rig_tokens(t, PROMPT + GENERATED, 21);
    cr_assert(ht_engine_open(&e, &(ht_engine_options){&(ht_site){backend, store}, 1, 100}, &err) == 0, "%s", err.text);
    cr_assert(ht_session_open(&s, e, 0, 0, &err) == 0, "%s", err.text);
    ht_rig_sync(s, t, PROMPT);
    memcpy(out, s->logits, (size_t)v * sizeof *out);
    for (int i = 0; i < GENERATED; i++) {
        cr_assert(ht_session_decode(&s, &t[PROMPT + i], 1, &err) == 0, "%s", err.text);
        memcpy(out + (i + 1) * v, s->logits, (size_t)v * sizeof *out);
    }
    ht_session_close(&s);
    ht_engine_close(&e);
}

static void compare(const ht_shape *shape, const char *name)
{
    ht_error err = {0};
    ht_model model = {.shape = *shape};
    ht_ops_limits limits = {.columns = 128, .sequences = 1, .context = 256, .shape = *shape, .act = HT_ACT_F32};
    ht_store *store;
    ht_backend *ref;
    ht_pool *pool;
    static float want[(1 + GENERATED) * 97], got[(1 + GENERATED) * 97];

    cr_assert(ht_kv_layout_init(&limits.kv, shape, HT_F16, HT_F16, &err) == 0, "%s", err.text);
    cr_assert(ht_tiny_store_open(&store, &model, &limits.kv, 8, &err) == 0);
    cr_assert(ht_ref_backend_open(&ref, &limits, &err) == 0, "%s", err.text);
    cr_assert(ht_pool_open(&pool, &(ht_pool_options){.threads = 2}, &err) == 0, "%s", err.text);
    run(ref, store, want);
    for (int isa = HT_ISA_REF; isa <= (int)ht_isa_detect(); isa++) {
        ht_backend *host;
        double worst = 0;
        cr_assert(ht_host_open(&host, &(ht_host_options){.limits = limits, .pool = pool, .isa = (ht_isa)isa}, &err) == 0, "%s", err.text);
        run(host, store, got);
        for (size_t i = 0; i < sizeof want / sizeof *want; i++) worst = fmax(worst, fabs((double)got[i] - want[i]));
        /* logits are around 2; KV is rounded to 16 bits, where a tiny difference can become one of 2^-11 */
        cr_assert(worst < 5e-3, "%s, %s: logits are apart by %g", name, ht_isa_name((ht_isa)isa), worst);
        host->ops->close(host);
    }
    store->ops->close(store);
    ref->ops->close(ref);
    ht_pool_close(&pool);
}

static ht_shape tiny(void)
{
    ht_model m;
    ht_tiny_model_init(&m);
    return m.shape;
}

Test(backends, llama) { ht_shape s = tiny(); compare(&s, "llama"); }
Test(backends, halves) { ht_shape s = tiny(); s.rope.pairing = HT_ROPE_HALVES; s.rope.dims = 4; compare(&s, "halves"); }
Test(backends, relu) { ht_shape s = tiny(); s.activation = HT_RELU; compare(&s, "relu"); }
Test(backends, gelu) { ht_shape s = tiny(); s.activation = HT_GELU; s.embd_scale = 0.5f; compare(&s, "gelu"); }
Test(backends, gelu_tanh) { ht_shape s = tiny(); s.activation = HT_GELU_TANH; compare(&s, "gelu_tanh"); }
Test(backends, layer_norm) { ht_shape s = tiny(); s.norm = HT_NORM_LAYER; compare(&s, "layer_norm"); }
Test(backends, window) { ht_shape s = tiny(); s.window = 70; compare(&s, "window"); }
Test(backends, gemma)
{
    ht_shape s = tiny();
    s.window = 70, s.window_period = 2, s.post_norms = true, s.attn_softcap = 2, s.logit_softcap = 3, s.attn_scale = 0.2f;
    s.rope.scaling = HT_ROPE_LINEAR, s.rope.factor = 4, s.rope_local_base = 100;
    compare(&s, "gemma");
}
Test(backends, one_head_each) { ht_shape s = tiny(); s.n_kv_heads = 4; compare(&s, "one_head_each"); }
