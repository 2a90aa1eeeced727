/* Makes the AVX2 tile kernels of one weight type: included by the dot_*_avx2.c files, which name the types. */
#ifndef HEARTH_CPU_TILE_TYPES_AVX2_H
#define HEARTH_CPU_TILE_TYPES_AVX2_H

#include "cpu/tile_avx2.h"

#if defined(__AVX2__)

TILE_INLINE void tile_one(ht_type type, const tile_rows *tile, const char *next, const int8_t *q,
                          const float *d, const tile_aux *aux, int64_t blocks, __m256 *out)
{
    const int group = unpack_group_blocks(type), halves = unpack_halves(type) ? 2 : 1;
    __m256 acc = *out;
    size_t at = 0;
    for (int64_t first = 0; first < blocks; first += group, at += unpack_group_bytes(type)) {
        const size_t bytes = unpack_group_bytes(type), n = (size_t)group;
        tile_group scales;
        unpack_scales(type, tile, at, &scales);
        TILE_UNROLL for (int b = 0; b < group; b++) {
            tile_prefetch(next, at + (size_t)b * bytes / n, at + (size_t)(b + 1) * bytes / n);
            tile_block w;
            unpack_block(type, tile, at, &scales, b, &w);
            acc = block_column(type, w.w, w.d, w.m, q + HT_QK * (first + b), d[first + b], aux + (first + b) * halves,
                               1, acc);
        }
    }
    *out = acc;
}

TILE_INLINE void store_blocks(ht_type type, const tile_rows *tile, size_t at, int64_t blocks, __m256i *out)
{
    const int group = unpack_group_blocks(type), n = unpack_halves(type) ? 2 : 1;
    for (int64_t first = 0; first < blocks; first += group, at += unpack_group_bytes(type)) {
        tile_group scales;
        unpack_scales(type, tile, at, &scales);
        TILE_UNROLL for (int b = 0; b < group; b++, out += stored_vectors(type)) {
            tile_block w;
            unpack_block(type, tile, at, &scales, b, &w);
            TILE_UNROLL for (int j = 0; j < 8; j++)
                _mm256_store_si256(out + j, w.w[j]);
            TILE_UNROLL for (int h = 0; h < n; h++) {
                _mm256_store_si256(out + 8 + h, _mm256_castps_si256(w.d[h]));
                if (unpack_has_min(type))
                    _mm256_store_si256(out + 8 + n + h, _mm256_castps_si256(w.m[h]));
            }
        }
    }
}

/* out (blocks * 32, 8): weight k of row r. */
TILE_INLINE void float_blocks(ht_type type, const tile_rows *tile, size_t at, int64_t blocks, float *out)
{
    const int group = unpack_group_blocks(type);
    for (int64_t first = 0; first < blocks; first += group, at += unpack_group_bytes(type)) {
        tile_group scales;
        unpack_scales(type, tile, at, &scales);
        TILE_UNROLL for (int b = 0; b < group; b++) {
            tile_block w;
            unpack_block(type, tile, at, &scales, b, &w);
            TILE_UNROLL for (int k = 0; k < HT_QK; k++, out += TILE_ROWS) {
                const int h = unpack_halves(type) ? k / 16 : 0;
                __m256i q = _mm256_sub_epi8(w.w[k / 4], _mm256_set1_epi8((char)unpack_offset(type)));
                q = _mm256_srai_epi32(_mm256_slli_epi32(q, 24 - 8 * (k % 4)), 24);
                __m256 f = _mm256_cvtepi32_ps(q);
                f = unpack_has_min(type) ? _mm256_fmadd_ps(f, w.d[h], w.m[h]) : _mm256_mul_ps(f, w.d[h]);
                _mm256_storeu_ps(out, f);
            }
        }
    }
}

TILE_INLINE void load_block(ht_type type, const __m256i *stored, tile_block *o)
{
    const int n = unpack_halves(type) ? 2 : 1;
    TILE_UNROLL for (int i = 0; i < 8; i++)
        o->w[i] = _mm256_load_si256(stored + i);
    TILE_UNROLL for (int h = 0; h < n; h++) {
        o->d[h] = _mm256_castsi256_ps(_mm256_load_si256(stored + 8 + h));
        if (unpack_has_min(type))
            o->m[h] = _mm256_castsi256_ps(_mm256_load_si256(stored + 8 + n + h));
    }
}

/* NC columns, from column c0 on. */
TILE_INLINE void stored_columns(ht_type type, int nc, int64_t c0, const __m256i *stored, int64_t blocks,
                                const tile_columns *x, int64_t first, __m256 *out)
{
    __m256 acc[TILE_COLUMNS];
    TILE_UNROLL for (int c = 0; c < nc; c++)
        acc[c] = out[c0 + c];
    for (int64_t b = first; b < first + blocks; b++, stored += stored_vectors(type)) {
        tile_block w;
        load_block(type, stored, &w);
        TILE_UNROLL for (int c = 0; c < nc; c++)
            acc[c] = block_column(type, w.w, w.d, w.m, x->q[c0 + c] + HT_QK * b, x->d[c0 + c][b],
                                  x->aux[c0 + c] + b * (unpack_halves(type) ? 2 : 1), 1, acc[c]);
    }
    TILE_UNROLL for (int c = 0; c < nc; c++)
        out[c0 + c] = acc[c];
}

/* Layout of packed tiles: int8 q[4][32], float d[4], tile_aux aux[4] or [2][4]. */
TILE_INLINE size_t packed_block_bytes(bool halves) { return TILE_COLUMNS * (HT_QK + 4u + (halves ? 8u : 4u)); }

TILE_INLINE void tile_product(ht_type type, const __m256i *stored, const char *packed, int64_t blocks,
                              const char *next, size_t next_step, float *y, int64_t y_stride, int64_t rows, int64_t n)
{
    uintptr_t line = (uintptr_t)next, ahead = line;
    __m256 acc[TILE_COLUMNS];
    TILE_UNROLL for (int c = 0; c < TILE_COLUMNS; c++)
        acc[c] = _mm256_setzero_ps();
    for (int64_t b = 0; b < blocks; b++, stored += stored_vectors(type)) {
        const int8_t *q = (const int8_t *)packed;
        const float *scale = (const float *)(const void *)(packed + TILE_COLUMNS * HT_QK);
        const tile_aux *aux = (const tile_aux *)(const void *)(scale + TILE_COLUMNS);
        for (ahead += next_step; line < ahead; line += 64)
            _mm_prefetch((const char *)line, _MM_HINT_T1);
        tile_block w;
        load_block(type, stored, &w);
        TILE_UNROLL for (int c = 0; c < TILE_COLUMNS; c++)
            acc[c] = block_column(type, w.w, w.d, w.m, q + HT_QK * c, scale[c], aux + c, TILE_COLUMNS, acc[c]);
        packed += packed_block_bytes(unpack_halves(type));
    }
    __m256i mask = lanes_mask(rows);
    TILE_UNROLL for (int c = 0; c < TILE_COLUMNS; c++) {
        if (c < n)
            _mm256_maskstore_ps(y + c * y_stride, mask, acc[c]);
    }
}

#define TILE_TYPE(name, type)                                                                                      \
    static void one_##name(const tile_rows *tile, const char *next, const int8_t *q, const float *d,        \
                           const tile_aux *aux, int64_t blocks, __m256 *acc)                                       \
    {                                                                                                              \
        tile_one(type, tile, next, q, d, aux, blocks, acc);                                                       \
    }                                                                                                              \
    static void store_##name(const tile_rows *tile, size_t at, int64_t blocks, __m256i *out)                       \
    {                                                                                                              \
        store_blocks(type, tile, at, blocks, out);                                                                 \
    }                                                                                                              \
    static void floats_##name(const tile_rows *tile, size_t at, int64_t blocks, float *out)                        \
    {                                                                                                              \
        float_blocks(type, tile, at, blocks, out);                                                                 \
    }                                                                                                              \
    static void columns_##name(int64_t n, const __m256i *stored, int64_t blocks, const tile_columns *x,            \
                               int64_t first, __m256 *acc)                                                         \
    {                                                                                                              \
        int64_t c = 0;                                                                                             \
        for (; c + 4 <= n; c += 4)                                                                                 \
            stored_columns(type, 4, c, stored, blocks, x, first, acc);                                             \
        for (; c + 2 <= n; c += 2)                                                                                 \
            stored_columns(type, 2, c, stored, blocks, x, first, acc);                                             \
        for (; c < n; c++)                                                                                         \
            stored_columns(type, 1, c, stored, blocks, x, first, acc);                                             \
    }                                                                                                              \
    static void product_##name(const __m256i *stored, const char *packed, int64_t blocks, const char *next,        \
                               size_t next_step, float *y, int64_t y_stride, int64_t rows, int64_t n)              \
    {                                                                                                              \
        tile_product(type, stored, packed, blocks, next, next_step, y, y_stride, rows, n);                         \
    }                                                                                                              \
    const tile_type ht_tile_##name##_avx2 = {type, one_##name, store_##name, floats_##name, columns_##name,        \
                                             product_##name};

#endif
#endif
