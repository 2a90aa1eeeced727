/* Makes the tile kernels of one weight type: included by the dot_*_avx512.c files, which name the types. */
#ifndef HEARTH_CPU_TILE_TYPES_AVX512_H
#define HEARTH_CPU_TILE_TYPES_AVX512_H

#include "cpu/tile_avx512.h"

#if defined(__AVX512VBMI__)

TILE_INLINE void one_group(ht_type type, const tile_rows *tile, size_t at, const char *next, int64_t blocks,
                           const int8_t *q, const float *d, const tile_aux *aux, __m512 *acc)
{
    const size_t bytes = unpack_group_bytes(type), n = (size_t)unpack_group_blocks(type);
    tile_group group;
    unpack_scales(type, tile, at, &group);
    TILE_UNROLL for (int i = 0; i < unpack_group_blocks(type); i++) {
        int b = unpack_order(type, i);
        if (b >= blocks)
            break;
        if (next)
            tile_prefetch(next, at + (size_t)i * bytes / n, at + (size_t)(i + 1) * bytes / n);
        tile_block w;
        unpack_block(type, tile, at, &group, b, &w);
        *acc = block_column(true, unpack_halves(type), unpack_has_min(type), w.w, w.d, w.m, q + HT_QK * b, d[b],
                            aux + b * (unpack_halves(type) ? 2 : 1), 1, *acc);
    }
}

TILE_INLINE void tile_one(ht_type type, const tile_rows *tile, const char *next, const int8_t *q,
                          const float *d, const tile_aux *aux, int64_t blocks, __m512 *out)
{
    const int group = unpack_group_blocks(type), halves = unpack_halves(type) ? 2 : 1;
    __m512 acc = *out;
    int64_t b = 0;
    size_t at = 0;
    for (; b + group <= blocks; b += group, at += unpack_group_bytes(type)) {
        one_group(type, tile, at, next, group, q + b * HT_QK, d + b, aux + b * halves, &acc);
    }
    if (unpack_is_small(type) && group > 1 && b < blocks) {
        tile_tail tail;
        tile_tail_set(&tail, tile, at, (size_t)(blocks - b) * unpack_small_bytes(type));
        one_group(type, &tail.rows, 0, NULL, blocks - b, q + b * HT_QK, d + b, aux + b * halves, &acc);
    }
    *out = acc;
}

TILE_INLINE void store_group(ht_type type, const tile_rows *tile, size_t at, int64_t blocks, __m512i *out)
{
    const bool halves = unpack_halves(type), has_min = unpack_has_min(type);
    tile_group group;
    unpack_scales(type, tile, at, &group);
    TILE_UNROLL for (int i = 0; i < unpack_group_blocks(type); i++) {
        int b = unpack_order(type, i);
        if (b >= blocks)
            break;
        tile_block w;
        unpack_block(type, tile, at, &group, b, &w);
        __m512i *o = out + b * stored_vectors(halves, has_min);
        TILE_UNROLL for (int j = 0; j < 8; j++)
            _mm512_store_si512(o + j, w.w[j]);
        const int n = halves ? 2 : 1;
        TILE_UNROLL for (int h = 0; h < n; h++) {
            _mm512_store_ps(o + 8 + h, w.d[h]);
            if (has_min)
                _mm512_store_ps(o + 8 + n + h, w.m[h]);
        }
    }
}

/* out (blocks * 32, 16): weight k of row r. */
TILE_INLINE void floats_group(ht_type type, const tile_rows *tile, size_t at, int64_t blocks, float *out)
{
    tile_group group;
    unpack_scales(type, tile, at, &group);
    TILE_UNROLL for (int i = 0; i < unpack_group_blocks(type); i++) {
        int b = unpack_order(type, i);
        if (b >= blocks)
            break;
        tile_block w;
        unpack_block(type, tile, at, &group, b, &w);
        TILE_UNROLL for (int k = 0; k < HT_QK; k++) {
            int h = unpack_halves(type) ? k / 16 : 0;
            __m512i q = _mm512_sub_epi8(w.w[k / 4], _mm512_set1_epi8((char)unpack_offset(type)));
            q = _mm512_srai_epi32(_mm512_slli_epi32(q, (unsigned)(24 - 8 * (k % 4))), 24);
            __m512 f = _mm512_cvtepi32_ps(q);
            f = unpack_has_min(type) ? _mm512_fmadd_ps(f, w.d[h], w.m[h]) : _mm512_mul_ps(f, w.d[h]);
            _mm512_storeu_ps(out + TILE_ROWS * (HT_QK * b + k), f);
        }
    }
}

#define TILE_GROUPS(type, call_group, call_tail)                                                                   \
    const int group = unpack_group_blocks(type);                                                                   \
    int64_t b = 0;                                                                                                 \
    for (; b + group <= blocks; b += group, at += unpack_group_bytes(type))                                        \
        call_group;                                                                                                \
    if (unpack_is_small(type) && group > 1 && b < blocks) {                                                        \
        tile_tail tail;                                                                                            \
        tile_tail_set(&tail, tile, at, (size_t)(blocks - b) * unpack_small_bytes(type));                           \
        call_tail;                                                                                                 \
    }

#define TILE_TYPE(name, type)                                                                                      \
    static void one_##name(const tile_rows *tile, const char *next, const int8_t *q, const float *d,        \
                           const tile_aux *aux, int64_t blocks, __m512 *acc)                                       \
    {                                                                                                              \
        tile_one(type, tile, next, q, d, aux, blocks, acc);                                                       \
    }                                                                                                              \
    static void store_##name(const tile_rows *tile, size_t at, int64_t blocks, __m512i *out)                       \
    {                                                                                                              \
        const int64_t vectors = stored_vectors(unpack_halves(type), unpack_has_min(type));                         \
        TILE_GROUPS(type, store_group(type, tile, at, group, out + b * vectors),                                   \
                    store_group(type, &tail.rows, 0, blocks - b, out + b * vectors))                               \
    }                                                                                                              \
    static void floats_##name(const tile_rows *tile, size_t at, int64_t blocks, float *out)                        \
    {                                                                                                              \
        TILE_GROUPS(type, floats_group(type, tile, at, group, out + b * HT_QK * TILE_ROWS),                        \
                    floats_group(type, &tail.rows, 0, blocks - b, out + b * HT_QK * TILE_ROWS))                    \
    }                                                                                                              \
    const tile_type ht_tile_##name##_avx512 = {type, one_##name, store_##name, floats_##name};

#endif
#endif
