/* Sessions of the public API. */
#include "api/handles.h"
#include "core/base/memory.h"

/* The public handle around an internal session, which is closed if there is no memory for it. */
static int wrap_session(hearth_session **out, hearth_engine *engine, ht_session *session, ht_error *err)
{
    hearth_session *s = ht_calloc(1, sizeof(*s));

    if (!s) {
        ht_session_close(&session);
        return ht_fail(err, -ENOMEM, "out of memory for a session");
    }
    *s = (hearth_session){engine, session};
    *out = s;
    return 0;
}

int hearth_session_open(hearth_session **out, hearth_engine *engine, const hearth_session_options *options,
                        hearth_error *error)
{
    ht_error err = {0};
    ht_session *s;

    *out = NULL;
    int r = ht_session_open(&s, engine->engine, options->id, options->context, &err);
    if (r >= 0) r = wrap_session(out, engine, s, &err);
    return ht_give_error(r, &err, error);
}

void hearth_session_close(hearth_session **session)
{
    if (!*session) return;
    ht_session_close(&(*session)->session);
    ht_free(*session);
    *session = NULL;
}

int hearth_session_sync(hearth_session *session, const int32_t *tokens, int64_t n, hearth_error *error)
{
    return hearth_sync_many(&(hearth_prompt){session, tokens, n}, 1, error);
}

static int check_sessions(const hearth_engine *e, int32_t n, ht_error *err)
{
    return ht_check_range("the number of sessions in a call", n, 1, e->engine->limits->sequences, err);
}

int hearth_sync_many(const hearth_prompt *prompts, int32_t n, hearth_error *error)
{
    ht_error err = {0};

    if (n == 0) return 0;
    hearth_engine *e = prompts[0].session->engine;
    int r = check_sessions(e, n, &err);
    if (r >= 0) {
        for (int32_t i = 0; i < n; i++)
            e->prompts[i] = (ht_prompt){prompts[i].session->session, prompts[i].tokens, prompts[i].n};
        r = ht_session_sync(e->prompts, n, &err);
    }
    return ht_give_error(r, &err, error);
}

int hearth_session_score(hearth_session *session, const int32_t *tokens, int64_t n, int64_t first,
                         hearth_logits_sink *sink, void *user, hearth_error *error)
{
    ht_error err = {0};
    int r = ht_session_score(session->session, tokens, n, first, sink, user, &err);

    return ht_give_error(r, &err, error);
}

int hearth_decode_step(hearth_session *const *sessions, const int32_t *tokens, int32_t n, hearth_error *error)
{
    ht_error err = {0};

    if (n == 0) return 0;
    hearth_engine *e = sessions[0]->engine;
    int r = check_sessions(e, n, &err);
    if (r >= 0) {
        for (int32_t i = 0; i < n; i++) e->sessions[i] = sessions[i]->session;
        r = ht_session_decode(e->sessions, tokens, n, &err);
    }
    return ht_give_error(r, &err, error);
}

int hearth_session_append(hearth_session *session, int32_t token, hearth_error *error)
{
    return hearth_decode_step(&session, &token, 1, error);
}

int hearth_session_fork(hearth_session **out, const hearth_session *session, const hearth_session_options *options,
                        hearth_error *error)
{
    ht_error err = {0};
    ht_session *s;

    *out = NULL;
    int r = ht_session_fork(&s, session->session, options->id, options->context, &err);
    if (r >= 0) r = wrap_session(out, session->engine, s, &err);
    return ht_give_error(r, &err, error);
}

int hearth_session_truncate(hearth_session *session, int64_t n, hearth_error *error)
{
    ht_error err = {0};

    return ht_give_error(ht_session_truncate(session->session, n, &err), &err, error);
}

const float *hearth_session_logits(const hearth_session *session)
{
    return session->session->has_logits ? session->session->logits : NULL;
}

int64_t hearth_session_tokens(const hearth_session *session, const int32_t **tokens)
{
    if (tokens) *tokens = session->session->tokens;
    return session->session->n_tokens;
}

/* ---- while calls run ------------------------------------------------------------------------------------ */

void hearth_engine_cancel(hearth_engine *engine, bool cancel)
{
    atomic_store_explicit(&engine->engine->cancel, cancel, memory_order_relaxed);
}

void hearth_engine_on_prompt(hearth_engine *engine, hearth_progress *progress, void *user)
{
    engine->engine->progress = progress;
    engine->engine->progress_user = user;
}
