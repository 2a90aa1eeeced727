/* The block class with quantised weights and quantised columns, AVX-512.
 *
 * A tile of rows is unpacked once, over all its columns of weights, to a scratch that stays in L2; then the packed
 * columns pass by, eight at a time. Packed activations, for a tile of 8 columns and block after block of 32:
 *
 *   int8 q[8][32], float d[8], then what the type needs (tile_aux): aux[8], or aux[2][8] for half blocks
 *
 * Columns past the last one are zeros.
 */
#include "cpu/scaled_avx512.h"

enum { WIDE = 12288 }; /* columns up to which two tiles of rows fit into half an L2 of 1 MiB or more */

TILE_INLINE size_t packed_block_bytes(bool halves) { return TILE_COLUMNS * (HT_QK + 4u + (halves ? 8u : 4u)); }

static size_t packed_bytes(bool halves, int64_t n, int64_t cols)
{
    size_t tiles = (size_t)(n + TILE_COLUMNS - 1) / TILE_COLUMNS;
    return tiles * (size_t)(cols / HT_QK) * packed_block_bytes(halves);
}

/* One column of one tile, for a type or others of its kind. */
TILE_INLINE void pack_column(ht_type type, char *tile, const void *x, int64_t slot, int64_t cols)
{
    const bool halves = unpack_halves(type);
    const int32_t offset = unpack_offset(type);
    tile_aux scaled[SCALED_AUX];
    const int8_t *q = ht_act_quants(x);
    const float *d = ht_act_scales(x, cols), *sums = ht_act_sums(x, cols);
    for (int64_t b = 0; b < cols / HT_QK; b++, tile += packed_block_bytes(halves)) {
        const int8_t *low = q + HT_QK * b, *high = low + 16;
        memcpy(tile + HT_QK * slot, low, HT_QK);
        float *scale = (float *)(void *)(tile + TILE_COLUMNS * HT_QK);
        tile_aux *aux = (tile_aux *)(void *)(scale + TILE_COLUMNS);
        scale[slot] = d[b];
        if (unpack_scaled(type)) {
            const int64_t i = b % SCALED_BLOCKS;
            if (i == 0)
                scaled_aux(type, false, q + HT_QK * b, d + b, scaled);
            aux[slot] = scaled[2 * i];
            aux[TILE_COLUMNS + slot] = scaled[2 * i + 1];
        } else if (halves) {
            aux[slot].i = -offset * sum_16(low);
            aux[TILE_COLUMNS + slot].i = -offset * sum_16(high);
        } else if (unpack_has_min(type)) {
            aux[slot].f = sums[b];
        } else {
            aux[slot].i = -offset * (sum_16(low) + sum_16(high));
        }
    }
}

TILE_INLINE void pack(ht_type type, void *packed, const void *x, size_t x_bytes, int64_t begin, int64_t end, int64_t n,
                      int64_t cols)
{
    const size_t block = packed_block_bytes(unpack_halves(type)), tile_bytes = (size_t)(cols / HT_QK) * block;
    for (int64_t c = begin; c < end; c++)
        pack_column(type, (char *)packed + (size_t)(c / TILE_COLUMNS) * tile_bytes,
                    (const char *)x + (size_t)c * x_bytes, c % TILE_COLUMNS, cols);
    if (end != n || n % TILE_COLUMNS == 0 || begin == end)
        return;
    char *tile = (char *)packed + (size_t)(n / TILE_COLUMNS) * tile_bytes;
    for (int64_t b = 0; b < cols / HT_QK; b++, tile += block) {
        for (int64_t c = n % TILE_COLUMNS; c < TILE_COLUMNS; c++) {
            memset(tile + HT_QK * c, 0, HT_QK);
            for (size_t at = TILE_COLUMNS * HT_QK; at < block; at += TILE_COLUMNS * 4)
                memset(tile + at + 4 * (size_t)c, 0, 4);
        }
    }
}

/* acc[c] += stored blocks . packed column c. */
TILE_INLINE void blocks_product(ht_type type, const __m512i *stored, const char *packed, int64_t blocks, tile_next *next,
                                __m512 acc[TILE_COLUMNS])
{
    const bool halves = unpack_halves(type), has_min = unpack_has_min(type);
    const int64_t vectors = stored_vectors(type);
    for (int64_t i = 0; i < blocks; i++) {
        const int64_t b = taken_block(halves, i);
        const int8_t *q = (const int8_t *)packed + (size_t)b * packed_block_bytes(halves);
        const float *scale = (const float *)(const void *)(q + TILE_COLUMNS * HT_QK);
        const tile_aux *aux = (const tile_aux *)(const void *)(scale + TILE_COLUMNS);
        tile_prefetch_next(next);
        tile_block w;
        load_stored(halves, has_min, stored + b * vectors, &w);
        TILE_UNROLL for (int c = 0; c < TILE_COLUMNS; c++)
            acc[c] = block_column(false, halves, has_min, w.w, w.d, w.m, w.shift, q + HT_QK * c, scale[c], aux + c,
                                  TILE_COLUMNS, acc[c]);
    }
}

/* The same of types that are unpack_scaled. */
TILE_INLINE void supers_product(ht_type type, const __m512i *stored, const char *packed, int64_t blocks, tile_next *next,
                                __m512 acc[TILE_COLUMNS])
{
    const int64_t block = (int64_t)packed_block_bytes(true);
    for (int64_t b = 0; b < blocks; b += SCALED_BLOCKS, packed += SCALED_BLOCKS * block) {
        const float *scale = (const float *)(const void *)(packed + TILE_COLUMNS * HT_QK);
        column_set at;
        TILE_UNROLL for (int c = 0; c < TILE_COLUMNS; c++) {
            at.q[c] = (const int8_t *)packed + HT_QK * c;
            at.d[c] = scale + c;
            at.aux[c] = (const tile_aux *)(const void *)(scale + TILE_COLUMNS + c);
        }
        scaled_product(TILE_COLUMNS, type, stored + stored_vectors(type) * b, &at, block, block / 4, block / 4, TILE_COLUMNS,
                       next, acc);
    }
}

/* 16 rows . 8 columns. Prefetches next_step bytes of `next` with each block. */
TILE_INLINE void tile_product(ht_type type, const __m512i *stored, const char *packed, int64_t blocks, const char *from,
                              size_t next_step, float *y, int64_t y_stride, __mmask16 rows, int64_t n)
{
    tile_next next = {(uintptr_t)from, (uintptr_t)from, next_step};
    __m512 acc[TILE_COLUMNS];
    TILE_UNROLL for (int c = 0; c < TILE_COLUMNS; c++)
        acc[c] = _mm512_setzero_ps();
    (unpack_scaled(type) ? supers_product : blocks_product)(type, stored, packed, blocks, &next, acc);
    TILE_UNROLL for (int c = 0; c < TILE_COLUMNS; c++) {
        if (c < n)
            _mm512_mask_storeu_ps(y + c * y_stride, rows, acc[c]);
    }
}

typedef void product_fn(const __m512i *stored, const char *packed, int64_t blocks, const char *next, size_t next_step,
                        float *y, int64_t y_stride, __mmask16 rows, int64_t n);
#define PRODUCT(kind, type)                                                                                        \
    static void product_##kind(const __m512i *stored, const char *packed, int64_t blocks, const char *next,        \
                               size_t next_step, float *y, int64_t y_stride, __mmask16 rows, int64_t n)            \
    {                                                                                                              \
        tile_product(type, stored, packed, blocks, next, next_step, y, y_stride, rows, n);                         \
    }
PRODUCT(whole_offset, HT_Q4_0)
PRODUCT(whole_min, HT_Q4_1)
PRODUCT(halves, HT_Q6_K)
PRODUCT(q2_k, HT_Q2_K)
PRODUCT(q3_k, HT_Q3_K)

static product_fn *product_by_kind(ht_type type)
{
    if (unpack_scaled(type))
        return type == HT_Q2_K ? product_q2_k : product_q3_k;
    return unpack_halves(type) ? product_halves : unpack_has_min(type) ? product_whole_min : product_whole_offset;
}

/* Tiles of rows that are unpacked together. */
static int64_t tiles_at_once(int64_t cols) { return cols <= WIDE ? 2 : 1; }

static size_t scratch_bytes_avx512(int64_t cols)
{
    return (size_t)(tiles_at_once(cols) * (cols / HT_QK) * 10) * sizeof(__m512i) + 64;
}

static void run(const tile_type *t, bool woven, float *y, int64_t y_stride, const void *w, size_t row_bytes, int64_t rows,
                const void *packed, int64_t n, int64_t cols, void *scratch)
{
    product_fn *product = product_by_kind(t->type);
    const int64_t blocks = cols / HT_QK, vectors = blocks * stored_vectors(t->type);
    const size_t tile_bytes = (size_t)blocks * packed_block_bytes(unpack_halves(t->type));
    __m512i *stored = (__m512i *)(((uintptr_t)scratch + 63) & ~(uintptr_t)63);
    const int64_t step = TILE_ROWS * tiles_at_once(cols);
    for (int64_t r = 0; r < rows && n > 0; r += step) {
        int64_t end = rows - r < step ? rows : r + step;
        for (int64_t s = r; s < end; s += TILE_ROWS) {
            const char *row = (const char *)w + (size_t)s * row_bytes;
            const tile_source tile = tile_from(row, row_bytes, rows - s);
            __m512i *to = stored + (s - r) / TILE_ROWS * vectors;
            if (woven)
                t->woven_store((const uint8_t *)row, blocks, to);
            else
                t->store(&tile, 0, blocks, to);
        }
        /* Each product prefetches its share of the rows to be unpacked next: with few columns they are soon wanted. Those
         * beyond the last are what the next call will most likely ask for. An integer, since it may leave the matrix. */
        uintptr_t next = (uintptr_t)w + (size_t)end * row_bytes;
        int64_t products = (n + TILE_COLUMNS - 1) / TILE_COLUMNS * ((end - r + TILE_ROWS - 1) / TILE_ROWS);
        size_t share = (size_t)step * row_bytes / (size_t)products;
        size_t share_of_block = (share + (size_t)blocks - 1) / (size_t)blocks;
        for (int64_t c = 0; c < n; c += TILE_COLUMNS) {
            const char *columns = (const char *)packed + (size_t)(c / TILE_COLUMNS) * tile_bytes;
            for (int64_t s = r; s < end; s += TILE_ROWS, next += share) {
                product(stored + (s - r) / TILE_ROWS * vectors, columns, blocks, (const char *)next, share_of_block,
                        y + c * y_stride + s, y_stride, lanes_mask(rows - s), n - c);
            }
        }
    }
}

#define PACK(kind, type)                                                                                           \
    static size_t bytes_##kind(int64_t n, int64_t cols) { return packed_bytes(unpack_halves(type), n, cols); }     \
    static void pack_##kind(void *packed, const void *x, size_t x_bytes, int64_t begin, int64_t end, int64_t n,    \
                            int64_t cols)                                                                          \
    {                                                                                                              \
        pack(type, packed, x, x_bytes, begin, end, n, cols);                                                       \
    }
PACK(whole_min, HT_Q4_1)
PACK(whole_8, HT_Q4_0)
PACK(whole_16, HT_Q5_0)
PACK(whole_128, HT_Q8_0)
PACK(q2_k, HT_Q2_K)
PACK(q3_k, HT_Q3_K)
PACK(halves_32, HT_Q6_K)

TILE_EACH_TYPE(TILE_MATMUL_ENTRIES)

void ht_kernels_matmul_q8_avx512(ht_kernels *k)
{
#define FILL(name, id, kind)                                                                                       \
    k->matmul[id][0] = (ht_matmul){bytes_##kind, scratch_bytes_avx512, pack_##kind, run_##name, woven_##name,      \
                                   2 * TILE_ROWS, TILE_COLUMNS, true};
    FILL(q4_0, HT_Q4_0, whole_8)
    FILL(q4_1, HT_Q4_1, whole_min)
    FILL(q5_0, HT_Q5_0, whole_16)
    FILL(q5_1, HT_Q5_1, whole_min)
    FILL(q8_0, HT_Q8_0, whole_128)
    FILL(iq4_nl, HT_IQ4_NL, whole_128)
    FILL(iq4_xs, HT_IQ4_XS, whole_128)
    FILL(q2_k, HT_Q2_K, q2_k)
    FILL(q3_k, HT_Q3_K, q3_k)
    FILL(q4_k, HT_Q4_K, whole_min)
    FILL(q5_k, HT_Q5_K, whole_min)
    FILL(q6_k, HT_Q6_K, halves_32)
}
