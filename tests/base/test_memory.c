/* Allocation: overflow, the fail hook, counting, the guard, pages. */
#include "core/base/arith.h"
#include "core/base/memory.h"
#include "tests/support/fail.h"
#include "tests/support/harness.h"

#include <signal.h>

Test(memory, overflow_is_refused)
{
    cr_assert_null(ht_alloc(SIZE_MAX / 2, 3));
    cr_assert_null(ht_calloc(SIZE_MAX / 2, 3));
    cr_assert_null(ht_realloc(NULL, SIZE_MAX / 2, 3));
    cr_assert_null(ht_alloc_pages(SIZE_MAX));
    cr_assert_null(ht_alloc_pages(SIZE_MAX - 4096));
    void *p = ht_alloc(1, 8);
    cr_assert_null(ht_realloc(p, SIZE_MAX / 2, 3)); /* and p is still ours */
    ht_free(p);
    cr_assert_eq(ht_memory_get_stats().live, 0);
}

Test(memory, zero_sizes_give_pointers)
{
    void *p[] = {ht_alloc(0, 8), ht_calloc(8, 0), ht_realloc(NULL, 0, 0), ht_alloc_aligned(0, 64), ht_strdup("")};
    for (size_t i = 0; i < sizeof p / sizeof *p; i++) cr_assert_not_null(p[i], "%zu", i);
    cr_assert_eq(ht_memory_get_stats().live, 5);
    for (size_t i = 0; i < sizeof p / sizeof *p; i++) ht_free(p[i]);
    ht_free(NULL);
    cr_assert_eq(ht_memory_get_stats().live, 0);
}

Test(memory, alignment_and_zeroes)
{
    for (size_t align = sizeof(void *); align <= 4096; align *= 2) {
        void *p = ht_alloc_aligned(100, align);
        cr_assert_eq((uintptr_t)p % align, 0);
        ht_free(p);
    }
    unsigned char *z = ht_calloc(1000, 1);
    for (int i = 0; i < 1000; i++) cr_assert_eq(z[i], 0);
    ht_free(z);
}

Test(memory, strings)
{
    char *a = ht_strndup("hearth", 3), *b = ht_strndup("hearth", 100);
    cr_assert_str_eq(a, "hea");
    cr_assert_str_eq(b, "hearth");
    ht_free(a);
    ht_free(b);
}

Test(memory, pages)
{
    const size_t sizes[] = {1, 4096, 5000, (2u << 20) - 1, 2u << 20, (5u << 20) + 1};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        unsigned char *p = ht_alloc_pages(sizes[i]);
        cr_assert_not_null(p);
        cr_assert_eq((uintptr_t)p % (sizes[i] >= 2u << 20 ? 2u << 20 : 4096), 0, "%zu bytes", sizes[i]);
        cr_assert_eq(p[0] | p[sizes[i] / 2] | p[sizes[i] - 1], 0);
        p[0] = p[sizes[i] - 1] = 1;
        cr_assert_geq(ht_memory_get_stats().page_bytes, sizes[i]);
        ht_free_pages(p, sizes[i]);
        cr_assert_eq(ht_memory_get_stats().page_bytes, 0);
    }
    cr_assert_geq(ht_memory_get_stats().page_bytes_peak, (5u << 20) + 1);
    cr_assert_eq(ht_memory_get_stats().live, 0);
    void *empty = ht_alloc_pages(0);
    cr_assert_not_null(empty);
    ht_free_pages(empty, 0);
}

Test(memory, fail_hook_strikes_and_keeps_striking)
{
    ht_memory_fail_after(2);
    void *a = ht_alloc(1, 1), *b = ht_alloc_pages(1), *c = ht_alloc(1, 1), *d = ht_calloc(1, 1), *e = ht_realloc(a, 2, 1);
    char *f = ht_strdup("x");
    ht_memory_fail_after(-1);
    cr_assert(a && b && !c && !d && !e && !f);
    void *g = ht_alloc(1, 1);
    cr_assert_not_null(g);
    ht_free(g);
    ht_free(a);
    ht_free_pages(b, 1);
}

#ifndef HEARTH_DEBUG
Test(memory, guard_counts_allocations)
{
    void *before = ht_alloc(1, 1);
    ht_guard_enter();
    ht_guard_enter();
    ht_free(before); /* freeing is allowed */
    cr_assert_eq(ht_guard_violations(), 0);
    ht_guard_leave();
    ht_free(ht_alloc(1, 1));
    cr_assert_eq(ht_guard_violations(), 1, "the guard nests");
    ht_guard_leave();
    ht_free(ht_alloc(1, 1));
    cr_assert_eq(ht_guard_violations(), 1);
}
#else
Test(memory, guard_aborts, .signal = SIGABRT)
{
    ht_guard_enter();
    ht_free(ht_alloc(1, 1));
}
#endif

Test(arith, overflow_and_rounding)
{
    size_t s;
    int64_t v;
    cr_assert(ht_add_size(1, 2, &s) && s == 3);
    cr_assert_not(ht_add_size(SIZE_MAX, 1, &s));
    cr_assert_not(ht_mul_size(SIZE_MAX, 2, &s));
    cr_assert_not(ht_add_i64(INT64_MAX, 1, &v));
    cr_assert(ht_mul_i64(-3, 5, &v) && v == -15);
    cr_assert_not(ht_mul_i64(INT64_MIN, -1, &v));
    cr_assert_eq(ht_ceil_div(0, 4), 0);
    cr_assert_eq(ht_ceil_div(9, 4), 3);
    cr_assert_eq(ht_align_up(1, 64), 64);
    cr_assert_eq(ht_align_up(64, 64), 64);
}

/* The loop itself: it counts the failures, and it sees a leak. */
typedef struct three {
    void *p[3];
    int leak;
} three;

static int open_three(void *context, ht_error *err)
{
    three *t = context;
    for (int i = 0; i < 3; i++) {
        t->p[i] = ht_alloc(1, 1);
        if (t->p[i]) continue;
        while (i-- > t->leak) ht_free(t->p[i]);
        return ht_fail(err, -ENOMEM, "no memory for a piece");
    }
    return 0;
}

static void close_three(void *context)
{
    three *t = context;
    for (int i = 0; i < 3; i++) ht_free(t->p[i]);
}

Test(fail_loop, counts_failures)
{
    three t = {.leak = 0};
    cr_assert_eq(test_fail_each_allocation(open_three, close_three, &t), 3);
}

Test(fail_loop, sees_a_leak)
{
    three t = {.leak = 1};
    ht_error err = {0};
    ht_memory_fail_after(2);
    cr_assert_eq(open_three(&t, &err), -ENOMEM);
    ht_memory_fail_after(-1);
    cr_assert_eq(ht_memory_get_stats().live, 1, "the piece that the loop would complain of");
    ht_free(t.p[0]);
}
