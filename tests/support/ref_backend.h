/* A backend in plain C, one naive loop an operation: what the ops port means, and what the engine is tested on
 * without cpu/. Any weight type with a reference conversion, activations in F32, KV in F32 or F16.
 *
 * The two numeric classes differ on purpose (the order of every dot product), so that a token computed in the wrong
 * class shows in its bits. begin() checks the step against the port's rules and fails with -EINVAL if one is broken.
 */
#ifndef HEARTH_TESTS_SUPPORT_REF_BACKEND_H
#define HEARTH_TESTS_SUPPORT_REF_BACKEND_H

#include "core/ports/ops.h"

typedef struct ht_ref_counts { int64_t steps, columns, block_columns, widest; } ht_ref_counts;

int ht_ref_backend_open(ht_backend **out, const ht_ops_limits *limits, ht_error *err);
ht_ref_counts ht_ref_backend_counts(const ht_backend *b);
/* The n-th sync from now on fails with -EIO; 0: none. */
void ht_ref_backend_fail_sync(ht_backend *b, int64_t n);
/* Called in every operation `embed` (once a pass, after begin): a place for tests to interfere. NULL: none. */
void ht_ref_backend_on_pass(ht_backend *b, void (*fn)(void *user), void *user);

#endif
