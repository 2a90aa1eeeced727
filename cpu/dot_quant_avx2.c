/* The decode class with quantised weights, AVX2: tiles of 8 rows against 1 to 8 columns, quantised or F32. One column
 * is multiplied as the weights are unpacked; more than one go by way of a few unpacked blocks in L1. The order of sums
 * of a (row, column) is the same in both (add_block).
 */
#include "cpu/tile_avx2.h"
#include "cpu/woven_avx2.h"

enum { TURN = 16 }; /* blocks of a woven tile that columns take turns at, in L1 */

/* What add_block and sum_quarter need of `blocks` blocks of a column, where the stored sums do not serve. */
static void make_aux(ht_type type, tile_aux *aux, const int8_t *q, int64_t blocks)
{
    for (int64_t b = 0; b < blocks; b++)
        tile_make_aux(unpack_halves(type), unpack_offset(type), q + HT_QK * b, aux + b * tile_aux_count(type), 1);
}

/* A tile against several columns, over a segment's blocks. */
static void tile_several(const tile_type *t, const tile_rows *tile, const char *next, const tile_columns *x,
                         int64_t n, int64_t blocks, __m256 *acc)
{
    __m256i stored[TILE_STAGE * STORED_MOST];
    const size_t stage_bytes = unpack_group_bytes(t->type) * (size_t)(TILE_STAGE / unpack_group_blocks(t->type));
    size_t at = 0;
    for (int64_t b = 0; b < blocks; b += TILE_STAGE, at += stage_bytes) {
        int64_t some = blocks - b < TILE_STAGE ? blocks - b : TILE_STAGE;
        for (size_t line = 0; line < stage_bytes * TILE_ROWS / 64; line++)
            tile_prefetch(next, at, line, line + 1);
        t->store(tile, at, some, stored);
        t->columns(n, stored, some, x, b, acc);
    }
}

/* Blocks [first, first + blocks) of all rows, which begin `at` bytes into them; the sums so far are in y. */
static void plain_rows(const tile_type *t, float *y, int64_t y_stride, const char *w, size_t row_bytes, int64_t rows,
                       size_t at, const tile_columns *x, int64_t n, int64_t first, int64_t blocks)
{
    for (int64_t r = 0, row; r < rows;) {
        tile_rows tile;
        __m256i mask;
        r = tile_set(&tile, w + at, row_bytes, rows, r, &row, &mask);
        __m256 acc[HT_DECODE_COLUMNS];
        for (int64_t c = 0; c < n; c++)
            acc[c] = first == 0 ? _mm256_setzero_ps() : _mm256_maskload_ps(y + c * y_stride + row, mask);
        const char *next = (const char *)((uintptr_t)tile.row + tile_ahead(row_bytes));
        if (n == 1)
            t->one(&tile, next, x->q[0], x->d[0], x->aux[0], blocks, acc);
        else
            tile_several(t, &tile, next, x, n, blocks, acc);
        for (int64_t c = 0; c < n; c++)
            _mm256_maskstore_ps(y + c * y_stride + row, mask, acc[c]);
    }
}

/* Bytes of so many blocks of a tile. */
static size_t woven_bytes(ht_type type, int64_t blocks)
{
    return HT_TILE_ROWS * unpack_group_bytes(type) * (size_t)blocks / (size_t)unpack_group_blocks(type);
}

/* A woven tile against one or two columns, or of Q8_0 more: there is nothing to turn, so that unpacking a block once for all
 * of them, to memory, would save less than it costs. They take turns at a few blocks. */
static void woven_by_turns(const tile_type *t, const uint8_t *tile, const tile_columns *x, int64_t n, int64_t blocks,
                           __m256 (*acc)[SIDES])
{
    const int64_t turn = n == 1 ? blocks : TURN;
    for (int64_t b = 0; b < blocks; b += turn) {
        for (int64_t c = 0; c < n; c++)
            t->woven_one(tile + woven_bytes(t->type, b), x->q[c] + HT_QK * b, x->d[c] + b,
                         x->aux[c] + b * tile_aux_count(t->type), blocks - b < turn ? blocks - b : turn, acc[c]);
    }
}

/* Against more. Prefetches what lies 8 KiB ahead: eight columns take so long that the CPU does not by itself (Zen 4, against
 * plain rows: 0.8 to 0.9 times as fast without, 1.05 to 1.1 times with it). */
static void woven_several(const tile_type *t, const uint8_t *tile, const tile_columns *x, int64_t n, int64_t blocks,
                          __m256 (*acc)[SIDES])
{
    __m256i stored[SIDES * TILE_STAGE * STORED_MOST];
    __m256 sum[SIDES][HT_DECODE_COLUMNS];
    for (int64_t c = 0; c < n; c++) {
        for (int side = 0; side < SIDES; side++)
            sum[side][c] = acc[c][side];
    }
    for (int64_t b = 0; b < blocks; b += TILE_STAGE) {
        const int64_t some = blocks - b < TILE_STAGE ? blocks - b : TILE_STAGE;
        for (size_t at = woven_bytes(t->type, b); at < woven_bytes(t->type, b + TILE_STAGE); at += 64)
            _mm_prefetch((const char *)((uintptr_t)tile + at + (8 << 10)), _MM_HINT_T1);
        t->woven_store(tile + woven_bytes(t->type, b), some, stored);
        for (int side = 0; side < SIDES; side++)
            t->columns(n, stored + side * some * stored_vectors(t->type), some, x, b, sum[side]);
    }
    for (int64_t c = 0; c < n; c++) {
        for (int side = 0; side < SIDES; side++)
            acc[c][side] = sum[side][c];
    }
}

static void woven_rows(const tile_type *t, float *y, int64_t y_stride, const char *w, size_t row_bytes, int64_t rows,
                       size_t at, const tile_columns *x, int64_t n, int64_t first, int64_t blocks)
{
    for (int64_t r = 0; r < rows; r += HT_TILE_ROWS) {
        const uint8_t *tile = (const uint8_t *)w + (size_t)r * row_bytes + HT_TILE_ROWS * at;
        __m256 acc[HT_DECODE_COLUMNS][SIDES];
        for (int64_t c = 0; c < n; c++) {
            for (int side = 0; side < SIDES; side++)
                acc[c][side] = first == 0 ? _mm256_setzero_ps() : _mm256_loadu_ps(y + c * y_stride + r + side * TILE_ROWS);
        }
        (n <= 2 || t->type == HT_Q8_0 ? woven_by_turns : woven_several)(t, tile, x, n, blocks, acc);
        for (int64_t c = 0; c < n; c++) {
            for (int side = 0; side < SIDES; side++)
                _mm256_storeu_ps(y + c * y_stride + r + side * TILE_ROWS, acc[c][side]);
        }
    }
}

static void segment_q8(const tile_type *t, bool woven, float *y, int64_t y_stride, const char *w, size_t row_bytes,
                       int64_t rows, size_t at, const void *x, size_t x_bytes, int64_t n, int64_t cols, int64_t first,
                       int64_t blocks)
{
    tile_aux aux[HT_DECODE_COLUMNS][2 * TILE_SEGMENT];
    tile_columns set;
    for (int64_t c = 0; c < n; c++) {
        const char *column = (const char *)x + (size_t)c * x_bytes;
        set.q[c] = ht_act_quants(column) + HT_QK * first;
        set.d[c] = ht_act_scales(column, cols) + first;
        if (!unpack_offset(t->type) && t->type != HT_Q2_K) {
            set.aux[c] = (const tile_aux *)(const void *)(ht_act_sums(column, cols) + first);
        } else {
            make_aux(t->type, aux[c], set.q[c], blocks);
            set.aux[c] = aux[c];
        }
    }
    (woven ? woven_rows : plain_rows)(t, y, y_stride, w, row_bytes, rows, at, &set, n, first, blocks);
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
static void tile_f32(const tile_type *t, const tile_rows *tile, const float *x, size_t x_bytes, int64_t n,
                     int64_t blocks, __m256 *acc)
{
    float floats[TILE_STAGE * HT_QK * TILE_ROWS];
    const size_t stage_bytes = unpack_group_bytes(t->type) * (size_t)(TILE_STAGE / unpack_group_blocks(t->type));
    size_t at = 0;
    for (int64_t b = 0; b < blocks; b += TILE_STAGE, at += stage_bytes) {
        int64_t some = blocks - b < TILE_STAGE ? blocks - b : TILE_STAGE;
        t->floats(tile, at, some, floats);
        for (int64_t c = 0; c < n; c++) {
            const float *column = (const float *)(const void *)((const char *)x + (size_t)c * x_bytes) + HT_QK * b;
            for (int64_t i = 0; i < some; i++) {
                __m256 sum = _mm256_setzero_ps();
                for (int64_t k = HT_QK * i; k < HT_QK * (i + 1); k++)
                    sum = _mm256_fmadd_ps(_mm256_loadu_ps(floats + TILE_ROWS * k), _mm256_set1_ps(column[k]), sum);
                acc[c] = _mm256_add_ps(acc[c], sum);
            }
        }
    }
}

static void dot_f32(const tile_type *t, float *y, int64_t y_stride, const void *w, size_t row_bytes, int64_t rows,
                    const void *x, size_t x_bytes, int64_t n, int64_t cols)
{
    for (int64_t r = 0, row; r < rows;) {
        tile_rows tile;
        __m256i mask;
        r = tile_set(&tile, w, row_bytes, rows, r, &row, &mask);
        for (int64_t begin = 0; begin < n; begin += HT_DECODE_COLUMNS) {
            int64_t some = n - begin < HT_DECODE_COLUMNS ? n - begin : HT_DECODE_COLUMNS;
            __m256 acc[HT_DECODE_COLUMNS];
            for (int64_t c = 0; c < some; c++)
                acc[c] = _mm256_setzero_ps();
            tile_f32(t, &tile, (const float *)(const void *)((const char *)x + (size_t)begin * x_bytes), x_bytes, some,
                     cols / HT_QK, acc);
            for (int64_t c = 0; c < some; c++)
                _mm256_maskstore_ps(y + (begin + c) * y_stride + row, mask, acc[c]);
        }
    }
}

/* One row: its groups are taken as the rows of a tile. */
static void expand(const tile_type *t, const void *row, float *out, int64_t cols)
{
    float floats[HT_QK_K * TILE_ROWS];
    const int64_t group = HT_QK * unpack_group_blocks(t->type);
    const size_t bytes = unpack_group_bytes(t->type);
    for (int64_t r = 0, first; r < cols / group;) {
        tile_rows tile;
        __m256i mask;
        int64_t end = tile_set(&tile, row, bytes, cols / group, r, &first, &mask);
        t->floats(&tile, 0, group / HT_QK, floats);
        for (; r < end; r++) {
            for (int64_t i = 0; i < group; i++)
                out[r * group + i] = floats[TILE_ROWS * i + r - first];
        }
    }
}

TILE_EACH_TYPE(TILE_DOT_ENTRIES)

void ht_kernels_dot_quant_avx2(ht_kernels *k)
{
    TILE_EACH_TYPE(TILE_DOT_FILL)
}
