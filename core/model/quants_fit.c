/* The searches for scales that the quantisers share. A scale is not just the largest weight divided by the largest
 * quant: a slightly smaller or larger one often has less squared error, so a few are tried, each improved by the
 * least-squares solution for the quants it leads to. Deterministic: sums run in index order in double. */
#include "core/model/quants.h"

#include <float.h>

#define TRIES 19           /* candidates per fit: the extreme quant moved by -0.9 .. 0.9 in steps of 0.1 */
#define TINY 1e-20f        /* below it any F16 scale is zero */
#define LARGEST 1e9f       /* above the largest weight of any block type (Q6_K: 65504 * 128 * 32) */

void ht_fit_load(const float *in, float *x, int n)
{
    for (int i = 0; i < n; i++) x[i] = in[i] > LARGEST ? LARGEST : in[i] < -LARGEST ? -LARGEST : in[i];
}

/* The element of the largest magnitude, with its sign. */
static float extreme(const float *x, int n)
{
    float best = 0.0f;
    for (int i = 0; i < n; i++)
        if (fabsf(x[i]) > fabsf(best)) best = x[i];
    return best;
}

float ht_fit_scale(const float *x, int n, int qmin, int qmax)
{
    float peak = extreme(x, n), best_scale = 0.0f;
    if (fabsf(peak) < TINY) return 0.0f;
    double best_gain = -1.0;
    for (int k = 0; k < TRIES; k++) {
        float inverse = ((float)qmin + 0.1f * (float)(k - TRIES / 2)) / peak;
        double xq = 0.0, qq = 0.0;
        for (int i = 0; i < n; i++) {
            int q = ht_round_clamp(x[i] * inverse, qmin, qmax);
            xq += (double)x[i] * q;
            qq += (double)(q * q);
        }
        /* With d = xq / qq the squared error is sum(x^2) - xq^2 / qq. */
        double gain = qq > 0.0 ? xq * xq / qq : -1.0;
        if (gain <= best_gain) continue;
        best_gain = gain;
        best_scale = (float)(xq / qq);
    }
    return best_scale;
}

/* Least squares for fixed quants: fills d and m, returns the squared error. */
static double solve_affine(const float *x, const uint8_t *q, int n, float low, bool minimum_only, double *d, double *m)
{
    double sx = 0.0, sq = 0.0, sqq = 0.0, sxq = 0.0;
    for (int i = 0; i < n; i++) {
        sx += x[i];
        sq += q[i];
        sqq += (double)q[i] * q[i];
        sxq += (double)x[i] * q[i];
    }
    double det = n * sqq - sq * sq;
    if (det > 0.0) {
        *d = (n * sxq - sx * sq) / det;
        *m = (sqq * sx - sq * sxq) / det;
    } else { /* all quants are equal */
        *m = low;
        *d = sqq > 0.0 ? (sxq - low * sq) / sqq : 0.0;
    }
    if (minimum_only && *m > 0.0) {
        *m = 0.0;
        *d = sqq > 0.0 ? sxq / sqq : 0.0;
    }
    double error = 0.0;
    for (int i = 0; i < n; i++) {
        double e = *d * q[i] + *m - x[i];
        error += e * e;
    }
    return error;
}

void ht_fit_affine(const float *x, int n, int qmax, bool minimum_only, float *d, float *m)
{
    float low = x[0], high = x[0];
    for (int i = 1; i < n; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    if (minimum_only && low > 0.0f) low = 0.0f;
    *d = 0.0f;
    *m = low;
    if (high - low < TINY) return;
    double best = DBL_MAX;
    for (int k = 0; k < TRIES; k++) {
        uint8_t q[HT_QK_K];
        float inverse = ((float)qmax + 0.1f * (float)(k - TRIES / 2)) / (high - low);
        for (int i = 0; i < n; i++) q[i] = (uint8_t)ht_round_clamp((x[i] - low) * inverse, 0, qmax);
        double scale, offset, error = solve_affine(x, q, n, low, minimum_only, &scale, &offset);
        if (error >= best) continue;
        best = error;
        *d = (float)scale;
        *m = (float)offset;
    }
}

int ht_iq4_nearest(float v)
{
    int low = 0, high = 15; /* levels ascend */
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (v < (float)ht_iq4_values[middle]) high = middle;
        else low = middle;
    }
    return v - (float)ht_iq4_values[low] <= (float)ht_iq4_values[high] - v ? low : high;
}

float ht_fit_iq4(const float *x, int n)
{
    float peak = extreme(x, n), best_scale = 0.0f;
    if (fabsf(peak) < TINY) return 0.0f;
    double best_gain = -1.0;
    for (int k = -9; k <= 9; k++) {
        for (int sign = 0; sign < 2; sign++) { /* the levels are not symmetric: the peak may go to either end */
            float inverse = (float)(ht_iq4_values[sign ? 15 : 0] + 2 * k) / peak;
            double xq = 0.0, qq = 0.0;
            for (int i = 0; i < n; i++) {
                double level = ht_iq4_values[ht_iq4_nearest(x[i] * inverse)];
                xq += x[i] * level;
                qq += level * level;
            }
            double gain = xq * xq / qq; /* no level is 0 */
            if (gain <= best_gain) continue;
            best_gain = gain;
            best_scale = (float)(xq / qq);
        }
    }
    return best_scale;
}
