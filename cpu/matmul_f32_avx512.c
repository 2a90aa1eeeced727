/* The block class with F32 columns, AVX-512: float weights, and quantised ones with --act f32.
 *
 * Rows are turned into a scratch of F32, 32 rows by a panel of columns, (k, 32); then the packed columns pass by,
 * eight at a time: one multiply-add for each weight and column in the order of k. Sums wait in y between panels.
 * Packed activations: tiles of 8 columns, (k, 8); columns past the last one are zeros.
 */
#include "core/model/tiles.h"
#include "cpu/tile_avx512.h"

enum {
    ROWS = 2 * TILE_ROWS,
    PANEL = 256, /* columns of weights in scratch: 32 KB; a whole number of groups of every type */
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

/* Columns [k0, k0 + len) of a tile, k0 a multiple of 32, to out (len, 16). woven: see core/model/tiles.h. */
TILE_INLINE void turn_floats(ht_type type, bool woven, const tile_source *tile, int64_t k0, int64_t len, float *out)
{
    const int64_t line_columns = type == HT_F32 ? 16 : 32;
    const size_t line = 64, stride = woven ? line : tile->row_bytes, line_stride = woven ? HT_TILE_ROWS * line : line;
    const uint8_t *row[TILE_ROWS];
    for (int64_t r = 0; r < TILE_ROWS; r++)
        row[r] = tile->w + (size_t)(r < tile->rows ? r : tile->rows - 1) * stride;
    for (int64_t k = 0; k < len; k += 16) {
        int64_t some = len - k < 16 ? len - k : 16;
        __mmask16 mask = lanes_mask(some);
        const size_t at = (size_t)((k0 + k) / line_columns) * line_stride;
        __m512 v[16];
        TILE_UNROLL for (int r = 0; r < 16; r++)
            v[r] = load_floats(type, row[r] + at, (k0 + k) % line_columns, mask);
        turn16(v);
        TILE_UNROLL for (int i = 0; i < 16; i++) {
            if (i < some)
                _mm512_store_ps(out + (k + i) * TILE_ROWS, v[i]);
        }
    }
}

/* Panels are halves (len, 16) one after another, so that the tile kernels of quantised types write them as they are. */
typedef void panel_fn(const void *type, const tile_source *tile, int64_t k0, int64_t len, float *out);

static void panel_quantised(const void *type, const tile_source *tile, int64_t k0, int64_t len, float *out)
{
    const tile_type *t = type;
    size_t at = (size_t)(k0 / HT_QK) * unpack_group_bytes(t->type) / (size_t)unpack_group_blocks(t->type);
    t->floats(tile, at, len / HT_QK, out);
}
#define PANEL_OF(name, id, woven)                                                                                  \
    static void panel_##name(const void *type, const tile_source *tile, int64_t k0, int64_t len, float *out)       \
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

/* 32 rows . 8 columns over a panel; `first` begins the sums, else they go on from y. */
static void panel_product(const float *low, const float *high, const float *packed, int64_t len, bool first, float *y,
                          int64_t y_stride, __mmask16 low_rows, __mmask16 high_rows, int64_t n)
{
    __m512 acc[2][TILE_COLUMNS];
    TILE_UNROLL for (int c = 0; c < TILE_COLUMNS; c++) {
        bool load = !first && c < n;
        acc[0][c] = load ? _mm512_maskz_loadu_ps(low_rows, y + c * y_stride) : _mm512_setzero_ps();
        acc[1][c] = load ? _mm512_maskz_loadu_ps(high_rows, y + c * y_stride + TILE_ROWS) : _mm512_setzero_ps();
    }
    for (int64_t k = 0; k < len; k++) {
        __m512 a = _mm512_load_ps(low + TILE_ROWS * k), b = _mm512_load_ps(high + TILE_ROWS * k);
        TILE_UNROLL for (int c = 0; c < TILE_COLUMNS; c++) {
            __m512 x = _mm512_set1_ps(packed[TILE_COLUMNS * k + c]);
            acc[0][c] = _mm512_fmadd_ps(a, x, acc[0][c]);
            acc[1][c] = _mm512_fmadd_ps(b, x, acc[1][c]);
        }
    }
    TILE_UNROLL for (int c = 0; c < TILE_COLUMNS; c++) {
        if (c < n) {
            _mm512_mask_storeu_ps(y + c * y_stride, low_rows, acc[0][c]);
            _mm512_mask_storeu_ps(y + c * y_stride + TILE_ROWS, high_rows, acc[1][c]);
        }
    }
}

static void run(panel_fn *panel, const void *type, float *y, int64_t y_stride, const void *w, size_t row_bytes,
                int64_t rows, const void *packed, int64_t n, int64_t cols, void *scratch)
{
    float *low = (float *)(((uintptr_t)scratch + 63) & ~(uintptr_t)63), *high = low + TILE_ROWS * PANEL;
    for (int64_t r = 0; r < rows; r += ROWS) {
        const char *tile_w = (const char *)w + (size_t)r * row_bytes;
        bool two = rows - r > TILE_ROWS;
        tile_source first = tile_from(tile_w, row_bytes, rows - r), second = first;
        if (two)
            second = tile_from(tile_w + TILE_ROWS * row_bytes, row_bytes, rows - r - TILE_ROWS);
        __mmask16 low_rows = lanes_mask(rows - r), high_rows = lanes_mask(rows - r - TILE_ROWS);
        for (int64_t k = 0; k < cols; k += PANEL) {
            int64_t len = cols - k < PANEL ? cols - k : PANEL;
            panel(type, &first, k, len, low);
            if (two)
                panel(type, &second, k, len, high);
            for (int64_t c = 0; c < n; c += TILE_COLUMNS)
                panel_product(low, two ? high : low, (const float *)packed + c * cols + k * TILE_COLUMNS, len, k == 0,
                              y + c * y_stride + r, y_stride, low_rows, high_rows, n - c);
        }
    }
}

#define RUN(name, panel, type)                                                                                     \
    static void run_##name(float *y, int64_t y_stride, const void *w, size_t row_bytes, int64_t rows,              \
                           const void *packed, int64_t n, int64_t cols, void *scratch)                             \
    {                                                                                                              \
        run(panel, type, y, y_stride, w, row_bytes, rows, packed, n, cols, scratch);                               \
    }
#define RUN_QUANTISED(name, id) RUN(name, panel_quantised, &TILE(name))
TILE_EACH_TYPE(RUN_QUANTISED)
RUN(f32, panel_f32, NULL)
RUN(f16, panel_f16, NULL)
RUN(bf16, panel_bf16, NULL)
RUN(woven_f32, panel_woven_f32, NULL)
RUN(woven_f16, panel_woven_f16, NULL)
RUN(woven_bf16, panel_woven_bf16, NULL)

void ht_kernels_matmul_f32_avx512(ht_kernels *k)
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
