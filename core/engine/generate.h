/* Generation from a session: sample, show, compute, till something ends it. */
#ifndef HEARTH_CORE_ENGINE_GENERATE_H
#define HEARTH_CORE_ENGINE_GENERATE_H

#include "core/engine/sampler.h"
#include "core/engine/session.h"
#include "core/engine/speculate.h"
#include "core/engine/text.h"

typedef struct ht_generate_options {
    ht_text_options text;
    int32_t max_tokens;      /* 0: until the context is full */
    bool ignore_end, logprobs;
    ht_speculation speculation;
    /* Contract: hearth_generate_sink. NULL allowed. */
    bool (*sink)(void *user, const ht_sampled *token, const char *text, size_t bytes);
    void *user;
} ht_generate_options;

typedef struct ht_generated { ht_finish finish; int32_t n_tokens, stop; } ht_generated;

/* Contract: hearth_generate. */
int ht_generate(ht_session *s, ht_sampler *sampler, const ht_tokenizer *tokenizer, const ht_generate_options *options,
                ht_generated *out, ht_error *err);

#endif
