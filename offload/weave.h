/* Weaving resident matrices into tiles (core/model/tiles.h), in place, after they were loaded. */
#ifndef HEARTH_OFFLOAD_WEAVE_H
#define HEARTH_OFFLOAD_WEAVE_H

#include "core/base/threads.h"
#include "core/ports/resident.h"

/* Weaves the matrices of `types` [HT_TYPE_COUNT] that have whole tiles, in memory that may be written, on the pool's threads;
 * the views say which. Not those that are looked up row by row alone. -ENOMEM: nothing was woven. */
int ht_weave(ht_resident *views, const bool *types, ht_pool *pool, ht_error *err);

#endif
