/* The part of Criterion that the tests use. With HEARTH_HARNESS (ThreadSanitizer builds, machines without
 * Criterion) the same tests run in one process: include this header, never criterion.h, in tests. */
#ifndef HEARTH_TESTS_SUPPORT_HARNESS_H
#define HEARTH_TESTS_SUPPORT_HARNESS_H

#ifndef HEARTH_HARNESS
#include <criterion/criterion.h>
#else
#error "the in-process harness is not written yet"
#endif

#endif
