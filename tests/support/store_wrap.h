/* The fake store in place of the one in RAM, everywhere: see store_wrap.c. */
#ifndef HEARTH_TESTS_SUPPORT_STORE_WRAP_H
#define HEARTH_TESTS_SUPPORT_STORE_WRAP_H

#include <stdbool.h>

/* Whether this run of the tests wants it. */
bool test_store_is_fake(void);

#endif
