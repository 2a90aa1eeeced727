/* Touching pages ahead of reads: see prefault.h. */
#include "offload/prefault.h"

#include "core/base/memory.h"
#include "core/base/threads.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14; the headers of Debian 11 do not have it */
#endif

enum {
    STEP_BYTES = 16 << 20,  /* short enough to stay just ahead of a drive, long enough for the calls not to matter */
    MOST_THREADS = 4,       /* zeroing runs at 1 to 3 GB/s a thread */
};

struct ht_prefault {
    uint8_t *base;
    size_t bytes, n_steps;
    pthread_t thread[MOST_THREADS];
    int n_threads;
    atomic_size_t next;     /* step to be taken; relaxed: steps are independent of each other */
    pthread_mutex_t lock;   /* guards ready and done */
    pthread_cond_t ready_changed;
    size_t ready;           /* steps [0, ready) are done */
    uint8_t done[];         /* [n_steps] */
};

static void finish_step(ht_prefault *p, size_t step)
{
    pthread_mutex_lock(&p->lock);
    p->done[step] = 1;
    while (p->ready < p->n_steps && p->done[p->ready]) p->ready++;
    pthread_cond_signal(&p->ready_changed);
    pthread_mutex_unlock(&p->lock);
}

static void *touch_steps(void *arg)
{
    ht_prefault *p = arg;
    for (;;) {
        size_t step = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
        if (step >= p->n_steps) return NULL;
        size_t at = step * STEP_BYTES, left = p->bytes - at;
        madvise(p->base + at, left < STEP_BYTES ? left : STEP_BYTES, MADV_POPULATE_WRITE); /* refused: the read does it */
        finish_step(p, step);
    }
}

ht_prefault *ht_prefault_begin(void *base, size_t bytes)
{
    if (bytes < 2 * (size_t)STEP_BYTES || madvise(base, 1, MADV_POPULATE_WRITE) != 0) return NULL;
    size_t n_steps = (bytes + STEP_BYTES - 1) / STEP_BYTES;
    ht_prefault *p = ht_calloc(1, sizeof *p + n_steps);
    if (!p) return NULL;
    p->base = base;
    p->bytes = bytes;
    p->n_steps = n_steps;
    atomic_init(&p->next, 0);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->ready_changed, NULL);
    int wanted = ht_cpu_allowed() < MOST_THREADS ? ht_cpu_allowed() : MOST_THREADS;
    while (p->n_threads < wanted && pthread_create(&p->thread[p->n_threads], NULL, touch_steps, p) == 0) p->n_threads++;
    if (p->n_threads > 0) return p;
    ht_prefault_end(p);
    return NULL;
}

void ht_prefault_wait(ht_prefault *p, size_t upto)
{
    if (!p) return;
    size_t steps = (upto < p->bytes ? upto + STEP_BYTES - 1 : p->bytes + STEP_BYTES - 1) / STEP_BYTES;
    pthread_mutex_lock(&p->lock);
    while (p->ready < steps) pthread_cond_wait(&p->ready_changed, &p->lock);
    pthread_mutex_unlock(&p->lock);
}

void ht_prefault_end(ht_prefault *p)
{
    if (!p) return;
    atomic_store_explicit(&p->next, p->n_steps, memory_order_relaxed);
    for (int i = 0; i < p->n_threads; i++) pthread_join(p->thread[i], NULL);
    pthread_cond_destroy(&p->ready_changed);
    pthread_mutex_destroy(&p->lock);
    ht_free(p);
}
