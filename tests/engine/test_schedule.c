/* Order and width of a batch of requests: against brute force, and by the properties they are for. */
#include "tests/support/harness.h"

#include "core/base/random.h"
#include "core/engine/schedule.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static uint64_t draws;

static int32_t below(int32_t n) { return (int32_t)(n * ht_random_uniform(99, 0, draws++, 0)); }

/* ---- groups --------------------------------------------------------------------------------------------- */

enum { FEW = 12, SLOTS = 5 };

/* Pass by pass: the rows of a group that are not done yet. */
static double cost_of_group(const int32_t *length, const int32_t *member, int32_t n, const double *cost)
{
    double sum = 0;

    for (int32_t step = 0;; step++) {
        int32_t alive = 0;
        for (int32_t i = 0; i < n; i++) alive += length[member[i]] > step;
        if (!alive) return sum;
        sum += cost[alive];
    }
}

/* INFINITY: not allowed. */
static double cost_of_set(const int32_t *length, unsigned set, const ht_schedule_costs *c)
{
    int32_t member[FEW], n = 0;
    int64_t pages = 0;

    for (int32_t i = 0; i < FEW; i++)
        if (set >> i & 1) {
            member[n++] = i;
            if (c->pages) pages += c->pages[i];
        }
    if (n > c->slots || (n > 1 && c->pages && pages > c->room)) return INFINITY;
    return cost_of_group(length, member, n, c->cost);
}

/* The best way to cut n requests into any sets: every subset against every rest. */
static double try_all_sets(const int32_t *length, int32_t n, const ht_schedule_costs *c)
{
    static double single[1 << FEW], best[1 << FEW];
    unsigned all = (1u << n) - 1;

    for (unsigned set = 1; set <= all; set++) single[set] = cost_of_set(length, set, c);
    best[0] = 0;
    for (unsigned set = 1; set <= all; set++) {
        unsigned lowest = set & -set, rest = set ^ lowest;
        best[set] = INFINITY;
        for (unsigned with = rest;; with = (with - 1) & rest) {
            double cost = single[with | lowest] + best[rest ^ with];
            if (cost < best[set]) best[set] = cost;
            if (!with) break;
        }
    }
    return best[all];
}

/* The best way to cut the row of n requests at some of its n - 1 places. */
static double try_all_cuts(const int32_t *length, int32_t n, const ht_schedule_costs *c)
{
    double best = INFINITY;

    for (unsigned cuts = 0; cuts < 1u << (n - 1); cuts++) {
        double sum = 0;
        unsigned set = 0;
        for (int32_t i = 0; i < n; i++) {
            set |= 1u << i;
            if (i < n - 1 && !(cuts >> i & 1)) continue;
            sum += cost_of_set(length, set, c);
            set = 0;
        }
        if (sum < best) best = sum;
    }
    return best;
}

static int by_falling(const void *a, const void *b) { return *(const int32_t *)b - *(const int32_t *)a; }

/* The answer is also what its own groups cost. */
static double schedule(const int32_t *length, int32_t n, const ht_schedule_costs *c)
{
    double best[FEW + 1], sum = 0;
    int32_t from[FEW + 1];
    double cost = ht_schedule_groups(length, n, c, best, from);

    for (int32_t end = n; end > 0; end = from[end]) {
        cr_assert(from[end] >= 0 && from[end] < end && end - from[end] <= c->slots);
        unsigned set = ((1u << end) - 1) & ~((1u << from[end]) - 1);
        sum += cost_of_set(length, set, c);
    }
    cr_assert_float_eq(sum, cost, 1e-9 * cost);
    return cost;
}

Test(schedule, groups_equal_brute_force, .timeout = 120)
{
    for (int round = 0; round < 60; round++) {
        int32_t length[FEW], n = 1 + below(FEW);
        int64_t pages[FEW];
        double cost[SLOTS + 1] = {0};
        for (int32_t i = 0; i < n; i++) length[i] = 1 + (below(3) ? below(10) : below(60));
        qsort(length, (size_t)n, sizeof *length, by_falling);
        for (int32_t i = 0; i < n; i++) pages[i] = 1 + below(4);
        /* Any costs: no other cuts are better. */
        for (int32_t k = 1; k <= SLOTS; k++) cost[k] = cost[k - 1] * below(2) + 1 + below(20);
        ht_schedule_costs c = {cost, 1 + below(SLOTS), below(2) ? pages : NULL, 3 + below(8)};
        double got = schedule(length, n, &c), want = try_all_cuts(length, n, &c);
        cr_assert_float_eq(got, want, 1e-9 * want, "round %d: %g instead of %g", round, got, want);
        /* A charge for the pass and one for each row, as passes really cost: no other sets are better. */
        double pass = 1 + below(30), row = 0.1 * below(20);
        for (int32_t k = 1; k <= SLOTS; k++) cost[k] = pass + row * k;
        c.pages = NULL;
        got = schedule(length, n, &c);
        want = try_all_sets(length, n, &c);
        cr_assert_float_eq(got, want, 1e-9 * want, "round %d: %g instead of %g", round, got, want);
    }
}

/* Passes that cost in steps of eight columns: twenty slots are best filled with sixteen rows. With a charge for each row
 * all are taken. */
Test(schedule, width)
{
    enum { REQUESTS = 100, MANY_SLOTS = 20 };
    int32_t length[REQUESTS], from[REQUESTS + 1];
    double best[REQUESTS + 1], cost[MANY_SLOTS + 1] = {0}, passes[MANY_SLOTS + 1];
    const ht_schedule_costs c = {.cost = cost, .slots = MANY_SLOTS};

    for (int32_t i = 0; i < REQUESTS; i++) length[i] = 200 - i;
    for (int32_t k = 1; k <= MANY_SLOTS; k++) cost[k] = 0.5 + (k + 7) / 8;
    cr_assert_eq(ht_schedule_width(length, REQUESTS, &c, best, from, passes), 16);
    for (int32_t k = 1; k <= MANY_SLOTS; k++) cost[k] = 1 + 0.01 * ((k + 7) / 8);
    cr_assert_eq(ht_schedule_width(length, REQUESTS, &c, best, from, passes), MANY_SLOTS, "too little to win");
    for (int32_t k = 1; k <= MANY_SLOTS; k++) cost[k] = 3 + k;
    cr_assert_eq(ht_schedule_width(length, REQUESTS, &c, best, from, passes), MANY_SLOTS);
    cr_assert_eq(ht_schedule_width(length, 1, &c, best, from, passes), MANY_SLOTS);
}

/* ---- order ---------------------------------------------------------------------------------------------- */

enum { MANY = 200, LONG = 300 };

static int32_t text[MANY][LONG];
static ht_schedule_item items[MANY];
static int32_t order[MANY], scratch[7 * MANY];

static void run_order(int32_t n)
{
    bool seen[MANY] = {false};
    const ht_schedule_scratch s = {scratch, scratch + n, scratch + 2 * n, scratch + 3 * n, scratch + 5 * n};

    ht_schedule_order(items, n, order, &s);
    for (int32_t i = 0; i < n; i++) {
        cr_assert(order[i] >= 0 && order[i] < n && !seen[order[i]], "not a permutation");
        seen[order[i]] = true;
    }
}

Test(schedule, longest_first)
{
    for (int32_t i = 0; i < MANY; i++) {
        for (int32_t t = 0; t < 20; t++) text[i][t] = below(3); /* they do begin alike, a little */
        items[i] = (ht_schedule_item){text[i], 1 + below(20), 1 + below(50)};
    }
    run_order(MANY);
    for (int32_t i = 1; i < MANY; i++) cr_assert_leq(items[order[i]].expected, items[order[i - 1]].expected);
    run_order(1);
    run_order(0);
}

/* Documents with questions about each, behind a preamble that all share: documents stay together, the one with the
 * longest answer comes first, and so does the longest answer of each. */
Test(schedule, prefixes_stay_together)
{
    int32_t longest[10] = {0};

    for (int32_t i = 0; i < MANY; i++) {
        int32_t document = i % 10;
        for (int32_t t = 0; t < LONG; t++) text[i][t] = t < 70 ? 7 : t < 200 ? document + t : below(1000);
        items[i] = (ht_schedule_item){text[i], 250 + below(50), 1 + below(1000)};
        if (items[i].expected > longest[document]) longest[document] = items[i].expected;
    }
    run_order(MANY);
    bool seen[10] = {false};
    for (int32_t i = 0; i < MANY; i++) {
        int32_t document = order[i] % 10, before = i ? order[i - 1] % 10 : -1;
        if (document != before) {
            cr_assert(!seen[document], "a document was left and begun again");
            if (i) cr_assert_leq(longest[document], longest[before]);
            cr_assert_eq(items[order[i]].expected, longest[document]);
        } else {
            cr_assert_leq(items[order[i]].expected, items[order[i - 1]].expected);
        }
        seen[document] = true;
    }
}

/* Chains of prefixes as deep as they get, identical prompts: any shape is a permutation. */
Test(schedule, odd_shapes)
{
    static int32_t same[MANY * HT_SCHEDULE_SHARED];

    for (int32_t i = 0; i < MANY; i++) items[i] = (ht_schedule_item){same, 1 + i * HT_SCHEDULE_SHARED, 5};
    run_order(MANY);
    for (int32_t i = 0; i < MANY; i++) items[i] = (ht_schedule_item){same, 100, i % 7};
    run_order(MANY);
    for (int32_t i = 1; i < MANY; i++)
        cr_assert(items[order[i]].expected < items[order[i - 1]].expected || order[i] > order[i - 1]);
}
