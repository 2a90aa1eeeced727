/* A session: one sequence of tokens and what was computed of it. It turns "make the context be this" into passes.
 *
 * Class rules (the numeric contract, docs/architecture.md): tokens given as a prompt are computed in the block class,
 * whatever the size of their chunk; tokens appended one at a time in the decode class; a prefix that is reused keeps the
 * bits it has.
 */
#ifndef HEARTH_CORE_ENGINE_SESSION_H
#define HEARTH_CORE_ENGINE_SESSION_H

#include "core/engine/engine.h"

/* Owner: the engine's thread. */
typedef struct ht_session {
    ht_engine *engine;       /* borrowed */
    uint64_t id;             /* the sequence number of random draws */
    int32_t context;         /* most tokens */
    int32_t n_tokens;        /* tokens whose KV is there */
    int32_t *tokens;         /* [context], owned */
    ht_kv_table table;       /* pages for n_tokens tokens, between calls */
    float *logits;           /* (V), owned: after the last token, if has_logits */
    bool has_logits;

    /* Of the call that is running. */
    uint64_t stamp;          /* the engine's, when the session takes part in the call */
    int32_t goal;            /* tokens there will be */
    int32_t logits_from;
    bool fresh;              /* decode: the step's logits have replaced the old ones */
} ht_session;

typedef struct ht_prompt { ht_session *session; const int32_t *tokens; int64_t n; } ht_prompt;
typedef void ht_score_sink(void *user, int64_t position, const float *logits);

/* context 0: the engine's. -EBUSY: as many sessions are open as the engine was opened for. */
int ht_session_open(ht_session **out, ht_engine *engine, uint64_t id, int32_t context, ht_error *err);
void ht_session_close(ht_session **session);

/* The context becomes tokens[0, n), of every prompt; sessions are distinct and of one engine. Contract: hearth.h. */
int ht_session_sync(const ht_prompt *prompts, int32_t n, ht_error *err);
int ht_session_score(ht_session *s, const int32_t *tokens, int64_t n, int64_t first, ht_score_sink *sink, void *user,
                     ht_error *err);
int ht_session_decode(ht_session *const *sessions, const int32_t *tokens, int32_t n, ht_error *err);
/* Computes tokens, n <= HT_DECODE_CLASS_COLUMNS, as if they were appended one at a time, without keeping them: logits[i]
 * are those after tokens[i], till the next pass. The caller keeps the first few (at least one) by putting them into
 * s->tokens and s->n_tokens, and says so with ht_session_took. Adds the time to *seconds. On failure the session is as
 * it was. */
int ht_session_try(ht_session *s, const int32_t *tokens, int32_t n, const float **logits, double *seconds, ht_error *err);
/* n tokens were kept; logits: after the last of them. */
void ht_session_took(ht_session *s, int32_t n, const float *logits);
/* context 0: that of `from`. */
int ht_session_fork(ht_session **out, const ht_session *from, uint64_t id, int32_t context, ht_error *err);
int ht_session_truncate(ht_session *s, int64_t n, ht_error *err);

#endif
