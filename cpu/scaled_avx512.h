/* Products of Q2_K and Q3_K, AVX-512: quantised weights whose scales are multiplied in as integers. With 2 or 3 bits a weight
 * and a scale for 16 of them, making F32 scales and minimums is more work than the products.
 *
 * Sums of 16 products fit into 16 bits (Q2_K 16 * 127 * 3, four times that where fields stay two bits too high; Q3_K
 * 16 * 127 * 4), so both halves of a block go side by side into a dword, and one multiply-add of words scales and adds them.
 * A super-block's order of sums of F32, of a (row, column) in either class:
 *
 *   even = sum of block[b] * column scale[b], b = 0, 2, 4, 6;  odd: of b = 1, 3, 5, 7
 *   acc += (even + odd) * d
 *   acc += (sum of minimums as integers) * dmin      HT_Q2_K
 *
 * Of Q2_K the column's part of the minimums, column scale * sum of 16 quants, is a number of 24 bits that the 16 of a
 * super-block have one unit for. Its three signed bytes (tile_aux) are multiplied with the 4-bit minimums as weights are.
 */
#ifndef HEARTH_CPU_SCALED_AVX512_H
#define HEARTH_CPU_SCALED_AVX512_H

#include "cpu/tile_avx512.h"
#include "cpu/woven_avx512.h"

#if defined(__AVX512VBMI__)

enum {
    SCALED_BLOCKS = HT_QK_K / HT_QK,
    SCALED_AUX = 2 * SCALED_BLOCKS, /* tile_aux of a super-block */
    SCALED_AT_ONCE = 2,             /* columns of the decode class that share what is unpacked: as far as registers go */
    /* A stored block: 8 vectors of weights, a pair of scales, and one of the super-block's vectors of these: */
    SCALED_MIN = 0, SCALED_D = 4, SCALED_DMIN = 5, /* the block that has the first of four, the only one */
    /* tile_aux of HT_Q2_K: bytes from the highest on, four dwords each, and the units of what they are summed to */
    AUX_HIGH = 0, AUX_MIDDLE = 4, AUX_LOW = 8, AUX_UNIT_HIGH = 12, AUX_UNIT_LOW = 13,
};

/* 4 x 4 lanes and dwords, turned. */
TILE_INLINE __m512i scaled_turn(__m512i v)
{
    return _mm512_permutexvar_epi32(_mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0), v);
}

/* What a super-block of a column, q and d, is multiplied with. HT_Q3_K: where the sums of half blocks begin, -4 sum(q).
 * raw: as in unpack_block. */
TILE_INLINE void scaled_aux(ht_type type, bool raw, const int8_t *q, const float *d, tile_aux out[SCALED_AUX])
{
    __m512i v[4];
    TILE_UNROLL for (int i = 0; i < 4; i++)
        v[i] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), _mm512_loadu_si512(q + 64 * i));
    __m512i a = _mm512_add_epi32(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
    __m512i b = _mm512_add_epi32(_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));
    __m512i sum = scaled_turn(_mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b)));
    if (type == HT_Q3_K) {
        const __m512i zero = _mm512_setzero_si512();
        sum = _mm512_slli_epi32(_mm512_sub_epi32(zero, sum), 2);
        if (raw) /* fields 2 and 3 */
            sum = _mm512_mask_slli_epi32(sum, 0xf0f0, sum, 4);
        _mm512_storeu_si512(out, sum);
        return;
    }
    const __m512i twice = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    __m512 scale = _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(_mm256_loadu_ps(d)));
    int32_t bits = _mm512_reduce_max_epi32(_mm512_castps_si512(scale)); /* scales are not negative; NaN is above all */
    float most;
    memcpy(&most, &bits, sizeof(most));
    /* |sum| <= 16 * 127, so |sum| * 4096 < 2^23. With scales of 0 the bytes are anything, and their units 0. */
    scale = _mm512_mul_ps(scale, _mm512_set1_ps(4096 / most));
    __m512i value = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale));
    const __m512i bias = _mm512_set1_epi32(0x808080); /* carries what a signed byte takes from the next */
    value = _mm512_xor_si512(_mm512_add_epi32(value, bias), bias);
    value = _mm512_shuffle_epi8(value, _mm512_set4_epi32(0x0f0b0703, 0x0c080400, 0x0d090501, 0x0e0a0602));
    _mm512_storeu_si512(out, scaled_turn(value));
    out[AUX_UNIT_HIGH].f = most / (4096 * 16) * 256; /* minimums are 16 times too large */
    out[AUX_UNIT_LOW].f = most / (4096 * 16);
}

/* The scales of block b, each times 256 (HT_Q3_K), in the two words of a dword. */
TILE_INLINE __m512i scaled_pair(ht_type type, const tile_group *g, int b)
{
    const uint32_t first = 0x00010000 + 0x00020002 * (uint32_t)(b % 2), row = 0x00040004;
    const int up = type == HT_Q3_K ? 8 : 0;
    const uint32_t none = 0x80008000u >> up;
#define INDEX(r) (int)(none | (first + (r) * row) << up)
    __m512i s = type == HT_Q2_K ? and_bits(g->s[b / 2], 15) : g->s[b / 2];
    return _mm512_shuffle_epi8(s, _mm512_set4_epi32(INDEX(3), INDEX(2), INDEX(1), INDEX(0)));
#undef INDEX
}
/* Of half blocks 4i.., times 16. */
TILE_INLINE __m512i scaled_minimums(const tile_group *g, int i) { return and_bits(g->s[i], 0xf0); }
TILE_INLINE __m512 scaled_d(ht_type type, const tile_group *g)
{
    return type == HT_Q3_K ? _mm512_mul_ps(g->d, _mm512_set1_ps(1.0f / 256)) : g->d;
}

/* acc + both halves' sums, `shift` bits too high, scaled. */
TILE_INLINE __m512 scaled_add(__m512i low, __m512i high, int shift, __m512i pair, float scale, __m512 acc)
{
    const uint64_t words = (uint64_t)shift << 16 | (uint64_t)(shift + 8) << 24; /* to bytes 2 and 3 */
    const __m512i from = _mm512_set1_epi64((long long)(words | (words + 0x20200000) << 32));
    if (shift)
        low = _mm512_srli_epi32(low, (unsigned)shift);
    __m512i both = _mm512_mask_multishift_epi64_epi8(low, 0xcccccccccccccccc, from, high);
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_madd_epi16(both, pair)), _mm512_set1_ps(scale), acc);
}

/* acc + the minimums. aux: two of each block, aux_block apart, the second aux_half after the first. */
TILE_INLINE __m512 scaled_add_minimums(const __m512i m[4], __m512 dmin, const tile_aux *aux, int64_t aux_block,
                                       int64_t aux_half, __m512 acc)
{
#define AUX(i) aux[(i) / 2 * aux_block + (i) % 2 * aux_half]
    __m512i high = _mm512_setzero_si512(), low = high;
    TILE_UNROLL for (int i = 0; i < 4; i++)
        high = _mm512_dpbusd_epi32(high, m[i], _mm512_set1_epi32(AUX(AUX_HIGH + i).i));
    high = _mm512_slli_epi32(high, 8);
    TILE_UNROLL for (int i = 0; i < 4; i++) {
        high = _mm512_dpbusd_epi32(high, m[i], _mm512_set1_epi32(AUX(AUX_MIDDLE + i).i));
        low = _mm512_dpbusd_epi32(low, m[i], _mm512_set1_epi32(AUX(AUX_LOW + i).i));
    }
    __m512 sum = _mm512_mul_ps(_mm512_cvtepi32_ps(low), _mm512_set1_ps(AUX(AUX_UNIT_LOW).f));
    sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(high), _mm512_set1_ps(AUX(AUX_UNIT_HIGH).f), sum);
#undef AUX
    return _mm512_fmadd_ps(sum, dmin, acc);
}

/* ---- one or two columns ------------------------------------------------------------------------------------------------ */

/* These are computed before what follows. Instructions that alternate between two kinds wait for one another on Zen 4
 * (measured: a mask and a product in turns 1.3 cycles, in fours 1.0), and compilers would also read vectors twice. */
#define TOGETHER(v) __asm__ volatile("" : "+v"((v)[0]), "+v"((v)[1]), "+v"((v)[2]), "+v"((v)[3]))

/* Dwords of quants, in the order of a woven tile: vector 0 of (H, h), which are the columns 16h.. of blocks 4H..; of HT_Q3_K,
 * vector 0 of the third bits of columns 16h.. */
TILE_INLINE int scaled_at(ht_type type, int H, int h)
{
    return type == HT_Q2_K ? 8 * H + 4 * h : H == 0 ? 4 + 8 * h : 16 + 4 * h;
}
TILE_INLINE int scaled_third_at(int h) { return 8 * h; }

/* Third bits of fields p and p + 2 of blocks 4H..: bit 4H + p becomes bit 2, bit 4H + p + 2 bit 6. A matrix product would do
 * for both H, but on Zen 4 it waits for the units that multiply: in L2 33.3 GB/s so, 38.3 with half of them looked up. */
TILE_INLINE __m512i scaled_thirds(int H, int p, __m512i v)
{
    if (H == 1)
        return _mm512_gf2p8affine_epi64_epi8(v, _mm512_set1_epi64(1ll << (p + 44) | 1ll << (p + 14)), 0);
    /* By the low nibble; the table is there four times over. */
    const __m512i table = p == 0 ? _mm512_set4_epi32(0x44404440, 0x04000400, 0x44404440, 0x04000400)
                                 : _mm512_set4_epi32(0x44444040, 0x44444040, 0x04040000, 0x04040000);
    return _mm512_permutexvar_epi8(v, table);
}

/* sum[c][s] += dword j of columns 16h.. of blocks 4H + s . column c. Q2_K's sums are 2s bits too high; Q3_K's s / 2 * 4. */
TILE_INLINE void scaled_products(ht_type type, int nc, int H, int h, int j, const uint8_t *quants, const int8_t *const *q,
                                 __m512i sum[][4])
{
    __m512i w[4], t[2];
    t[0] = t[1] = _mm512_loadu_si512(quants + WOVEN_DWORD * (scaled_at(type, H, h) + j));
    if (type == HT_Q3_K) {
        const __m512i third = _mm512_loadu_si512(quants + WOVEN_DWORD * (scaled_third_at(h) + j));
        const __m512i mask = _mm512_set1_epi8(0x33);
        t[1] = _mm512_srli_epi32(t[1], 2);
        t[0] = _mm512_ternarylogic_epi32(t[0], mask, scaled_thirds(H, 0, third), 0xea); /* a & b | c */
        t[1] = _mm512_ternarylogic_epi32(t[1], mask, scaled_thirds(H, 1, third), 0xea);
    }
    TILE_UNROLL for (int s = 0; s < 4; s++)
        w[s] = and_bits(t[s % 2], type == HT_Q2_K ? 3 << 2 * s : 7 << s / 2 * 4);
    TOGETHER(w);
    TILE_UNROLL for (int c = 0; c < nc; c++) {
        TILE_UNROLL for (int s = 0; s < 4; s++)
            sum[c][s] = _mm512_dpbusd_epi32(sum[c][s], w[s], column_dword(q[c] + HT_QK * (4 * H + s) + 16 * h + 4 * j));
    }
}

/* acc[c] += a super-block of 16 rows . column c, nc <= SCALED_AT_ONCE; aux: raw. Of plain rows, `here` is where they are, and
 * at and ahead are as in tile_prefetch_part; of a woven tile it is NULL, and `at` the group. */
TILE_INLINE void scaled_super(ht_type type, int nc, const uint8_t *quants, const tile_group *g, const column_set *x,
                              const tile_rows *here, uintptr_t at, size_t ahead, __m512 *acc)
{
    __m512 sum[SCALED_AT_ONCE][2]; /* even, odd */
    TILE_UNROLL for (int c = 0; c < nc; c++)
        sum[c][0] = sum[c][1] = _mm512_setzero_ps();
    TILE_UNROLL for (int H = 0; H < 2; H++) {
        __m512i half[2][SCALED_AT_ONCE][4];
        TILE_UNROLL for (int h = 0; h < 2; h++) {
            TILE_UNROLL for (int c = 0; c < nc; c++) {
                TILE_UNROLL for (int s = 0; s < 4; s++)
                    half[h][c][s] = type == HT_Q2_K ? _mm512_setzero_si512()
                                                    : _mm512_set1_epi32(x->aux[c][2 * (4 * H + s) + h].i);
            }
            TILE_UNROLL for (int j = 0; j < 4; j++) {
                if (here)
                    tile_prefetch_part(type, at, ahead, here, 8 * H + 4 * h + j, 16);
                else
                    woven_prefetch_part(type, (const uint8_t *)at, 8 * H + 4 * h + j, 16);
                scaled_products(type, nc, H, h, j, quants, x->q, half[h]);
            }
        }
        TILE_UNROLL for (int s = 0; s < 4; s++) {
            const __m512i pair = scaled_pair(type, g, 4 * H + s);
            TILE_UNROLL for (int c = 0; c < nc; c++)
                sum[c][s % 2] = scaled_add(half[0][c][s], half[1][c][s], s / 2 * 4, pair, x->d[c][4 * H + s], sum[c][s % 2]);
        }
    }
    const __m512i m[4] = {scaled_minimums(g, 0), scaled_minimums(g, 1), scaled_minimums(g, 2), scaled_minimums(g, 3)};
    const __m512 d = scaled_d(type, g);
    TILE_UNROLL for (int c = 0; c < nc; c++) {
        if (type == HT_Q2_K) /* fields 1 and 3 */
            sum[c][1] = _mm512_mul_ps(sum[c][1], _mm512_set1_ps(0.25f));
        acc[c] = _mm512_fmadd_ps(_mm512_add_ps(sum[c][0], sum[c][1]), d, acc[c]);
        if (unpack_has_min(type))
            acc[c] = scaled_add_minimums(m, g->dmin, x->aux[c], 2, 1, acc[c]);
    }
}

/* ---- packed columns ------------------------------------------------------------------------------------------- */

TILE_INLINE void scaled_store_block(ht_type type, const tile_block *w, const tile_group *g, int b, __m512i *out)
{
    TILE_UNROLL for (int j = 0; j < 8; j++)
        _mm512_store_si512(out + j, w->w[j]);
    _mm512_store_si512(out + 8, scaled_pair(type, g, b));
    if (b == SCALED_D)
        _mm512_store_ps(out + 9, scaled_d(type, g));
    else if (b == SCALED_DMIN && unpack_has_min(type))
        _mm512_store_ps(out + 9, g->dmin);
    else if (b < SCALED_MIN + 4 && unpack_has_min(type))
        _mm512_store_si512(out + 9, scaled_minimums(g, b - SCALED_MIN));
}

/* acc[c] += a stored super-block . column c; aux_half: as in scaled_add_minimums. */
TILE_INLINE void scaled_product(int nc, ht_type type, const __m512i *stored, const column_set *x, int64_t q_block,
                                int64_t d_block, int64_t aux_block, int64_t aux_half, tile_next *next, __m512 *acc)
{
    const bool has_min = unpack_has_min(type);
    const int64_t vectors = stored_vectors(type);
    const __m512i zero = _mm512_setzero_si512();
    __m512 sum[2][TILE_COLUMNS];
    TILE_UNROLL for (int p = 0; p < 2; p++) {
        TILE_UNROLL for (int c = 0; c < nc; c++)
            sum[p][c] = _mm512_setzero_ps();
        for (int64_t b = p; b < SCALED_BLOCKS; b += 2) {
            const __m512i *from = stored + vectors * b;
            __m512i w[8];
            TILE_UNROLL for (int j = 0; j < 8; j++)
                w[j] = _mm512_load_si512(from + j);
            const __m512i pair = _mm512_load_si512(from + 8);
            tile_prefetch_next(next);
            TILE_UNROLL for (int c = 0; c < nc; c++) {
                const int8_t *q = x->q[c] + q_block * b;
                const tile_aux *aux = x->aux[c] + aux_block * b;
                __m512i low = column_sum(w, q, has_min ? zero : _mm512_set1_epi32(aux[0].i));
                __m512i high = column_sum(w + 4, q + 16, has_min ? zero : _mm512_set1_epi32(aux[aux_half].i));
                sum[p][c] = scaled_add(low, high, 0, pair, x->d[c][d_block * b], sum[p][c]);
            }
        }
    }
    const __m512i *more = stored + 9;
    const __m512 d = _mm512_load_ps(more + vectors * SCALED_D);
    TILE_UNROLL for (int c = 0; c < nc; c++)
        acc[c] = _mm512_fmadd_ps(_mm512_add_ps(sum[0][c], sum[1][c]), d, acc[c]);
    if (!has_min)
        return;
    const __m512 dmin = _mm512_load_ps(more + vectors * SCALED_DMIN);
    __m512i m[4];
    TILE_UNROLL for (int i = 0; i < 4; i++)
        m[i] = _mm512_load_si512(more + vectors * (SCALED_MIN + i));
    TILE_UNROLL for (int c = 0; c < nc; c++)
        acc[c] = scaled_add_minimums(m, dmin, x->aux[c], aux_block, aux_half, acc[c]);
}

#endif
#endif
