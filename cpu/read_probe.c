#include "cpu/read_probe.h"

#include "core/base/arith.h"
#include "core/base/available.h"
#include "core/base/median.h"
#include "core/base/memory.h"
#include "core/base/threads.h"

#include <stdint.h>
#include <string.h>

#define MOST_BYTES ((size_t)1 << 30)
#define LEAST_BYTES ((size_t)256 << 20)
#define CHUNK ((size_t)1 << 20)
#define CHUNKS_AT_ONCE 4

struct ht_read_probe {
    ht_pool *pool;
    char *memory;
    int64_t chunks, at; /* at: where the next sample begins */
    uint64_t *sums;     /* a cache line each thread; kept so that the reads are not optimised away */
};

typedef uint64_t pair __attribute__((vector_size(16)));

/* A sum of everything. No prefetch instructions: on Zen 4 the hardware follows one stream better by itself. */
static void read_range(void *context, int64_t begin, int64_t end, int thread)
{
    const ht_read_probe *p = context;
    pair a = {0}, b = {0}, c = {0}, d = {0};

    for (int64_t chunk = begin; chunk < end; chunk++) {
        const pair *v = (const pair *)(const void *)(p->memory + (size_t)((p->at + chunk) % p->chunks) * CHUNK);
        for (size_t i = 0; i < CHUNK / sizeof(pair); i += 8) {
            a += v[i] ^ v[i + 1];
            b += v[i + 2] ^ v[i + 3];
            c += v[i + 4] ^ v[i + 5];
            d += v[i + 6] ^ v[i + 7];
        }
    }
    a += b + c + d;
    p->sums[8 * thread] += a[0] + a[1];
}

/* How much is read: beside a model that fills most of the memory less of it, and nothing rather than what caches hold. */
static size_t probe_bytes(void)
{
    uint64_t half = ht_memory_available("") / 2;

    if (half == 0 || half >= MOST_BYTES) return MOST_BYTES;
    return half < LEAST_BYTES ? 0 : (size_t)half / (CHUNKS_AT_ONCE * CHUNK) * (CHUNKS_AT_ONCE * CHUNK);
}

int ht_read_probe_open(ht_read_probe **out, int threads, ht_error *err)
{
    size_t bytes = probe_bytes();
    ht_read_probe *p = ht_calloc(1, sizeof(*p));
    int rc = p ? 0 : ht_fail(err, -ENOMEM, "out of memory for the probe of the memory's speed");

    *out = NULL;
    if (rc < 0) return rc;
    p->chunks = (int64_t)(bytes / CHUNK);
    p->memory = bytes ? ht_alloc_pages(bytes) : NULL;
    /* A microsecond of spinning: an idle probe leaves the cores to what it stands beside. */
    rc = ht_pool_open(&p->pool, &(ht_pool_options){.threads = threads, .spin_us = 1}, err);
    if (rc >= 0) p->sums = ht_calloc((size_t)ht_pool_threads(p->pool), 64);
    if (rc >= 0 && (!p->memory || !p->sums))
        rc = ht_fail(err, -ENOMEM, "%zu MiB of free memory are too little to measure the memory's speed", bytes >> 20);
    if (rc < 0) {
        ht_read_probe_close(&p);
        return rc;
    }
    memset(p->memory, 1, bytes); /* every page is there */
    *out = p;
    return 0;
}

void ht_read_probe_close(ht_read_probe **pp)
{
    ht_read_probe *p = *pp;

    if (!p) return;
    *pp = NULL;
    ht_pool_close(&p->pool);
    ht_free(p->sums);
    ht_free_pages(p->memory, (size_t)p->chunks * CHUNK);
    ht_free(p);
}

double ht_read_probe_sample(ht_read_probe *p, size_t bytes)
{
    int64_t chunks = ht_min_i64(p->chunks, ht_max_i64((int64_t)(bytes / CHUNK), CHUNKS_AT_ONCE));
    double start = ht_now();

    ht_pool_for(p->pool, chunks, CHUNKS_AT_ONCE, read_range, p);
    double seconds = ht_now() - start;
    p->at = (p->at + chunks) % p->chunks;
    return (double)chunks * CHUNK / seconds;
}

double ht_measure_read_bandwidth(int threads, int repeats)
{
    int n = repeats > 0 ? repeats : 1;
    ht_read_probe *p = NULL;
    double *rates = ht_calloc((size_t)n, sizeof(*rates)), result = -ENOMEM;
    int rc = rates ? ht_read_probe_open(&p, threads, NULL) : -ENOMEM;

    for (int i = 0; i < n && rc >= 0; i++) rates[i] = ht_read_probe_sample(p, MOST_BYTES);
    if (rc >= 0) result = ht_median(rates, n);
    ht_read_probe_close(&p);
    ht_free(rates);
    return rc < 0 ? rc : result;
}
