/* The engine: sites (backends with their stores) put to work together. It packs the tokens of several sequences into passes, runs
 * them under the allocation guard, and counts. What a sequence is, is the session's affair (session.h).
 */
#ifndef HEARTH_CORE_ENGINE_ENGINE_H
#define HEARTH_CORE_ENGINE_ENGINE_H

#include "core/engine/cost.h"
#include "core/engine/forward.h"
#include "core/engine/kv.h"

/* Consecutive tokens of one sequence, to be computed in one pass. */
typedef struct ht_work {
    const int32_t *pages;    /* the sequence's page table, with pages for all tokens up to `end` */
    const int32_t *tokens;   /* [end - begin] */
    int32_t begin, end;      /* positions */
    int32_t logits_from;     /* first position whose logits are wanted; >= end: none */
} ht_work;

/* Logits (V) after the token at `position` of work[i]. Those of the last HT_LOGIT_COLUMNS that a pass gives stay there
 * till the next pass. */
typedef void ht_work_sink(void *user, int32_t i, int32_t position, const float *logits);

typedef struct ht_engine_stats {
    double prompt_seconds, decode_seconds;
    int64_t prompt_tokens, reused_tokens, decode_tokens, drafted_tokens, accepted_tokens;
    uint64_t logits_hash;    /* FNV-1a over the 32-bit words of all logits given to sessions, in order */
} ht_engine_stats;

typedef struct ht_engine_options {
    const ht_site *sites;    /* [n_sites], read at open: see forward.h. The limits of the first one's backend are the engine's */
    int32_t n_sites;
    int32_t chunk;           /* most prompt tokens of a pass, 1..limits.columns */
} ht_engine_options;

/* Owner: one thread, which is also the backends' and the stores'. Only `cancel` may be touched from elsewhere. */
typedef struct ht_engine {
    ht_forward forward;
    ht_kv kv;
    const ht_ops_limits *limits;  /* of the first site's backend */
    int32_t chunk;
    int32_t n_sessions;           /* open ones; at most limits->sequences */
    uint64_t stamp;               /* tells the sessions of one call apart, see session.c */
    atomic_bool cancel;           /* relaxed: a flag that is looked at again and again, ordering nothing */
    void (*progress)(void *user, int64_t done, int64_t total); /* after each pass of a prompt but the last; may be NULL */
    void *progress_user;
    ht_engine_stats stats;
    ht_cost decode_cost, block_cost; /* of passes that gave logits of every sequence */

    /* Scratch of one pass, owned; n = limits.columns, s = limits.sequences. */
    int32_t *token, *position, *sequence, *out; /* [n] */
    const int32_t **pages;                      /* [s] */
    int32_t *length;                            /* [s] */
    /* Scratch of one call of session.c, owned. */
    ht_work *work;                              /* [s] */
    ht_kv_wish *wish;                           /* [s] */
    struct ht_session **members;                /* [s] */
} ht_engine;

/* The engine's address must not change afterwards. Errors: -EINVAL (limits or chunk out of range), -ENOMEM. */
int ht_engine_open(ht_engine **out, const ht_engine_options *options, ht_error *err);
/* All sessions are closed before. */
void ht_engine_close(ht_engine **engine);

/* One pass over work[0, n), n <= limits.sequences, at most limits.columns tokens together. Allocates nothing. */
int ht_engine_pass(ht_engine *e, ht_class class_, const ht_work *work, int32_t n, ht_work_sink *sink, void *user,
                   ht_error *err);
/* Counts logits that a session is given. */
void ht_engine_hash(ht_engine *e, const float *logits);

#endif
