/* What the attention kernels of the levels above the reference share: how they prefetch, and what they fill the table with. */
#ifndef HEARTH_CPU_ATTEND_H
#define HEARTH_CPU_ATTEND_H

#include "core/ports/store.h"
#include "cpu/kernels.h"

#define ATTEND_LARGE_TILE (16 << 10) /* bytes of K or V of a head */
#define ATTEND_LINE 64

/* A function that only prefetches has no effect in GCC's eyes, which drops calls to it: it must be inlined before GCC looks. */
#define ATTEND_INLINE static inline __attribute__((always_inline))

ATTEND_INLINE void attend_prefetch_lines(const char *from, const char *end)
{
    for (; from < end; from += ATTEND_LINE) __builtin_prefetch(from, 0, 2);
}

/* The softmax reads nothing of its own, so each of its rows asks for some lines at the end of the next tiles of K and of V:
 * memory rests otherwise (AVX-512, Q16, eight rows, heads of 64, one Zen 4 core: 15.3 GB/s of KV without, 17.2 so). */
#define ATTEND_SOFTMAX_BYTES (4 * ATTEND_LINE) /* of either tile, by each row */
static inline size_t attend_softmax_bytes(size_t tile_bytes, int32_t m)
{
    size_t bytes = (size_t)m * ATTEND_SOFTMAX_BYTES;
    return bytes < tile_bytes / 4 ? bytes : tile_bytes / 4;
}

/* Row i of m. */
ATTEND_INLINE void attend_prefetch_end(const char *tile, size_t tile_bytes, int32_t i, int32_t m)
{
    const char *from = tile + tile_bytes - attend_softmax_bytes(tile_bytes, m) + (size_t)i * ATTEND_SOFTMAX_BYTES;
    if (from + ATTEND_SOFTMAX_BYTES <= tile + tile_bytes) attend_prefetch_lines(from, from + ATTEND_SOFTMAX_BYTES);
}
ATTEND_INLINE void attend_prefetch_ends(const ht_attend_next *next, int32_t i, int32_t m)
{
    if (next->k) attend_prefetch_end(next->k, next->k_bytes, i, m);
    if (next->v) attend_prefetch_end(next->v, next->v_bytes, i, m);
}

/* The share of a tile that belongs to tokens [t, t + n). */
ATTEND_INLINE void attend_prefetch_tokens(const char *tile, size_t bytes, int32_t t, int32_t n)
{
    attend_prefetch_lines(tile + bytes * (size_t)t / HT_KV_TILE, tile + bytes * (size_t)(t + n) / HT_KV_TILE);
}

/* While tokens [t, t + n) of the tile at `here` are attended to: what is read a tile later. Into L2: prefetches into L1 hold
 * the miss buffers that the tile itself needs (AVX-512, F16 from memory, heads of 64, one Zen 4 core: 10 GB/s of KV with
 * them, 22 so). A prefetch that finds all miss buffers taken is dropped, so lines of large tiles are asked for again half
 * a tile before they are read (heads of 128: 18 GB/s once, 26 twice; small tiles lose by it: heads of 64 22 and 21). */
ATTEND_INLINE void attend_prefetch(const char *here, const char *next, size_t bytes, int32_t t, int32_t n)
{
    const int32_t half = HT_KV_TILE / 2;
    if (!next) return;
    if (bytes >= ATTEND_LARGE_TILE) attend_prefetch_tokens(t < half ? here : next, bytes, (t + half) % HT_KV_TILE, n);
    attend_prefetch_tokens(next, bytes, t, n);
}

/* Lines of the next tile, asked for one by one. A quarter of a tile before they are read they can be asked for again, by
 * whoever is so fast that some were dropped: that line is at + early while `at` is in the first quarter, at + late from
 * then on. */
typedef struct attend_ahead { const char *at, *end, *quarter; ptrdiff_t early, late; } attend_ahead;

/* All of `next` but the softmax's share. */
static inline attend_ahead attend_ahead_of(const void *here, const void *next, size_t bytes, int32_t m)
{
    ptrdiff_t quarter = (ptrdiff_t)(bytes / 4 / ATTEND_LINE * ATTEND_LINE);
    const char *at = next;
    if (!next) return (attend_ahead){NULL, NULL, NULL, 0, 0};
    return (attend_ahead){at, at + bytes - attend_softmax_bytes(bytes, m), at + quarter,
                          (const char *)here + bytes - quarter - at, -quarter};
}

ATTEND_INLINE void attend_prefetch_next(attend_ahead *next, int lines, bool again)
{
    for (int i = 0; i < lines && next->at < next->end; i++, next->at += ATTEND_LINE) {
        __builtin_prefetch(next->at, 0, 2);
        if (again) __builtin_prefetch(next->at + (next->at < next->quarter ? next->early : next->late), 0, 2);
    }
}

/* The entries of a cache type, of the file's scores() and mix(). `how`: its own, when rows are converted once for all. */
#define ATTEND(name, half, how)                                                                                      \
    static void scores_##name(float *s, const void *q, size_t q_bytes, int32_t m, const void *k, size_t row_bytes,   \
                              int32_t head_dim, int32_t begin, int32_t end, const ht_attend_next *next)              \
    {                                                                                                                \
        scores(load_##name, half, how, s, q, (int64_t)(q_bytes / sizeof(float)), m, k, row_bytes, head_dim, begin,   \
               end, next->k, next->k_bytes);                                                                         \
    }                                                                                                                \
    static void mix_##name(float *acc, int64_t acc_stride, const float *s, const float *carry, int32_t m,            \
                           const void *v, size_t row_bytes, int32_t head_dim, int32_t begin, int32_t end,            \
                           const ht_attend_next *next)                                                               \
    {                                                                                                                \
        mix(load_##name, half, how, acc, acc_stride, s, carry, m, v, row_bytes, head_dim, begin, end, next->v,       \
            next->v_bytes);                                                                                          \
    }
#define ATTEND_FILL(k, name, type) ((k)->attend_scores[type] = scores_##name, (k)->attend_mix[type] = mix_##name)

#endif
