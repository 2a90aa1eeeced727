/* Philox against the published known-answer vectors, and the two distributions. */
#include "core/base/random.h"
#include "tests/support/harness.h"

#include <math.h>
#include <string.h>

Test(random, philox_known_answers)
{
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        uint32_t out[4];
        ht_philox(known[i].counter, known[i].key, out);
        cr_assert_eq(memcmp(out, known[i].out, sizeof out), 0, "vector %zu", i);
    }
}

Test(random, uniform_is_uniform_and_pure)
{
    enum { N = 100000, BINS = 20 };
    int bins[BINS] = {0};
    for (int i = 0; i < N; i++) {
        double u = ht_random_uniform(42, 7, (uint64_t)i, 0);
        cr_assert(u >= 0.0 && u < 1.0);
        cr_assert_eq(u, ht_random_uniform(42, 7, (uint64_t)i, 0));
        bins[(int)(u * BINS)]++;
    }
    double chi2 = 0;
    for (int i = 0; i < BINS; i++) chi2 += pow(bins[i] - (double)N / BINS, 2) / ((double)N / BINS);
    cr_assert_lt(chi2, 50.0, "19 degrees of freedom: 50 is p = 0.0001, and the seed is fixed");
}

Test(random, every_argument_matters)
{
    double u = ht_random_uniform(1, 2, 3, 4);
    const double others[] = {
        ht_random_uniform(2, 2, 3, 4),      ht_random_uniform(1, 3, 3, 4),      ht_random_uniform(1, 2, 4, 4),
        ht_random_uniform(1, 2, 3, 5),      ht_random_uniform(1ull << 40, 2, 3, 4), ht_random_uniform(1, 2ull << 40, 3, 4),
        ht_random_uniform(1, 2, 3 + (1ull << 40), 4),
    };
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) cr_assert_neq(u, others[i], "%zu", i);
}

Test(random, normal_has_its_moments)
{
    enum { N = 200000 };
    double sum = 0, sum2 = 0, sum4 = 0;
    for (int i = 0; i < N; i++) {
        double x = ht_random_normal(9, 1, (uint64_t)i, 0);
        cr_assert(isfinite(x));
        sum += x;
        sum2 += x * x;
        sum4 += x * x * x * x;
    }
    cr_assert_float_eq(sum / N, 0.0, 0.01);
    cr_assert_float_eq(sum2 / N, 1.0, 0.02);
    cr_assert_float_eq(sum4 / N, 3.0, 0.1);
}
