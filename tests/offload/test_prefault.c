/* Memory touched ahead: it is there when the wait ends, it is still zero, and ending early is allowed. */
#include "offload/prefault.h"

#include "core/base/memory.h"
#include "tests/support/harness.h"

#include <sys/mman.h>
#include <unistd.h>

enum { MIB = 1 << 20 };

static bool is_resident(const uint8_t *at)
{
    unsigned char in = 0;
    return mincore((void *)((uintptr_t)at & ~((uintptr_t)sysconf(_SC_PAGESIZE) - 1)), 1, &in) == 0 && (in & 1);
}

Test(prefault, pages_are_there_after_the_wait)
{
    const size_t bytes = 100 * (size_t)MIB + 4096; /* the last step is a short one */
    uint8_t *p = ht_alloc_pages(bytes);
    cr_assert(p);
    ht_prefault *f = ht_prefault_begin(p, bytes);
    if (!f) cr_skip_test("this kernel has no MADV_POPULATE_WRITE");
    for (size_t upto = 1; upto <= bytes; upto += 7 * (size_t)MIB) {
        ht_prefault_wait(f, upto);
        cr_assert(is_resident(p + upto - 1), "byte %zu", upto - 1);
    }
    ht_prefault_wait(f, bytes + 12345); /* past the end means the end */
    cr_assert(is_resident(p + bytes - 1));
    for (size_t i = 0; i < bytes; i += 4096) cr_assert(p[i] == 0, "byte %zu was written", i);
    ht_prefault_end(f);
    ht_free_pages(p, bytes);
}

Test(prefault, may_end_early)
{
    const size_t bytes = 64 * (size_t)MIB;
    for (int i = 0; i < 8; i++) {
        uint8_t *p = ht_alloc_pages(bytes);
        cr_assert(p);
        ht_prefault_end(ht_prefault_begin(p, bytes));
        ht_free_pages(p, bytes);
    }
}

Test(prefault, small_memory_and_failures_mean_none)
{
    uint8_t *p = ht_alloc_pages(64 * (size_t)MIB);
    cr_assert(p);
    cr_assert(!ht_prefault_begin(p, MIB));
    ht_memory_fail_after(0);
    cr_assert(!ht_prefault_begin(p, 64 * (size_t)MIB));
    ht_memory_fail_after(-1);
    ht_prefault_wait(NULL, 1);
    ht_prefault_end(NULL);
    ht_free_pages(p, 64 * (size_t)MIB);
}
