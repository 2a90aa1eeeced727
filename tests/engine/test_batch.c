/* Batches: every request's output is what it would be alone, however the passes are put together; and the passes are
 * put together well. */
#include "tests/support/data.h"
#include "tests/support/fail.h"
#include "tests/support/harness.h"
#include "tests/support/rig.h"

#include "core/base/memory.h"
#include "core/base/random.h"
#include "core/engine/batch.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#ifdef HEARTH_HARNESS
enum { N = 10 };
#else
enum { N = 24 };
#endif
enum { MOST = 512 };

/* ---- requests and what came of them --------------------------------------------------------------------- */

typedef struct answer {
    int32_t tokens[MOST], n;
    float logprobs[MOST];
    ht_finish finish;
    int32_t counted, error, ended;
} answer;

typedef struct question { int32_t tokens[MOST], n, max_tokens; ht_sampler_options sampler; } question;

typedef struct setup {
    ht_rig_options rig;
    int32_t slots;
    bool in_order, backwards, surprise; /* surprise: answers are longer than was said */
    ht_speculation speculation;
} setup;

static ht_tokenizer *tokenizer;
static ht_logit_bias few[94]; /* leaves three tokens, so that text repeats itself */
static question questions[N];
static answer wanted[N], got[N];

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

static int32_t pick(int32_t i, int32_t what, int32_t low, int32_t high)
{
    return low + (int32_t)((high - low + 1) * ht_random_uniform(77, (uint64_t)i, (uint64_t)what, 0));
}

/* Prompts of 1 to 150 tokens, three in four of which begin like others; few long answers and many short ones. */
static void make_questions(void)
{
    for (int32_t i = 0; i < N; i++) {
        question *q = &questions[i];
        int32_t family = i % 4, shared = family == 0 ? 0 : family == 1 ? 20 : family == 2 ? 64 : 130;
        q->n = pick(i, 0, 1, 20) + shared;
        ht_rig_tokens(q->tokens, q->n, 1000 + (uint64_t)i);
        ht_rig_tokens(q->tokens, shared, (uint64_t)family);
        q->max_tokens = i % 6 == 5 ? 100 : pick(i, 1, 1, 20);
        for (int32_t k = 0; k < 94; k++) few[k] = (ht_logit_bias){k, -INFINITY};
        q->sampler = (ht_sampler_options){.logit_bias = few, .n_logit_bias = i % 4 == 1 ? 94 : 0,
                                          .temperature = i % 3 ? 0.8f : 0, .seed = 5, .repeat_penalty = i % 5 ? 0 : 1.2f};
    }
}

static void take_token(void *context, void *user, const ht_sampled *token, const char *text, size_t bytes)
{
    answer *a = user;

    (void)context, (void)text, (void)bytes;
    if (token->id < 0) return;
    cr_assert(a->n < MOST && !a->ended);
    a->logprobs[a->n] = token->logprob;
    a->tokens[a->n++] = token->id;
}

static void take_end(void *context, void *user, ht_finish finish, int32_t n_tokens, int32_t stop, const ht_error *error)
{
    answer *a = user;

    (void)context;
    cr_assert_eq(a->ended, 0);
    cr_assert_eq(stop, -1);
    a->ended = 1;
    a->finish = finish;
    a->counted = n_tokens;
    a->error = error ? error->code : 0;
}

static bool surprise;

static int add_question(ht_batch *b, int32_t i, ht_error *err)
{
    const question *q = &questions[i];
    const ht_request request = {.id = (uint64_t)i,
                                .tokens = q->tokens,
                                .n = q->n,
                                .sampler = q->sampler,
                                .max_tokens = q->max_tokens,
                                .ignore_end = true,
                                .logprobs = true,
                                .expected = surprise,
                                .user = &got[i]};

    return ht_batch_add(b, &request, err);
}

static ht_batch *open_batch(ht_rig *rig, const setup *s)
{
    ht_error err = {0};
    ht_batch *b;
    const ht_batch_options o = {.engine = rig->engine,
                                .tokenizer = tokenizer,
                                .slots = s->slots,
                                .in_order = s->in_order,
                                .all_slots = s->speculation == HT_SPECULATE_NEVER,
                                .speculation = s->speculation,
                                .events = {.token = take_token, .done = take_end}};

    cr_assert(ht_batch_open(&b, &o, &err) == 0, "%s", err.text);
    return b;
}

static ht_batch_stats run_batch(const setup *s)
{
    ht_error err = {0};
    ht_rig rig;
    int64_t left;

    memset(got, 0, sizeof got);
    ht_rig_open(&rig, &s->rig);
    ht_batch *b = open_batch(&rig, s);
    surprise = s->surprise;
    for (int32_t i = 0; i < N; i++)
        cr_assert(add_question(b, s->backwards ? N - 1 - i : i, &err) == 0, "%s", err.text);
    while ((left = ht_batch_step(b, &err)) > 0) {}
    cr_assert(left == 0, "%s", err.text);
    ht_batch_stats stats = b->stats;
    ht_batch_close(&b);
    ht_rig_close(&rig);
    cr_assert_eq(stats.finished, N);
    return stats;
}

/* One after the other, by a session whose every token is a prompt's. */
static void answer_alone(void)
{
    ht_rig rig;
    ht_error err = {0};

    ht_rig_open(&rig, &(ht_rig_options){.sequences = 1});
    memset(wanted, 0, sizeof wanted);
    for (int32_t i = 0; i < N; i++) {
        question q = questions[i];
        answer *a = &wanted[i];
        ht_session *s = ht_rig_session(&rig);
        ht_sampler *sampler;
        cr_assert(ht_sampler_open(&sampler, 97, &q.sampler, &err) == 0, "%s", err.text);
        while (a->n < q.max_tokens) {
            ht_sampled d;
            ht_rig_sync(s, q.tokens, q.n);
            int32_t id = ht_sampler_draw(sampler, s->logits, q.tokens, q.n, (uint64_t)i, &d);
            a->logprobs[a->n] = d.logprob;
            q.tokens[q.n++] = a->tokens[a->n++] = id;
        }
        ht_sampler_close(&sampler);
        ht_session_close(&s);
    }
    ht_rig_close(&rig);
}

static void check_answers(const char *who)
{
    for (int32_t i = 0; i < N; i++) {
        cr_assert_eq(got[i].ended, 1, "%s: request %d", who, i);
        cr_assert_eq(got[i].error, 0, "%s: request %d", who, i);
        cr_assert_eq(got[i].finish, HT_FINISH_LENGTH);
        cr_assert_eq(got[i].n, wanted[i].n, "%s: request %d", who, i);
        cr_assert_eq(got[i].counted, wanted[i].n);
        for (int32_t t = 0; t < wanted[i].n; t++)
            cr_assert(got[i].tokens[t] == wanted[i].tokens[t] && got[i].logprobs[t] == wanted[i].logprobs[t],
                      "%s: request %d differs at token %d", who, i, t);
    }
}

/* ---- tests ---------------------------------------------------------------------------------------------- */

Test(batch, equals_one_by_one, .init = open_tokenizer, .fini = close_tokenizer, .timeout = 240)
{
    static const setup setups[] = {
        {.slots = 1, .rig = {.sequences = 1}},
        {.slots = 4, .rig = {.sequences = 4}},
        {.slots = 3, .rig = {.sequences = 4, .columns = 7}, .backwards = true},
        {.slots = 8, .rig = {.sequences = 8, .columns = 200}, .in_order = true},
        {.slots = 8, .rig = {.sequences = 8, .kv_pages = 5}, .surprise = true},
        {.slots = 8, .rig = {.sequences = 8, .kv_pages = 5}},
        {.slots = 8, .rig = {.sequences = 8, .kv_pages = 9, .columns = 33}},
        {.slots = 6, .rig = {.sequences = 6, .fake = true}},
        {.slots = 1, .rig = {.sequences = 1}, .speculation = HT_SPECULATE_ALWAYS},
        {.slots = 5, .rig = {.sequences = 5, .columns = 21}, .speculation = HT_SPECULATE_ALWAYS},
        {.slots = 8, .rig = {.sequences = 8, .kv_pages = 6}, .surprise = true, .speculation = HT_SPECULATE_ALWAYS},
        {.slots = 2, .rig = {.sequences = 2}, .speculation = HT_SPECULATE_NEVER},
    };
    make_questions();
    answer_alone();
    for (size_t i = 0; i < sizeof setups / sizeof *setups; i++) {
        char who[32];
        snprintf(who, sizeof who, "setup %zu", i);
        ht_batch_stats s = run_batch(&setups[i]);
        check_answers(who);
        if (setups[i].speculation == HT_SPECULATE_ALWAYS) cr_assert_gt(s.accepted_tokens, 20, "%s: no guess was right", who);
        if (setups[i].speculation == HT_SPECULATE_NEVER) cr_assert_eq(s.drafted_tokens, 0);
        cr_assert_eq(s.columns - s.wasted_columns,
                     s.prompt_tokens - s.reused_tokens + s.generated_tokens - N, "%s: columns of no use", who);
    }
}

/* Answers that are longer than was said: rows begin that there are not enough pages for, and some must give theirs back
 * and compute again what they had. */
Test(batch, pages_run_out, .init = open_tokenizer, .fini = close_tokenizer, .timeout = 120)
{
    for (int32_t i = 0; i < N; i++) {
        questions[i] = (question){.n = 50, .max_tokens = 30, .sampler = {.temperature = 1, .seed = 2}};
        ht_rig_tokens(questions[i].tokens, 50, 300 + (uint64_t)i);
    }
    answer_alone();
    for (int guesses = HT_SPECULATE_NEVER; guesses <= HT_SPECULATE_ALWAYS; guesses++) {
        ht_batch_stats s = run_batch(&(setup){.slots = 4, .rig = {.sequences = 4, .kv_pages = 5}, .in_order = true,
                                              .surprise = true, .speculation = (ht_speculation)guesses});
        check_answers("short of pages");
        cr_assert_gt(s.interrupted, 0);
        cr_assert_gt(s.wasted_columns, 0);
        cr_assert_eq(s.columns - s.wasted_columns, s.prompt_tokens + s.generated_tokens - N);
    }
}

/* ---- the passes ----------------------------------------------------------------------------------------- */

/* n requests to a rig that is open, till all are done. */
static ht_batch_stats run_questions(ht_rig *rig, const setup *s, int32_t n)
{
    ht_error err = {0};
    int64_t left;

    memset(got, 0, sizeof got);
    ht_batch *b = open_batch(rig, s);
    for (int32_t i = 0; i < n; i++) cr_assert(add_question(b, i, &err) == 0, "%s", err.text);
    while ((left = ht_batch_step(b, &err)) > 0) {}
    cr_assert(left == 0, "%s", err.text);
    ht_batch_stats stats = b->stats;
    ht_batch_close(&b);
    return stats;
}

/* Eight completions of one prompt: it is computed once, its full pages exist once. */
Test(batch, completions_share_their_prompt, .init = open_tokenizer, .fini = close_tokenizer)
{
    enum { PROMPT = 150, COMPLETIONS = 8, LENGTH = 10 };
    ht_rig rig;

    for (int32_t i = 0; i < COMPLETIONS; i++) {
        questions[i] = (question){.n = PROMPT, .max_tokens = LENGTH, .sampler = {.temperature = 1, .seed = 1}};
        ht_rig_tokens(questions[i].tokens, PROMPT, 3);
    }
    ht_rig_open(&rig, &(ht_rig_options){.sequences = 8, .columns = 100, .kv_pages = 2 + COMPLETIONS});
    ht_batch_stats s = run_questions(&rig, &(setup){.slots = 8, .speculation = HT_SPECULATE_NEVER}, COMPLETIONS);
    ht_rig_close(&rig);
    cr_assert_eq(s.columns, PROMPT + (COMPLETIONS - 1) + COMPLETIONS * (LENGTH - 1));
    cr_assert_eq(s.reused_tokens, (COMPLETIONS - 1) * (PROMPT - 1));
    cr_assert(s.wasted_columns == 0 && s.interrupted == 0);
    cr_assert(memcmp(got[0].tokens, got[1].tokens, sizeof got[0].tokens), "ids make different completions");
}

/* Questions about documents, in any order, one slot: a document stays till its last question has begun. */
Test(batch, prefixes_outlive_their_rows, .init = open_tokenizer, .fini = close_tokenizer)
{
    enum { DOCUMENTS = 3, EACH = 3, DOCUMENT = 133, QUESTION = 5 };
    ht_rig rig;

    for (int32_t i = 0; i < DOCUMENTS * EACH; i++) {
        questions[i] = (question){.n = DOCUMENT + QUESTION, .max_tokens = 1 + i % 4};
        ht_rig_tokens(questions[i].tokens + DOCUMENT, QUESTION, 50 + (uint64_t)i);
        questions[i].tokens[DOCUMENT] = i; /* surely different */
        ht_rig_tokens(questions[i].tokens, DOCUMENT, (uint64_t)(i % DOCUMENTS));
    }
    ht_rig_open(&rig, &(ht_rig_options){.sequences = 1});
    ht_batch_stats s = run_questions(&rig, &(setup){.slots = 1}, DOCUMENTS * EACH);
    ht_rig_close(&rig);
    cr_assert_eq(s.reused_tokens, DOCUMENTS * (EACH - 1) * DOCUMENT);
}

/* Few long answers among many short ones, whose lengths are known: the share of slots that had work in a pass, and of
 * columns that were computed for good. */
Test(batch, slots_are_busy, .init = open_tokenizer, .fini = close_tokenizer)
{
    enum { REQUESTS = 96, PER = 24 };
    static answer ignored[REQUESTS];
    ht_error err = {0};
    ht_rig rig;
    int32_t prompt[40], longest = 0, total = 0;

    ht_rig_open(&rig, &(ht_rig_options){.sequences = 8, .columns = 64});
    ht_batch *b = open_batch(&rig, &(setup){.slots = 8, .speculation = HT_SPECULATE_NEVER});
    for (int32_t i = 0; i < REQUESTS; i++) {
        int32_t length = i % 8 == 7 ? pick(i, 0, 60, 120) : pick(i, 1, 1, 16);
        ht_request q = {.id = (uint64_t)i, .tokens = prompt, .n = pick(i, 2, 1, 40), .max_tokens = length,
                        .ignore_end = true, .user = &ignored[i]};
        ht_rig_tokens(prompt, 40, (uint64_t)i);
        cr_assert(ht_batch_add(b, &q, &err) == 0, "%s", err.text);
        if (length > longest) longest = length;
        total += length;
    }
    while (ht_batch_step(b, &err) > 0) {}
    double slots = (double)b->stats.used_slot_passes / (double)b->stats.slot_passes;
    cr_log_info("%lld passes of 8 rows, %d tokens generated, the longest answer has %d: %.1f%% of slots were busy",
                (long long)b->stats.passes, total, longest, 100 * slots);
    cr_assert_eq(b->stats.finished, REQUESTS);
    cr_assert_geq(slots, 0.95);
    cr_assert_eq(b->stats.wasted_columns, 0);
    cr_assert_eq(b->stats.columns, ht_ref_backend_counts(rig.backend).columns);
    ht_batch_close(&b);
    ht_rig_close(&rig);
}

/* ---- what can go wrong ---------------------------------------------------------------------------------- */

/* Reads that fail, at every place of a pass: the step says so, and the next one goes on as if nothing had been. */
Test(batch, failed_reads_change_nothing, .init = open_tokenizer, .fini = close_tokenizer, .timeout = 120)
{
    ht_error err = {0};
    ht_rig rig;
    int64_t left = 1, failures = 0;

    make_questions();
    answer_alone();
    memset(got, 0, sizeof got);
    ht_rig_open(&rig, &(ht_rig_options){.sequences = 4, .fake = true, .kv_pages = 9});
    ht_batch *b = open_batch(&rig, &(setup){.slots = 4});
    for (int32_t i = 0; i < N; i++) cr_assert(add_question(b, i, &err) == 0, "%s", err.text);
    for (int64_t step = 0; left != 0; step++) {
        ht_fake_store_set_faults(rig.store, step % 3 ? 0 : 1 + step / 3 % 9, step % 3 == 1 ? 1 + step / 3 % 9 : 0);
        err = (ht_error){0};
        left = ht_batch_step(b, &err);
        if (left >= 0) continue;
        failures++;
        cr_assert(left == -EIO && err.text[0], "%lld: %s", (long long)left, err.text);
    }
    cr_assert_gt(failures, 20);
    check_answers("after failed reads");
    ht_batch_close(&b);
    ht_rig_close(&rig);
}

Test(batch, cancel_and_go_on, .init = open_tokenizer, .fini = close_tokenizer)
{
    ht_error err = {0};
    ht_rig rig;

    make_questions();
    answer_alone();
    memset(got, 0, sizeof got);
    ht_rig_open(&rig, &(ht_rig_options){.sequences = 4});
    ht_batch *b = open_batch(&rig, &(setup){.slots = 4});
    for (int32_t i = 0; i < N; i++) cr_assert(add_question(b, i, &err) == 0, "%s", err.text);
    cr_assert(ht_batch_step(b, &err) > 0);
    atomic_store(&rig.engine->cancel, true);
    cr_assert_eq(ht_batch_step(b, &err), -ECANCELED);
    atomic_store(&rig.engine->cancel, false);
    while (ht_batch_step(b, &err) > 0) {}
    check_answers("after a cancelled step");
    /* and one that is closed in the middle leaves nothing behind */
    memset(got, 0, sizeof got);
    for (int32_t i = 0; i < N; i++) cr_assert(add_question(b, i, &err) == 0, "%s", err.text);
    for (int i = 0; i < 5; i++) cr_assert(ht_batch_step(b, &err) > 0);
    ht_batch_close(&b);
    ht_rig_close(&rig);
}

/* A request of which no token can be drawn fails alone. */
Test(batch, one_fails_alone, .init = open_tokenizer, .fini = close_tokenizer)
{
    static ht_logit_bias none[97];
    ht_rig rig;

    make_questions();
    answer_alone();
    for (int32_t i = 0; i < 97; i++) none[i] = (ht_logit_bias){i, -INFINITY};
    questions[2].sampler.logit_bias = none;
    questions[2].sampler.n_logit_bias = 97;
    ht_rig_open(&rig, &(ht_rig_options){.sequences = 4});
    ht_batch_stats s = run_questions(&rig, &(setup){.slots = 4}, N);
    ht_rig_close(&rig);
    cr_assert(s.failed == 1 && s.finished == N - 1);
    cr_assert(got[2].error == -ERANGE && got[2].finish == 0 && got[2].n == 0);
    got[2] = wanted[2]; /* the others are checked */
    got[2].ended = 1;
    got[2].counted = wanted[2].n;
    got[2].finish = HT_FINISH_LENGTH;
    check_answers("beside one that failed");
}

Test(batch, bad_requests, .init = open_tokenizer, .fini = close_tokenizer)
{
    ht_rig rig;
    ht_error err = {0};
    ht_batch *b;
    int32_t tokens[600] = {0}, bad[] = {1, 97};
    answer a = {0};

    ht_rig_open(&rig, &(ht_rig_options){.sequences = 2, .kv_pages = 4});
    const ht_batch_options many = {.engine = rig.engine, .tokenizer = tokenizer, .slots = 3};
    cr_assert_eq(ht_batch_open(&b, &many, &err), -EINVAL);
    b = open_batch(&rig, &(setup){.slots = 2});
    cr_assert_eq(ht_batch_step(b, &err), 0);
    cr_assert_eq(ht_batch_add(b, &(ht_request){.tokens = tokens, .n = 0}, &err), -EINVAL);
    cr_assert_eq(ht_batch_add(b, &(ht_request){.tokens = tokens, .n = 513}, &err), -ENOSPC);
    cr_assert_eq(ht_batch_add(b, &(ht_request){.tokens = bad, .n = 2}, &err), -EINVAL);
    cr_assert_eq(ht_batch_add(b, &(ht_request){.tokens = tokens, .n = 2, .max_tokens = -1}, &err), -EINVAL);
    cr_assert_eq(ht_batch_add(b, &(ht_request){.tokens = tokens, .n = 2, .max_tokens = 5, .sampler = {.min_p = 2}}, &err),
                 -EINVAL);
    cr_assert_eq(ht_batch_add(b, &(ht_request){.tokens = tokens, .n = 200, .max_tokens = 100}, &err), -ENOMEM);
    cr_assert_eq(ht_batch_step(b, &err), 0, "nothing was added");
    /* What a session holds, requests cannot have: one that needs it fails, when nothing else is left to wait for. */
    ht_session *s = ht_rig_session(&rig);
    ht_rig_sync(s, tokens, 70);
    ht_request q = {.tokens = tokens, .n = 100, .max_tokens = 60, .ignore_end = true, .user = &a};
    cr_assert_eq(ht_batch_add(b, &q, &err), 0);
    while (ht_batch_step(b, &err) > 0) {}
    cr_assert(a.ended && a.error == -ENOMEM && a.n == 29, "%d tokens, error %d", a.n, a.error);
    ht_session_close(&s);
    ht_batch_close(&b);
    ht_rig_close(&rig);
}

/* The context ends an answer without a limit; one token fits behind a prompt that fills it. */
Test(batch, the_context_ends_it, .init = open_tokenizer, .fini = close_tokenizer)
{
    ht_rig rig;
    ht_error err = {0};
    int32_t tokens[64];
    answer a[3] = {{.n = 0}};

    ht_rig_tokens(tokens, 64, 1);
    ht_rig_open(&rig, &(ht_rig_options){.sequences = 2, .context = 64});
    ht_batch *b = open_batch(&rig, &(setup){.slots = 2});
    for (int i = 0; i < 3; i++) {
        ht_request q = {.tokens = tokens, .n = i ? 64 : 50, .max_tokens = i == 2 ? 1 : 0, .ignore_end = true, .user = &a[i]};
        cr_assert_eq(ht_batch_add(b, &q, &err), 0, "%s", err.text);
    }
    while (ht_batch_step(b, &err) > 0) {}
    cr_assert(a[0].n == 15 && a[0].finish == HT_FINISH_CONTEXT);
    cr_assert(a[1].n == 1 && a[1].finish == HT_FINISH_CONTEXT);
    cr_assert(a[2].n == 1 && a[2].finish == HT_FINISH_LENGTH);
    ht_batch_close(&b);
    ht_rig_close(&rig);
}

/* Requests that are added as others end. */
typedef struct chain { ht_batch *batch; int32_t next; } chain;

static void add_next(void *context, void *user, ht_finish finish, int32_t n_tokens, int32_t stop, const ht_error *error)
{
    chain *c = context;
    ht_error err = {0};

    take_end(NULL, user, finish, n_tokens, stop, error);
    if (c->next < N) cr_assert(add_question(c->batch, c->next++, &err) == 0, "%s", err.text);
}

Test(batch, requests_come_later, .init = open_tokenizer, .fini = close_tokenizer)
{
    ht_rig rig;
    ht_error err = {0};
    chain c = {.next = 3};
    const ht_batch_events events = {.token = take_token, .done = add_next, .context = &c};

    make_questions();
    answer_alone();
    memset(got, 0, sizeof got);
    ht_rig_open(&rig, &(ht_rig_options){.sequences = 3});
    const ht_batch_options o = {.engine = rig.engine, .tokenizer = tokenizer, .events = events};
    cr_assert(ht_batch_open(&c.batch, &o, &err) == 0, "%s", err.text);
    for (int32_t i = 0; i < 3; i++) cr_assert(add_question(c.batch, i, &err) == 0, "%s", err.text);
    while (ht_batch_step(c.batch, &err) > 0) {}
    check_answers("one after the other");
    ht_batch_close(&c.batch);
    ht_rig_close(&rig);
}

/* Long requests without end, and a short one that came first. */
typedef struct crowd { ht_batch *batch; answer of[4]; int32_t begun, short_ended_after; } crowd;

static int add_to_crowd(crowd *c, int32_t max_tokens, answer *a)
{
    int32_t tokens[2] = {1 + c->begun % 90, 2};
    const ht_request q = {.tokens = tokens, .n = 2, .max_tokens = max_tokens, .ignore_end = true, .user = a};

    *a = (answer){0};
    c->begun++;
    return ht_batch_add(c->batch, &q, NULL);
}

static void keep_crowd(void *context, void *user, ht_finish finish, int32_t n_tokens, int32_t stop, const ht_error *error)
{
    crowd *c = context;

    take_end(NULL, user, finish, n_tokens, stop, error);
    if (n_tokens == 1) c->short_ended_after = c->begun;
    else if (c->begun < 300) cr_assert_eq(add_to_crowd(c, 3, user), 0);
}

Test(batch, nobody_waits_for_ever, .init = open_tokenizer, .fini = close_tokenizer)
{
    ht_rig rig;
    ht_error err = {0};
    crowd c = {.batch = NULL};

    ht_rig_open(&rig, &(ht_rig_options){.sequences = 1});
    const ht_batch_options o = {.engine = rig.engine, .tokenizer = tokenizer,
                                .events = {.token = take_token, .done = keep_crowd, .context = &c}};
    cr_assert(ht_batch_open(&c.batch, &o, &err) == 0, "%s", err.text);
    for (int32_t i = 0; i < 4; i++) cr_assert_eq(add_to_crowd(&c, i ? 3 : 1, &c.of[i]), 0);
    while (ht_batch_step(c.batch, &err) > 0) {}
    cr_assert_eq(c.of[0].ended, 1);
    cr_assert(c.short_ended_after > 4 && c.short_ended_after < 120, "after %d", c.short_ended_after);
    ht_batch_close(&c.batch);
    ht_rig_close(&rig);
}

typedef struct fragile { ht_rig rig; ht_batch *batch; } fragile;

static int open_and_add(void *context, ht_error *err)
{
    fragile *f = context;
    static const char *const stop[] = {"stop"};
    const ht_batch_options o = {.engine = f->rig.engine, .tokenizer = tokenizer, .slots = 2};
    ht_logit_bias bias = {1, 1};

    int r = ht_batch_open(&f->batch, &o, err);
    for (int32_t i = 0; i < 2 && r >= 0; i++) {
        int32_t tokens[3] = {1, 2, 3};
        const ht_request q = {.tokens = tokens, .n = 3, .max_tokens = 4, .text = {stop, 1, false, false},
                              .sampler = {.logit_bias = &bias, .n_logit_bias = 1}};
        r = ht_batch_add(f->batch, &q, err);
        if (r < 0) cr_expect_eq(ht_batch_step(f->batch, NULL) >= 0, true, "a batch is as it was when add failed");
    }
    if (r < 0) ht_batch_close(&f->batch);
    return r;
}

static void close_batch(void *context) { ht_batch_close(&((fragile *)context)->batch); }

Test(batch, any_allocation_may_fail, .init = open_tokenizer, .fini = close_tokenizer)
{
    fragile f = {.batch = NULL};

    ht_rig_open(&f.rig, &(ht_rig_options){.sequences = 2});
    cr_assert_gt(test_fail_each_allocation(open_and_add, close_batch, &f), 20);
    ht_rig_close(&f.rig);
}
