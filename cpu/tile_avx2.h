/* What the files of the AVX2 matrix kernels share: the kernels of a weight type that work on a tile of 8 rows, and how
 * an unpacked block meets a column. The plan is that of tile_avx512.h. */
#ifndef HEARTH_CPU_TILE_AVX2_H
#define HEARTH_CPU_TILE_AVX2_H

#include "cpu/unpack_avx2.h"

#if defined(__AVX2__)

enum {
    TILE_SEGMENT = 1024, /* blocks of 32 columns that a decode-class product takes at a time */
    TILE_STAGE = 8,     /* blocks that are unpacked to memory at a time */
    TILE_COLUMNS = 4,   /* columns that a packed tile of activations holds side by side */
};

/* A block in memory: 8 vectors of weights, then 1 or 2 of scales, then as many of minimums if the type has them. */
TILE_INLINE int64_t stored_vectors(ht_type type)
{
    return 8 + (unpack_halves(type) ? 2 : 1) * (unpack_has_min(type) ? 2 : 1);
}

/* What is known of a column beside quants and scale, 32 bits for each block, or each half block:
 *   offset types: int, -offset * sum(q), the start of the integer sum; types with minimums: float, d * sum(q). */
typedef union tile_aux { int32_t i; float f; } tile_aux;

/* How far from a tile's beginning the one begins that is prefetched meanwhile: whole tiles, 32 KiB or more. */
TILE_INLINE size_t tile_ahead(size_t row_bytes)
{
    const size_t tile = TILE_ROWS * row_bytes, least = 32 << 10;
    return (least + tile - 1) / tile * tile;
}

/* While a tile is read, a later one is prefetched into L2, a few lines for each block that is unpacked, in the order
 * of addresses (all its rows lie one after another): see tile_avx512.h. */
TILE_INLINE void tile_prefetch(const char *next, size_t from, size_t to)
{
    for (size_t line = (from * TILE_ROWS + 63) & ~(size_t)63; line < to * TILE_ROWS; line += 64)
        _mm_prefetch((const char *)((uintptr_t)next + line), _MM_HINT_T1);
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
                    float *y, int64_t y_stride, int64_t rows, int64_t n);
} tile_type;

extern const tile_type ht_tile_q4_0_avx2, ht_tile_q4_1_avx2, ht_tile_q5_0_avx2, ht_tile_q5_1_avx2, ht_tile_q8_0_avx2,
    ht_tile_iq4_nl_avx2, ht_tile_q2_k_avx2, ht_tile_q3_k_avx2, ht_tile_q4_k_avx2, ht_tile_q5_k_avx2, ht_tile_q6_k_avx2,
    ht_tile_iq4_xs_avx2;

/* EACH(name, type) for every quantised type. */
#define TILE_EACH_TYPE(EACH)                                                                                       \
    EACH(q4_0, HT_Q4_0) EACH(q4_1, HT_Q4_1) EACH(q5_0, HT_Q5_0) EACH(q5_1, HT_Q5_1) EACH(q8_0, HT_Q8_0)            \
    EACH(iq4_nl, HT_IQ4_NL) EACH(q2_k, HT_Q2_K) EACH(q3_k, HT_Q3_K) EACH(q4_k, HT_Q4_K) EACH(q5_k, HT_Q5_K)        \
    EACH(q6_k, HT_Q6_K) EACH(iq4_xs, HT_IQ4_XS)

/* The parts of the table. */
void ht_kernels_dot_float_avx2(ht_kernels *k);
void ht_kernels_dot_quant_avx2(ht_kernels *k);
void ht_kernels_matmul_q8_avx2(ht_kernels *k);
void ht_kernels_matmul_f32_avx2(ht_kernels *k);

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

/* The sum of 8 lanes, by a fixed tree. */
TILE_INLINE float sum_lanes(__m256 v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

TILE_INLINE __m256i column_product(bool is_signed, __m256i w, const int8_t *q)
{
    int32_t v;
    memcpy(&v, q, sizeof(v));
    __m256i x = _mm256_set1_epi32(v);
    return is_signed ? _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w)) : _mm256_maddubs_epi16(w, x);
}

/* sum += w[i] . q, i in [from, to): 16-bit sums of pairs as far as the type's bytes allow. */
TILE_INLINE __m256i column_sum(ht_type type, const __m256i *w, int from, int to, const int8_t *q, __m256i sum)
{
    const int pairs = unpack_pairs(type) < to - from ? unpack_pairs(type) : to - from;
    TILE_UNROLL for (int i = from; i < to; i += pairs) {
        __m256i p = column_product(unpack_is_signed(type), w[i], q + 4 * i);
        TILE_UNROLL for (int j = 1; j < pairs; j++)
            p = _mm256_add_epi16(p, column_product(unpack_is_signed(type), w[i + j], q + 4 * (i + j)));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(p, _mm256_set1_epi16(1)));
    }
    return sum;
}

/* acc += one block (8 rows, 32) . 32 values of a column. This is the one order of sums of both classes. */
TILE_INLINE __m256 block_column(ht_type type, const __m256i w[8], const __m256 d[2], const __m256 m[2], const int8_t *q,
                                float scale, const tile_aux *aux, int64_t aux_stride, __m256 acc)
{
    const bool halves = unpack_halves(type), offset = unpack_offset(type) != 0;
    if (halves) {
        __m256i low = _mm256_set1_epi32(offset ? aux[0].i : 0);
        __m256i high = _mm256_set1_epi32(offset ? aux[aux_stride].i : 0);
        low = column_sum(type, w, 0, 4, q, low);
        high = column_sum(type, w, 4, 8, q, high);
        __m256 t = _mm256_mul_ps(_mm256_cvtepi32_ps(low), d[0]);
        t = _mm256_fmadd_ps(_mm256_cvtepi32_ps(high), d[1], t);
        acc = _mm256_fmadd_ps(t, _mm256_set1_ps(scale), acc);
    } else {
        __m256i sum = column_sum(type, w, 0, 8, q, _mm256_set1_epi32(offset ? aux[0].i : 0));
        acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_mul_ps(d[0], _mm256_set1_ps(scale)), acc);
    }
    if (unpack_has_min(type)) {
        acc = _mm256_fmadd_ps(m[0], _mm256_set1_ps(aux[0].f), acc);
        if (halves)
            acc = _mm256_fmadd_ps(m[1], _mm256_set1_ps(aux[aux_stride].f), acc);
    }
    return acc;
}

#endif
#endif
