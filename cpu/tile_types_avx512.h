/* Makes the tile kernels of one weight type: included by the dot_*_avx512.c files, which name the types. */
#ifndef HEARTH_CPU_TILE_TYPES_AVX512_H
#define HEARTH_CPU_TILE_TYPES_AVX512_H

#include "cpu/tile_avx512.h"

#if defined(__AVX512VBMI__)

/* Runs `body` for each block: of the group `group` at `here`, whose first block is `first`, the block b. */
#define TILE_BLOCKS(type, body)                                                                                    \
    tile_aside aside;                                                                                              \
    tile_rows here;                                                                                                \
    for (int64_t first = 0; first < blocks;) {                                                                     \
        int64_t groups = tile_take(type, source, at, blocks - first, &aside, &here);                               \
        for (; groups > 0; groups--, at += unpack_group_bytes(type), first += unpack_group_blocks(type)) {         \
            tile_group group;                                                                                      \
            unpack_scales(type, &here, 0, &group);                                                                 \
            TILE_UNROLL for (int i = 0; i < unpack_group_blocks(type); i++) {                                      \
                const int b = unpack_order(type, i);                                                               \
                if (unpack_is_small(type) && b > 0 && b >= blocks - first)                                         \
                    break;                                                                                         \
                tile_block w;                                                                                      \
                body                                                                                               \
            }                                                                                                      \
            tile_advance(type, &here);                                                                             \
        }                                                                                                          \
    }

TILE_INLINE void tile_one(ht_type type, const tile_source *source, const char *next, const int8_t *q,
                          const float *d, const tile_aux *aux, int64_t blocks, __m512 *out)
{
    const size_t bytes = unpack_group_bytes(type), n = (size_t)unpack_group_blocks(type);
    const int halves = unpack_halves(type) ? 2 : 1;
    __m512 acc = *out;
    size_t at = 0;
    TILE_BLOCKS(type, {
        tile_prefetch(next, at + (size_t)i * bytes / n, at + (size_t)(i + 1) * bytes / n);
        unpack_block(type, true, &here, &group, b, &w);
        acc = block_column(true, unpack_halves(type), unpack_has_min(type), w.w, w.d, w.m, w.shift,
                           q + HT_QK * (first + b), d[first + b], aux + (first + b) * halves, 1, acc);
    })
    *out = acc;
}

TILE_INLINE void tile_store(ht_type type, const tile_source *source, size_t at, int64_t blocks, __m512i *out)
{
    const bool halves = unpack_halves(type), has_min = unpack_has_min(type);
    TILE_BLOCKS(type, {
        unpack_block(type, false, &here, &group, b, &w);
        __m512i *o = out + (first + b) * stored_vectors(halves, has_min);
        TILE_UNROLL for (int j = 0; j < 8; j++)
            _mm512_store_si512(o + j, w.w[j]);
        const int parts = halves ? 2 : 1;
        TILE_UNROLL for (int h = 0; h < parts; h++) {
            _mm512_store_ps(o + 8 + h, w.d[h]);
            if (has_min)
                _mm512_store_ps(o + 8 + parts + h, w.m[h]);
        }
    })
}

/* out (blocks * 32, 16): weight k of row r. */
TILE_INLINE void tile_floats(ht_type type, const tile_source *source, size_t at, int64_t blocks, float *out)
{
    TILE_BLOCKS(type, {
        unpack_block(type, false, &here, &group, b, &w);
        TILE_UNROLL for (int k = 0; k < HT_QK; k++) {
            int h = unpack_halves(type) ? k / 16 : 0;
            __m512i q = _mm512_sub_epi8(w.w[k / 4], _mm512_set1_epi8((char)unpack_offset(type)));
            q = _mm512_srai_epi32(_mm512_slli_epi32(q, (unsigned)(24 - 8 * (k % 4))), 24);
            __m512 f = _mm512_cvtepi32_ps(q);
            f = unpack_has_min(type) ? _mm512_fmadd_ps(f, w.d[h], w.m[h]) : _mm512_mul_ps(f, w.d[h]);
            _mm512_storeu_ps(out + TILE_ROWS * (HT_QK * (first + b) + k), f);
        }
    })
}

#define TILE_TYPE(name, type)                                                                                      \
    static void one_##name(const tile_source *source, const char *next, const int8_t *q, const float *d,           \
                           const tile_aux *aux, int64_t blocks, __m512 *acc)                                       \
    {                                                                                                              \
        tile_one(type, source, next, q, d, aux, blocks, acc);                                                      \
    }                                                                                                              \
    static void store_##name(const tile_source *source, size_t at, int64_t blocks, __m512i *out)                   \
    {                                                                                                              \
        tile_store(type, source, at, blocks, out);                                                                 \
    }                                                                                                              \
    static void floats_##name(const tile_source *source, size_t at, int64_t blocks, float *out)                    \
    {                                                                                                              \
        tile_floats(type, source, at, blocks, out);                                                                \
    }                                                                                                              \
    const tile_type ht_tile_##name##_avx512 = {type, one_##name, store_##name, floats_##name};

#endif
#endif
