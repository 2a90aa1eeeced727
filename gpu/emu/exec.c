/* The block scheduler of the emulated GPU. Compiled without ThreadSanitizer: the scheduler is not the kernel. */
#include "gpu/emu/exec.h"

#include "core/base/memory.h"
#include "gpu/emu/sanitize.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define STACK_BYTES ((size_t)128 << 10)
#define GUARD_BYTES ((size_t)4096)

struct ht_emu_machine {
    ht_fiber home;                        /* the host thread itself */
    ht_emu_lane *lanes;                   /* [HT_EMU_MAX_THREADS] */
    char *stacks;                         /* one mapping: a guard page and a stack a lane */
    char *shared;                         /* [HT_EMU_MAX_SHARED], the launch's dynamic shared memory at its start */
    const ht_emu_launch *launch;
    unsigned n;                           /* threads of the block */
    unsigned cursor;                      /* next place in `order` to look for a lane that can run */
    uint16_t order[HT_EMU_MAX_THREADS];
    unsigned ran;                         /* lanes that ran in this sweep */
    int barrier_sum;
    bool broken;
    char *text;                           /* borrowed from the caller of run */
    size_t text_bytes;
    /* Addresses that stand for points of order in ThreadSanitizer's eyes. */
    char started, ended, arrived, released, warp[HT_EMU_MAX_THREADS / HT_EMU_WARP];
    char parked; /* where lanes stand that are abandoned when a rule is broken */
};

__thread ht_emu_lane *ht_emu_self;
__thread ht_emu_view ht_emu_view_;
static __thread ht_emu_machine *machine_; /* of the kernel that this thread runs */

/* ---- machine --------------------------------------------------------------------------------------------- */

int ht_emu_machine_open(ht_emu_machine **out)
{
    ht_emu_machine *m = ht_calloc(1, sizeof *m);
    if (!m) return -ENOMEM;
    m->lanes = ht_calloc(HT_EMU_MAX_THREADS, sizeof *m->lanes);
    /* Not from core/base/memory.h: stacks need guard pages between them, and are committed only where used. */
    m->stacks = mmap(NULL, HT_EMU_MAX_THREADS * (STACK_BYTES + GUARD_BYTES), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (m->stacks == MAP_FAILED) m->stacks = NULL;
    m->shared = ht_alloc_aligned(HT_EMU_MAX_SHARED, 128);
    if (!m->lanes || !m->stacks || !m->shared) {
        ht_emu_machine_close(&m);
        return -ENOMEM;
    }
    for (unsigned i = 0; i < HT_EMU_MAX_THREADS; i++) {
        char *guard = m->stacks + i * (STACK_BYTES + GUARD_BYTES);
        mprotect(guard, GUARD_BYTES, PROT_NONE);
        m->lanes[i].fiber.stack = guard + GUARD_BYTES;
        m->lanes[i].fiber.stack_bytes = STACK_BYTES;
    }
    *out = m;
    return 0;
}

void ht_emu_machine_close(ht_emu_machine **machine)
{
    ht_emu_machine *m = *machine;
    if (!m) return;
    for (unsigned i = 0; m->lanes && i < HT_EMU_MAX_THREADS; i++) ht_fiber_drop(&m->lanes[i].fiber);
    if (m->stacks) munmap(m->stacks, HT_EMU_MAX_THREADS * (STACK_BYTES + GUARD_BYTES));
    ht_free(m->shared);
    ht_free(m->lanes);
    ht_free(m);
    *machine = NULL;
}

/* ---- switching ------------------------------------------------------------------------------------------- */

/* The next lane of this sweep that can run, or the host thread at the end of the sweep. */
static ht_fiber *next(ht_emu_machine *m)
{
    while (m->cursor < m->n) {
        ht_emu_lane *lane = &m->lanes[m->order[m->cursor++]];
        if (lane->state != HT_LANE_READY) continue;
        m->ran++;
        ht_emu_self = lane;
        return &lane->fiber;
    }
    ht_emu_self = NULL;
    return &m->home;
}

static void yield(ht_emu_machine *m, ht_emu_lane *self)
{
    ht_fiber *to = next(m);
    HT_TSAN_RELEASE(&m->parked);
    if (to != &self->fiber) ht_fiber_switch(&self->fiber, to, &m->home);
}

static void lane_main(void)
{
    ht_emu_machine *m = machine_;
    ht_emu_lane *self = ht_emu_self;

    ht_fiber_entered(&self->fiber, &m->home);
    HT_TSAN_ACQUIRE(&m->started);
    m->launch->call(m->launch->closure);
    if (self->n_copies) ht_emu_broken("a thread returns with cp.async in flight");
    HT_TSAN_RELEASE(&m->ended);
    self->state = HT_LANE_DONE;
    ht_fiber_leave(&self->fiber, next(m));
}

void ht_emu_broken(const char *rule)
{
    ht_emu_machine *m = machine_;
    ht_emu_lane *self = ht_emu_self;

    if (!m->broken && m->text_bytes)
        snprintf(m->text, m->text_bytes, "kernel %s, block (%u, %u, %u), thread (%u, %u, %u): %s", m->launch->name,
                 ht_emu_view_.block.x, ht_emu_view_.block.y, ht_emu_view_.block.z, self->thread.x, self->thread.y,
                 self->thread.z, rule);
    m->broken = true;
    ht_emu_self = NULL;
    HT_TSAN_RELEASE(&m->parked);
    ht_fiber_leave(&self->fiber, &m->home); /* the other lanes are abandoned where they stand */
}

/* ---- rendezvous ------------------------------------------------------------------------------------------ */

int ht_emu_barrier(int line, int predicate)
{
    ht_emu_machine *m = machine_;
    ht_emu_lane *self = ht_emu_self;

    self->line = line;
    self->predicate = predicate;
    self->state = HT_LANE_AT_BARRIER;
    HT_TSAN_RELEASE(&m->arrived);
    yield(m, self);
    HT_TSAN_ACQUIRE(&m->released);
    return m->barrier_sum;
}

void ht_emu_collective(unsigned mask, void *payload, void (*fn)(void *const *payloads), bool orders)
{
    ht_emu_machine *m = machine_;
    ht_emu_lane *self = ht_emu_self;
    unsigned warp = self->index / HT_EMU_WARP, first = warp * HT_EMU_WARP;
    void *payloads[HT_EMU_WARP];
    bool complete = true;

    if (!(mask >> (self->index % HT_EMU_WARP) & 1)) ht_emu_broken("a thread outside the mask of its own collective");
    self->mask = mask;
    self->payload = payload;
    self->state = HT_LANE_IN_WARP;
    if (orders) HT_TSAN_RELEASE(&m->warp[warp]);
    for (unsigned i = 0; i < HT_EMU_WARP; i++) {
        payloads[i] = NULL;
        if (!(mask >> i & 1)) continue;
        if (first + i >= m->n) ht_emu_broken("the mask of a collective names a thread that the block does not have");
        ht_emu_lane *lane = &m->lanes[first + i];
        if (lane->state == HT_LANE_DONE) ht_emu_broken("the mask of a collective names a thread that has returned");
        if (lane->state == HT_LANE_IN_WARP && lane->mask != mask)
            ht_emu_broken("threads of a warp are in collectives of different masks");
        complete &= lane->state == HT_LANE_IN_WARP;
        payloads[i] = lane->payload;
    }
    if (!complete) {
        yield(m, self);
    } else {
        fn(payloads);
        for (unsigned i = 0; i < HT_EMU_WARP; i++)
            if (mask >> i & 1) m->lanes[first + i].state = HT_LANE_READY;
    }
    if (orders) HT_TSAN_ACQUIRE(&m->warp[warp]);
}

/* ---- blocks ---------------------------------------------------------------------------------------------- */

static void prepare_block(ht_emu_machine *m)
{
    const ht_emu_dim b = m->launch->block;

    for (unsigned t = 0; t < m->n; t++) {
        ht_emu_lane *lane = &m->lanes[t];
        lane->index = t;
        lane->thread = (ht_emu_dim){t % b.x, t / b.x % b.y, t / (b.x * b.y)};
        lane->state = HT_LANE_READY;
        lane->group = lane->n_copies = 0;
        ht_fiber_prepare(&lane->fiber, lane_main);
    }
    HT_TSAN_RELEASE(&m->started);
}

static int broken_block(ht_emu_machine *m, const ht_emu_lane *lane, const char *rule)
{
    snprintf(m->text, m->text_bytes, "kernel %s, block (%u, %u, %u), thread (%u, %u, %u): %s", m->launch->name,
             ht_emu_view_.block.x, ht_emu_view_.block.y, ht_emu_view_.block.z, lane->thread.x, lane->thread.y,
             lane->thread.z, rule);
    return -1;
}

/* After a sweep in which every lane ran as far as it could: opens the barrier if all have come. 1: the block is
 * done, 0: on with the next sweep, -1: a rule is broken. */
static int settle(ht_emu_machine *m)
{
    const ht_emu_lane *waiting = NULL, *in_warp = NULL;
    unsigned live = 0, at_barrier = 0, ready = 0;
    int sum = 0;

    for (unsigned t = 0; t < m->n; t++) {
        const ht_emu_lane *lane = &m->lanes[t];
        if (lane->state == HT_LANE_DONE) continue;
        live++;
        if (lane->state == HT_LANE_READY) ready++;
        if (lane->state == HT_LANE_IN_WARP) in_warp = lane;
        if (lane->state != HT_LANE_AT_BARRIER) continue;
        if (waiting && waiting->line != lane->line)
            return broken_block(m, lane, "threads of a block wait at different __syncthreads");
        waiting = lane;
        at_barrier++;
        sum += lane->predicate != 0;
    }
    if (!live) return 1;
    if (waiting && live != m->n) return broken_block(m, waiting, "__syncthreads after some threads have returned");
    if (at_barrier == live) {
        m->barrier_sum = sum;
        HT_TSAN_ACQUIRE(&m->arrived);
        HT_TSAN_RELEASE(&m->released);
        for (unsigned t = 0; t < m->n; t++) m->lanes[t].state = HT_LANE_READY;
        return 0;
    }
    if (!ready && !m->ran) return broken_block(m, in_warp, "deadlock: a warp collective waits for a thread that "
                                                           "never comes");
    return 0;
}

static int run_block(ht_emu_machine *m)
{
    int done = 0;

    prepare_block(m);
    while (!done) {
        m->cursor = m->ran = 0;
        ht_fiber *to = next(m);
        if (to != &m->home) ht_fiber_switch(&m->home, to, &m->home);
        done = m->broken ? -1 : settle(m);
    }
    HT_TSAN_ACQUIRE(&m->ended);
    if (done < 0) HT_TSAN_ACQUIRE(&m->parked);
    return done < 0 ? -1 : 0;
}

/* ---- launches -------------------------------------------------------------------------------------------- */

const char *ht_emu_launch_check(const ht_emu_launch *l)
{
    uint64_t threads = (uint64_t)l->block.x * l->block.y * l->block.z;

    if (!l->grid.x || !l->grid.y || !l->grid.z) return "an empty grid";
    if (!threads) return "an empty block";
    if (threads > HT_EMU_MAX_THREADS || l->block.z > 64) return "more than 1024 threads in a block";
    if (l->grid.x > 0x7fffffffu || l->grid.y > 65535 || l->grid.z > 65535) return "a grid beyond the limits";
    if (l->shared > HT_EMU_MAX_SHARED) return "more shared memory than a block can have";
    return NULL;
}

static uint32_t mix(uint32_t x)
{
    x ^= x >> 16, x *= 0x7feb352du, x ^= x >> 15, x *= 0x846ca68bu;
    return x ^ x >> 16;
}

static void set_order(ht_emu_machine *m, const ht_emu_launch *l)
{
    for (unsigned i = 0; i < m->n; i++) m->order[i] = (uint16_t)(l->order == 1 ? m->n - 1 - i : i);
    for (unsigned i = m->n; l->order == 2 && i > 1; i--) {
        unsigned j = mix(l->seed * 0x9e3779b9u + i) % i;
        uint16_t t = m->order[i - 1];
        m->order[i - 1] = m->order[j];
        m->order[j] = t;
    }
}

/* The i-th block to run. Shuffled: a walk with a stride that shares no divisor with n. */
static uint64_t block_at(const ht_emu_launch *l, uint64_t i, uint64_t n)
{
    if (l->order == 1) return n - 1 - i;
    if (l->order != 2 || n < 3) return i;
    uint64_t stride = n / 2 + mix(l->seed) % (n / 2);
    for (;; stride++) {
        uint64_t a = stride, b = n;
        while (b) {
            uint64_t r = a % b;
            a = b, b = r;
        }
        if (a == 1) break;
    }
    return (i * (stride % n) + l->seed) % n;
}

/* Exactly the launch's bytes of shared memory may be touched. */
static void fence_shared(ht_emu_machine *m, size_t bytes)
{
#ifdef HT_ASAN
    __asan_unpoison_memory_region(m->shared, HT_EMU_MAX_SHARED);
    __asan_poison_memory_region(m->shared + bytes, HT_EMU_MAX_SHARED - bytes);
#else
    (void)m, (void)bytes;
#endif
}

int ht_emu_run(ht_emu_machine *m, const ht_emu_launch *l, char *text, size_t text_bytes)
{
    const ht_emu_dim g = l->grid;
    uint64_t blocks = (uint64_t)g.x * g.y * g.z;
    int r = 0;

    m->launch = l;
    m->n = l->block.x * l->block.y * l->block.z;
    m->broken = false;
    m->text = text;
    m->text_bytes = text_bytes;
    machine_ = m;
    ht_fiber_adopt(&m->home);
    ht_emu_view_ = (ht_emu_view){.block_dim = l->block, .grid_dim = g, .shared = m->shared};
    set_order(m, l);
    fence_shared(m, l->shared);
    for (uint64_t i = 0; i < blocks && !r; i++) {
        uint64_t b = block_at(l, i, blocks);
        ht_emu_view_.block = (ht_emu_dim){(unsigned)(b % g.x), (unsigned)(b / g.x % g.y),
                                          (unsigned)(b / ((uint64_t)g.x * g.y))};
        memset(m->shared, 0xff, l->shared); /* NaN: a read of what was not written shows */
        r = run_block(m);
    }
    fence_shared(m, HT_EMU_MAX_SHARED);
    machine_ = NULL;
    return r;
}
