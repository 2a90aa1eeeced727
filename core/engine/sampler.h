/* The sampler: logits to the next token. A pure function of logits, the tokens before, the options and (seed,
 * sequence, position), so a draw does not depend on what else the engine does.
 */
#ifndef HEARTH_CORE_ENGINE_SAMPLER_H
#define HEARTH_CORE_ENGINE_SAMPLER_H

#include "core/base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HT_SAMPLER_TOP 20 /* most alternatives reported */

typedef struct ht_logit_bias { int32_t id; float bias; } ht_logit_bias;

/* Steps in order; zero switches a step off. l are logits, p their softmax over the tokens that are left.
 *   bias         l += bias
 *   repeat       l = l > 0 ? l / penalty : l * penalty    for tokens among the last `penalty_last_n`
 *   frequency    l -= frequency * times seen;  presence: l -= presence
 *   temperature  0: the highest l (of several, the lowest id) is taken, and the rest is skipped
 *   top-k        the k highest
 *   typical      in ascending |-log p - entropy|, the fewest that have sum p >= typical_p
 *   top-p        in descending p, the fewest that have sum p >= top_p
 *   min-p        those with p >= min_p * the highest p
 *   draw         from softmax(l / temperature)
 * At least one token is left by every step. Equals are ordered by id. */
typedef struct ht_sampler_options {
    const ht_logit_bias *logit_bias; /* copied */
    int32_t n_logit_bias;
    float repeat_penalty;      /* 0 or 1: off */
    float frequency_penalty, presence_penalty;
    int32_t penalty_last_n;    /* 0: 64; -1: all */
    int32_t top_k;
    float typical_p;           /* 0, or >= 1: off */
    float top_p;               /* 0, or >= 1: off */
    float min_p;
    float temperature;
    uint64_t seed;
    int32_t logprobs;          /* alternatives reported in ht_sampled.top */
} ht_sampler_options;

typedef struct ht_logprob { int32_t id; float logprob; } ht_logprob;
typedef struct ht_sampled {
    int32_t id;
    float logprob;             /* of the logits as they came: before bias, penalties and temperature */
    int32_t n_top;
    ht_logprob top[HT_SAMPLER_TOP];
} ht_sampled;

typedef struct ht_candidate { int32_t id; float logit; float key; } ht_candidate;

/* What a draw needs while it lasts: samplers of one thread can share it. */
typedef struct ht_sampler_scratch {
    int32_t n_vocab;
    float *logits;             /* (V), owned: after bias and penalties */
    int32_t *seen;             /* (V), owned: how often in the window; zero between calls */
    ht_candidate *candidates;  /* (V), owned */
    double *p;                 /* (V), owned */
} ht_sampler_scratch;

typedef struct ht_sampler {
    ht_sampler_options options;
    ht_logit_bias *bias;       /* owned */
    ht_sampler_scratch own;    /* empty if another's is used */
    ht_sampler_scratch *scratch; /* borrowed, or &own */
} ht_sampler;

int ht_sampler_scratch_open(ht_sampler_scratch *s, int32_t n_vocab, ht_error *err);
void ht_sampler_scratch_close(ht_sampler_scratch *s);

/* -EINVAL names the option that is out of range. */
int ht_sampler_open(ht_sampler **out, int32_t n_vocab, const ht_sampler_options *options, ht_error *err);
/* The same with the scratch of another, which outlives it. */
int ht_sampler_open_shared(ht_sampler **out, ht_sampler_scratch *scratch, const ht_sampler_options *options,
                           ht_error *err);
void ht_sampler_close(ht_sampler **sampler);

/* The token after tokens[0, n_tokens), at position n_tokens of `sequence`. `detail` may be NULL. Allocates nothing.
 * -ERANGE: no logit is a number. */
int32_t ht_sampler_draw(ht_sampler *s, const float *logits, const int32_t *tokens, int32_t n_tokens,
                        uint64_t sequence, ht_sampled *detail);

#endif
