/* The block class with weights and columns in 16-bit fixed point (fixed.h, matmul_fixed.h), AVX-512.
 *
 * A panel of two tiles of rows is rounded into scratch, where it stays in L1, as (group, dword, row) with the dwords of packed
 * columns; then these pass by, six at a time. Six columns of two tiles: as many sums as there are registers, so that loads are
 * few.
 */
#include "core/model/tiles.h"
#include "cpu/matmul_fixed.h"
#include "cpu/tile_avx512.h"

enum {
    COLUMNS = 6, /* of a packed tile */
    TILES = 2,
    GROUPS = FIXED_PANEL / FIXED_GROUP,
};

typedef struct rounded_panel { __m512i q[TILES][GROUPS * FIXED_DWORDS]; __m512 d[TILES]; } rounded_panel;

static size_t packed_bytes(int64_t n, int64_t cols) { return fixed_packed_bytes(COLUMNS, n, cols); }

static size_t scratch_bytes(int64_t cols)
{
    (void)cols;
    return sizeof(rounded_panel) + 64;
}

/* The low halves of the sums are the integers: columns k and k + 16. */
TILE_INLINE __m512i rounded_pairs(__m512 low, __m512 high, __m512 inverse)
{
    const __m512 magic = _mm512_set1_ps(FIXED_MAGIC);
    __m512i a = _mm512_castps_si512(_mm512_fmadd_ps(low, inverse, magic));
    __m512i b = _mm512_castps_si512(_mm512_fmadd_ps(high, inverse, magic));
    return _mm512_mask_blend_epi16(0xaaaaaaaa, a, _mm512_slli_epi32(b, 16));
}

/* ---- columns ------------------------------------------------------------------------------------------------- */

static void pack_column(char *tile, int64_t slot, const float *x, int64_t cols)
{
    for (int64_t k = 0; k < cols; k += FIXED_GROUP, tile += fixed_group_bytes(COLUMNS)) {
        __m512 low = _mm512_maskz_loadu_ps(lanes_mask(cols - k), x + k);
        __m512 high = _mm512_maskz_loadu_ps(lanes_mask(cols - k - 16), x + k + 16);
        /* as integers, since the larger bits of an infinity or NaN shall win */
        const __m512i magnitude = _mm512_set1_epi32(INT32_MAX);
        int32_t bits = _mm512_reduce_max_epi32(_mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(low), magnitude),
                                                                _mm512_and_si512(_mm512_castps_si512(high), magnitude)));
        float max;
        memcpy(&max, &bits, sizeof(max));
        fixed_scale s = fixed_scale_of(max);
        _mm512_storeu_si512(tile + FIXED_LINE * slot, rounded_pairs(low, high, _mm512_set1_ps(s.inverse)));
        fixed_set_scale(COLUMNS, tile, slot, s.d);
    }
}

static void pack(void *packed, const void *x, size_t x_bytes, int64_t begin, int64_t end, int64_t n, int64_t cols)
{
    fixed_pack(COLUMNS, pack_column, packed, x, x_bytes, begin, end, n, cols);
}

/* ---- weights ------------------------------------------------------------------------------------------------- */

TILE_INLINE __mmask32 halves_mask(int64_t n) { return n >= 32 ? UINT32_MAX : (1u << n) - 1; }

/* Lane r: the largest magnitude of row r. */
TILE_INLINE __m512 panel_max(ht_type type, const uint8_t *const *row, size_t line_stride, int64_t len)
{
    uint16_t max[TILE_ROWS];
    for (int r = 0; r < TILE_ROWS; r++) {
        const uint8_t *line = row[r];
        __m512i m = _mm512_setzero_si512();
        for (int64_t k = 0; k < len; k += FIXED_GROUP, line += line_stride) {
            __m512i v = _mm512_maskz_loadu_epi16(halves_mask(len - k), line);
            m = _mm512_max_epu16(m, _mm512_and_si512(v, _mm512_set1_epi16(INT16_MAX)));
        }
        __m256i m8 = _mm256_max_epu16(_mm512_castsi512_si256(m), _mm512_extracti64x4_epi64(m, 1));
        __m128i m4 = _mm_max_epu16(_mm256_castsi256_si128(m8), _mm256_extracti128_si256(m8, 1));
        max[r] = (uint16_t)~_mm_extract_epi16(_mm_minpos_epu16(_mm_xor_si128(m4, _mm_set1_epi16(-1))), 0);
    }
    return load_floats(type, max, 0, 0xffff);
}

/* fixed_scale_of by lanes: d, and the inverse. */
TILE_INLINE __m512 panel_scale(__m512 max, __m512 *inverse)
{
    const __m512 limit = _mm512_set1_ps(FLT_MAX), all = _mm512_set1_ps(FIXED_MAX);
    __m512 inv = _mm512_div_ps(all, max);
    __mmask16 finite = _mm512_cmp_ps_mask(max, limit, _CMP_LE_OQ);
    __mmask16 normal = _mm512_mask_cmp_ps_mask(finite, inv, limit, _CMP_LE_OQ);
    *inverse = _mm512_maskz_mov_ps(normal, inv);
    return _mm512_mask_mov_ps(_mm512_set1_ps(NAN), finite, _mm512_maskz_div_ps(normal, max, all));
}

/* Columns [k0, k0 + len) of a tile, k0 a multiple of the panel, to q; the scales of its rows. */
TILE_INLINE __m512 round_panel(ht_type type, bool woven, const tile_source *tile, int64_t k0, int64_t len, __m512i *q)
{
    const size_t stride = woven ? FIXED_LINE : tile->row_bytes, line_stride = woven ? HT_TILE_ROWS * FIXED_LINE : FIXED_LINE;
    const uint8_t *row[TILE_ROWS];
    float by_row[TILE_ROWS];
    __m512 inverse;
    for (int64_t r = 0; r < TILE_ROWS; r++)
        row[r] = tile->w + (size_t)(r < tile->rows ? r : tile->rows - 1) * stride + (size_t)(k0 / FIXED_GROUP) * line_stride;
    __m512 d = panel_scale(panel_max(type, row, line_stride, len), &inverse);
    _mm512_storeu_ps(by_row, inverse);
    for (int64_t k = 0, at = 0; k < len; k += FIXED_GROUP, at += (int64_t)line_stride, q += FIXED_DWORDS) {
        __mmask16 low = lanes_mask(len - k), high = lanes_mask(len - k - 16);
        __m512 v[16];
        TILE_UNROLL for (int r = 0; r < 16; r++)
            v[r] = _mm512_castsi512_ps(rounded_pairs(load_floats(type, row[r] + at, 0, low),
                                                     load_floats(type, row[r] + at, 16, high), _mm512_set1_ps(by_row[r])));
        turn16(v);
        TILE_UNROLL for (int i = 0; i < FIXED_DWORDS; i++)
            _mm512_store_si512(q + i, _mm512_castps_si512(v[i]));
    }
    return d;
}

/* ---- the product --------------------------------------------------------------------------------------------- */

/* Two tiles . 6 columns over a panel; `first` begins the sums, else they go on from y. */
static void panel_product(const rounded_panel *w, const char *packed, int64_t groups, bool first, float *y,
                          int64_t y_stride, __mmask16 low_rows, __mmask16 high_rows, int64_t n)
{
    const __mmask16 rows[TILES] = {low_rows, high_rows};
    __m512 acc[TILES][COLUMNS];
    TILE_UNROLL for (int c = 0; c < COLUMNS; c++) {
        TILE_UNROLL for (int t = 0; t < TILES; t++)
            acc[t][c] = _mm512_setzero_ps();
    }
    for (int64_t g = 0; g < groups; g++, packed += fixed_group_bytes(COLUMNS)) {
        __m512i sum[TILES][COLUMNS];
        TILE_UNROLL for (int c = 0; c < COLUMNS; c++) {
            TILE_UNROLL for (int t = 0; t < TILES; t++)
                sum[t][c] = _mm512_setzero_si512();
        }
        for (int64_t i = 0; i < FIXED_DWORDS; i++) {
            __m512i a = w->q[0][FIXED_DWORDS * g + i], b = w->q[1][FIXED_DWORDS * g + i];
            TILE_UNROLL for (int c = 0; c < COLUMNS; c++) {
                __m512i x = column_dword((const int8_t *)packed + FIXED_LINE * c + 4 * i);
                sum[0][c] = _mm512_dpwssd_epi32(sum[0][c], a, x);
                sum[1][c] = _mm512_dpwssd_epi32(sum[1][c], b, x);
            }
        }
        const float *d = (const float *)(const void *)(packed + FIXED_LINE * COLUMNS);
        TILE_UNROLL for (int c = 0; c < COLUMNS; c++) {
            TILE_UNROLL for (int t = 0; t < TILES; t++)
                acc[t][c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[t][c]), _mm512_set1_ps(d[c]), acc[t][c]);
        }
    }
    TILE_UNROLL for (int c = 0; c < COLUMNS; c++) {
        TILE_UNROLL for (int t = 0; t < TILES; t++) {
            float *at = y + c * y_stride + t * TILE_ROWS;
            if (c < n) {
                __m512 before = first ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(rows[t], at);
                _mm512_mask_storeu_ps(at, rows[t], _mm512_fmadd_ps(acc[t][c], w->d[t], before));
            }
        }
    }
}

TILE_INLINE void run(ht_type type, bool woven, float *y, int64_t y_stride, const void *w, size_t row_bytes, int64_t rows,
                     const void *packed, int64_t n, int64_t cols, void *scratch)
{
    rounded_panel *panel = (rounded_panel *)(((uintptr_t)scratch + 63) & ~(uintptr_t)63);
    for (int64_t r = 0; r < rows; r += TILES * TILE_ROWS) {
        for (int64_t k = 0; k < cols; k += FIXED_PANEL) {
            int64_t len = ht_min_i64(FIXED_PANEL, cols - k);
            for (int64_t t = 0; t < TILES; t++) { /* the second may be beyond the last row: then it is the first again */
                int64_t from = r + t * TILE_ROWS < rows ? r + t * TILE_ROWS : r;
                tile_source tile = tile_from((const char *)w + (size_t)from * row_bytes, row_bytes, rows - from);
                panel->d[t] = round_panel(type, woven, &tile, k, len, panel->q[t]);
            }
            for (int64_t c = 0; c < n; c += COLUMNS)
                panel_product(panel, (const char *)packed + fixed_group_at(COLUMNS, c, k, cols), ht_ceil_div(len, FIXED_GROUP),
                              k == 0, y + c * y_stride + r, y_stride, lanes_mask(rows - r), lanes_mask(rows - r - TILE_ROWS),
                              n - c);
        }
    }
}

#define RUN(name, type, woven)                                                                                     \
    static void run_##name(float *y, int64_t y_stride, const void *w, size_t row_bytes, int64_t rows,              \
                           const void *packed, int64_t n, int64_t cols, void *scratch)                             \
    {                                                                                                              \
        run(type, woven, y, y_stride, w, row_bytes, rows, packed, n, cols, scratch);                               \
    }
RUN(f16, HT_F16, false)
RUN(bf16, HT_BF16, false)
RUN(woven_f16, HT_F16, true)
RUN(woven_bf16, HT_BF16, true)

void ht_kernels_matmul_fixed_avx512(ht_kernels *k)
{
    ht_matmul m = {packed_bytes, scratch_bytes, pack, run_f16, run_woven_f16, TILES * TILE_ROWS, COLUMNS, false};
    k->matmul[HT_F16][0] = m;
    m.run = run_bf16;
    m.run_woven = run_woven_bf16;
    k->matmul[HT_BF16][0] = m;
}
