/* One bounds-checked cursor for every binary parser. After the first failure it stays failed and reads give
 * zeros, so a parser may check once per structure. Integers are little-endian. */
#ifndef HEARTH_CORE_BASE_CURSOR_H
#define HEARTH_CORE_BASE_CURSOR_H

#include "core/base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ht_cursor {
    const uint8_t *data; /* borrowed */
    uint64_t size, at;
    bool failed;         /* a read went past the end */
} ht_cursor;

static inline uint64_t ht_cursor_left(const ht_cursor *c) { return c->failed ? 0 : c->size - c->at; }
/* `n` bytes in place, or NULL (and failed). */
const uint8_t *ht_cursor_take(ht_cursor *c, uint64_t n);
uint8_t ht_cursor_u8(ht_cursor *c);
uint16_t ht_cursor_u16(ht_cursor *c);
uint32_t ht_cursor_u32(ht_cursor *c);
uint64_t ht_cursor_u64(ht_cursor *c);
/* Advance to a multiple of `align` (power of two) from the start of the data. */
void ht_cursor_align(ht_cursor *c, uint64_t align);

#endif
