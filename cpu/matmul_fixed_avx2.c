/* The block class with weights and columns in 16-bit fixed point (fixed.h, matmul_fixed.h), AVX2. The plan is that of
 * matmul_fixed_avx512.c: two tiles of 8 rows, four columns at a time. */
#include "core/model/tiles.h"
#include "cpu/matmul_fixed.h"
#include "cpu/simd_avx2.h"
#include "cpu/tile_avx2.h"

enum {
    COLUMNS = 4, /* of a packed tile */
    TILES = 2,
    GROUPS = FIXED_PANEL / FIXED_GROUP,
};

typedef struct rounded_panel { __m256i q[TILES][GROUPS * FIXED_DWORDS]; __m256 d[TILES]; } rounded_panel;

static size_t packed_bytes(int64_t n, int64_t cols) { return fixed_packed_bytes(COLUMNS, n, cols); }

static size_t scratch_bytes(int64_t cols)
{
    (void)cols;
    return sizeof(rounded_panel) + 64;
}

/* The low halves of the sums are the integers: columns k and k + 16. */
TILE_INLINE __m256i rounded_pairs(__m256 low, __m256 high, __m256 inverse)
{
    const __m256 magic = _mm256_set1_ps(FIXED_MAGIC);
    __m256i a = _mm256_castps_si256(_mm256_fmadd_ps(low, inverse, magic));
    __m256i b = _mm256_castps_si256(_mm256_fmadd_ps(high, inverse, magic));
    return _mm256_blend_epi16(a, _mm256_slli_epi32(b, 16), 0xaa);
}

/* ---- columns ------------------------------------------------------------------------------------------------- */

static void pack_column(char *tile, int64_t slot, const float *x, int64_t cols)
{
    for (int64_t k = 0; k < cols; k += FIXED_GROUP, tile += fixed_group_bytes(COLUMNS)) {
        float last[FIXED_GROUP] = {0};
        const float *from = x + k;
        if (cols - k < FIXED_GROUP)
            from = memcpy(last, from, (size_t)(cols - k) * sizeof(float));
        fixed_scale s = fixed_scale_of(ht_largest_256(from, FIXED_GROUP));
        for (int i = 0; i < FIXED_DWORDS; i += 8) {
            __m256 low = _mm256_loadu_ps(from + i), high = _mm256_loadu_ps(from + FIXED_DWORDS + i);
            __m256i q = rounded_pairs(low, high, _mm256_set1_ps(s.inverse));
            _mm256_storeu_si256((__m256i *)(void *)(tile + FIXED_LINE * slot + 4 * i), q);
        }
        fixed_set_scale(COLUMNS, tile, slot, s.d);
    }
}

static void pack(void *packed, const void *x, size_t x_bytes, int64_t begin, int64_t end, int64_t n, int64_t cols)
{
    fixed_pack(COLUMNS, pack_column, packed, x, x_bytes, begin, end, n, cols);
}

/* ---- weights ------------------------------------------------------------------------------------------------- */

/* `len` columns of a tile, or the group at a row's end with zeros behind it. */
typedef struct tile_lines { const uint8_t *at; size_t stride, line_stride; } tile_lines;
typedef struct last_group { uint16_t h[TILE_ROWS][FIXED_GROUP]; } last_group;

/* A group, `len` of whose columns there are. */
TILE_INLINE tile_lines group_at(const tile_lines *t, int64_t k, int64_t len, last_group *last)
{
    tile_lines group = *t;
    group.at += (size_t)(k / FIXED_GROUP) * t->line_stride;
    if (len >= FIXED_GROUP)
        return group;
    memset(last, 0, sizeof(*last));
    for (size_t r = 0; r < TILE_ROWS; r++)
        memcpy(last->h[r], group.at + r * t->stride, (size_t)len * 2);
    group.at = (const uint8_t *)last;
    group.stride = FIXED_LINE;
    return group;
}

/* Lane r: the largest magnitude of row r. */
TILE_INLINE __m256 panel_max(ht_type type, const tile_lines *t, int64_t len)
{
    __m256i m[TILE_ROWS];
    uint16_t max[TILE_ROWS];
    last_group last;
    TILE_UNROLL for (int r = 0; r < TILE_ROWS; r++)
        m[r] = _mm256_setzero_si256();
    for (int64_t k = 0; k < len; k += FIXED_GROUP) {
        const tile_lines group = group_at(t, k, len - k, &last);
        TILE_UNROLL for (size_t r = 0; r < TILE_ROWS; r++) {
            const __m256i *line = (const __m256i *)(const void *)(group.at + r * group.stride);
            TILE_UNROLL for (int i = 0; i < 2; i++)
                m[r] = _mm256_max_epu16(m[r], _mm256_and_si256(_mm256_loadu_si256(line + i), _mm256_set1_epi16(INT16_MAX)));
        }
    }
    TILE_UNROLL for (int r = 0; r < TILE_ROWS; r++) {
        __m128i s = _mm_max_epu16(_mm256_castsi256_si128(m[r]), _mm256_extracti128_si256(m[r], 1));
        max[r] = (uint16_t)~_mm_extract_epi16(_mm_minpos_epu16(_mm_xor_si128(s, _mm_set1_epi16(-1))), 0);
    }
    return load_floats(type, max, 0, TILE_ROWS);
}

/* fixed_scale_of by lanes: d, and the inverse. */
TILE_INLINE __m256 panel_scale(__m256 max, __m256 *inverse)
{
    const __m256 limit = _mm256_set1_ps(FLT_MAX), all = _mm256_set1_ps(FIXED_MAX);
    __m256 inv = _mm256_div_ps(all, max);
    __m256 finite = _mm256_cmp_ps(max, limit, _CMP_LE_OQ);
    __m256 normal = _mm256_and_ps(finite, _mm256_cmp_ps(inv, limit, _CMP_LE_OQ));
    *inverse = _mm256_and_ps(inv, normal);
    return _mm256_blendv_ps(_mm256_set1_ps(NAN), _mm256_and_ps(_mm256_div_ps(max, all), normal), finite);
}

/* Columns [k0, k0 + len) of a tile, k0 a multiple of the panel, to q; the scales of its rows. woven: the tile is half of one of
 * core/model/tiles.h. */
TILE_INLINE __m256 round_panel(ht_type type, bool woven, const tile_rows *tile, int64_t k0, int64_t len, __m256i *q)
{
    tile_lines t = {tile->row, woven ? FIXED_LINE : tile->stride, woven ? HT_TILE_ROWS * FIXED_LINE : FIXED_LINE};
    t.at += (size_t)(k0 / FIXED_GROUP) * t.line_stride;
    float by_row[TILE_ROWS];
    last_group last;
    __m256 inverse, d = panel_scale(panel_max(type, &t, len), &inverse);
    _mm256_storeu_ps(by_row, inverse);
    for (int64_t k = 0; k < len; k += FIXED_GROUP) {
        const tile_lines group = group_at(&t, k, len - k, &last);
        for (int i = 0; i < FIXED_DWORDS; i += 8, q += 8) {
            __m256 v[8];
            TILE_UNROLL for (size_t r = 0; r < TILE_ROWS; r++) {
                const uint8_t *row = group.at + r * group.stride;
                __m256 low = load_floats(type, row, i, 8), high = load_floats(type, row, FIXED_DWORDS + i, 8);
                v[r] = _mm256_castsi256_ps(rounded_pairs(low, high, _mm256_set1_ps(by_row[r])));
            }
            turn8(v);
            TILE_UNROLL for (int j = 0; j < 8; j++)
                _mm256_store_si256(q + j, _mm256_castps_si256(v[j]));
        }
    }
    return d;
}

/* ---- the product --------------------------------------------------------------------------------------------- */

/* Two tiles . 4 columns over a panel; `first` begins the sums, else they go on from y and y_high. */
static void panel_product(const rounded_panel *w, const char *packed, int64_t groups, bool first, float *y,
                          float *y_high, int64_t y_stride, __m256i low_rows, __m256i high_rows, int64_t n)
{
    __m256 acc[TILES][COLUMNS];
    TILE_UNROLL for (int c = 0; c < COLUMNS; c++)
        acc[0][c] = acc[1][c] = _mm256_setzero_ps();
    for (int64_t g = 0; g < groups; g++, packed += fixed_group_bytes(COLUMNS)) {
        __m256i sum[TILES][COLUMNS];
        TILE_UNROLL for (int c = 0; c < COLUMNS; c++)
            sum[0][c] = sum[1][c] = _mm256_setzero_si256();
        TILE_UNROLL for (int64_t i = 0; i < FIXED_DWORDS; i++) {
            __m256i a = w->q[0][FIXED_DWORDS * g + i], b = w->q[1][FIXED_DWORDS * g + i];
            TILE_UNROLL for (int c = 0; c < COLUMNS; c++) {
                int32_t pair;
                memcpy(&pair, packed + FIXED_LINE * c + 4 * i, sizeof(pair));
                __m256i x = _mm256_set1_epi32(pair);
                sum[0][c] = _mm256_add_epi32(sum[0][c], _mm256_madd_epi16(a, x));
                sum[1][c] = _mm256_add_epi32(sum[1][c], _mm256_madd_epi16(b, x));
                __asm__("" : "+x"(sum[0][c]), "+x"(sum[1][c])); /* GCC would add by trees, for which registers do not do */
            }
        }
        const float *d = (const float *)(const void *)(packed + FIXED_LINE * COLUMNS);
        TILE_UNROLL for (int c = 0; c < COLUMNS; c++) {
            TILE_UNROLL for (int t = 0; t < TILES; t++)
                acc[t][c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[t][c]), _mm256_set1_ps(d[c]), acc[t][c]);
        }
    }
    TILE_UNROLL for (int c = 0; c < COLUMNS; c++) {
        TILE_UNROLL for (int t = 0; t < TILES; t++) {
            const __m256i rows = t ? high_rows : low_rows;
            float *at = (t ? y_high : y) + c * y_stride;
            if (c < n) {
                __m256 before = first ? _mm256_setzero_ps() : _mm256_maskload_ps(at, rows);
                _mm256_maskstore_ps(at, rows, _mm256_fmadd_ps(acc[t][c], w->d[t], before));
            }
        }
    }
}

TILE_INLINE void run(ht_type type, bool woven, float *y, int64_t y_stride, const void *w, size_t row_bytes, int64_t rows,
                     const void *packed, int64_t n, int64_t cols, void *scratch)
{
    rounded_panel *panel = (rounded_panel *)(((uintptr_t)scratch + 63) & ~(uintptr_t)63);
    for (int64_t r = 0; r < rows;) {
        tile_rows tile[TILES] = {{0}};
        __m256i mask[TILES] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
        int64_t row[TILES] = {0}, tiles = 0;
        for (; tiles < TILES && r < rows; tiles++)
            r = tile_set(&tile[tiles], w, row_bytes, rows, r, &row[tiles], &mask[tiles]);
        if (tiles == 1) /* no row of which is stored */
            tile[1] = tile[0];
        if (woven) /* two halves of a tile, whose rows begin 64 bytes apart */
            tile[1].row = tile[0].row + TILE_ROWS * FIXED_LINE;
        for (int64_t k = 0; k < cols; k += FIXED_PANEL) {
            int64_t len = ht_min_i64(FIXED_PANEL, cols - k);
            for (int t = 0; t < TILES; t++)
                panel->d[t] = round_panel(type, woven, &tile[t], k, len, panel->q[t]);
            for (int64_t c = 0; c < n; c += COLUMNS) {
                float *at = y + c * y_stride;
                panel_product(panel, (const char *)packed + fixed_group_at(COLUMNS, c, k, cols), ht_ceil_div(len, FIXED_GROUP),
                              k == 0, at + row[0], at + row[1], y_stride, mask[0], mask[1], n - c);
            }
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

void ht_kernels_matmul_fixed_avx2(ht_kernels *k)
{
    ht_matmul m = {packed_bytes, scratch_bytes, pack, run_f16, run_woven_f16, TILES * TILE_ROWS, COLUMNS, false};
    k->matmul[HT_F16][0] = m;
    m.run = run_bf16;
    m.run_woven = run_woven_bf16;
    k->matmul[HT_BF16][0] = m;
}
