/* Costs of passes. */
#include "core/engine/cost.h"

#include <stddef.h>

enum { CHARGE = 16 }; /* columns that a pass costs by itself, as a guess */

static int point_of(int32_t columns)
{
    int32_t octave = HT_COST_EXACT;
    int at = HT_COST_EXACT;

    if (columns <= HT_COST_EXACT) return columns < 0 ? 0 : columns;
    while (columns / 2 >= octave) {
        octave *= 2;
        at += 4;
    }
    return at + 1 + (int)((int64_t)(columns - octave) * 4 / octave);
}

void ht_cost_add(ht_cost *c, int32_t columns, double seconds)
{
    struct ht_cost_point *p = &c->point[point_of(columns)];

    if (p->n >= 4 && seconds > 2 * p->seconds) seconds = 2 * p->seconds; /* somebody else had the machine */
    if (p->n < 8) p->n++;
    p->columns += (columns - p->columns) / p->n;
    p->seconds += (seconds - p->seconds) / p->n;
}

double ht_cost_of(const ht_cost *c, int32_t columns)
{
    const struct ht_cost_point *low = NULL, *high = NULL, *before = NULL; /* known points around, and before low */

    for (int i = 0; i < HT_COST_POINTS && !high; i++) {
        const struct ht_cost_point *p = &c->point[i];
        if (!p->n) continue;
        if (p->columns > columns) high = p;
        else {
            before = low;
            low = p;
        }
    }
    if (!low && !high) return 0;
    if (!low) return high->seconds * (columns + CHARGE) / (high->columns + CHARGE);
    if (high) {
        double slope = (high->seconds - low->seconds) / (high->columns - low->columns);
        return low->seconds + (slope > 0 ? slope : 0) * (columns - low->columns);
    }
    double slope = before ? (low->seconds - before->seconds) / (low->columns - before->columns) : 0;
    if (!before || slope < 0) slope = low->seconds / (low->columns + CHARGE);
    return low->seconds + slope * (columns - low->columns);
}
