/* What the attention kernels of the levels above the reference share: how they prefetch, and what they fill the table with. */
#ifndef HEARTH_CPU_ATTEND_H
#define HEARTH_CPU_ATTEND_H

#include "core/ports/store.h"
#include "cpu/kernels.h"

#define ATTEND_LARGE_TILE (16 << 10) /* bytes of K or V of a head */

/* The share of a tile that belongs to tokens [t, t + n). */
static inline void attend_prefetch_tokens(const char *tile, size_t bytes, int32_t t, int32_t n)
{
    const uintptr_t end = (uintptr_t)tile + bytes * (size_t)(t + n) / HT_KV_TILE;
    for (uintptr_t line = (uintptr_t)tile + bytes * (size_t)t / HT_KV_TILE; line < end; line += 64)
        __builtin_prefetch((const void *)line, 0, 2);
}

/* While tokens [t, t + n) of the tile at `here` are attended to: what is read a tile later. Into L2: prefetches into L1 hold the
 * miss buffers that the tile itself needs (AVX-512, F16 from memory, heads of 64, one Zen 4 core: 10 GB/s of KV with them, 22
 * so). A prefetch that finds all miss buffers taken is dropped, so lines of large tiles are asked for again half a tile before
 * they are read (heads of 128: 18 GB/s once, 26 twice; small tiles lose by it: heads of 64 22 and 21). */
static inline void attend_prefetch(const char *here, const char *next, size_t bytes, int32_t t, int32_t n)
{
    const int32_t half = HT_KV_TILE / 2;
    if (!next) return;
    if (bytes >= ATTEND_LARGE_TILE) attend_prefetch_tokens(t < half ? here : next, bytes, (t + half) % HT_KV_TILE, n);
    attend_prefetch_tokens(next, bytes, t, n);
}

/* The entries of a cache type, of the file's scores() and mix(). `how`: its own, when rows are converted once for all. */
#define ATTEND(name, half, how)                                                                                      \
    static void scores_##name(float *s, const float *q, int64_t q_stride, int32_t m, const void *k,                  \
                              size_t k_row_bytes, int32_t head_dim, int32_t begin, int32_t end, const void *next,    \
                              size_t next_bytes)                                                                     \
    {                                                                                                                \
        scores(load_##name, half, how, s, q, q_stride, m, k, k_row_bytes, head_dim, begin, end, next, next_bytes);   \
    }                                                                                                                \
    static void mix_##name(float *acc, int64_t acc_stride, const float *s, const float *carry, int32_t m,            \
                           const void *v, size_t v_row_bytes, int32_t head_dim, int32_t begin, int32_t end,          \
                           const void *next, size_t next_bytes)                                                      \
    {                                                                                                                \
        mix(load_##name, half, how, acc, acc_stride, s, carry, m, v, v_row_bytes, head_dim, begin, end, next,        \
            next_bytes);                                                                                             \
    }
#define ATTEND_FILL(k, name, type) ((k)->attend_scores[type] = scores_##name, (k)->attend_mix[type] = mix_##name)

#endif
