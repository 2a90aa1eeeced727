/* Order and width of a batch of requests: see schedule.h. */
#include "core/engine/schedule.h"

#include <limits.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

enum { MOST_DEPTH = 32 }; /* of the tree of prefixes; deeper, branches stay as they are sorted */

int32_t ht_common_prefix(const int32_t *a, int32_t n_a, const int32_t *b, int32_t n_b)
{
    int32_t n = n_a < n_b ? n_a : n_b, i = 0;

    while (i < n && a[i] == b[i]) i++;
    return i;
}

/* ---- order ---------------------------------------------------------------------------------------------- */

typedef struct walk {
    const ht_schedule_item *items;
    int32_t *sorted;          /* item indices, by their tokens */
    int32_t *shared;          /* [i]: tokens that sorted[i] and sorted[i - 1] have in common */
    int32_t *longest, *begin; /* a stack of branches: longest member, first index into sorted */
    int32_t *out;
} walk;

static int compare_tokens(const ht_schedule_item *a, const ht_schedule_item *b)
{
    int32_t same = ht_common_prefix(a->tokens, a->n, b->tokens, b->n);

    if (same == a->n || same == b->n) return (a->n > b->n) - (a->n < b->n);
    return a->tokens[same] < b->tokens[same] ? -1 : 1;
}

/* Merge sort, from the bottom: stable, and without memory of its own. Returns where the result is. */
static int32_t *sort_by_tokens(const ht_schedule_item *items, int32_t n, int32_t *a, int32_t *b)
{
    for (int32_t i = 0; i < n; i++) a[i] = i;
    for (int64_t width = 1; width < n; width *= 2) {
        for (int64_t low = 0; low < n; low += 2 * width) {
            int64_t middle = low + width < n ? low + width : n, high = low + 2 * width < n ? low + 2 * width : n;
            int64_t i = low, j = middle;
            for (int64_t k = low; k < high; k++) {
                bool left = j >= high || (i < middle && compare_tokens(&items[a[i]], &items[a[j]]) <= 0);
                b[k] = left ? a[i++] : a[j++];
            }
        }
        int32_t *swap = a;
        a = b;
        b = swap;
    }
    return a;
}

/* The branches [0, n) on top of the stack: longest first, equals by the lowest index of an item. Shell sort. */
static void sort_branches(walk *w, int32_t at, int32_t n)
{
    int32_t *longest = w->longest + at, *begin = w->begin + at;
    int32_t gap = 1;

    while (gap < n / 3) gap = 3 * gap + 1;
    for (; gap > 0; gap /= 3)
        for (int32_t i = gap; i < n; i++) {
            int32_t l = longest[i], b = begin[i], k = i;
            for (; k >= gap && (longest[k - gap] < l ||
                                (longest[k - gap] == l && w->sorted[begin[k - gap]] > w->sorted[b])); k -= gap) {
                longest[k] = longest[k - gap];
                begin[k] = begin[k - gap];
            }
            longest[k] = l;
            begin[k] = b;
        }
}

/* The branch that begins at `low`: the items that share at least `limit` tokens with it. */
static int32_t branch_end(const walk *w, int32_t low, int32_t high, int32_t limit)
{
    int32_t i = low + 1;

    while (i < high && w->shared[i] >= limit) i++;
    return i;
}

/* sorted[low, high) into the order. The stack is free from `top` on: every level has two branches at least, so all
 * together are fewer than 2 n. */
static void walk_branches(walk *w, int32_t low, int32_t high, int32_t top, int depth)
{
    int32_t common = INT32_MAX, n = 0;

    if (high - low == 1) {
        *w->out++ = w->sorted[low];
        return;
    }
    for (int32_t i = low + 1; i < high; i++)
        if (w->shared[i] < common) common = w->shared[i];
    int32_t limit = depth < MOST_DEPTH && common < INT32_MAX - HT_SCHEDULE_SHARED ? common + HT_SCHEDULE_SHARED : INT32_MAX;
    for (int32_t i = low; i < high; n++) {
        int32_t end = branch_end(w, i, high, limit), longest = 0;
        w->begin[top + n] = i;
        for (; i < end; i++)
            if (w->items[w->sorted[i]].expected > longest) longest = w->items[w->sorted[i]].expected;
        w->longest[top + n] = longest;
    }
    sort_branches(w, top, n);
    for (int32_t k = 0; k < n; k++) {
        int32_t begin = w->begin[top + k];
        walk_branches(w, begin, branch_end(w, begin, high, limit), top + n, depth + 1);
    }
}

void ht_schedule_order(const ht_schedule_item *items, int32_t n, int32_t *order, const ht_schedule_scratch *scratch)
{
    walk w = {.items = items, .shared = scratch->shared, .longest = scratch->longest, .begin = scratch->begin, .out = order};

    if (n < 1) return;
    w.sorted = sort_by_tokens(items, n, scratch->sorted, scratch->spare);
    w.shared[0] = 0;
    for (int32_t i = 1; i < n; i++) {
        const ht_schedule_item *a = &items[w.sorted[i - 1]], *b = &items[w.sorted[i]];
        w.shared[i] = ht_common_prefix(a->tokens, a->n, b->tokens, b->n);
    }
    walk_branches(&w, 0, n, 0, 0);
}

/* ---- groups --------------------------------------------------------------------------------------------- */

double ht_schedule_groups(const int32_t *length, int32_t n, const ht_schedule_costs *c, double *best, int32_t *from)
{
    for (int32_t i = 1; i <= n; i++) best[i] = INFINITY;
    best[0] = 0;
    from[0] = 0;
    for (int32_t begin = 0; begin < n; begin++) {
        double cost = 0;
        int64_t pages = 0;
        for (int32_t k = 1; k <= c->slots && begin + k <= n; k++) {
            int32_t i = begin + k; /* one past the k-th member */
            if (c->pages) pages += c->pages[i - 1];
            if (k > 1 && c->pages && pages > c->room) break;
            /* The newcomer is the shortest: till its end, every pass has one row more. */
            cost += length[i - 1] * (c->cost[k] - (k > 1 ? c->cost[k - 1] : 0));
            if (best[begin] + cost < best[i]) {
                best[i] = best[begin] + cost;
                from[i] = begin;
            }
        }
    }
    return best[n];
}

int32_t ht_schedule_width(const int32_t *length, int32_t n, const ht_schedule_costs *c, double *best, int32_t *from,
                          double *passes)
{
    static const double worth_it = 0.95;
    double all = 0, grouped = ht_schedule_groups(length, n, c, best, from);
    int32_t width = c->slots;

    for (int32_t i = 0; i < n; i++) {
        int32_t k = i % c->slots + 1; /* groups of as many as there are slots, whatever their pages */
        all += length[i] * (c->cost[k] - (k > 1 ? c->cost[k - 1] : 0));
    }
    if (grouped > worth_it * all) return c->slots;
    for (int32_t k = 0; k <= c->slots; k++) passes[k] = 0;
    for (int32_t end = n; end > 0; end = from[end]) passes[end - from[end]] += length[from[end]];
    for (int32_t k = 1; k <= c->slots; k++)
        if (passes[k] > passes[width]) width = k;
    return width;
}
