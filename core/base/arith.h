/* Arithmetic on sizes that come from files or flags: every overflow is seen. */
#ifndef HEARTH_CORE_BASE_ARITH_H
#define HEARTH_CORE_BASE_ARITH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* out = a op b; false on overflow, and then *out is unspecified. */
static inline bool ht_add_size(size_t a, size_t b, size_t *out) { return !__builtin_add_overflow(a, b, out); }
static inline bool ht_mul_size(size_t a, size_t b, size_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline bool ht_add_i64(int64_t a, int64_t b, int64_t *out) { return !__builtin_add_overflow(a, b, out); }
static inline bool ht_mul_i64(int64_t a, int64_t b, int64_t *out) { return !__builtin_mul_overflow(a, b, out); }

static inline int64_t ht_min_i64(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t ht_max_i64(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t ht_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* The next multiple of `align` (a power of two) at or above v. */
static inline size_t ht_align_up(size_t v, size_t align) { return (v + align - 1) & ~(align - 1); }

#endif
