/* Which cores this process may use, in the order in which workers are pinned to them. */
#ifndef HEARTH_CORE_BASE_TOPOLOGY_H
#define HEARTH_CORE_BASE_TOPOLOGY_H

/* Writes at most `room` core numbers: one of each NUMA node in turn, a core's second hardware thread after all
 * first ones. Returns how many were written. */
int ht_cpu_order(int *cpus, int room);

#endif
