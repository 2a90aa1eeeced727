/* The pool: every item once, whatever the shape; visibility; failure; sleeping workers; too many workers. */
#include "core/base/arith.h"
#include "core/base/memory.h"
#include "core/base/threads.h"
#include "core/base/topology.h"
#include "tests/support/fail.h"
#include "tests/support/harness.h"

#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct tally {
    int32_t *count; /* [n] */
    int64_t n, chunk;
    int threads;
    _Atomic int bad, calls;
} tally;

static void add_one(void *context, int64_t begin, int64_t end, int thread)
{
    tally *t = context;
    if (begin < 0 || end > t->n || begin >= end || thread < 0 || thread >= t->threads) t->bad++;
    if (t->threads > 1 && end - begin > t->chunk) t->bad++;
    for (int64_t i = begin; i < end; i++) t->count[i]++; /* plain: ThreadSanitizer watches */
    t->calls++;
}

static ht_pool *open_pool(int threads, uint32_t jitter)
{
    ht_pool *pool = NULL;
    ht_error err = {0};
    cr_assert_eq(ht_pool_open(&pool, &(ht_pool_options){.threads = threads, .jitter = jitter}, &err), 0, "%s", err.text);
    return pool;
}

static void add_some(void *context, int64_t begin, int64_t end, int thread)
{
    tally *t = context;
    if (begin < 0 || end > t->n || begin >= end || thread < 0 || thread >= t->threads) t->bad++;
    for (int64_t i = begin; i < end; i++) t->count[i]++;
    t->calls++;
}

/* Ranges that shrink, between jobs of chunks: a late worker may meet either. */
static void check_shrinking(int threads, uint32_t jitter)
{
    ht_pool *pool = open_pool(threads, jitter);
    tally t = {.threads = ht_pool_threads(pool), .chunk = 3};
    for (int64_t n = 0; n < (jitter ? 60 : 400); n += 1 + n / 3) {
        t.n = n;
        t.calls = 0;
        t.count = calloc((size_t)n + 1, sizeof *t.count);
        ht_pool_for_shrinking(pool, n, add_some, &t);
        if (t.threads > 1 && n > 200) cr_assert(t.calls > t.threads && t.calls < n / 3, "%d calls", (int)t.calls);
        ht_pool_for(pool, n, t.chunk, add_one, &t);
        for (int64_t i = 0; i < n; i++) cr_assert_eq(t.count[i], 2, "n %ld", (long)n);
        free(t.count);
    }
    cr_assert_eq(t.bad, 0);
    ht_pool_close(&pool);
}

Test(threads, shrinking_ranges_cover_every_item_once)
{
    for (int threads = 1; threads <= 5; threads++) check_shrinking(threads, 0);
    check_shrinking(3, 7);
}

static void check_all_shapes(int threads, uint32_t jitter)
{
    static const int64_t sizes[] = {0, 1, 2, 3, 63, 64, 65, 1000, 4099}, chunks[] = {1, 2, 7, 64, 5000};
    ht_pool *pool = open_pool(threads, jitter);
    tally t = {.threads = ht_pool_threads(pool)};
    for (size_t a = 0; a < sizeof sizes / sizeof *sizes; a++) {
        for (size_t b = 0; b < sizeof chunks / sizeof *chunks; b++) {
            if (jitter && sizes[a] / chunks[b] > 100) continue;
            t.n = sizes[a];
            t.chunk = chunks[b];
            t.calls = 0;
            t.count = calloc((size_t)t.n + 1, sizeof *t.count);
            ht_pool_for(pool, t.n, t.chunk, add_one, &t);
            for (int64_t i = 0; i < t.n; i++) cr_assert_eq(t.count[i], 1, "n %ld chunk %ld", (long)t.n, (long)t.chunk);
            if (t.threads > 1) cr_assert_eq(t.calls, ht_ceil_div(t.n, t.chunk));
            free(t.count);
        }
    }
    cr_assert_eq(t.bad, 0);
    ht_pool_close(&pool);
    cr_assert_null(pool);
}

Test(threads, every_item_once)
{
    static const int threads[] = {0, 1, 2, 3, 8, 33};
    for (size_t i = 0; i < sizeof threads / sizeof *threads; i++) check_all_shapes(threads[i], 0);
}

Test(threads, every_item_once_with_jitter)
{
    for (uint32_t seed = 1; seed <= 5; seed++) check_all_shapes(4, seed);
}

/* Jobs of different functions and contexts back to back: a worker that comes late must not run an old one. */
Test(threads, jobs_follow_each_other)
{
    enum { JOBS = 20000, N = 6 };
    ht_pool *pool = open_pool(4, 0);
    static int32_t count[2][N];
    tally t[2] = {{.count = count[0], .n = N, .chunk = 1, .threads = 4}, {.count = count[1], .n = N, .chunk = 2, .threads = 4}};
    for (int i = 0; i < JOBS; i++) ht_pool_for(pool, N, t[i % 2].chunk, add_one, &t[i % 2]);
    for (int i = 0; i < N; i++) cr_assert(count[0][i] == JOBS / 2 && count[1][i] == JOBS / 2);
    cr_assert_eq(t[0].bad + t[1].bad, 0);
    ht_pool_close(&pool);
}

Test(threads, sleeping_workers_wake)
{
    ht_pool *pool = NULL;
    cr_assert_eq(ht_pool_open(&pool, &(ht_pool_options){.threads = 3, .spin_us = 1}, NULL), 0);
    static int32_t count[100];
    tally t = {.count = count, .n = 100, .chunk = 1, .threads = 3};
    for (int i = 0; i < 50; i++) {
        usleep(1000);
        ht_pool_for(pool, t.n, t.chunk, add_one, &t);
    }
    for (int i = 0; i < 100; i++) cr_assert_eq(count[i], 50);
    usleep(2000);
    ht_pool_close(&pool); /* closing wakes sleepers too */
}

/* Two threads at once meet; one alone gives up after a while (a worker may rest). */
static void meet(void *context, int64_t begin, int64_t end, int thread)
{
    (void)begin, (void)end, (void)thread;
    _Atomic int *arrived = context;
    ++*arrived;
    for (double until = ht_now() + 0.1; *arrived < 2 && ht_now() < until;) sched_yield();
}

Test(threads, two_chunks_run_at_once, .timeout = 60)
{
    ht_pool *pool = open_pool(2, 0);
    int met = 0;
    for (int i = 0; i < 100 && !met; i++) {
        _Atomic int arrived = 0;
        double start = ht_now();
        ht_pool_for(pool, 2, 1, meet, &arrived);
        cr_assert_eq(arrived, 2);
        met = ht_now() - start < 0.1;
    }
    cr_assert(met, "each of 100 jobs was done by one thread after the other");
    ht_pool_close(&pool);
}

/* ---- workers without a core --------------------------------------------------------------------------------- */

typedef struct sleeper { _Atomic int by_others; _Atomic bool sleeps; } sleeper;

/* Whoever is not the caller sleeps with its chunk in hand, as if a busy process had its core. */
static void sleep_or_spin(void *context, int64_t begin, int64_t end, int thread)
{
    sleeper *s = context;
    (void)begin, (void)end;
    if (thread != 0) {
        s->by_others++;
        if (s->sleeps) usleep(4000);
    }
    for (double until = ht_now() + 20e-6; ht_now() < until;) {}
}

Test(threads, a_worker_without_a_core_rests_and_comes_back, .timeout = 120)
{
    if (ht_cpu_allowed() < 2) cr_skip_test("one core");
    ht_pool *pool = open_pool(2, 0);
    sleeper s = {.sleeps = true};
    int jobs = 0;
    for (double until = ht_now() + 30; ht_now() < until; jobs++) { /* ends with a job that the caller did alone */
        s.by_others = 0;
        ht_pool_for(pool, 64, 1, sleep_or_spin, &s);
        if (s.by_others == 0 && jobs > 0) break;
    }
    cr_expect_eq(s.by_others, 0, "it still held up the last of %d jobs", jobs);
    s.sleeps = false;
    for (double until = ht_now() + 30; s.by_others == 0 && ht_now() < until;)
        ht_pool_for(pool, 64, 1, sleep_or_spin, &s);
    cr_expect_gt(s.by_others, 0, "it never came back");
    ht_pool_close(&pool);
}

/* Closing wakes those who rest. */
Test(threads, a_resting_worker_is_closed, .timeout = 60)
{
    if (ht_cpu_allowed() < 2) cr_skip_test("one core");
    ht_pool *pool = open_pool(2, 0);
    sleeper s = {.sleeps = true};
    for (int i = 0; i < 4; i++) ht_pool_for(pool, 64, 1, sleep_or_spin, &s);
    ht_pool_close(&pool);
}

Test(threads, pinning_is_undone)
{
    cpu_set_t before, after;
    CPU_ZERO(&before);
    CPU_ZERO(&after);
    cr_assert_eq(sched_getaffinity(0, sizeof before, &before), 0);
    ht_pool *pool = NULL;
    cr_assert_eq(ht_pool_open(&pool, &(ht_pool_options){.pin = true}, NULL), 0);
    static int32_t count[1000];
    tally t = {.count = count, .n = 1000, .chunk = 3, .threads = ht_pool_threads(pool)};
    ht_pool_for(pool, t.n, t.chunk, add_one, &t);
    for (int i = 0; i < 1000; i++) cr_assert_eq(count[i], 1);
    ht_pool_close(&pool);
    cr_assert_eq(sched_getaffinity(0, sizeof after, &after), 0);
    cr_assert(CPU_EQUAL(&before, &after));
}

Test(threads, bad_counts_are_refused)
{
    ht_pool *pool = NULL;
    ht_error err = {0};
    cr_assert_eq(ht_pool_open(&pool, &(ht_pool_options){.threads = -1}, &err), -EINVAL);
    cr_assert_eq(ht_pool_open(&pool, &(ht_pool_options){.threads = 1025}, &err), -EINVAL);
    cr_assert_null(pool);
    ht_pool_close(&pool);
}

static int open_small(void *context, ht_error *err)
{
    return ht_pool_open(context, &(ht_pool_options){.threads = 2, .pin = true}, err);
}

static void close_small(void *context)
{
    ht_pool_close(context);
}

Test(threads, every_allocation_may_fail)
{
    ht_pool *pool;
    cr_assert_geq(test_fail_each_allocation(open_small, close_small, &pool), 2);
}

Test(topology, is_plausible)
{
    cr_assert(ht_cpu_allowed() >= 1 && ht_cpu_allowed() <= CPU_SETSIZE);
    cr_assert(ht_numa_nodes() >= 1);
    double a = ht_now(), b = ht_now();
    cr_assert(b >= a && b - a < 10);
}
