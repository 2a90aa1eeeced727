/* The checker of the matrix kernels: every type, level and mode against the reference, on seeded shapes.
 *
 * Weights are random bytes with sane scales, or extreme; each buffer is exactly as long as the kernel may read, so
 * that AddressSanitizer sees one byte more; what lies around y must stay untouched. Bits of a (row, column) must not
 * depend on the number of columns, on their place, or on how rows are split over calls.
 */
#include "core/base/arith.h"
#include "core/model/tiles.h"
#include "cpu/fixed.h"
#include "cpu/kernels.h"
#include "tests/support/harness.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct shape { int64_t rows, cols, n; } shape;
enum mood { PLAIN, ZERO_SCALES, HUGE_SCALES, TINY_SCALES, NEGATIVE_ZERO, EXTREMES, MOODS };

static uint64_t state;
static uint32_t draw(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}
static float uniform(void) { return (float)draw() / (float)(1u << 30) - 1.0f; } /* [-1, 1) */

/* Where a block keeps its F16 scales. */
static int scale_offsets(ht_type type, size_t at[2])
{
    switch (type) {
    case HT_Q4_0: case HT_Q5_0: case HT_Q8_0: case HT_IQ4_NL: case HT_IQ4_XS: at[0] = 0; return 1;
    case HT_Q4_1: case HT_Q5_1: case HT_Q4_K: case HT_Q5_K: at[0] = 0; at[1] = 2; return 2;
    case HT_Q2_K: at[0] = offsetof(ht_block_q2_k, d); at[1] = offsetof(ht_block_q2_k, dmin); return 2;
    case HT_Q3_K: at[0] = offsetof(ht_block_q3_k, d); return 1;
    case HT_Q6_K: at[0] = offsetof(ht_block_q6_k, d); return 1;
    default: return 0;
    }
}

static float random_scale(enum mood mood)
{
    switch (mood) {
    case ZERO_SCALES: return draw() % 2 ? 0.0f : uniform();
    case HUGE_SCALES: return draw() % 2 ? 65504.0f : -65504.0f;
    case TINY_SCALES: return 6e-8f * (float)(draw() % 100); /* F16 subnormals */
    case NEGATIVE_ZERO: return -0.0f;
    default: return 0.02f * uniform();
    }
}

/* Integer scales of the parts of a block: bytes [*begin, *end). Of Q3_K, Q4_K and Q5_K they are packed 6-bit ones. */
static void sub_scales(ht_type type, size_t *begin, size_t *end)
{
#define BYTES(block, field) *begin = offsetof(block, field), *end = *begin + sizeof(((block *)0)->field)
    *begin = *end = 0;
    switch (type) {
    case HT_Q2_K: BYTES(ht_block_q2_k, scales); break;
    case HT_Q3_K: BYTES(ht_block_q3_k, scales); break;
    case HT_Q4_K: BYTES(ht_block_q4_k, scales); break;
    case HT_Q5_K: BYTES(ht_block_q5_k, scales); break;
    case HT_Q6_K: BYTES(ht_block_q6_k, scales); break;
    case HT_IQ4_XS: *begin = offsetof(ht_block_iq4_xs, scales_h), *end = offsetof(ht_block_iq4_xs, qs); break;
    default: break;
    }
#undef BYTES
}

/* A block whose quants and integer scales are the largest or smallest there are, all alike or mixed: what 16-bit sums must
 * hold. The F16 scales make a weight's two terms add up, so that the bound of check_values, max|w|, is one of its terms. */
static void extreme_block(ht_type type, uint8_t *w, size_t bytes, const size_t *at, int scales)
{
    static const uint8_t extremes[] = {0x80, 0x7f, 0x00, 0xff};
    size_t begin, end;
    uint32_t kind = draw() % 4, scale = draw() % 8;
    for (size_t i = 0; i < bytes; i++)
        w[i] = kind < 2 ? (uint8_t)(kind * 0xff) : kind == 2 ? (uint8_t)(draw() % 2 * 0xff) : extremes[draw() % 4];
    sub_scales(type, &begin, &end);
    for (size_t i = begin; i < end; i++)
        w[i] = extremes[scale < 4 ? scale : draw() % 4];
    float d = 0.001f + 0.02f * fabsf(uniform());
    bool subtracted = type == HT_Q2_K || type == HT_Q4_K || type == HT_Q5_K;
    for (int s = 0; s < scales; s++) {
        ht_half half = ht_half_from_float(s == 1 && subtracted ? -d : d);
        memcpy(w + at[s], &half, sizeof(half));
    }
}

static void random_weights(ht_type type, uint8_t *w, int64_t count, enum mood mood)
{
    const ht_type_info *info = ht_type_get(type);
    size_t at[2], blocks = (size_t)(count / info->block_len);
    int scales = scale_offsets(type, at);
    for (size_t b = 0; b < blocks; b++, w += info->block_bytes) {
        float v = mood == PLAIN || mood == EXTREMES ? uniform() : random_scale(mood);
        ht_half half = ht_half_from_float(v);
        ht_bf16 bf16 = ht_bf16_from_float(v);
        if (type == HT_F32) {
            memcpy(w, &v, 4);
        } else if (type == HT_F16) {
            memcpy(w, &half, 2);
        } else if (type == HT_BF16) {
            memcpy(w, &bf16, 2);
        } else if (mood == EXTREMES) {
            extreme_block(type, w, (size_t)info->block_bytes, at, scales);
        } else {
            for (int i = 0; i < info->block_bytes; i++)
                w[i] = (uint8_t)(draw() >> 8);
            for (int s = 0; s < scales; s++) {
                half = ht_half_from_float(random_scale(mood));
                memcpy(w + at[s], &half, 2);
            }
        }
    }
}

/* One problem: weights, columns in both forms, and what bounds the error of a sum. */
typedef struct problem {
    ht_type type;
    int mode;
    shape s;
    bool quantised;
    size_t row_bytes, x_bytes;
    void *memory;
    uint8_t *w;      /* (rows, cols) */
    bool woven;      /* w is */
    char *x;         /* n rows of x_bytes */
    float *row_max;  /* (rows): max |w| */
    double *x_abs;   /* (n): sum |x| */
    double *x_max;   /* (n): sum over k of the max |x| of k's group (cpu/fixed.h) */
} problem;

/* Exactly `bytes` long, and `align` bytes off what malloc aligns. */
static void *exact(size_t bytes, size_t align)
{
    char *p = malloc(bytes + align);
    cr_assert(p != NULL);
    return p + align;
}

/* One column. EXTREMES: all of one size, quants of +-127, with one sign, with signs in turn, by pairs, or by chance; one
 * column in five has a NaN. */
static void random_column(float *x, int64_t cols, int64_t column, enum mood mood)
{
    float size = expf(4 * uniform()), shift = draw() % 4 ? 0.0f : size;
    uint32_t pattern = draw() % 5;
    for (int64_t k = 0; k < cols; k++) {
        bool negative = pattern < 2 ? pattern : pattern < 4 ? k / (pattern - 1) % 2 : draw() % 2;
        if (mood == EXTREMES)
            x[k] = negative ? -size : size;
        else
            x[k] = draw() % 64 ? size * uniform() + shift : 0.0f;
    }
    if (mood != EXTREMES && column % 5 == 4)
        memset(x, 0, (size_t)cols * sizeof(float));
    if (mood == EXTREMES && column % 5 == 4)
        x[draw() % (uint64_t)cols] = NAN;
}

/* The largest |v[k]|, k in [begin, end). */
static float largest(const float *v, int64_t begin, int64_t end)
{
    float most = 0;
    for (int64_t k = begin; k < end; k++)
        most = fmaxf(most, fabsf(v[k]));
    return most;
}

static void problem_make(problem *p, ht_type type, int mode, shape s, enum mood mood)
{
    const ht_type_info *info = ht_type_get(type);
    bool is_float = info->block_len == 1;
    *p = (problem){.type = type, .mode = mode, .s = s, .quantised = mode == 0 && !is_float,
                   .row_bytes = ht_row_bytes(info, s.cols)};
    p->w = exact(p->row_bytes * (size_t)s.rows, type == HT_F32 ? 4 : 2);
    random_weights(type, p->w, s.rows * s.cols, mood);
    p->row_max = calloc((size_t)s.rows + 1, sizeof(float));
    p->x_abs = calloc((size_t)s.n + 1, sizeof(double));
    p->x_max = calloc((size_t)s.n + 1, sizeof(double));
    float *row = malloc(((size_t)s.cols + 1) * sizeof(float));
    for (int64_t r = 0; r < s.rows; r++) {
        info->dequantize(p->w + (size_t)r * p->row_bytes, row, s.cols);
        p->row_max[r] = largest(row, 0, s.cols);
    }
    p->x_bytes = p->quantised ? HT_ACT_ROW_BYTES(s.cols) : (size_t)s.cols * sizeof(float);
    p->x = exact(p->x_bytes * (size_t)s.n, 4);
    for (int64_t c = 0; c < s.n; c++) {
        random_column(row, s.cols, c, mood);
        for (int64_t k = 0; k < s.cols; k++)
            p->x_abs[c] += fabsf(row[k]);
        for (int64_t g = 0; g < s.cols; g += FIXED_GROUP) {
            int64_t len = s.cols - g < FIXED_GROUP ? s.cols - g : FIXED_GROUP;
            p->x_max[c] += (double)largest(row, g, g + len) * (double)len;
        }
        if (p->quantised)
            ht_act_quantize(row, p->x + (size_t)c * p->x_bytes, s.cols);
        else
            memcpy(p->x + (size_t)c * p->x_bytes, row, p->x_bytes);
    }
    free(row);
}

static void problem_free(problem *p)
{
    free(p->w - (p->type == HT_F32 ? 4 : 2));
    free(p->x - 4);
    free(p->row_max);
    free(p->x_abs);
    free(p->x_max);
}

static const float GUARD = -12345.678f;
enum { MARGIN = 3 };

/* y (n, stride) between guards. */
typedef struct result { float *memory, *y; int64_t stride; size_t count; } result;
static void result_reset(result *r)
{
    for (size_t i = 0; i < r->count; i++)
        r->memory[i] = GUARD;
}
static result result_make(shape s, int64_t extra)
{
    result r = {.stride = s.rows + extra, .count = (size_t)(s.n * (s.rows + extra) + 2 * MARGIN)};
    r.memory = malloc(r.count * sizeof(float));
    result_reset(&r);
    r.y = r.memory + MARGIN;
    return r;
}
static bool result_guards(const result *r, shape s)
{
    for (int64_t i = -MARGIN; i < (int64_t)r->count - MARGIN; i++) {
        int64_t c = i >= 0 && r->stride ? i / r->stride : -1;
        bool inside = i >= 0 && c < s.n && i % r->stride < s.rows;
        if (!inside && memcmp(&r->y[i], &GUARD, sizeof(GUARD)) != 0)
            return false;
    }
    return true;
}

static void multiply(const ht_kernels *k, const problem *p, bool block, float *y, int64_t stride, int64_t row,
                     int64_t rows, int64_t column, int64_t n)
{
    const uint8_t *w = p->w + (size_t)row * p->row_bytes;
    const char *x = p->x + (size_t)column * p->x_bytes;
    if (!block) {
        ht_dot_fn *dot = p->woven ? k->dot_woven[p->type] : k->dot[p->type][p->mode];
        dot(y, stride, w, p->row_bytes, rows, x, p->x_bytes, n, p->s.cols);
        return;
    }
    const ht_matmul *m = &k->matmul[p->type][p->mode];
    void *packed = malloc(m->packed_bytes(n, p->s.cols)), *scratch = malloc(m->scratch_bytes(p->s.cols));
    /* packed in two parts, as two threads would */
    int64_t cut = n % 3 ? n / 2 / m->column_tile * m->column_tile : n / 3;
    m->pack(packed, x, p->x_bytes, cut, n, n, p->s.cols);
    m->pack(packed, x, p->x_bytes, 0, cut, n, p->s.cols);
    ht_matmul_fn *run = p->woven ? m->run_woven : m->run;
    run(y, stride, w, p->row_bytes, rows, packed, n, p->s.cols, scratch);
    free(packed);
    free(scratch);
}

static const char *describe(const ht_kernels *k, const problem *p, bool block, uint64_t seed)
{
    static char text[200];
    snprintf(text, sizeof(text), "%s %s %s %s: rows %lld cols %lld n %lld seed %llu", ht_isa_name(k->isa),
             ht_type_get(p->type)->name, p->mode ? "f32" : "q8", block ? "block" : "decode", (long long)p->s.rows,
             (long long)p->s.cols, (long long)p->s.n, (unsigned long long)seed);
    return text;
}

/* The block class of F16 and BF16 rounds both sides to fixed point. */
static bool is_fixed(const problem *p, bool block)
{
    return block && p->mode == 0 && (p->type == HT_F16 || p->type == HT_BF16);
}

/* Against exact sums, which are those of the reference's dot. */
static void check_values(const ht_kernels *ref, const ht_kernels *k, const problem *p, bool block, uint64_t seed)
{
    shape s = p->s;
    result want = result_make(s, 0), got = result_make(s, 5);
    for (int64_t c = 0; c < s.n; c += HT_DECODE_COLUMNS)
        multiply(ref, p, false, want.y + c * want.stride, want.stride, 0, s.rows, c,
                 s.n - c < HT_DECODE_COLUMNS ? s.n - c : HT_DECODE_COLUMNS);
    multiply(k, p, block, got.y, got.stride, 0, s.rows, 0, s.n);
    cr_assert(result_guards(&got, s), "%s: wrote outside y", describe(k, p, block, seed));
    /* Each block or column adds a few roundings of a partial sum, none of which exceeds max|w| * sum|x| by much. */
    double steps = (double)(p->quantised ? s.cols / 32 + 16 : s.cols + 16);
    for (int64_t c = 0; c < s.n; c++) {
        for (int64_t r = 0; r < s.rows; r++) {
            double a = want.y[c * want.stride + r], b = got.y[c * got.stride + r];
            double bound = 2 * steps * 6e-8 * p->row_max[r] * p->x_abs[c] + 1e-35;
            if (is_fixed(p, block)) /* half a unit of w for each |x|, half a unit of x for each |w + half a unit| */
                bound += p->row_max[r] * (p->x_abs[c] + p->x_max[c] * (1 + 1 / 16382.0)) / 16382;
            cr_assert(isnan(a) ? isnan(b) : fabs(a - b) <= bound, "%s: row %lld column %lld: %.9g, not %.9g (bound %.3g)",
                      describe(k, p, block, seed), (long long)r, (long long)c, b, a, bound);
        }
    }
    free(want.memory);
    free(got.memory);
}

/* Fixed point has one definition, which is the reference: its bits at every level. */
static void check_fixed_bits(const ht_kernels *ref, const ht_kernels *k, const problem *p, uint64_t seed)
{
    shape s = p->s;
    result want = result_make(s, 0), got = result_make(s, 0);
    multiply(ref, p, true, want.y, want.stride, 0, s.rows, 0, s.n);
    multiply(k, p, true, got.y, got.stride, 0, s.rows, 0, s.n);
    for (int64_t i = 0; i < s.rows * s.n; i++)
        cr_assert((isnan(want.y[i]) && isnan(got.y[i])) || memcmp(&want.y[i], &got.y[i], sizeof(float)) == 0,
                  "%s: row %lld column %lld: %.9g, not %.9g bit for bit", describe(k, p, true, seed),
                  (long long)(i % s.rows), (long long)(i / s.rows), got.y[i], want.y[i]);
    free(want.memory);
    free(got.memory);
}

/* The same bits whatever is computed together. */
static void check_bits(const ht_kernels *k, const problem *p, bool block, uint64_t seed)
{
    shape s = p->s;
    result all = result_make(s, 0), part = result_make(s, 0);
    multiply(k, p, block, all.y, all.stride, 0, s.rows, 0, s.n);
    for (int64_t c = 0; c < s.n;) { /* columns in pieces */
        int64_t n = 1 + draw() % (block ? 11 : 3);
        n = c + n > s.n ? s.n - c : n;
        multiply(k, p, block, part.y + c * part.stride, part.stride, 0, s.rows, c, n);
        c += n;
    }
    cr_assert(memcmp(all.y, part.y, (size_t)(s.rows * s.n) * sizeof(float)) == 0,
              "%s: bits depend on the other columns", describe(k, p, block, seed));
    result_reset(&part);
    for (int64_t r = 0; r < s.rows;) { /* rows in pieces */
        int64_t rows = 1 + draw() % 21;
        rows = r + rows > s.rows ? s.rows - r : rows;
        multiply(k, p, block, part.y + r, part.stride, r, rows, 0, s.n);
        r += rows;
    }
    cr_assert(memcmp(all.y, part.y, (size_t)(s.rows * s.n) * sizeof(float)) == 0,
              "%s: bits depend on the split of rows", describe(k, p, block, seed));
    free(all.memory);
    free(part.memory);
}

/* A block-class kernel that serves the decode class gives its bits, at any number of columns. */
static void check_decode_bits(const ht_kernels *k, const problem *p, uint64_t seed)
{
    shape s = p->s;
    result block = result_make(s, 0), decode = result_make(s, 0);
    if (!k->matmul[p->type][p->mode].decode_bits)
        goto done;
    multiply(k, p, true, block.y, block.stride, 0, s.rows, 0, s.n);
    for (int64_t n = 1; n <= HT_DECODE_COLUMNS && n <= s.n; n++) {
        result_reset(&decode);
        for (int64_t c = 0; c < s.n; c += n)
            multiply(k, p, false, decode.y + c * decode.stride, decode.stride, 0, s.rows, c, s.n - c < n ? s.n - c : n);
        cr_assert(memcmp(block.y, decode.y, (size_t)(s.rows * s.n) * sizeof(float)) == 0,
                  "%s: other bits than the decode class, %d columns at a time", describe(k, p, true, seed), (int)n);
    }
done:
    free(block.memory);
    free(decode.memory);
}

/* Woven rows give the bits of plain ones, whole or in ranges of tiles, and fit into the same bytes. */
static void check_woven(const ht_kernels *k, problem *p, bool block, uint64_t seed)
{
    shape s = p->s;
    result rows = result_make(s, 0), woven = result_make(s, 5);
    multiply(k, p, block, rows.y, rows.stride, 0, s.rows, 0, s.n);
    uint8_t *plain = p->w, *tiles = exact(p->row_bytes * (size_t)s.rows, 32);
    for (int64_t r = 0; r < s.rows; r += HT_TILE_ROWS)
        ht_tile_weave(p->type, plain + (size_t)r * p->row_bytes, tiles + (size_t)r * p->row_bytes, s.cols);
    p->w = tiles;
    p->woven = true;
    for (int64_t step = s.rows; step > 0; step = step > HT_TILE_ROWS ? HT_TILE_ROWS : 0) {
        result_reset(&woven);
        for (int64_t r = 0; r < s.rows; r += step)
            multiply(k, p, block, woven.y + r, woven.stride, r, step, 0, s.n);
        cr_assert(result_guards(&woven, s), "%s, woven: wrote outside y", describe(k, p, block, seed));
        for (int64_t c = 0; c < s.n; c++)
            cr_assert(memcmp(rows.y + c * rows.stride, woven.y + c * woven.stride, (size_t)s.rows * sizeof(float)) == 0,
                      "%s: woven rows have other bits in column %lld", describe(k, p, block, seed), (long long)c);
    }
    p->w = plain;
    p->woven = false;
    free(tiles - 32);
    free(rows.memory);
    free(woven.memory);
}

static void check_woven_level(ht_isa isa)
{
    if (ht_isa_detect() < isa)
        cr_skip_test("this CPU lacks %s", ht_isa_name(isa));
    static const int64_t columns[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 21};
    static ht_kernels k;
    uint64_t seed = 1;
    ht_kernels_init(&k, isa);
    for (int type = 0; type < HT_TYPE_COUNT; type++) {
        const ht_type_info *info = ht_type_get((uint32_t)type);
        cr_assert_eq(!k.dot_woven[type], !k.matmul[type][0].run_woven);
        cr_assert_eq(info && info->block_len == 1 && k.dot_woven[type], !!k.matmul[type][1].run_woven);
        for (int i = 0; i < 24 && k.dot_woven[type]; i++, seed++) {
            const int64_t group = ht_tile_columns((ht_type)type);
            state = seed;
            shape s = {HT_TILE_ROWS * (1 + draw() % 5), group * (1 + draw() % 7), columns[i % 10]};
            if (i >= 22) /* more columns of weights than any segment */
                s.rows = HT_TILE_ROWS, s.cols = ht_type_get((uint32_t)type)->block_len == 1 ? 6144 + 96 : 33 * 1024;
            for (int mode = 0; mode < 2 && (mode == 0 || k.matmul[type][mode].run_woven); mode++) {
                problem p;
                problem_make(&p, (ht_type)type, mode, s, (enum mood)(i % MOODS));
                cr_assert(ht_tiles_fit(p.type, s.rows, s.cols));
                if (s.n <= HT_DECODE_COLUMNS)
                    check_woven(&k, &p, false, seed);
                check_woven(&k, &p, true, seed);
                problem_free(&p);
            }
        }
    }
}

Test(dot, woven_avx2, .timeout = 60) { check_woven_level(HT_ISA_AVX2); }
Test(dot, woven_avx512, .timeout = 60) { check_woven_level(HT_ISA_AVX512); }

static void check(ht_isa isa, ht_type type, shape s, enum mood mood, uint64_t seed)
{
    static ht_kernels ref, k;
    ht_kernels_init(&ref, HT_ISA_REF);
    ht_kernels_init(&k, isa);
    for (int mode = 0; mode < 2; mode++) {
        for (int block = 0; block < 2; block++) {
            if (!block && s.n > HT_DECODE_COLUMNS)
                continue;
            state = seed;
            problem p;
            problem_make(&p, type, mode, s, mood);
            check_values(&ref, &k, &p, block, seed);
            check_bits(&k, &p, block, seed);
            if (is_fixed(&p, block))
                check_fixed_bits(&ref, &k, &p, seed);
            if (block)
                check_decode_bits(&k, &p, seed);
            problem_free(&p);
        }
    }
}

static void check_level(ht_isa isa)
{
    if (ht_isa_detect() < isa)
        cr_skip_test("this CPU lacks %s", ht_isa_name(isa));
    static const int64_t rows[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 14, 15, 16, 17, 31, 33, 50};
    const uint32_t n_rows = sizeof(rows) / sizeof(*rows);
    static const int64_t blocks[] = {1, 2, 3, 4, 5, 7, 9, 18};
    static const int64_t columns[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 21, 70};
    static const int64_t extreme_columns[] = {1, 2, 5, 8, 9};
    uint64_t seed = 1;
    for (int type = 0; type < HT_TYPE_COUNT; type++) {
        const ht_type_info *info = ht_type_get((uint32_t)type);
        if (!info)
            continue;
        for (int i = 0; i < 18; i++, seed++) {
            state = seed;
            int64_t b = blocks[draw() % (info->block_len == HT_QK_K ? 3 : 8)];
            shape s = {rows[draw() % n_rows], b * info->block_len, columns[(unsigned)i % 13]};
            if (info->block_len == 1)
                s.cols = 1 + draw() % 300;
            check(isa, (ht_type)type, s, i < 13 ? PLAIN : (enum mood)(i - 13), seed);
        }
        for (int i = 0; i < 10; i++, seed++) {
            state = seed;
            int64_t b = blocks[draw() % (info->block_len == HT_QK_K ? 2 : 7)];
            shape s = {17, b * (info->block_len == 1 ? HT_QK : info->block_len), extreme_columns[i % 5]};
            check(isa, (ht_type)type, s, EXTREMES, seed);
        }
        /* more columns of weights than any segment, panel or limit in the kernels */
        for (int64_t n = 1; n <= 3; n += 2) {
            shape s = {9, info->block_len == 1 ? 6144 + 77 : 33 * 1024, n};
            check(isa, (ht_type)type, s, PLAIN, seed++);
        }
    }
}

Test(dot, avx2, .timeout = 120) { check_level(HT_ISA_AVX2); }
Test(dot, avx512, .timeout = 120) { check_level(HT_ISA_AVX512); }
Test(dot, reference, .timeout = 120) { check_level(HT_ISA_REF); }

/* Fixed point of values that no model should have: all bits there are as weights, columns too small or too large for a
 * scale, infinities. What meets one that is not finite is a NaN. */
static void check_odd_fixed(ht_isa isa)
{
    if (ht_isa_detect() < isa)
        cr_skip_test("this CPU lacks %s", ht_isa_name(isa));
    static ht_kernels ref, k;
    ht_kernels_init(&ref, HT_ISA_REF);
    ht_kernels_init(&k, isa);
    for (uint64_t seed = 1; seed <= 60; seed++) {
        state = seed;
        shape s = {1 + draw() % 40, 1 + draw() % 600, 1 + draw() % 13};
        problem p;
        problem_make(&p, seed % 2 ? HT_F16 : HT_BF16, 0, s, PLAIN);
        uint16_t *w = (uint16_t *)(void *)p.w, one = p.type == HT_F16 ? 0x3c00 : 0x3f80, odd = (uint16_t)draw();
        float *x = (float *)(void *)p.x;
        for (int64_t i = 0; i < s.rows * s.cols; i++)
            w[i] = seed % 3 == 0 ? (uint16_t)draw() : i % s.cols ? one : odd;
        for (int64_t i = 0; i < s.cols * s.n; i++) {
            int exponent = seed % 4 == 0 ? -110 - (int)(draw() % 40) : seed % 4 == 1 ? 128 : 0;
            x[i] = ldexpf(uniform(), exponent);
            if (seed % 4 == 3)
                x[i] = (float)((int)(draw() % 16383) - 8191) / 2; /* ties, once a group holds the largest */
            if (seed % 4 == 3 && i % 32 == 0)
                x[i] = 8191;
            if (seed % 4 == 2 && draw() % 100 == 0)
                x[i] = draw() % 2 ? INFINITY : -INFINITY;
        }
        check_fixed_bits(&ref, &k, &p, seed);
        result y = result_make(s, 0);
        multiply(&k, &p, true, y.y, y.stride, 0, s.rows, 0, s.n);
        for (int64_t r = 0; r < s.rows; r++) {
            for (int64_t c = 0; c < s.n; c++) {
                bool finite = true;
                for (int64_t i = 0; i < s.cols; i++) {
                    uint16_t h = w[r * s.cols + i], exponent = p.type == HT_F16 ? 0x7c00 : 0x7f80;
                    finite &= (h & exponent) != exponent && isfinite(x[c * s.cols + i]);
                }
                cr_assert(finite || isnan(y.y[c * y.stride + r]), "%s: row %lld column %lld is %g",
                          describe(&k, &p, true, seed), (long long)r, (long long)c, y.y[c * y.stride + r]);
            }
        }
        free(y.memory);
        problem_free(&p);
    }
}

/* Row r and column c of the problem, in F32. */
static void set_row(problem *p, int64_t r, const float *row)
{
    ht_type_get(p->type)->quantize(row, p->w + (size_t)r * p->row_bytes, p->s.cols);
}
static float *fixed_column(problem *p, int64_t c) { return (float *)(void *)(p->x + (size_t)c * p->x_bytes); }

/* What fixed point promises, on products that are known. Of ones, each with a sign: sums of the largest integers there are,
 * which take all of 31 bits. Of one 1 among zeros, in w or in x: the other side's value, off by half a unit at most. */
static void check_fixed_promises(ht_isa isa)
{
    if (ht_isa_detect() < isa)
        cr_skip_test("this CPU lacks %s", ht_isa_name(isa));
    enum { ROWS = 35, COLS = 2 * FIXED_PANEL + 2 * FIXED_GROUP + 20, N = 13, KINDS = 3 };
    static float row[ROWS][COLS];
    static ht_kernels k;
    ht_kernels_init(&k, isa);
    for (int i = 0; i < 2 * KINDS; i++) {
        const int kind = i / 2; /* 0: ones; 1: w has one 1 a row; 2: x has one a column */
        const shape s = {ROWS, COLS, N};
        problem p;
        state = (uint64_t)i + 1;
        problem_make(&p, i % 2 ? HT_F16 : HT_BF16, 0, s, PLAIN);
        for (int64_t r = 0; r < ROWS; r++) {
            for (int64_t c = 0; c < COLS; c++)
                row[r][c] = kind == 0 ? (r % 2 ? -1 : 1) : kind == 1 ? c == r * 16 : uniform();
            set_row(&p, r, row[r]);
            ht_type_get(p.type)->dequantize(p.w + (size_t)r * p.row_bytes, row[r], COLS);
        }
        for (int64_t c = 0; c < N; c++)
            for (int64_t j = 0; j < COLS; j++)
                fixed_column(&p, c)[j] = kind == 0 ? (c % 2 ? -1 : 1) : kind == 1 ? uniform() : j == c * 43;
        result y = result_make(s, 0);
        multiply(&k, &p, true, y.y, y.stride, 0, ROWS, 0, N);
        for (int64_t r = 0; r < ROWS; r++) {
            for (int64_t c = 0; c < N; c++) {
                const float *x = fixed_column(&p, c);
                const int64_t group = r * 16 / FIXED_GROUP * FIXED_GROUP, panel = c * 43 / FIXED_PANEL * FIXED_PANEL;
                double want = COLS * (r % 2 == c % 2 ? 1 : -1), bound = 1e-6 * COLS;
                if (kind == 1)
                    want = x[r * 16], bound = largest(x, group, group + FIXED_GROUP) / 16382 * 1.002;
                if (kind == 2)
                    want = row[r][c * 43], bound = largest(row[r], panel, ht_min_i64(panel + FIXED_PANEL, COLS)) / 16382 * 1.002;
                double got = y.y[c * y.stride + r];
                cr_assert(fabs(got - want) <= bound, "%s: row %lld column %lld: %.9g, not %.9g (bound %.3g)",
                          describe(&k, &p, true, (uint64_t)i), (long long)r, (long long)c, got, want, bound);
            }
        }
        free(y.memory);
        problem_free(&p);
    }
}

Test(dot, fixed_promises_reference, .timeout = 60) { check_fixed_promises(HT_ISA_REF); }
Test(dot, fixed_promises_avx2, .timeout = 60) { check_fixed_promises(HT_ISA_AVX2); }
Test(dot, fixed_promises_avx512, .timeout = 60) { check_fixed_promises(HT_ISA_AVX512); }

Test(dot, odd_fixed_reference, .timeout = 60) { check_odd_fixed(HT_ISA_REF); }
Test(dot, odd_fixed_avx2, .timeout = 60) { check_odd_fixed(HT_ISA_AVX2); }
Test(dot, odd_fixed_avx512, .timeout = 60) { check_odd_fixed(HT_ISA_AVX512); }

/* expand: the reference's bits but for one rounding of d * q + m; act_quantize: the reference's bits. */
static void check_rows(ht_isa isa)
{
    if (ht_isa_detect() < isa)
        cr_skip_test("this CPU lacks %s", ht_isa_name(isa));
    static ht_kernels ref, k;
    ht_kernels_init(&ref, HT_ISA_REF);
    ht_kernels_init(&k, isa);
    for (uint64_t seed = 1; seed <= 200; seed++) {
        state = seed;
        ht_type type = (ht_type)(draw() % HT_TYPE_COUNT);
        const ht_type_info *info = ht_type_get(type);
        if (!info)
            continue;
        int64_t cols = info->block_len * (int64_t)(1 + draw() % 40);
        uint8_t *w = exact(ht_row_bytes(info, cols), type == HT_F32 ? 4 : 2);
        random_weights(type, w, cols, (enum mood)(draw() % MOODS));
        float *a = malloc((size_t)cols * sizeof(float)), *b = malloc((size_t)cols * sizeof(float));
        ref.expand[type](w, a, cols);
        k.expand[type](w, b, cols);
        for (int64_t i = 0; i < cols; i++)
            cr_assert(fabsf(a[i] - b[i]) <= 2e-7f * 64 * fabsf(a[i]) + 1e-6f * fabsf(a[0]) + 1e-12f,
                      "%s expand %s seed %llu: weight %lld is %g, not %g", ht_isa_name(isa), info->name,
                      (unsigned long long)seed, (long long)i, b[i], a[i]);
        free(w - (type == HT_F32 ? 4 : 2));
        free(a);
        free(b);
    }
    for (uint64_t seed = 1; seed <= 200; seed++) {
        state = seed;
        int64_t cols = 32 * (int64_t)(1 + draw() % 50);
        float *x = exact((size_t)cols * sizeof(float), 4);
        for (int64_t i = 0; i < cols; i++) {
            x[i] = uniform() * ldexpf(1, (int)(draw() % 40) - 20);
            if (seed % 7 == 0)
                x[i] = (float)(int)(draw() % 255) - 127; /* ties and exact values */
            if (seed % 7 == 1)
                x[i] = ldexpf(uniform(), -135); /* 127 / amax overflows, quants of subnormals */
            if (seed % 7 == 2 && i / 32 % 2)
                x[i] = draw() % 2 ? 0.0f : -0.0f;
            if (seed % 7 == 3)
                x[i] = uniform() * FLT_MAX;
        }
        if (seed % 7 == 4) {
            static const float odd[] = {NAN, -NAN, INFINITY, -INFINITY};
            for (int64_t i = draw() % 64; i < cols; i += 1 + draw() % 64)
                x[i] = odd[draw() % 4];
        }
        char *a = exact(HT_ACT_ROW_BYTES(cols), 4), *b = exact(HT_ACT_ROW_BYTES(cols), 4);
        ref.act_quantize(x, a, cols);
        k.act_quantize(x, b, cols);
        cr_assert(memcmp(a, b, HT_ACT_ROW_BYTES(cols)) == 0, "%s act_quantize: seed %llu cols %lld",
                  ht_isa_name(isa), (unsigned long long)seed, (long long)cols);
        free(x - 1);
        free(a - 4);
        free(b - 4);
    }
}

Test(dot, rows_avx2, .timeout = 60) { check_rows(HT_ISA_AVX2); }
Test(dot, rows_avx512, .timeout = 60) { check_rows(HT_ISA_AVX512); }

/* From AVX2 on no entry is the reference any more; but storing an F32 row, which is a copy. */
Test(dot, every_entry_is_overridden)
{
    static ht_kernels ref;
    ht_kernels_init(&ref, HT_ISA_REF);
    for (int isa = HT_ISA_AVX2; isa <= (int)ht_isa_detect(); isa++) {
        static ht_kernels k;
        ht_kernels_init(&k, (ht_isa)isa);
        for (int type = 0; type < HT_TYPE_COUNT; type++) {
            const ht_type_info *info = ht_type_get((uint32_t)type);
            if (!info)
                continue;
            for (int mode = 0; mode < 2; mode++) {
                cr_expect(k.dot[type][mode] != ref.dot[type][mode], "%s %s dot[%d]", ht_isa_name(k.isa), info->name,
                          mode);
                cr_expect(k.matmul[type][mode].run != ref.matmul[type][mode].run, "%s %s matmul[%d]",
                          ht_isa_name(k.isa), info->name, mode);
                /* several sequences are decoded at the speed of a prompt */
                cr_expect(k.matmul[type][mode].decode_bits || mode == 1 || info->block_len == 1,
                          "%s %s matmul[%d] has bits of its own", ht_isa_name(k.isa), info->name, mode);
            }
            cr_expect(k.expand[type] != ref.expand[type], "%s %s expand", ht_isa_name(k.isa), info->name);
        }
#define OVERRIDDEN(entry) cr_expect(k.entry && k.entry != ref.entry, "%s " #entry, ht_isa_name(k.isa))
        OVERRIDDEN(act_quantize);
        OVERRIDDEN(rms_norm);
        OVERRIDDEN(layer_norm);
        OVERRIDDEN(glu_silu);
        OVERRIDDEN(glu_relu);
        OVERRIDDEN(glu_gelu);
        OVERRIDDEN(glu_gelu_tanh);
        OVERRIDDEN(rope_interleaved);
        OVERRIDDEN(rope_halves);
        OVERRIDDEN(attend_softmax);
        OVERRIDDEN(attend_query[HT_Q16]);
        static const ht_type cache[] = {HT_F32, HT_F16, HT_Q8_0, HT_Q4_0, HT_Q16};
        for (int t = 0; t < 5; t++) {
            OVERRIDDEN(attend_scores[cache[t]]);
            OVERRIDDEN(attend_mix[cache[t]]);
            for (int value = 0; value < 2; value++)
                if (cache[t] != HT_F32) OVERRIDDEN(kv_store[cache[t]][value]);
        }
#undef OVERRIDDEN
    }
}

Test(dot, isa_names)
{
    for (int i = 0; i < HT_ISA_COUNT; i++) {
        ht_isa isa;
        cr_assert(ht_isa_by_name(ht_isa_name((ht_isa)i), &isa));
        cr_assert_eq((int)isa, i);
    }
    ht_isa isa;
    cr_assert(!ht_isa_by_name("sse", &isa));
}
