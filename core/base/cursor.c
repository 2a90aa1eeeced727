/* The bounds-checked cursor: every read of every binary parser ends here. */
#include "core/base/cursor.h"

const uint8_t *ht_cursor_take(ht_cursor *c, uint64_t n)
{
    if (c->failed || n > c->size - c->at) {
        c->failed = true;
        return NULL;
    }
    static const uint8_t nothing; /* an empty take succeeds even on an empty file, whose data is NULL */
    const uint8_t *p = c->data ? c->data + c->at : &nothing;
    c->at += n;
    return p;
}

/* Byte by byte, so that neither alignment nor the machine's byte order matters; compilers make it one load. */
static uint64_t take_integer(ht_cursor *c, unsigned bytes)
{
    const uint8_t *p = ht_cursor_take(c, bytes);
    uint64_t v = 0;
    if (!p) return 0;
    for (unsigned i = 0; i < bytes; i++) v |= (uint64_t)p[i] << (8 * i);
    return v;
}

uint8_t ht_cursor_u8(ht_cursor *c)
{
    return (uint8_t)take_integer(c, 1);
}

uint16_t ht_cursor_u16(ht_cursor *c)
{
    return (uint16_t)take_integer(c, 2);
}

uint32_t ht_cursor_u32(ht_cursor *c)
{
    return (uint32_t)take_integer(c, 4);
}

uint64_t ht_cursor_u64(ht_cursor *c)
{
    return take_integer(c, 8);
}

void ht_cursor_align(ht_cursor *c, uint64_t align)
{
    uint64_t past = c->at & (align - 1);
    if (past) ht_cursor_take(c, align - past);
}
