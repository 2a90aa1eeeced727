/* Generation: guesses change nothing but the number of passes, and any end leaves the session as it would be without. */
#include "tests/support/data.h"
#include "tests/support/harness.h"
#include "tests/support/rig.h"

#include "core/base/memory.h"
#include "core/engine/generate.h"

#include <math.h>
#include <string.h>

enum { PROMPT = 40, MOST = 200 };

static ht_tokenizer *tokenizer;

static void open_tokenizer(void)
{
    char path[TEST_PATH_MAX];
    ht_error err = {0};
    ht_gguf g;

    if (!test_data(path, "models/kjv-relu-7m/kjv-relu-7m-q4.gguf")) cr_skip_test("no models/kjv-relu-7m");
    cr_assert(ht_gguf_open(&g, path, &err) == 0, "%s", err.text);
    cr_assert(ht_tokenizer_from_gguf(&tokenizer, &g, &err) == 0, "%s", err.text);
    ht_gguf_close(&g);
}

static void close_tokenizer(void) { ht_tokenizer_close(&tokenizer); }

/* All that can be seen of a generation. */
typedef struct seen {
    int32_t ids[MOST], n;
    float logprobs[MOST];
    ht_generated end;
    int r;
    int32_t n_tokens;
    float logits[97];
    uint64_t hash;
    int64_t passes, drafted, accepted, decoded;
    int32_t stop_after, cancel_after;
    ht_rig *rig;
} seen;

static bool see(void *user, const ht_sampled *token, const char *text, size_t bytes)
{
    seen *s = user;

    (void)text, (void)bytes;
    if (token->id < 0) return true;
    s->logprobs[s->n] = token->logprob;
    s->ids[s->n++] = token->id;
    if (s->n == s->cancel_after) atomic_store(&s->rig->engine->cancel, true);
    return s->n != s->stop_after;
}

/* Of few tokens, so that guesses are often right. */
static ht_logit_bias few[94];

typedef struct setup {
    ht_sampler_options sampler;
    int32_t max_tokens, context, columns, kv_pages, stop_after, cancel_after;
} setup;

static void run(seen *out, const setup *set, ht_speculation speculation)
{
    ht_rig rig;
    ht_error err = {0};
    ht_sampler *sampler;
    int32_t prompt[PROMPT];

    memset(out, 0, sizeof *out);
    out->stop_after = set->stop_after;
    out->cancel_after = set->cancel_after;
    out->rig = &rig;
    ht_rig_tokens(prompt, PROMPT, 4);
    memcpy(prompt + PROMPT / 2, prompt, sizeof prompt / 2); /* it repeats itself */
    ht_rig_open(&rig, &(ht_rig_options){.sequences = 1, .context = set->context, .columns = set->columns,
                                        .kv_pages = set->kv_pages});
    ht_session *s = ht_rig_session(&rig);
    ht_rig_sync(s, prompt, PROMPT);
    ht_sampler_options options = set->sampler;
    for (int32_t i = 0; i < 94; i++) few[i] = (ht_logit_bias){i, -INFINITY};
    options.logit_bias = few;
    options.n_logit_bias = 94;
    cr_assert(ht_sampler_open(&sampler, 97, &options, &err) == 0, "%s", err.text);
    int64_t before = ht_ref_backend_counts(rig.backend).steps;
    const ht_generate_options o = {.max_tokens = set->max_tokens, .ignore_end = true, .logprobs = true,
                                   .speculation = speculation, .sink = see, .user = out};
    out->r = ht_generate(s, sampler, tokenizer, &o, &out->end, &err);
    atomic_store(&rig.engine->cancel, false);
    out->passes = ht_ref_backend_counts(rig.backend).steps - before;
    out->n_tokens = s->n_tokens;
    out->hash = rig.engine->stats.logits_hash;
    out->drafted = rig.engine->stats.drafted_tokens;
    out->accepted = rig.engine->stats.accepted_tokens;
    out->decoded = rig.engine->stats.decode_tokens;
    cr_assert(s->has_logits);
    memcpy(out->logits, s->logits, sizeof out->logits);
    ht_sampler_close(&sampler);
    ht_session_close(&s);
    ht_rig_close(&rig);
}

static void check_same(const setup *set, int64_t *passes, int64_t *tokens)
{
    static seen plain, guessed;

    run(&plain, set, HT_SPECULATE_NEVER);
    run(&guessed, set, HT_SPECULATE_ALWAYS);
    cr_assert(plain.r == guessed.r && plain.end.finish == guessed.end.finish && plain.end.n_tokens == guessed.end.n_tokens);
    cr_assert_eq(plain.n, guessed.n);
    cr_assert(!memcmp(plain.ids, guessed.ids, sizeof plain.ids) &&
              !memcmp(plain.logprobs, guessed.logprobs, sizeof plain.logprobs));
    cr_assert_eq(plain.n_tokens, guessed.n_tokens);
    cr_assert_eq(plain.decoded, guessed.decoded);
    cr_assert_eq(plain.hash, guessed.hash, "other logits were handed out");
    cr_assert(!memcmp(plain.logits, guessed.logits, sizeof plain.logits));
    int64_t given_up = plain.end.finish == HT_FINISH_CANCELED; /* a pass that was begun */
    cr_assert_eq(guessed.passes, guessed.decoded - guessed.accepted + given_up);
    cr_assert(plain.drafted == 0 && plain.passes == plain.decoded + given_up);
    *passes += guessed.passes;
    *tokens += guessed.decoded;
}

Test(generate, guesses_change_nothing, .init = open_tokenizer, .fini = close_tokenizer, .timeout = 120)
{
    int64_t passes = 0, tokens = 0;

    for (int i = 0; i < 6; i++) {
        setup s = {.max_tokens = 120, .sampler = {.temperature = i < 2 ? 0 : 0.1f * (float)i, .seed = (uint64_t)i,
                                                  .repeat_penalty = i == 1 ? 1.1f : 0}};
        check_same(&s, &passes, &tokens);
    }
    cr_assert_lt(passes, tokens * 9 / 10, "%lld passes for %lld tokens: guesses were never right", (long long)passes,
                 (long long)tokens);
    check_same(&(setup){.max_tokens = 60, .columns = 3}, &passes, &tokens);
}

/* Ends that lie within what was guessed. */
Test(generate, ends_are_exact, .init = open_tokenizer, .fini = close_tokenizer, .timeout = 120)
{
    int64_t passes = 0, tokens = 0;

    for (int32_t at = 50; at < 60; at++) {
        check_same(&(setup){.max_tokens = at}, &passes, &tokens);
        check_same(&(setup){.context = PROMPT + at}, &passes, &tokens);
        check_same(&(setup){.max_tokens = 100, .stop_after = at}, &passes, &tokens);
        check_same(&(setup){.max_tokens = 100, .cancel_after = at}, &passes, &tokens);
    }
    cr_assert_lt(passes, tokens * 9 / 10);
    /* no page for a guess is no failure, no page for the token is one */
    check_same(&(setup){.max_tokens = 64 - PROMPT + 1, .kv_pages = 1}, &passes, &tokens);
    check_same(&(setup){.max_tokens = 100, .kv_pages = 1}, &passes, &tokens);
}
