/* The block class with F32 columns, AVX2: float weights, and quantised ones with --act f32.
 *
 * Rows are turned into a scratch of F32, 16 rows by a panel of columns, two halves (k, 8); then the packed columns
 * pass by, four at a time: one multiply-add for each weight and column in the order of k. Sums wait in y between
 * panels.
 * Packed activations: tiles of 4 columns, (k, 4); columns past the last one are zeros.
 */
#include "core/model/tiles.h"
#include "cpu/tile_avx2.h"

enum {
    ROWS = 2 * TILE_ROWS,
    PANEL = 256, /* columns of weights in scratch: 16 KB; a whole number of groups of every type */
};

static size_t packed_bytes(int64_t n, int64_t cols)
{
    return (size_t)((n + TILE_COLUMNS - 1) / TILE_COLUMNS) * TILE_COLUMNS * (size_t)cols * sizeof(float);
}

static size_t scratch_bytes(int64_t cols)
{
    (void)cols;
    return ROWS * PANEL * sizeof(float) + 64;
}

static void pack(void *packed, const void *x, size_t x_bytes, int64_t begin, int64_t end, int64_t n, int64_t cols)
{
    int64_t padded = end == n ? (n + TILE_COLUMNS - 1) / TILE_COLUMNS * TILE_COLUMNS : end;
    if (begin >= end)
        return;
    for (int64_t c = begin; c < padded; c++) {
        float *tile = (float *)packed + c / TILE_COLUMNS * TILE_COLUMNS * cols + c % TILE_COLUMNS;
        const float *column = (const float *)(const void *)((const char *)x + (size_t)c * x_bytes);
        for (int64_t k = 0; k < cols; k++)
            tile[TILE_COLUMNS * k] = c < end ? column[k] : 0.0f;
    }
}

/* ---- float weights, turned ----------------------------------------------------------------------------------- */

/* Columns [k0, k0 + len) of a tile, k0 a multiple of 32, to out (len, 8). woven: the tile is half of one of
 * core/model/tiles.h. */
TILE_INLINE void turn_floats(ht_type type, bool woven, const tile_rows *tile, int64_t k0, int64_t len, float *out)
{
    const int64_t line_columns = type == HT_F32 ? 16 : 32;
    const size_t line = 64, stride = woven ? line : tile->stride, line_stride = woven ? HT_TILE_ROWS * line : line;
    for (int64_t k = 0; k < len; k += 8) {
        int64_t some = len - k < 8 ? len - k : 8;
        const uint8_t *from = tile->row + (size_t)((k0 + k) / line_columns) * line_stride;
        __m256 v[8];
        TILE_UNROLL for (int r = 0; r < 8; r++)
            v[r] = load_floats(type, from + (size_t)r * stride, (k0 + k) % line_columns, some);
        turn8(v);
        TILE_UNROLL for (int i = 0; i < 8; i++) {
            if (i < some)
                _mm256_store_ps(out + (k + i) * TILE_ROWS, v[i]);
        }
    }
}

/* Panels are halves (len, 8) one after another, so that the tile kernels of quantised types write them as they are. */
typedef void panel_fn(const void *type, const tile_rows *tile, int64_t k0, int64_t len, float *out);

static void panel_quantised(const void *type, const tile_rows *tile, int64_t k0, int64_t len, float *out)
{
    const tile_type *t = type;
    size_t at = (size_t)(k0 / HT_QK) * unpack_group_bytes(t->type) / (size_t)unpack_group_blocks(t->type);
    t->floats(tile, at, len / HT_QK, out);
}
#define PANEL_OF(name, id, woven)                                                                                  \
    static void panel_##name(const void *type, const tile_rows *tile, int64_t k0, int64_t len, float *out)         \
    {                                                                                                              \
        (void)type;                                                                                                \
        turn_floats(id, woven, tile, k0, len, out);                                                                \
    }
PANEL_OF(f32, HT_F32, false)
PANEL_OF(f16, HT_F16, false)
PANEL_OF(bf16, HT_BF16, false)
PANEL_OF(woven_f32, HT_F32, true)
PANEL_OF(woven_f16, HT_F16, true)
PANEL_OF(woven_bf16, HT_BF16, true)

/* ---- the product --------------------------------------------------------------------------------------------- */

/* Two tiles . 4 columns over a panel; `first` begins the sums, else they go on from y and y_high. */
static void panel_product(const float *low, const float *high, const float *packed, int64_t len, bool first, float *y,
                          float *y_high, int64_t y_stride, __m256i low_rows, __m256i high_rows, int64_t n)
{
    __m256 acc[2][TILE_COLUMNS];
    TILE_UNROLL for (int c = 0; c < TILE_COLUMNS; c++) {
        bool load = !first && c < n;
        acc[0][c] = load ? _mm256_maskload_ps(y + c * y_stride, low_rows) : _mm256_setzero_ps();
        acc[1][c] = load ? _mm256_maskload_ps(y_high + c * y_stride, high_rows) : _mm256_setzero_ps();
    }
    for (int64_t k = 0; k < len; k++) {
        __m256 a = _mm256_load_ps(low + TILE_ROWS * k), b = _mm256_load_ps(high + TILE_ROWS * k);
        TILE_UNROLL for (int c = 0; c < TILE_COLUMNS; c++) {
            __m256 x = _mm256_set1_ps(packed[TILE_COLUMNS * k + c]);
            acc[0][c] = _mm256_fmadd_ps(a, x, acc[0][c]);
            acc[1][c] = _mm256_fmadd_ps(b, x, acc[1][c]);
        }
    }
    TILE_UNROLL for (int c = 0; c < TILE_COLUMNS; c++) {
        if (c < n) {
            _mm256_maskstore_ps(y + c * y_stride, low_rows, acc[0][c]);
            _mm256_maskstore_ps(y_high + c * y_stride, high_rows, acc[1][c]);
        }
    }
}

static void run(panel_fn *panel, bool woven, const void *type, float *y, int64_t y_stride, const void *w, size_t row_bytes,
                int64_t rows, const void *packed, int64_t n, int64_t cols, void *scratch)
{
    float *low = (float *)(((uintptr_t)scratch + 63) & ~(uintptr_t)63), *high = low + TILE_ROWS * PANEL;
    for (int64_t r = 0; r < rows;) {
        tile_rows tile[2];
        __m256i mask[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
        int64_t row[2] = {0}, tiles = 0;
        for (; tiles < 2 && r < rows; tiles++)
            r = tile_set(&tile[tiles], w, row_bytes, rows, r, &row[tiles], &mask[tiles]);
        if (woven) /* two halves of a tile, whose rows begin 64 bytes apart */
            tile[1].row = tile[0].row + TILE_ROWS * 64;
        for (int64_t k = 0; k < cols; k += PANEL) {
            int64_t len = cols - k < PANEL ? cols - k : PANEL;
            panel(type, &tile[0], k, len, low);
            if (tiles == 2)
                panel(type, &tile[1], k, len, high);
            for (int64_t c = 0; c < n; c += TILE_COLUMNS) {
                float *at = y + c * y_stride;
                panel_product(low, tiles == 2 ? high : low, (const float *)packed + c * cols + k * TILE_COLUMNS, len, k == 0,
                              at + row[0], at + row[1], y_stride, mask[0], mask[1], n - c);
            }
        }
    }
}

#define RUN(name, panel, woven, type)                                                                              \
    static void run_##name(float *y, int64_t y_stride, const void *w, size_t row_bytes, int64_t rows,              \
                           const void *packed, int64_t n, int64_t cols, void *scratch)                             \
    {                                                                                                              \
        run(panel, woven, type, y, y_stride, w, row_bytes, rows, packed, n, cols, scratch);                        \
    }
#define RUN_QUANTISED(name, id) RUN(name, panel_quantised, false, &TILE(name))
TILE_EACH_TYPE(RUN_QUANTISED)
RUN(f32, panel_f32, false, NULL)
RUN(f16, panel_f16, false, NULL)
RUN(bf16, panel_bf16, false, NULL)
RUN(woven_f32, panel_woven_f32, true, NULL)
RUN(woven_f16, panel_woven_f16, true, NULL)
RUN(woven_bf16, panel_woven_bf16, true, NULL)

void ht_kernels_matmul_f32_avx2(ht_kernels *k)
{
    ht_matmul m = {packed_bytes, scratch_bytes, pack, NULL, NULL, ROWS, TILE_COLUMNS, false};
#define FILL(name, id)                                                                                             \
    m.run = run_##name;                                                                                            \
    k->matmul[id][1] = m;
    TILE_EACH_TYPE(FILL)
#define FILL_FLOAT(name, id)                                                                                       \
    m.run = run_##name;                                                                                            \
    m.run_woven = run_woven_##name;                                                                                \
    k->matmul[id][0] = k->matmul[id][1] = m;
    FILL_FLOAT(f32, HT_F32)
    FILL_FLOAT(f16, HT_F16)
    FILL_FLOAT(bf16, HT_BF16)
}
