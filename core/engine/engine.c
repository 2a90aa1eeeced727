/* The engine: open and close, and how works become a step. */
#include "core/engine/engine.h"

#include "core/base/memory.h"

#include <string.h>

#define FNV_OFFSET 14695981039346656037u
#define FNV_PRIME 1099511628211u

static int check_options(const ht_engine_options *o, ht_error *err)
{
    const ht_ops_limits *lim = &o->sites[0].backend->limits;

    if (lim->columns < 1 || lim->sequences < 1 || lim->context < 1)
        return ht_fail(err, -EINVAL, "an engine needs at least one column, sequence and token, not %d, %d and %d",
                       lim->columns, lim->sequences, lim->context);
    if (o->chunk < 1 || o->chunk > lim->columns)
        return ht_fail(err, -EINVAL, "a chunk of %d tokens is outside of 1..%d", o->chunk, lim->columns);
    /* A decode step is one pass: the sessions of a step either all advance or none does. */
    if (lim->columns < lim->sequences)
        return ht_fail(err, -EINVAL, "%d columns cannot hold a token of each of %d sequences", lim->columns,
                       lim->sequences);
    return 0;
}

int ht_engine_open(ht_engine **out, const ht_engine_options *options, ht_error *err)
{
    const ht_ops_limits *lim = &options->sites[0].backend->limits;
    ht_engine *e = NULL;

    *out = NULL;
    int r = check_options(options, err);
    if (r < 0) return r;
    e = ht_calloc(1, sizeof(*e));
    if (!e) return ht_fail(err, -ENOMEM, "out of memory for the engine");
    atomic_init(&e->cancel, false);
    e->limits = lim;
    e->chunk = options->chunk;
    e->stats.logits_hash = FNV_OFFSET;

    size_t n = (size_t)lim->columns, s = (size_t)lim->sequences;
    e->token = ht_alloc(n, sizeof(*e->token));
    e->position = ht_alloc(n, sizeof(*e->position));
    e->sequence = ht_alloc(n, sizeof(*e->sequence));
    e->out = ht_alloc(n, sizeof(*e->out));
    e->pages = ht_alloc(s, sizeof(*e->pages));
    e->length = ht_alloc(s, sizeof(*e->length));
    e->work = ht_alloc(s, sizeof(*e->work));
    e->wish = ht_alloc(s, sizeof(*e->wish));
    e->members = ht_alloc(s, sizeof(*e->members));
    if (!e->token || !e->position || !e->sequence || !e->out || !e->pages || !e->length || !e->work || !e->wish ||
        !e->members) {
        r = ht_fail(err, -ENOMEM, "out of memory for passes of %d columns and %d sequences", lim->columns,
                    lim->sequences);
        goto fail;
    }
    r = ht_forward_open(&e->forward, options->sites, options->n_sites, err);
    if (r < 0) goto fail;
    r = ht_kv_open(&e->kv, options->sites, options->n_sites, err);
    if (r < 0) goto fail;
    *out = e;
    return 0;

fail:
    ht_engine_close(&e);
    return r;
}

void ht_engine_close(ht_engine **engine)
{
    ht_engine *e = *engine;

    if (!e) return;
    ht_forward_close(&e->forward);
    ht_kv_close(&e->kv);
    ht_free(e->token);
    ht_free(e->position);
    ht_free(e->sequence);
    ht_free(e->out);
    ht_free(e->pages);
    ht_free(e->length);
    ht_free(e->work);
    ht_free(e->wish);
    ht_free(e->members);
    ht_free(e);
    *engine = NULL;
}

/* ---- a pass --------------------------------------------------------------------------------------------- */

/* Columns of a sequence are neighbours, in order of position. Returns how many logits are wanted. */
static int32_t fill_step(ht_engine *e, ht_step *step, ht_class class_, const ht_work *work, int32_t n)
{
    int32_t columns = 0, outputs = 0;

    for (int32_t w = 0; w < n; w++) {
        for (int32_t p = work[w].begin; p < work[w].end; p++, columns++) {
            e->token[columns] = work[w].tokens[p - work[w].begin];
            e->position[columns] = p;
            e->sequence[columns] = w;
            if (p >= work[w].logits_from) e->out[outputs++] = columns;
        }
        e->pages[w] = work[w].pages;
        e->length[w] = work[w].end;
    }
    *step = (ht_step){
        .class_ = class_,
        .n = columns,
        .token = e->token,
        .position = e->position,
        .sequence = e->sequence,
        .n_sequences = n,
        .pages = e->pages,
        .length = e->length,
    };
    return outputs;
}

void ht_engine_hash(ht_engine *e, const float *logits)
{
    uint64_t hash = e->stats.logits_hash;

    for (int32_t i = 0; i < e->limits->shape.n_vocab; i++) {
        uint32_t word;
        memcpy(&word, &logits[i], sizeof(word));
        hash = (hash ^ word) * FNV_PRIME;
    }
    e->stats.logits_hash = hash;
}

typedef struct pass_sink { ht_engine *engine; ht_work_sink *sink; void *user; } pass_sink;

static void hand_out(void *user, int32_t column, const float *logits)
{
    pass_sink *s = user;
    ht_engine *e = s->engine;

    s->sink(s->user, e->sequence[column], e->position[column], logits);
}

int ht_engine_pass(ht_engine *e, ht_class class_, const ht_work *work, int32_t n, ht_work_sink *sink, void *user,
                   ht_error *err)
{
    ht_step step;
    pass_sink out = {e, sink, user};
    int32_t outputs = fill_step(e, &step, class_, work, n);

    ht_guard_enter();
    int r = ht_forward_run(&e->forward,
                           &(ht_pass){.step = &step,
                                      .out = e->out,
                                      .n_out = outputs,
                                      .sink = hand_out,
                                      .user = &out,
                                      .cancel = &e->cancel},
                           err);
    ht_guard_leave();
    return r;
}
