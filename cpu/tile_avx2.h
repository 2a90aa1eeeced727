/* What the files of the AVX2 matrix kernels share: the kernels of a weight type that work on a tile of 8 rows, and how
 * an unpacked block meets a column. The plan is that of tile_avx512.h. */
#ifndef HEARTH_CPU_TILE_AVX2_H
#define HEARTH_CPU_TILE_AVX2_H

#include "cpu/tile_entries.h"
#include "cpu/unpack_avx2.h"

#if defined(__AVX2__)

enum {
    TILE_SEGMENT = 1024, /* blocks of 32 columns that a decode-class product takes at a time */
    TILE_STAGE = 8,     /* blocks that are unpacked to memory at a time */
    TILE_COLUMNS = 4,   /* columns that a packed tile of activations holds side by side */
};

/* A block in memory: 8 vectors of weights, then of its scales those that the type has (store_scales). */
enum { STORED_MOST = 13 };
TILE_INLINE int stored_vectors(ht_type type)
{
    return 8 + (unpack_has_scale(type) ? unpack_halves(type) ? 2 : 1 : 0) + 1 + (unpack_has_min(type) ? 1 : 0) +
           (type == HT_Q2_K ? 1 : 0);
}

/* What is known of a column beside quants and scale, 32 bits for each block, for HT_Q3_K and HT_Q6_K for each half block:
 *   offset types       two 16-bit ints, where the sums of products by pairs begin: -offset times the sum of the quants
 *                      0 and 1, and of 2 and 3, of every four;
 *   HT_Q2_K            two 16-bit ints, the sums of the quants of both halves;
 *   other minimums     float, d * sum(q). */
typedef union tile_aux { int32_t i; float f; } tile_aux;
TILE_INLINE int tile_aux_count(ht_type type) { return type == HT_Q3_K || type == HT_Q6_K ? 2 : 1; }

/* The aux of 32 quants for types whose sums are integers. */
TILE_INLINE void tile_make_aux(bool halves, int32_t offset, const int8_t *q, tile_aux *aux, int64_t aux_stride)
{
    const __m128i ones = _mm_set1_epi8(1), scale = _mm_set1_epi16((int16_t)-offset);
    __m128i sum[2];
    TILE_UNROLL for (int h = 0; h < 2; h++) {
        sum[h] = _mm_maddubs_epi16(ones, _mm_loadu_si128((const __m128i *)(const void *)(q + 16 * h)));
        sum[h] = _mm_add_epi16(sum[h], _mm_unpackhi_epi64(sum[h], sum[h]));
        sum[h] = _mm_add_epi16(sum[h], _mm_shuffle_epi32(sum[h], 1));
    }
    if (offset == 0) {
        aux[0].i = _mm_cvtsi128_si32(_mm_hadd_epi16(_mm_unpacklo_epi32(sum[0], sum[1]), sum[0]));
    } else if (halves) {
        aux[0].i = _mm_cvtsi128_si32(_mm_mullo_epi16(sum[0], scale));
        aux[aux_stride].i = _mm_cvtsi128_si32(_mm_mullo_epi16(sum[1], scale));
    } else {
        aux[0].i = _mm_cvtsi128_si32(_mm_mullo_epi16(_mm_add_epi16(sum[0], sum[1]), scale));
    }
}

/* How far from a tile's beginning the one begins that is prefetched meanwhile: whole tiles, 32 KiB or more.
 * tile_avx512.h has another rule (two tiles of twice the rows; half as far where rows are short), which was found by measuring
 * at that level and has not been measured at this one. */
TILE_INLINE size_t tile_ahead(size_t row_bytes)
{
    const size_t tile = TILE_ROWS * row_bytes, least = 32 << 10;
    return (least + tile - 1) / tile * tile;
}

/* While a tile is read, a later one is prefetched into L2 in the order of addresses (all its rows lie one after another):
 * see tile_avx512.h. Lines [from, to) from `at` bytes of each row on. */
TILE_INLINE void tile_prefetch(const char *next, size_t at, size_t from, size_t to)
{
    TILE_UNROLL for (size_t line = from; line < to; line++)
        _mm_prefetch((const char *)((uintptr_t)next + TILE_ROWS * at + 64 * line), _MM_HINT_T1);
}

typedef struct tile_columns {
    const int8_t *q[HT_DECODE_COLUMNS];
    const float *d[HT_DECODE_COLUMNS];
    const tile_aux *aux[HT_DECODE_COLUMNS];
} tile_columns;

typedef struct tile_type {
    ht_type type;
    /* acc lane r += row r . one column, over `blocks` blocks. next: see tile_prefetch. */
    void (*one)(const tile_rows *tile, const char *next, const int8_t *q, const float *d, const tile_aux *aux,
                int64_t blocks, __m256 *acc);
    /* Unpack blocks (whole groups) to memory: as stored_vectors, or as F32 (blocks * 32, 8). */
    void (*store)(const tile_rows *tile, size_t at, int64_t blocks, __m256i *out);
    void (*floats)(const tile_rows *tile, size_t at, int64_t blocks, float *out);
    /* acc[c] += stored blocks . column c, from block `first` of the columns on. */
    void (*columns)(int64_t n, const __m256i *stored, int64_t blocks, const tile_columns *x, int64_t first,
                    __m256 *acc);
    /* y = stored blocks . a packed tile of columns (matmul_q8_avx2.c), the first n of them. Prefetches next_step bytes
     * of `next` with each block. */
    void (*product)(const __m256i *stored, const char *packed, int64_t blocks, const char *next, size_t next_step,
                    float *y, int64_t y_stride, __m256i mask, int64_t n);
    /* As one and store, of a woven tile: its lower 8 rows, then the others. */
    void (*woven_one)(const uint8_t *tile, const int8_t *q, const float *d, const tile_aux *aux, int64_t blocks,
                      __m256 *acc);
    void (*woven_store)(const uint8_t *tile, int64_t blocks, __m256i *out);
} tile_type;

#define TILE(name) ht_tile_##name##_avx2
extern const tile_type ht_tile_q4_0_avx2, ht_tile_q4_1_avx2, ht_tile_q5_0_avx2, ht_tile_q5_1_avx2, ht_tile_q8_0_avx2,
    ht_tile_iq4_nl_avx2, ht_tile_q2_k_avx2, ht_tile_q3_k_avx2, ht_tile_q4_k_avx2, ht_tile_q5_k_avx2, ht_tile_q6_k_avx2,
    ht_tile_iq4_xs_avx2;

/* The parts of the table. */
void ht_kernels_dot_float_avx2(ht_kernels *k);
void ht_kernels_dot_quant_avx2(ht_kernels *k);
void ht_kernels_matmul_q8_avx2(ht_kernels *k);
void ht_kernels_matmul_f32_avx2(ht_kernels *k);
void ht_kernels_matmul_fixed_avx2(ht_kernels *k);

/* All ones in the first `lanes` lanes. */
TILE_INLINE __m256i lanes_mask(int64_t lanes)
{
    int n = lanes > 8 ? 8 : (int)lanes;
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* 8 weights of a float type at column k; lanes past the first `lanes` are zero and not read. */
TILE_INLINE __m256 load_floats(ht_type type, const void *row, int64_t k, int64_t lanes)
{
    if (type == HT_F32) {
        const float *f = (const float *)row + k;
        return lanes >= 8 ? _mm256_loadu_ps(f) : _mm256_maskload_ps(f, lanes_mask(lanes));
    }
    const uint16_t *h = (const uint16_t *)row + k;
    uint16_t some[8] = {0};
    if (lanes < 8) {
        for (int64_t i = 0; i < lanes; i++)
            some[i] = h[i];
        h = some;
    }
    __m128i half = _mm_loadu_si128((const __m128i *)(const void *)h);
    if (type == HT_F16)
        return _mm256_cvtph_ps(half);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

/* Lane j of v[i] to lane i of v[j]. */
TILE_INLINE void turn8(__m256 v[8])
{
    __m256 t[8], u[8];
    TILE_UNROLL for (int i = 0; i < 4; i++) {
        t[2 * i] = _mm256_unpacklo_ps(v[2 * i], v[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(v[2 * i], v[2 * i + 1]);
    }
    /* u[4g + j]: lane L holds column 4L + j of rows 4g..4g+3 */
    TILE_UNROLL for (int g = 0; g < 2; g++) {
        u[4 * g] = _mm256_shuffle_ps(t[4 * g], t[4 * g + 2], 0x44);
        u[4 * g + 1] = _mm256_shuffle_ps(t[4 * g], t[4 * g + 2], 0xee);
        u[4 * g + 2] = _mm256_shuffle_ps(t[4 * g + 1], t[4 * g + 3], 0x44);
        u[4 * g + 3] = _mm256_shuffle_ps(t[4 * g + 1], t[4 * g + 3], 0xee);
    }
    TILE_UNROLL for (int j = 0; j < 4; j++) {
        v[j] = _mm256_permute2f128_ps(u[j], u[4 + j], 0x20);
        v[4 + j] = _mm256_permute2f128_ps(u[j], u[4 + j], 0x31);
    }
}

/* The sum of 8 lanes, by a fixed tree. */
TILE_INLINE float sum_lanes(__m256 v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

/* Products by pairs. Signed bytes: one's size times the other with its sign; the weights of IQ4 types give up theirs to x,
 * whose size is the same for all rows, since none of them is -128, which cannot be negated. */
TILE_INLINE __m256i pairs_product(ht_type type, __m256i w, __m256i x)
{
    if (type == HT_IQ4_NL || type == HT_IQ4_XS)
        return _mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(w, x));
    if (type == HT_Q8_0)
        return _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    return _mm256_maddubs_epi16(w, x);
}

TILE_INLINE __m256i column_dword(const int8_t *q)
{
    int32_t v;
    memcpy(&v, q, sizeof(v));
    return _mm256_set1_epi32(v);
}

/* pairs: in 16 bits, of each half where they do not run across both. */
typedef struct block_sum { __m256i pairs[2], whole; } block_sum;

/* sum += s * (quarter i of half h of a block of 8 rows . q), the quarters of a half in order. Integers, and exact: however
 * the sum of a block comes about, it is the same. */
TILE_INLINE void sum_quarter(ht_type type, int h, int i, __m256i w, __m256i s, const int8_t *q, const tile_aux *aux,
                             int64_t aux_stride, block_sum *sum)
{
    const bool across = unpack_pairs(type) == 8;
    __m256i p = pairs_product(type, w, column_dword(q));
    if (unpack_pairs(type) == 1) {
        p = _mm256_madd_epi16(p, s);
        sum->whole = h == 0 && i == 0 ? p : _mm256_add_epi32(sum->whole, p);
        return;
    }
    __m256i *pairs = &sum->pairs[across ? 0 : h];
    if (i > 0 || (across && h == 1))
        p = _mm256_add_epi16(*pairs, p);
    else if (unpack_offset(type) != 0)
        p = _mm256_add_epi16(_mm256_set1_epi32(aux[unpack_halves(type) ? h * aux_stride : 0].i), p);
    *pairs = p;
    if (i < 3 || (across && h == 0))
        return;
    p = _mm256_madd_epi16(p, s);
    sum->whole = across || h == 0 ? p : _mm256_add_epi32(sum->whole, p);
}

/* Types of which a block fills its bytes alone, and whose fields are easily had: see sum_by_rows. */
TILE_INLINE bool tile_by_rows(ht_type type)
{
    return type == HT_Q4_0 || type == HT_Q4_1 || type == HT_Q8_0 || type == HT_IQ4_NL || type == HT_IQ4_XS;
}

/* The same sum of a whole block as by sum_quarter, for one column: lanes stay along the columns, half of a vector for row
 * m, half for row 4 + m, and the sums are turned instead of the weights: fewer shuffles, and fewer loads of x. */
TILE_INLINE __m256i sum_by_rows(ht_type type, const tile_rows *tile, size_t at, __m256i s, const int8_t *q,
                                const tile_aux *aux)
{
    const bool is_signed = unpack_is_signed(type);
    __m256i x[2], row[4], sum[3];
    TILE_UNROLL for (int h = 0; h < 2; h++)
        x[h] = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)(q + 16 * h)));
    TILE_UNROLL for (int m = 0; m < 4; m++) {
        __m256i v = load_pair(tile, at, m), p[2];
        TILE_UNROLL for (int h = 0; h < 2; h++) {
            __m256i w = type != HT_Q8_0 ? low_bits(v, 4 * h, 15) : h == 0 ? v : load_pair(tile, at + 16, m);
            p[h] = pairs_product(type, type == HT_IQ4_NL || type == HT_IQ4_XS ? iq4_values(w) : w, x[h]);
            if (is_signed)
                p[h] = _mm256_madd_epi16(p[h], _mm256_set1_epi16(1));
        }
        row[m] = is_signed ? _mm256_add_epi32(p[0], p[1]) : _mm256_add_epi16(p[0], p[1]);
    }
#define ADD(a, b) (is_signed ? _mm256_add_epi32(a, b) : _mm256_add_epi16(a, b))
    TILE_UNROLL for (int i = 0; i < 2; i++)
        sum[i] = ADD(_mm256_unpacklo_epi32(row[2 * i], row[2 * i + 1]), _mm256_unpackhi_epi32(row[2 * i], row[2 * i + 1]));
    sum[2] = ADD(_mm256_unpacklo_epi64(sum[0], sum[1]), _mm256_unpackhi_epi64(sum[0], sum[1]));
#undef ADD
    if (is_signed)
        return unpack_has_scale(type) ? _mm256_mullo_epi32(sum[2], _mm256_srai_epi32(s, 16)) : sum[2];
    if (unpack_offset(type) != 0)
        sum[2] = _mm256_add_epi16(sum[2], _mm256_set1_epi32(aux[0].i));
    return _mm256_madd_epi16(sum[2], s);
}

/* acc += a block's sum, scaled. This is the one order of F32 sums of both classes. */
TILE_INLINE __m256 add_block(ht_type type, __m256i sum, const tile_scales *o, float scale, const tile_aux *aux, __m256 acc)
{
    __m256 t = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), o->d);
    if (type == HT_Q2_K)
        t = _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_madd_epi16(o->mins, _mm256_set1_epi32(aux[0].i))), o->m, t);
    acc = _mm256_fmadd_ps(t, _mm256_set1_ps(scale), acc);
    if (unpack_has_min(type) && type != HT_Q2_K)
        acc = _mm256_fmadd_ps(o->m, _mm256_set1_ps(aux[0].f), acc);
    return acc;
}

#endif
#endif
