/* Tiles: see tiles.h. The order of fields and units is known here and to the kernels that read tiles. */
#include "core/model/tiles.h"

#include <string.h>

enum { MOST_FIELDS = 7, LINE = 64 };

/* Bytes [at, at + bytes) of a row's group, in units that stay whole. */
typedef struct field { uint16_t at, bytes, unit; } field;

typedef struct layout {
    int64_t columns;   /* of a group */
    field fields[MOST_FIELDS];
} layout;

#define FIELD(block, name, unit) {offsetof(block, name), sizeof(((block *)0)->name), unit}
#define SECOND(block, name, unit) {sizeof(block) + offsetof(block, name), sizeof(((block *)0)->name), unit}
#define PART(block, name, begin, bytes) {offsetof(block, name) + (begin), bytes, 4}
/* Kernels want lines of 64 bytes, in order: F16 scales of 16 rows fill half a line, so blocks with one are woven by twos. */
#define ONE HT_QK
#define TWO 2 * HT_QK
#define SUPER HT_QK_K
#define SCALES(block) FIELD(block, d, 2), SECOND(block, d, 2)
static const layout layouts[HT_TYPE_COUNT] = {
    [HT_F32] = {LINE / sizeof(float), {{0, LINE, LINE}}},
    [HT_F16] = {LINE / sizeof(ht_half), {{0, LINE, LINE}}},
    [HT_BF16] = {LINE / sizeof(ht_bf16), {{0, LINE, LINE}}},
    [HT_Q8_0] = {TWO, {SCALES(ht_block_q8_0), FIELD(ht_block_q8_0, qs, 4), SECOND(ht_block_q8_0, qs, 4)}},
    [HT_Q4_0] = {TWO, {SCALES(ht_block_q4_0), FIELD(ht_block_q4_0, qs, 4), SECOND(ht_block_q4_0, qs, 4)}},
    [HT_IQ4_NL] = {TWO, {SCALES(ht_block_iq4_nl), FIELD(ht_block_iq4_nl, qs, 4), SECOND(ht_block_iq4_nl, qs, 4)}},
    [HT_Q5_0] = {TWO, {SCALES(ht_block_q5_0), FIELD(ht_block_q5_0, qh, 4), FIELD(ht_block_q5_0, qs, 4),
                       SECOND(ht_block_q5_0, qh, 4), SECOND(ht_block_q5_0, qs, 4)}},
    [HT_Q4_1] = {ONE, {FIELD(ht_block_q4_1, d, 2), FIELD(ht_block_q4_1, m, 2), FIELD(ht_block_q4_1, qs, 4)}},
    [HT_Q5_1] = {ONE, {FIELD(ht_block_q5_1, d, 2), FIELD(ht_block_q5_1, m, 2), FIELD(ht_block_q5_1, qh, 4),
                       FIELD(ht_block_q5_1, qs, 4)}},
    [HT_Q2_K] = {SUPER, {FIELD(ht_block_q2_k, d, 2), FIELD(ht_block_q2_k, dmin, 2), FIELD(ht_block_q2_k, scales, 4),
                         FIELD(ht_block_q2_k, qs, 4)}},
    /* The parts of hmask belong to those of qs, the first 32 bytes and the last. */
    [HT_Q3_K] = {SUPER, {FIELD(ht_block_q3_k, d, 2), FIELD(ht_block_q3_k, scales, 4), PART(ht_block_q3_k, hmask, 0, 16),
                         PART(ht_block_q3_k, qs, 0, 16), PART(ht_block_q3_k, hmask, 16, 16), PART(ht_block_q3_k, qs, 16, 48)}},
    [HT_Q4_K] = {SUPER, {FIELD(ht_block_q4_k, d, 2), FIELD(ht_block_q4_k, dmin, 2), FIELD(ht_block_q4_k, scales, 4),
                         FIELD(ht_block_q4_k, qs, 4)}},
    [HT_Q5_K] = {SUPER, {FIELD(ht_block_q5_k, d, 2), FIELD(ht_block_q5_k, dmin, 2), FIELD(ht_block_q5_k, scales, 4),
                         FIELD(ht_block_q5_k, qh, 4), FIELD(ht_block_q5_k, qs, 4)}},
    /* The halves of qh and ql belong together. */
    [HT_Q6_K] = {SUPER, {FIELD(ht_block_q6_k, d, 2), FIELD(ht_block_q6_k, scales, 4), PART(ht_block_q6_k, qh, 0, 32),
                         PART(ht_block_q6_k, ql, 0, 64), PART(ht_block_q6_k, qh, 32, 32), PART(ht_block_q6_k, ql, 64, 64)}},
    [HT_IQ4_XS] = {SUPER, {FIELD(ht_block_iq4_xs, d, 2), FIELD(ht_block_iq4_xs, scales_h, 2),
                           FIELD(ht_block_iq4_xs, scales_l, 4), FIELD(ht_block_iq4_xs, qs, 4)}},
};

int64_t ht_tile_columns(ht_type type) { return layouts[type].columns; }

/* n pieces of `unit` bytes, a constant to each loop. */
static void copy_units(uint8_t *to, size_t to_stride, const uint8_t *from, size_t from_stride, int64_t n, size_t unit)
{
#define COPY(bytes) \
    case bytes: for (int64_t i = 0; i < n; i++) memcpy(to + (size_t)i * to_stride, from + (size_t)i * from_stride, bytes); break;
    switch (unit) {
    COPY(2) COPY(4) COPY(LINE)
    }
#undef COPY
}

/* Rows [first, first + n) of a tile: `rows` has just these. */
static void copy_rows(ht_type type, bool weave, uint8_t *tile, uint8_t *rows, int64_t first, int64_t n, int64_t cols)
{
    const layout *l = &layouts[type];
    const size_t row_bytes = ht_row_bytes(ht_type_get(type), cols), group = ht_row_bytes(ht_type_get(type), l->columns);

    for (size_t g = 0; g < row_bytes; g += group)
        for (const field *f = l->fields; f < l->fields + MOST_FIELDS && f->bytes; f++)
            for (size_t u = 0; u < f->bytes; u += f->unit, tile += HT_TILE_ROWS * f->unit) {
                uint8_t *in_rows = rows + g + f->at + u, *in_tile = tile + (size_t)first * f->unit;
                if (weave) copy_units(in_tile, f->unit, in_rows, row_bytes, n, f->unit);
                else copy_units(in_rows, row_bytes, in_tile, f->unit, n, f->unit);
            }
}

void ht_tile_weave(ht_type type, const void *rows, void *tile, int64_t cols)
{
    copy_rows(type, true, tile, (uint8_t *)rows, 0, HT_TILE_ROWS, cols); /* rows are only read */
}

void ht_tile_weave_in_place(ht_type type, void *rows, void *aside, int64_t cols)
{
    memcpy(aside, rows, HT_TILE_ROWS * ht_row_bytes(ht_type_get(type), cols));
    ht_tile_weave(type, aside, rows, cols);
}

void ht_tile_unweave(ht_type type, const void *tile, void *rows, int64_t cols)
{
    copy_rows(type, false, (uint8_t *)tile, rows, 0, HT_TILE_ROWS, cols); /* the tile is only read */
}

void ht_tile_row(ht_type type, const void *tile, int64_t row, void *out, int64_t cols)
{
    copy_rows(type, false, (uint8_t *)tile, out, row, 1, cols);
}
