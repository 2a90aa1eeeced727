/* The fixed order of long sums in plain C: sixteen lanes by index, then a tree. Vector twins: ht_tree_sum_* of simd_*.h. */
#ifndef HEARTH_CPU_LANES_H
#define HEARTH_CPU_LANES_H

#define HT_LANES 16

/* Lane j + lane j + 8, then + 4, + 2, + 1; the lanes are used up. */
static inline float ht_tree_sum(float lane[HT_LANES])
{
    for (int half = HT_LANES / 2; half; half /= 2)
        for (int j = 0; j < half; j++) lane[j] += lane[j + half];
    return lane[0];
}

#endif
