/* Guessing by looking back, and the decision whether to. */
#include "tests/support/fail.h"
#include "tests/support/harness.h"

#include "core/base/memory.h"
#include "core/base/random.h"
#include "core/engine/lookup.h"
#include "core/engine/speculate.h"

#include <math.h>
#include <string.h>

enum { CAPACITY = 600, MOST = 15 };

static int32_t below(int32_t n, uint64_t at) { return (int32_t)(n * ht_random_uniform(31, 0, at, 0)); }

/* ---- the index ------------------------------------------------------------------------------------------ */

/* The longest match among all earlier places, the latest of equals: what the index finds while it looks at them all. */
static int32_t guess_naively(const int32_t *t, int32_t n, int32_t *match)
{
    int32_t best = 0, from = 0;

    for (int32_t place = n - 1; place >= HT_LOOKUP_GRAM; place--) {
        int32_t m = 0;
        while (m < place && m < 32 && t[place - 1 - m] == t[n - 1 - m]) m++;
        if (m >= HT_LOOKUP_GRAM && m > best) {
            best = m;
            from = place;
        }
    }
    *match = best;
    return from;
}

/* Few different tokens, with repetitions; the sequence grows by uneven steps. */
Test(lookup, finds_the_longest_match)
{
    int32_t t[CAPACITY], found = 0;
    ht_error err = {0};
    ht_lookup l;

    cr_assert(ht_lookup_open(&l, CAPACITY, &err) == 0, "%s", err.text);
    for (uint64_t round = 0; round < 20; round++) {
        ht_lookup_reset(&l);
        for (int32_t i = 0; i < CAPACITY; i++)
            t[i] = i > 100 && below(40, round * 10000 + (uint64_t)i) ? t[i - 90] : below(30, round * 7777 + (uint64_t)i);
        for (int32_t n = 0; n <= CAPACITY; n += 1 + below(3, (uint64_t)n + round)) {
            int32_t out[MOST], match, want_match, from = guess_naively(t, n, &want_match);
            int32_t got = ht_lookup_guess(&l, t, n, MOST, out, &match);
            cr_assert_eq(got, from ? MOST : 0, "round %d, %d tokens", (int)round, n);
            cr_assert_eq(match, want_match);
            for (int32_t i = 0; i < got; i++) cr_assert_eq(out[i], from + i < n ? t[from + i] : out[from + i - n]);
            found += got > 0;
        }
    }
    cr_assert_gt(found, 1000);
    ht_lookup_close(&l);
}

Test(lookup, a_short_period_goes_round)
{
    const int32_t t[] = {9, 1, 2, 3, 1, 2, 3, 1, 2};
    int32_t out[7], match;
    ht_lookup l;

    cr_assert(ht_lookup_open(&l, 9, NULL) == 0);
    cr_assert_eq(ht_lookup_guess(&l, t, 9, 7, out, &match), 7);
    for (int i = 0; i < 7; i++) cr_assert_eq(out[i], (i + 2) % 3 + 1);
    cr_assert_eq(match, 5);
    cr_assert_eq(ht_lookup_guess(&l, t, 9, 0, out, &match), 0);
    ht_lookup_close(&l);
}

static int open_lookup(void *context, ht_error *err) { return ht_lookup_open(context, 100, err); }
static void close_lookup(void *context) { ht_lookup_close(context); }

Test(lookup, any_allocation_may_fail)
{
    ht_lookup l;

    cr_assert_eq(test_fail_each_allocation(open_lookup, close_lookup, &l), 2);
}

/* ---- costs ---------------------------------------------------------------------------------------------- */

Test(cost, lines_through_what_was_measured)
{
    ht_cost c = {.point = {{0}}};

    cr_assert_eq(ht_cost_of(&c, 5), 0);
    ht_cost_add(&c, 1, 17);
    cr_assert_float_eq(ht_cost_of(&c, 1), 17, 1e-9);
    cr_assert_float_eq(ht_cost_of(&c, 8), 24, 1e-9, "a pass costs as much as 16 columns");
    ht_cost_add(&c, 5, 25);
    cr_assert_float_eq(ht_cost_of(&c, 3), 21, 1e-9);
    cr_assert_float_eq(ht_cost_of(&c, 7), 29, 1e-9);
    for (int i = 0; i < 50; i++) ht_cost_add(&c, 5, 33); /* the machine has become slower */
    cr_assert_float_eq(ht_cost_of(&c, 5), 33, 0.1);
    for (int32_t n = 100; n < 100000; n += n / 7) {
        ht_cost line = {.point = {{0}}};
        for (int32_t k = 16; k < 200000; k += k / 5) ht_cost_add(&line, k, 10 + k);
        cr_assert_float_eq(ht_cost_of(&line, n), 10 + n, 0.02 * n);
    }
}

/* ---- the decision --------------------------------------------------------------------------------------- */

typedef struct world { double one, column, odds; uint64_t draws; } world; /* costs, and how often a guess is right */

/* Generates `tokens` tokens in invented time, with a guess at hand every time. Returns the time it took. */
static double live(const world *w, int32_t tokens, ht_speculator *s)
{
    ht_cost cost = {.point = {{0}}};
    double time = 0;

    for (int32_t n = 0; n < tokens;) {
        double one = ht_cost_of(&cost, 1);
        int32_t k = ht_speculate(s, &cost, 1, one, 3, 7), right = 0;
        double took = w->one + k * w->column;
        while (right < k && ht_random_uniform(8, 0, w->draws + (uint64_t)(n + right), 0) < w->odds) right++;
        ht_cost_add(&cost, 1 + k, took);
        s->seconds += took;
        time += took;
        if (k) ht_speculate_learn(s, &cost, 1, one, 3, k, right);
        n += 1 + right;
    }
    return time;
}

/* Never more than two hundredths lost, whatever columns cost and however bad the guesses are; and what there is to win is
 * won. */
Test(speculate, wins_or_stops)
{
    static const double column[] = {0.02, 0.1, 0.3, 0.7, 1}, odds[] = {0, 0.1, 0.3, 0.6, 0.9, 0.99};

    for (size_t i = 0; i < sizeof column / sizeof *column; i++)
        for (size_t k = 0; k < sizeof odds / sizeof *odds; k++) {
            const world w = {1, column[i], odds[k], 1000 * (i * 10 + k)};
            ht_speculator s = {.mode = HT_SPECULATE_AUTO};
            double time = live(&w, 1000, &s), best = 1000, p = 1, expected = 1;
            for (int n = 1; n <= 7; n++) { /* always the same number of guesses */
                p *= odds[k];
                expected += p;
                if (1000 * (1 + n * column[i]) / expected < best) best = 1000 * (1 + n * column[i]) / expected;
            }
            cr_assert_leq(time, 1020, "a column costs %g, guesses are right %g: %g", column[i], odds[k], time);
            cr_assert_leq(time, 1.15 * best + 20, "a column costs %g, guesses are right %g: %g, best %g", column[i],
                          odds[k], time, best);
        }
}

Test(speculate, modes)
{
    ht_cost cost = {.point = {{0}}};
    ht_speculator always = {.mode = HT_SPECULATE_ALWAYS}, never = {.mode = HT_SPECULATE_NEVER}, automatic = {.mode = 0};

    cr_assert_eq(ht_speculate(&automatic, &cost, 1, 0, 32, 7), 0, "nothing is known yet");
    cr_assert_eq(ht_speculate(&always, &cost, 1, 0, 3, 7), 7);
    ht_cost_add(&cost, 1, 1);
    cr_assert_eq(ht_speculate(&never, &cost, 1, 1, 32, 7), 0);
    cr_assert_gt(ht_speculate(&automatic, &cost, 1, 1, 32, 7), 3);
}
