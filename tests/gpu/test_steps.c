/* Steps on the emulated GPU with small synthetic models, quick enough for every sanitizer: how many launches a layer
 * takes, graphs, failures of every call, bits that depend on nothing else. */
#include "tests/gpu/stack.h"
#include "tests/support/data.h"
#include "tests/support/harness.h"

#include "core/base/memory.h"
#include "core/model/synth.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char folder[TEST_PATH_MAX], model[TEST_PATH_MAX + 32];

enum { LAYERS = 2, V = 300 };

/* A model of two layers; q4_k_m gives V of the second another type than Q and K. */
static void make_model(const char *type)
{
    ht_error err = {0};
    const ht_synth_options o = {.shape = "tiny", .n_layers = LAYERS, .n_embd = 256, .n_ff = 256, .n_heads = 4,
                                .n_kv_heads = 2, .head_dim = 64, .n_vocab = V, .n_context = 2048, .type = type,
                                .seed = 5, .quiet = true, .threads = 1};

    test_temp_dir(folder);
    snprintf(model, sizeof model, "%s/model.gguf", folder);
    must(ht_synth(model, &o, &err), &err);
}
static void make_smallest_model(void)
{
    ht_error err = {0};
    const ht_synth_options o = {.shape = "tiny", .n_layers = 1, .n_embd = 64, .n_ff = 64, .n_heads = 2, .n_kv_heads = 1,
                                .head_dim = 32, .n_vocab = V, .n_context = 256, .seed = 5, .quiet = true, .threads = 1};

    test_temp_dir(folder);
    snprintf(model, sizeof model, "%s/model.gguf", folder);
    must(ht_synth(model, &o, &err), &err);
}
static void drop_model(void) { test_temp_remove(folder); }

static const setup q8 = {HT_ACT_Q8, HT_F16, HT_F16, false, 0, false, 0};

/* ---- launches -------------------------------------------------------------------------------------------- */

/* Decode of a dense layer, by the trace: six launches, seven where V is of another type than Q and K (design: at most
 * seven). Embedding, angles, the choice of columns and the output come once. */
static void expect_launches(const char *type, int32_t sessions, const char *const *order, int64_t n_order)
{
    stack s;
    ht_error err = {0};
    ht_session *list[STACK_SESSIONS];
    int32_t next[STACK_SESSIONS] = {5, 6, 7};
    int64_t n;

    make_model(type);
    must(stack_open(&s, model, &q8, &(ht_emu_options){.trace = 400}, &err), &err);
    for (int32_t i = 0; i < sessions; i++) {
        list[i] = new_session(&s);
        must(ht_session_sync(&(ht_prompt){list[i], (int32_t[]){1, 4, 9}, 3}, 1, &err), &err);
    }
    ht_device_emu_trace_clear(s.gpu);
    int64_t before = ht_device_emu_launches(s.gpu);
    must(ht_session_decode(list, next, sessions, &err), &err);
    cr_expect_eq(ht_device_emu_launches(s.gpu) - before, n_order, "%s: %lld launches", type,
                 (long long)(ht_device_emu_launches(s.gpu) - before));
    const ht_emu_span *spans = ht_device_emu_trace(s.gpu, &n);
    int64_t at = 0;
    for (int64_t i = 0; i < n; i++) {
        if (strstr(spans[i].name, "copy")) continue;
        if (at < n_order) cr_expect(strstr(spans[i].name, order[at]) != NULL, "launch %lld is %s, expected %s", (long long)at,
                                    spans[i].name, order[at]);
        at++;
    }
    for (int32_t i = 0; i < sessions; i++) ht_session_close(&list[i]);
    stack_close(&s);
    drop_model();
}

Test(steps, six_launches_a_layer, .timeout = 60)
{
    static const char *const order[] = {"embed", "matvec", "angles", "rope_append", "attend", "matvec", "glu", "matvec",
                                        "matvec", "rope_append", "attend", "matvec", "glu", "matvec", "gather", "matvec"};
    expect_launches("q4_0", 1, order, 16);
    expect_launches("q4_0", 3, order, 16);
}
Test(steps, seven_where_types_differ, .timeout = 60)
{
    static const char *const order[] = {"embed", "matvec", "angles", "rope_append", "attend", "matvec", "glu", "matvec",
                                        "matvec", "matvec", "rope_append", "attend", "matvec", "glu", "matvec", "gather",
                                        "matvec"};
    expect_launches("q4_k_m", 1, order, 17);
}

/* ---- graphs ---------------------------------------------------------------------------------------------- */

enum { LONG = 300, STEPS = 8 };

/* Logits of STEPS decode steps after a prompt of n tokens; with two sessions in odd steps if `pairs`. */
static int64_t decode_steps(const setup *o, int32_t n, bool pairs, float *out)
{
    stack s;
    ht_error err = {0};
    int32_t tokens[LONG + STEPS];
    ht_session *two[2];

    must(stack_open(&s, model, o, &(ht_emu_options){0}, &err), &err);
    make_tokens(tokens, LONG + STEPS, V);
    for (int i = 0; i < 2; i++) {
        two[i] = new_session(&s);
        must(ht_session_sync(&(ht_prompt){two[i], tokens, i ? 5 : n}, 1, &err), &err);
    }
    for (int32_t i = 0; i < STEPS; i++) {
        const int32_t next[2] = {tokens[n + i], tokens[i]};
        must(ht_session_decode(two, next, pairs && i % 2 ? 2 : 1, &err), &err);
        memcpy(out + i * V, two[0]->logits, V * sizeof *out);
    }
    int64_t graphs = ht_device_emu_graphs(s.gpu);
    cr_expect_eq(ht_guard_violations(), 0);
    for (int i = 0; i < 2; i++) ht_session_close(&two[i]);
    stack_close(&s);
    return graphs;
}

/* The same bits with graphs and without, where the number of splits changes on the way (a split is 256 tokens), and
 * alone or not; a kind of step is replayed from its third time on. */
Test(steps, graphs_give_the_same_bits, .timeout = 120)
{
    static float with[STEPS * V], without[STEPS * V], beside[STEPS * V];
    setup graphs = q8, plain = q8;

    make_smallest_model();
    graphs.context = plain.context = 1100;
    plain.no_graphs = true;
    int64_t n = decode_steps(&graphs, 252, false, with);
    cr_expect_eq(n, STEPS - 2, "%lld graphs: one split for 256 tokens, then two", (long long)n);
    cr_expect_eq(decode_steps(&plain, 252, false, without), 0);
    cr_expect(!memcmp(with, without, sizeof with), "a graph gives other bits");
    cr_expect_eq(decode_steps(&graphs, 252, true, beside), STEPS - 4, "four kinds: one or two columns, one or two splits");
    cr_expect(!memcmp(with, beside, sizeof with), "bits depend on the company");
    drop_model();
}

/* ---- failures -------------------------------------------------------------------------------------------- */

#ifdef HEARTH_HARNESS
enum { STRIDE = 41, SPARED = 2 }; /* sanitizers make each run ten times as long */
#else
enum { STRIDE = 1, SPARED = 12 };
#endif

/* A whole life: open, a prompt, four tokens (a graph among them), close. `later`: the faults count from the prompt on. */
static int live(const ht_emu_faults *faults, bool later, float *logits, ht_error *err)
{
    stack s;
    ht_session *session = NULL;
    ht_emu_options o = {0};

    if (!later) o.faults = *faults;
    int r = stack_open(&s, model, &q8, &o, err);
    if (r >= 0 && later) ht_device_emu_set_faults(s.gpu, faults);
    if (r >= 0) r = ht_session_open(&session, s.engine, 0, 0, err);
    if (r >= 0) r = ht_session_sync(&(ht_prompt){session, (int32_t[]){1, 5, 9}, 3}, 1, err);
    for (int32_t i = 0; i < 4 && r >= 0; i++) r = ht_session_decode(&session, &(int32_t){7 + i}, 1, err);
    if (r >= 0) memcpy(logits, session->logits, V * sizeof *logits);
    if (session) ht_session_close(&session);
    stack_close(&s); /* looks that nothing is left on the device */
    return r;
}

/* Every call of the port fails once: either all goes on as if nothing had been, or an error says so. */
Test(steps, every_call_may_fail, .timeout = 250)
{
    static float want[V], got[V];
    ht_error err = {0};
    int told = 0, unharmed = 0;

    make_smallest_model();
    must(live(&(ht_emu_faults){0}, false, want, &err), &err);
    for (int64_t at = 1;; at += STRIDE) {
        ht_error failure = {0};
        memset(got, 0, sizeof got);
        int r = live(&(ht_emu_faults){.call = at}, false, got, &failure);
        if (r < 0) {
            told++;
            cr_expect(strstr(failure.text, "fault injected") != NULL, "call %lld: %s", (long long)at, failure.text);
            continue;
        }
        cr_expect(!memcmp(want, got, sizeof want), "call %lld failed unnoticed and changed the result", (long long)at);
        if (++unharmed > SPARED) break; /* beyond the last call; a few (graphs, waits while closing) can be done without */
    }
    cr_expect(told > 150 / STRIDE, "%d calls failed", told);
    drop_model();
}

/* Kernels and copies that fail while they run, and the loss of the device at any moment: an error, and then the end. */
Test(steps, all_work_may_fail, .timeout = 250)
{
    static float logits[V];
    ht_error err = {0};

    make_smallest_model();
    for (int kind = 0; kind < 3; kind++) {
        static const char *const texts[] = {"kernel", "copy", "lost"};
        int failures = 0;
        for (int64_t at = 1;; at += kind == 1 ? 1 : 3 * STRIDE) {
            const ht_emu_faults faults = {.launch = kind == 0 ? at : 0, .copy = kind == 1 ? at : 0, .lost = kind == 2 ? at : 0};
            int r = live(&faults, true, logits, &err);
            if (r >= 0) break;
            failures++;
            cr_expect(strstr(err.text, texts[kind]) && strstr(err.text, "fault injected"), "%s", err.text);
        }
        cr_expect(failures > (kind == 1 ? 5 : 30 / (3 * STRIDE)), "%s: %d failures", texts[kind], failures);
    }
    drop_model();
}

/* Two devices take turns, in different orders of threads: the same bits. Then one is lost, and the other goes on. */
Test(steps, two_devices, .timeout = 120)
{
    static float logits[2][V];
    stack s[2];
    ht_session *session[2];
    ht_error err = {0};
    const int32_t prompt[] = {1, 5, 9};

    make_smallest_model();
    for (int d = 0; d < 2; d++) {
        const ht_emu_options o = {.name = d ? "second" : "first", .ordinal = d, .order = d ? HT_EMU_REVERSE : HT_EMU_SHUFFLED};
        must(stack_open(&s[d], model, &q8, &o, &err), &err);
        session[d] = new_session(&s[d]);
        must(ht_session_sync(&(ht_prompt){session[d], prompt, 3}, 1, &err), &err);
    }
    for (int32_t i = 0; i < 4; i++) {
        if (i == 3) ht_device_emu_set_faults(s[0].gpu, &(ht_emu_faults){.lost = 2});
        for (int d = 0; d < 2; d++) {
            int r = ht_session_decode(&session[d], &(int32_t){20 + i}, 1, &err);
            if (d == 0 && i == 3) cr_expect(r == -ENODEV && strstr(err.text, "first: the device is lost"), "%d: %s", r, err.text);
            else must(r, &err);
            if (r >= 0) memcpy(logits[d], session[d]->logits, sizeof logits[d]);
        }
        if (i < 3) cr_expect(!memcmp(logits[0], logits[1], sizeof logits[0]), "step %d: other bits on the other device", i);
    }
    for (int d = 0; d < 2; d++) {
        ht_session_close(&session[d]);
        stack_close(&s[d]);
    }
    drop_model();
}
