/* CUDA's execution model on one host thread: the threads of a block are fibers, barriers and warp collectives are
 * real rendezvous. Blocks run one after another. Several host threads may run kernels at once, each with a machine
 * of its own.
 *
 * The rules of the model are checked, not assumed: threads that wait at different barriers, a barrier after some
 * threads returned, a collective whose mask names an absent thread, deadlock, asynchronous copies nobody waited for.
 * A broken rule ends the kernel with an error that names it and the thread. Under ThreadSanitizer every thread is a
 * fiber of its own and only launches, barriers and __syncwarp order memory, so a missing barrier is a reported race
 * even where the result is right; under AddressSanitizer every access is checked. */
#ifndef HEARTH_GPU_EMU_EXEC_H
#define HEARTH_GPU_EMU_EXEC_H

#include "gpu/emu/fiber.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HT_EMU_MAX_THREADS 1024
#define HT_EMU_MAX_SHARED (227u << 10)
#define HT_EMU_WARP 32
#define HT_EMU_ASYNC_COPIES 64 /* cp.async in flight a thread */

typedef struct ht_emu_dim { unsigned x, y, z; } ht_emu_dim;

typedef enum ht_lane_state { HT_LANE_READY, HT_LANE_AT_BARRIER, HT_LANE_IN_WARP, HT_LANE_DONE } ht_lane_state;

typedef struct ht_async_copy { void *dst; const void *src; int bytes, group; } ht_async_copy;

/* One thread of the block that runs. */
typedef struct ht_emu_lane {
    ht_fiber fiber;
    ht_emu_dim thread;            /* threadIdx */
    unsigned index;               /* within the block */
    ht_lane_state state;
    int line, predicate;          /* of the barrier it waits at */
    unsigned mask;                /* of the collective it waits in */
    void *payload;
    int group, n_copies;          /* cp.async groups committed, copies in flight */
    ht_async_copy copies[HT_EMU_ASYNC_COPIES];
} ht_emu_lane;

/* What a kernel can see of the launch. */
typedef struct ht_emu_view {
    ht_emu_dim block, block_dim, grid_dim;
    void *shared;                 /* dynamic shared memory, exactly the launch's bytes, filled with NaN */
} ht_emu_view;

/* Initial-exec: reading threadIdx must be one load, not a call. */
extern __thread ht_emu_lane *ht_emu_self __attribute__((tls_model("initial-exec")));
extern __thread ht_emu_view ht_emu_view_ __attribute__((tls_model("initial-exec")));

typedef struct ht_emu_machine ht_emu_machine; /* owner: the thread that runs kernels on it */

typedef struct ht_emu_launch {
    const char *name;
    ht_emu_dim grid, block;
    size_t shared;
    void (*call)(void *closure);
    void *closure;
    int order;                    /* 0 forward, 1 reverse, 2 shuffled: of threads between barriers, and of blocks */
    uint32_t seed;
} ht_emu_launch;

/* -ENOMEM, -1 on failure. */
int ht_emu_machine_open(ht_emu_machine **out);
void ht_emu_machine_close(ht_emu_machine **m);
/* NULL: a launch that the hardware would take; else what is wrong with it. */
const char *ht_emu_launch_check(const ht_emu_launch *l);
/* Runs a kernel to its end: 0, or -1 with the broken rule in `text`. */
int ht_emu_run(ht_emu_machine *m, const ht_emu_launch *l, char *text, size_t text_bytes);

/* ---- called from inside kernels ---- */

/* __syncthreads at a source line; returns how many threads came with a predicate that is not 0. */
int ht_emu_barrier(int line, int predicate);
/* Rendezvous of the lanes in mask. Each brings a payload; the last to arrive runs fn on all of them ([lane], NULL
 * where the mask has no lane). `orders`: it also orders memory between the lanes (__syncwarp). */
void ht_emu_collective(unsigned mask, void *payload, void (*fn)(void *const *payloads), bool orders);
/* The kernel broke a rule: ends it. */
void ht_emu_broken(const char *rule) __attribute__((noreturn));

#ifdef __cplusplus
}
#endif
#endif
