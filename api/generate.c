/* Sampling, text, generation and batches of the public API: options and results, from one set of types to the other. */
#include "api/handles.h"
#include "core/base/memory.h"
#include "core/engine/batch.h"
#include "core/engine/generate.h"

struct hearth_sampler { ht_sampler *sampler; /* owned */ };
struct hearth_text { ht_text text; };
struct hearth_batch { ht_batch *batch; /* owned */ hearth_batch_events events; };

/* ---- sampling ------------------------------------------------------------------------------------------- */

/* The options, with a copy of the biases that the caller frees. */
static int sampler_options(ht_sampler_options *out, ht_logit_bias **copy, const hearth_sampler_options *o, ht_error *err)
{
    *copy = NULL;
    int r = ht_check_range("the number of logit biases", o->n_logit_bias, 0, INT32_MAX, err);
    if (r < 0) return r;
    ht_logit_bias *bias = ht_alloc((size_t)o->n_logit_bias, sizeof(*bias));
    if (!bias) return ht_fail(err, -ENOMEM, "out of memory for %d logit biases", o->n_logit_bias);
    for (int32_t i = 0; i < o->n_logit_bias; i++) bias[i] = (ht_logit_bias){o->logit_bias[i].id, o->logit_bias[i].bias};
    *copy = bias;
    *out = (ht_sampler_options){
        .logit_bias = bias,
        .n_logit_bias = o->n_logit_bias,
        .repeat_penalty = o->repeat_penalty,
        .frequency_penalty = o->frequency_penalty,
        .presence_penalty = o->presence_penalty,
        .penalty_last_n = o->penalty_last_n,
        .top_k = o->top_k,
        .typical_p = o->typical_p,
        .top_p = o->top_p,
        .min_p = o->min_p,
        .temperature = o->temperature,
        .seed = o->seed,
        .logprobs = o->logprobs,
    };
    return 0;
}

static hearth_sampled public_sampled(const ht_sampled *d)
{
    hearth_sampled out = {.id = d->id, .logprob = d->logprob, .n_top = d->n_top};

    _Static_assert(sizeof(out.top) == sizeof(d->top), "as many alternatives outside as inside");
    for (int32_t i = 0; i < d->n_top; i++) out.top[i] = (hearth_token_logprob){d->top[i].id, d->top[i].logprob};
    return out;
}

int hearth_sampler_open(hearth_sampler **out, const hearth_engine *engine, const hearth_sampler_options *o,
                        hearth_error *error)
{
    ht_error err = {0};
    ht_sampler_options inner;
    ht_logit_bias *bias = NULL;
    hearth_sampler *s = ht_calloc(1, sizeof(*s));

    *out = NULL;
    int r = s ? sampler_options(&inner, &bias, o, &err) : ht_fail(&err, -ENOMEM, "out of memory for a sampler");
    if (r >= 0) r = ht_sampler_open(&s->sampler, engine->engine->limits->shape.n_vocab, &inner, &err);
    ht_free(bias);
    if (r < 0) hearth_sampler_close(&s);
    else *out = s;
    return ht_give_error(r < 0 ? r : 0, &err, error);
}

void hearth_sampler_close(hearth_sampler **sampler)
{
    if (!*sampler) return;
    ht_sampler_close(&(*sampler)->sampler);
    ht_free(*sampler);
    *sampler = NULL;
}

void hearth_sampler_seed(hearth_sampler *sampler, uint64_t seed) { sampler->sampler->options.seed = seed; }

int32_t hearth_sample(hearth_sampler *sampler, const hearth_session *session, hearth_sampled *detail)
{
    const ht_session *s = session->session;
    ht_sampled d;

    if (!s->has_logits) return -ENODATA;
    int32_t id = ht_sampler_draw(sampler->sampler, s->logits, s->tokens, s->n_tokens, s->id, detail ? &d : NULL);
    if (id >= 0 && detail) *detail = public_sampled(&d);
    return id;
}

/* ---- generated text ------------------------------------------------------------------------------------- */

int hearth_text_open(hearth_text **out, const hearth_vocab *vocab, const hearth_text_options *o, hearth_error *error)
{
    ht_error err = {0};
    hearth_text *t = ht_calloc(1, sizeof(*t));

    *out = NULL;
    const ht_text_options inner = {o->stop, o->n_stop, o->special, o->continues};
    int r = t ? ht_text_open(&t->text, vocab->tokenizer, ht_text_longest(vocab->tokenizer), &inner, &err)
              : ht_fail(&err, -ENOMEM, "out of memory for generated text");
    if (r < 0) ht_free(t);
    else *out = t;
    return ht_give_error(r < 0 ? r : 0, &err, error);
}

void hearth_text_close(hearth_text **text)
{
    if (!*text) return;
    ht_text_close(&(*text)->text);
    ht_free(*text);
    *text = NULL;
}

int hearth_text_feed(hearth_text *text, int32_t id, const char **out, size_t *bytes)
{
    return ht_text_feed(&text->text, id, out, bytes);
}

int32_t hearth_text_stop(const hearth_text *text) { return text->text.stop.found; }
void hearth_text_reset(hearth_text *text) { ht_text_reset(&text->text); }

typedef struct shown { hearth_generate_sink *sink; void *user; } shown;

static bool show_token(void *user, const ht_sampled *token, const char *text, size_t bytes)
{
    const shown *s = user;
    hearth_sampled t = public_sampled(token);

    return s->sink(s->user, &t, text, bytes);
}

int hearth_generate(hearth_session *session, hearth_sampler *sampler, const hearth_generate_options *o,
                    hearth_generated *out, hearth_error *error)
{
    ht_error err = {0};
    ht_generated inner;
    shown show = {o->sink, o->user};
    const ht_generate_options options = {
        .text = {o->text.stop, o->text.n_stop, o->text.special, o->text.continues},
        .max_tokens = o->max_tokens,
        .ignore_end = o->ignore_end,
        .logprobs = o->logprobs,
        .speculation = (ht_speculation)o->speculation,
        .sink = o->sink ? show_token : NULL,
        .user = &show,
    };

    int r = ht_generate(session->session, sampler->sampler, session->engine->vocab.tokenizer, &options, &inner, &err);
    *out = (hearth_generated){(hearth_finish)inner.finish, inner.n_tokens, inner.stop};
    return ht_give_error(r, &err, error);
}

/* ---- batches -------------------------------------------------------------------------------------------- */

static void batch_token(void *context, void *user, const ht_sampled *token, const char *text, size_t bytes)
{
    const hearth_batch *b = context;
    hearth_sampled t = public_sampled(token);

    if (b->events.token) b->events.token(user, &t, text, bytes);
}

static void batch_done(void *context, void *user, ht_finish finish, int32_t n_tokens, int32_t stop, const ht_error *from)
{
    const hearth_batch *b = context;
    hearth_error error;

    if (from) ht_give_error(from->code, from, &error);
    if (b->events.done) b->events.done(user, (hearth_finish)finish, n_tokens, stop, from ? &error : NULL);
}

int hearth_batch_open(hearth_batch **out, hearth_engine *engine, const hearth_batch_options *o, hearth_error *error)
{
    ht_error err = {0};
    hearth_batch *b = ht_calloc(1, sizeof(*b));
    const ht_batch_options inner = {
        .engine = engine->engine,
        .tokenizer = engine->vocab.tokenizer,
        .slots = o->slots,
        .in_order = o->in_order,
        .speculation = (ht_speculation)o->speculation,
        .events = {.token = batch_token, .done = batch_done, .context = b},
    };

    *out = NULL;
    int r = b ? ht_batch_open(&b->batch, &inner, &err) : ht_fail(&err, -ENOMEM, "out of memory for a batch");
    if (r >= 0) b->events = o->events;
    if (r < 0) hearth_batch_close(&b);
    else *out = b;
    return ht_give_error(r < 0 ? r : 0, &err, error);
}

void hearth_batch_close(hearth_batch **batch)
{
    if (!*batch) return;
    ht_batch_close(&(*batch)->batch);
    ht_free(*batch);
    *batch = NULL;
}

int hearth_batch_add(hearth_batch *batch, const hearth_request *q, hearth_error *error)
{
    ht_error err = {0};
    ht_logit_bias *bias;
    ht_request inner = {
        .id = q->id,
        .tokens = q->tokens,
        .n = q->n,
        .text = {q->text.stop, q->text.n_stop, q->text.special, q->text.continues},
        .max_tokens = q->max_tokens,
        .ignore_end = q->ignore_end,
        .logprobs = q->logprobs,
        .expected = q->expected,
        .user = q->user,
    };

    int r = sampler_options(&inner.sampler, &bias, &q->sampler, &err);
    if (r >= 0) r = ht_batch_add(batch->batch, &inner, &err);
    ht_free(bias);
    return ht_give_error(r < 0 ? r : 0, &err, error);
}

int64_t hearth_batch_step(hearth_batch *batch, hearth_error *error)
{
    ht_error err = {0};
    int64_t r = ht_batch_step(batch->batch, &err);

    return r < 0 ? ht_give_error((int)r, &err, error) : r;
}

void hearth_batch_stats(const hearth_batch *batch, hearth_batch_counts *out)
{
    const ht_batch *b = batch->batch;
    const ht_batch_stats *s = &b->stats;

    *out = (hearth_batch_counts){
        .queued = b->queue_end - b->queue_first,
        .running = b->n_running,
        .finished = s->finished,
        .failed = s->failed,
        .passes = s->passes,
        .columns = s->columns,
        .wasted_columns = s->wasted_columns,
        .slot_passes = s->slot_passes,
        .used_slot_passes = s->used_slot_passes,
        .prompt_tokens = s->prompt_tokens,
        .reused_tokens = s->reused_tokens,
        .generated_tokens = s->generated_tokens,
        .drafted_tokens = s->drafted_tokens,
        .accepted_tokens = s->accepted_tokens,
        .interrupted = s->interrupted,
        .seconds = s->seconds,
    };
}

