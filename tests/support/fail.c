/* The fail-the-Nth-allocation loop. */
#include "tests/support/fail.h"

#include "core/base/memory.h"
#include "tests/support/harness.h"

int64_t test_fail_each_allocation(test_open_fn *open, test_close_fn *close, void *context)
{
    enum { TOO_MANY = 100000 }; /* an open that fails for ever is broken */
    for (int64_t n = 0; n < TOO_MANY; n++) {
        ht_error err = {0};
        ht_memory_stats before = ht_memory_get_stats();
        ht_memory_fail_after(n);
        int rc = open(context, &err);
        ht_memory_fail_after(-1);
        if (rc >= 0) {
            close(context);
            ht_memory_stats after = ht_memory_get_stats();
            cr_assert_eq(after.live, before.live, "%lld pieces leak on success", (long long)(after.live - before.live));
            return n;
        }
        ht_memory_stats after = ht_memory_get_stats();
        cr_assert_neq(err.text[0], '\0', "allocation %lld fails: no error text", (long long)n);
        cr_assert_eq(after.live, before.live, "allocation %lld fails: %lld pieces leak (%s)", (long long)n,
                     (long long)(after.live - before.live), err.text);
        cr_assert_eq(after.page_bytes, before.page_bytes, "allocation %lld fails: pages leak (%s)", (long long)n, err.text);
    }
    cr_assert_fail("still failing after %d allocations", TOO_MANY);
    return -1;
}
