/* Batches: rows, passes, and what comes out of them. */
#include "core/engine/batch_parts.h"

#include "core/base/memory.h"
#include "core/base/threads.h"

#include <string.h>

enum { SCHEDULE_EVERY = 64 }; /* passes, after which costs are looked at again */

/* ---- open and close ------------------------------------------------------------------------------------- */

static int open_rows(ht_batch *b, ht_error *err)
{
    const ht_ops_limits *lim = b->engine->limits;
    size_t n = (size_t)b->slots;

    b->rows = ht_calloc(n, sizeof(*b->rows));
    b->order = ht_alloc(n, sizeof(*b->order));
    b->in_pass = ht_alloc(n, sizeof(*b->in_pass));
    b->work = ht_alloc(n, sizeof(*b->work));
    b->schedule_cost = ht_alloc(2 * (n + 1), sizeof(*b->schedule_cost));
    if (!b->rows || !b->order || !b->in_pass || !b->work || !b->schedule_cost)
        return ht_fail(err, -ENOMEM, "out of memory for a batch of %d rows", b->slots);
    for (int32_t i = 0; i < b->slots; i++) {
        ht_row *row = &b->rows[i];
        int r = ht_kv_table_open(&row->table, lim->context, err);
        if (r < 0) return r;
        row->tokens = ht_alloc((size_t)lim->context + 1, sizeof(*row->tokens));
        if (!row->tokens) return ht_fail(err, -ENOMEM, "out of memory for a row of %d tokens", lim->context);
        if (b->speculator.mode != HT_SPECULATE_NEVER) r = ht_lookup_open(&row->lookup, lim->context, err);
        if (r < 0) return r;
    }
    int r = ht_prefix_open(&b->kept, lim->context, err);
    return r < 0 ? r : ht_sampler_scratch_open(&b->scratch, lim->shape.n_vocab, err);
}

int ht_batch_open(ht_batch **out, const ht_batch_options *o, ht_error *err)
{
    int32_t most = o->engine->limits->sequences;

    *out = NULL;
    if (most > o->engine->chunk) most = o->engine->chunk; /* every row has its column in every pass */
    if (o->slots < 0 || o->slots > most)
        return ht_fail(err, -EINVAL, "%d slots for requests are outside of the engine's 1..%d", o->slots, most);
    ht_batch *b = ht_calloc(1, sizeof(*b));
    if (!b) return ht_fail(err, -ENOMEM, "out of memory for a batch");
    b->engine = o->engine;
    b->tokenizer = o->tokenizer;
    b->longest = ht_text_longest(o->tokenizer);
    b->events = o->events;
    b->in_order = o->in_order;
    b->all_slots = o->all_slots;
    b->speculator.mode = o->speculation;
    b->width = b->slots = o->slots ? o->slots : most;
    int r = open_rows(b, err);
    if (r < 0) ht_batch_close(&b);
    *out = b;
    return r;
}

void ht_batch_close(ht_batch **batch)
{
    ht_batch *b = *batch;

    if (!b) return;
    ht_batch_queue_close(b);
    ht_prefix_close(&b->engine->kv, &b->kept);
    for (int32_t i = 0; b->rows && i < b->slots; i++) {
        ht_job_close(&b->rows[i].job);
        ht_kv_table_close(&b->engine->kv, &b->rows[i].table);
        ht_lookup_close(&b->rows[i].lookup);
        ht_free(b->rows[i].tokens);
    }
    ht_sampler_scratch_close(&b->scratch);
    ht_free(b->rows);
    ht_free(b->order);
    ht_free(b->in_pass);
    ht_free(b->schedule_cost);
    ht_free(b->work);
    ht_free(b);
    *batch = NULL;
}

/* ---- rows ----------------------------------------------------------------------------------------------- */

static void release_pages(ht_batch *b, ht_row *row)
{
    ht_kv_trim(&b->engine->kv, &row->table, 0);
    row->computed = 0;
}

static void end_row(ht_batch *b, ht_row *row, ht_finish finish, const ht_error *error)
{
    ht_job *j = row->job;

    row->job = NULL;
    ht_prefix_keep(b, row);
    release_pages(b, row);
    b->n_running--;
    if (error) b->stats.failed++;
    else b->stats.finished++;
    if (j->guessed) {
        struct ht_batch_ended *e = &b->ended[j->cut];
        e->n++;
        e->tokens += row->n_generated;
        e->limits += j->limit;
    }
    const char *rest = "";
    size_t n = 0;
    int32_t stop = j->text.stop.found;
    if (!error) ht_text_feed(&j->text, -1, &rest, &n);
    if (n && b->events.token) b->events.token(b->events.context, j->user, &(ht_sampled){.id = -1}, rest, n);
    if (b->events.done) b->events.done(b->events.context, j->user, finish, row->n_generated, stop, error);
    ht_job_close(&j);
}

static void begin_row(ht_batch *b, ht_row *row, ht_job *j)
{
    row->job = j;
    row->turn = b->next_turn++;
    memcpy(row->tokens, j->prompt, (size_t)j->n_prompt * sizeof(*row->tokens));
    row->n = j->n_prompt;
    row->computed = row->most_computed = row->n_generated = 0;
    if (b->speculator.mode != HT_SPECULATE_NEVER) ht_lookup_reset(&row->lookup);
    b->n_running++;
    b->stats.prompt_tokens += j->n_prompt;
}

/* Tokens that a request will have computed in the end. Limits are mostly too high: where nobody said better, it is the
 * share of them that those had which have ended, and a quarter more; before that, half. */
static int32_t tokens_in_the_end(const ht_batch *b, const ht_job *j)
{
    const struct ht_batch_ended *e = &b->ended[j->cut];
    double n = j->expected;

    if (j->guessed) n = 1 + (e->n < 4 ? 0.5 * n : 1.25 * n * (double)e->tokens / (double)e->limits);
    return j->n_prompt + (n < j->limit ? (int32_t)n : j->limit) - 1;
}

/* Pages that the row will still take, if it generates as much as expected. */
static int64_t pages_to_come(const ht_batch *b, const ht_row *row)
{
    int32_t expected = tokens_in_the_end(b, row->job), tokens = row->n < expected ? expected : row->n;
    int32_t pages = ht_kv_pages_of(tokens) - (row->table.n ? row->table.n : row->shared_pages);

    return pages > 0 ? pages : 0;
}

static ht_row *free_row(ht_batch *b)
{
    for (int32_t i = 0; i < b->slots; i++)
        if (!b->rows[i].job) return &b->rows[i];
    return NULL;
}

/* Requests begin while there are rows and pages for them. */
static void begin_rows(ht_batch *b)
{
    int64_t free_pages = b->engine->kv.n_free;

    for (int32_t i = 0; i < b->slots; i++) {
        const ht_row *row = &b->rows[i];
        if (!row->job) continue;
        if (row->most_computed > 0 && row->table.n == 0) return; /* it waits for its pages */
        free_pages -= pages_to_come(b, row);
    }
    for (;;) {
        const ht_job *j = ht_batch_front(b);
        ht_row *row = free_row(b);
        if (!j || !row || b->n_running >= b->width) return;
        row->shared_pages = ht_prefix_expected(b, j) / HT_KV_TILE;
        int64_t pages = ht_kv_pages_of(tokens_in_the_end(b, j)) - row->shared_pages;
        if (b->n_running > 0 && pages > free_pages) return;
        free_pages -= pages;
        begin_row(b, row, b->queue[b->queue_first++]);
    }
}

/* Running rows by age, into b->order. Returns how many. */
static int32_t order_rows(ht_batch *b)
{
    int32_t n = 0;

    for (int32_t i = 0; i < b->slots; i++) {
        if (!b->rows[i].job) continue;
        int32_t at = n++;
        for (; at > 0 && b->order[at - 1]->turn > b->rows[i].turn; at--) b->order[at] = b->order[at - 1];
        b->order[at] = &b->rows[i];
    }
    return n;
}

/* ---- a pass --------------------------------------------------------------------------------------------- */

/* The row gets pages for its tokens up to `end`, from younger rows if need be (b->order[at] is the row). Returns 1
 * when it must wait. */
static int give_pages(ht_batch *b, int32_t at, int32_t n, int32_t end, ht_error *err)
{
    ht_row *row = b->order[at];
    int32_t victim = n - 1;

    for (;;) {
        ht_error why = {0};
        int r = ht_kv_prepare(&b->engine->kv, &row->table, row->computed, end, &why);
        if (r != -ENOMEM) {
            if (r < 0 && err) *err = why;
            return r;
        }
        if (b->kept.n) {
            ht_prefix_drop(&b->engine->kv, &b->kept);
            continue;
        }
        while (victim > at && b->order[victim]->table.n == 0) victim--;
        if (victim <= at) return 1;
        release_pages(b, b->order[victim]);
        b->stats.interrupted++;
    }
}

/* Seconds that a token costs which is computed like most: in a pass of one column for each row. */
static double worth_of_token(const ht_batch *b)
{
    return ht_cost_of(&b->engine->block_cost, b->n_running) / b->n_running;
}

/* Guesses behind the last token of a row that generates, at most `most`, into row->tokens. They take no pages from
 * others. `columns`: those of the pass so far. */
static int32_t guess(ht_batch *b, ht_row *row, int32_t columns, int32_t most)
{
    const ht_job *j = row->job;
    const ht_kv *kv = &b->engine->kv;
    int64_t room = ((int64_t)row->table.n + kv->n_free) * HT_KV_TILE - row->n;
    int32_t to_come = j->n_prompt + j->limit - 1 - row->n;

    row->n_guesses = 0;
    row->columns_before = columns;
    if (most > HT_BATCH_GUESSES) most = HT_BATCH_GUESSES;
    if (most > to_come) most = to_come;
    if (most > room) most = (int32_t)room;
    if (most < 1 || b->speculator.mode == HT_SPECULATE_NEVER) return 0;
    int32_t n = ht_lookup_guess(&row->lookup, row->tokens, row->n, most, row->tokens + row->n, &row->match);
    if (n) n = ht_speculate(&b->speculator, &b->engine->block_cost, columns, worth_of_token(b), row->match, n);
    row->n_guesses = n;
    return n;
}

/* Chooses the pass's work: one column for every row that generates, and in what is left of a chunk the tokens that
 * others lack, oldest first; then guesses. Returns the number of works. */
static int32_t fill_pass(ht_batch *b, ht_error *err)
{
    int32_t n = order_rows(b), works = 0, room = b->engine->chunk;
    int64_t lacking = 0;

    for (int32_t i = 0; i < n; i++) {
        ht_row *row = b->order[i];
        row->waits = ht_prefix_take(b, row);
        if (row->waits) continue;
        lacking += row->n - row->computed;
        room -= row->n - row->computed == 1;
    }
    int32_t columns = lacking < b->engine->chunk ? (int32_t)lacking : b->engine->chunk;
    for (int32_t i = 0; i < n; i++) {
        ht_row *row = b->order[i];
        if (row->waits) continue;
        int32_t left = row->n - row->computed, take = left == 1 ? 1 : left < room ? left : room;
        int32_t spare = b->engine->chunk - columns < room ? b->engine->chunk - columns : room;
        if (take < 1) continue;
        int32_t guesses = left == 1 ? guess(b, row, columns, spare) : 0;
        int r = give_pages(b, i, n, row->computed + take + guesses, err);
        if (r < 0) return r;
        if (r > 0) continue;
        room -= left > 1 ? take : guesses;
        columns += guesses;
        row->end = row->computed + take + guesses;
        row->n_guesses = guesses;
        row->n_drawn = 0;
        b->in_pass[works] = row;
        b->work[works++] = (ht_work){.pages = row->table.id,
                                     .tokens = row->tokens + row->computed,
                                     .begin = row->computed,
                                     .end = row->end,
                                     .logits_from = row->n - 1};
    }
    return works;
}

/* The next token is drawn while its logits are there; behind a guess only if it was right. */
static void draw(void *user, int32_t i, int32_t position, const float *logits)
{
    ht_row *row = ((ht_batch *)user)->in_pass[i];
    const ht_job *j = row->job;
    int32_t k = position - (row->n - 1); /* guesses before it */
    ht_sampled *d = &row->drawn[k];

    if (k > 0 && (row->n_drawn < k || row->drawn[k - 1].id != row->tokens[row->n + k - 1])) return;
    int32_t id = ht_sampler_draw(j->sampler, logits, row->tokens, position + 1, j->id, j->logprobs ? d : NULL);
    if (id < 0 || !j->logprobs) *d = (ht_sampled){.id = id};
    row->n_drawn = k + 1;
}

static void count_pass(ht_batch *b, int32_t works, double seconds)
{
    int32_t columns = 0;

    for (int32_t w = 0; w < works; w++) {
        ht_row *row = b->in_pass[w];
        int32_t sure = row->end - row->n_guesses, again = (sure < row->most_computed ? sure : row->most_computed) - row->computed;
        columns += row->end - row->computed;
        if (again > 0) b->stats.wasted_columns += again;
        if (sure > row->most_computed) row->most_computed = sure;
        if (!row->n_guesses) continue;
        int32_t right = row->n_drawn - 1;
        b->stats.drafted_tokens += row->n_guesses;
        b->stats.accepted_tokens += right;
        b->stats.wasted_columns += row->n_guesses - right;
        ht_speculate_learn(&b->speculator, &b->engine->block_cost, row->columns_before, worth_of_token(b), row->match,
                           row->n_guesses, right);
    }
    b->stats.passes++;
    b->stats.columns += columns;
    b->stats.slot_passes += b->slots;
    b->stats.used_slot_passes += works;
    b->speculator.seconds += seconds;
    ht_cost_add(&b->engine->block_cost, columns, seconds);
}

/* Shows a token that was drawn. Returns why the row ends, or 0. */
static ht_finish show(ht_batch *b, ht_row *row, const ht_sampled *drawn)
{
    ht_job *j = row->job;
    const char *bytes = "";
    size_t n = 0;

    row->tokens[row->n++] = drawn->id;
    row->n_generated++;
    b->stats.generated_tokens++;
    bool end = !j->ignore_end && ht_tokenizer_is_end(b->tokenizer, drawn->id);
    int found = end ? 0 : ht_text_feed(&j->text, drawn->id, &bytes, &n);
    if (b->events.token) b->events.token(b->events.context, j->user, drawn, bytes, n);
    if (end) return HT_FINISH_END;
    if (found) return HT_FINISH_STOP;
    if (row->n_generated < j->limit) return 0;
    return j->cut ? HT_FINISH_CONTEXT : HT_FINISH_LENGTH;
}

static void settle_row(ht_batch *b, ht_row *row)
{
    ht_finish finish = 0;

    row->computed = row->end - row->n_guesses;
    for (int32_t k = 0; k < row->n_drawn && !finish; k++) {
        if (row->drawn[k].id < 0) {
            ht_error err = {0};
            ht_fail(&err, row->drawn[k].id, "no logit of the model is a number");
            end_row(b, row, 0, &err);
            return;
        }
        row->computed = row->n; /* the token before was known, or guessed right */
        finish = show(b, row, &row->drawn[k]);
    }
    if (row->computed > row->most_computed) row->most_computed = row->computed;
    if (finish) end_row(b, row, finish, NULL);
}

int64_t ht_batch_step(ht_batch *b, ht_error *err)
{
    double started = ht_now();

    ht_batch_sort(b);
    if (b->stats.passes % SCHEDULE_EVERY == SCHEDULE_EVERY - 1) ht_batch_schedule(b);
    begin_rows(b);
    ht_prefix_trim(b);
    if (!b->n_running) return 0;
    int32_t works = fill_pass(b, err);
    if (works < 0) return works;
    if (works == 0) { /* the oldest row has all pages that there are for us, and needs more */
        ht_error full = {0};
        ht_fail(&full, -ENOMEM, "the KV cache is full: open sessions hold what the request needs");
        end_row(b, b->order[0], 0, &full);
        return b->n_running + ht_batch_waiting(b);
    }
    double begun = ht_now();
    int r = ht_engine_pass(b->engine, HT_CLASS_BLOCK, b->work, works, draw, b, err);
    if (r < 0) return r;
    count_pass(b, works, ht_now() - begun);
    for (int32_t w = 0; w < works; w++) settle_row(b, b->in_pass[w]);
    b->stats.seconds += ht_now() - started;
    return b->n_running + ht_batch_waiting(b);
}
