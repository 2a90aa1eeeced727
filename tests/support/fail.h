/* The fail-the-Nth-allocation loop: whatever allocation fails, opening must fail cleanly. */
#ifndef HEARTH_TESTS_SUPPORT_FAIL_H
#define HEARTH_TESTS_SUPPORT_FAIL_H

#include "core/base/error.h"

#include <stdint.h>

/* Opens something into *context; 0 or positive on success, negative on failure, and then nothing is left open. */
typedef int test_open_fn(void *context, ht_error *err);
typedef void test_close_fn(void *context);

/* Calls open with the first, second, third ... allocation failing (and all after it), until it succeeds, then closes.
 * Asserts that each failure is negative, that it has a text, and that as many pieces and pages are alive after it as
 * before. Returns how many allocations were made to fail; the caller asserts that they are as many as it expects
 * (at least one, or the loop proved nothing). */
int64_t test_fail_each_allocation(test_open_fn *open, test_close_fn *close, void *context);

#endif
