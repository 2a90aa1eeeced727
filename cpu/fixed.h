/* The block class with F16 and BF16 weights, unless x is asked for in full: both in 16-bit fixed point. One multiply-add of
 * 16-bit integers does the products of two in F32.
 *
 * Values are cut into groups, each with a scale:
 *
 *   d = max|v| / 8191    q = v * (8191 / max|v|), rounded once, to the nearest integer, ties to even: |q| <= 8191
 *
 * x in groups of FIXED_GROUP columns, a row of weights in panels of FIXED_PANEL; at a row's end they may be shorter. 32
 * products of such q fit into 31 bits, so the sum of a group is exact. Then, in F32 and in the order of columns:
 *
 *   y = 0;  for each panel:  acc = 0;  for each of its groups:  acc = fma(sum of the products of q, d of x, acc);
 *           y = fma(acc, d of w, y)
 *
 * All levels give these bits (of a NaN, that it is one). Before sums are rounded, a value is off by max|v| / 16382 at most
 * (and by 1e-3 of that, since scales are rounded too). F16 has no finer steps for values of a quarter of the maximum and more.
 *
 * A group with an infinity or a NaN has a NaN for its scale, and so have all results that it enters. A group whose
 * maximum is below 2.4e-35, so that 8191 / max overflows, is zeros. With columns above 1e33 a sum may become infinite before d of
 * w makes it small again.
 */
#ifndef HEARTH_CPU_FIXED_H
#define HEARTH_CPU_FIXED_H

#include <float.h>
#include <math.h>
#include <stdint.h>

#define FIXED_MAX 8191.0f
#define FIXED_MAGIC 0x1.8p23f /* fma(v, 8191 / max, this) holds q in its lower 16 bits */
enum { FIXED_GROUP = 32, FIXED_PANEL = 256 };
_Static_assert(FIXED_GROUP * (int64_t)FIXED_MAX * (int64_t)FIXED_MAX <= INT32_MAX, "the sum of a group fits");

typedef struct fixed_scale { float d, inverse; } fixed_scale;

/* max: the largest |v|; an infinity or a NaN if there is one. */
static inline fixed_scale fixed_scale_of(float max)
{
    fixed_scale s = {max / FIXED_MAX, FIXED_MAX / max};
    if (!(max <= FLT_MAX))
        return (fixed_scale){NAN, 0};
    return s.inverse <= FLT_MAX ? s : (fixed_scale){0, 0};
}

#endif
