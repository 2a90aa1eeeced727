/* The sampler's chain. Sums are in double and in a fixed order; candidates are only sorted as far as a step needs. */
#include "core/engine/sampler.h"

#include "core/base/memory.h"
#include "core/base/random.h"

#include <float.h>
#include <math.h>
#include <string.h>

static int check_options(const ht_sampler_options *o, int32_t n_vocab, ht_error *err)
{
    const struct { const char *name; float value, low, high; } range[] = {
        {"repeat penalty", o->repeat_penalty, 0, FLT_MAX},      {"temperature", o->temperature, 0, FLT_MAX},
        {"frequency penalty", o->frequency_penalty, -FLT_MAX, FLT_MAX},
        {"presence penalty", o->presence_penalty, -FLT_MAX, FLT_MAX},
        {"typical-p", o->typical_p, 0, FLT_MAX},                {"top-p", o->top_p, 0, FLT_MAX},
        {"min-p", o->min_p, 0, 1},
    };
    for (size_t i = 0; i < sizeof(range) / sizeof(range[0]); i++)
        if (!(range[i].value >= range[i].low && range[i].value <= range[i].high)) /* also NaN */
            return ht_fail(err, -EINVAL, "%s %g is out of range", range[i].name, (double)range[i].value);
    if (o->top_k < 0) return ht_fail(err, -EINVAL, "top-k %d is negative", o->top_k);
    if (o->penalty_last_n < -1) return ht_fail(err, -EINVAL, "penalty window %d is below -1", o->penalty_last_n);
    if (o->logprobs < 0 || o->logprobs > HT_SAMPLER_TOP)
        return ht_fail(err, -EINVAL, "%d logprobs are outside of 0..%d", o->logprobs, HT_SAMPLER_TOP);
    for (int32_t i = 0; i < o->n_logit_bias; i++)
        if (o->logit_bias[i].id < 0 || o->logit_bias[i].id >= n_vocab || isnan(o->logit_bias[i].bias))
            return ht_fail(err, -EINVAL, "logit bias for token %d of %d", o->logit_bias[i].id, n_vocab);
    return 0;
}

int ht_sampler_scratch_open(ht_sampler_scratch *s, int32_t n_vocab, ht_error *err)
{
    size_t n = (size_t)n_vocab;

    *s = (ht_sampler_scratch){.n_vocab = n_vocab};
    s->logits = ht_alloc(n, sizeof(*s->logits));
    s->seen = ht_calloc(n, sizeof(*s->seen));
    s->candidates = ht_alloc(n, sizeof(*s->candidates));
    s->p = ht_alloc(n, sizeof(*s->p));
    if (s->logits && s->seen && s->candidates && s->p) return 0;
    ht_sampler_scratch_close(s);
    return ht_fail(err, -ENOMEM, "out of memory for a sampler over %d tokens", n_vocab);
}

void ht_sampler_scratch_close(ht_sampler_scratch *s)
{
    ht_free(s->logits);
    ht_free(s->seen);
    ht_free(s->candidates);
    ht_free(s->p);
    *s = (ht_sampler_scratch){0};
}

int ht_sampler_open_shared(ht_sampler **out, ht_sampler_scratch *scratch, const ht_sampler_options *options,
                           ht_error *err)
{
    *out = NULL;
    int r = check_options(options, scratch->n_vocab, err);
    if (r < 0) return r;
    ht_sampler *s = ht_calloc(1, sizeof(*s));
    if (!s) return ht_fail(err, -ENOMEM, "out of memory for a sampler");
    size_t n_bias = (size_t)options->n_logit_bias;
    s->options = *options;
    s->scratch = scratch;
    s->bias = ht_alloc(n_bias, sizeof(*s->bias));
    if (!s->bias) {
        ht_sampler_close(&s);
        return ht_fail(err, -ENOMEM, "out of memory for %zu logit biases", n_bias);
    }
    if (n_bias) memcpy(s->bias, options->logit_bias, n_bias * sizeof(*s->bias));
    s->options.logit_bias = s->bias;
    *out = s;
    return 0;
}

int ht_sampler_open(ht_sampler **out, int32_t n_vocab, const ht_sampler_options *options, ht_error *err)
{
    ht_sampler_scratch scratch;

    *out = NULL;
    int r = ht_sampler_scratch_open(&scratch, n_vocab, err);
    if (r < 0) return r;
    r = ht_sampler_open_shared(out, &scratch, options, err);
    if (r < 0) {
        ht_sampler_scratch_close(&scratch);
        return r;
    }
    (*out)->own = scratch;
    (*out)->scratch = &(*out)->own;
    return 0;
}

void ht_sampler_close(ht_sampler **sampler)
{
    ht_sampler *s = *sampler;

    if (!s) return;
    ht_sampler_scratch_close(&s->own);
    ht_free(s->bias);
    ht_free(s);
    *sampler = NULL;
}

/* ---- candidates ----------------------------------------------------------------------------------------- */

static bool before(const ht_candidate *a, const ht_candidate *b)
{
    return a->key > b->key || (a->key == b->key && a->id < b->id);
}

static void sift_down(ht_candidate *c, int32_t i, int32_t n)
{
    ht_candidate moving = c[i];

    for (int32_t child = 2 * i + 1; child < n; child = 2 * i + 1) {
        if (child + 1 < n && before(&c[child + 1], &c[child])) child++;
        if (!before(&c[child], &moving)) break;
        c[i] = c[child];
        i = child;
    }
    c[i] = moving;
}

/* Puts the candidates in order of falling key, until `mass` of probability or `count` of them are in order (at least
 * one): those, in order, are left in c[0, result). p_of gives a candidate's probability; NULL: count alone. A heap
 * is taken apart only as far as needed: distributions are peaked, and vocabularies large. */
static int32_t take_best(ht_candidate *c, int32_t n, int32_t count, double mass, const double *p)
{
    int32_t taken = 0;
    double sum = 0;

    for (int32_t i = n / 2 - 1; i >= 0; i--) sift_down(c, i, n);
    while (taken < n && taken < count && (taken == 0 || sum < mass)) {
        ht_candidate best = c[0];
        taken++;
        c[0] = c[n - taken];
        c[n - taken] = best; /* the sorted ones gather at the end, backwards */
        sift_down(c, 0, n - taken);
        if (p) sum += p[best.id];
    }
    for (int32_t i = 0; i < taken / 2; i++) {
        ht_candidate swap = c[n - 1 - i];
        c[n - 1 - i] = c[n - taken + i];
        c[n - taken + i] = swap;
    }
    memmove(c, c + (n - taken), (size_t)taken * sizeof(*c));
    return taken;
}

static float highest(const ht_candidate *c, int32_t n)
{
    float max = c[0].logit;

    for (int32_t i = 1; i < n; i++)
        if (c[i].logit > max) max = c[i].logit;
    return max;
}

/* p[id] = softmax of the candidates' logits. */
static void softmax(const ht_candidate *c, int32_t n, double *p)
{
    double max = highest(c, n), sum = 0;

    for (int32_t i = 0; i < n; i++) sum += p[c[i].id] = exp((double)c[i].logit - max);
    for (int32_t i = 0; i < n; i++) p[c[i].id] /= sum;
}

/* ---- the steps ------------------------------------------------------------------------------------------ */

static int32_t keep_typical(ht_candidate *c, int32_t n, double mass, double *p)
{
    double entropy = 0;

    softmax(c, n, p);
    for (int32_t i = 0; i < n; i++)
        if (p[c[i].id] > 0) entropy -= p[c[i].id] * log(p[c[i].id]);
    for (int32_t i = 0; i < n; i++)
        c[i].key = p[c[i].id] > 0 ? (float)-fabs(-log(p[c[i].id]) - entropy) : -INFINITY;
    return take_best(c, n, n, mass, p);
}

static int32_t keep_top_p(ht_candidate *c, int32_t n, double mass, double *p)
{
    softmax(c, n, p);
    for (int32_t i = 0; i < n; i++) c[i].key = c[i].logit;
    return take_best(c, n, n, mass, p);
}

static int32_t keep_min_p(ht_candidate *c, int32_t n, double share)
{
    double limit = (double)highest(c, n) + log(share);
    int32_t kept = 0;

    for (int32_t i = 0; i < n; i++)
        if ((double)c[i].logit >= limit) c[kept++] = c[i];
    return kept;
}

/* From softmax(logit / temperature), in the order the steps left: u in [0, 1) falls into a candidate's share. */
static int32_t draw(const ht_candidate *c, int32_t n, double temperature, double u, double *p)
{
    double max = highest(c, n), sum = 0, at = 0;
    int32_t last = 0;

    for (int32_t i = 0; i < n; i++) sum += p[i] = exp(((double)c[i].logit - max) / temperature);
    for (int32_t i = 0; i < n; i++) {
        at += p[i];
        if (p[i] > 0) last = i;
        if (u * sum < at) return c[i].id;
    }
    return c[last].id; /* u * sum was rounded up to the sum */
}

static bool has_penalties(const ht_sampler_options *o)
{
    return (o->repeat_penalty != 0 && o->repeat_penalty != 1) || o->frequency_penalty != 0 || o->presence_penalty != 0;
}

static void apply_bias(const ht_sampler *s, const float *logits)
{
    float *l = s->scratch->logits;

    for (int32_t i = 0; i < s->scratch->n_vocab; i++) l[i] = isnan(logits[i]) ? -INFINITY : logits[i];
    for (int32_t i = 0; i < s->options.n_logit_bias; i++) l[s->bias[i].id] += s->bias[i].bias;
}

static void apply_penalties(const ht_sampler *s, const int32_t *tokens, int32_t n_tokens)
{
    const ht_sampler_options *o = &s->options;
    float repeat = o->repeat_penalty == 0 ? 1 : o->repeat_penalty;
    int32_t window = o->penalty_last_n == 0 ? 64 : o->penalty_last_n < 0 ? n_tokens : o->penalty_last_n;
    int32_t from = n_tokens > window ? n_tokens - window : 0, *seen = s->scratch->seen;

    if (!has_penalties(o)) return;
    for (int32_t i = from; i < n_tokens; i++) seen[tokens[i]]++;
    for (int32_t i = from; i < n_tokens; i++) {
        int32_t id = tokens[i];
        if (!seen[id]) continue; /* a repetition, done already */
        float *l = &s->scratch->logits[id];
        *l = *l > 0 ? *l / repeat : *l * repeat;
        *l -= (float)seen[id] * o->frequency_penalty + o->presence_penalty;
        seen[id] = 0;
    }
}

/* Infinite biases and overflows become very large numbers, so that differences of logits are numbers. */
static float bounded(float logit) { return logit > FLT_MAX ? FLT_MAX : logit; }

/* -ERANGE: all are minus infinity. */
static int list_candidates(ht_sampler_scratch *s)
{
    int32_t n = 0;

    for (int32_t i = 0; i < s->n_vocab; i++) {
        float l = bounded(s->logits[i]);
        if (l > -INFINITY) s->candidates[n++] = (ht_candidate){.id = i, .logit = l, .key = l};
    }
    return n ? n : -ERANGE;
}

/* The highest; of several the lowest id. */
static int32_t choose_greedily(const float *logits, int32_t n)
{
    int32_t best = -ERANGE;
    float highest_yet = -INFINITY;

    for (int32_t i = 0; i < n; i++)
        if (bounded(logits[i]) > highest_yet) { /* never true for a NaN */
            highest_yet = bounded(logits[i]);
            best = i;
        }
    return best;
}

static int32_t choose(const ht_sampler *s, const float *logits, const int32_t *tokens, int32_t n_tokens,
                      uint64_t sequence)
{
    const ht_sampler_options *o = &s->options;
    ht_candidate *c = s->scratch->candidates;
    double *p = s->scratch->p;

    if (o->temperature == 0 && !o->n_logit_bias && !has_penalties(o))
        return choose_greedily(logits, s->scratch->n_vocab);
    apply_bias(s, logits);
    apply_penalties(s, tokens, n_tokens);
    if (o->temperature == 0) return choose_greedily(s->scratch->logits, s->scratch->n_vocab);
    int32_t n = list_candidates(s->scratch);
    if (n < 0) return n;
    if (o->top_k > 0 && o->top_k < n) n = take_best(c, n, o->top_k, INFINITY, NULL);
    if (o->typical_p > 0 && o->typical_p < 1) n = keep_typical(c, n, o->typical_p, p);
    if (o->top_p > 0 && o->top_p < 1) n = keep_top_p(c, n, o->top_p, p);
    if (o->min_p > 0) n = keep_min_p(c, n, o->min_p);
    double u = ht_random_uniform(o->seed, sequence, (uint64_t)n_tokens, 0);
    return draw(c, n, o->temperature, u, p);
}

/* Of the logits as they came. The few highest are kept in order by insertion. */
static void report(const ht_sampler *s, const float *logits, int32_t id, ht_sampled *out)
{
    double max = -INFINITY, sum = 0;

    *out = (ht_sampled){.id = id};
    for (int32_t i = 0; i < s->scratch->n_vocab; i++) {
        if (logits[i] > max) max = logits[i];
        if (!s->options.logprobs || isnan(logits[i])) continue;
        bool full = out->n_top == s->options.logprobs;
        if (full && !(logits[i] > out->top[out->n_top - 1].logprob)) continue;
        int32_t at = full ? out->n_top - 1 : out->n_top++;
        for (; at > 0 && logits[i] > out->top[at - 1].logprob; at--) out->top[at] = out->top[at - 1];
        out->top[at] = (ht_logprob){i, logits[i]};
    }
    for (int32_t i = 0; i < s->scratch->n_vocab; i++)
        if (!isnan(logits[i])) sum += exp((double)logits[i] - max);
    double log_sum = max + log(sum);
    for (int32_t i = 0; i < out->n_top; i++) out->top[i].logprob = (float)((double)out->top[i].logprob - log_sum);
    out->logprob = (float)((double)logits[id] - log_sum);
}

int32_t ht_sampler_draw(ht_sampler *s, const float *logits, const int32_t *tokens, int32_t n_tokens,
                        uint64_t sequence, ht_sampled *detail)
{
    int32_t id = choose(s, logits, tokens, n_tokens, sequence);

    if (id >= 0 && detail) report(s, logits, id, detail);
    return id;
}
