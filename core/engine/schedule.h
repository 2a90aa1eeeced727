/* In which order requests begin, and how many of them run side by side: pure functions of lengths and costs.
 *
 * A pass costs something however many rows it has, so the work is cheapest when all slots are busy till the end. Two
 * things keep them from it: long requests that are begun late (the last ones then run alone), and prefixes that are
 * computed again because the requests that share them are far apart. The order avoids both.
 */
#ifndef HEARTH_CORE_ENGINE_SCHEDULE_H
#define HEARTH_CORE_ENGINE_SCHEDULE_H

#include <stdint.h>

/* Requests that share this many tokens more than their neighbours do are kept together. */
#define HT_SCHEDULE_SHARED 64

typedef struct ht_schedule_item {
    const int32_t *tokens;   /* [n]: the prompt */
    int32_t n;
    int32_t expected;        /* tokens it will likely generate */
} ht_schedule_item;

/* What ordering n items needs. */
typedef struct ht_schedule_scratch {
    int32_t *sorted, *spare, *shared;   /* [n] */
    int32_t *longest, *begin;           /* [2 n] */
} ht_schedule_scratch;

/* order[0, n) = indices of the items in the order in which to begin them: the tree of their common prefixes is walked
 * depth first, and among the branches of a node the one with the longest request in it comes first. Without common
 * prefixes that is longest first. Equals stay in the order of their indices. */
void ht_schedule_order(const ht_schedule_item *items, int32_t n, int32_t *order, const ht_schedule_scratch *scratch);

/* Tokens that two have in common at their beginning. */
int32_t ht_common_prefix(const int32_t *a, int32_t n_a, const int32_t *b, int32_t n_b);

/* Cuts requests into groups whose members run side by side, each till its own end, one group after the other, at the
 * lowest cost. length[0, n) falls; cost[k], k in 1..slots, is what a pass with k rows costs; a group has at most `slots`
 * members, and at most `room` pages (pages[i] of each; one member is always allowed). Dynamic programming over the cuts:
 * best[i] = min over k of best[i - k] + cost of the k requests before i. Returns the cost; from[i] = where the group
 * that ends before i begins (i in 1..n; follow it from n). best, from: [n + 1]; pages NULL: no limit. */
typedef struct ht_schedule_costs { const double *cost; int32_t slots; const int64_t *pages; int64_t room; } ht_schedule_costs;
double ht_schedule_groups(const int32_t *length, int32_t n, const ht_schedule_costs *costs, double *best, int32_t *from);

/* How many rows to run side by side, 1..slots: as many as the groups of the cheapest cut mostly have, by the passes they
 * take. Rows that end are replaced at once, so groups are not waited for: with every slot refilled in this order, no
 * request begins later than its group would. All slots are taken when that costs at most a twentieth more: costs are
 * measured, and narrow is slow to mend. passes: [slots + 1], scratch. */
int32_t ht_schedule_width(const int32_t *length, int32_t n, const ht_schedule_costs *costs, double *best, int32_t *from,
                          double *passes);

#endif
