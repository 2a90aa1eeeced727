/* A pool of worker threads that spins for a while, then sleeps. The caller is worker 0.
 *
 * The pool decides who computes what, never what is computed: a task's result must not depend on the number of
 * threads or on the chunks it got (the numeric contract, docs/architecture.md). Task functions write disjoint memory.
 */
#ifndef HEARTH_CORE_BASE_THREADS_H
#define HEARTH_CORE_BASE_THREADS_H

#include "core/base/error.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct ht_pool ht_pool;

typedef struct ht_pool_options {
    int threads;      /* workers including the caller; 0: one per core in the affinity mask of the process */
    int spin_us;      /* how long an idle worker spins before it sleeps; 0: default (measured, see threads.c) */
    bool pin;         /* pin worker i to the i-th allowed core, spread over NUMA nodes */
    uint32_t jitter;  /* tests: seed of random delays before every chunk; 0: none */
} ht_pool_options;

/* Errors: -EINVAL (threads out of 0..1024), -ENOMEM, -EAGAIN (the system refused a thread). */
int ht_pool_open(ht_pool **out, const ht_pool_options *options, ht_error *err);
void ht_pool_close(ht_pool **pool);
int ht_pool_threads(const ht_pool *pool);

/* Runs fn(context, begin, end, thread) over [0, n) in chunks of at most `chunk` items; chunks are handed out
 * dynamically, so a slow core takes fewer. `thread` is in [0, threads) and is a key to per-thread scratch only.
 * Returns when all are done; everything written by the tasks is visible to the caller. Not reentrant; one caller
 * at a time. With one thread, or n <= chunk, it is a plain call. */
typedef void ht_range_fn(void *context, int64_t begin, int64_t end, int thread);
void ht_pool_for(ht_pool *pool, int64_t n, int64_t chunk, ht_range_fn *fn, void *context);

/* The same in ranges of any length that get shorter towards the end, down to one item: for many small items that are
 * better done by the dozen. */
void ht_pool_for_shrinking(ht_pool *pool, int64_t n, ht_range_fn *fn, void *context);

/* CPU topology, read once: how many NUMA nodes and cores this process may use. */
int ht_cpu_allowed(void);
int ht_numa_nodes(void);

/* Monotonic seconds. */
double ht_now(void);

#endif
