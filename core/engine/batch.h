/* Batches: many requests, computed side by side in passes of the block class. It decides which tokens of whom a pass
 * computes, draws the next tokens while the logits are there, and hands them out.
 *
 * A row is a request that has begun. It knows tokens[0, n) and has computed the first `computed` of them; a pass takes
 * it forward, all known tokens but as many as fit. A prompt, a token just drawn and a row that lost its pages to an
 * older one are the same thing: tokens that are known and not computed. As every token is computed in the block class,
 * its bits are the same whenever and however often that happens.
 *
 * KV pages are given to whom comes next in line. A row begins when the pages that it will probably need are free; when
 * they run out nevertheless, the youngest row gives its own back and computes anew later. The oldest one never does, so
 * there is always progress; while a row waits for its pages no new one begins, so rows are never more than slots.
 */
#ifndef HEARTH_CORE_ENGINE_BATCH_H
#define HEARTH_CORE_ENGINE_BATCH_H

#include "core/engine/engine.h"
#include "core/engine/lookup.h"
#include "core/engine/sampler.h"
#include "core/engine/schedule.h"
#include "core/engine/speculate.h"
#include "core/engine/text.h"

typedef struct ht_request {
    uint64_t id;               /* the sequence number of random draws */
    const int32_t *tokens;     /* [n], copied */
    int64_t n;
    ht_sampler_options sampler; /* copied */
    ht_text_options text;      /* copied */
    int32_t max_tokens;        /* 0: until the context is full */
    bool ignore_end, logprobs;
    int32_t expected;          /* 0: unknown */
    void *user;
} ht_request;

/* Contract: hearth_batch_events. Called outside of passes; they may add requests. */
typedef struct ht_batch_events {
    void (*token)(void *context, void *user, const ht_sampled *token, const char *text, size_t bytes);
    void (*done)(void *context, void *user, ht_finish finish, int32_t n_tokens, int32_t stop, const ht_error *error);
    void *context;
} ht_batch_events;

typedef struct ht_batch_options {
    ht_engine *engine;             /* borrowed */
    const ht_tokenizer *tokenizer; /* borrowed */
    int32_t slots;                 /* 0: as many as the engine has sequences */
    bool in_order;
    bool all_slots;                /* take all, whatever passes are measured to cost: for tests that count */
    ht_speculation speculation;
    ht_batch_events events;
} ht_batch_options;

typedef struct ht_batch_stats {
    int64_t finished, failed;
    int64_t passes, columns, wasted_columns, slot_passes, used_slot_passes;
    int64_t prompt_tokens, reused_tokens, generated_tokens, drafted_tokens, accepted_tokens, interrupted;
    double seconds;
} ht_batch_stats;

/* A request in the queue or in a row; owned, with all that it owns. */
typedef struct ht_job {
    uint64_t id;
    int32_t *prompt;           /* [n_prompt] */
    int32_t n_prompt, limit;   /* most tokens to generate; those before the context is full */
    bool cut;                  /* the limit is the context's */
    bool ignore_end, logprobs;
    int32_t expected;          /* by who asked, else the limit: for the order */
    bool guessed;              /* nobody said */
    uint64_t added;            /* rows that had begun when it was added */
    void *user;
    ht_sampler *sampler;
    ht_text text;
} ht_job;

#define HT_BATCH_GUESSES 15 /* most of a row in a pass */

typedef struct ht_row {
    ht_job *job;               /* owned; NULL: the row is free */
    uint64_t turn;             /* rows that began earlier have lower ones */
    int32_t *tokens;           /* [context + 1], owned */
    int32_t n, computed;       /* tokens known, and computed */
    int32_t most_computed;     /* ever */
    int32_t n_generated;
    int32_t shared_pages;      /* that it will probably take over from others, when it has none yet */
    ht_kv_table table;
    ht_lookup lookup;

    /* Of the pass. Guesses stand in tokens[n, n + n_guesses). */
    bool waits;                /* for what an older row computes in it */
    int32_t end;               /* tokens computed after it, guesses included */
    int32_t n_guesses, match;  /* match: tokens that speak for them */
    int32_t columns_before;    /* of the pass, when they were decided on */
    ht_sampled drawn[1 + HT_BATCH_GUESSES];
    int32_t n_drawn;
} ht_row;

/* A computed beginning that outlives its row, for who will begin alike. */
typedef struct ht_prefix {
    int32_t *tokens;           /* [context], owned */
    int32_t n;
    ht_kv_table table;
} ht_prefix;

/* Owner: the engine's thread. */
typedef struct ht_batch {
    ht_engine *engine;             /* borrowed */
    const ht_tokenizer *tokenizer; /* borrowed */
    int32_t longest;               /* bytes of the longest token */
    ht_batch_events events;
    bool in_order, all_slots;

    ht_row *rows;                  /* [slots], owned */
    int32_t slots, n_running;
    uint64_t next_turn;
    ht_job **queue;                /* [queue_capacity], owned: those in [queue_first, queue_end) wait, in order */
    int64_t queue_first, queue_end, queue_capacity;
    int64_t n_new;                 /* requests that were added since it was sorted */
    ht_job **sorted;               /* [queue_capacity], owned, as all here: what sorting needs */
    ht_schedule_item *items;
    int32_t *sort_order, *sort_scratch; /* [queue_capacity], [7 queue_capacity] */
    double *schedule_best;              /* [queue_capacity + 1] */
    int32_t width;                 /* most rows side by side, 1..slots: what costs least */
    double *schedule_cost;         /* [2 (slots + 1)], owned */
    ht_prefix kept;

    ht_sampler_scratch scratch;
    ht_row **order;                /* [slots], owned: running rows by age */
    ht_row **in_pass;              /* [slots], owned */
    ht_work *work;                 /* [slots], owned */
    ht_speculator speculator;
    /* Requests that have ended, of which nobody said how long they would be; [1]: limited by the context alone. */
    struct ht_batch_ended { int64_t n, tokens, limits; } ended[2];
    ht_batch_stats stats;
} ht_batch;

/* -EINVAL: more slots than the engine has sequences. */
int ht_batch_open(ht_batch **out, const ht_batch_options *options, ht_error *err);
void ht_batch_close(ht_batch **batch);
/* Contract: hearth_batch_add. */
int ht_batch_add(ht_batch *b, const ht_request *request, ht_error *err);
/* Contract: hearth_batch_step. Allocates nothing. */
int64_t ht_batch_step(ht_batch *b, ht_error *err);

#endif
