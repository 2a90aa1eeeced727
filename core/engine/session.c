/* Sessions: prefix reuse, chunks, decode steps, forks. */
#include "core/engine/session.h"

#include "core/base/memory.h"
#include "core/base/threads.h"

#include <string.h>

int ht_session_open(ht_session **out, ht_engine *engine, uint64_t id, int32_t context, ht_error *err)
{
    const ht_ops_limits *lim = engine->limits;

    *out = NULL;
    if (context == 0) context = lim->context;
    if (context < 1 || context > lim->context)
        return ht_fail(err, -EINVAL, "a session of %d tokens is outside of the engine's 1..%d", context, lim->context);
    if (engine->n_sessions >= lim->sequences)
        return ht_fail(err, -EBUSY, "the engine was opened for %d session%s, and as many are open", lim->sequences,
                       lim->sequences == 1 ? "" : "s");
    ht_session *s = ht_calloc(1, sizeof(*s));
    if (!s) return ht_fail(err, -ENOMEM, "out of memory for a session");
    s->engine = engine;
    s->id = id;
    s->context = context;
    engine->n_sessions++;
    int r = ht_kv_table_open(&s->table, context, err);
    if (r < 0) goto fail;
    s->tokens = ht_alloc((size_t)context, sizeof(*s->tokens));
    s->logits = ht_alloc((size_t)lim->shape.n_vocab, sizeof(*s->logits));
    if (!s->tokens || !s->logits) {
        r = ht_fail(err, -ENOMEM, "out of memory for a session of %d tokens", context);
        goto fail;
    }
    *out = s;
    return 0;

fail:
    ht_session_close(&s);
    return r;
}

void ht_session_close(ht_session **session)
{
    ht_session *s = *session;

    if (!s) return;
    ht_kv_table_close(&s->engine->kv, &s->table);
    s->engine->n_sessions--;
    ht_free(s->tokens);
    ht_free(s->logits);
    ht_free(s);
    *session = NULL;
}

/* ---- checks that come before any change ----------------------------------------------------------------- */

static int check_tokens(const ht_session *s, const int32_t *tokens, int64_t n, ht_error *err)
{
    int32_t vocab = s->engine->limits->shape.n_vocab;

    for (int64_t i = 0; i < n; i++)
        if (tokens[i] < 0 || tokens[i] >= vocab)
            return ht_fail(err, -EINVAL, "token %d (at %lld) is not one of the model's %d", tokens[i], (long long)i,
                           vocab);
    return 0;
}

/* Takes the session into the call that has `stamp`. */
static int join_call(ht_session *s, const ht_engine *engine, uint64_t stamp, ht_error *err)
{
    if (s->engine != engine) return ht_fail(err, -EINVAL, "sessions of two engines in one call");
    if (s->stamp == stamp) return ht_fail(err, -EINVAL, "the same session twice in one call");
    s->stamp = stamp;
    return 0;
}

static int check_count(const ht_engine *engine, int32_t n, ht_error *err)
{
    if (n > engine->limits->sequences)
        return ht_fail(err, -EINVAL, "%d sessions in one call, the engine was opened for %d", n,
                       engine->limits->sequences);
    return 0;
}

static int32_t common_prefix(const ht_session *s, const int32_t *tokens, int64_t n)
{
    int32_t limit = n < s->n_tokens ? (int32_t)n : s->n_tokens, i = 0;

    while (i < limit && s->tokens[i] == tokens[i]) i++;
    return i;
}

/* ---- prompts -------------------------------------------------------------------------------------------- */

typedef struct sync_call {
    ht_engine *engine;
    int32_t n;               /* sessions in engine->members that have something to compute */
    ht_score_sink *sink;     /* score: gets all logits from `first` on */
    void *user;
    ht_session **in_pass;    /* session of each work of the running pass */
} sync_call;

/* What prompt p means for its session: how much is kept. Returns 1 when there is nothing to do. */
static int plan_prompt(const ht_prompt *p, int64_t first, bool score, int32_t *keep, ht_error *err)
{
    ht_session *s = p->session;

    if (p->n < 1) return ht_fail(err, -EINVAL, "an empty prompt");
    if (p->n > s->context)
        return ht_fail(err, -ENOSPC, "the prompt has %lld tokens, the session's context holds %d", (long long)p->n,
                       s->context);
    if (first < 0 || first >= p->n)
        return ht_fail(err, -EINVAL, "no token %lld in a prompt of %lld", (long long)first, (long long)p->n);
    int r = check_tokens(s, p->tokens, p->n, err);
    if (r < 0) return r;
    int32_t common = common_prefix(s, p->tokens, p->n);
    if (!score && common == p->n && s->n_tokens == common && s->has_logits) {
        s->engine->stats.reused_tokens += common;
        return 1;
    }
    s->goal = (int32_t)p->n;
    s->logits_from = (int32_t)first;
    *keep = common < first ? common : (int32_t)first; /* logits are computed, never kept: `first` is computed anew */
    return 0;
}

static void keep_tokens(ht_session *s, int32_t n)
{
    s->n_tokens = n;
    s->has_logits = false;
    ht_kv_trim(&s->engine->kv, &s->table, n);
}

/* The point after which the old context is gone: first all sessions let go of what they do not keep, then all take
 * the pages they need, which are known to be enough. */
static int begin_prompts(sync_call *call, ht_error *err)
{
    ht_engine *e = call->engine;

    for (int32_t i = 0; i < call->n; i++) {
        ht_session *s = e->members[i];
        int32_t keep = e->work[i].begin;
        memmove(s->tokens + keep, e->work[i].tokens + keep, (size_t)(s->goal - keep) * sizeof(*s->tokens));
        keep_tokens(s, keep);
        e->stats.reused_tokens += keep;
    }
    for (int32_t i = 0; i < call->n; i++) {
        ht_session *s = e->members[i];
        int r = ht_kv_prepare(&e->kv, &s->table, s->n_tokens, s->goal, err);
        if (r < 0) return r;
    }
    return 0;
}

static void take_prompt_logits(void *user, int32_t i, int32_t position, const float *logits)
{
    sync_call *call = user;
    ht_session *s = call->in_pass[i];

    ht_engine_hash(s->engine, logits);
    if (position == s->goal - 1) {
        memcpy(s->logits, logits, (size_t)s->engine->limits->shape.n_vocab * sizeof(*logits));
        s->has_logits = true; /* and becomes valid with n_tokens, when the pass has succeeded */
    }
    if (!call->sink) return;
    ht_guard_leave(); /* the caller's code may allocate */
    call->sink(call->user, position, logits);
    ht_guard_enter();
}

/* Passes of at most `chunk` columns, over the sessions in order, till all have what they want. */
static int run_prompts(sync_call *call, ht_error *err)
{
    ht_engine *e = call->engine;
    int32_t done = 0;
    int64_t computed = 0, total = 0;

    for (int32_t i = 0; i < call->n; i++) total += e->members[i]->goal - e->members[i]->n_tokens;
    while (done < call->n) {
        int32_t columns = 0, works = 0;
        for (int32_t i = done; i < call->n && columns < e->chunk; i++, works++) {
            ht_session *s = e->members[i];
            int32_t left = s->goal - s->n_tokens, room = e->chunk - columns, take = left < room ? left : room;
            e->work[works] = (ht_work){.pages = s->table.id,
                                       .tokens = s->tokens + s->n_tokens,
                                       .begin = s->n_tokens,
                                       .end = s->n_tokens + take,
                                       .logits_from = s->logits_from};
            columns += take;
        }
        call->in_pass = e->members + done;
        int r = ht_engine_pass(e, HT_CLASS_BLOCK, e->work, works, take_prompt_logits, call, err);
        if (r < 0) return r;
        for (int32_t w = 0; w < works; w++) {
            ht_session *s = e->members[done + w];
            s->n_tokens = e->work[w].end;
        }
        while (done < call->n && e->members[done]->n_tokens == e->members[done]->goal) done++;
        e->stats.prompt_tokens += columns;
        computed += columns;
        if (e->progress && computed < total) e->progress(e->progress_user, computed, total);
    }
    return 0;
}

static int sync_prompts(const ht_prompt *prompts, int32_t n, const int64_t *score_first, ht_score_sink *sink,
                        void *user, ht_error *err)
{
    if (n < 1) return 0;
    ht_engine *e = prompts[0].session->engine;
    sync_call call = {.engine = e, .sink = sink, .user = user};
    uint64_t stamp = ++e->stamp;
    double started = ht_now();

    int r = check_count(e, n, err);
    if (r < 0) return r;
    for (int32_t i = 0; i < n; i++) {
        int32_t keep = 0;
        r = join_call(prompts[i].session, e, stamp, err);
        if (r >= 0)
            r = plan_prompt(&prompts[i], score_first ? *score_first : prompts[i].n - 1, score_first != NULL, &keep,
                            err);
        if (r < 0) return n > 1 ? ht_error_prefix(err, "prompt %d", i) : r;
        if (r == 1) continue;
        /* `begin` and `tokens` remember the plan until all prompts are known to fit */
        e->work[call.n] = (ht_work){.begin = keep, .tokens = prompts[i].tokens};
        e->wish[call.n] = (ht_kv_wish){&prompts[i].session->table, keep, prompts[i].n};
        e->members[call.n++] = prompts[i].session;
    }
    r = ht_kv_check(&e->kv, e->wish, call.n, err);
    if (r < 0) return r;

    r = begin_prompts(&call, err);
    if (r >= 0) r = run_prompts(&call, err);
    for (int32_t i = 0; i < call.n; i++) {
        ht_session *s = e->members[i];
        ht_kv_trim(&e->kv, &s->table, s->n_tokens);
        if (s->n_tokens != s->goal) s->has_logits = false;
    }
    e->stats.prompt_seconds += ht_now() - started;
    return r < 0 ? r : 0;
}

int ht_session_sync(const ht_prompt *prompts, int32_t n, ht_error *err)
{
    return sync_prompts(prompts, n, NULL, NULL, NULL, err);
}

int ht_session_score(ht_session *s, const int32_t *tokens, int64_t n, int64_t first, ht_score_sink *sink, void *user,
                     ht_error *err)
{
    return sync_prompts(&(ht_prompt){s, tokens, n}, 1, &first, sink, user, err);
}

/* ---- decode --------------------------------------------------------------------------------------------- */

static int check_decode(ht_session *const *sessions, const int32_t *tokens, int32_t n, ht_error *err)
{
    ht_engine *e = sessions[0]->engine;
    uint64_t stamp = ++e->stamp;

    int r = check_count(e, n, err);
    for (int32_t i = 0; i < n && r >= 0; i++) {
        r = join_call(sessions[i], e, stamp, err);
        if (r >= 0) r = check_tokens(sessions[i], &tokens[i], 1, err);
        if (r >= 0 && sessions[i]->n_tokens == sessions[i]->context)
            r = ht_fail(err, -ENOSPC, "the session's context is full: all %d tokens are used", sessions[i]->context);
    }
    return r;
}

static void take_decode_logits(void *user, int32_t i, int32_t position, const float *logits)
{
    ht_session *s = ((ht_session *const *)user)[i];

    (void)position;
    ht_engine_hash(s->engine, logits);
    memcpy(s->logits, logits, (size_t)s->engine->limits->shape.n_vocab * sizeof(*logits));
    s->fresh = true;
}

int ht_session_decode(ht_session *const *sessions, const int32_t *tokens, int32_t n, ht_error *err)
{
    int32_t prepared = 0;

    if (n < 1) return 0;
    ht_engine *e = sessions[0]->engine;
    double started = ht_now();
    int r = check_decode(sessions, tokens, n, err);
    if (r < 0) return r;
    for (; prepared < n && r >= 0; prepared++) {
        ht_session *s = sessions[prepared];
        s->fresh = false;
        r = ht_kv_prepare(&e->kv, &s->table, s->n_tokens, s->n_tokens + 1, err);
        e->work[prepared] = (ht_work){.pages = s->table.id,
                                      .tokens = &tokens[prepared],
                                      .begin = s->n_tokens,
                                      .end = s->n_tokens + 1,
                                      .logits_from = s->n_tokens};
    }
    if (r >= 0) r = ht_engine_pass(e, HT_CLASS_DECODE, e->work, n, take_decode_logits, (void *)sessions, err);
    for (int32_t i = 0; i < prepared; i++) {
        ht_session *s = sessions[i];
        if (r >= 0) s->tokens[s->n_tokens++] = tokens[i];
        if (s->fresh) s->has_logits = r >= 0; /* a pass that failed after its logits has spoiled the old ones */
        ht_kv_trim(&e->kv, &s->table, s->n_tokens);
    }
    if (r < 0) return r;
    e->stats.decode_tokens += n;
    e->stats.decode_seconds += ht_now() - started;
    return 0;
}

/* Tokens that may be kept: their logits stay where they are. */
typedef struct try_call { int32_t begin; const float **logits; } try_call;

static void point_to_logits(void *user, int32_t i, int32_t position, const float *logits)
{
    const try_call *call = user;

    (void)i;
    call->logits[position - call->begin] = logits;
}

int ht_session_try(ht_session *s, const int32_t *tokens, int32_t n, const float **logits, double *seconds, ht_error *err)
{
    ht_engine *e = s->engine;
    double started = ht_now();
    const int32_t begin = s->n_tokens;
    try_call call = {begin, logits};

    int r = ht_kv_prepare(&e->kv, &s->table, begin, begin + n, err);
    if (r >= 0) {
        e->work[0] = (ht_work){
            .pages = s->table.id, .tokens = tokens, .begin = begin, .end = begin + n, .logits_from = begin};
        r = ht_engine_pass(e, HT_CLASS_DECODE, e->work, 1, point_to_logits, &call, err);
    }
    if (r < 0) {
        ht_kv_trim(&e->kv, &s->table, begin);
        return r;
    }
    double took = ht_now() - started;
    ht_cost_add(&e->decode_cost, n, took);
    e->stats.decode_seconds += took;
    *seconds += took;
    return 0;
}

void ht_session_took(ht_session *s, int32_t n, const float *logits)
{
    memcpy(s->logits, logits, (size_t)s->engine->limits->shape.n_vocab * sizeof(*logits));
    s->has_logits = true;
    ht_kv_trim(&s->engine->kv, &s->table, s->n_tokens);
    s->engine->stats.decode_tokens += n;
}

/* ---- the rest ------------------------------------------------------------------------------------------- */

int ht_session_fork(ht_session **out, const ht_session *from, uint64_t id, int32_t context, ht_error *err)
{
    *out = NULL;
    if (context == 0) context = from->context;
    if (context < from->n_tokens)
        return ht_fail(err, -ENOSPC, "a session of %d tokens cannot take over %d", context, from->n_tokens);
    ht_session *s;
    int r = ht_session_open(&s, from->engine, id, context, err);
    if (r < 0) return r;
    ht_kv_share(&s->engine->kv, &s->table, &from->table, from->n_tokens);
    memcpy(s->tokens, from->tokens, (size_t)from->n_tokens * sizeof(*s->tokens));
    s->n_tokens = from->n_tokens;
    s->has_logits = from->has_logits;
    if (s->has_logits)
        memcpy(s->logits, from->logits, (size_t)s->engine->limits->shape.n_vocab * sizeof(*s->logits));
    *out = s;
    return 0;
}

int ht_session_truncate(ht_session *s, int64_t n, ht_error *err)
{
    if (n < 0 || n > s->n_tokens)
        return ht_fail(err, -EINVAL, "cannot truncate a session of %d tokens to %lld", s->n_tokens, (long long)n);
    if (n == s->n_tokens) return 0;
    keep_tokens(s, (int32_t)n);
    return 0;
}
