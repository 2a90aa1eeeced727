/* What the fast levels of the fixed-point block class (fixed.h) share: packed columns. A dword holds columns k and k + 16 of a
 * group of 32, the first in its lower half: 16 dwords a group. Of a tile of `columns` columns, group after group:
 *
 *   int16 q[columns][16][2], float d[columns]
 *
 * Columns past the last one are zeros.
 */
#ifndef HEARTH_CPU_MATMUL_FIXED_H
#define HEARTH_CPU_MATMUL_FIXED_H

#include "core/base/arith.h"
#include "cpu/fixed.h"

#include <string.h>

enum {
    FIXED_DWORDS = FIXED_GROUP / 2,
    FIXED_LINE = 4 * FIXED_DWORDS, /* bytes of a column's group, of a row's, and of a woven tile's line */
};

static inline size_t fixed_group_bytes(int columns) { return (size_t)columns * (FIXED_LINE + sizeof(float)); }

static inline size_t fixed_packed_bytes(int columns, int64_t n, int64_t cols)
{
    return (size_t)(ht_ceil_div(n, columns) * ht_ceil_div(cols, FIXED_GROUP)) * fixed_group_bytes(columns);
}

/* Where the group of k begins in the tile of column c. */
static inline size_t fixed_group_at(int columns, int64_t c, int64_t k, int64_t cols)
{
    return (size_t)(c / columns * ht_ceil_div(cols, FIXED_GROUP) + k / FIXED_GROUP) * fixed_group_bytes(columns);
}

/* One column to its place in a tile: q to FIXED_LINE * slot of each group, d to fixed_set_scale. */
typedef void fixed_pack_column(char *tile, int64_t slot, const float *x, int64_t cols);

static inline void fixed_set_scale(int columns, char *group, int64_t slot, float d)
{
    memcpy(group + FIXED_LINE * columns + (int64_t)sizeof(d) * slot, &d, sizeof(d));
}

/* As ht_matmul's pack. */
static inline void fixed_pack(int columns, fixed_pack_column *pack_column, void *packed, const void *x, size_t x_bytes,
                              int64_t begin, int64_t end, int64_t n, int64_t cols)
{
    const int64_t groups = ht_ceil_div(cols, FIXED_GROUP);
    const int64_t padded = begin < end && end == n ? ht_ceil_div(n, columns) * columns : end;
    for (int64_t c = begin; c < padded; c++) {
        char *tile = (char *)packed + fixed_group_at(columns, c, 0, cols);
        int64_t slot = c % columns;
        if (c < end) {
            pack_column(tile, slot, (const float *)(const void *)((const char *)x + (size_t)c * x_bytes), cols);
            continue;
        }
        for (int64_t g = 0; g < groups; g++, tile += fixed_group_bytes(columns)) {
            memset(tile + FIXED_LINE * slot, 0, FIXED_LINE);
            fixed_set_scale(columns, tile, slot, 0);
        }
    }
}

#endif
