/* Rows woven into tiles: how a matrix in RAM may lie instead of row by row, for CPU kernels that take 16 rows at a time.
 *
 * 16 neighbouring rows of GGUF blocks become a tile of the same bytes in another order. A tile is a list of groups, each
 * a few columns of all its rows (ht_tile_columns); a group is a list of the fields of its blocks, scales first; and
 * of a field, each unit (a dword of quants, an F16 scale) of row 0 is followed by the same unit of row 1, and so on to row
 * 15. So a kernel whose vector lanes are rows loads what it otherwise has to turn, and reads a matrix from its first byte
 * to its last in order, which is what memory is fastest at (docs/decisions/0004-tiles-in-ram.md).
 *
 * Rows of float types are not taken apart: a group is a line of 64 bytes, and a line of row 0 is followed by that of row 1.
 *
 * A woven matrix keeps its size and place; tile t begins where row 16 t did. Ranges of its rows begin and end at multiples
 * of HT_TILE_ROWS. Columns from c on, a multiple of ht_tile_columns, begin HT_TILE_ROWS times as far into a tile as they
 * would into a row.
 */
#ifndef HEARTH_CORE_MODEL_TILES_H
#define HEARTH_CORE_MODEL_TILES_H

#include "core/model/types.h"

#define HT_TILE_ROWS 16

/* Columns of a group; 0: no tiles of this type. */
int64_t ht_tile_columns(ht_type type);
/* Whether a matrix can be woven. */
static inline bool ht_tiles_fit(ht_type type, int64_t rows, int64_t cols)
{
    int64_t group = ht_tile_columns(type);
    return group && cols % group == 0 && rows % HT_TILE_ROWS == 0;
}

/* HT_TILE_ROWS rows, one after another, to a tile and back. The buffers, of HT_TILE_ROWS * row_bytes, do not overlap. */
void ht_tile_weave(ht_type type, const void *rows, void *tile, int64_t cols);
void ht_tile_unweave(ht_type type, const void *tile, void *rows, int64_t cols);
/* The rows become the tile; `aside` is as large. */
void ht_tile_weave_in_place(ht_type type, void *rows, void *aside, int64_t cols);
/* One row of a tile. */
void ht_tile_row(ht_type type, const void *tile, int64_t row, void *out, int64_t cols);

#endif
