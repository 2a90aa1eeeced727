/* Batches: every request's output is what it would be alone, however the passes are put together; and the passes are
 * put together well. */
#include "tests/support/data.h"
#include "tests/support/harness.h"
#include "tests/support/rig.h"

#include "core/base/memory.h"
#include "core/base/random.h"
#include "core/engine/batch.h"

#include <stdio.h>
#include <string.h>

#ifdef HEARTH_HARNESS
enum { N = 10, SANITIZED = 1 };
#else
enum { N = 24, SANITIZED = 0 };
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
    bool in_order, backwards;
} setup;

static ht_tokenizer *tokenizer;
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
        q->sampler = (ht_sampler_options){.temperature = i % 3 ? 0.8f : 0, .seed = 5, .repeat_penalty = i % 5 ? 0 : 1.2f};
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
        {.slots = 8, .rig = {.sequences = 8, .kv_pages = 5}},
        {.slots = 8, .rig = {.sequences = 8, .kv_pages = 9, .columns = 33}, .in_order = true},
        {.slots = 6, .rig = {.sequences = 6, .fake = true}},
    };
    make_questions();
    answer_alone();
    for (size_t i = 0; i < sizeof setups / sizeof *setups; i++) {
        char who[32];
        snprintf(who, sizeof who, "setup %zu", i);
        run_batch(&setups[i]);
        check_answers(who);
    }
}
