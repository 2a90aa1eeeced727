/* Inside of the block types: the conversions that the table in types.c names, and the scale searches they share.
 * Not included outside core/model. */
#ifndef HEARTH_CORE_MODEL_QUANTS_H
#define HEARTH_CORE_MODEL_QUANTS_H

#include "core/model/types.h"

#include <math.h>

#define HT_DECLARE_QUANT(name)                                                                                         \
    void ht_dequantize_##name(const void *blocks, float *out, int64_t n);                                              \
    void ht_quantize_##name(const float *in, void *blocks, int64_t n);
HT_DECLARE_QUANT(f32)
HT_DECLARE_QUANT(f16)
HT_DECLARE_QUANT(bf16)
HT_DECLARE_QUANT(q8_0)
HT_DECLARE_QUANT(q4_0)
HT_DECLARE_QUANT(q4_1)
HT_DECLARE_QUANT(q5_0)
HT_DECLARE_QUANT(q5_1)
HT_DECLARE_QUANT(q2_k)
HT_DECLARE_QUANT(q3_k)
HT_DECLARE_QUANT(q4_k)
HT_DECLARE_QUANT(q5_k)
HT_DECLARE_QUANT(q6_k)
HT_DECLARE_QUANT(iq4_nl)
HT_DECLARE_QUANT(iq4_xs)
#undef HT_DECLARE_QUANT

/* ---- scale searches (quants_fit.c): all minimise the plain squared error over x[0, n), n <= 256 ---- */

/* d of x ~= d * q, q in [qmin, qmax] with -qmin >= qmax. 0 where all of x is (next to) zero. */
float ht_fit_scale(const float *x, int n, int qmin, int qmax);
/* d and m of x ~= d * q + m, q in [0, qmax]. With `minimum_only`, m <= 0. */
void ht_fit_affine(const float *x, int n, int qmax, bool minimum_only, float *d, float *m);
/* d of x ~= d * ht_iq4_values[q]. */
float ht_fit_iq4(const float *x, int n);
/* The level nearest to v (in units of the table). */
int ht_iq4_nearest(float v);

/* Copy a block, cutting what no block type could hold anyway, so that no sum overflows. */
void ht_fit_load(const float *in, float *x, int n);

/* A scale as the file will hold it: rounded to F16, cut to its finite range. */
static inline ht_half ht_scale_to_half(float d)
{
    return ht_half_from_float(d > 65504.0f ? 65504.0f : d < -65504.0f ? -65504.0f : d);
}

/* round-to-nearest-even(v) cut to [lo, hi]; NaN gives lo. */
static inline int ht_round_clamp(float v, int lo, int hi)
{
    if (!(v > (float)lo)) return lo;
    if (v > (float)hi) return hi;
    return (int)lrintf(v);
}

/* 1 / d, or 0 where there is no scale. */
static inline float ht_inverse(float d)
{
    return d != 0.0f ? 1.0f / d : 0.0f;
}

/* ---- packed 6-bit scales ---- */

/* Scale and minimum j < 8 of Q4_K and Q5_K. */
static inline void ht_k4_get(const uint8_t *packed, int j, int *scale, int *minimum)
{
    if (j < 4) {
        *scale = packed[j] & 63;
        *minimum = packed[j + 4] & 63;
    } else {
        *scale = (packed[j + 4] & 15) | (packed[j - 4] >> 6) << 4;
        *minimum = packed[j + 4] >> 4 | (packed[j] >> 6) << 4;
    }
}
/* Scale j < 16 of Q3_K, biased by 32. */
static inline int ht_q3_k_scale(const uint8_t *packed, int j)
{
    int low = j < 8 ? packed[j] & 15 : packed[j - 8] >> 4;
    return low | ((packed[8 + j % 4] >> (2 * (j / 4))) & 3) << 4;
}
/* Scale j < 8 of IQ4_XS, biased by 32. */
static inline int ht_iq4_xs_scale(const ht_block_iq4_xs *b, int j)
{
    return ((b->scales_l[j / 2] >> (4 * (j % 2))) & 15) | ((b->scales_h >> (2 * j)) & 3) << 4;
}

#endif
