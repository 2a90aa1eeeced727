/* All allocation of the engine passes here: counted, checked for overflow, made to fail on purpose by tests,
 * and forbidden while decoding (the allocation guard).
 */
#ifndef HEARTH_CORE_BASE_MEMORY_H
#define HEARTH_CORE_BASE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* NULL when out of memory, on overflow of n * size, or when the fail hook strikes. Zero sizes give a valid
 * pointer. Memory of ht_calloc and ht_alloc_pages is zeroed; that of ht_alloc is not. */
void *ht_alloc(size_t n, size_t size);
void *ht_calloc(size_t n, size_t size);
void *ht_realloc(void *p, size_t n, size_t size);
/* Alignment is a power of two >= sizeof(void *). Freed by ht_free like the others. */
void *ht_alloc_aligned(size_t bytes, size_t align);
void ht_free(void *p);
char *ht_strdup(const char *s);
char *ht_strndup(const char *s, size_t n);

/* Page-granular memory for weights, KV and staging: mmapped, 2 MiB-aligned and advised MADV_HUGEPAGE when it is
 * 2 MiB or more, interleaved over the NUMA nodes if there are several. Freed with the same byte count. */
void *ht_alloc_pages(size_t bytes);
void ht_free_pages(void *p, size_t bytes);

/* The allocation guard: between enter and leave, any allocation of any thread of the process that passes this
 * module is a broken invariant: it aborts with a message in debug builds (HEARTH_DEBUG) and is counted in all
 * builds. Nests. */
void ht_guard_enter(void);
void ht_guard_leave(void);
uint64_t ht_guard_violations(void);

/* Test hook: let `n` more allocations succeed, then fail every one; negative switches it off (the default). */
void ht_memory_fail_after(int64_t n);
/* Allocations and pages alive now, in pieces and bytes: leak checks and accounting. */
typedef struct ht_memory_stats {
    uint64_t allocations;      /* calls that returned memory, ever */
    uint64_t live;             /* pieces alive now */
    uint64_t page_bytes;       /* bytes of ht_alloc_pages alive now */
    uint64_t page_bytes_peak;
} ht_memory_stats;
ht_memory_stats ht_memory_get_stats(void);

#endif
