/* Allocation: checked, counted, made to fail on purpose, guarded. The allocator behind malloc is jemalloc where it
 * is linked in (it replaces malloc for the whole process; sanitizer builds keep their own).
 *
 * The counters are process-wide on purpose: the fail hook and the guard are about every allocation of anybody. */
#include "core/base/memory.h"

#include "core/base/arith.h"

#include <numa.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static _Atomic int64_t allocations_left = -1; /* the fail hook: negative is off */
static _Atomic int guard_depth;
static _Atomic uint64_t guard_violations;
static _Atomic uint64_t allocations, live, page_bytes, page_bytes_peak;

static const size_t huge_page = (size_t)2 << 20;

/* Every allocation asks here first. */
static bool may_allocate(size_t bytes)
{
    if (atomic_load_explicit(&guard_depth, memory_order_relaxed) > 0) {
        atomic_fetch_add_explicit(&guard_violations, 1, memory_order_relaxed);
#ifdef HEARTH_DEBUG
        fprintf(stderr, "broken invariant: %zu bytes allocated while decoding\n", bytes);
        abort();
#endif
    }
    (void)bytes;
    int64_t left = atomic_load_explicit(&allocations_left, memory_order_relaxed);
    while (left > 0 && !atomic_compare_exchange_weak_explicit(&allocations_left, &left, left - 1, memory_order_relaxed,
                                                              memory_order_relaxed)) {
    }
    return left != 0; /* at 0 it stays: from there on every allocation fails */
}

static void *count(void *p)
{
    if (p) {
        atomic_fetch_add_explicit(&allocations, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&live, 1, memory_order_relaxed);
    }
    return p;
}

void *ht_alloc(size_t n, size_t size)
{
    size_t bytes;
    if (!ht_mul_size(n, size, &bytes) || !may_allocate(bytes)) return NULL;
    return count(malloc(bytes ? bytes : 1));
}

void *ht_calloc(size_t n, size_t size)
{
    size_t bytes;
    if (!ht_mul_size(n, size, &bytes) || !may_allocate(bytes)) return NULL;
    return count(calloc(1, bytes ? bytes : 1));
}

void *ht_realloc(void *p, size_t n, size_t size)
{
    size_t bytes;
    if (!p) return ht_alloc(n, size);
    if (!ht_mul_size(n, size, &bytes) || !may_allocate(bytes)) return NULL;
    void *q = realloc(p, bytes ? bytes : 1);
    if (q) atomic_fetch_add_explicit(&allocations, 1, memory_order_relaxed);
    return q;
}

void *ht_alloc_aligned(size_t bytes, size_t align)
{
    void *p;
    if (!may_allocate(bytes)) return NULL;
    return posix_memalign(&p, align, bytes ? bytes : 1) == 0 ? count(p) : NULL;
}

void ht_free(void *p)
{
    if (!p) return;
    atomic_fetch_sub_explicit(&live, 1, memory_order_relaxed);
    free(p);
}

char *ht_strdup(const char *s)
{
    return ht_strndup(s, strlen(s));
}

char *ht_strndup(const char *s, size_t n)
{
    n = strnlen(s, n);
    char *copy = n < SIZE_MAX ? ht_alloc(n + 1, 1) : NULL;
    if (!copy) return NULL;
    memcpy(copy, s, n);
    copy[n] = '\0';
    return copy;
}

/* The bytes that a mapping of `bytes` occupies: whole pages, at least one; 0 on overflow. */
static size_t whole_pages(size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (bytes > SIZE_MAX - huge_page - page) return 0;
    return bytes ? ht_align_up(bytes, page) : page;
}

/* A mapping that begins on a multiple of 2 MiB: map more, give back both ends. */
static void *map_aligned(size_t bytes)
{
    uint8_t *p = mmap(NULL, bytes + huge_page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return NULL;
    uint8_t *begin = (uint8_t *)ht_align_up((uintptr_t)p, huge_page);
    size_t before = (size_t)(begin - p), after = huge_page - before;
    if (before) munmap(p, before);
    if (after) munmap(begin + bytes, after);
    return begin;
}

void *ht_alloc_pages(size_t bytes)
{
    size_t size = whole_pages(bytes);
    if (!size || !may_allocate(bytes)) return NULL;
    void *p;
    if (size >= huge_page) {
        p = map_aligned(size);
        if (!p) return NULL;
        madvise(p, size, MADV_HUGEPAGE); /* advice: a kernel without it serves small pages */
    } else {
        p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) return NULL;
    }
    if (numa_available() >= 0 && numa_num_configured_nodes() > 1) numa_interleave_memory(p, size, numa_all_nodes_ptr);
    uint64_t now = atomic_fetch_add_explicit(&page_bytes, size, memory_order_relaxed) + size;
    uint64_t peak = atomic_load_explicit(&page_bytes_peak, memory_order_relaxed);
    while (now > peak &&
           !atomic_compare_exchange_weak_explicit(&page_bytes_peak, &peak, now, memory_order_relaxed, memory_order_relaxed)) {
    }
    return count(p);
}

void ht_free_pages(void *p, size_t bytes)
{
    if (!p) return;
    size_t size = whole_pages(bytes);
    munmap(p, size);
    atomic_fetch_sub_explicit(&page_bytes, size, memory_order_relaxed);
    atomic_fetch_sub_explicit(&live, 1, memory_order_relaxed);
}

void ht_guard_enter(void)
{
    atomic_fetch_add_explicit(&guard_depth, 1, memory_order_relaxed);
}

void ht_guard_leave(void)
{
    atomic_fetch_sub_explicit(&guard_depth, 1, memory_order_relaxed);
}

uint64_t ht_guard_violations(void)
{
    return atomic_load_explicit(&guard_violations, memory_order_relaxed);
}

void ht_memory_fail_after(int64_t n)
{
    atomic_store_explicit(&allocations_left, n, memory_order_relaxed);
}

ht_memory_stats ht_memory_get_stats(void)
{
    return (ht_memory_stats){
        .allocations = atomic_load_explicit(&allocations, memory_order_relaxed),
        .live = atomic_load_explicit(&live, memory_order_relaxed),
        .page_bytes = atomic_load_explicit(&page_bytes, memory_order_relaxed),
        .page_bytes_peak = atomic_load_explicit(&page_bytes_peak, memory_order_relaxed),
    };
}
