/* The loop of hearth batch: lines in, requests to the engine, results to the journal. A window of lines is in work at
 * any time, so that the engine can choose and find common beginnings; of the others only places are known. */
#include "cli/batch.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    WINDOW_SLOTS = 16, WINDOW_LEAST = 256, /* requests in the engine: so many for each slot */
    WINDOW_TOKENS = 8 << 20,               /* and their prompts' tokens in all */
    FIRST_GUESS = 128,                     /* tokens that an answer has */
};

typedef struct cli_batch_work work;

/* One answer that is being made: what the engine gives back to us. */
typedef struct slot {
    work *of;
    int index;
    int64_t prompt;      /* tokens */
} slot;

/* A line in work. */
struct cli_batch_work {
    cli_batch *b;
    int64_t at;          /* line, from 0 on */
    char *custom_id;     /* owned, or NULL */
    bool chat, logprobs;
    int64_t prompt_tokens;
    cli_refusal why;     /* why.text: it failed */
    cli_answer *answers; /* [n], owned */
    slot *slots;         /* [n], owned */
    int n, left;         /* answers, and those that are not there yet */
    work *before, *after; /* all lines in work */
};

static void work_free(work *w)
{
    if (w->before) w->before->after = w->after;
    else w->b->works = w->after;
    if (w->after) w->after->before = w->before;
    for (int i = 0; i < w->n; i++) {
        cli_text_free(&w->answers[i].text);
        free(w->answers[i].sampled);
    }
    free(w->answers);
    free(w->slots);
    free(w->custom_id);
    free(w);
}

/* ---- results -------------------------------------------------------------------------------------------------- */

static int put_result(cli_batch *b, int64_t at, const char *custom_id, const work *w, const cli_refusal *why)
{
    const cli_job_line *line = &b->jobs.line[b->first + at];
    char name[32];
    if (b->jobs.text) {
        snprintf(name, sizeof name, "line-%u", line->number);
        custom_id = name;
    }
    cli_result result = {.custom_id = custom_id, .index = b->first + at, .number = line->number};
    b->result.size = 0;
    if (why) {
        cli_result_refused(&b->result, &b->results, &result, why);
    } else {
        result.chat = w->chat;
        result.logprobs = w->logprobs;
        result.prompt_tokens = w->prompt_tokens;
        result.answers = w->answers;
        result.n = w->n;
        cli_result_answered(&b->result, &b->results, &result);
    }
    int rc = cli_journal_add(b->journal, at, b->result.data, b->result.size, why != NULL, &b->error);
    b->done += rc == 0;
    b->errors += rc == 0 && why;
    return rc;
}

/* The line's last answer is there, or it failed and nothing of it is in the engine any more. */
static void finish_work(work *w)
{
    cli_batch *b = w->b;
    int rc = put_result(b, w->at, w->custom_id, w, w->why.text[0] ? &w->why : NULL);
    if (rc < 0 && !b->failed) b->failed = rc;
    work_free(w);
}

static void on_token(void *user, const hearth_sampled *token, const char *text, size_t bytes)
{
    slot *s = user;
    cli_answer *a = &s->of->answers[s->index];
    if (bytes) cli_text_add(&a->text, text, bytes);
    if (token->id < 0 || !s->of->logprobs) return;
    if (a->n == a->room) {
        a->room = 2 * a->room + 16;
        a->sampled = cli_realloc(a->sampled, (size_t)a->room, sizeof *a->sampled);
    }
    a->sampled[a->n++] = *token;
}

static void on_done(void *user, hearth_finish finish, int32_t n_tokens, int32_t stop, const hearth_error *error)
{
    slot *s = user;
    work *w = s->of;
    cli_batch *b = w->b;
    (void)stop;
    w->answers[s->index].finish = finish;
    w->answers[s->index].n_tokens = n_tokens;
    if (error) cli_refuse(&w->why, 500, "generation_failed", NULL, "%s", error->text);
    if (finish == HEARTH_FINISH_LENGTH || finish == HEARTH_FINISH_CONTEXT) b->n_cut++;
    else b->n_ended++, b->ended_tokens += n_tokens;
    b->in_flight--;
    b->in_flight_tokens -= s->prompt;
    if (--w->left == 0) finish_work(w);
}

/* ---- requests ------------------------------------------------------------------------------------------------- */

/* What a message says cannot become a control token. */
static int encode_chat(cli_batch *b, const cli_request *r, cli_prompt *out, hearth_error *error)
{
    const char *format = b->o->chat_template;
    int64_t n = hearth_chat_encode(b->vocab, format, r->messages, r->n_messages, true, 0, NULL, 0, error);
    if (n < 0) return (int)n;
    out->ids = cli_realloc(NULL, (size_t)n, sizeof *out->ids);
    out->n = hearth_chat_encode(b->vocab, format, r->messages, r->n_messages, true, 0, out->ids, n, error);
    return out->n < 0 ? (int)out->n : 0;
}

int cli_batch_encode(cli_batch *b, cli_request *r, cli_refusal *why)
{
    hearth_error error = {0};
    if (r->chat) {
        r->prompts = memset(cli_realloc(NULL, 1, sizeof *r->prompts), 0, sizeof *r->prompts);
        r->n_prompts = 1;
        if (encode_chat(b, r, r->prompts, &error) < 0) return cli_refuse(why, 400, NULL, "messages", "%s", error.text);
    }
    for (int i = 0; i < r->n_prompts; i++) {
        cli_prompt *p = &r->prompts[i];
        if (!p->ids && cli_encode(b->vocab, p->text, strlen(p->text), HEARTH_BOS | HEARTH_SPECIAL, &p->ids, &p->n, &error) < 0)
            return cli_refuse(why, 400, NULL, "prompt", "%s", error.text);
        if (p->n == 0)
            return cli_refuse(why, 400, NULL, "prompt", "the prompt is empty, and this model has no token to begin with");
        if (p->n > b->info.n_context)
            return cli_refuse(why, 400, "context_length_exceeded", r->chat ? "messages" : "prompt",
                              "the prompt has %lld tokens, and the context %d (-c)", (long long)p->n, b->info.n_context);
    }
    return 0;
}

/* How long an answer will be: as long as it may be as often as others were, else what the others had. It decides the
 * order of work, never a result. */
static int32_t expected_tokens(const cli_batch *b, const cli_request *r, int64_t prompt)
{
    int64_t most = b->info.n_context - prompt + 1;
    if (r->max_tokens && r->max_tokens < most) most = r->max_tokens;
    double ended = b->n_ended ? (double)b->ended_tokens / (double)b->n_ended : FIRST_GUESS;
    double cut = b->n_cut + b->n_ended ? (double)b->n_cut / (double)(b->n_cut + b->n_ended) : 0;
    if (r->ignore_end) cut = 1;
    double guess = cut * (double)most + (1 - cut) * (ended < (double)most ? ended : (double)most);
    return (int32_t)guess + 1;
}

/* The line's bias, and that end tokens are forbidden if it goes on after them. The caller frees it. */
static struct hearth_logit_bias *all_bias(const cli_batch *b, const cli_request *r, int *n)
{
    int n_line = r->sampler.n_logit_bias, n_ends = r->ignore_end ? b->n_ends : 0;
    struct hearth_logit_bias *bias = cli_realloc(NULL, (size_t)(n_line + n_ends), sizeof *bias);
    if (n_line) memcpy(bias, r->sampler.logit_bias, (size_t)n_line * sizeof *bias);
    for (int i = 0; i < n_ends; i++) bias[n_line + i] = (struct hearth_logit_bias){b->ends[i], -INFINITY};
    *n = n_line + n_ends;
    return bias;
}

/* Gives the line's requests to the engine. What it refuses is the line's error; a negative errno ends the job. */
static int add_requests(cli_batch *b, work *w, const cli_request *r)
{
    int n_bias, rc = 0;
    struct hearth_logit_bias *bias = all_bias(b, r, &n_bias);
    hearth_error error = {0};
    w->left = 1; /* ours, so that it is not over before all have been added */
    for (int i = 0; i < w->n && rc == 0; i++) {
        const cli_prompt *p = &r->prompts[i / r->n];
        w->slots[i] = (slot){.of = w, .index = i, .prompt = p->n};
        w->answers[i].continues = !r->chat && (!p->text || p->text[0]);
        hearth_request request = {
            .tokens = p->ids, .n = p->n, .sampler = r->sampler,
            .text = {.stop = r->stop, .n_stop = r->n_stop, .continues = w->answers[i].continues},
            .max_tokens = r->max_tokens, .ignore_end = r->ignore_end, .logprobs = r->logprobs,
            .expected = expected_tokens(b, r, p->n), .user = &w->slots[i],
        };
        /* With a seed of its own a line's luck is the same wherever it stands; else its place makes it its own. */
        request.id = r->seeded ? (uint64_t)i : (uint64_t)(b->first + w->at) * CLI_MAX_CHOICES + (uint64_t)i;
        request.sampler.logit_bias = bias;
        request.sampler.n_logit_bias = n_bias;
        rc = hearth_batch_add(b->batch, &request, &error);
        if (rc < 0) break;
        w->left++;
        b->in_flight++;
        b->in_flight_tokens += p->n;
    }
    free(bias);
    if (rc == -ENOMEM) {
        b->error = error;
        return rc; /* the lines in work are dropped with the engine */
    }
    if (rc < 0) cli_refuse(&w->why, 400, rc == -ENOSPC ? "context_length_exceeded" : NULL, NULL, "%s", error.text);
    if (--w->left == 0) finish_work(w);
    return b->failed;
}

static int begin_line(cli_batch *b, int64_t at)
{
    cli_request r;
    cli_refusal why = {0};
    int rc = cli_jobs_parse(&b->jobs, b->first + at, &b->rules, &b->line, &r, &why, &b->error);
    if (rc > 0 && cli_batch_encode(b, &r, &why) < 0) rc = 0;
    if (rc == 0) rc = put_result(b, at, r.custom_id, NULL, &why);
    else if (rc > 0) {
        work *w = memset(cli_realloc(NULL, 1, sizeof *w), 0, sizeof *w);
        *w = (work){.b = b, .at = at, .chat = r.chat, .logprobs = r.logprobs, .n = r.n_prompts * r.n, .after = b->works};
        if (w->after) w->after->before = w;
        b->works = w;
        w->custom_id = r.custom_id ? strdup(r.custom_id) : NULL;
        w->answers = memset(cli_realloc(NULL, (size_t)w->n, sizeof *w->answers), 0, (size_t)w->n * sizeof *w->answers);
        w->slots = cli_realloc(NULL, (size_t)w->n, sizeof *w->slots);
        for (int i = 0; i < w->n; i++) cli_text_add(&w->answers[i].text, "", 0);
        for (int i = 0; i < r.n_prompts; i++) w->prompt_tokens += r.prompts[i].n;
        rc = add_requests(b, w, &r);
    }
    cli_request_free(&r);
    return rc;
}

/* Fills the window. */
static int begin_lines(cli_batch *b)
{
    int64_t window = (int64_t)b->slots * WINDOW_SLOTS;
    if (window < WINDOW_LEAST) window = WINDOW_LEAST;
    int rc = 0;
    for (; b->next < b->end && b->in_flight < window && b->in_flight_tokens < WINDOW_TOKENS && rc == 0; b->next++) {
        if (cli_journal_has(b->journal, b->next)) continue;
        if (cli_interrupted()) return -ECANCELED;
        rc = begin_line(b, b->next);
        if (rc == 0) rc = cli_journal_sync(b->journal, false, &b->error);
    }
    return rc;
}

/* ---- the loop ------------------------------------------------------------------------------------------------- */

static int loop(cli_batch *b)
{
    int rc = begin_lines(b);
    while (rc == 0 && b->in_flight) {
        int64_t left = hearth_batch_step(b->batch, &b->error);
        if (left < 0) return (int)left;
        if (b->failed) return b->failed;
        rc = cli_journal_sync(b->journal, false, &b->error);
        if (rc == 0) rc = begin_lines(b);
        cli_batch_progress(b, false);
    }
    return rc;
}

int cli_batch_run(cli_batch *b)
{
    hearth_batch_options options = {.slots = b->slots, .speculation = b->speculation,
                                    .events = {.token = on_token, .done = on_done}};
    if (hearth_batch_open(&b->batch, b->engine, &options, &b->error) < 0) return cli_fail("batch", "%s", b->error.text);
    cli_interrupt_begin(b->engine);
    cli_interrupt_on_terminate();
    b->started = b->shown = cli_now();
    int rc = loop(b);
    cli_interrupt_end();
    cli_batch_progress(b, true);
    hearth_batch_stats(b->batch, &b->counts);
    b->seconds = cli_now() - b->started;
    hearth_batch_close(&b->batch); /* without events: what it still had is ours to free */
    while (b->works) work_free(b->works);
    hearth_error error = {0};
    bool done = rc == 0;
    int end = done ? cli_journal_finish(b->journal, &error) : cli_journal_sync(b->journal, true, &error);
    if (done && end < 0) {
        rc = end;
        b->error = error;
    }
    const char *again = cli_journal_is_kept(b->journal) ? "; the same command goes on from here" : "";
    long long n = b->done, all = b->end;
    if (rc < 0 && cli_interrupted()) {
        cli_note("stopped after %lld of %lld lines%s", n, all, again);
        return CLI_INTERRUPTED;
    }
    if (rc < 0) return cli_fail("batch", "%s (%lld of %lld lines are done%s)", b->error.text, n, all, again);
    return -1;
}
