/* The arena planner: items are placed one by one, each at the lowest place that is free while it lives (the gap that fits
 * best; Pisarchyk and Lee, "Efficient memory management for deep neural net inference", 2020). The order decides how good
 * that is: large first is good mostly, so several orders are tried, and then exchanges, till the bound is reached.
 */
#include "core/engine/arena.h"

#include "core/base/arith.h"

#include <stdbool.h>
#include <string.h>

enum { EXCHANGES = 2000 };

static bool live_together(const ht_arena_item *a, const ht_arena_item *b)
{
    return a->first <= b->last && b->first <= a->last;
}

size_t ht_arena_bound(const ht_arena_item *items, int32_t n, size_t align)
{
    size_t most = 0;

    for (int32_t i = 0; i < n; i++) { /* the fullest step is one in which somebody begins */
        size_t sum = 0;
        for (int32_t k = 0; k < n; k++)
            if (items[k].first <= items[i].first && items[i].first <= items[k].last) sum += ht_align_up(items[k].bytes, align);
        if (sum > most) most = sum;
    }
    return most;
}

/* The lowest end of the smallest gap between placed items that live with it. placed: by offset. */
static size_t best_gap(const ht_arena_item *item, ht_arena_item *const *placed, int32_t n, size_t bytes)
{
    size_t end = 0, best = SIZE_MAX, at = SIZE_MAX;

    for (int32_t i = 0; i < n; i++) {
        if (!live_together(item, placed[i])) continue;
        size_t gap = placed[i]->offset > end ? placed[i]->offset - end : 0;
        if (gap >= bytes && gap < best) {
            best = gap;
            at = end;
        }
        size_t after = placed[i]->offset + placed[i]->bytes;
        if (after > end) end = after;
    }
    return at == SIZE_MAX ? end : at;
}

/* Items hold aligned sizes here. */
static size_t place(ht_arena_item *items, const int32_t *order, int32_t n)
{
    ht_arena_item *placed[HT_ARENA_MOST];
    size_t total = 0;

    for (int32_t i = 0; i < n; i++) {
        ht_arena_item *item = &items[order[i]];
        item->offset = best_gap(item, placed, i, item->bytes);
        if (item->offset + item->bytes > total) total = item->offset + item->bytes;
        int32_t at = i;
        for (; at > 0 && placed[at - 1]->offset > item->offset; at--) placed[at] = placed[at - 1];
        placed[at] = item;
    }
    return total;
}

typedef enum measure { BY_BYTES, BY_TIME, BY_AREA, BY_BEGIN, MEASURES } measure;

static double rank(const ht_arena_item *item, measure by)
{
    double time = (double)item->last - item->first + 1;

    switch (by) {
    case BY_TIME: return time;
    case BY_AREA: return time * (double)item->bytes;
    case BY_BEGIN: return -(double)item->first;
    default: return (double)item->bytes;
    }
}

static void sort(const ht_arena_item *items, int32_t *order, int32_t n, measure by)
{
    for (int32_t i = 0; i < n; i++) {
        int32_t at = i;
        for (; at > 0 && rank(&items[order[at - 1]], by) < rank(&items[i], by); at--) order[at] = order[at - 1];
        order[at] = i;
    }
}

size_t ht_arena_plan(ht_arena_item *items, int32_t n, size_t align)
{
    ht_arena_item work[HT_ARENA_MOST];
    int32_t order[HT_ARENA_MOST], best_order[HT_ARENA_MOST];
    size_t bound = ht_arena_bound(items, n, align), best = SIZE_MAX;
    uint32_t random = 1;

    for (int32_t i = 0; i < n; i++) {
        work[i] = items[i];
        work[i].bytes = ht_align_up(items[i].bytes, align);
    }
    for (int tries = 0; tries < MEASURES + EXCHANGES && best > bound; tries++) {
        if (tries < MEASURES) {
            sort(work, order, n, (measure)tries);
        } else { /* two items change places in the best order yet */
            memcpy(order, best_order, sizeof(order));
            random = random * 1664525u + 1013904223u;
            int32_t a = (int32_t)((random >> 8) % (uint32_t)n);
            random = random * 1664525u + 1013904223u;
            int32_t b = (int32_t)((random >> 8) % (uint32_t)n);
            order[a] = best_order[b];
            order[b] = best_order[a];
        }
        size_t total = place(work, order, n);
        if (total > best || (total == best && tries < MEASURES)) continue;
        best = total;
        memcpy(best_order, order, sizeof(order));
        for (int32_t i = 0; i < n; i++) items[i].offset = work[i].offset;
    }
    return n ? best : 0;
}
