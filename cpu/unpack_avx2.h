/* How the AVX2 level reads quantised weights: eight rows at a time, turned so that a vector lane is a row.
 *
 * 16 bytes of each of 8 rows are turned into four vectors of 8 dwords (a chunk). What they hold, nibbles or fields of 2
 * bits, belongs to one to four pieces: 16 columns of a block of 32, four vectors, dword r of vector i holding the weights
 * 4i..4i+3 of row r as bytes. Pieces come one at a time, so that what is alive fits into 16 registers.
 *
 *   weight[r][k] = d[r] * s[r] * (byte[r][k] - unpack_offset(type)) + min[r]
 *
 * s: the integer scale of a sub-block of 16 or 32, for types that have one. Bytes are unsigned and small, so that
 * products by pairs fit 16 bits, but signed where unpack_is_signed.
 */
#ifndef HEARTH_CPU_UNPACK_AVX2_H
#define HEARTH_CPU_UNPACK_AVX2_H

#include "cpu/kernels.h"

#if defined(__AVX2__)
#include <immintrin.h>
#include <string.h>

#define TILE_INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define TILE_UNROLL _Pragma("clang loop unroll(full)")
#else
#define TILE_UNROLL _Pragma("GCC unroll 32")
#endif

enum { TILE_ROWS = 8 };

/* Rows r = 0..7 are at row + r * stride: three registers beside what is read name them all. */
typedef struct tile_rows { const uint8_t *row; size_t stride; } tile_rows;

/* What is turned once for a group: F16 scales, scales by sub-block as bytes, four to a dword, and bits beyond those of the
 * chunks. */
typedef struct tile_group {
    __m256 d, dmin; /* dmin: negated */
    __m256i s[4], m[4], high[8];
} tile_group;

typedef struct tile_chunk { __m256i q[4], q2[4], high[4]; } tile_chunk;

/* What turns a block's integer sums into floats. */
typedef struct tile_scales {
    __m256i s[2]; /* of each 16 columns, as 16 bits twice in a dword; without s: ones */
    __m256i mins; /* HT_Q2_K: the minimums of both halves, 16 bits each */
    __m256 d, m;  /* m: the minimum, or what HT_Q2_K's are multiplied by */
} tile_scales;

TILE_INLINE int unpack_offset(ht_type type)
{
    switch (type) {
    case HT_Q4_0: return 8;
    case HT_Q5_0: return 16;
    case HT_Q6_K: return 32;
    case HT_Q3_K: return 4;
    default: return 0;
    }
}
TILE_INLINE bool unpack_is_signed(ht_type type) { return type == HT_Q8_0 || type == HT_IQ4_NL || type == HT_IQ4_XS; }
TILE_INLINE bool unpack_has_min(ht_type type)
{
    return type == HT_Q4_1 || type == HT_Q5_1 || type == HT_Q4_K || type == HT_Q5_K || type == HT_Q2_K;
}
TILE_INLINE bool unpack_halves(ht_type type) { return type == HT_Q6_K || type == HT_Q3_K || type == HT_Q2_K; }
/* Types with an integer scale by sub-block. */
TILE_INLINE bool unpack_has_scale(ht_type type)
{
    return type == HT_Q2_K || type == HT_Q3_K || type == HT_Q4_K || type == HT_Q5_K || type == HT_Q6_K || type == HT_IQ4_XS;
}
/* How many products of pairs may be summed in 16 bits. One product is at most 2 * 127 * (the largest byte), and never
 * saturates; sums may wrap around as long as the last of them fits: with the offset's share (tile_aux) it is
 * sum (byte - offset) * x over twice as many columns.
 *   Q4_0  2*8 * 127 * 8 = 16256       Q4_1, Q4_K  2*8 * 127 * 15 = 30480     Q5_0  2*8 * 127 * 16 = 32512
 *   Q5_1, Q5_K  2*4 * 127 * 31 = 31496    Q6_K  2*4 * 127 * 32 = 32512    IQ4_NL, IQ4_XS, Q8_0  2 * 127 * 128 = 32512
 *   Q3_K  2*4 * 127 * 4, Q2_K  2*4 * 127 * 12; not 8, for their scales are those of 16 columns */
TILE_INLINE int unpack_pairs(ht_type type)
{
    switch (type) {
    case HT_Q4_0: case HT_Q4_1: case HT_Q4_K: case HT_Q5_0: return 8;
    case HT_Q5_1: case HT_Q5_K: case HT_Q2_K: case HT_Q3_K: case HT_Q6_K: return 4;
    default: return 1;
    }
}
/* A group is what is unpacked in one go: a small block or a super-block. */
TILE_INLINE int unpack_group_blocks(ht_type type)
{
    switch (type) {
    case HT_Q4_0: case HT_Q4_1: case HT_Q5_0: case HT_Q5_1: case HT_Q8_0: case HT_IQ4_NL: return 1;
    default: return HT_QK_K / HT_QK;
    }
}
TILE_INLINE size_t unpack_group_bytes(ht_type type)
{
    switch (type) {
    case HT_Q4_0: return sizeof(ht_block_q4_0);
    case HT_IQ4_NL: return sizeof(ht_block_iq4_nl);
    case HT_Q4_1: return sizeof(ht_block_q4_1);
    case HT_Q5_0: return sizeof(ht_block_q5_0);
    case HT_Q5_1: return sizeof(ht_block_q5_1);
    case HT_Q8_0: return sizeof(ht_block_q8_0);
    case HT_Q2_K: return sizeof(ht_block_q2_k);
    case HT_Q3_K: return sizeof(ht_block_q3_k);
    case HT_Q4_K: return sizeof(ht_block_q4_k);
    case HT_Q5_K: return sizeof(ht_block_q5_k);
    case HT_Q6_K: return sizeof(ht_block_q6_k);
    default: return sizeof(ht_block_iq4_xs);
    }
}

/* ---- turning ---------------------------------------------------------------------------------------------- */

/* t[j] lane 4L + m = dword j of 128-bit lane L of v[m]. */
TILE_INLINE void turn4(const __m256i v[4], __m256i t[4])
{
    __m256i a = _mm256_unpacklo_epi32(v[0], v[1]), b = _mm256_unpackhi_epi32(v[0], v[1]);
    __m256i c = _mm256_unpacklo_epi32(v[2], v[3]), e = _mm256_unpackhi_epi32(v[2], v[3]);
    t[0] = _mm256_unpacklo_epi64(a, c);
    t[1] = _mm256_unpackhi_epi64(a, c);
    t[2] = _mm256_unpacklo_epi64(b, e);
    t[3] = _mm256_unpackhi_epi64(b, e);
}

/* 16 bytes at `at` of rows m and 4 + m. */
TILE_INLINE __m256i load_pair(const tile_rows *tile, size_t at, int m)
{
    const uint8_t *row = tile->row + at + (size_t)m * tile->stride;
    __m256i v = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)row));
    return _mm256_inserti128_si256(v, _mm_loadu_si128((const __m128i *)(const void *)(row + 4 * tile->stride)), 1);
}

/* 16 bytes at `at` of each row: t[j] lane r = dword j of row r. */
TILE_INLINE void turn_16_bytes(const tile_rows *tile, size_t at, __m256i t[4])
{
    __m256i v[4];
    TILE_UNROLL for (int m = 0; m < 4; m++)
        v[m] = load_pair(tile, at, m);
    turn4(v, t);
}

/* One F16 of each row. */
TILE_INLINE __m256 turn_half(const tile_rows *tile, size_t at)
{
    const uint8_t *low = tile->row + at, *high = low + 4 * tile->stride;
#define HALF(p, r) *(const uint16_t *)(const void *)(p + (r) * tile->stride)
    __m128i h = _mm_cvtsi32_si128(HALF(low, 0));
    h = _mm_insert_epi16(h, HALF(low, 1), 1);
    h = _mm_insert_epi16(h, HALF(low, 2), 2);
    h = _mm_insert_epi16(h, HALF(low, 3), 3);
    h = _mm_insert_epi16(h, HALF(high, 0), 4);
    h = _mm_insert_epi16(h, HALF(high, 1), 5);
    h = _mm_insert_epi16(h, HALF(high, 2), 6);
    h = _mm_insert_epi16(h, HALF(high, 3), 7);
#undef HALF
    return _mm256_cvtph_ps(h);
}

/* The F16s in the lower (0) or the upper (1) halves of dwords. */
TILE_INLINE __m256 turned_half(__m256i pairs, int upper)
{
    __m256i v = upper ? _mm256_srli_epi32(pairs, 16) : _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff));
    return _mm256_cvtph_ps(_mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
}

/* In each dword of v: bytes a, b, c, e of it; NONE: zero. */
enum { NONE = 0x80 };
TILE_INLINE __m256i pick_bytes(__m256i v, int a, int b, int c, int e)
{
    const int pick = (int)((unsigned)a | (unsigned)b << 8 | (unsigned)c << 16 | (unsigned)e << 24);
    return _mm256_shuffle_epi8(v, _mm256_add_epi8(_mm256_set1_epi32(pick),
                                                  _mm256_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c, 0, 0x04040404,
                                                                    0x08080808, 0x0c0c0c0c)));
}

/* ---- scales of a super-block --------------------------------------------------------------------------------- */

TILE_INLINE __m256i low_bits(__m256i v, int shift, int mask)
{
    return _mm256_and_si256(_mm256_srli_epi32(v, shift), _mm256_set1_epi8((char)mask));
}
TILE_INLINE __m256i join_bits(__m256i low, __m256i high, int shift)
{
    return _mm256_or_si256(low, _mm256_slli_epi32(high, shift));
}

/* The 6-bit scales and minimums of Q4_K and Q5_K, from their dwords. */
TILE_INLINE void scales_4k(const __m256i t[3], tile_group *g)
{
    g->s[0] = low_bits(t[0], 0, 63);
    g->m[0] = low_bits(t[1], 0, 63);
    g->s[1] = join_bits(low_bits(t[2], 0, 15), low_bits(t[0], 6, 3), 4);
    g->m[1] = join_bits(low_bits(t[2], 4, 15), low_bits(t[1], 6, 3), 4);
}

TILE_INLINE void scales_2k(const __m256i t[4], tile_group *g)
{
    TILE_UNROLL for (int i = 0; i < 4; i++) {
        g->s[i] = low_bits(t[i], 0, 15);
        g->m[i] = low_bits(t[i], 4, 15);
    }
}

/* Scales will be multiplied as the upper halves of 16 bits: 256 times too large, and d so much smaller. */
TILE_INLINE void scales_3k(const __m256i t[3], __m256 d, tile_group *g)
{
    const __m256i a = t[0], b = t[1], c = t[2], bias = _mm256_set1_epi8(32);
    g->d = _mm256_mul_ps(d, _mm256_set1_ps(1.0f / 256));
    g->s[0] = _mm256_sub_epi8(join_bits(low_bits(a, 0, 15), low_bits(c, 0, 3), 4), bias);
    g->s[1] = _mm256_sub_epi8(join_bits(low_bits(b, 0, 15), low_bits(c, 2, 3), 4), bias);
    g->s[2] = _mm256_sub_epi8(join_bits(low_bits(a, 4, 15), low_bits(c, 4, 3), 4), bias);
    g->s[3] = _mm256_sub_epi8(join_bits(low_bits(b, 4, 15), low_bits(c, 6, 3), 4), bias);
}

/* s[0]: the scales of the even blocks, s[1]: of the odd ones. h: scales_h, each of its bytes twice: two bits of four blocks,
 * of which byte 2i holds the lower two's. */
TILE_INLINE void scales_iq4_xs(__m256i h, __m256i low_dword, tile_group *g)
{
    const __m256i bias = _mm256_set1_epi8(32);
    const __m256i low = _mm256_set1_epi16(0x0030), high = _mm256_set1_epi16(0x3000);
    __m256i even = _mm256_or_si256(_mm256_and_si256(_mm256_slli_epi32(h, 4), low), _mm256_and_si256(h, high));
    __m256i odd = _mm256_or_si256(_mm256_and_si256(_mm256_slli_epi32(h, 2), low),
                                  _mm256_and_si256(_mm256_srli_epi32(h, 2), high));
    g->s[0] = _mm256_sub_epi8(_mm256_or_si256(low_bits(low_dword, 0, 15), even), bias);
    g->s[1] = _mm256_sub_epi8(_mm256_or_si256(low_bits(low_dword, 4, 15), odd), bias);
}

/* What block or super-block `at` needs beside its chunks. */
TILE_INLINE void unpack_group(ht_type type, const tile_rows *tile, size_t at, tile_group *g)
{
    __m256i t[4];
    switch (type) {
    case HT_Q4_0: case HT_IQ4_NL: case HT_Q8_0:
        g->d = turn_half(tile, at);
        break;
    case HT_Q4_1: case HT_Q5_0: case HT_Q5_1:
        turn_16_bytes(tile, at, t);
        g->d = turned_half(t[0], 0);
        if (type != HT_Q5_0)
            g->dmin = turned_half(t[0], 1);
        if (type == HT_Q5_0)
            g->high[0] = _mm256_or_si256(_mm256_srli_epi32(t[0], 16), _mm256_slli_epi32(t[1], 16));
        if (type == HT_Q5_1)
            g->high[0] = t[1];
        break;
    case HT_Q4_K: case HT_Q5_K:
        turn_16_bytes(tile, at, t);
        g->d = turned_half(t[0], 0);
        g->dmin = _mm256_sub_ps(_mm256_setzero_ps(), turned_half(t[0], 1));
        scales_4k(t + 1, g);
        break;
    case HT_Q6_K:
        turn_16_bytes(tile, at + offsetof(ht_block_q6_k, scales), g->s);
        g->d = turn_half(tile, at + offsetof(ht_block_q6_k, d));
        break;
    case HT_Q2_K:
        turn_16_bytes(tile, at + sizeof(ht_block_q2_k) - 16, t); /* d and dmin are the last dword */
        g->d = turned_half(t[3], 0);
        g->dmin = _mm256_sub_ps(_mm256_setzero_ps(), turned_half(t[3], 1));
        turn_16_bytes(tile, at, t);
        scales_2k(t, g);
        break;
    case HT_Q3_K:
        /* The last 16 bytes of the block are qs[62..63], scales, d. */
        TILE_UNROLL for (int m = 0; m < 4; m++)
            t[m] = _mm256_srli_si256(load_pair(tile, at + sizeof(ht_block_q3_k) - 16, m), 2);
        turn4(t, t);
        scales_3k(t, turned_half(t[3], 0), g);
        break;
    default: /* HT_IQ4_XS */
        turn_16_bytes(tile, at, t);
        g->d = turned_half(t[0], 0);
        scales_iq4_xs(pick_bytes(t[0], 2, 2, 3, 3), t[1], g);
        break;
    }
    if (type == HT_Q5_K || type == HT_Q3_K) {
        size_t high = at + (type == HT_Q5_K ? offsetof(ht_block_q5_k, qh) : offsetof(ht_block_q3_k, hmask));
        turn_16_bytes(tile, high, g->high);
        turn_16_bytes(tile, high + 16, g->high + 4);
    }
}

/* The integer scales of half h of block b (both are constants) of a group, as tile_scales.s. */
TILE_INLINE __m256i unpack_scale(ht_type type, const tile_group *g, int b, int h)
{
    const int i = 2 * b % 4 + h; /* of a half, in its dword */
    switch (type) {
    case HT_Q4_K: case HT_Q5_K: return pick_bytes(g->s[b / 4], b % 4, NONE, b % 4, NONE);
    case HT_Q2_K: return pick_bytes(g->s[b / 2], i, NONE, i, NONE);
    case HT_Q3_K: return pick_bytes(g->s[b / 2], NONE, i, NONE, i); /* 256 times: see scales_3k */
    case HT_Q6_K: return _mm256_srai_epi16(pick_bytes(g->s[b / 2], NONE, i, NONE, i), 8);
    case HT_IQ4_XS: return _mm256_srai_epi16(pick_bytes(g->s[b % 2], NONE, b / 2, NONE, b / 2), 8);
    default: return _mm256_set1_epi16(1);
    }
}

/* The rest of the scales of block b. */
TILE_INLINE void unpack_floats(ht_type type, const tile_group *g, int b, tile_scales *o)
{
    o->d = g->d;
    if (unpack_has_min(type))
        o->m = g->dmin;
    if (type == HT_Q4_K || type == HT_Q5_K)
        o->m = _mm256_mul_ps(g->dmin, _mm256_cvtepi32_ps(pick_bytes(g->m[b / 4], b % 4, NONE, NONE, NONE)));
    if (type == HT_Q2_K)
        o->mins = pick_bytes(g->m[b / 2], 2 * b % 4, NONE, 2 * b % 4 + 1, NONE);
}

TILE_INLINE void unpack_scales(ht_type type, const tile_group *g, int b, tile_scales *o)
{
    o->s[0] = unpack_scale(type, g, b, 0);
    o->s[1] = unpack_scale(type, g, b, 1);
    unpack_floats(type, g, b, o);
}

/* ---- weights of a block ------------------------------------------------------------------------------------- */

/* A span: the blocks of a group that share bytes. Its chunks hold `unpack_pieces` pieces each. */
TILE_INLINE int unpack_span(ht_type type)
{
    switch (type) {
    case HT_Q4_K: case HT_Q5_K: return 2;
    case HT_Q2_K: case HT_Q3_K: case HT_Q6_K: return 4;
    default: return 1;
    }
}
TILE_INLINE int unpack_pieces(ht_type type)
{
    switch (type) {
    case HT_Q8_0: return 1;
    case HT_Q2_K: case HT_Q3_K: case HT_Q6_K: return 4;
    default: return 2;
    }
}
/* Where piece p of chunk c of a span lies: which block of the span, and which 16 columns of it. */
TILE_INLINE int piece_block(ht_type type, int p) { return unpack_span(type) == 1 ? 0 : p; }
TILE_INLINE int piece_half(ht_type type, int c, int p)
{
    return unpack_span(type) == 1 && unpack_pieces(type) == 2 ? p : c;
}

/* Where chunk c of the span that begins with block b lies, in the group that begins at `at`. */
TILE_INLINE size_t chunk_at(ht_type type, size_t at, int b, int c)
{
    const size_t span = (size_t)(b / unpack_span(type)), part = 16 * (size_t)c;
    switch (type) {
    case HT_Q4_0: return at + offsetof(ht_block_q4_0, qs);
    case HT_Q4_1: return at + offsetof(ht_block_q4_1, qs);
    case HT_Q5_0: return at + offsetof(ht_block_q5_0, qs);
    case HT_Q5_1: return at + offsetof(ht_block_q5_1, qs);
    case HT_Q8_0: return at + offsetof(ht_block_q8_0, qs) + part;
    case HT_IQ4_NL: return at + offsetof(ht_block_iq4_nl, qs);
    case HT_IQ4_XS: return at + offsetof(ht_block_iq4_xs, qs) + 16 * span;
    case HT_Q4_K: return at + offsetof(ht_block_q4_k, qs) + 32 * span + part;
    case HT_Q5_K: return at + offsetof(ht_block_q5_k, qs) + 32 * span + part;
    case HT_Q2_K: return at + offsetof(ht_block_q2_k, qs) + 32 * span + part;
    case HT_Q3_K: return at + offsetof(ht_block_q3_k, qs) + 32 * span + part;
    default: return at + 64 * span + part; /* HT_Q6_K */
    }
}

/* In each byte of v (0..15): bit `first` (0 or 1) as 4, bit first + 2 as 64. */
TILE_INLINE __m256i spread_bits(__m256i v, int first)
{
    const __m256i table = first ? _mm256_setr_epi32(0x04040000, 0x04040000, 0x44444040, 0x44444040,
                                                    0x04040000, 0x04040000, 0x44444040, 0x44444040)
                                : _mm256_setr_epi32(0x04000400, 0x44404440, 0x04000400, 0x44404440,
                                                    0x04000400, 0x44404440, 0x04000400, 0x44404440);
    return _mm256_shuffle_epi8(table, v);
}

/* HT_Q3_K: vector i of a chunk becomes nibbles, of pieces 0 and 2, and of 1 and 3, with their third bits. */
TILE_INLINE void join_third(int b, int i, tile_chunk *o)
{
    const __m256i third = low_bits(o->high[i], b, 15), q = o->q[i];
    o->q2[i] = _mm256_or_si256(low_bits(q, 2, 0x33), spread_bits(third, 1));
    o->q[i] = _mm256_or_si256(low_bits(q, 0, 0x33), spread_bits(third, 0));
}

/* Chunk c of the span that begins with block b, of the group that begins at `at`. */
TILE_INLINE void unpack_chunk(ht_type type, const tile_rows *tile, size_t at, const tile_group *g, int b, int c,
                              tile_chunk *o)
{
    turn_16_bytes(tile, chunk_at(type, at, b, c), o->q);
    if (type == HT_Q6_K) { /* 64 bytes of nibbles and 32 of upper bits a span */
        turn_16_bytes(tile, chunk_at(type, at, b, c) + 32, o->q2);
        turn_16_bytes(tile, at + offsetof(ht_block_q6_k, qh) + 8 * (size_t)b + 16 * (size_t)c, o->high);
    }
    if (type == HT_Q5_K || type == HT_Q3_K) {
        TILE_UNROLL for (int i = 0; i < 4; i++)
            o->high[i] = g->high[4 * c + i];
    }
    TILE_UNROLL for (int i = 0; type == HT_Q3_K && i < 4; i++)
        join_third(b, i, o);
}

TILE_INLINE __m256i shift_bits(__m256i v, int left)
{
    return left > 0 ? _mm256_slli_epi32(v, left > 0 ? left : 0) : left < 0 ? _mm256_srli_epi32(v, left < 0 ? -left : 0) : v;
}

/* w | (bits & mask) */
TILE_INLINE __m256i add_bits(__m256i w, __m256i bits, int mask)
{
    return _mm256_or_si256(w, _mm256_and_si256(bits, _mm256_set1_epi8((char)mask)));
}

/* Bit 4i + j of each dword as 16 in byte j: the byte that holds the four bits, four times; then one bit of each, moved
 * to the upper nibble, where "at least 16" is "16". */
TILE_INLINE __m256i fifth_bits(__m256i qh, int i)
{
    const int at = i / 2;
    __m256i v = pick_bytes(i % 2 ? qh : _mm256_slli_epi32(qh, 4), at, at, at, at);
    return _mm256_min_epu8(_mm256_and_si256(v, _mm256_set1_epi32((int)0x80402010)), _mm256_set1_epi8(16));
}

TILE_INLINE __m256i iq4_values(__m256i nibbles)
{
    const __m256i table = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)ht_iq4_values));
    return _mm256_shuffle_epi8(table, nibbles);
}

/* Weights of piece p come so far shifted to the left: their sum is shifted back, which is cheaper. */
TILE_INLINE int unpack_shift(ht_type type, int p) { return type == HT_Q2_K && p % 2 ? 2 : 0; }

/* Vector i of piece p of a chunk of the span that begins with block b of the group. */
TILE_INLINE __m256i unpack_vector(ht_type type, const tile_group *g, const tile_chunk *k, int b, int p, int i)
{
    switch (type) {
    case HT_Q8_0:
        return k->q[i];
    case HT_Q2_K:
        return low_bits(k->q[i], 4 * (p / 2), 3 << unpack_shift(type, p));
    case HT_Q3_K:
        return low_bits(p % 2 ? k->q2[i] : k->q[i], 4 * (p / 2), 15);
    case HT_Q6_K:
        return add_bits(low_bits(p % 2 ? k->q2[i] : k->q[i], 4 * (p / 2), 15), shift_bits(k->high[i], 4 - 2 * p), 48);
    case HT_Q5_K:
        return add_bits(low_bits(k->q[i], 4 * p, 15), shift_bits(k->high[i], 4 - (b + p)), 16);
    case HT_Q5_0: case HT_Q5_1:
        return _mm256_or_si256(low_bits(k->q[i], 4 * p, 15), fifth_bits(g->high[0], 4 * p + i));
    case HT_IQ4_NL: case HT_IQ4_XS:
        return iq4_values(low_bits(k->q[i], 4 * p, 15));
    default: /* HT_Q4_0, HT_Q4_1, HT_Q4_K */
        return low_bits(k->q[i], 4 * p, 15);
    }
}

/* Piece p of such a chunk. */
TILE_INLINE void unpack_piece(ht_type type, const tile_group *g, const tile_chunk *k, int b, int p, __m256i w[4])
{
    TILE_UNROLL for (int i = 0; i < 4; i++)
        w[i] = unpack_vector(type, g, k, b, p, i);
}

/* The tile for row r of `rows`, whose first row is then *first and whose lanes that are not yet computed are in *mask;
 * returns the row after it. The last rows are computed together with some before them, or else one by one. */
TILE_INLINE int64_t tile_set(tile_rows *tile, const void *w, size_t row_bytes, int64_t rows, int64_t r, int64_t *first,
                             __m256i *mask)
{
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const bool whole = rows >= TILE_ROWS, last = whole && rows - r < TILE_ROWS;
    *first = last ? rows - TILE_ROWS : r;
    *tile = (tile_rows){(const uint8_t *)w + row_bytes * (size_t)*first, whole ? row_bytes : 0};
    *mask = whole ? _mm256_cmpgt_epi32(lanes, _mm256_set1_epi32((int)(r - *first) - 1))
                  : _mm256_cmpgt_epi32(_mm256_set1_epi32(1), lanes);
    return whole ? *first + TILE_ROWS : r + 1;
}

#endif
#endif
