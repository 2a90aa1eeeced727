/* The host backend: the ops port on the CPU's cores. */
#ifndef HEARTH_CPU_HOST_H
#define HEARTH_CPU_HOST_H

#include "core/base/threads.h"
#include "core/ports/ops.h"
#include "cpu/kernels.h"

typedef struct ht_host_options {
    ht_ops_limits limits;
    ht_pool *pool;     /* borrowed; outlives the backend */
    ht_isa isa;
} ht_host_options;

/* Allocates all scratch that any step within the limits can need. Closed by (*out)->ops->close. */
int ht_host_open(ht_backend **out, const ht_host_options *options, ht_error *err);

/* Which types' matrices the backend multiplies faster woven into tiles (core/model/tiles.h); it reads both. */
void ht_host_woven_types(ht_isa isa, ht_act_mode act, bool out[HT_TYPE_COUNT]);

#endif
