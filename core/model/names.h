/* An index over names by open addressing, with duplicates found. Inside of core/model. */
#ifndef HEARTH_CORE_MODEL_NAMES_H
#define HEARTH_CORE_MODEL_NAMES_H

#include "core/base/error.h"

#include <stdint.h>

#define HT_NAMES_MAX (1u << 30) /* bound of n */

/* *out (owned by the caller, ht_free) has mask + 1 slots of index + 1, 0 empty. -EEXIST: names[*duplicate] is not
 * the first of its name. -ENOMEM. */
int ht_names_index(char *const *names, uint32_t n, uint32_t **out, uint32_t *out_mask, uint32_t *duplicate);

#endif
