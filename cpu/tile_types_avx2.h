/* Makes the AVX2 tile kernels of one weight type: included by the dot_*_avx2.c files, which name the types. */
#ifndef HEARTH_CPU_TILE_TYPES_AVX2_H
#define HEARTH_CPU_TILE_TYPES_AVX2_H

#include "cpu/tile_avx2.h"
#include "cpu/woven_avx2.h"

#if defined(__AVX2__)

/* acc += the blocks of a span. */
TILE_INLINE __m256 span_by_pieces(ht_type type, const tile_rows *tile, size_t at, const tile_group *g, int b, const int8_t *q,
                                  const float *d, const tile_aux *aux, __m256 acc)
{
    const int pieces = unpack_pieces(type), chunks = 2 * unpack_span(type) / pieces, per_block = tile_aux_count(type);
    block_sum sum[4];
    TILE_UNROLL for (int c = 0; c < chunks; c++) {
        tile_chunk k;
        unpack_chunk(type, tile, at, g, b, c, &k);
        TILE_UNROLL for (int p = 0; p < pieces; p++) {
            const int of = piece_block(type, p), h = piece_half(type, c, p);
            __m256i w[4];
            tile_scales o;
            unpack_piece(type, g, &k, b, p, w);
            TILE_UNROLL for (int i = 0; i < 4; i++)
                sum_quarter(type, h, i, w[i], unpack_scale(type, g, b + of, h), q + HT_QK * of + 16 * h + 4 * i,
                            aux + of * per_block, 1, sum + of);
            if (h == 0)
                continue;
            __m256i whole = sum[of].whole;
            if (unpack_shift(type, of))
                whole = _mm256_srai_epi32(whole, unpack_shift(type, of));
            unpack_floats(type, g, b + of, &o);
            acc = add_block(type, whole, &o, d[of], aux + of * per_block, acc);
        }
    }
    return acc;
}

/* acc += `blocks` (a constant: a group, or several small blocks) from `at` on . a column. */
TILE_INLINE __m256 tile_blocks(ht_type type, const tile_rows *tile, size_t at, int blocks, const char *next, const int8_t *q,
                               const float *d, const tile_aux *aux, __m256 acc)
{
    const int group = unpack_group_blocks(type), span = unpack_span(type), per_block = tile_aux_count(type);
    const size_t bytes = unpack_group_bytes(type);
    const size_t lines = ((size_t)(blocks / group) * bytes * TILE_ROWS + 63) / 64;
    tile_group g;
    TILE_UNROLL for (int b = 0; b < blocks; b += span) {
        const size_t group_at = at + (size_t)(b / group) * bytes;
        if (b % group == 0)
            unpack_group(type, tile, group_at, &g);
        tile_prefetch(next, at, lines * (size_t)b / (size_t)blocks, lines * (size_t)(b + span) / (size_t)blocks);
        if (tile_by_rows(type)) {
            tile_scales o;
            unpack_scales(type, &g, b % group, &o);
            __m256i sum = sum_by_rows(type, tile, chunk_at(type, group_at, b % group, 0), o.s[0], q + HT_QK * b, aux + b);
            acc = add_block(type, sum, &o, d[b], aux + b, acc);
        } else {
            acc = span_by_pieces(type, tile, group_at, &g, b % group, q + HT_QK * b, d + b, aux + b * per_block, acc);
        }
    }
    return acc;
}

TILE_INLINE void tile_one(ht_type type, const tile_rows *tile, const char *next, const int8_t *q, const float *d,
                          const tile_aux *aux, int64_t blocks, __m256 *out)
{
    const int group = unpack_group_blocks(type), step = group == 1 ? 4 : group;
    const int64_t per_block = tile_aux_count(type);
    __m256 acc = *out;
    size_t at = 0;
    int64_t b = 0;
    for (; b + step <= blocks; b += step, at += (size_t)(step / group) * unpack_group_bytes(type))
        acc = tile_blocks(type, tile, at, step, next, q + HT_QK * b, d + b, aux + b * per_block, acc);
    for (; group == 1 && b < blocks; b++, at += unpack_group_bytes(type))
        acc = tile_blocks(type, tile, at, 1, next, q + HT_QK * b, d + b, aux + b * per_block, acc);
    *out = acc;
}

/* Runs `body` for each vector i of half h of block `of` of the span that begins with block b of the group at `from`, in the
 * order of addresses, which the compiler is to leave as it is. */
#define WOVEN_VECTORS(type, from, aside, b, body)                                                                  \
    TILE_UNROLL for (int step = 0; step < SIDES * woven_lines(type); step++) {                                     \
        const int l = woven_by_sides(type) ? step % woven_lines(type) : step / SIDES;                              \
        const int side = woven_by_sides(type) ? step / woven_lines(type) : step % SIDES;                           \
        tile_chunk k;                                                                                              \
        if (side == 0 || woven_by_sides(type))                                                                     \
            __asm__ volatile("" ::: "memory");                                                                     \
        woven_line(type, from, aside, b, l, side, &k);                                                             \
        TILE_UNROLL for (int i = l % 4, piece = 0; piece < woven_pieces(type); piece++) {                          \
            const int p = woven_piece(type, l, piece), of = piece_block(type, p);                                  \
            const int h = piece_half(type, woven_chunk(l), p);                                                     \
            body                                                                                                   \
        }                                                                                                          \
    }

/* Left to itself, GCC adds by trees, which takes more registers than there are. */
TILE_INLINE void keep_order(ht_type type, int h, int i, block_sum *sum)
{
    const bool across = unpack_pairs(type) == 8;
    if (unpack_pairs(type) > 1)
        __asm__("" : "+x"(sum->pairs[across ? 0 : h]));
    if (unpack_pairs(type) == 1 || (i == 3 && (!across || h == 1)))
        __asm__("" : "+x"(sum->whole));
}

/* acc += `blocks` of a tile . a column. */
TILE_INLINE void woven_one(ht_type type, const uint8_t *tile, const int8_t *q, const float *d, const tile_aux *aux,
                           int64_t blocks, __m256 *out)
{
    const int group = woven_group_blocks(type), span = unpack_span(type), per_block = tile_aux_count(type);
    __m256 acc[SIDES];
    TILE_UNROLL for (int side = 0; side < SIDES; side++)
        acc[side] = out[side];
    for (int64_t first = 0; first < blocks; first += group, tile += woven_group_bytes(type)) {
        tile_group g[SIDES];
        woven_aside aside;
        TILE_UNROLL for (int b = 0; b < group; b += span) {
            const int in_group = unpack_group_blocks(type) == 1 ? 0 : b;
            block_sum sum[SIDES][4];
            woven_begin(type, tile, b, g, &aside);
            WOVEN_VECTORS(type, tile, &aside, b, {
                if (side == 0 && piece == 0)
                    woven_prefetch_part(type, tile, b / span * woven_lines(type) + l, group / span * woven_lines(type));
                sum_quarter(type, h, i, unpack_vector(type, &g[side], &k, b, p, i),
                            unpack_scale(type, &g[side], in_group + of, h), q + HT_QK * (b + of) + 16 * h + 4 * i,
                            aux + (b + of) * per_block, 1, &sum[side][of]);
                keep_order(type, h, i, &sum[side][of]);
            })
            TILE_UNROLL for (int of = 0; of < span; of++) {
                TILE_UNROLL for (int side = 0; side < SIDES; side++) {
                    __m256i whole = sum[side][of].whole;
                    tile_scales o;
                    if (unpack_shift(type, of))
                        whole = _mm256_srai_epi32(whole, unpack_shift(type, of));
                    unpack_floats(type, &g[side], in_group + of, &o);
                    acc[side] = add_block(type, whole, &o, d[b + of], aux + (b + of) * per_block, acc[side]);
                }
            }
        }
        q += HT_QK * group;
        d += group;
        aux += group * per_block;
    }
    TILE_UNROLL for (int side = 0; side < SIDES; side++)
        out[side] = acc[side];
}

TILE_INLINE void store_scales(ht_type type, const tile_scales *o, __m256i *out)
{
    if (unpack_has_scale(type))
        _mm256_store_si256(out++, o->s[0]);
    if (unpack_halves(type))
        _mm256_store_si256(out++, o->s[1]);
    _mm256_store_si256(out++, _mm256_castps_si256(o->d));
    if (unpack_has_min(type))
        _mm256_store_si256(out++, _mm256_castps_si256(o->m));
    if (type == HT_Q2_K)
        _mm256_store_si256(out++, o->mins);
}

TILE_INLINE void load_scales(ht_type type, const __m256i *stored, tile_scales *o)
{
    o->s[0] = unpack_has_scale(type) ? _mm256_load_si256(stored++) : _mm256_set1_epi16(1);
    o->s[1] = unpack_halves(type) ? _mm256_load_si256(stored++) : o->s[0];
    o->d = _mm256_castsi256_ps(_mm256_load_si256(stored++));
    if (unpack_has_min(type))
        o->m = _mm256_castsi256_ps(_mm256_load_si256(stored++));
    if (type == HT_Q2_K)
        o->mins = _mm256_load_si256(stored++);
}

TILE_INLINE void store_blocks(ht_type type, const tile_rows *tile, size_t at, int64_t blocks, __m256i *out)
{
    const int group = unpack_group_blocks(type), span = unpack_span(type), pieces = unpack_pieces(type);
    const int n = stored_vectors(type), chunks = 2 * span / pieces;
    for (int64_t first = 0; first < blocks; first += group, at += unpack_group_bytes(type)) {
        tile_group g;
        unpack_group(type, tile, at, &g);
        TILE_UNROLL for (int b = 0; b < group; b += span, out += span * n) {
            TILE_UNROLL for (int c = 0; c < chunks; c++) {
                tile_chunk k;
                unpack_chunk(type, tile, at, &g, b, c, &k);
                TILE_UNROLL for (int p = 0; p < pieces; p++) {
                    __m256i w[4], *to = out + n * piece_block(type, p) + 4 * piece_half(type, c, p);
                    unpack_piece(type, &g, &k, b, p, w);
                    TILE_UNROLL for (int i = 0; i < 4; i++)
                        _mm256_store_si256(to + i, _mm256_srli_epi16(w[i], unpack_shift(type, p)));
                }
            }
            TILE_UNROLL for (int of = 0; of < span; of++) {
                tile_scales o;
                unpack_scales(type, &g, b + of, &o);
                store_scales(type, &o, out + n * of + 8);
            }
        }
    }
}

/* As store_blocks, of a tile: its sides one after another. */
TILE_INLINE void woven_store(ht_type type, const uint8_t *tile, int64_t blocks, __m256i *out)
{
    const int group = woven_group_blocks(type), span = unpack_span(type), vectors = stored_vectors(type);
    for (int64_t first = 0; first < blocks; first += group, tile += woven_group_bytes(type)) {
        tile_group g[SIDES];
        woven_aside aside;
        TILE_UNROLL for (int b = 0; b < group; b += span, out += span * vectors) {
            __m256i *const to[SIDES] = {out, out + blocks * vectors};
            woven_begin(type, tile, b, g, &aside);
            WOVEN_VECTORS(type, tile, &aside, b, {
                __m256i w = unpack_vector(type, &g[side], &k, b, p, i);
                _mm256_store_si256(to[side] + vectors * of + 4 * h + i, _mm256_srli_epi16(w, unpack_shift(type, p)));
            })
            TILE_UNROLL for (int of = 0; of < span; of++) {
                TILE_UNROLL for (int side = 0; side < SIDES; side++) {
                    tile_scales o;
                    unpack_scales(type, &g[side], unpack_group_blocks(type) == 1 ? 0 : b + of, &o);
                    store_scales(type, &o, to[side] + vectors * of + 8);
                }
            }
        }
    }
}

/* s * (byte j of each dword - offset) as floats. */
TILE_INLINE __m256 float_weights(ht_type type, __m256i w, int j, __m256i s)
{
    __m256i q = _mm256_sub_epi8(w, _mm256_set1_epi8((char)unpack_offset(type)));
    q = _mm256_srai_epi32(_mm256_slli_epi32(q, 24 - 8 * j), 24);
    return _mm256_cvtepi32_ps(unpack_has_scale(type) ? _mm256_madd_epi16(_mm256_and_si256(q, _mm256_set1_epi32(0xffff)), s)
                                                     : q);
}

/* out (blocks * 32, 8): weight k of row r. */
TILE_INLINE void float_blocks(ht_type type, const tile_rows *tile, size_t at, int64_t blocks, float *out)
{
    const int group = unpack_group_blocks(type), span = unpack_span(type), pieces = unpack_pieces(type);
    const int chunks = 2 * span / pieces;
    for (int64_t first = 0; first < blocks; first += group, at += unpack_group_bytes(type)) {
        tile_group g;
        unpack_group(type, tile, at, &g);
        TILE_UNROLL for (int b = 0; b < group; b += span, out += span * HT_QK * TILE_ROWS) {
            TILE_UNROLL for (int c = 0; c < chunks; c++) {
                tile_chunk k;
                unpack_chunk(type, tile, at, &g, b, c, &k);
                TILE_UNROLL for (int p = 0; p < pieces; p++) {
                    const int of = piece_block(type, p), h = piece_half(type, c, p);
                    __m256i w[4];
                    tile_scales o;
                    unpack_piece(type, &g, &k, b, p, w);
                    unpack_scales(type, &g, b + of, &o);
                    __m256 m = o.m;
                    if (type == HT_Q2_K)
                        m = _mm256_mul_ps(m, _mm256_cvtepi32_ps(pick_bytes(o.mins, 2 * h, NONE, NONE, NONE)));
                    TILE_UNROLL for (int i = 0; i < 16; i++) {
                        __m256i plain = _mm256_srli_epi16(w[i / 4], unpack_shift(type, p));
                        __m256 f = float_weights(type, plain, i % 4, o.s[h]);
                        f = unpack_has_min(type) ? _mm256_fmadd_ps(f, o.d, m) : _mm256_mul_ps(f, o.d);
                        _mm256_storeu_ps(out + TILE_ROWS * (HT_QK * of + 16 * h + i), f);
                    }
                }
            }
        }
    }
}

/* acc[c] += a stored block . 32 values of column c, c < NC. Where 16-bit sums end with each half, a vector of weights meets
 * all columns before the next one; else all weights meet a column, which keeps fewer sums alive. */
TILE_INLINE void block_columns(ht_type type, int nc, const __m256i *stored, const int8_t *const *q, const float *scale,
                               const tile_aux *const *aux, int64_t aux_stride, __m256 *acc)
{
    const bool by_column = unpack_pairs(type) != 4;
    tile_scales o;
    block_sum sum[TILE_COLUMNS];
    load_scales(type, stored + 8, &o);
    const int products = 8 * nc;
    TILE_UNROLL for (int j = 0; j < products; j++) {
        const int c = by_column ? j / 8 : j % nc, i = by_column ? j % 8 : j / nc;
        sum_quarter(type, i / 4, i % 4, _mm256_load_si256(stored + i), o.s[i / 4], q[c] + 4 * i, aux[c], aux_stride, sum + c);
        if (by_column && i == 7)
            acc[c] = add_block(type, sum[c].whole, &o, scale[c], aux[c], acc[c]);
    }
    TILE_UNROLL for (int c = 0; c < nc; c++)
        acc[c] = by_column ? acc[c] : add_block(type, sum[c].whole, &o, scale[c], aux[c], acc[c]);
}

/* NC columns, from column c0 on. */
TILE_INLINE void stored_columns(ht_type type, int nc, int64_t c0, const __m256i *stored, int64_t blocks,
                                const tile_columns *x, int64_t first, __m256 *out)
{
    __m256 acc[TILE_COLUMNS];
    TILE_UNROLL for (int c = 0; c < nc; c++)
        acc[c] = out[c0 + c];
    for (int64_t b = first; b < first + blocks; b++, stored += stored_vectors(type)) {
        const int8_t *q[TILE_COLUMNS];
        const tile_aux *aux[TILE_COLUMNS];
        float scale[TILE_COLUMNS];
        TILE_UNROLL for (int c = 0; c < nc; c++) {
            q[c] = x->q[c0 + c] + HT_QK * b;
            aux[c] = x->aux[c0 + c] + b * tile_aux_count(type);
            scale[c] = x->d[c0 + c][b];
        }
        block_columns(type, nc, stored, q, scale, aux, 1, acc);
    }
    TILE_UNROLL for (int c = 0; c < nc; c++)
        out[c0 + c] = acc[c];
}

/* Layout of packed tiles: int8 q[4][32], float d[4], tile_aux aux[4] or [2][4]. */
TILE_INLINE size_t packed_block_bytes(int aux_count) { return TILE_COLUMNS * (HT_QK + 4u + 4u * (size_t)aux_count); }

TILE_INLINE void tile_product(ht_type type, const __m256i *stored, const char *packed, int64_t blocks,
                              const char *next, size_t next_step, float *y, int64_t y_stride, __m256i mask, int64_t n)
{
    uintptr_t line = (uintptr_t)next, ahead = line;
    __m256 acc[TILE_COLUMNS];
    TILE_UNROLL for (int c = 0; c < TILE_COLUMNS; c++)
        acc[c] = _mm256_setzero_ps();
    for (int64_t b = 0; b < blocks; b++, stored += stored_vectors(type)) {
        const float *scale = (const float *)(const void *)(packed + TILE_COLUMNS * HT_QK);
        const tile_aux *aux = (const tile_aux *)(const void *)(scale + TILE_COLUMNS);
        for (ahead += next_step; line < ahead; line += 64)
            _mm_prefetch((const char *)line, _MM_HINT_T1);
        const int8_t *q[TILE_COLUMNS];
        const tile_aux *column_aux[TILE_COLUMNS];
        TILE_UNROLL for (int c = 0; c < TILE_COLUMNS; c++) {
            q[c] = (const int8_t *)packed + HT_QK * c;
            column_aux[c] = aux + c;
        }
        block_columns(type, TILE_COLUMNS, stored, q, scale, column_aux, TILE_COLUMNS, acc);
        packed += packed_block_bytes(tile_aux_count(type));
    }
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
    static void woven_one_##name(const uint8_t *tile, const int8_t *q, const float *d, const tile_aux *aux,        \
                                 int64_t blocks, __m256 *acc)                                                      \
    {                                                                                                              \
        woven_one(type, tile, q, d, aux, blocks, acc);                                                             \
    }                                                                                                              \
    static void woven_store_##name(const uint8_t *tile, int64_t blocks, __m256i *out)                              \
    {                                                                                                              \
        woven_store(type, tile, blocks, out);                                                                      \
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
                               size_t next_step, float *y, int64_t y_stride, __m256i mask, int64_t n)              \
    {                                                                                                              \
        tile_product(type, stored, packed, blocks, next, next_step, y, y_stride, mask, n);                         \
    }                                                                                                              \
    const tile_type TILE(name) = {type, one_##name, store_##name, floats_##name, columns_##name,                   \
                                             product_##name, woven_one_##name, woven_store_##name};

#endif
#endif
