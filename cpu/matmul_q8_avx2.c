/* The block class with quantised weights and quantised columns, AVX2: as matmul_q8_avx512.c, with tiles of 8 rows
 * and of 4 columns (16 registers hold no more).
 */
#include "cpu/tile_types_avx2.h"

enum {
    WIDE = 12288,   /* columns up to which four tiles of rows fit into half an L2 of 1 MiB or more */
    WIDE_TILES = 4,
};

static size_t packed_bytes(int aux_count, int64_t n, int64_t cols)
{
    size_t tiles = (size_t)(n + TILE_COLUMNS - 1) / TILE_COLUMNS;
    return tiles * (size_t)(cols / HT_QK) * packed_block_bytes(aux_count);
}

/* How a column is packed: the F32 sums of its blocks, or tile_make_aux of an offset (0: the sums of halves). */
enum pack_kind { PACK_SUMS, PACK_WHOLE, PACK_HALVES };
TILE_INLINE int aux_of(enum pack_kind kind) { return kind == PACK_HALVES ? 2 : 1; }

/* One column of one tile. */
TILE_INLINE void pack_column(enum pack_kind kind, int32_t offset, char *tile, const void *x, int64_t slot, int64_t cols)
{
    const int8_t *q = ht_act_quants(x);
    const float *d = ht_act_scales(x, cols), *sums = ht_act_sums(x, cols);
    for (int64_t b = 0; b < cols / HT_QK; b++, tile += packed_block_bytes(aux_of(kind))) {
        memcpy(tile + HT_QK * slot, q + HT_QK * b, HT_QK);
        float *scale = (float *)(void *)(tile + TILE_COLUMNS * HT_QK);
        tile_aux *aux = (tile_aux *)(void *)(scale + TILE_COLUMNS);
        scale[slot] = d[b];
        if (kind == PACK_SUMS)
            aux[slot].f = sums[b];
        else
            tile_make_aux(kind == PACK_HALVES, offset, q + HT_QK * b, aux + slot, TILE_COLUMNS);
    }
}

TILE_INLINE void pack(enum pack_kind kind, int32_t offset, void *packed, const void *x, size_t x_bytes, int64_t begin,
                      int64_t end, int64_t n, int64_t cols)
{
    const size_t block = packed_block_bytes(aux_of(kind)), tile_bytes = (size_t)(cols / HT_QK) * block;
    for (int64_t c = begin; c < end; c++)
        pack_column(kind, offset, (char *)packed + (size_t)(c / TILE_COLUMNS) * tile_bytes,
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

/* Tiles of rows that are unpacked together. */
static int64_t tiles_at_once(int64_t cols) { return cols <= WIDE ? WIDE_TILES : 2; }

static size_t scratch_bytes(int64_t cols)
{
    return (size_t)(tiles_at_once(cols) * (cols / HT_QK) * STORED_MOST) * sizeof(__m256i) + 64;
}

static void run(const tile_type *t, bool woven, float *y, int64_t y_stride, const void *w, size_t row_bytes, int64_t rows,
                const void *packed, int64_t n, int64_t cols, void *scratch)
{
    const int64_t blocks = cols / HT_QK, vectors = blocks * stored_vectors(t->type);
    const size_t tile_bytes = (size_t)blocks * packed_block_bytes(tile_aux_count(t->type));
    __m256i *stored = (__m256i *)(((uintptr_t)scratch + 63) & ~(uintptr_t)63);
    const int64_t most = tiles_at_once(cols);
    for (int64_t r = 0; r < rows && n > 0;) {
        int64_t tiles = 0, row[WIDE_TILES];
        __m256i mask[WIDE_TILES];
        for (; woven && tiles < most && r < rows; tiles += SIDES) {
            t->woven_store((const uint8_t *)w + (size_t)r * row_bytes, blocks, stored + tiles * vectors);
            for (int64_t side = tiles; side < tiles + SIDES; side++, r += TILE_ROWS) {
                row[side] = r;
                mask[side] = lanes_mask(TILE_ROWS);
            }
        }
        for (; !woven && tiles < most && r < rows; tiles++) {
            tile_rows tile;
            r = tile_set(&tile, w, row_bytes, rows, r, &row[tiles], &mask[tiles]);
            t->store(&tile, 0, blocks, stored + tiles * vectors);
        }
        /* Each product prefetches its share of the rows to be unpacked next: with few columns they are soon wanted. Those
         * beyond the last are what the next call will most likely ask for. An integer, since it may leave the matrix. */
        uintptr_t next = (uintptr_t)w + (size_t)r * row_bytes;
        int64_t products = (n + TILE_COLUMNS - 1) / TILE_COLUMNS * tiles;
        size_t share = (size_t)(most * TILE_ROWS) * row_bytes / (size_t)products;
        size_t share_of_block = (share + (size_t)blocks - 1) / (size_t)blocks;
        for (int64_t c = 0; c < n; c += TILE_COLUMNS) {
            const char *columns = (const char *)packed + (size_t)(c / TILE_COLUMNS) * tile_bytes;
            for (int64_t s = 0; s < tiles; s++, next += share) {
                t->product(stored + s * vectors, columns, blocks, (const char *)next, share_of_block,
                           y + c * y_stride + row[s], y_stride, mask[s], n - c);
            }
        }
    }
}

#define PACK(name, kind, offset)                                                                                   \
    static size_t bytes_##name(int64_t n, int64_t cols) { return packed_bytes(aux_of(kind), n, cols); }            \
    static void pack_##name(void *packed, const void *x, size_t x_bytes, int64_t begin, int64_t end, int64_t n,    \
                            int64_t cols)                                                                          \
    {                                                                                                              \
        pack(kind, offset, packed, x, x_bytes, begin, end, n, cols);                                               \
    }
PACK(sums, PACK_SUMS, 0)
PACK(whole_0, PACK_WHOLE, 0)
PACK(whole_8, PACK_WHOLE, 8)
PACK(whole_16, PACK_WHOLE, 16)
PACK(halves_4, PACK_HALVES, 4)
PACK(halves_32, PACK_HALVES, 32)

TILE_EACH_TYPE(TILE_MATMUL_ENTRIES)

void ht_kernels_matmul_q8_avx2(ht_kernels *k)
{
#define FILL(name, id, kind)                                                                                       \
    k->matmul[id][0] = (ht_matmul){bytes_##kind, scratch_bytes, pack_##kind, run_##name,                           \
                                   k->dot_woven[id] ? woven_##name : NULL, 4 * TILE_ROWS, TILE_COLUMNS, true};
    FILL(q4_0, HT_Q4_0, whole_8)
    FILL(q4_1, HT_Q4_1, sums)
    FILL(q5_0, HT_Q5_0, whole_16)
    FILL(q5_1, HT_Q5_1, sums)
    FILL(q8_0, HT_Q8_0, sums)
    FILL(iq4_nl, HT_IQ4_NL, sums)
    FILL(iq4_xs, HT_IQ4_XS, sums)
    FILL(q2_k, HT_Q2_K, whole_0)
    FILL(q3_k, HT_Q3_K, halves_4)
    FILL(q4_k, HT_Q4_K, sums)
    FILL(q5_k, HT_Q5_K, sums)
    FILL(q6_k, HT_Q6_K, halves_32)
}
