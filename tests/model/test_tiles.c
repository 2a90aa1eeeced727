/* Tiles: where each byte of a row goes, and back. */
#include "core/model/tiles.h"
#include "tests/support/harness.h"

#include <stdlib.h>
#include <string.h>

enum { GROUPS = 3 };

/* Three groups of 16 rows, every byte pair another. */
typedef struct rows { ht_type type; int64_t cols; size_t row_bytes, bytes; uint8_t *w, *tile; } rows;

static bool make(rows *r, int type)
{
    *r = (rows){.type = (ht_type)type};
    if (!ht_type_get((uint32_t)type) || !ht_tile_columns(r->type)) return false;
    r->cols = GROUPS * ht_tile_columns(r->type);
    r->row_bytes = ht_row_bytes(ht_type_get((uint32_t)type), r->cols);
    r->bytes = HT_TILE_ROWS * r->row_bytes;
    r->w = malloc(r->bytes);
    r->tile = malloc(r->bytes);
    for (size_t i = 0; i < r->bytes; i++) r->w[i] = (uint8_t)(i * 2654435761u >> 13);
    ht_tile_weave(r->type, r->w, r->tile, r->cols);
    return true;
}

static void drop(rows *r)
{
    free(r->w);
    free(r->tile);
}

Test(tiles, weaving_is_undone)
{
    int types = 0;
    for (int type = 0; type < HT_TYPE_COUNT; type++) {
        rows r;
        if (!make(&r, type)) continue;
        uint8_t *back = malloc(r.bytes), *row = malloc(r.row_bytes);
        cr_assert(memcmp(r.w, r.tile, r.bytes) != 0, "%d", type);
        ht_tile_unweave(r.type, r.tile, back, r.cols);
        cr_assert(memcmp(r.w, back, r.bytes) == 0, "%d", type);
        for (int64_t i = 0; i < HT_TILE_ROWS; i++) {
            ht_tile_row(r.type, r.tile, i, row, r.cols);
            cr_assert(memcmp(r.w + (size_t)i * r.row_bytes, row, r.row_bytes) == 0, "%d, row %d", type, (int)i);
        }
        free(back);
        free(row);
        drop(&r);
        types++;
    }
    cr_assert_geq(types, 12);
}

/* Columns from a group's beginning on lie where tiles.h says: the second group alone is the second part of the tile. */
Test(tiles, groups_follow_each_other)
{
    for (int type = 0; type < HT_TYPE_COUNT; type++) {
        rows r;
        if (!make(&r, type)) continue;
        const size_t part = r.row_bytes / GROUPS;
        uint8_t *second = malloc(HT_TILE_ROWS * part), *woven = malloc(HT_TILE_ROWS * part);
        for (size_t i = 0; i < HT_TILE_ROWS; i++) memcpy(second + i * part, r.w + i * r.row_bytes + part, part);
        ht_tile_weave(r.type, second, woven, r.cols / GROUPS);
        cr_assert(memcmp(woven, r.tile + HT_TILE_ROWS * part, HT_TILE_ROWS * part) == 0, "%d", type);
        free(second);
        free(woven);
        drop(&r);
    }
}

/* The order of Q4_0 by hand: scales of two blocks, 16 rows each, then four dwords of quants of each. */
Test(tiles, order_of_a_group)
{
    rows r;
    cr_assert(make(&r, HT_Q4_0));
    for (size_t row = 0; row < HT_TILE_ROWS; row++) {
        const uint8_t *w = r.w + row * r.row_bytes;
        for (size_t b = 0; b < 2; b++) {
            cr_assert(memcmp(r.tile + 32 * b + 2 * row, w + 18 * b, 2) == 0);
            for (size_t dword = 0; dword < 4; dword++)
                cr_assert(memcmp(r.tile + 64 + 256 * b + 64 * dword + 4 * row, w + 18 * b + 2 + 4 * dword, 4) == 0);
        }
    }
    drop(&r);
}

Test(tiles, what_fits)
{
    cr_assert(ht_tiles_fit(HT_Q4_0, 32, 128) && ht_tiles_fit(HT_Q6_K, 16, 256));
    cr_assert(!ht_tiles_fit(HT_Q4_0, 32, 96));  /* half a group */
    cr_assert(!ht_tiles_fit(HT_Q4_0, 40, 128)); /* half a tile */
    cr_assert(!ht_tiles_fit(HT_F16, 32, 48));   /* half a line */
}
