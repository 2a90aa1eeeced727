/* CPU topology and the clock. */
#include "core/base/topology.h"

#include "core/base/memory.h"
#include "core/base/threads.h"

#include <numa.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

double ht_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int ht_numa_nodes(void)
{
    if (numa_available() < 0) return 1;
    struct bitmask *allowed = numa_get_mems_allowed();
    int nodes = allowed ? (int)numa_bitmask_weight(allowed) : 1;
    if (allowed) numa_bitmask_free(allowed);
    return nodes > 0 ? nodes : 1;
}

/* A container may be given two cores' worth of time on a machine of sixty-four: threads beyond the quota only get
 * each other throttled. */
static int cores_of_quota(void)
{
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "re");
    if (!f) return 0;
    long long quota = 0, period = 0;
    int n = fscanf(f, "%lld %lld", &quota, &period); /* "max 100000" where there is no quota */
    fclose(f);
    if (n != 2 || quota <= 0 || period <= 0) return 0;
    long long cores = (quota + period - 1) / period;
    return cores < CPU_SETSIZE ? (int)cores : CPU_SETSIZE;
}

int ht_cpu_allowed(void)
{
    cpu_set_t set;
    int cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    int quota = cores_of_quota();
    if (quota > 0 && quota < cores) cores = quota;
    return cores > 0 ? cores : 1;
}

/* 0 for a core's first hardware thread, 1 for the next ...: its place in the list of its siblings. */
static int hardware_thread(int cpu)
{
    char path[96];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    FILE *f = fopen(path, "re");
    if (!f) return 0;
    int place = 0, sibling;
    char separator;
    while (fscanf(f, "%d", &sibling) == 1 && sibling < cpu) { /* "0,64" or "0-1" */
        place++;
        if (fscanf(f, "%c", &separator) != 1) break;
    }
    fclose(f);
    return place;
}

typedef struct cpu_rank {
    int cpu, thread, turn, node; /* turn: how many of the same node and hardware thread come before */
} cpu_rank;

static int by_rank(const void *pa, const void *pb)
{
    const cpu_rank *a = pa, *b = pb;
    if (a->thread != b->thread) return a->thread - b->thread;
    if (a->turn != b->turn) return a->turn - b->turn;
    if (a->node != b->node) return a->node - b->node;
    return a->cpu - b->cpu;
}

int ht_cpu_order(int *cpus, int room)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return 0;
    int n = 0, has_numa = numa_available() >= 0;
    cpu_rank *ranks = ht_calloc(CPU_SETSIZE, sizeof *ranks);
    if (!ranks) return 0;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &set)) continue;
        cpu_rank r = {.cpu = cpu, .thread = hardware_thread(cpu), .node = has_numa ? numa_node_of_cpu(cpu) : 0};
        for (int i = 0; i < n; i++) r.turn += ranks[i].node == r.node && ranks[i].thread == r.thread;
        ranks[n++] = r;
    }
    qsort(ranks, (size_t)n, sizeof *ranks, by_rank);
    if (n > room) n = room;
    for (int i = 0; i < n; i++) cpus[i] = ranks[i].cpu;
    ht_free(ranks);
    return n;
}
