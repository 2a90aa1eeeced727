/* Where buffers with known lifetimes lie in one piece of memory: planned once, before there is any.
 */
#ifndef HEARTH_CORE_ENGINE_ARENA_H
#define HEARTH_CORE_ENGINE_ARENA_H

#include <stddef.h>
#include <stdint.h>

/* Lives from step `first` to step `last`, both included. */
typedef struct ht_arena_item {
    size_t bytes;
    int32_t first, last;
    size_t offset;       /* out: a multiple of the alignment */
} ht_arena_item;

#define HT_ARENA_MOST 64 /* items */

/* Sets the offsets so that items which live at the same time don't overlap, and returns the bytes of the whole: rarely
 * more than ht_arena_bound. n <= HT_ARENA_MOST; sizes add up to less than SIZE_MAX / 2. */
size_t ht_arena_plan(ht_arena_item *items, int32_t n, size_t align);
/* The most bytes that live at one time: no plan needs less. */
size_t ht_arena_bound(const ht_arena_item *items, int32_t n, size_t align);

#endif
