/* How the AVX2 level reads woven tiles (core/model/tiles.h): the vectors that unpack_avx2.h turns lie there turned already,
 * two to a line: rows 0..7 and 8..15, its sides. What is made of them is the same, bit for bit.
 */
#ifndef HEARTH_CPU_WOVEN_AVX2_H
#define HEARTH_CPU_WOVEN_AVX2_H

#include "core/model/tiles.h"
#include "cpu/unpack_avx2.h"

#if defined(__AVX2__)

enum {
    SIDES = HT_TILE_ROWS / TILE_ROWS,
    WOVEN_DWORD = 4 * HT_TILE_ROWS, /* bytes of a unit of all rows */
    WOVEN_HALF = 2 * HT_TILE_ROWS,
};

TILE_INLINE __m256i woven_dword(const uint8_t *from, int side)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)(from + WOVEN_DWORD / SIDES * side));
}
TILE_INLINE __m128i woven_half(const uint8_t *from, int side)
{
    return _mm_loadu_si128((const __m128i *)(const void *)(from + WOVEN_HALF / SIDES * side));
}

/* Blocks of a group of a tile: small types without minimums are woven by twos. */
TILE_INLINE int woven_group_blocks(ht_type type)
{
    return unpack_group_blocks(type) == 1 && !unpack_has_min(type) ? 2 : unpack_group_blocks(type);
}
TILE_INLINE size_t woven_group_bytes(ht_type type)
{
    return HT_TILE_ROWS * unpack_group_bytes(type) * (size_t)(woven_group_blocks(type) / unpack_group_blocks(type));
}

/* Where the block, or the span, that begins with block b of the group at `from` has its quants: small types the upper bits
 * first. See quant_line. */
TILE_INLINE const uint8_t *woven_quants(ht_type type, const uint8_t *from, int b)
{
    const size_t span = (size_t)(b / unpack_span(type));
    switch (type) {
    case HT_Q2_K: return from + 2 * WOVEN_HALF + WOVEN_DWORD * (4 + 8 * span);
    case HT_Q3_K: return from + WOVEN_HALF + WOVEN_DWORD * (3 + 8 + 8 * span);
    case HT_Q4_K: return from + 2 * WOVEN_HALF + WOVEN_DWORD * (3 + 8 * span);
    case HT_Q5_K: return from + 2 * WOVEN_HALF + WOVEN_DWORD * (3 + 8 + 8 * span);
    case HT_Q6_K: return from + WOVEN_HALF + WOVEN_DWORD * (4 + 8 + 24 * span);
    case HT_IQ4_XS: return from + 2 * WOVEN_HALF + WOVEN_DWORD * (1 + 4 * span);
    default: return from + 2 * WOVEN_HALF + (HT_TILE_ROWS * unpack_group_bytes(type) - WOVEN_HALF) * span;
    }
}

/* Q3_K has upper bits 0..3, quants 0..3, upper bits 4..7, quants 4..15. */
TILE_INLINE int high_line(ht_type type, int i) { return type == HT_Q3_K && i >= 4 ? i + 4 : i; }
TILE_INLINE int quant_line(ht_type type, int b, int l) { return type == HT_Q3_K && b < 4 && l < 4 ? l - 4 : l; }

/* As unpack_group, of block b (of small types, else 0) of the group at `from`. */
TILE_INLINE void woven_group(ht_type type, const uint8_t *from, int b, int side, tile_group *g)
{
    __m256i t[4];
    const bool super = unpack_group_blocks(type) > 1, two = unpack_has_min(type) || type == HT_IQ4_XS;
    const int dwords = type == HT_Q2_K || type == HT_Q6_K ? 4 : type == HT_IQ4_XS ? 1 : 3; /* of scales */
    g->d = _mm256_cvtph_ps(woven_half(from + WOVEN_HALF * (unpack_has_min(type) ? 0 : b), side));
    if (unpack_has_min(type))
        g->dmin = _mm256_cvtph_ps(woven_half(from + WOVEN_HALF, side));
    if (!super) {
        if (type == HT_Q5_0 || type == HT_Q5_1)
            g->high[0] = woven_dword(woven_quants(type, from, b), side);
        return;
    }
    if (unpack_has_min(type))
        g->dmin = _mm256_sub_ps(_mm256_setzero_ps(), g->dmin);
    TILE_UNROLL for (int i = 0; i < dwords; i++)
        t[i] = woven_dword(from + WOVEN_HALF * (two ? 2 : 1) + WOVEN_DWORD * i, side);
    switch (type) {
    case HT_Q4_K: case HT_Q5_K:
        scales_4k(t, g);
        break;
    case HT_Q2_K:
        scales_2k(t, g);
        break;
    case HT_Q3_K:
        scales_3k(t, g->d, g);
        break;
    case HT_Q6_K:
        TILE_UNROLL for (int i = 0; i < 4; i++)
            g->s[i] = t[i];
        break;
    default: /* HT_IQ4_XS */
        t[1] = _mm256_cvtepu16_epi32(woven_half(from + WOVEN_HALF, side));
        scales_iq4_xs(pick_bytes(t[1], 0, 0, 1, 1), t[0], g);
        break;
    }
}

/* A span is read line by line. Line l holds vector l % 4 of these pieces, p < woven_pieces: */
TILE_INLINE int woven_lines(ht_type type) { return type == HT_Q6_K ? 16 : unpack_span(type) > 1 || type == HT_Q8_0 ? 8 : 4; }
TILE_INLINE int woven_pieces(ht_type type) { return type == HT_Q6_K ? 2 : unpack_pieces(type); }
TILE_INLINE int woven_piece(ht_type type, int l, int p) { return type == HT_Q6_K ? 2 * p + l / 8 : p; }
/* Types whose sums of both sides are more than there are registers take the lines of a span first for one side, then for the
 * other, from L1. (Zen 4, in L2, GB/s: Q2_K 17.6 else, 23.5 so.) */
TILE_INLINE bool woven_by_sides(ht_type type) { return type == HT_Q2_K || type == HT_Q3_K; }
/* Which chunk that is in unpack_chunk. */
TILE_INLINE int woven_chunk(int l) { return l / 4 % 2; }

/* Upper bits lie before the lines of a span, or of all spans, and are put aside before them, in memory: there are not registers
 * enough, and lines asked for in the order of addresses are what the CPU fetches ahead best. (Q6_K from memory, one Zen 4
 * core: 29% of a streaming read when upper bits were loaded with the quants they belong to.) */
typedef struct woven_aside { __m256i high[8][SIDES]; } woven_aside;

/* What the block or span that begins with block b of the group at `from` needs beside its lines. */
TILE_INLINE void woven_begin(ht_type type, const uint8_t *from, int b, tile_group g[SIDES], woven_aside *aside)
{
    TILE_UNROLL for (int side = 0; side < SIDES; side++) {
        if (b == 0 || unpack_group_blocks(type) == 1)
            woven_group(type, from, b, side, &g[side]);
    }
    if (type == HT_Q6_K || ((type == HT_Q5_K || type == HT_Q3_K) && b == 0)) {
        const uint8_t *high = woven_quants(type, from, b) - 8 * WOVEN_DWORD;
        TILE_UNROLL for (int i = 0; i < 8 * SIDES; i++)
            aside->high[i / SIDES][i % SIDES] = woven_dword(high + WOVEN_DWORD * high_line(type, i / SIDES), i % SIDES);
        __asm__ volatile("" : : "r"(aside) : "memory");
    }
}

/* What unpack_vector needs for line l of the span that begins with block b of the group at `from`. */
TILE_INLINE void woven_line(ht_type type, const uint8_t *from, const woven_aside *aside, int b, int l, int side, tile_chunk *o)
{
    const int i = l % 4;
    const uint8_t *quants = woven_quants(type, from, b);
    if (type == HT_Q5_0 || type == HT_Q5_1)
        quants += WOVEN_DWORD;
    o->q[i] = o->q2[i] = woven_dword(quants + WOVEN_DWORD * quant_line(type, b, l), side);
    if (type == HT_Q6_K || type == HT_Q5_K || type == HT_Q3_K)
        o->high[i] = aside->high[l % 8][side];
    if (type == HT_Q3_K)
        join_third(b, i, o);
}

/* The i-th of n parts of the prefetches of a group, as in woven_avx512.h. One Zen 4 core, share of a streaming read without
 * and with them: Q4_0 76 and 90%, Q4_K 88 and 93%, Q6_K 84 and 86%, Q5_0 82 and 86%. Not for Q8_0, which computes least, nor
 * for Q2_K and Q3_K, which the computing bounds: Q2_K 49 and 48%. */
TILE_INLINE void woven_prefetch_part(ht_type type, const uint8_t *group, int i, int n)
{
    const size_t lines = (woven_group_bytes(type) + 63) / 64;
    const size_t begin = lines * (size_t)i / (size_t)n, end = lines * (size_t)(i + 1) / (size_t)n;
    if (type == HT_Q8_0 || type == HT_Q2_K || type == HT_Q3_K)
        return;
    TILE_UNROLL for (size_t line = begin; line < end; line++) {
        TILE_UNROLL for (uintptr_t ahead = 4 << 10; ahead <= 16 << 10; ahead += 4 << 10)
            _mm_prefetch((const char *)((uintptr_t)group + 64 * line + ahead), _MM_HINT_T1);
    }
}

#endif
#endif
