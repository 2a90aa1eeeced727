/* A really trained model end to end, through the public API: logits, greedy continuations and perplexity against
 * values that other code computed from the same files (tests/data/README.md).
 */
#include "tests/support/data.h"
#include "tests/support/harness.h"

#include "core/base/error.h"
#include "core/base/file.h"
#include "core/base/memory.h"
#include "hearth.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FOLDER "models/kjv-relu-7m/"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1, GREEDY = 4 }; /* tokens of each continuation */
#else
enum { SANITIZED = 0, GREEDY = 64 };
#endif

typedef struct subject {
    hearth_engine *engine;
    hearth_session *session;
    cJSON *reference;
    bool absent;
} subject;

static subject open_subject(const char *gguf, const char *json, hearth_options options)
{
    char path[TEST_PATH_MAX], *text;
    ht_error err = {0};
    hearth_error error = {0};
    subject s = {0};

    if (!test_data(path, json) || !test_data(path, gguf)) return (subject){.absent = true};
    options.model = path;
    options.quiet = true;
    cr_assert(hearth_engine_open(&s.engine, &options, &error) == 0, "%s", error.text);
    cr_assert(hearth_session_open(&s.session, s.engine, &(hearth_session_options){0}, &error) == 0, "%s", error.text);
    cr_assert(test_data(path, json));
    cr_assert(ht_file_slurp(path, 1 << 24, &text, NULL, &err) == 0, "%s", err.text);
    s.reference = cJSON_Parse(text);
    cr_assert(s.reference != NULL);
    ht_free(text);
    return s;
}

static void close_subject(subject *s)
{
    cr_expect_eq(ht_guard_violations(), 0);
    hearth_session_close(&s->session);
    hearth_engine_close(&s->engine);
    cJSON_Delete(s->reference);
}

static int32_t read_ids(const cJSON *array, int32_t *ids, int32_t room)
{
    int32_t n = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, array)
    {
        cr_assert(n < room);
        ids[n++] = item->valueint;
    }
    return n;
}

/* ---- logits --------------------------------------------------------------------------------------------- */

/* The largest error of a logit among the 20 highest, relative to it, or to the highest; and that of their length. */
static double logits_error(const subject *s, const cJSON *c, bool to_highest)
{
    const float *l = hearth_session_logits(s->session);
    const cJSON *ids = cJSON_GetObjectItem(c, "top20_ids"), *values = cJSON_GetObjectItem(c, "top20_logits");
    double worst = 0, square = 0, want_l2 = cJSON_GetObjectItem(c, "logits_l2")->valuedouble;

    for (int i = 0; i < cJSON_GetArraySize(ids); i++) {
        double want = cJSON_GetArrayItem(values, i)->valuedouble, got = l[cJSON_GetArrayItem(ids, i)->valueint];
        worst = fmax(worst, fabs(got - want) / fabs(to_highest ? cJSON_GetArrayItem(values, 0)->valuedouble : want));
    }
    for (int32_t i = 0; i < hearth_vocab_size(hearth_engine_vocab(s->engine)); i++) square += (double)l[i] * l[i];
    return fmax(worst, fabs(sqrt(square) - want_l2) / want_l2);
}

/* All cases: the prompt's ids, the logits, and the greedy continuation (its beginning, under a sanitizer). */
static void check_cases(const char *gguf, const char *json, hearth_options options, double limit, bool greedy,
                        bool to_highest)
{
    subject s = open_subject(gguf, json, options);
    hearth_error error = {0};
    hearth_sampler *sampler;
    const cJSON *c;
    double worst = 0;
    int cases = 0;

    if (s.absent) cr_skip_test("no " FOLDER);
    cr_assert(hearth_sampler_open(&sampler, s.engine, &(hearth_sampler_options){0}, &error) == 0, "%s", error.text);
    cJSON_ArrayForEach(c, cJSON_GetObjectItem(s.reference, "cases"))
    {
        const char *prompt = cJSON_GetObjectItem(c, "prompt")->valuestring;
        int32_t want[256], got[256], greedy_ids[64];
        int32_t n = read_ids(cJSON_GetObjectItem(c, "token_ids"), want, 256);
        int32_t n_greedy = read_ids(cJSON_GetObjectItem(c, "greedy_ids"), greedy_ids, 64);
        int64_t n_got = hearth_encode(hearth_engine_vocab(s.engine), prompt, strlen(prompt), HEARTH_BOS, got, 256, &error);
        cr_assert(n_got == n && !memcmp(got, want, (size_t)n * sizeof *got), "'%s': other ids", prompt);
        cr_assert(hearth_session_sync(s.session, got, n, &error) == 0, "%s", error.text);
        worst = fmax(worst, logits_error(&s, c, to_highest));
        for (int32_t i = 0; greedy && i < n_greedy && i < GREEDY; i++) {
            int32_t id = hearth_sample(sampler, s.session, NULL);
            cr_assert_eq(id, greedy_ids[i], "'%s': token %d of the continuation is %d, not %d", prompt, i, id, greedy_ids[i]);
            cr_assert(hearth_session_append(s.session, id, &error) == 0, "%s", error.text);
        }
        cases++;
    }
    cr_assert_eq(cases, 8);
    cr_assert(worst <= limit, "%s: the worst logit is off by %.2e of itself", gguf, worst);
    if (getenv("HEARTH_TEST_VERBOSE")) fprintf(stderr, "%s: worst relative error of a logit %.2e\n", gguf, worst);
    hearth_sampler_close(&sampler);
    close_subject(&s);
}

#define F16 FOLDER "kjv-relu-7m-f16.gguf", FOLDER "reference.json"
#define Q4 FOLDER "kjv-relu-7m-q4.gguf", FOLDER "reference-q4.json"

/* With the cache in F32, as the reference computes: a logit is right by itself. */
Test(kjv, f16_logits, .timeout = 120)
{
    check_cases(F16, (hearth_options){.activations = "f32", .k_type = "f32", .v_type = "f32"}, 1e-4, true, false);
}
/* A cache in F16 rounds K and V to 11 bits: small logits move by more of themselves than 1e-3, so they are held
 * against the highest. */
Test(kjv, f16_logits_f16_cache, .timeout = 120)
{
    check_cases(F16, (hearth_options){.activations = "f32", .k_type = "f16", .v_type = "f16"}, 1e-3, true, true);
}
Test(kjv, f16_logits_q16_cache, .timeout = 120)
{
    check_cases(F16, (hearth_options){.activations = "f32", .k_type = "q16", .v_type = "q16"}, 1e-3, true, true);
}
/* As people run it: prompts in 16-bit fixed point. */
Test(kjv, f16_logits_fixed, .timeout = 120)
{
    check_cases(F16, (hearth_options){.k_type = "f32", .v_type = "f32"}, 1e-3, true, true);
}
Test(kjv, q4_logits, .timeout = 120)
{
    check_cases(Q4, (hearth_options){.activations = "f32", .k_type = "f32", .v_type = "f32"}, 1e-4, true, false);
}
Test(kjv, q4_logits_reference_kernels, .timeout = 120)
{
    if (SANITIZED) cr_skip_test("the scalar kernels take too long under a sanitizer");
    check_cases(Q4, (hearth_options){.activations = "f32", .isa = "ref"}, 1e-3, true, true);
}
/* With 8-bit activations rounding is real: no bit of it is tested here but its size. */
Test(kjv, q4_logits_q8, .timeout = 120) { check_cases(Q4, (hearth_options){.activations = "q8"}, 0.03, false, true); }

/* ---- perplexity ----------------------------------------------------------------------------------------- */

typedef struct nll { const int32_t *tokens; int64_t n; int32_t n_vocab; double sum; int64_t count; } nll;

static void add_nll(void *user, int64_t position, const float *logits)
{
    nll *s = user;
    double max = -INFINITY, sum = 0;
    if (position + 1 >= s->n) return;
    for (int32_t i = 0; i < s->n_vocab; i++) max = fmax(max, logits[i]);
    for (int32_t i = 0; i < s->n_vocab; i++) sum += exp(logits[i] - max);
    s->sum += max + log(sum) - logits[s->tokens[position + 1]];
    s->count++;
}

/* Windows of 255 tokens behind a BOS, every token scored, as the reference says. */
static double perplexity(const subject *s)
{
    char path[TEST_PATH_MAX], *text;
    ht_error err = {0};
    hearth_error error = {0};
    size_t size;
    static int32_t ids[16384];
    int32_t window[256];
    const hearth_vocab *vocab = hearth_engine_vocab(s->engine);
    nll total = {.tokens = window, .n_vocab = hearth_vocab_size(vocab)};

    cr_assert(test_data(path, FOLDER "valid.txt"));
    cr_assert(ht_file_slurp(path, 1 << 24, &text, &size, &err) == 0, "%s", err.text);
    int64_t n = hearth_encode(vocab, text, 20480, 0, ids, 16384, &error);
    cr_assert(size >= 20480 && n > 0 && n <= 16384);
    ht_free(text);
    for (int64_t at = 0; at < n; at += 255) {
        int64_t k = n - at < 255 ? n - at : 255;
        window[0] = 1;
        memcpy(window + 1, ids + at, (size_t)k * sizeof *ids);
        total.n = k + 1;
        cr_assert(hearth_session_score(s->session, window, total.n, 0, add_nll, &total, &error) == 0, "%s", error.text);
    }
    cr_assert_eq(total.count, n);
    return exp(total.sum / (double)n);
}

static void check_perplexity(const char *gguf, const char *json, hearth_options options, double limit)
{
    if (SANITIZED) cr_skip_test("5012 tokens take too long under a sanitizer");
    subject s = open_subject(gguf, json, options);
    if (s.absent) cr_skip_test("no " FOLDER);
    double want = cJSON_GetObjectItem(cJSON_GetObjectItem(s.reference, "perplexity"), "value")->valuedouble;
    double got = perplexity(&s);
    cr_assert(fabs(got / want - 1) <= limit, "%s: perplexity %.4f, the reference has %.4f", gguf, got, want);
    if (getenv("HEARTH_TEST_VERBOSE")) fprintf(stderr, "%s: perplexity %.4f, reference %.4f\n", gguf, got, want);
    close_subject(&s);
}

Test(kjv, f16_perplexity, .timeout = 300) { check_perplexity(F16, (hearth_options){.activations = "f32"}, 1e-3); }
Test(kjv, f16_perplexity_fixed, .timeout = 300) { check_perplexity(F16, (hearth_options){0}, 1e-4); }
Test(kjv, q4_perplexity, .timeout = 300) { check_perplexity(Q4, (hearth_options){.activations = "f32"}, 1e-3); }
Test(kjv, q4_perplexity_q8, .timeout = 300) { check_perplexity(Q4, (hearth_options){.activations = "q8"}, 1e-2); }

/* ---- generating text ------------------------------------------------------------------------------------ */

typedef struct output { char text[1024]; size_t n; int calls, last_id; int stop_after; } output;

static bool take_text(void *user, const hearth_sampled *token, const char *text, size_t bytes)
{
    output *o = user;
    memcpy(o->text + o->n, text, bytes);
    o->n += bytes;
    o->last_id = token->id;
    return ++o->calls != o->stop_after;
}

Test(kjv, generate, .timeout = 120)
{
    subject s = open_subject(Q4, (hearth_options){.activations = "f32", .context = 64});
    hearth_error error = {0};
    hearth_sampler *sampler;
    hearth_generated got;
    output o = {0};
    if (s.absent) cr_skip_test("no " FOLDER);
    cr_assert(hearth_sampler_open(&sampler, s.engine, &(hearth_sampler_options){0}, &error) == 0, "%s", error.text);
    cr_assert_eq(hearth_generate(s.session, sampler, &(hearth_generate_options){0}, &got, &error), -ENODATA);

    const cJSON *c = cJSON_GetArrayItem(cJSON_GetObjectItem(s.reference, "cases"), 0);
    const char *want = cJSON_GetObjectItem(c, "greedy_text")->valuestring;
    int32_t ids[64], n = read_ids(cJSON_GetObjectItem(c, "token_ids"), ids, 64);
    hearth_generate_options g = {.max_tokens = 32, .sink = take_text, .user = &o};
    cr_assert(hearth_session_sync(s.session, ids, n, &error) == 0, "%s", error.text);
    cr_assert(hearth_generate(s.session, sampler, &g, &got, &error) == 0, "%s", error.text);
    cr_assert(got.finish == HEARTH_FINISH_LENGTH && got.n_tokens == 32 && got.stop == -1);
    cr_assert(o.n == strlen(want) && !memcmp(o.text, want, o.n), "'%.*s'", (int)o.n, o.text);
    cr_assert_eq(hearth_session_tokens(s.session, NULL), n + 31, "the last token needs no computing");

    /* a stop string across tokens: nothing of it comes out */
    const char *comma = strstr(want, ", ");
    char stop[8] = {0};
    if (comma) {
        memcpy(stop, comma, 4);
        o = (output){0};
        g.text = (hearth_text_options){.stop = (const char *const[]){"never said", stop}, .n_stop = 2};
        cr_assert(hearth_session_sync(s.session, ids, n, &error) == 0, "%s", error.text);
        cr_assert(hearth_generate(s.session, sampler, &g, &got, &error) == 0, "%s", error.text);
        cr_assert(got.finish == HEARTH_FINISH_STOP && got.stop == 1);
        cr_assert(o.n == (size_t)(comma - want) && !memcmp(o.text, want, o.n), "'%.*s'", (int)o.n, o.text);
    }

    /* the sink ends it */
    o = (output){.stop_after = 3};
    g.text.n_stop = 0;
    cr_assert(hearth_session_sync(s.session, ids, n, &error) == 0, "%s", error.text);
    cr_assert(hearth_generate(s.session, sampler, &g, &got, &error) == 0, "%s", error.text);
    cr_assert(got.finish == HEARTH_FINISH_SINK && got.n_tokens == 3 && o.calls == 3);

    /* the context ends it: all 64 positions are computed, and one more token is read from the last logits */
    o = (output){0};
    g.max_tokens = 0;
    cr_assert(hearth_session_sync(s.session, ids, n, &error) == 0, "%s", error.text);
    cr_assert(hearth_generate(s.session, sampler, &g, &got, &error) == 0, "%s", error.text);
    cr_assert(got.finish == HEARTH_FINISH_CONTEXT && got.n_tokens == 64 - n + 1, "%d %d", got.finish, got.n_tokens);
    cr_assert_eq(hearth_session_append(s.session, 5, &error), -ENOSPC);

    hearth_engine_cancel(s.engine, true);
    cr_assert(hearth_generate(s.session, sampler, &g, &got, &error) == 0);
    cr_assert(got.finish == HEARTH_FINISH_CANCELED && got.n_tokens == 0);
    hearth_sampler_close(&sampler);
    close_subject(&s);
}
