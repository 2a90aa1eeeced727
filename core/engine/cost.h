/* What a pass costs, by how many columns it has: measured while the engine works, for decisions about speed. No result
 * may depend on it.
 */
#ifndef HEARTH_CORE_ENGINE_COST_H
#define HEARTH_CORE_ENGINE_COST_H

#include <stdint.h>

/* Exact up to HT_COST_EXACT columns, then four points an octave. */
enum { HT_COST_EXACT = 16, HT_COST_POINTS = HT_COST_EXACT + 1 + 4 * 28 };

typedef struct ht_cost {
    struct ht_cost_point { double columns, seconds; int32_t n; } point[HT_COST_POINTS]; /* means; n: measurements */
} ht_cost;

void ht_cost_add(ht_cost *c, int32_t columns, double seconds);
/* Expected seconds: straight lines through what was measured, never falling; where there is nothing to go by, a pass is
 * taken to cost as much as 16 columns more. 0: nothing was measured. */
double ht_cost_of(const ht_cost *c, int32_t columns);

#endif
