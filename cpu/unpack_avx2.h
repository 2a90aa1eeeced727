/* How the AVX2 level reads quantised weights: eight rows at a time, turned so that a vector lane is a row.
 *
 * The plan is that of unpack_avx512.h, with tiles of 8 rows and no groups of small blocks: for each block of 32 columns
 * 8 vectors w[i] of 8 dwords, dword r of w[i] holding the weights 4i..4i+3 of row r as bytes:
 *
 *   weight[r][k] = scale[r] * (byte[r][k] - unpack_offset(type)) + min[r]
 *
 * Bytes are unsigned and small, so that products by pairs fit 16 bits, but signed where unpack_is_signed.
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

typedef struct tile_rows { const uint8_t *row[TILE_ROWS]; } tile_rows;

/* Scales of a super-block, turned: d, and scales by sub-block, four to a dword. */
typedef struct tile_group {
    __m256 d, dmin;
    __m256i s[4], m[2];
} tile_group;

typedef struct tile_block {
    __m256i w[8];
    __m256 d[2], m[2]; /* [1]: of the upper 16 columns, for types with sub-blocks of 16 */
} tile_block;

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
/* How many products of pairs (at most 2 * 127 * the largest byte) may be summed in 16 bits. */
TILE_INLINE int unpack_pairs(ht_type type)
{
    switch (type) {
    case HT_Q4_0: case HT_Q4_1: case HT_Q4_K: return 8;                             /* 15 */
    case HT_Q5_0: case HT_Q5_1: case HT_Q5_K: case HT_Q2_K: case HT_Q3_K: return 4; /* 31, 3, 7 */
    case HT_Q6_K: return 2;                                                         /* 63 */
    default: return 1;                                                              /* 128 */
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

/* 16 bytes at `at` of each row: t[j] lane r = dword j of row r. */
TILE_INLINE void turn_16_bytes(const tile_rows *tile, size_t at, __m256i t[4])
{
    __m256i v[4];
    TILE_UNROLL for (int m = 0; m < 4; m++) {
        v[m] = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(tile->row[m] + at)));
        v[m] = _mm256_inserti128_si256(v[m], _mm_loadu_si128((const __m128i *)(tile->row[4 + m] + at)), 1);
    }
    turn4(v, t);
}

/* 32 bytes of each row: t[j] lane r = dword j of row r, j < 8. */
TILE_INLINE void turn_32_bytes(const tile_rows *tile, size_t at, __m256i t[8])
{
    __m256i u[2][4];
    TILE_UNROLL for (int h = 0; h < 2; h++) {
        __m256i v[4];
        TILE_UNROLL for (int m = 0; m < 4; m++)
            v[m] = _mm256_loadu_si256((const __m256i *)(tile->row[4 * h + m] + at));
        turn4(v, u[h]); /* lanes: rows 4h..4h+3 dwords 0-3, the same rows dwords 4-7 */
    }
    TILE_UNROLL for (int j = 0; j < 4; j++) {
        t[j] = _mm256_permute2x128_si256(u[0][j], u[1][j], 0x20);
        t[4 + j] = _mm256_permute2x128_si256(u[0][j], u[1][j], 0x31);
    }
}

/* One F16 of each row. */
TILE_INLINE __m256 turn_half(const tile_rows *tile, size_t at)
{
#define HALF(r) *(const uint16_t *)(tile->row[r] + at)
    __m128i h = _mm_cvtsi32_si128(HALF(0));
    h = _mm_insert_epi16(h, HALF(1), 1);
    h = _mm_insert_epi16(h, HALF(2), 2);
    h = _mm_insert_epi16(h, HALF(3), 3);
    h = _mm_insert_epi16(h, HALF(4), 4);
    h = _mm_insert_epi16(h, HALF(5), 5);
    h = _mm_insert_epi16(h, HALF(6), 6);
    h = _mm_insert_epi16(h, HALF(7), 7);
#undef HALF
    return _mm256_cvtph_ps(h);
}

/* The F16s in the upper and the lower halves of dwords. */
TILE_INLINE __m256 high_halves(__m256i pairs)
{
    __m256i v = _mm256_srli_epi32(pairs, 16);
    return _mm256_cvtph_ps(_mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
}
TILE_INLINE __m256 low_halves(__m256i pairs) { return high_halves(_mm256_slli_epi32(pairs, 16)); }

/* Byte i of each dword of s[i / 4] as a number. */
TILE_INLINE __m256 scale_u8(const __m256i *s, int i)
{
    return _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(s[i / 4], 8 * (i % 4)), _mm256_set1_epi32(255)));
}
TILE_INLINE __m256 scale_s8(const __m256i *s, int i)
{
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(s[i / 4], 24 - 8 * (i % 4)), 24));
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

/* The 6-bit scales and minimums of Q4_K and Q5_K. */
TILE_INLINE void scales_4k(const __m256i h[4], tile_group *g)
{
    g->d = low_halves(h[0]);
    g->dmin = _mm256_sub_ps(_mm256_setzero_ps(), high_halves(h[0]));
    g->s[0] = low_bits(h[1], 0, 63);
    g->m[0] = low_bits(h[2], 0, 63);
    g->s[1] = join_bits(low_bits(h[3], 0, 15), low_bits(h[1], 6, 3), 4);
    g->m[1] = join_bits(low_bits(h[3], 4, 15), low_bits(h[2], 6, 3), 4);
}

TILE_INLINE void scales_3k(const tile_rows *tile, size_t at, tile_group *g)
{
    __m256i t[4];
    /* The last 16 bytes of the block: qs[62..63], scales, d. */
    turn_16_bytes(tile, at + sizeof(ht_block_q3_k) - 16, t);
    __m256i a = _mm256_or_si256(_mm256_srli_epi32(t[0], 16), _mm256_slli_epi32(t[1], 16));
    __m256i b = _mm256_or_si256(_mm256_srli_epi32(t[1], 16), _mm256_slli_epi32(t[2], 16));
    __m256i c = _mm256_or_si256(_mm256_srli_epi32(t[2], 16), _mm256_slli_epi32(t[3], 16));
    g->d = high_halves(t[3]);
    const __m256i bias = _mm256_set1_epi8(32);
    g->s[0] = _mm256_sub_epi8(join_bits(low_bits(a, 0, 15), low_bits(c, 0, 3), 4), bias);
    g->s[1] = _mm256_sub_epi8(join_bits(low_bits(b, 0, 15), low_bits(c, 2, 3), 4), bias);
    g->s[2] = _mm256_sub_epi8(join_bits(low_bits(a, 4, 15), low_bits(c, 4, 3), 4), bias);
    g->s[3] = _mm256_sub_epi8(join_bits(low_bits(b, 4, 15), low_bits(c, 6, 3), 4), bias);
}

/* 2 bits of scales_h at `bit` and 4 bits of scales_l at `nibble`, as byte `to`. */
TILE_INLINE __m256i scale_iq4_xs(__m256i high, __m256i low, int bit, int nibble, int to)
{
    __m256i h = _mm256_and_si256(_mm256_srli_epi32(high, bit), _mm256_set1_epi32(3));
    __m256i l = _mm256_and_si256(_mm256_srli_epi32(low, nibble), _mm256_set1_epi32(15));
    return _mm256_slli_epi32(join_bits(l, h, 4), 8 * to);
}

TILE_INLINE void scales_iq4_xs(const tile_rows *tile, size_t at, tile_group *g)
{
    __m256i t[4];
    turn_16_bytes(tile, at, t);
    g->d = low_halves(t[0]);
    TILE_UNROLL for (int i = 0; i < 2; i++) {
        __m256i s = scale_iq4_xs(t[0], t[1], 16 + 8 * i, 16 * i, 0);
        TILE_UNROLL for (int b = 1; b < 4; b++)
            s = _mm256_or_si256(s, scale_iq4_xs(t[0], t[1], 16 + 8 * i + 2 * b, 16 * i + 4 * b, b));
        g->s[i] = _mm256_sub_epi8(s, _mm256_set1_epi8(32));
    }
}

TILE_INLINE void unpack_scales(ht_type type, const tile_rows *tile, size_t at, tile_group *g)
{
    __m256i t[4];
    switch (type) {
    case HT_Q4_K: case HT_Q5_K:
        turn_16_bytes(tile, at, t);
        scales_4k(t, g);
        break;
    case HT_Q6_K:
        turn_16_bytes(tile, at + offsetof(ht_block_q6_k, scales), g->s);
        g->d = turn_half(tile, at + offsetof(ht_block_q6_k, d));
        break;
    case HT_Q2_K:
        turn_16_bytes(tile, at, g->s);
        turn_16_bytes(tile, at + sizeof(ht_block_q2_k) - 16, t); /* d and dmin are the last dword */
        g->d = low_halves(t[3]);
        g->dmin = _mm256_sub_ps(_mm256_setzero_ps(), high_halves(t[3]));
        break;
    case HT_Q3_K:
        scales_3k(tile, at, g);
        break;
    case HT_IQ4_XS:
        scales_iq4_xs(tile, at, g);
        break;
    default: /* small blocks keep theirs beside the quants */
        break;
    }
}

/* ---- weights of a block ------------------------------------------------------------------------------------- */

/* 16 bytes of nibbles: low ones are elements 0..15, high ones 16..31. */
TILE_INLINE void nibbles_16(const __m256i t[4], __m256i w[8])
{
    TILE_UNROLL for (int i = 0; i < 4; i++) {
        w[i] = low_bits(t[i], 0, 15);
        w[4 + i] = low_bits(t[i], 4, 15);
    }
}

/* w | (bits & mask) */
TILE_INLINE __m256i add_bits(__m256i w, __m256i bits, int mask)
{
    return _mm256_or_si256(w, _mm256_and_si256(bits, _mm256_set1_epi8((char)mask)));
}

/* Adds bit `4i + j` of the dword qh to byte j of w[i], as 16. */
TILE_INLINE void fifth_bits(__m256i qh, __m256i w[8])
{
    TILE_UNROLL for (int i = 0; i < 8; i++) {
        /* the byte that holds the four bits, four times; then one bit of each */
        const __m256i at = _mm256_add_epi8(_mm256_set1_epi8((char)(i / 2)),
                                           _mm256_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c, 0, 0x04040404,
                                                             0x08080808, 0x0c0c0c0c));
        const __m256i bit = _mm256_set1_epi32(i % 2 ? (int)0x80402010 : 0x08040201);
        __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(qh, at), bit), bit);
        w[i] = add_bits(w[i], set, 16);
    }
}

TILE_INLINE void iq4_values(__m256i w[8])
{
    const __m256i table = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)ht_iq4_values));
    TILE_UNROLL for (int i = 0; i < 8; i++)
        w[i] = _mm256_shuffle_epi8(table, w[i]);
}

TILE_INLINE void unpack_small(ht_type type, const tile_rows *tile, size_t at, tile_block *o)
{
    __m256i t[8];
    switch (type) {
    case HT_Q4_0: case HT_IQ4_NL:
        turn_16_bytes(tile, at + 2, t);
        nibbles_16(t, o->w);
        if (type == HT_IQ4_NL)
            iq4_values(o->w);
        o->d[0] = turn_half(tile, at);
        break;
    case HT_Q4_1:
        turn_16_bytes(tile, at, t); /* begins with d and m */
        o->d[0] = low_halves(t[0]);
        o->m[0] = high_halves(t[0]);
        turn_16_bytes(tile, at + 4, t);
        nibbles_16(t, o->w);
        break;
    case HT_Q5_0:
        /* bytes 0..15 begin with d and qh, bytes 6..21 are qs */
        turn_16_bytes(tile, at, t);
        turn_16_bytes(tile, at + 6, t + 4);
        nibbles_16(t + 4, o->w);
        fifth_bits(_mm256_or_si256(_mm256_srli_epi32(t[0], 16), _mm256_slli_epi32(t[1], 16)), o->w);
        o->d[0] = low_halves(t[0]);
        break;
    case HT_Q5_1:
        turn_16_bytes(tile, at, t);
        turn_16_bytes(tile, at + 8, t + 4);
        nibbles_16(t + 4, o->w);
        fifth_bits(t[1], o->w);
        o->d[0] = low_halves(t[0]);
        o->m[0] = high_halves(t[0]);
        break;
    default: /* HT_Q8_0 */
        turn_32_bytes(tile, at + 2, o->w);
        o->d[0] = turn_half(tile, at);
        break;
    }
}

/* Two bits of each byte of 32 bytes, at `shift`. */
TILE_INLINE void unpack_2bit(const tile_rows *tile, size_t at, int shift, __m256i w[8])
{
    __m256i t[8];
    turn_32_bytes(tile, at, t);
    TILE_UNROLL for (int i = 0; i < 8; i++)
        w[i] = low_bits(t[i], shift, 3);
}

TILE_INLINE void unpack_super(ht_type type, const tile_rows *tile, size_t at, const tile_group *g, int b, tile_block *o)
{
    __m256i t[8];
    switch (type) {
    case HT_Q4_K: case HT_Q5_K: {
        size_t qs = type == HT_Q4_K ? offsetof(ht_block_q4_k, qs) : offsetof(ht_block_q5_k, qs);
        turn_32_bytes(tile, at + qs + 32 * (size_t)(b / 2), t);
        TILE_UNROLL for (int i = 0; i < 8; i++)
            o->w[i] = low_bits(t[i], 4 * (b % 2), 15);
        if (type == HT_Q5_K) {
            turn_32_bytes(tile, at + offsetof(ht_block_q5_k, qh), t);
            TILE_UNROLL for (int i = 0; i < 8; i++) {
                __m256i bit = b < 4 ? _mm256_slli_epi32(t[i], (b < 4 ? 4 - b : 0))
                                    : _mm256_srli_epi32(t[i], (b < 4 ? 0 : b - 4));
                o->w[i] = add_bits(o->w[i], bit, 16);
            }
        }
        o->d[0] = _mm256_mul_ps(g->d, scale_u8(g->s, b));
        o->m[0] = _mm256_mul_ps(g->dmin, scale_u8(g->m, b));
        break;
    }
    case HT_Q6_K: {
        size_t half = (size_t)(b / 4);
        turn_32_bytes(tile, at + 64 * half + 32 * (size_t)(b % 2), t);
        TILE_UNROLL for (int i = 0; i < 8; i++)
            o->w[i] = low_bits(t[i], 4 * (b % 4 / 2), 15);
        turn_32_bytes(tile, at + offsetof(ht_block_q6_k, qh) + 32 * half, t);
        TILE_UNROLL for (int i = 0; i < 8; i++) {
            __m256i bits = b % 4 < 2 ? _mm256_slli_epi32(t[i], b % 4 == 0 ? 4 : 2)
                                     : _mm256_srli_epi32(t[i], b % 4 == 2 ? 0 : 2);
            o->w[i] = add_bits(o->w[i], bits, 48);
        }
        o->d[0] = _mm256_mul_ps(g->d, scale_s8(g->s, 2 * b));
        o->d[1] = _mm256_mul_ps(g->d, scale_s8(g->s, 2 * b + 1));
        break;
    }
    case HT_Q2_K: {
        const __m256i low[4] = {low_bits(g->s[0], 0, 15), low_bits(g->s[1], 0, 15), low_bits(g->s[2], 0, 15),
                                low_bits(g->s[3], 0, 15)};
        const __m256i high[4] = {low_bits(g->s[0], 4, 15), low_bits(g->s[1], 4, 15), low_bits(g->s[2], 4, 15),
                                 low_bits(g->s[3], 4, 15)};
        unpack_2bit(tile, at + offsetof(ht_block_q2_k, qs) + 32 * (size_t)(b / 4), 2 * (b % 4), o->w);
        TILE_UNROLL for (int h = 0; h < 2; h++) {
            o->d[h] = _mm256_mul_ps(g->d, scale_u8(low, 2 * b + h));
            o->m[h] = _mm256_mul_ps(g->dmin, scale_u8(high, 2 * b + h));
        }
        break;
    }
    case HT_Q3_K:
        unpack_2bit(tile, at + offsetof(ht_block_q3_k, qs) + 32 * (size_t)(b / 4), 2 * (b % 4), o->w);
        turn_32_bytes(tile, at, t); /* hmask */
        TILE_UNROLL for (int i = 0; i < 8; i++) {
            __m256i bit = b < 2 ? _mm256_slli_epi32(t[i], (b < 2 ? 2 - b : 0))
                                : _mm256_srli_epi32(t[i], (b < 2 ? 0 : b - 2));
            o->w[i] = add_bits(o->w[i], bit, 4);
        }
        o->d[0] = _mm256_mul_ps(g->d, scale_s8(g->s, 2 * b));
        o->d[1] = _mm256_mul_ps(g->d, scale_s8(g->s, 2 * b + 1));
        break;
    default: /* HT_IQ4_XS */
        turn_16_bytes(tile, at + offsetof(ht_block_iq4_xs, qs) + 16 * (size_t)b, t);
        nibbles_16(t, o->w);
        iq4_values(o->w);
        o->d[0] = _mm256_mul_ps(g->d, scale_s8(g->s, b));
        break;
    }
}

/* Block b (a constant) of the group whose bytes begin at `at` of each row. */
TILE_INLINE void unpack_block(ht_type type, const tile_rows *tile, size_t at, const tile_group *g, int b, tile_block *o)
{
    if (unpack_group_blocks(type) == 1)
        unpack_small(type, tile, at, o);
    else
        unpack_super(type, tile, at, g, b, o);
}

/* Rows past the last one are the last one again: computed, and not stored. */
TILE_INLINE void tile_set(tile_rows *tile, const void *w, size_t row_bytes, int64_t rows)
{
    for (int64_t r = 0; r < TILE_ROWS; r++)
        tile->row[r] = (const uint8_t *)w + row_bytes * (size_t)(r < rows ? r : rows - 1);
}

#endif
#endif
