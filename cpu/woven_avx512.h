/* How the AVX-512 level reads woven tiles (core/model/tiles.h): what unpack_avx512.h turns, lies there turned already, in the
 * order in which it is wanted. What is made of it (unpack_block) is the same, bit for bit.
 */
#ifndef HEARTH_CPU_WOVEN_AVX512_H
#define HEARTH_CPU_WOVEN_AVX512_H

#include "core/model/tiles.h"
#include "cpu/unpack_avx512.h"

#if defined(__AVX512VBMI__)

_Static_assert(TILE_ROWS == HT_TILE_ROWS, "a vector has a lane for each woven row");

enum { WOVEN_DWORD = 4 * TILE_ROWS, WOVEN_HALF = 2 * TILE_ROWS }; /* bytes of a unit of all rows */

TILE_INLINE void load_dwords(const uint8_t *from, int n, __m512i *out)
{
    TILE_UNROLL for (int i = 0; i < n; i++)
        out[i] = _mm512_loadu_si512(from + WOVEN_DWORD * i);
}
TILE_INLINE __m512i load_halves(const uint8_t *from)
{
    return _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(const void *)from));
}
TILE_INLINE __m512 negated_halves(const uint8_t *from)
{
    return _mm512_sub_ps(_mm512_setzero_ps(), lower_to_ps(load_halves(from)));
}

/* Scales of the super-block at `from`; small types have theirs with each block. */
TILE_INLINE void woven_scales(ht_type type, const uint8_t *from, tile_group *g)
{
    __m512i t[4];
    switch (type) {
    case HT_Q4_K: case HT_Q5_K:
        g->d = lower_to_ps(load_halves(from));
        g->dmin = negated_halves(from + WOVEN_HALF);
        load_dwords(from + 2 * WOVEN_HALF, 3, t);
        scales_4k(t, g);
        break;
    case HT_Q6_K:
        g->d = lower_to_ps(load_halves(from));
        load_dwords(from + WOVEN_HALF, 4, g->s);
        break;
    case HT_Q2_K:
        g->d = lower_to_ps(load_halves(from));
        g->dmin = negated_halves(from + WOVEN_HALF);
        load_dwords(from + 2 * WOVEN_HALF, 4, g->s);
        break;
    case HT_Q3_K:
        g->d = lower_to_ps(load_halves(from));
        load_dwords(from + WOVEN_HALF, 3, t);
        scales_3k(t, g);
        break;
    case HT_IQ4_XS:
        g->d = lower_to_ps(load_halves(from));
        t[0] = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(load_halves(from + WOVEN_HALF))), 16);
        load_dwords(from + 2 * WOVEN_HALF, 1, t + 1);
        scales_iq4_xs(t, g);
        break;
    default:
        break;
    }
}

/* Block b of a small type. Those without minimums are woven by twos: the scales of both, then the rest of each. */
TILE_INLINE void woven_small(ht_type type, const uint8_t *from, int b, tile_turned *o)
{
    const size_t block = TILE_ROWS * unpack_small_bytes(type);
    if (unpack_has_min(type)) {
        from += (size_t)b * block;
        o->d = load_halves(from);
        o->m = load_halves(from + WOVEN_HALF);
        from += 2 * WOVEN_HALF;
    } else {
        from += (size_t)(b / 2) * 2 * block;
        o->d = load_halves(from + WOVEN_HALF * (b % 2));
        from += 2 * WOVEN_HALF + (size_t)(b % 2) * (block - WOVEN_HALF);
    }
    if (type == HT_Q5_0 || type == HT_Q5_1) {
        load_dwords(from, 1, &o->high);
        from += WOVEN_DWORD;
    }
    load_dwords(from, type == HT_Q8_0 ? 8 : 4, o->t);
}

/* As turn_block, of the group at `from`. */
TILE_INLINE void woven_block(ht_type type, const uint8_t *from, int b, tile_group *g, tile_turned *o)
{
    const size_t i = (size_t)b;
    switch (type) {
    case HT_Q2_K:
        load_dwords(from + 2 * WOVEN_HALF + WOVEN_DWORD * (4 + 8 * (i / 4)), 8, o->t);
        break;
    case HT_Q3_K:
        from += WOVEN_HALF + 3 * WOVEN_DWORD;
        if (b == 0) {
            load_dwords(from, 4, g->more);
            load_dwords(from + WOVEN_DWORD * 4, 4, o->t);
            load_dwords(from + WOVEN_DWORD * 8, 4, g->more + 4);
            load_dwords(from + WOVEN_DWORD * 12, 4, o->t + 4);
        } else {
            load_dwords(from + WOVEN_DWORD * 16, 8, o->t);
        }
        break;
    case HT_Q4_K:
        load_dwords(from + 2 * WOVEN_HALF + WOVEN_DWORD * (3 + 8 * (i / 2)), 8, o->t);
        break;
    case HT_Q5_K:
        from += 2 * WOVEN_HALF + 3 * WOVEN_DWORD;
        if (b == 0)
            load_dwords(from, 8, g->more);
        load_dwords(from + WOVEN_DWORD * (8 + 8 * (i / 2)), 8, o->t);
        break;
    case HT_Q6_K:
        from += WOVEN_HALF + WOVEN_DWORD * (4 + 24 * (i / 4));
        if (b % 4 == 0)
            load_dwords(from, 8, g->more);
        load_dwords(from + WOVEN_DWORD * (8 + 8 * (i % 2)), 8, o->t);
        break;
    case HT_IQ4_XS:
        load_dwords(from + 2 * WOVEN_HALF + WOVEN_DWORD * (1 + 4 * i), 4, o->t);
        break;
    default:
        woven_small(type, from, b, o);
        break;
    }
}

/* A woven tile is read in order, which the CPU sees by itself and fetches ahead. Types that compute more on a line than Q8_0
 * gain by prefetches, since it sees their loads too late: the i-th of n parts of those of a group. A prefetch that finds all
 * miss buffers taken is dropped, so each line is asked for four times, 16, 12, 8 and 4 KiB ahead; once is worse than never.
 * Zen 4, share of a streaming read, never, three times (16, 8, 4 KiB) and four times: one core Q4_0 79-88, 93, 97%, Q6_K 72,
 * 87-89, 94%, Q4_K 91, 90-92, 93%, Q5_0 -, 89, 95%, Q8_0 100, 86, 93%; two cores and a read of 55 GB/s IQ4_XS -, 86, 96%, Q6_K
 * 78, 93, 94%. A fifth one costs more than it brings: in L2, 36 GB/s a core are left of 42. Farther ones, 32 or 64 KiB, bring
 * the same from one large matrix, but small ones lose by what is fetched beyond their ends: SmolLM2's shape decodes 366, 348
 * and 331 tok/s with 16, 32 and 64 KiB. */
TILE_INLINE void woven_prefetch_part(ht_type type, const uint8_t *group, int i, int n)
{
    const size_t lines = (TILE_ROWS * unpack_group_bytes(type) + 63) / 64;
    const size_t begin = lines * (size_t)i / (size_t)n, end = lines * (size_t)(i + 1) / (size_t)n;
    if (type == HT_Q8_0)
        return;
    __asm__ volatile(""); /* prefetches stay where they stand: see tile_prefetch_part */
    TILE_UNROLL for (size_t line = begin; line < end; line++) {
        TILE_UNROLL for (uintptr_t ahead = 4 << 10; ahead <= 16 << 10; ahead += 4 << 10)
            _mm_prefetch((const char *)((uintptr_t)group + 64 * line + ahead), _MM_HINT_T1);
    }
    __asm__ volatile("");
}

#endif
#endif
