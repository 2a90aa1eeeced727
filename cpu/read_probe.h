/* The memory's speed, by itself: a plain streaming read by all threads over memory far larger than the caches. What
 * decoding is measured against.
 *
 * Some machines' memory changes its speed within seconds (neighbours on the same host), so a figure of before and after
 * says little about what was between. A probe stays open beside a measurement and takes a short sample now and then.
 */
#ifndef HEARTH_CPU_READ_PROBE_H
#define HEARTH_CPU_READ_PROBE_H

#include <stddef.h>

#include "core/base/error.h"

typedef struct ht_read_probe ht_read_probe;

/* Holds 1 GiB in huge pages (half of what memory is free, where that is less) and `threads` threads, asleep between
 * samples. Errors: -ENOMEM, also when that half is so little that caches could hold it; those of ht_pool_open. */
int ht_read_probe_open(ht_read_probe **out, int threads, ht_error *err);
void ht_read_probe_close(ht_read_probe **p);

/* Bytes/s of reading the next `bytes` of it, rounded to a few MiB; the whole at most. Samples follow each other through
 * the memory and around, so that none meets in a cache what it or a recent one left there. */
double ht_read_probe_sample(ht_read_probe *p, size_t bytes);

/* The median of `repeats` samples of the whole, by a probe opened for it. Negative errno on failure. */
double ht_measure_read_bandwidth(int threads, int repeats);

#endif
