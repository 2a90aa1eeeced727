/* How the AVX-512 level reads quantised weights: sixteen rows at a time, turned so that a vector lane is a row.
 *
 * A *tile* is 16 rows. For each block of 32 columns its weights become 8 vectors w[i] of 16 dwords, dword r of w[i]
 * holding the four weights 4i..4i+3 of row r as unsigned bytes, with the row's scale (and minimum) in lane r of
 * F32 vectors:
 *
 *   weight[r][k] = scale[r] * (byte[r][k] - unpack_offset(type)) + min[r]
 *
 * So a product with a column needs no sums across lanes, and x enters as dwords broadcast from memory as they are.
 * A *group* is what is unpacked in one go: a few small blocks, or one super-block.
 * Everything here is inlined with `type` and the block number as constants.
 */
#ifndef HEARTH_CPU_UNPACK_AVX512_H
#define HEARTH_CPU_UNPACK_AVX512_H

#include "cpu/kernels.h"

#if defined(__AVX512VBMI__)
#include <immintrin.h>
#include <string.h>

#define TILE_INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define TILE_UNROLL _Pragma("clang loop unroll(full)")
#else
#define TILE_UNROLL _Pragma("GCC unroll 32")
#endif

enum { TILE_ROWS = 16 };

/* Where a group of each row begins: base[r / 4] + r % 4 * stride. Sixteen pointers would not fit into the registers. */
typedef struct tile_rows { const uint8_t *base[TILE_ROWS / 4]; size_t stride, stride3; } tile_rows;
TILE_INLINE const uint8_t *tile_row(const tile_rows *t, int r)
{
    return t->base[r / 4] + (r % 4 == 3 ? t->stride3 : (size_t)(r % 4) * t->stride);
}
/* The same rows, with strides that the compiler takes for others: it would keep their sums with every offset, in memory. */
TILE_INLINE tile_rows tile_afresh(const tile_rows *t)
{
    tile_rows afresh = *t;
    __asm__("" : "+r"(afresh.stride), "+r"(afresh.stride3));
    return afresh;
}

/* Scales of a group, turned: what unpack_block picks from. Which fields are used depends on the type. */
typedef struct tile_group {
    __m512 d, dmin;     /* scales of a super-block */
    __m512i s[4], m[2]; /* scales by sub-block, four to a dword; or F16 scales of small blocks, 16 rows each */
    __m512i more[8];    /* turned, and of several blocks: their further bits; or the rest of a pair (turn_block) */
} tile_group;

/* What blocks are made of, turned but not yet taken apart. */
typedef struct tile_turned {
    __m512i t[8];
    __m512i high; /* Q5_0 and Q5_1: the dwords of fifth bits */
    __m512i d, m; /* Q5_0 and Q5_1: d is the dwords with scales; of a woven tile: F16 scales and minimums of small types */
} tile_turned;

typedef struct tile_block {
    __m512i w[8];
    __m512 d[2], m[2]; /* [1]: of the upper 16 columns, for types with sub-blocks of 16 */
    int shift[2];      /* unpacked raw: weights 0..15 and 16..31 are so many bits too high: none, the latter alone (of types
                        * without minimums too), or both alike (of types with minimums); 0 for sub-blocks of 16 */
} tile_block;

TILE_INLINE int unpack_offset(ht_type type)
{
    switch (type) {
    case HT_Q4_0: return 8;
    case HT_Q5_0: return 16;
    case HT_Q6_K: return 32;
    case HT_Q3_K: return 4;
    case HT_Q8_0: case HT_IQ4_NL: case HT_IQ4_XS: return 128;
    default: return 0;
    }
}
TILE_INLINE bool unpack_has_min(ht_type type)
{
    return type == HT_Q4_1 || type == HT_Q5_1 || type == HT_Q4_K || type == HT_Q5_K || type == HT_Q2_K;
}
TILE_INLINE bool unpack_halves(ht_type type)
{
    return type == HT_Q6_K || type == HT_Q3_K || type == HT_Q2_K;
}
/* Multiplied as scaled_avx512.h has it. */
TILE_INLINE bool unpack_scaled(ht_type type) { return type == HT_Q2_K || type == HT_Q3_K; }
/* Blocks of 32 in a group, and a group's bytes. Groups of small blocks are as long as one 64-byte load finds scales, or
 * (Q5_0, Q5_1) two pairs. */
TILE_INLINE int unpack_group_blocks(ht_type type)
{
    switch (type) {
    case HT_Q4_0: case HT_IQ4_NL: case HT_Q4_1: case HT_Q5_0: case HT_Q5_1: return 4;
    case HT_Q8_0: return 2;
    default: return HT_QK_K / HT_QK;
    }
}
TILE_INLINE size_t unpack_group_bytes(ht_type type)
{
    switch (type) {
    case HT_Q4_0: return 4 * sizeof(ht_block_q4_0);
    case HT_IQ4_NL: return 4 * sizeof(ht_block_iq4_nl);
    case HT_Q4_1: return 4 * sizeof(ht_block_q4_1);
    case HT_Q5_0: return 4 * sizeof(ht_block_q5_0);
    case HT_Q5_1: return 4 * sizeof(ht_block_q5_1);
    case HT_Q8_0: return 2 * sizeof(ht_block_q8_0);
    case HT_Q2_K: return sizeof(ht_block_q2_k);
    case HT_Q3_K: return sizeof(ht_block_q3_k);
    case HT_Q4_K: return sizeof(ht_block_q4_k);
    case HT_Q5_K: return sizeof(ht_block_q5_k);
    case HT_Q6_K: return sizeof(ht_block_q6_k);
    default: return sizeof(ht_block_iq4_xs);
    }
}
/* The order in which a group's blocks are taken: those that share loaded bytes are neighbours. */
TILE_INLINE int unpack_order(ht_type type, int i)
{
    return type == HT_Q6_K ? (i & 4) | (i & 1) << 1 | (i >> 1 & 1) : i;
}
/* How many neighbours (in that order) are made of the same bytes. */
TILE_INLINE int unpack_share(ht_type type)
{
    return type == HT_Q2_K || type == HT_Q3_K ? 4 : type == HT_Q4_K || type == HT_Q5_K || type == HT_Q6_K ? 2 : 1;
}
TILE_INLINE bool unpack_is_small(ht_type type) { return unpack_group_blocks(type) < HT_QK_K / HT_QK; }

/* ---- turning ---------------------------------------------------------------------------------------------- */

/* t[j] lane 4L + m = dword j of lane L of v[m]. */
TILE_INLINE void turn4(const __m512i v[4], __m512i t[4])
{
    __m512i a = _mm512_unpacklo_epi32(v[0], v[1]), b = _mm512_unpackhi_epi32(v[0], v[1]);
    __m512i c = _mm512_unpacklo_epi32(v[2], v[3]), e = _mm512_unpackhi_epi32(v[2], v[3]);
    t[0] = _mm512_unpacklo_epi64(a, c);
    t[1] = _mm512_unpackhi_epi64(a, c);
    t[2] = _mm512_unpacklo_epi64(b, e);
    t[3] = _mm512_unpackhi_epi64(b, e);
}

/* 16 bytes at `at` of each row: t[j] lane r = dword j of row r. */
TILE_INLINE void turn_16_bytes(const tile_rows *rows, size_t at, __m512i t[4])
{
    const tile_rows afresh = tile_afresh(rows), *tile = &afresh;
    __m512i v[4];
    TILE_UNROLL for (int m = 0; m < 4; m++) {
#define ROW(r) _mm_loadu_si128((const __m128i *)(tile_row(tile, r) + at))
        __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(ROW(m)), ROW(4 + m), 1);
        __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(ROW(8 + m)), ROW(12 + m), 1);
        v[m] = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
#undef ROW
    }
    turn4(v, t);
}

/* 32 bytes of each row: t[j] lane r = dword j of row r, j < 8. */
TILE_INLINE void turn_32_bytes(const tile_rows *rows, size_t at, __m512i t[8])
{
    const tile_rows afresh = tile_afresh(rows), *tile = &afresh;
    __m512i u[2][4];
    TILE_UNROLL for (int h = 0; h < 2; h++) {
        __m512i v[4];
        TILE_UNROLL for (int m = 0; m < 4; m++) {
            const uint8_t *low = tile_row(tile, 8 * h + m) + at, *high = tile_row(tile, 8 * h + 4 + m) + at;
            v[m] = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)low));
            v[m] = _mm512_inserti64x4(v[m], _mm256_loadu_si256((const __m256i *)high), 1);
        }
        turn4(v, u[h]); /* lanes: rows 0-3 dwords 0-3, rows 0-3 dwords 4-7, rows 4-7 dwords 0-3, ... */
    }
    TILE_UNROLL for (int j = 0; j < 4; j++) {
        t[j] = _mm512_shuffle_i64x2(u[0][j], u[1][j], 0x88);
        t[4 + j] = _mm512_shuffle_i64x2(u[0][j], u[1][j], 0xdd);
    }
}

/* One F16 of each row, at super-block distance: rare enough for plain loads. */
TILE_INLINE __m512 turn_half(const tile_rows *tile, size_t at)
{
    __m256i h = _mm256_setzero_si256();
#define HALF(r) *(const uint16_t *)(tile_row(tile, r) + at)
    __m128i low = _mm_cvtsi32_si128(HALF(0)), high = _mm_cvtsi32_si128(HALF(8));
    low = _mm_insert_epi16(low, HALF(1), 1), high = _mm_insert_epi16(high, HALF(9), 1);
    low = _mm_insert_epi16(low, HALF(2), 2), high = _mm_insert_epi16(high, HALF(10), 2);
    low = _mm_insert_epi16(low, HALF(3), 3), high = _mm_insert_epi16(high, HALF(11), 3);
    low = _mm_insert_epi16(low, HALF(4), 4), high = _mm_insert_epi16(high, HALF(12), 4);
    low = _mm_insert_epi16(low, HALF(5), 5), high = _mm_insert_epi16(high, HALF(13), 5);
    low = _mm_insert_epi16(low, HALF(6), 6), high = _mm_insert_epi16(high, HALF(14), 6);
    low = _mm_insert_epi16(low, HALF(7), 7), high = _mm_insert_epi16(high, HALF(15), 7);
#undef HALF
    h = _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
    return _mm512_cvtph_ps(h);
}

TILE_INLINE __m512i or_3(__m512i a, __m512i b, __m512i c) { return _mm512_ternarylogic_epi32(a, b, c, 0xfe); }

TILE_INLINE __m512i load_group_line(const tile_rows *tile, int r, size_t at)
{
    return _mm512_loadu_si512(tile_row(tile, r) + at);
}

/* F16 scales of four blocks that lie `words` 16-bit words apart: s[b], 16 rows in the lower half. The words of rows r and
 * r + 1 of a half tile go to words r and r + 1, 8 + r and 9 + r, ... */
TILE_INLINE void turn_halves_of_4(const tile_rows *tile, size_t at, int words, __m512i s[4])
{
    const __m512i odd = _mm512_set1_epi32(32 << 16); /* of the second row */
    const __m512i index = _mm512_or_si512(odd, _mm512_inserti64x4(
        _mm512_castsi256_si512(_mm256_inserti128_si256(_mm256_setzero_si256(), _mm_set1_epi16((short)words), 1)),
        _mm256_inserti128_si256(_mm256_set1_epi16((short)(2 * words)), _mm_set1_epi16((short)(3 * words)), 1), 1));
    __m512i pair[8];
    TILE_UNROLL for (int r = 0; r < TILE_ROWS; r += 2) {
        const __mmask32 k = (__mmask32)(0x03030303u << r % 8);
        pair[r / 2] = _mm512_maskz_permutex2var_epi16(k, load_group_line(tile, r, at), index,
                                                      load_group_line(tile, r + 1, at));
    }
    __m512i low = _mm512_or_si512(or_3(pair[0], pair[1], pair[2]), pair[3]);
    __m512i high = _mm512_or_si512(or_3(pair[4], pair[5], pair[6]), pair[7]);
    const __m512i first = _mm512_set_epi64(11, 10, 3, 2, 9, 8, 1, 0);
    const __m512i last = _mm512_set_epi64(15, 14, 7, 6, 13, 12, 5, 4);
    __m512i a = _mm512_permutex2var_epi64(low, first, high), b = _mm512_permutex2var_epi64(low, last, high);
    s[0] = a;
    s[1] = _mm512_castsi256_si512(_mm512_extracti64x4_epi64(a, 1));
    s[2] = b;
    s[3] = _mm512_castsi256_si512(_mm512_extracti64x4_epi64(b, 1));
}

/* The same for two blocks. */
TILE_INLINE void turn_halves_of_2(const tile_rows *tile, size_t at, int words, __m512i s[2])
{
    const __m512i index = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16((short)words), 1);
    __m512i low = _mm512_setzero_si512(), high = low;
    TILE_UNROLL for (int r = 0; r < 8; r++) {
        low = _mm512_mask_permutexvar_epi16(low, (__mmask32)(0x00010001u << r), index, load_group_line(tile, r, at));
        high = _mm512_mask_permutexvar_epi16(high, (__mmask32)(0x01000100u << r), index,
                                             load_group_line(tile, 8 + r, at));
    }
    s[0] = _mm512_or_si512(low, high);
    s[1] = _mm512_castsi256_si512(_mm512_extracti64x4_epi64(s[0], 1));
}

/* Pairs of F16 (d, m) of four blocks 20 bytes apart: s[b] lane r = the dword of row r. */
TILE_INLINE void turn_pairs_of_4(const tile_rows *tile, size_t at, __m512i s[4])
{
    const __m512i index = _mm512_set_epi32(15, 15, 15, 15, 10, 10, 10, 10, 5, 5, 5, 5, 0, 0, 0, 0);
    __m512i g[4];
    TILE_UNROLL for (int i = 0; i < 4; i++) {
        g[i] = _mm512_permutexvar_epi32(index, load_group_line(tile, 4 * i, at));
        TILE_UNROLL for (int r = 1; r < 4; r++)
            g[i] = _mm512_mask_permutexvar_epi32(g[i], (__mmask16)(0x1111 << r), index,
                                                 load_group_line(tile, 4 * i + r, at));
    }
    /* 4 x 4 lanes of 128 bits: g[i] lane b -> s[b] lane i. */
    __m512i a = _mm512_shuffle_i64x2(g[0], g[1], 0x44), b = _mm512_shuffle_i64x2(g[0], g[1], 0xee);
    __m512i c = _mm512_shuffle_i64x2(g[2], g[3], 0x44), e = _mm512_shuffle_i64x2(g[2], g[3], 0xee);
    s[0] = _mm512_shuffle_i64x2(a, c, 0x88);
    s[1] = _mm512_shuffle_i64x2(a, c, 0xdd);
    s[2] = _mm512_shuffle_i64x2(b, e, 0x88);
    s[3] = _mm512_shuffle_i64x2(b, e, 0xdd);
}

TILE_INLINE __m512 low_halves(__m512i pairs) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(pairs)); }
TILE_INLINE __m512 high_halves(__m512i pairs) { return low_halves(_mm512_srli_epi32(pairs, 16)); }
TILE_INLINE __m512 lower_to_ps(__m512i halves) { return _mm512_cvtph_ps(_mm512_castsi512_si256(halves)); }

/* Byte i of each dword of s[i / 4] as a number. */
TILE_INLINE __m512 scale_u8(const __m512i *s, int i)
{
    return _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(s[i / 4], 8 * (i % 4)), _mm512_set1_epi32(255)));
}
TILE_INLINE __m512 scale_s8(const __m512i *s, int i)
{
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(s[i / 4], 24 - 8 * (i % 4)), 24));
}

/* ---- scales of a group ------------------------------------------------------------------------------------- */

TILE_INLINE __m512i low_bits(__m512i v, int shift, int mask)
{
    return _mm512_and_si512(_mm512_srli_epi32(v, (unsigned)shift), _mm512_set1_epi8((char)mask));
}
TILE_INLINE __m512i join_bits(__m512i low, __m512i high, int shift)
{
    return _mm512_or_si512(low, _mm512_slli_epi32(high, (unsigned)shift));
}

/* The 6-bit scales and minimums of Q4_K and Q5_K: 12 bytes of each row. */
TILE_INLINE void scales_4k(const __m512i t[3], tile_group *g)
{
    g->s[0] = low_bits(t[0], 0, 63);
    g->m[0] = low_bits(t[1], 0, 63);
    g->s[1] = join_bits(low_bits(t[2], 0, 15), low_bits(t[0], 6, 3), 4);
    g->m[1] = join_bits(low_bits(t[2], 4, 15), low_bits(t[1], 6, 3), 4);
}

/* The 6-bit scales of Q3_K: 12 bytes of each row. */
TILE_INLINE void scales_3k(const __m512i t[3], tile_group *g)
{
    const __m512i bias = _mm512_set1_epi8(32);
    g->s[0] = _mm512_sub_epi8(join_bits(low_bits(t[0], 0, 15), low_bits(t[2], 0, 3), 4), bias);
    g->s[1] = _mm512_sub_epi8(join_bits(low_bits(t[1], 0, 15), low_bits(t[2], 2, 3), 4), bias);
    g->s[2] = _mm512_sub_epi8(join_bits(low_bits(t[0], 4, 15), low_bits(t[2], 4, 3), 4), bias);
    g->s[3] = _mm512_sub_epi8(join_bits(low_bits(t[1], 4, 15), low_bits(t[2], 6, 3), 4), bias);
}

/* The 6-bit scales of IQ4_XS. t: scales_h in the upper halves, scales_l. */
TILE_INLINE void scales_iq4_xs(const __m512i t[2], tile_group *g)
{
    /* scales_h: 2 bits for each of 8 sub-blocks; each byte takes its own by a shift within the quadword. */
    const __m512i shift0 = _mm512_set1_epi64(0x3634323016141210), shift1 = _mm512_set1_epi64(0x3e3c3a381e1c1a18);
    __m512i high0 = _mm512_and_si512(_mm512_multishift_epi64_epi8(shift0, t[0]), _mm512_set1_epi8(3));
    __m512i high1 = _mm512_and_si512(_mm512_multishift_epi64_epi8(shift1, t[0]), _mm512_set1_epi8(3));
    /* scales_l: nibbles 0..7, so bytes 0, 1 make sub-blocks 0..3 and bytes 2, 3 make 4..7. */
    const __m512i nibble0 = _mm512_set1_epi64(0x2c2824200c080400), nibble1 = _mm512_set1_epi64(0x3c3834301c181410);
    __m512i low0 = _mm512_and_si512(_mm512_multishift_epi64_epi8(nibble0, t[1]), _mm512_set1_epi8(15));
    __m512i low1 = _mm512_and_si512(_mm512_multishift_epi64_epi8(nibble1, t[1]), _mm512_set1_epi8(15));
    const __m512i bias = _mm512_set1_epi8(32);
    g->s[0] = _mm512_sub_epi8(join_bits(low0, high0, 4), bias);
    g->s[1] = _mm512_sub_epi8(join_bits(low1, high1, 4), bias);
}

TILE_INLINE void unpack_scales(ht_type type, const tile_rows *tile, size_t at, tile_group *g)
{
    __m512i t[4];
    switch (type) {
    case HT_Q4_0: case HT_IQ4_NL:
        turn_halves_of_4(tile, at, sizeof(ht_block_q4_0) / 2, g->s);
        break;
    case HT_Q4_1:
        turn_pairs_of_4(tile, at, g->s);
        break;
    case HT_Q8_0:
        turn_halves_of_2(tile, at, sizeof(ht_block_q8_0) / 2, g->s);
        break;
    case HT_Q4_K: case HT_Q5_K:
        turn_16_bytes(tile, at, t);
        g->d = low_halves(t[0]);
        g->dmin = _mm512_sub_ps(_mm512_setzero_ps(), high_halves(t[0]));
        scales_4k(t + 1, g);
        break;
    case HT_Q6_K:
        turn_16_bytes(tile, at + offsetof(ht_block_q6_k, scales), g->s);
        g->d = turn_half(tile, at + offsetof(ht_block_q6_k, d));
        break;
    case HT_Q2_K:
        turn_16_bytes(tile, at, g->s);
        turn_16_bytes(tile, at + sizeof(ht_block_q2_k) - 16, t); /* d and dmin are the last dword */
        g->d = low_halves(t[3]);
        g->dmin = _mm512_sub_ps(_mm512_setzero_ps(), high_halves(t[3]));
        break;
    case HT_Q3_K:
        /* The last 16 bytes of the block: two of qs, scales, d. */
        turn_16_bytes(tile, at + sizeof(ht_block_q3_k) - 16, t);
        g->d = high_halves(t[3]);
        TILE_UNROLL for (int i = 0; i < 3; i++)
            t[i] = _mm512_shrdi_epi32(t[i], t[i + 1], 16);
        scales_3k(t, g);
        break;
    case HT_IQ4_XS:
        turn_16_bytes(tile, at, t);
        g->d = low_halves(t[0]);
        scales_iq4_xs(t, g);
        break;
    default: /* Q5_0, Q5_1 keep theirs beside the quants */
        break;
    }
}

/* ---- weights of a block ------------------------------------------------------------------------------------- */

/* Loads and turns what block b (a constant) is made of. What several blocks share is turned with the first of them, in the
 * order of unpack_order, by the same `g` and, as unpack_share says, the same `o`. */
TILE_INLINE void turn_block(ht_type type, const tile_rows *tile, int b, tile_group *g, tile_turned *o)
{
    const size_t i = (size_t)b;
    __m512i t[4];
    switch (type) {
    case HT_Q4_0: case HT_IQ4_NL:
        turn_16_bytes(tile, i * sizeof(ht_block_q4_0) + offsetof(ht_block_q4_0, qs), o->t);
        break;
    case HT_Q4_1:
        turn_16_bytes(tile, i * sizeof(ht_block_q4_1) + offsetof(ht_block_q4_1, qs), o->t);
        break;
    case HT_Q5_0:
        /* A pair is 11 dwords: half of one is d, then follow qh and qs, half a dword off; the second block is not off. */
        if (b % 2 == 0) {
            turn_16_bytes(tile, i * sizeof(ht_block_q5_0), t);
            turn_16_bytes(tile, i * sizeof(ht_block_q5_0) + 16, g->more);
            o->d = t[0];
            o->high = _mm512_shrdi_epi32(t[0], t[1], 16);
            o->t[0] = _mm512_shrdi_epi32(t[1], t[2], 16);
            o->t[1] = _mm512_shrdi_epi32(t[2], t[3], 16);
            o->t[2] = _mm512_shrdi_epi32(t[3], g->more[0], 16);
            o->t[3] = _mm512_shrdi_epi32(g->more[0], g->more[1], 16);
        } else {
            o->d = _mm512_srli_epi32(g->more[1], 16);
            o->high = g->more[2];
            turn_16_bytes(tile, i * sizeof(ht_block_q5_0) + offsetof(ht_block_q5_0, qs), o->t);
        }
        break;
    case HT_Q5_1:
        /* A pair is 12 dwords. */
        if (b % 2 == 0) {
            turn_16_bytes(tile, i * sizeof(ht_block_q5_1), t);
            turn_16_bytes(tile, i * sizeof(ht_block_q5_1) + 16, g->more);
            o->d = t[0], o->high = t[1];
            o->t[0] = t[2], o->t[1] = t[3], o->t[2] = g->more[0], o->t[3] = g->more[1];
        } else {
            o->d = g->more[2], o->high = g->more[3];
            turn_16_bytes(tile, i * sizeof(ht_block_q5_1) + offsetof(ht_block_q5_1, qs), o->t);
        }
        break;
    case HT_Q8_0:
        turn_32_bytes(tile, i * sizeof(ht_block_q8_0) + offsetof(ht_block_q8_0, qs), o->t);
        break;
    case HT_Q2_K:
        turn_32_bytes(tile, offsetof(ht_block_q2_k, qs) + 32 * (i / 4), o->t);
        break;
    case HT_Q3_K:
        if (b == 0)
            turn_32_bytes(tile, offsetof(ht_block_q3_k, hmask), g->more);
        turn_32_bytes(tile, offsetof(ht_block_q3_k, qs) + 32 * (i / 4), o->t);
        break;
    case HT_Q4_K:
        turn_32_bytes(tile, offsetof(ht_block_q4_k, qs) + 32 * (i / 2), o->t);
        break;
    case HT_Q5_K:
        if (b == 0)
            turn_32_bytes(tile, offsetof(ht_block_q5_k, qh), g->more);
        turn_32_bytes(tile, offsetof(ht_block_q5_k, qs) + 32 * (i / 2), o->t);
        break;
    case HT_Q6_K:
        if (b % 4 == 0)
            turn_32_bytes(tile, offsetof(ht_block_q6_k, qh) + 32 * (i / 4), g->more);
        turn_32_bytes(tile, 64 * (i / 4) + 32 * (i % 2), o->t);
        break;
    default: /* HT_IQ4_XS */
        turn_16_bytes(tile, offsetof(ht_block_iq4_xs, qs) + 16 * i, o->t);
        break;
    }
}

TILE_INLINE __m512i and_bits(__m512i v, int mask) { return _mm512_and_si512(v, _mm512_set1_epi8((char)mask)); }
/* low | (high & mask) */
TILE_INLINE __m512i or_bits(__m512i low, __m512i high, int mask)
{
    return _mm512_ternarylogic_epi32(low, high, _mm512_set1_epi8((char)mask), 0xf8);
}
/* The low nibble of each byte of `low`, the high one of `high`. */
TILE_INLINE __m512i join_nibbles(__m512i low, __m512i high)
{
    return _mm512_ternarylogic_epi32(high, low, _mm512_set1_epi8(15), 0xd8);
}
/* Of each byte, n bits from bit `from` on, moved to bit `to` on; zeros around them. */
TILE_INLINE __m512i move_bits(__m512i v, int from, int n, int to)
{
    uint64_t matrix = 0; /* byte 7 - i: the bits whose sum modulo 2 becomes bit i */
    for (int i = 0; i < n; i++)
        matrix |= (uint64_t)1 << (8 * (7 - (to + i)) + from + i);
    return _mm512_gf2p8affine_epi64_epi8(v, _mm512_set1_epi64((long long)matrix), 0);
}

/* 16 bytes of nibbles: low ones are elements 0..15, high ones 16..31. Raw: those stay where they are. */
TILE_INLINE void nibbles_16(bool raw, const __m512i t[4], tile_block *o)
{
    TILE_UNROLL for (int i = 0; i < 4; i++) {
        o->w[i] = and_bits(t[i], 15);
        o->w[4 + i] = raw ? and_bits(t[i], 0xf0) : move_bits(t[i], 4, 4, 0);
    }
    o->shift[1] = raw ? 4 : 0;
}

/* Adds bit `4i + j` of the dword qh to byte j of w[i], as 16. */
TILE_INLINE void fifth_bits(__m512i qh, __m512i w[8])
{
    /* Byte j of a row's dword takes 8 bits of the quadword from the bit that must become bit 4, minus 4. */
    const uint64_t low = 0x03020100, high = 0x23222120, all = 0x0101010101010101;
    TILE_UNROLL for (int i = 0; i < 8; i++) {
        uint64_t shift = (low | high << 32) + all * (uint64_t)(4 * i);
        __m512i at = _mm512_set1_epi64((long long)((shift + all * 60) & (all * 63)));
        w[i] = or_bits(w[i], _mm512_multishift_epi64_epi8(at, qh), 16);
    }
}

/* The table four times over: an index may hold anything above its low nibble. */
TILE_INLINE void iq4_values(const __m512i t[4], __m512i w[8])
{
    const __m512i table = _mm512_xor_si512(
        _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)ht_iq4_values)), _mm512_set1_epi8(-128));
    TILE_UNROLL for (int i = 0; i < 4; i++) {
        w[i] = _mm512_permutexvar_epi8(t[i], table);
        w[4 + i] = _mm512_permutexvar_epi8(_mm512_srli_epi32(t[i], 4), table);
    }
}

/* Scale and minimum of a block of a small type. */
TILE_INLINE void unpack_small_scales(ht_type type, bool woven, const tile_turned *from, const tile_group *g, int b,
                                     tile_block *o)
{
    if (woven) {
        o->d[0] = lower_to_ps(from->d);
        if (unpack_has_min(type))
            o->m[0] = lower_to_ps(from->m);
    } else if (type == HT_Q5_0 || type == HT_Q5_1) {
        o->d[0] = low_halves(from->d);
        if (type == HT_Q5_1)
            o->m[0] = high_halves(from->d);
    } else if (type == HT_Q4_1) {
        o->d[0] = low_halves(g->s[b]);
        o->m[0] = high_halves(g->s[b]);
    } else {
        o->d[0] = lower_to_ps(g->s[b]);
    }
}

TILE_INLINE void unpack_small(ht_type type, bool raw, const tile_turned *from, tile_block *o)
{
    const __m512i *t = from->t;
    switch (type) {
    case HT_Q4_0: case HT_Q4_1:
        nibbles_16(raw, t, o);
        break;
    case HT_IQ4_NL:
        iq4_values(t, o->w);
        break;
    case HT_Q5_0: case HT_Q5_1:
        nibbles_16(false, t, o);
        fifth_bits(from->high, o->w);
        break;
    default: /* HT_Q8_0 */
        TILE_UNROLL for (int i = 0; i < 8; i++)
            o->w[i] = _mm512_xor_si512(t[i], _mm512_set1_epi8(-128));
        break;
    }
}

/* `mask` of each byte, from bit `shift` on. */
TILE_INLINE void bits_32(bool raw, const __m512i t[8], int shift, int mask, tile_block *o)
{
    TILE_UNROLL for (int i = 0; i < 8; i++)
        o->w[i] = raw ? and_bits(t[i], mask << shift) : low_bits(t[i], shift, mask);
    o->shift[0] = o->shift[1] = raw ? shift : 0;
}

TILE_INLINE void unpack_super(ht_type type, bool raw, const tile_turned *from, const tile_group *g, int b, tile_block *o)
{
    const __m512i *t = from->t, *more = g->more;
    switch (type) {
    case HT_Q4_K: case HT_Q5_K:
        if (type == HT_Q4_K) {
            bits_32(raw, t, 4 * (b % 2), 15, o);
        } else {
            TILE_UNROLL for (int i = 0; i < 8; i++)
                o->w[i] = join_nibbles(b % 2 == 0 ? t[i] : _mm512_srli_epi32(t[i], 4), move_bits(more[i], b, 1, 4));
        }
        o->d[0] = _mm512_mul_ps(g->d, scale_u8(g->s, b));
        o->m[0] = _mm512_mul_ps(g->dmin, scale_u8(g->m, b));
        break;
    case HT_Q6_K:
        TILE_UNROLL for (int i = 0; i < 8; i++) {
            if (b % 4 == 2) /* its high bits are where they belong */
                o->w[i] = or_bits(move_bits(t[i], 4, 4, 0), more[i], 48);
            else
                o->w[i] = join_nibbles(b % 4 < 2 ? t[i] : _mm512_srli_epi32(t[i], 4), move_bits(more[i], 2 * (b % 4), 2, 4));
        }
        o->d[0] = _mm512_mul_ps(g->d, scale_s8(g->s, 2 * b));
        o->d[1] = _mm512_mul_ps(g->d, scale_s8(g->s, 2 * b + 1));
        break;
    case HT_Q2_K: {
        const __m512i low[4] = {low_bits(g->s[0], 0, 15), low_bits(g->s[1], 0, 15), low_bits(g->s[2], 0, 15),
                                low_bits(g->s[3], 0, 15)};
        const __m512i high[4] = {low_bits(g->s[0], 4, 15), low_bits(g->s[1], 4, 15), low_bits(g->s[2], 4, 15),
                                 low_bits(g->s[3], 4, 15)};
        bits_32(false, t, 2 * (b % 4), 3, o);
        TILE_UNROLL for (int h = 0; h < 2; h++) {
            o->d[h] = _mm512_mul_ps(g->d, scale_u8(low, 2 * b + h));
            o->m[h] = _mm512_mul_ps(g->dmin, scale_u8(high, 2 * b + h));
        }
        break;
    }
    case HT_Q3_K:
        bits_32(false, t, 2 * (b % 4), 3, o);
        TILE_UNROLL for (int i = 0; i < 8; i++) {
            __m512i bit = b < 2 ? _mm512_slli_epi32(more[i], (unsigned)(b < 2 ? 2 - b : 0))
                                : _mm512_srli_epi32(more[i], (unsigned)(b < 2 ? 0 : b - 2));
            o->w[i] = or_bits(o->w[i], bit, 4);
        }
        o->d[0] = _mm512_mul_ps(g->d, scale_s8(g->s, 2 * b));
        o->d[1] = _mm512_mul_ps(g->d, scale_s8(g->s, 2 * b + 1));
        break;
    default: /* HT_IQ4_XS */
        iq4_values(t, o->w);
        o->d[0] = _mm512_mul_ps(g->d, scale_s8(g->s, b));
        break;
    }
}

/* Block b (a constant) of what turn_block made, or woven_block. Raw: weights may be left some bits too high, see
 * tile_block. */
TILE_INLINE void unpack_block(ht_type type, bool woven, bool raw, const tile_turned *from, const tile_group *g, int b,
                              tile_block *o)
{
    o->shift[0] = o->shift[1] = 0;
    if (unpack_is_small(type)) {
        unpack_small_scales(type, woven, from, g, b, o);
        unpack_small(type, raw, from, o);
    } else {
        unpack_super(type, raw, from, g, b, o);
    }
}

/* ---- tiles and their ends ------------------------------------------------------------------------------------ */

/* Bytes of one block of 32 of a small type. */
TILE_INLINE size_t unpack_small_bytes(ht_type type)
{
    return unpack_group_bytes(type) / (size_t)unpack_group_blocks(type);
}

/* Rows of weights that a tile takes, 1 to 16 of them. */
typedef struct tile_source {
    const uint8_t *w;
    size_t row_bytes;
    int64_t rows;
    bool more; /* 64 bytes after the last row may be read too */
} tile_source;

/* The first 16 of `rows` rows. */
TILE_INLINE tile_source tile_from(const void *w, size_t row_bytes, int64_t rows)
{
    bool whole = rows > TILE_ROWS;
    return (tile_source){w, row_bytes, whole ? TILE_ROWS : rows,
                         whole && (size_t)(rows - TILE_ROWS) * row_bytes >= 64};
}

enum { TILE_ASIDE = 256 }; /* no group is longer */
typedef struct tile_aside { uint8_t bytes[TILE_ROWS][TILE_ASIDE]; } tile_aside;

static __attribute__((noinline, unused)) void tile_copy(tile_aside *aside, const tile_source *s, size_t at, size_t bytes)
{
    for (int64_t r = 0; r < TILE_ROWS; r++)
        memcpy(aside->bytes[r], s->w + (size_t)(r < s->rows ? r : s->rows - 1) * s->row_bytes + at, bytes);
}

/* Groups that are taken in one go, from `at` on, with `left` blocks to the rows' end: as many as can be read where they
 * are, or one that is copied aside, because a load of a whole group would read too much or because rows are missing.
 * Missing rows are the last one again: computed, and not stored. */
TILE_INLINE int64_t tile_take(ht_type type, const tile_source *s, size_t at, int64_t left, tile_aside *aside,
                              tile_rows *out)
{
    const int group = unpack_group_blocks(type);
    int64_t groups = s->rows < TILE_ROWS ? 0 : s->more ? (left + group - 1) / group : left / group;
    const uint8_t *w = s->w + at;
    out->stride = s->row_bytes;
    if (groups == 0) {
        tile_copy(aside, s, at, left >= group ? unpack_group_bytes(type) : (size_t)left * unpack_small_bytes(type));
        w = aside->bytes[0];
        out->stride = TILE_ASIDE;
        groups = 1;
    }
    out->stride3 = 3 * out->stride;
    TILE_UNROLL for (int i = 0; i < TILE_ROWS / 4; i++)
        out->base[i] = w + (size_t)(4 * i) * out->stride;
    return groups;
}

/* The next group. The empty statements hide from the compiler that addresses are sums, or it would keep all sixteen. */
TILE_INLINE void tile_advance(ht_type type, tile_rows *t)
{
    TILE_UNROLL for (int i = 0; i < TILE_ROWS / 4; i++) {
        t->base[i] += unpack_group_bytes(type);
        __asm__("" : "+r"(t->base[i]));
    }
}

#endif
#endif
