/* The queue of a batch: requests are checked, copied, and put into the order in which they will begin. */
#include "core/engine/batch_parts.h"

#include "core/base/memory.h"

#include <string.h>

/* The queue is sorted when one in so many is new: at every pass it would take much of a fast one. */
enum { NEW_SHARE = 8 };

void ht_job_close(ht_job **job)
{
    ht_job *j = *job;

    if (!j) return;
    ht_free(j->prompt);
    ht_sampler_close(&j->sampler);
    ht_text_close(&j->text);
    ht_free(j);
    *job = NULL;
}

static int check_request(const ht_batch *b, const ht_request *q, ht_error *err)
{
    const ht_ops_limits *lim = b->engine->limits;

    if (q->n < 1) return ht_fail(err, -EINVAL, "an empty prompt");
    if (q->n > lim->context)
        return ht_fail(err, -ENOSPC, "the prompt has %lld tokens, the context holds %d", (long long)q->n, lim->context);
    if (q->max_tokens < 0) return ht_fail(err, -EINVAL, "%d tokens to generate", q->max_tokens);
    for (int64_t i = 0; i < q->n; i++)
        if (q->tokens[i] < 0 || q->tokens[i] >= lim->shape.n_vocab)
            return ht_fail(err, -EINVAL, "token %d (at %lld) is not one of the model's %d", q->tokens[i], (long long)i,
                           lim->shape.n_vocab);
    return 0;
}

/* Tokens that are computed at most: the last one generated is not. */
static int32_t most_tokens(const ht_job *j) { return j->n_prompt + j->limit - 1; }

static int fill_job(ht_job *j, const ht_batch *b, const ht_request *q, ht_error *err)
{
    int32_t room = b->engine->limits->context - (int32_t)q->n + 1; /* the last one needs no place */

    j->id = q->id;
    j->n_prompt = (int32_t)q->n;
    j->cut = q->max_tokens == 0 || q->max_tokens > room;
    j->limit = j->cut ? room : q->max_tokens;
    j->ignore_end = q->ignore_end;
    j->logprobs = q->logprobs;
    j->guessed = q->expected <= 0;
    j->expected = q->expected > 0 && q->expected < j->limit ? q->expected : j->limit;
    j->user = q->user;
    if (ht_kv_pages_of(most_tokens(j)) > b->engine->kv.n_pages)
        return ht_fail(err, -ENOMEM, "a request of up to %d tokens can never fit into the KV cache of %lld", most_tokens(j),
                       (long long)b->engine->kv.n_pages * HT_KV_TILE);
    j->prompt = ht_alloc((size_t)q->n, sizeof(*j->prompt));
    if (!j->prompt) return ht_fail(err, -ENOMEM, "out of memory for a prompt of %lld tokens", (long long)q->n);
    memcpy(j->prompt, q->tokens, (size_t)q->n * sizeof(*j->prompt));
    int r = ht_text_open(&j->text, b->tokenizer, b->longest, &q->text, err);
    return r < 0 ? r : ht_sampler_open_shared(&j->sampler, (ht_sampler_scratch *)&b->scratch, &q->sampler, err);
}

/* The queue and what sorting it needs, for `capacity` requests. */
static int resize_queue(ht_batch *b, int64_t capacity, ht_error *err)
{
    const struct { void **at; size_t size; } part[] = {
        {(void **)&b->queue, sizeof(*b->queue)},
        {(void **)&b->sorted, sizeof(*b->sorted)},
        {(void **)&b->items, sizeof(*b->items)},
        {(void **)&b->sort_order, sizeof(*b->sort_order)},
        {(void **)&b->sort_scratch, 7 * sizeof(*b->sort_scratch)},
        {(void **)&b->schedule_best, sizeof(*b->schedule_best)},
    };
    if (capacity > INT32_MAX / 8) return ht_fail(err, -ENOMEM, "too many requests wait: %lld", (long long)capacity);
    for (size_t i = 0; i < sizeof(part) / sizeof(part[0]); i++) {
        void *p = ht_realloc(*part[i].at, (size_t)capacity + 1, part[i].size);
        if (!p) return ht_fail(err, -ENOMEM, "out of memory for a queue of %lld requests", (long long)capacity);
        *part[i].at = p;
    }
    b->queue_capacity = capacity;
    return 0;
}

/* Room for one more at the end of the queue. */
static int grow_queue(ht_batch *b, ht_error *err)
{
    int64_t waiting = ht_batch_waiting(b);

    if (b->queue_end < b->queue_capacity) return 0;
    if (b->queue_first <= b->queue_capacity / 2) {
        int r = resize_queue(b, 2 * b->queue_capacity + 64, err);
        if (r < 0) return r;
    }
    memmove(b->queue, b->queue + b->queue_first, (size_t)waiting * sizeof(*b->queue));
    b->queue_first = 0;
    b->queue_end = waiting;
    return 0;
}

void ht_batch_queue_close(ht_batch *b)
{
    for (int64_t i = b->queue_first; i < b->queue_end; i++) ht_job_close(&b->queue[i]);
    ht_free(b->queue);
    ht_free(b->sorted);
    ht_free(b->items);
    ht_free(b->sort_order);
    ht_free(b->sort_scratch);
    ht_free(b->schedule_best);
}

ht_job *ht_batch_front(ht_batch *b)
{
    return b->queue_first < b->queue_end ? b->queue[b->queue_first] : NULL;
}

/* While others keep coming, those that the order puts last would wait for ever: who has seen four times as many begin as
 * there are waiting goes first. */
static bool is_passed_over(const ht_batch *b, const ht_job *j, int32_t waiting)
{
    return b->next_turn - j->added > 4 * (uint64_t)waiting + 64;
}

void ht_batch_sort(ht_batch *b)
{
    int32_t n = (int32_t)ht_batch_waiting(b), *s = b->sort_scratch;
    ht_job **queue = b->queue + b->queue_first;

    if (b->in_order || !b->n_new || b->n_new * NEW_SHARE < n) return;
    b->n_new = 0;
    for (int32_t i = 0; i < n; i++) b->items[i] = (ht_schedule_item){queue[i]->prompt, queue[i]->n_prompt, queue[i]->expected};
    const ht_schedule_scratch scratch = {s, s + n, s + 2 * n, s + 3 * n, s + 5 * n};
    ht_schedule_order(b->items, n, b->sort_order, &scratch);
    ht_job **out = b->sorted;
    for (int late = 1; late >= 0; late--)
        for (int32_t i = 0; i < n; i++) {
            ht_job *j = queue[b->sort_order[i]];
            if (is_passed_over(b, j, n) == late) *out++ = j;
        }
    memcpy(queue, b->sorted, (size_t)n * sizeof(*queue));
}

/* The queue's expected lengths, longest first. */
static void list_lengths(const ht_batch *b, int32_t *out, int32_t n)
{
    int32_t gap = 1;

    for (int32_t i = 0; i < n; i++) out[i] = b->queue[b->queue_first + i]->expected;
    while (gap < n / 3) gap = 3 * gap + 1;
    for (; gap > 0; gap /= 3) /* nearly in order already */
        for (int32_t i = gap; i < n; i++) {
            int32_t length = out[i], k = i;
            for (; k >= gap && out[k - gap] < length; k -= gap) out[k] = out[k - gap];
            out[k] = length;
        }
}

void ht_batch_schedule(ht_batch *b)
{
    const ht_cost *cost = &b->engine->block_cost;
    int32_t n = (int32_t)ht_batch_waiting(b), *length = b->sort_scratch;

    if (b->in_order || b->all_slots || n < b->slots || ht_cost_of(cost, 1) <= 0) return;
    b->schedule_cost[0] = 0;
    for (int32_t k = 1; k <= b->slots; k++) b->schedule_cost[k] = ht_cost_of(cost, k);
    list_lengths(b, length, n);
    const ht_schedule_costs costs = {.cost = b->schedule_cost, .slots = b->slots};
    b->width = ht_schedule_width(length, n, &costs, b->schedule_best, b->sort_scratch + n, b->schedule_cost + b->slots + 1);
}

int ht_batch_add(ht_batch *b, const ht_request *request, ht_error *err)
{
    int r = check_request(b, request, err);
    if (r < 0) return r;
    r = grow_queue(b, err);
    if (r < 0) return r;
    ht_job *j = ht_calloc(1, sizeof(*j));
    if (!j) return ht_fail(err, -ENOMEM, "out of memory for a request");
    r = fill_job(j, b, request, err);
    if (r < 0) {
        ht_job_close(&j);
        return r;
    }
    j->added = b->next_turn;
    b->queue[b->queue_end++] = j;
    b->n_new++;
    return 0;
}

