/* What synthetic models say: 100 greedy tokens have at least 50 different ones, and none that ends the text. */
#include "core/model/synth.h"
#include "hearth.h"
#include "tests/support/harness.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TOKENS = 100, ENOUGH = 50 };

static int count_distinct(const int32_t *ids, int n)
{
    int distinct = 0;
    for (int i = 0; i < n; i++) {
        int k = 0;
        while (k < i && ids[k] != ids[i]) k++;
        distinct += k == i;
    }
    return distinct;
}

/* Greedy tokens after a prompt. */
static void say(const char *path, const char *prompt, int32_t out[TOKENS])
{
    hearth_engine *engine;
    hearth_session *session;
    hearth_sampler *sampler;
    hearth_error e = {0};
    int32_t ids[64];
    cr_assert_eq(hearth_engine_open(&engine, &(hearth_options){.model = path, .context = 256, .threads = 2, .quiet = true}, &e),
                 0, "%s", e.text);
    cr_assert_eq(hearth_session_open(&session, engine, &(hearth_session_options){0}, &e), 0, "%s", e.text);
    cr_assert_eq(hearth_sampler_open(&sampler, engine, &(hearth_sampler_options){0}, &e), 0, "%s", e.text);
    const hearth_vocab *vocab = hearth_engine_vocab(engine);
    int64_t n = hearth_encode(vocab, prompt, strlen(prompt), HEARTH_BOS, ids, 64, &e);
    cr_assert(n > 0 && n <= 64);
    cr_assert_geq(hearth_session_sync(session, ids, n, &e), 0, "%s", e.text);
    for (int i = 0; i < TOKENS; i++) {
        out[i] = hearth_sample(sampler, session, NULL);
        cr_assert_geq(out[i], 0);
        cr_assert(!hearth_vocab_is_end(vocab, out[i]), "token %d ends the text", i);
        cr_assert_geq(hearth_session_append(session, out[i], &e), 0, "%s", e.text);
    }
    hearth_sampler_close(&sampler);
    hearth_session_close(&session);
    hearth_engine_close(&engine);
}

Test(synth_text, does_not_repeat_itself, .timeout = 240)
{
    static const struct { const char *what; ht_synth_options o; } models[] = {
        {"q4_0", {.n_vocab = 2000}},
        {"f16 relu", {.type = "f16", .n_vocab = 2000, .activation = "relu", .seed = 5}},
        {"q4_k_m", {.type = "q4_k_m", .n_vocab = 2000, .seed = 6}},
        {"tied", {.type = "q8_0", .n_vocab = 2000, .tied = true, .seed = 7}},
        {"tied and tiny", {.tied = true, .seed = 1}},
        {"deep and narrow", {.type = "q4_1", .n_layers = 24, .n_embd = 128, .n_ff = 256, .n_heads = 4, .n_kv_heads = 1,
                             .n_vocab = 2000, .tied = true, .seed = 8}},
    };
    char path[] = "/tmp/hearth-synth-text-XXXXXX";
    close(mkstemp(path));
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        ht_error err = {0};
        ht_synth_options o = models[i].o;
        int32_t a[TOKENS], b[TOKENS];
        o.quiet = true;
        cr_assert_eq(ht_synth(path, &o, &err), 0, "%s", err.text);
        say(path, "Once upon a time", a);
        say(path, "x", b);
        cr_expect(count_distinct(a, TOKENS) >= ENOUGH, "%s: %d", models[i].what, count_distinct(a, TOKENS));
        cr_expect(count_distinct(b, TOKENS) >= ENOUGH, "%s: %d", models[i].what, count_distinct(b, TOKENS));
        int same = 0;
        for (int k = 0; k < TOKENS; k++) same += a[k] == b[k];
        cr_expect(same < TOKENS / 2, "%s: the prompt does not matter", models[i].what);
        printf("%s: %d and %d distinct tokens of %d, %d equal\n", models[i].what, count_distinct(a, TOKENS),
               count_distinct(b, TOKENS), TOKENS, same);
    }
    remove(path);
}
