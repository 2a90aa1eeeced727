/* The generation loop. Guessed tokens are computed beside the one that is known, in one pass of the decode class, whose
 * columns have the bits of one at a time; a guess is kept where it is what the sampler then draws.
 */
#include "core/engine/generate.h"

#include "core/engine/lookup.h"

#include <string.h>

typedef struct generator {
    ht_session *session;
    ht_sampler *sampler;
    const ht_tokenizer *tokenizer;
    const ht_generate_options *o;
    ht_generated *out;
    ht_text text;
    ht_lookup lookup;
    ht_speculator speculator;
    int32_t drawn;                           /* the last token, not computed yet */
    int32_t tokens[HT_DECODE_CLASS_COLUMNS]; /* of the pass: the last token and guesses */
    int32_t match;                           /* tokens that speak for the guesses */
} generator;

static bool canceled(const generator *g)
{
    return atomic_load_explicit(&g->session->engine->cancel, memory_order_relaxed);
}

/* Draws the token after the session's last one and shows it. Returns why generation ends, 0 to go on, or an error. */
static int next_token(generator *g, const float *logits, ht_error *err)
{
    const ht_session *s = g->session;
    const ht_generate_options *o = g->o;
    ht_sampled token = {0};
    const char *bytes = "";
    size_t n = 0;

    if (canceled(g)) return HT_FINISH_CANCELED;
    g->drawn = ht_sampler_draw(g->sampler, logits, s->tokens, s->n_tokens, s->id, o->logprobs ? &token : NULL);
    if (g->drawn < 0) return ht_fail(err, g->drawn, "no logit of the model is a number");
    token.id = g->drawn;
    g->out->n_tokens++;
    bool end = !o->ignore_end && ht_tokenizer_is_end(g->tokenizer, g->drawn);
    int found = end ? 0 : ht_text_feed(&g->text, g->drawn, &bytes, &n);
    bool go_on = !o->sink || o->sink(o->user, &token, bytes, n);
    if (end) return HT_FINISH_END;
    if (found) return HT_FINISH_STOP;
    if (!go_on) return HT_FINISH_SINK;
    if (g->out->n_tokens == o->max_tokens) return HT_FINISH_LENGTH;
    return s->n_tokens == s->context ? HT_FINISH_CONTEXT : 0;
}

/* The tokens of the next pass: the last one, and what may follow it. Returns how many. */
static int32_t choose_tokens(generator *g)
{
    ht_session *s = g->session;
    ht_engine *e = s->engine;
    int32_t most = HT_DECODE_CLASS_COLUMNS, left = g->o->max_tokens - g->out->n_tokens;

    g->tokens[0] = g->drawn;
    if (e->limits->columns < most) most = e->limits->columns;
    if (s->context - s->n_tokens < most) most = s->context - s->n_tokens;
    if (g->o->max_tokens && left < most) most = left;
    if (most < 2 || g->o->speculation == HT_SPECULATE_NEVER) return 1;
    s->tokens[s->n_tokens] = g->drawn; /* there is room; it counts when it is computed */
    int32_t n = ht_lookup_guess(&g->lookup, s->tokens, s->n_tokens + 1, most - 1, g->tokens + 1, &g->match);
    if (n) n = ht_speculate(&g->speculator, &e->decode_cost, 1, ht_cost_of(&e->decode_cost, 1), g->match, n);
    return 1 + n;
}

/* One pass, and the tokens drawn from it. Results as next_token. */
static int advance(generator *g, ht_error *err)
{
    ht_session *s = g->session;
    ht_engine *e = s->engine;
    const float *logits[HT_DECODE_CLASS_COLUMNS];
    int32_t n = choose_tokens(g), i = 0;

    int r = ht_session_try(s, g->tokens, n, logits, &g->speculator.seconds, err);
    if (r == -ENOMEM && n > 1) r = ht_session_try(s, g->tokens, n = 1, logits, &g->speculator.seconds, err);
    if (r < 0) return r == -ECANCELED ? HT_FINISH_CANCELED : r;
    for (;; i++) {
        s->tokens[s->n_tokens++] = g->tokens[i];
        ht_engine_hash(e, logits[i]);
        r = next_token(g, logits[i], err);
        if (r || i + 1 == n || g->drawn != g->tokens[i + 1] || canceled(g)) break;
    }
    ht_session_took(s, i + 1, logits[i]);
    if (n > 1) {
        ht_speculate_learn(&g->speculator, &e->decode_cost, 1, ht_cost_of(&e->decode_cost, 1), g->match, n - 1, i);
        e->stats.drafted_tokens += n - 1;
        e->stats.accepted_tokens += i;
    }
    return r;
}

int ht_generate(ht_session *s, ht_sampler *sampler, const ht_tokenizer *tokenizer, const ht_generate_options *o,
                ht_generated *out, ht_error *err)
{
    generator g = {.session = s, .sampler = sampler, .tokenizer = tokenizer, .o = o, .out = out,
                   .text.stop.found = -1, .speculator.mode = o->speculation};

    *out = (ht_generated){.stop = -1};
    if (o->max_tokens < 0) return ht_fail(err, -EINVAL, "%d tokens to generate", o->max_tokens);
    if (!s->has_logits) return ht_fail(err, -ENODATA, "the session has no logits to go on from");
    int r = ht_text_open(&g.text, tokenizer, ht_text_longest(tokenizer), &o->text, err);
    if (r < 0) return r;
    if (o->speculation != HT_SPECULATE_NEVER) r = ht_lookup_open(&g.lookup, s->context, err);
    if (r >= 0) r = next_token(&g, s->logits, err);
    while (r == 0) r = advance(&g, err);
    if (r > 0) {
        const char *rest;
        size_t n;
        out->finish = (ht_finish)r;
        out->stop = g.text.stop.found;
        ht_text_feed(&g.text, -1, &rest, &n);
        if (n && o->sink && r != HT_FINISH_SINK) o->sink(o->user, &(ht_sampled){.id = -1}, rest, n);
    }
    ht_text_close(&g.text);
    ht_lookup_close(&g.lookup);
    return r < 0 ? r : 0;
}
