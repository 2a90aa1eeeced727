/* What the files of the AVX-512 matrix kernels share: the kernels of a weight type that work on a tile of 16 rows,
 * and how an unpacked block meets a column. */
#ifndef HEARTH_CPU_TILE_AVX512_H
#define HEARTH_CPU_TILE_AVX512_H

#include "cpu/tile_entries.h"
#include "cpu/unpack_avx512.h"

#if defined(__AVX512VBMI__)

enum {
    TILE_SEGMENT = 1024,       /* blocks of 32 columns that a decode-class product takes at a time */
    TILE_STAGE = 8,            /* blocks that are unpacked to memory at a time */
    TILE_COLUMNS = HT_DECODE_COLUMNS, /* columns that a packed tile of activations holds side by side */
};

/* A block in memory: 8 vectors of weights, then a scale, or two of half blocks, or one and a minimum. (Of types that are
 * unpack_scaled: see scaled_store_block.) */
TILE_INLINE int64_t stored_vectors(ht_type type) { return unpack_halves(type) || unpack_has_min(type) ? 10 : 9; }

/* The block that is taken as the i-th: the order of unpack_order for all of a row, since sums of F32 follow it. */
TILE_INLINE int64_t taken_block(bool halves, int64_t i) { return halves ? (i & ~3) | (i & 1) << 1 | (i >> 1 & 1) : i; }

/* What is known of a column beside quants and scale, 32 bits for each block, or each half block:
 *   offset types: int, -offset * sum(q), the start of the integer sum; types with minimums: float, d * sum(q).
 * Of HT_Q2_K: see scaled_aux. */
typedef union tile_aux { int32_t i; float f; } tile_aux;

/* What is prefetched along the way, `step` bytes at a time. */
typedef struct tile_next { uintptr_t line, ahead; size_t step; } tile_next;
TILE_INLINE void tile_prefetch_next(tile_next *next)
{
    for (next->ahead += next->step; next->line < next->ahead; next->line += 64)
        _mm_prefetch((const char *)next->line, _MM_HINT_T1);
}

/* How far from a tile's beginning the one begins that is prefetched meanwhile: two tiles, or 16 KiB. Further is worse for
 * small matrices, whose ends come soon: SmolLM2's shape decodes 230 tok/s with 64 KiB, 250 with 32, 270 with 16. */
TILE_INLINE size_t tile_ahead(size_t row_bytes)
{
    const size_t tile = TILE_ROWS * row_bytes, least = 16 << 10;
    return 2 * tile > least ? 2 * tile : (least + tile - 1) / tile * tile;
}

/* While a tile is read, a later one is prefetched into L2, a few lines for each block that is unpacked, in the order
 * of addresses (all its rows lie one after another). Measured on one Zen 4 core, 16 rows of Q4_0, share of a streaming
 * read: 30-37% with prefetches into L1 in any order (they hold the few miss buffers that hits in L2 need too),
 * 74-79% so. A prefetch that finds no free buffer is dropped (prefetches alone run at 161 GB/s over memory that gives 30),
 * so each line is asked for again at half the distance: Q8_0 81% once, 90% twice. */
TILE_INLINE void tile_prefetch_line(uintptr_t tile, size_t ahead, size_t line)
{
    _mm_prefetch((const char *)(tile + ahead + 64 * line), _MM_HINT_T1);
    _mm_prefetch((const char *)(tile + ahead / 2 + 64 * line), _MM_HINT_T1);
}

/* As a tile's rows are read from byte `from` to byte `to`. */
TILE_INLINE void tile_prefetch(const void *tile, size_t ahead, size_t from, size_t to)
{
    for (size_t line = (from * TILE_ROWS + 63) / 64; 64 * line < to * TILE_ROWS; line++)
        tile_prefetch_line((uintptr_t)tile, ahead, line);
}

/* The i-th of n parts of what is prefetched while a group is multiplied. at: the tile's beginning, and 16 times the bytes
 * of the groups before. The empty statements hold the prefetches where they stand: the compiler would gather all of a
 * group, and such a burst is as bad as none (Q6_K: 33% of a streaming read, and 68% spread).
 *
 * Q6_K also takes the next group of the rows at `here` from L2 into L1, a part of the rows each time (68% without, 82%
 * with it). It goes to and fro in the four lines of a super-block; types that read a row from left to right gain nothing. */
TILE_INLINE void tile_prefetch_part(ht_type type, uintptr_t at, size_t ahead, const tile_rows *here, int i, int n)
{
    const size_t bytes = unpack_group_bytes(type), lines = (TILE_ROWS * bytes + 63) / 64;
    const size_t begin = lines * (size_t)i / (size_t)n, end = lines * (size_t)(i + 1) / (size_t)n;
    __asm__ volatile("");
    TILE_UNROLL for (size_t line = begin; line < end; line++)
        tile_prefetch_line(at, ahead, line);
    if (type == HT_Q6_K) {
        TILE_UNROLL for (size_t back = 1; back < bytes; back += 64) {
            _mm_prefetch((const char *)((uintptr_t)tile_row(here, 2 * i) + 2 * bytes - back), _MM_HINT_T0);
            _mm_prefetch((const char *)((uintptr_t)tile_row(here, 2 * i + 1) + 2 * bytes - back), _MM_HINT_T0);
        }
    }
    __asm__ volatile("");
}

/* Columns of activations. */
typedef struct column_set {
    const int8_t *q[TILE_COLUMNS];
    const float *d[TILE_COLUMNS];
    const tile_aux *aux[TILE_COLUMNS];
} column_set;

typedef struct tile_type {
    ht_type type;
    /* acc lane r += row r . one column, over `blocks` blocks. ahead: see tile_prefetch_line. */
    void (*one)(const tile_source *source, size_t ahead, const int8_t *q, const float *d, const tile_aux *aux,
                int64_t blocks, __m512 *acc);
    /* Unpack blocks (whole groups, but at a row's end) to memory: as stored_vectors, or as F32 (blocks * 32, 16). */
    void (*store)(const tile_source *source, size_t at, int64_t blocks, __m512i *out);
    void (*floats)(const tile_source *source, size_t at, int64_t blocks, float *out);
    /* The first and the second of them for a woven tile (core/model/tiles.h), from a group's beginning on. */
    void (*woven_one)(const uint8_t *tile, const int8_t *q, const float *d, const tile_aux *aux, int64_t blocks,
                      __m512 *acc);
    void (*woven_store)(const uint8_t *tile, int64_t blocks, __m512i *out);
    /* In the place of one and woven_one, of types that are unpack_scaled: acc[c] += . column c for n of x
     * from `from` on, but no more than SCALED_AT_ONCE. */
    void (*few)(const tile_source *source, size_t ahead, const column_set *x, int64_t from, int64_t n, int64_t blocks,
                __m512 *acc);
    void (*woven_few)(const uint8_t *tile, const column_set *x, int64_t from, int64_t n, int64_t blocks, __m512 *acc);
} tile_type;

#define TILE(name) ht_tile_##name##_avx512
extern const tile_type ht_tile_q4_0_avx512, ht_tile_q4_1_avx512, ht_tile_q5_0_avx512, ht_tile_q5_1_avx512,
    ht_tile_q8_0_avx512, ht_tile_iq4_nl_avx512, ht_tile_q2_k_avx512, ht_tile_q3_k_avx512, ht_tile_q4_k_avx512,
    ht_tile_q5_k_avx512, ht_tile_q6_k_avx512, ht_tile_iq4_xs_avx512;

/* The parts of the table. */
void ht_kernels_dot_float_avx512(ht_kernels *k);
void ht_kernels_dot_quant_avx512(ht_kernels *k);
void ht_kernels_matmul_q8_avx512(ht_kernels *k);
void ht_kernels_matmul_f32_avx512(ht_kernels *k);
void ht_kernels_matmul_fixed_avx512(ht_kernels *k);

/* 16 weights of a float type at column k; lanes past the end are zero and not read. */
TILE_INLINE __m512 load_floats(ht_type type, const void *row, int64_t k, __mmask16 mask)
{
    if (type == HT_F32)
        return _mm512_maskz_loadu_ps(mask, (const char *)row + 4 * k);
    __m256i half = _mm256_maskz_loadu_epi16(mask, (const char *)row + 2 * k);
    if (type == HT_F16)
        return _mm512_cvtph_ps(half);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

/* Lane j of v[i] to lane i of v[j]. */
TILE_INLINE void turn16(__m512 v[16])
{
    __m512 t[16];
    TILE_UNROLL for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]);
    }
    /* v[4g + j]: lane L holds column 4L + j of rows 4g..4g+3 */
    TILE_UNROLL for (int g = 0; g < 4; g++) {
        v[4 * g] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[4 * g]), _mm512_castps_pd(t[4 * g + 2])));
        v[4 * g + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[4 * g]), _mm512_castps_pd(t[4 * g + 2])));
        v[4 * g + 2] =
            _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[4 * g + 1]), _mm512_castps_pd(t[4 * g + 3])));
        v[4 * g + 3] =
            _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[4 * g + 1]), _mm512_castps_pd(t[4 * g + 3])));
    }
    TILE_UNROLL for (int j = 0; j < 4; j++) {
        __m512 a = _mm512_shuffle_f32x4(v[j], v[4 + j], 0x44), b = _mm512_shuffle_f32x4(v[j], v[4 + j], 0xee);
        __m512 c = _mm512_shuffle_f32x4(v[8 + j], v[12 + j], 0x44), d = _mm512_shuffle_f32x4(v[8 + j], v[12 + j], 0xee);
        t[j] = _mm512_shuffle_f32x4(a, c, 0x88);
        t[4 + j] = _mm512_shuffle_f32x4(a, c, 0xdd);
        t[8 + j] = _mm512_shuffle_f32x4(b, d, 0x88);
        t[12 + j] = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
    TILE_UNROLL for (int i = 0; i < 16; i++)
        v[i] = t[i];
}

/* The first `rows` lanes. */
TILE_INLINE __mmask16 lanes_mask(int64_t rows)
{
    return rows >= TILE_ROWS ? 0xffff : rows <= 0 ? 0 : (__mmask16)((1u << rows) - 1);
}

TILE_INLINE int32_t sum_16(const int8_t *q)
{
    __m128i v = _mm_xor_si128(_mm_loadu_si128((const __m128i *)(const void *)q), _mm_set1_epi8(-128));
    __m128i s = _mm_sad_epu8(v, _mm_setzero_si128());
    return _mm_cvtsi128_si32(s) + _mm_extract_epi16(s, 4) - 16 * 128;
}

/* A stored block, see stored_vectors. */
TILE_INLINE void load_stored(bool halves, bool has_min, const __m512i *from, tile_block *o)
{
    const int parts = halves ? 2 : 1;
    TILE_UNROLL for (int j = 0; j < 8; j++)
        o->w[j] = _mm512_load_si512(from + j);
    TILE_UNROLL for (int h = 0; h < parts; h++) {
        o->d[h] = _mm512_load_ps(from + 8 + h);
        if (has_min)
            o->m[h] = _mm512_load_ps(from + 8 + parts + h);
    }
    o->shift[0] = o->shift[1] = 0;
}

TILE_INLINE __m512i column_dword(const int8_t *q)
{
    int32_t v;
    memcpy(&v, q, sizeof(v));
    return _mm512_set1_epi32(v);
}

/* start + sum of w[i] . q, four vectors. */
TILE_INLINE __m512i column_sum(const __m512i *w, const int8_t *q, __m512i start)
{
    TILE_UNROLL for (int i = 0; i < 4; i++)
        start = _mm512_dpbusd_epi32(start, w[i], column_dword(q + 4 * i));
    return start;
}

/* acc += one block (16 rows, 32) . 32 values of a column. This is the one order of F32 sums of both classes (but of
 * types that are unpack_scaled). `wide`: as two chains, since a chain of eight products waits
 * for most of its time, and with a single column there is little else to do (integer sums: the same bits). shift: see
 * tile_block, with `wide` only; integer sums of weights that are too high are exact multiples. */
TILE_INLINE __m512 block_column(bool wide, bool halves, bool has_min, const __m512i w[8], const __m512 d[2],
                                const __m512 m[2], const int shift[2], const int8_t *q, float scale,
                                const tile_aux *aux, int64_t aux_stride, __m512 acc)
{
    const __m512i zero = _mm512_setzero_si512();
    __m512i low = column_sum(w, q, has_min ? zero : _mm512_set1_epi32(aux[0].i)), high = wide ? zero : low;
    if (halves) /* of types without minimums */
        high = _mm512_set1_epi32(aux[aux_stride].i);
    high = column_sum(w + 4, q + 16, high);
    if (wide && !halves) {
        const bool alike = shift[0] == shift[1];
        if (alike)
            high = _mm512_add_epi32(high, low);
        if (shift[1])
            high = _mm512_srai_epi32(high, (unsigned)shift[1]);
        if (!alike)
            high = _mm512_add_epi32(high, low);
    }
    if (halves) {
        __m512 t = _mm512_mul_ps(_mm512_cvtepi32_ps(low), d[0]);
        t = _mm512_fmadd_ps(_mm512_cvtepi32_ps(high), d[1], t);
        acc = _mm512_fmadd_ps(t, _mm512_set1_ps(scale), acc);
    } else {
        acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(high), _mm512_mul_ps(d[0], _mm512_set1_ps(scale)), acc);
    }
    if (has_min)
        acc = _mm512_fmadd_ps(m[0], _mm512_set1_ps(aux[0].f), acc);
    return acc;
}

#endif
#endif
