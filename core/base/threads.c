/* The worker pool.
 *
 * A job is cut into chunks; each worker has a range of neighbouring ones, of which it takes from the front, so that it
 * reads memory in order. Who has none left takes from the end of others' ranges. `unfinished` counts chunks not yet
 * finished. The caller works too, and returns when that is 0: it waits for chunks, never for workers, so a worker that
 * the system has put to sleep or that a busy neighbour has pushed off its core delays nobody - unless it holds a
 * chunk, and chunks are small.
 *
 * Why a late worker is harmless: it may look at a range at any time. If its exchange takes chunks, they belong to the
 * job now published, which can't end (nor its fields be rewritten) before this very worker reports them finished. If
 * it doesn't, nothing was promised; the next job sets all ranges anew. An exchange that expects a range of an earlier
 * job and finds the same one again is no mistake: it takes from the new one.
 *
 * A worker that shares its core with a busy process loses it with a chunk in hand again and again, for a time slice (3 ms)
 * each, and all wait for the chunk: two threads are then slower than one. The caller sees by the worker's CPU clock that it
 * did not run, and has it rest for a while. 1.1B Q4_0, two cores, one of them busy: 22 to 27 tok/s without rests, 33 to 43
 * with, about 50 on a free machine.
 */
#include "core/base/threads.h"

#include "core/base/memory.h"
#include "core/base/random.h"
#include "core/base/topology.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
    MAX_THREADS = 1024,
    CACHE_LINE = 64,
    SHRINK = 4, /* a shrinking range is this part of what its owner has left */
    DEFAULT_SPIN_US = 100, /* see spin_until */
    PAUSES_PER_LOOK_AT_CLOCK = 64,
};

/* Seconds. A worker rests when it has twice, so soon one after the other, held up a job for so long. It is tried again
 * after the rest, and rests twice as long if that was in vain. */
#define STALL 1e-3
#define SOON 50e-3
#define FIRST_REST 0.1
#define LONGEST_REST 1.6

typedef struct worker {
    _Alignas(CACHE_LINE) _Atomic uint64_t range; /* chunks to take, see range_of */
    _Atomic bool holds;        /* has a chunk in hand; relaxed: a hint */
    _Atomic uint32_t resting;  /* futex: takes no chunks while it is 1 */

    /* Owner: the caller. ht_now() and seconds. */
    double cpu_then;           /* CPU time when the caller began to wait for this worker; < 0: it doesn't */
    double trusted;            /* when it last stalled, or its rest ends */
    double rest;               /* how long its last rest was; 0: it did not rest lately */

    ht_pool *pool;
    pthread_t handle;
    int index;
    int cpu; /* pinned there; -1: free */
} worker;

struct ht_pool {
    /* Written by the caller before it publishes a job, read by owners of its chunks. */
    ht_range_fn *fn;
    void *context;
    int64_t first, end, chunk; /* items [first, end); chunk 0 of it begins at `first` */

    _Alignas(CACHE_LINE) _Atomic int64_t unfinished; /* chunks to finish */
    _Alignas(CACHE_LINE) _Atomic uint32_t epoch;     /* futex: counts jobs; workers wait for it to move */
    _Atomic uint32_t sleepers;                       /* workers that are in, or about to enter, the futex */
    _Atomic uint32_t caller_waits;                   /* futex: 1 while the caller sleeps */
    _Atomic bool closing;

    _Alignas(CACHE_LINE) int threads; /* workers including the caller; fixed after open */
    int started;                      /* threads created, for close after a failed open */
    int resting;                      /* workers that rest */
    double spin;                      /* seconds */
    uint32_t jitter;
    worker *workers; /* owned, [threads]; 0 is the caller and has no thread */
    bool restore;    /* the caller was pinned: give it back its mask */
    pid_t caller;
    cpu_set_t caller_mask;
};

static void futex_wait(_Atomic uint32_t *word, uint32_t while_value)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, while_value, NULL, NULL, 0);
}

/* At most so many seconds, less than one. */
static void futex_wait_briefly(_Atomic uint32_t *word, uint32_t while_value, double seconds)
{
    struct timespec most = {.tv_nsec = seconds > 0 ? (long)(1e9 * seconds) : 0};
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, while_value, &most, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int how_many)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, how_many, NULL, NULL, 0);
}

static inline void cpu_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Random delays before a chunk, for tests: mostly none, often a few microseconds, sometimes the core is given up. */
static void jitter(const ht_pool *pool, int64_t chunk, int thread)
{
    double u = ht_random_uniform(pool->jitter, (uint64_t)thread, (uint64_t)chunk, atomic_load(&pool->epoch));
    if (u < 0.5) return;
    if (u > 0.98) {
        usleep((useconds_t)(200 * u));
    } else if (u > 0.9) {
        sched_yield();
    } else {
        double end = ht_now() + 20e-6 * (u - 0.5);
        while (ht_now() < end) cpu_pause();
    }
}

/* A range of chunks, and whether its parts shrink: that must be known before anything of the job may be read. */
#define MOST_CHUNKS INT32_MAX
static inline uint64_t range_of(int64_t begin, int64_t end, bool shrinking)
{
    return (uint64_t)begin | (uint64_t)end << 32 | (uint64_t)shrinking << 63;
}

/* Takes chunks [*first, *first + the result) off a range; 0: there are none. Acquire: the job's fields were written
 * before its ranges. */
static int64_t take(_Atomic uint64_t *range, bool own, int64_t *first)
{
    uint64_t r = atomic_load_explicit(range, memory_order_acquire); /* a load keeps idle workers off the line */
    for (;;) {
        int64_t begin = (int64_t)(r & MOST_CHUNKS), end = (int64_t)(r >> 32 & MOST_CHUNKS);
        bool shrinking = r >> 63;
        if (begin == end) return 0;
        int64_t n = shrinking ? (end - begin + SHRINK - 1) / SHRINK : 1;
        uint64_t rest = own ? range_of(begin + n, end, shrinking) : range_of(begin, end - n, shrinking);
        *first = own ? begin : end - n;
        if (atomic_compare_exchange_weak_explicit(range, &r, rest, memory_order_acq_rel, memory_order_acquire)) return n;
    }
}

/* Take and run chunks until there are none; report them. */
static void work(ht_pool *pool, int thread)
{
    int64_t done = 0;
    for (int i = 0; i < pool->threads; i++) {
        int of = (thread + i) % pool->threads;
        int64_t index, count;
        while ((count = take(&pool->workers[of].range, i == 0, &index)) > 0) {
            int64_t begin = pool->first + index * pool->chunk, end = begin + count * pool->chunk;
            if (pool->jitter) jitter(pool, index, thread);
            atomic_store_explicit(&pool->workers[thread].holds, true, memory_order_relaxed);
            pool->fn(pool->context, begin, end < pool->end ? end : pool->end, thread);
            done += count;
        }
    }
    atomic_store_explicit(&pool->workers[thread].holds, false, memory_order_relaxed);
    if (done == 0) return;
    /* Release: what the chunks wrote is visible to the caller. Sequentially consistent with caller_waits: either the
     * caller sees 0 here, or we see that it waits. */
    if (atomic_fetch_sub(&pool->unfinished, done) == done && thread != 0 && atomic_exchange(&pool->caller_waits, 0)) {
        futex_wake(&pool->caller_waits, 1);
    }
}

/* Waits until `ready` or until the spin time is over.
 *
 * Measured on two virtual cores: a job costs 0.15 us (median) while the worker spins, 20 to 30 us when it must be woken.
 * Spinning for about as long as the wake-up costs is never worse than twice the best; between two jobs of a layer
 * there are a few microseconds, around a token's sampling some tens. So the default, a few wake-ups long, keeps workers
 * awake within a token, lets them sleep when the program waits for people, and takes little from a busy neighbour. */
#define spin_until(pool, ready)                                                                                        \
    do {                                                                                                               \
        double end_ = 0;                                                                                               \
        for (uint32_t i_ = 1; !(ready); i_++) {                                                                        \
            cpu_pause();                                                                                               \
            if (i_ % PAUSES_PER_LOOK_AT_CLOCK) continue;                                                               \
            double now_ = ht_now();                                                                                    \
            if (end_ == 0) end_ = now_ + (pool)->spin;                                                                 \
            if (now_ >= end_) break;                                                                                   \
        }                                                                                                              \
    } while (0)

static void *worker_main(void *argument)
{
    worker *w = argument;
    ht_pool *pool = w->pool;
    uint32_t seen = 0;
    while (!atomic_load_explicit(&pool->closing, memory_order_acquire)) {
        spin_until(pool, atomic_load_explicit(&pool->epoch, memory_order_acquire) != seen);
        if (atomic_load_explicit(&pool->epoch, memory_order_acquire) == seen) {
            /* Sequentially consistent with the caller's "epoch, then sleepers": one of us sees the other. */
            atomic_fetch_add(&pool->sleepers, 1);
            while (atomic_load(&pool->epoch) == seen) futex_wait(&pool->epoch, seen);
            atomic_fetch_sub(&pool->sleepers, 1);
        }
        seen = atomic_load_explicit(&pool->epoch, memory_order_acquire);
        if (!atomic_load(&w->resting)) work(pool, w->index);
        while (atomic_load(&w->resting)) futex_wait(&w->resting, 1);
    }
    return NULL;
}

/* ---- rests: the caller's business --------------------------------------------------------------------------- */

/* -1: not to be known. */
static double cpu_seconds(const worker *w)
{
    clockid_t clock;
    struct timespec t;
    if (pthread_getcpuclockid(w->handle, &clock) || clock_gettime(clock, &t)) return -1;
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void end_rest(ht_pool *pool, worker *w)
{
    atomic_store(&w->resting, 0);
    futex_wake(&w->resting, 1);
    pool->resting--;
}

static void end_rests(ht_pool *pool, double now)
{
    for (int i = 1; i < pool->threads; i++) {
        worker *w = &pool->workers[i];
        if (atomic_load(&w->resting) && now >= w->trusted) end_rest(pool, w);
    }
}

static void stalled(ht_pool *pool, worker *w, double now)
{
    bool again = now - w->trusted < SOON;
    w->trusted = now;
    if (!again) {
        w->rest = 0;
        return;
    }
    w->rest = w->rest == 0 ? FIRST_REST : w->rest < LONGEST_REST ? 2 * w->rest : LONGEST_REST;
    w->trusted = now + w->rest;
    /* It may rest already: who was sent to rest just as it looked for chunks has one more. */
    if (!atomic_exchange(&w->resting, 1)) pool->resting++;
}

/* The caller begins to wait for chunks in others' hands. */
static void watch_holders(ht_pool *pool)
{
    for (int i = 1; i < pool->threads; i++) {
        worker *w = &pool->workers[i];
        w->cpu_then = atomic_load_explicit(&w->holds, memory_order_relaxed) ? cpu_seconds(w) : -1;
    }
}

/* It has waited since `since` and still waits. Who has a chunk, and had it then, and hardly ran in between, is to blame. */
static void judge_holders(ht_pool *pool, double since, double now)
{
    for (int i = 1; i < pool->threads; i++) {
        worker *w = &pool->workers[i];
        if (w->cpu_then < 0 || !atomic_load_explicit(&w->holds, memory_order_relaxed)) continue;
        if (cpu_seconds(w) - w->cpu_then < (now - since) / 2) stalled(pool, w, now);
    }
}

/* ---- jobs --------------------------------------------------------------------------------------------------- */

static void wake_workers(ht_pool *pool, int64_t at_most)
{
    atomic_fetch_add(&pool->epoch, 1);
    uint32_t sleepers = atomic_load(&pool->sleepers);
    if (sleepers > 0) futex_wake(&pool->epoch, at_most < sleepers ? (int)at_most : (int)sleepers);
}

static void wait_for_others(ht_pool *pool)
{
    double since = 0; /* when the caller first went to sleep */
    bool judged = pool->spin == 0;
    while (atomic_load_explicit(&pool->unfinished, memory_order_acquire) != 0) {
        spin_until(pool, atomic_load_explicit(&pool->unfinished, memory_order_acquire) == 0);
        if (atomic_load_explicit(&pool->unfinished, memory_order_acquire) == 0) break;
        /* A worker lost its core with a chunk in hand. Sleeping may give it ours. */
        double now = judged ? 0 : ht_now();
        if (!judged && since == 0) {
            since = now;
            watch_holders(pool);
        } else if (!judged && now - since >= STALL) {
            judge_holders(pool, since, now);
            judged = true;
        }
        atomic_store(&pool->caller_waits, 1);
        if (atomic_load(&pool->unfinished) == 0) break;
        if (judged) futex_wait(&pool->caller_waits, 1);
        else futex_wait_briefly(&pool->caller_waits, 1, STALL - (now - since));
    }
    atomic_store_explicit(&pool->caller_waits, 0, memory_order_relaxed);
}

/* Items [first, end), at most MOST_CHUNKS chunks. */
static void run_job(ht_pool *pool, int64_t first, int64_t end, int64_t chunk, bool shrinking, ht_range_fn *fn,
                    void *context)
{
    int64_t chunks = (end - first) / chunk + ((end - first) % chunk != 0);
    pool->fn = fn;
    pool->context = context;
    pool->first = first;
    pool->end = end;
    pool->chunk = chunk;
    atomic_store_explicit(&pool->unfinished, chunks, memory_order_relaxed);
    if (pool->resting > 0) end_rests(pool, ht_now());
    int64_t at = 0;
    int left = pool->threads - pool->resting;
    for (int i = 0; i < pool->threads; i++) { /* from here on chunks are taken */
        bool rests = atomic_load_explicit(&pool->workers[i].resting, memory_order_relaxed);
        int64_t next = rests ? at : at + (chunks - at) / left--;
        atomic_store_explicit(&pool->workers[i].range, range_of(at, next, shrinking), memory_order_release);
        at = next;
    }
    wake_workers(pool, chunks - 1);
    work(pool, 0);
    wait_for_others(pool);
}

void ht_pool_for(ht_pool *pool, int64_t n, int64_t chunk, ht_range_fn *fn, void *context)
{
    if (n <= 0) return;
    if (chunk < 1) chunk = 1;
    if (pool->threads == 1 || n <= chunk) {
        fn(context, 0, n, 0);
        return;
    }
    for (int64_t first = 0; first < n;) {
        int64_t end = (n - first) / chunk >= MOST_CHUNKS ? first + MOST_CHUNKS * chunk : n;
        run_job(pool, first, end, chunk, false, fn, context);
        first = end;
    }
}

void ht_pool_for_shrinking(ht_pool *pool, int64_t n, ht_range_fn *fn, void *context)
{
    if (n <= 0) return;
    if (pool->threads == 1 || n == 1) {
        fn(context, 0, n, 0);
        return;
    }
    for (int64_t first = 0; first < n;) {
        int64_t end = n - first > MOST_CHUNKS ? first + MOST_CHUNKS : n;
        run_job(pool, first, end, 1, true, fn, context);
        first = end;
    }
}

int ht_pool_threads(const ht_pool *pool)
{
    return pool->threads;
}

static void pin(pid_t thread, int cpu)
{
    cpu_set_t set;
    if (cpu < 0) return;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(thread, sizeof set, &set); /* refused: it runs unpinned */
}

static void *pinned_worker_main(void *argument)
{
    pin(0, ((worker *)argument)->cpu);
    return worker_main(argument);
}

/* Gives every worker a core; with more workers than cores nobody is pinned, for two on a core would wait in turn. */
static int assign_cores(ht_pool *pool, ht_error *err)
{
    int *cpus = ht_calloc(CPU_SETSIZE, sizeof *cpus);
    if (!cpus) return ht_fail(err, -ENOMEM, "thread pool: out of memory");
    int cores = ht_cpu_order(cpus, CPU_SETSIZE);
    if (pool->threads <= cores) {
        for (int i = 0; i < pool->threads; i++) pool->workers[i].cpu = cpus[i];
        pool->caller = gettid();
        pool->restore = sched_getaffinity(0, sizeof pool->caller_mask, &pool->caller_mask) == 0;
        pin(0, cpus[0]);
    }
    ht_free(cpus);
    return 0;
}

int ht_pool_open(ht_pool **out, const ht_pool_options *options, ht_error *err)
{
    *out = NULL;
    ht_pool_options o = options ? *options : (ht_pool_options){0};
    if (o.threads < 0 || o.threads > MAX_THREADS) {
        return ht_fail(err, -EINVAL, "thread pool: %d threads; 0 to %d are possible", o.threads, MAX_THREADS);
    }
    int rc, allowed = ht_cpu_allowed();
    ht_pool *pool = ht_alloc_aligned(sizeof *pool, CACHE_LINE);
    if (!pool) return ht_fail(err, -ENOMEM, "thread pool: out of memory");
    memset(pool, 0, sizeof *pool);
    pool->threads = o.threads ? o.threads : allowed < MAX_THREADS ? allowed : MAX_THREADS;
    pool->started = 1;
    /* With more workers than cores, who spins keeps off somebody who has work. */
    pool->spin = pool->threads > allowed ? 0 : 1e-6 * (o.spin_us > 0 ? o.spin_us : DEFAULT_SPIN_US);
    pool->jitter = o.jitter;
    pool->workers = ht_alloc_aligned((size_t)pool->threads * sizeof *pool->workers, CACHE_LINE);
    if (!pool->workers) {
        rc = ht_fail(err, -ENOMEM, "thread pool: out of memory");
        goto fail;
    }
    for (int i = 0; i < pool->threads; i++) pool->workers[i] = (worker){.pool = pool, .index = i, .cpu = -1};
    if (o.pin && (rc = assign_cores(pool, err)) < 0) goto fail;
    for (; pool->started < pool->threads; pool->started++) {
        worker *w = &pool->workers[pool->started];
        rc = pthread_create(&w->handle, NULL, pinned_worker_main, w);
        if (rc != 0) {
            rc = ht_fail(err, -rc, "thread pool: cannot start thread %d of %d: %s", pool->started + 1, pool->threads,
                         strerror(rc));
            goto fail;
        }
    }
    *out = pool;
    return 0;
fail:
    ht_pool_close(&pool);
    return rc;
}

void ht_pool_close(ht_pool **ppool)
{
    ht_pool *pool = *ppool;
    if (!pool) return;
    *ppool = NULL;
    atomic_store_explicit(&pool->closing, true, memory_order_release);
    for (int i = 1; i < pool->started; i++)
        if (atomic_load(&pool->workers[i].resting)) end_rest(pool, &pool->workers[i]);
    wake_workers(pool, pool->threads);
    for (int i = 1; i < pool->started; i++) pthread_join(pool->workers[i].handle, NULL);
    if (pool->restore) sched_setaffinity(pool->caller, sizeof pool->caller_mask, &pool->caller_mask);
    ht_free(pool->workers);
    ht_free(pool);
}
