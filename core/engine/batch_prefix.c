/* Prefixes that are computed once: a row that begins takes over the pages of another that begins alike.
 *
 * The queue is in an order that keeps such requests together (schedule.h), so the other is mostly still there, as a running
 * row, and one prefix beside them is enough to bridge the gap when it is not. What is shared is whole tokens' bits, as
 * computed in the block class: exactly what the row itself would have computed.
 */
#include "core/engine/batch_parts.h"

#include "core/base/memory.h"
#include "core/engine/schedule.h"

#include <string.h>

enum { WORTH = 16 }; /* fewer tokens than this are computed sooner than shared */

int ht_prefix_open(ht_prefix *p, int32_t context, ht_error *err)
{
    p->tokens = ht_alloc((size_t)context, sizeof(*p->tokens));
    if (!p->tokens) return ht_fail(err, -ENOMEM, "out of memory for a prefix of %d tokens", context);
    return ht_kv_table_open(&p->table, context, err);
}

void ht_prefix_drop(ht_kv *kv, ht_prefix *p)
{
    ht_kv_trim(kv, &p->table, 0);
    p->n = 0;
}

void ht_prefix_close(ht_kv *kv, ht_prefix *p)
{
    ht_kv_table_close(kv, &p->table);
    ht_free(p->tokens);
    p->tokens = NULL;
}

/* Waits for its first pages. */
static bool is_new(const ht_row *row) { return row->job && row->computed == 0 && row->table.n == 0; }

/* The last token must be computed for its logits. */
static int32_t common(const int32_t *a, int32_t n_a, const int32_t *tokens, int32_t n)
{
    return ht_common_prefix(a, n_a, tokens, n - 1);
}

int32_t ht_prefix_expected(const ht_batch *b, const ht_job *j)
{
    int32_t most = common(b->kept.tokens, b->kept.n, j->prompt, j->n_prompt);

    for (int32_t i = 0; i < b->slots; i++) {
        const ht_row *other = &b->rows[i];
        if (!other->job) continue;
        int32_t n = common(other->tokens, other->n, j->prompt, j->n_prompt);
        if (n > most) most = n;
    }
    return most < WORTH ? 0 : most;
}

bool ht_prefix_take(ht_batch *b, ht_row *row)
{
    const ht_kv_table *from = &b->kept.table;

    if (!is_new(row)) return false;
    int32_t now = common(b->kept.tokens, b->kept.n, row->tokens, row->n), later = 0;
    for (int32_t i = 0; i < b->slots; i++) {
        const ht_row *other = &b->rows[i];
        if (!other->job || other->turn >= row->turn) continue;
        int32_t n = common(other->tokens, other->n, row->tokens, row->n);
        if (n > later) later = n;
        if (n > other->computed) n = other->computed;
        if (n > now) {
            now = n;
            from = &other->table;
        }
    }
    if (later >= now + WORTH) return true;
    if (now < WORTH) return false;
    ht_kv_share(&b->engine->kv, &row->table, from, now);
    row->computed = now;
    if (now > row->most_computed) { /* else it was the row's own already, before it lost its pages */
        b->stats.reused_tokens += now - row->most_computed;
        row->most_computed = now;
    }
    return false;
}

/* The longest beginning of tokens[0, n) that a new row or the next request wants. */
static int32_t wanted(ht_batch *b, const int32_t *tokens, int32_t n)
{
    const ht_job *next = ht_batch_front(b);
    int32_t most = next ? common(tokens, n, next->prompt, next->n_prompt) : 0;

    for (int32_t i = 0; i < b->slots; i++) {
        const ht_row *row = &b->rows[i];
        int32_t m = is_new(row) ? common(tokens, n, row->tokens, row->n) : 0;
        if (m > most) most = m;
    }
    return most < WORTH ? 0 : most;
}

void ht_prefix_keep(ht_batch *b, const ht_row *row)
{
    ht_prefix *kept = &b->kept;
    int32_t n = wanted(b, row->tokens, row->computed);

    if (n <= wanted(b, kept->tokens, kept->n)) return;
    ht_prefix_drop(&b->engine->kv, kept);
    ht_kv_share(&b->engine->kv, &kept->table, &row->table, n);
    memcpy(kept->tokens, row->tokens, (size_t)n * sizeof(*kept->tokens));
    kept->n = n;
}

void ht_prefix_trim(ht_batch *b)
{
    b->kept.n = wanted(b, b->kept.tokens, b->kept.n);
    ht_kv_trim(&b->engine->kv, &b->kept.table, b->kept.n);
}
