/* The decode class with quantised weights, AVX-512: tiles of 16 rows against 1 to 8 columns, quantised or F32. One
 * column is multiplied as the weights are unpacked; more than one go by way of a few unpacked blocks in L1. The order
 * of sums of a (row, column) is the same in both (block_column).
 */
#include "cpu/scaled_avx512.h"

/* What block_column needs of `blocks` blocks of a column, for types where the stored sums do not serve. */
static void make_aux(ht_type type, tile_aux *aux, const int8_t *q, const float *d, int64_t blocks)
{
    int32_t offset = unpack_offset(type);
    if (unpack_scaled(type)) {
        for (int64_t b = 0; b < blocks; b += SCALED_BLOCKS)
            scaled_aux(type, true, q + HT_QK * b, d + b, aux + 2 * b);
    } else if (!unpack_halves(type)) {
        for (int64_t b = 0; b < blocks; b++)
            aux[b].i = -offset * (sum_16(q + HT_QK * b) + sum_16(q + HT_QK * b + 16));
    } else {
        for (int64_t b = 0; b < 2 * blocks; b++)
            aux[b].i = -offset * sum_16(q + 16 * b);
    }
}

/* acc[c] += stored blocks . column c; nc and the type, of which only the kind counts, are constants. */
TILE_INLINE void stored_columns(int nc, ht_type type, const __m512i *stored, int64_t blocks, const column_set *x,
                                int64_t first, __m512 *out)
{
    const bool halves = unpack_halves(type), has_min = unpack_has_min(type);
    const int64_t vectors = stored_vectors(type);
    __m512 acc[HT_DECODE_COLUMNS];
    TILE_UNROLL for (int c = 0; c < nc; c++)
        acc[c] = out[c];
    for (int64_t i = 0; i < blocks; i++) {
        const int64_t b = taken_block(halves, i);
        tile_block w;
        load_stored(halves, has_min, stored + b * vectors, &w);
        TILE_UNROLL for (int c = 0; c < nc; c++)
            acc[c] = block_column(false, halves, has_min, w.w, w.d, w.m, w.shift, x->q[c] + HT_QK * (first + b),
                                  x->d[c][first + b], x->aux[c] + (first + b) * (halves ? 2 : 1), 1, acc[c]);
    }
    TILE_UNROLL for (int c = 0; c < nc; c++)
        out[c] = acc[c];
}

#define STORED_COLUMNS(kind, type)                                                                                 \
    static void stored_##kind(int64_t n, const __m512i *stored, int64_t blocks, const column_set *x, int64_t first, \
                              __m512 *acc)                                                                         \
    {                                                                                                              \
        switch (n) {                                                                                               \
        case 2: stored_columns(2, type, stored, blocks, x, first, acc); break;                                     \
        case 3: stored_columns(3, type, stored, blocks, x, first, acc); break;                                     \
        case 4: stored_columns(4, type, stored, blocks, x, first, acc); break;                                     \
        case 5: stored_columns(5, type, stored, blocks, x, first, acc); break;                                     \
        case 6: stored_columns(6, type, stored, blocks, x, first, acc); break;                                     \
        case 7: stored_columns(7, type, stored, blocks, x, first, acc); break;                                     \
        default: stored_columns(8, type, stored, blocks, x, first, acc); break;                                    \
        }                                                                                                          \
    }
STORED_COLUMNS(whole_offset, HT_Q4_0)
STORED_COLUMNS(whole_min, HT_Q4_1)
STORED_COLUMNS(halves, HT_Q6_K)

/* A tile against several columns, over a segment's blocks. woven: the tile, if it is. */
static void tile_several(const tile_type *t, const tile_source *tile, const uint8_t *woven, size_t ahead,
                         const column_set *x, int64_t n, int64_t blocks, __m512 *acc)
{
    __attribute__((aligned(64))) __m512i stored[TILE_STAGE * 10];
    const bool halves = unpack_halves(t->type), has_min = unpack_has_min(t->type);
    const size_t stage_bytes = unpack_group_bytes(t->type) * (size_t)(TILE_STAGE / unpack_group_blocks(t->type));
    size_t at = 0;
    for (int64_t b = 0; b < blocks; b += TILE_STAGE, at += stage_bytes) {
        int64_t some = blocks - b < TILE_STAGE ? blocks - b : TILE_STAGE;
        if (woven) {
            t->woven_store(woven + TILE_ROWS * at, some, stored);
        } else {
            tile_prefetch(tile->w, ahead, at, at + stage_bytes);
            t->store(tile, at, some, stored);
        }
        (halves ? stored_halves : has_min ? stored_whole_min : stored_whole_offset)(n, stored, some, x, b, acc);
    }
}

/* The same of types that are unpack_scaled: to unpack a tile again for every two columns is less work than to store it (in L2,
 * ns a row of 4096 and a column: Q2_K's two columns 63 stored, 31 so; eight 38 and 31). */
static void tile_pairs(const tile_type *t, const tile_source *tile, const uint8_t *woven, size_t ahead, const column_set *x,
                       int64_t n, int64_t blocks, __m512 *acc)
{
    for (int64_t c = 0; c < n; c += SCALED_AT_ONCE) {
        if (woven)
            t->woven_few(woven, x, c, n - c, blocks, acc + c);
        else
            t->few(tile, ahead, x, c, n - c, blocks, acc + c);
    }
}

/* Blocks [first, first + blocks) of all rows, which begin `at` bytes into them; the sums so far are in y. */
static void segment_q8(const tile_type *t, bool woven, float *y, int64_t y_stride, const char *w, size_t row_bytes,
                       int64_t rows, size_t at, const void *x, size_t x_bytes, int64_t n, int64_t cols, int64_t first,
                       int64_t blocks)
{
    tile_aux aux[HT_DECODE_COLUMNS][2 * TILE_SEGMENT];
    column_set set;
    for (int64_t c = 0; c < n; c++) {
        const char *column = (const char *)x + (size_t)c * x_bytes;
        set.q[c] = ht_act_quants(column) + HT_QK * first;
        set.d[c] = ht_act_scales(column, cols) + first;
        if (unpack_has_min(t->type) && !unpack_scaled(t->type)) {
            set.aux[c] = (const tile_aux *)(const void *)(ht_act_sums(column, cols) + first);
        } else {
            make_aux(t->type, aux[c], set.q[c], set.d[c], blocks);
            set.aux[c] = aux[c];
        }
    }
    for (int64_t r = 0; r < rows; r += TILE_ROWS) {
        const char *row = w + (size_t)r * row_bytes;
        const uint8_t *tiled = woven ? (const uint8_t *)row + TILE_ROWS * at : NULL;
        const tile_source tile = tile_from(row + at, row_bytes, rows - r);
        __mmask16 mask = lanes_mask(rows - r);
        __m512 acc[HT_DECODE_COLUMNS];
        for (int64_t c = 0; c < n; c++)
            acc[c] = first == 0 ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(mask, y + c * y_stride + r);
        if (unpack_scaled(t->type))
            tile_pairs(t, &tile, tiled, tile_ahead(row_bytes), &set, n, blocks, acc);
        else if (n > 1)
            tile_several(t, &tile, tiled, tile_ahead(row_bytes), &set, n, blocks, acc);
        else if (tiled)
            t->woven_one(tiled, set.q[0], set.d[0], set.aux[0], blocks, acc);
        else
            t->one(&tile, tile_ahead(row_bytes), set.q[0], set.d[0], set.aux[0], blocks, acc);
        for (int64_t c = 0; c < n; c++)
            _mm512_mask_storeu_ps(y + c * y_stride + r, mask, acc[c]);
    }
}

static void dot_q8(const tile_type *t, bool woven, float *y, int64_t y_stride, const void *w, size_t row_bytes, int64_t rows,
                   const void *x, size_t x_bytes, int64_t n, int64_t cols)
{
    const int64_t blocks = cols / HT_QK;
    size_t at = 0;
    for (int64_t b = 0; b < blocks; b += TILE_SEGMENT) {
        int64_t some = blocks - b < TILE_SEGMENT ? blocks - b : TILE_SEGMENT;
        for (int64_t c = 0; c < n; c += HT_DECODE_COLUMNS)
            segment_q8(t, woven, y + c * y_stride, y_stride, w, row_bytes, rows, at, (const char *)x + (size_t)c * x_bytes,
                       x_bytes, n - c < HT_DECODE_COLUMNS ? n - c : HT_DECODE_COLUMNS, cols, b, some);
        at += (size_t)TILE_SEGMENT * unpack_group_bytes(t->type) / (size_t)unpack_group_blocks(t->type);
    }
}

/* F32 columns: weights of a few blocks as F32 in L1, then multiply-adds in order of k, a sum a block. */
static void tile_f32(const tile_type *t, const tile_source *tile, const float *x, size_t x_bytes, int64_t n,
                     int64_t blocks, __m512 *acc)
{
    __attribute__((aligned(64))) float floats[TILE_STAGE * HT_QK * TILE_ROWS];
    const size_t stage_bytes = unpack_group_bytes(t->type) * (size_t)(TILE_STAGE / unpack_group_blocks(t->type));
    size_t at = 0;
    for (int64_t b = 0; b < blocks; b += TILE_STAGE, at += stage_bytes) {
        int64_t some = blocks - b < TILE_STAGE ? blocks - b : TILE_STAGE;
        t->floats(tile, at, some, floats);
        for (int64_t c = 0; c < n; c++) {
            const float *column = (const float *)(const void *)((const char *)x + (size_t)c * x_bytes) + HT_QK * b;
            for (int64_t i = 0; i < some; i++) {
                __m512 sum = _mm512_setzero_ps();
                for (int64_t k = HT_QK * i; k < HT_QK * (i + 1); k++)
                    sum = _mm512_fmadd_ps(_mm512_load_ps(floats + TILE_ROWS * k), _mm512_set1_ps(column[k]), sum);
                acc[c] = _mm512_add_ps(acc[c], sum);
            }
        }
    }
}

static void dot_f32(const tile_type *t, float *y, int64_t y_stride, const void *w, size_t row_bytes, int64_t rows,
                    const void *x, size_t x_bytes, int64_t n, int64_t cols)
{
    for (int64_t r = 0; r < rows; r += TILE_ROWS) {
        const tile_source tile = tile_from((const char *)w + (size_t)r * row_bytes, row_bytes, rows - r);
        __mmask16 mask = lanes_mask(rows - r);
        for (int64_t begin = 0; begin < n; begin += HT_DECODE_COLUMNS) {
            int64_t some = n - begin < HT_DECODE_COLUMNS ? n - begin : HT_DECODE_COLUMNS;
            __m512 acc[HT_DECODE_COLUMNS];
            for (int64_t c = 0; c < some; c++)
                acc[c] = _mm512_setzero_ps();
            tile_f32(t, &tile, (const float *)(const void *)((const char *)x + (size_t)begin * x_bytes), x_bytes, some,
                     cols / HT_QK, acc);
            for (int64_t c = 0; c < some; c++)
                _mm512_mask_storeu_ps(y + (begin + c) * y_stride + r, mask, acc[c]);
        }
    }
}

/* One row: its groups are taken as the rows of a tile. */
static void expand(const tile_type *t, const void *row, float *out, int64_t cols)
{
    __attribute__((aligned(64))) float floats[HT_QK_K * TILE_ROWS];
    const int64_t group = HT_QK * unpack_group_blocks(t->type);
    const int64_t small = unpack_is_small(t->type) ? HT_QK : group; /* a tile row is one small block */
    const size_t bytes = unpack_group_bytes(t->type) / (size_t)(group / small);
    for (int64_t k = 0; k < cols; k += small * TILE_ROWS) {
        const tile_source tile = tile_from((const char *)row + (size_t)(k / small) * bytes, bytes, (cols - k) / small);
        t->floats(&tile, 0, small / HT_QK, floats);
        for (int64_t r = 0; r < tile.rows; r++) {
            for (int64_t i = 0; i < small; i++)
                out[k + r * small + i] = floats[TILE_ROWS * i + r];
        }
    }
}

TILE_EACH_TYPE(TILE_DOT_ENTRIES)

void ht_kernels_dot_quant_avx512(ht_kernels *k)
{
    TILE_EACH_TYPE(TILE_DOT_FILL)
}
