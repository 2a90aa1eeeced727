/* The sampler: every filter against a brute-force statement of its rule, draws against their distribution, and the
 * promise that a draw depends on (seed, sequence, position) alone. */
#include "tests/support/harness.h"

#include "core/base/memory.h"
#include "core/base/random.h"
#include "core/engine/sampler.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { V = 50 };

static ht_sampler *open_sampler(ht_sampler_options o)
{
    ht_error err = {0};
    ht_sampler *s;
    cr_assert(ht_sampler_open(&s, V, &o, &err) == 0, "%s", err.text);
    return s;
}

static void random_logits(float *l, uint64_t seed, double spread)
{
    for (int i = 0; i < V; i++) l[i] = (float)(spread * ht_random_normal(seed, 1, (uint64_t)i, 0));
}

/* ---- brute force: which tokens survive, by sorting everything ------------------------------------------- */

typedef struct item { int id; double l, p, key; } item;

static int by_key(const void *a, const void *b)
{
    const item *x = a, *y = b;
    return x->key > y->key ? -1 : x->key < y->key ? 1 : x->id - y->id;
}

static void set_p(item *t, int n)
{
    double max = -INFINITY, sum = 0;
    for (int i = 0; i < n; i++) max = fmax(max, t[i].l);
    for (int i = 0; i < n; i++) sum += t[i].p = exp(t[i].l - max);
    for (int i = 0; i < n; i++) t[i].p /= sum;
}

static int cut(item *t, int n, double mass)
{
    double sum = 0;
    int kept = 0;
    qsort(t, (size_t)n, sizeof *t, by_key);
    while (kept < n && (kept == 0 || sum < mass)) sum += t[kept++].p;
    return kept;
}

static int survivors(const float *l, const ht_sampler_options *o, item *t)
{
    int n = V;
    for (int i = 0; i < V; i++) t[i] = (item){i, l[i], 0, l[i]};
    if (o->top_k) {
        qsort(t, (size_t)n, sizeof *t, by_key);
        if (o->top_k < n) n = o->top_k;
    }
    if (o->typical_p > 0 && o->typical_p < 1) {
        double h = 0;
        set_p(t, n);
        for (int i = 0; i < n; i++) h -= t[i].p * log(t[i].p);
        for (int i = 0; i < n; i++) t[i].key = (float)-fabs(-log(t[i].p) - h);
        n = cut(t, n, o->typical_p);
    }
    if (o->top_p > 0 && o->top_p < 1) {
        set_p(t, n);
        for (int i = 0; i < n; i++) t[i].key = t[i].l;
        n = cut(t, n, o->top_p);
    }
    if (o->min_p > 0) {
        double best = 0;
        int kept = 0;
        set_p(t, n);
        for (int i = 0; i < n; i++) best = fmax(best, t[i].p);
        for (int i = 0; i < n; i++)
            if (t[i].p >= o->min_p * best * (1 - 1e-12)) t[kept++] = t[i];
        n = kept;
    }
    return n;
}

/* Draws at many positions; counts by token. */
static void count_draws(ht_sampler *s, const float *l, int n, int32_t *count)
{
    static int32_t none[1 << 17];
    memset(count, 0, V * sizeof *count);
    for (int i = 0; i < n; i++) {
        int32_t id = ht_sampler_draw(s, l, none, i, 3, NULL);
        cr_assert(id >= 0 && id < V);
        count[id]++;
    }
}

/* Chi-square of the counts against softmax(l / T) over the survivors: the limit is 5 standard deviations of its own
 * distribution above the mean, and the seed is fixed. */
static void check_distribution(ht_sampler_options o, uint64_t seed, double spread)
{
    enum { DRAWS = 20000 };
    float l[V];
    item t[V];
    int32_t count[V];
    double sum = 0, chi = 0, in_bins = 0;
    int degrees = -1, drawn = 0;

    random_logits(l, seed, spread);
    int n = survivors(l, &o, t);
    ht_sampler *s = open_sampler(o);
    count_draws(s, l, DRAWS, count);
    for (int i = 0; i < n; i++) sum += t[i].p = exp(t[i].l / o.temperature);
    for (int i = 0; i < n; i++) {
        double want = DRAWS * t[i].p / sum;
        drawn += count[t[i].id];
        if (want < 5) continue; /* too rare for the statistic: together in the last bin */
        chi += (count[t[i].id] - want) * (count[t[i].id] - want) / want;
        in_bins += want;
        degrees++;
    }
    cr_assert_eq(drawn, DRAWS, "seed %lu: %d draws of tokens that should have been cut", (unsigned long)seed,
                 DRAWS - drawn);
    cr_assert(in_bins > 0.8 * DRAWS);
    if (degrees > 0)
        cr_assert(chi < degrees + 5 * sqrt(2.0 * degrees) + 5, "seed %lu: chi-square %g of %d degrees",
                  (unsigned long)seed, chi, degrees);
    ht_sampler_close(&s);
}

Test(sampler, draws_follow_the_distribution)
{
    for (uint64_t seed = 0; seed < 5; seed++) {
        check_distribution((ht_sampler_options){.temperature = 1, .seed = seed}, seed, 1.5);
        check_distribution((ht_sampler_options){.temperature = 0.5f, .seed = seed}, seed, 1.5);
        check_distribution((ht_sampler_options){.temperature = 2, .seed = seed}, seed, 1.5);
    }
}

Test(sampler, filters_match_brute_force)
{
    for (uint64_t seed = 0; seed < 8; seed++) {
        double spread = 0.3 + 0.5 * (double)seed;
        ht_sampler_options base = {.temperature = 1.5f, .seed = seed}, o;
        o = base, o.top_k = 1 + (int32_t)seed * 5, check_distribution(o, seed, spread);
        o = base, o.top_k = V + 5, check_distribution(o, seed, spread);
        o = base, o.top_p = 0.1f + 0.1f * (float)seed, check_distribution(o, seed, spread);
        o = base, o.typical_p = 0.1f + 0.1f * (float)seed, check_distribution(o, seed, spread);
        o = base, o.min_p = 0.02f + 0.05f * (float)seed, check_distribution(o, seed, spread);
        o = base, o.top_k = 30, o.typical_p = 0.9f, o.top_p = 0.8f, o.min_p = 0.05f, check_distribution(o, seed, spread);
    }
}

/* Which tokens can come, exactly: not by chance, but by reading what the filters left. */
Test(sampler, survivors_are_exact)
{
    for (uint64_t seed = 0; seed < 300; seed++) {
        float l[V];
        item t[V];
        bool in[V] = {false};
        ht_sampler_options o = {.temperature = 1, .seed = seed};
        random_logits(l, seed, 0.2 + (double)(seed % 7));
        if (seed % 3 == 0) for (int i = 0; i < V; i += 2) l[i] = l[(i * 7) % V]; /* equals */
        if (seed & 1) o.top_k = 1 + (int32_t)(seed % 60);
        if (seed & 2) o.typical_p = 0.05f + 0.9f * (float)ht_random_uniform(seed, 2, 0, 0);
        if (seed & 4) o.top_p = 0.05f + 0.9f * (float)ht_random_uniform(seed, 2, 1, 0);
        if (seed & 8) o.min_p = 0.5f * (float)ht_random_uniform(seed, 2, 2, 0);
        int n = survivors(l, &o, t), k = 0;
        for (int i = 0; i < n; i++) in[t[i].id] = true;
        /* at a huge temperature all survivors are about equally likely */
        o.temperature = 1e6f;
        ht_sampler *s = open_sampler(o);
        int32_t count[V];
        count_draws(s, l, 60 * V, count);
        for (int i = 0; i < V; i++) {
            k += in[i];
            cr_assert_eq(count[i] > 0, in[i], "seed %lu: token %d drawn %d times, survives: %d", (unsigned long)seed, i,
                         count[i], in[i]);
        }
        cr_assert_eq(k, n);
        ht_sampler_close(&s);
    }
}

Test(sampler, greedy_takes_the_highest_and_the_lowest_id_of_equals)
{
    float l[V];
    ht_sampler *s = open_sampler((ht_sampler_options){.top_k = 3, .top_p = 0.1f});
    random_logits(l, 1, 1);
    l[30] = l[40] = 9;
    cr_assert_eq(ht_sampler_draw(s, l, NULL, 0, 0, NULL), 30);
    l[30] = NAN;
    cr_assert_eq(ht_sampler_draw(s, l, NULL, 0, 0, NULL), 40);
    ht_sampler_close(&s);
}

Test(sampler, draws_depend_on_seed_sequence_and_position_alone)
{
    float l[V];
    int32_t tokens[64] = {0}, first[64];
    ht_sampler *s = open_sampler((ht_sampler_options){.temperature = 1, .seed = 5});
    ht_sampler *other = open_sampler((ht_sampler_options){.temperature = 1, .seed = 6});
    random_logits(l, 3, 1);
    for (int32_t i = 0; i < 64; i++) first[i] = ht_sampler_draw(s, l, tokens, i, 8, NULL);
    int same_seed = 0, same_sequence = 0;
    for (int32_t i = 63; i >= 0; i--) { /* another order, other draws between */
        ht_sampler_draw(s, l, tokens, 7, 1, NULL);
        cr_assert_eq(ht_sampler_draw(s, l, tokens, i, 8, NULL), first[i]);
        same_seed += ht_sampler_draw(other, l, tokens, i, 8, NULL) == first[i];
        same_sequence += ht_sampler_draw(s, l, tokens, i, 9, NULL) == first[i];
    }
    cr_assert(same_seed < 32 && same_sequence < 32);
    ht_sampler_close(&s);
    ht_sampler_close(&other);
}

Test(sampler, penalties)
{
    float l[V] = {0};
    int32_t tokens[6] = {3, 4, 4, 5, 4, 5};
    l[3] = 5, l[4] = 4, l[5] = 3, l[6] = 1.5f, l[7] = -1;
    ht_sampler *s = open_sampler((ht_sampler_options){.frequency_penalty = 1});
    cr_assert_eq(ht_sampler_draw(s, l, tokens, 6, 0, NULL), 3); /* 4, 1, 1, 1.5 */
    ht_sampler_close(&s);
    s = open_sampler((ht_sampler_options){.repeat_penalty = 4});
    cr_assert_eq(ht_sampler_draw(s, l, tokens, 6, 0, NULL), 6); /* 1.25, 1, 0.75, 1.5 */
    ht_sampler_close(&s);
    s = open_sampler((ht_sampler_options){.presence_penalty = 2, .penalty_last_n = 5});
    cr_assert_eq(ht_sampler_draw(s, l, tokens, 6, 0, NULL), 3); /* 3 is out of the window */
    cr_assert_eq(ht_sampler_draw(s, l, tokens, 3, 0, NULL), 3); /* 3, 2, 3: equals, the lowest id */
    ht_sampler_close(&s);
    s = open_sampler((ht_sampler_options){.presence_penalty = 6, .penalty_last_n = -1});
    cr_assert_eq(ht_sampler_draw(s, l, tokens, 6, 0, NULL), 6);
    cr_assert_eq(ht_sampler_draw(s, l, tokens, 0, 0, NULL), 3);
    ht_sampler_close(&s);
    /* a negative logit is made more negative */
    for (int i = 0; i < V; i++) l[i] = -3;
    l[2] = -1, l[8] = -1.5f;
    tokens[0] = 2;
    s = open_sampler((ht_sampler_options){.repeat_penalty = 2});
    cr_assert_eq(ht_sampler_draw(s, l, tokens, 1, 0, NULL), 8);
    ht_sampler_close(&s);
}

Test(sampler, bias_forces_and_bans)
{
    float l[V];
    random_logits(l, 4, 1);
    l[9] = 20;
    ht_logit_bias ban[] = {{9, -INFINITY}, {11, 30}};
    ht_sampler *s = open_sampler((ht_sampler_options){.logit_bias = ban, .n_logit_bias = 1, .temperature = 1});
    for (int32_t i = 0; i < 200; i++) cr_assert_neq(ht_sampler_draw(s, l, (int32_t[200]){0}, i, 0, NULL), 9);
    ht_sampler_close(&s);
    s = open_sampler((ht_sampler_options){.logit_bias = ban, .n_logit_bias = 2, .temperature = 0.1f, .top_p = 0.9f});
    cr_assert_eq(ht_sampler_draw(s, l, NULL, 0, 0, NULL), 11);
    ht_sampler_close(&s);
    ban[0].bias = INFINITY;
    s = open_sampler((ht_sampler_options){.logit_bias = ban, .n_logit_bias = 2, .temperature = 1, .typical_p = 0.5f});
    cr_assert_eq(ht_sampler_draw(s, l, NULL, 0, 0, NULL), 9);
    ht_sampler_close(&s);
}

Test(sampler, logprobs_are_of_the_model)
{
    float l[V];
    double sum = 0;
    ht_sampled d;
    int32_t tokens[1] = {0};
    ht_logit_bias bias = {17, 100};
    random_logits(l, 6, 2);
    for (int i = 0; i < V; i++) sum += exp(l[i]);
    ht_sampler *s = open_sampler((ht_sampler_options){
        .logit_bias = &bias, .n_logit_bias = 1, .repeat_penalty = 2, .temperature = 3, .logprobs = 20});
    cr_assert_eq(ht_sampler_draw(s, l, tokens, 1, 0, &d), 17);
    cr_assert_eq(d.id, 17);
    cr_assert_float_eq(d.logprob, l[17] - log(sum), 1e-5);
    cr_assert_eq(d.n_top, 20);
    for (int i = 0; i < 20; i++) {
        int higher = 0;
        for (int k = 0; k < V; k++) higher += l[k] > l[d.top[i].id];
        cr_assert_eq(higher, i);
        cr_assert_float_eq(d.top[i].logprob, l[d.top[i].id] - log(sum), 1e-5);
    }
    ht_sampler_close(&s);
}

Test(sampler, logits_that_are_no_numbers)
{
    float l[V];
    ht_sampled d;
    for (int i = 0; i < V; i++) l[i] = NAN;
    ht_sampler *s = open_sampler((ht_sampler_options){.temperature = 1, .top_k = 5, .logprobs = 3});
    cr_assert_eq(ht_sampler_draw(s, l, NULL, 0, 0, &d), -ERANGE);
    for (int i = 0; i < V; i++) l[i] = -INFINITY;
    cr_assert_eq(ht_sampler_draw(s, l, NULL, 0, 0, &d), -ERANGE);
    l[7] = -FLT_MAX;
    cr_assert_eq(ht_sampler_draw(s, l, NULL, 0, 0, &d), 7);
    l[8] = INFINITY;
    cr_assert_eq(ht_sampler_draw(s, l, NULL, 0, 0, NULL), 8);
    ht_sampler_close(&s);
}

Test(sampler, options_out_of_range)
{
    const ht_sampler_options bad[] = {
        {.temperature = -1}, {.temperature = NAN}, {.top_k = -1}, {.top_p = -0.1f}, {.min_p = 1.5f}, {.typical_p = NAN},
        {.repeat_penalty = -1}, {.penalty_last_n = -2}, {.logprobs = 21}, {.logprobs = -1},
        {.logit_bias = &(ht_logit_bias){V, 1}, .n_logit_bias = 1}, {.logit_bias = &(ht_logit_bias){-1, 1}, .n_logit_bias = 1},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ht_error err = {0};
        ht_sampler *s;
        cr_assert_eq(ht_sampler_open(&s, V, &bad[i], &err), -EINVAL, "case %zu", i);
        cr_assert(s == NULL && err.text[0]);
    }
}

Test(sampler, failing_allocations)
{
    uint64_t live = ht_memory_get_stats().live;
    int r = -ENOMEM;
    int64_t n = 0;
    for (; r < 0 && n < 50; n++) {
        ht_error err = {0};
        ht_sampler *s;
        ht_memory_fail_after(n);
        r = ht_sampler_open(&s, V, &(ht_sampler_options){0}, &err);
        ht_memory_fail_after(-1);
        ht_sampler_close(&s);
        cr_assert_eq(ht_memory_get_stats().live, live);
    }
    cr_assert(r == 0 && n > 5);
}
