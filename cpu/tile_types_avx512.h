/* Makes the tile kernels of one weight type: included by the dot_*_avx512.c files, which name the types. */
#ifndef HEARTH_CPU_TILE_TYPES_AVX512_H
#define HEARTH_CPU_TILE_TYPES_AVX512_H

#include "cpu/scaled_avx512.h"

#if defined(__AVX512VBMI__)

/* Runs `body` for each group `group` at `here`, whose first block is `first`. */
#define TILE_GROUPS(type, body)                                                                                    \
    tile_aside aside;                                                                                              \
    tile_rows here;                                                                                                \
    for (int64_t first = 0; first < blocks;) {                                                                     \
        int64_t groups = tile_take(type, source, at, blocks - first, &aside, &here);                               \
        for (; groups > 0; groups--, at += unpack_group_bytes(type), first += unpack_group_blocks(type)) {         \
            tile_group group;                                                                                      \
            unpack_scales(type, &here, 0, &group);                                                                 \
            body                                                                                                   \
            tile_advance(type, &here);                                                                             \
        }                                                                                                          \
    }

/* Runs `body` for each block: the block b of such a group, unpacked to w. */
#define TILE_BLOCKS(type, body)                                                                                    \
    TILE_GROUPS(type, {                                                                                            \
        tile_turned turned;                                                                                        \
        TILE_UNROLL for (int i = 0; i < unpack_group_blocks(type); i++) {                                          \
            const int b = unpack_order(type, i);                                                                   \
            if (unpack_is_small(type) && b > 0 && b >= blocks - first)                                             \
                break;                                                                                             \
            if (i % unpack_share(type) == 0)                                                                       \
                turn_block(type, &here, b, &group, &turned);                                                       \
            tile_block w;                                                                                          \
            unpack_block(type, false, false, &turned, &group, b, &w);                                              \
            body                                                                                                   \
        }                                                                                                          \
    })

/* Blocks are turned while those before are multiplied: a block is one chain of instructions that wait for each other, and
 * what the CPU looks ahead is little more than a block. (Zen 4, in L2, GB/s: IQ4_XS 29.9 without, 32.8 with it.) Not so
 * types that would take more registers than there are, and that keep bits of several blocks in the group. At a row's end
 * this turns up to one block of what tile_take allows to be read. */
TILE_INLINE bool tile_turns_early(ht_type type) { return unpack_is_small(type) || type == HT_Q4_K || type == HT_IQ4_XS; }

/* Turned to where a woven tile has it: types that are unpack_scaled have one code for both. */
TILE_INLINE void turn_scaled(ht_type type, const tile_rows *here, tile_group *g, __m512i *quants)
{
    TILE_UNROLL for (int H = 0; H < 2; H++) {
        tile_turned turned;
        turn_block(type, here, 4 * H, g, &turned);
        TILE_UNROLL for (int i = 0; i < 8; i++)
            _mm512_store_si512(quants + scaled_at(type, H, i / 4) + i % 4, turned.t[i]);
    }
    TILE_UNROLL for (int i = 0; i < 8 && type == HT_Q3_K; i++)
        _mm512_store_si512(quants + scaled_third_at(i / 4) + i % 4, g->more[i]);
}

/* nc columns of `all` from `from` on, and from block b on. */
TILE_INLINE column_set column_set_at(int nc, const column_set *all, int64_t from, int64_t b)
{
    column_set x;
    TILE_UNROLL for (int c = 0; c < nc; c++) {
        x.q[c] = all->q[from + c] + HT_QK * b;
        x.d[c] = all->d[from + c] + b;
        x.aux[c] = all->aux[from + c] + 2 * b;
    }
    return x;
}

TILE_INLINE void scaled_tile(ht_type type, int nc, const tile_source *source, size_t ahead, const column_set *columns,
                             int64_t from, int64_t blocks, __m512 *out)
{
    __m512 acc[SCALED_AT_ONCE];
    size_t at = 0;
    TILE_UNROLL for (int c = 0; c < nc; c++)
        acc[c] = out[c];
    TILE_GROUPS(type, {
        __attribute__((aligned(64))) __m512i quants[24];
        const column_set x = column_set_at(nc, columns, from, first);
        turn_scaled(type, &here, &group, quants);
        scaled_super(type, nc, (const uint8_t *)quants, &group, &x, &here, (uintptr_t)source->w + TILE_ROWS * at, ahead, acc);
    })
    TILE_UNROLL for (int c = 0; c < nc; c++)
        out[c] = acc[c];
}

TILE_INLINE void scaled_woven(ht_type type, int nc, const uint8_t *tile, const column_set *columns, int64_t from,
                              int64_t blocks, __m512 *out)
{
    const size_t bytes = TILE_ROWS * unpack_group_bytes(type); /* the quants are last */
    const size_t quants = bytes - WOVEN_DWORD * (type == HT_Q2_K ? 16u : 24u);
    __m512 acc[SCALED_AT_ONCE];
    TILE_UNROLL for (int c = 0; c < nc; c++)
        acc[c] = out[c];
    for (int64_t first = 0; first < blocks; first += SCALED_BLOCKS, tile += bytes) {
        const column_set x = column_set_at(nc, columns, from, first);
        tile_group group;
        woven_scales(type, tile, &group);
        scaled_super(type, nc, tile + quants, &group, &x, NULL, (uintptr_t)tile, 0, acc);
    }
    TILE_UNROLL for (int c = 0; c < nc; c++)
        out[c] = acc[c];
}

TILE_INLINE void tile_one(ht_type type, const tile_source *source, size_t ahead, const int8_t *q,
                          const float *d, const tile_aux *aux, int64_t blocks, __m512 *out)
{
    const int n = unpack_group_blocks(type), share = unpack_share(type), early = tile_turns_early(type) ? share : 0;
    const int halves = unpack_halves(type) ? 2 : 1;
    __m512 acc = *out;
    size_t at = 0;
    TILE_GROUPS(type, {
        tile_turned turned[2];
        if (early > 0)
            turn_block(type, &here, 0, &group, &turned[0]);
        TILE_UNROLL for (int i = 0; i < n; i++) {
            const int b = unpack_order(type, i);
            if (unpack_is_small(type) && b > 0 && b >= blocks - first)
                break;
            tile_prefetch_part(type, (uintptr_t)source->w + TILE_ROWS * at, ahead, &here, i, n);
            if (i % share == 0 && i + early < n)
                turn_block(type, &here, unpack_order(type, i + early), &group, &turned[(i + early) / share % 2]);
            tile_block w;
            unpack_block(type, false, true, &turned[i / share % 2], &group, b, &w);
            acc = block_column(true, unpack_halves(type), unpack_has_min(type), w.w, w.d, w.m, w.shift,
                               q + HT_QK * (first + b), d[first + b], aux + (first + b) * halves, 1, acc);
        }
    })
    *out = acc;
}

/* Runs `body` for each block b, as TILE_BLOCKS does, of a woven tile from `from` on. */
#define WOVEN_BLOCKS(type, raw, from, body)                                                                        \
    for (int64_t first = 0; first < blocks; first += unpack_group_blocks(type),                                    \
                 from += TILE_ROWS * unpack_group_bytes(type)) {                                                   \
        tile_group group;                                                                                          \
        tile_turned turned;                                                                                        \
        woven_scales(type, from, &group);                                                                          \
        TILE_UNROLL for (int i = 0; i < unpack_group_blocks(type); i++) {                                          \
            const int b = unpack_order(type, i);                                                                   \
            if (unpack_is_small(type) && b > 0 && b >= blocks - first)                                             \
                break;                                                                                             \
            if (i % unpack_share(type) == 0)                                                                       \
                woven_block(type, from, b, &group, &turned);                                                       \
            tile_block w;                                                                                          \
            unpack_block(type, true, raw, &turned, &group, b, &w);                                                 \
            body                                                                                                   \
        }                                                                                                          \
    }

TILE_INLINE void woven_one(ht_type type, const uint8_t *tile, const int8_t *q, const float *d, const tile_aux *aux,
                           int64_t blocks, __m512 *out)
{
    const int halves = unpack_halves(type) ? 2 : 1;
    __m512 acc = *out;
    WOVEN_BLOCKS(type, true, tile, {
        woven_prefetch_part(type, tile, i, unpack_group_blocks(type));
        acc = block_column(true, unpack_halves(type), unpack_has_min(type), w.w, w.d, w.m, w.shift,
                           q + HT_QK * (first + b), d[first + b], aux + (first + b) * halves, 1, acc);
    })
    *out = acc;
}

/* Block b of a group. */
TILE_INLINE void store_block(ht_type type, const tile_block *w, const tile_group *g, int b, __m512i *out)
{
    if (unpack_scaled(type)) {
        scaled_store_block(type, w, g, b, out);
        return;
    }
    const int parts = unpack_halves(type) ? 2 : 1;
    TILE_UNROLL for (int j = 0; j < 8; j++)
        _mm512_store_si512(out + j, w->w[j]);
    TILE_UNROLL for (int h = 0; h < parts; h++) {
        _mm512_store_ps(out + 8 + h, w->d[h]);
        if (unpack_has_min(type))
            _mm512_store_ps(out + 8 + parts + h, w->m[h]);
    }
}

TILE_INLINE void tile_store(ht_type type, const tile_source *source, size_t at, int64_t blocks, __m512i *out)
{
    TILE_BLOCKS(type, { store_block(type, &w, &group, b, out + (first + b) * stored_vectors(type)); })
}

TILE_INLINE void woven_store(ht_type type, const uint8_t *tile, int64_t blocks, __m512i *out)
{
    WOVEN_BLOCKS(type, false, tile, { store_block(type, &w, &group, b, out + (first + b) * stored_vectors(type)); })
}

/* out (blocks * 32, 16): weight k of row r. */
TILE_INLINE void tile_floats(ht_type type, const tile_source *source, size_t at, int64_t blocks, float *out)
{
    TILE_BLOCKS(type, {
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
    static void one_##name(const tile_source *source, size_t ahead, const int8_t *q, const float *d,               \
                           const tile_aux *aux, int64_t blocks, __m512 *acc)                                       \
    {                                                                                                              \
        tile_one(type, source, ahead, q, d, aux, blocks, acc);                                                     \
    }                                                                                                              \
    static void woven_one_##name(const uint8_t *tile, const int8_t *q, const float *d, const tile_aux *aux,        \
                                 int64_t blocks, __m512 *acc)                                                      \
    {                                                                                                              \
        woven_one(type, tile, q, d, aux, blocks, acc);                                                             \
    }                                                                                                              \
    TILE_TYPE_WITH(name, type, .one = one_##name, .woven_one = woven_one_##name)
/* Of one that is unpack_scaled. */
#define TILE_TYPE_SCALED(name, type)                                                                               \
    static void few_##name(const tile_source *source, size_t ahead, const column_set *x, int64_t from, int64_t n,  \
                           int64_t blocks, __m512 *acc)                                                            \
    {                                                                                                              \
        if (n == 1)                                                                                                \
            scaled_tile(type, 1, source, ahead, x, from, blocks, acc);                                             \
        else                                                                                                       \
            scaled_tile(type, SCALED_AT_ONCE, source, ahead, x, from, blocks, acc);                                \
    }                                                                                                              \
    static void woven_few_##name(const uint8_t *tile, const column_set *x, int64_t from, int64_t n,                \
                                 int64_t blocks, __m512 *acc)                                                      \
    {                                                                                                              \
        if (n == 1)                                                                                                \
            scaled_woven(type, 1, tile, x, from, blocks, acc);                                                     \
        else                                                                                                       \
            scaled_woven(type, SCALED_AT_ONCE, tile, x, from, blocks, acc);                                        \
    }                                                                                                              \
    TILE_TYPE_WITH(name, type, .few = few_##name, .woven_few = woven_few_##name)
#define TILE_TYPE_WITH(name, id, ...)                                                                              \
    static void store_##name(const tile_source *source, size_t at, int64_t blocks, __m512i *out)                   \
    {                                                                                                              \
        tile_store(id, source, at, blocks, out);                                                                   \
    }                                                                                                              \
    static void woven_store_##name(const uint8_t *tile, int64_t blocks, __m512i *out)                              \
    {                                                                                                              \
        woven_store(id, tile, blocks, out);                                                                        \
    }                                                                                                              \
    static void floats_##name(const tile_source *source, size_t at, int64_t blocks, float *out)                    \
    {                                                                                                              \
        tile_floats(id, source, at, blocks, out);                                                                  \
    }                                                                                                              \
    const tile_type TILE(name) = {.type = id, .store = store_##name, .floats = floats_##name,                      \
                                               .woven_store = woven_store_##name, __VA_ARGS__};

#endif
#endif
