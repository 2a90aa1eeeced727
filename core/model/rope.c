/* RoPE's frequencies: see rope.h. In double precision; backends compute angles from them. */
#include "core/model/rope.h"

#include <math.h>

/* YaRN (Peng et al. 2023, section 3.2): pair i keeps its frequency where it turns often within the original context
 * (more than beta_fast turns), is slowed by `factor` where it turns seldom (less than beta_slow), with a linear ramp
 * over the pairs between. */
static double yarn_pair(const ht_rope *r, double turns)
{
    return r->dims * log(r->original_context / (turns * 2.0 * 3.14159265358979323846)) / (2.0 * log(r->base));
}

double ht_yarn_magnitude(double factor) { return factor > 1.0 ? 1.0 + 0.1 * log(factor) : 1.0; }

double ht_rope_frequencies(const ht_rope *r, const float *divisors, double *frequency)
{
    double factor = r->scaling == HT_ROPE_NONE || r->factor <= 0.0f ? 1.0 : r->factor, low = 0.0, high = 0.0,
           magnitude = r->attn_factor > 0.0f ? r->attn_factor : 1.0;
    bool yarn = r->scaling == HT_ROPE_YARN && r->ext_factor != 0.0f;

    if (yarn) {
        low = fmax(0.0, floor(yarn_pair(r, r->beta_fast)));
        high = fmin(r->dims - 1.0, ceil(yarn_pair(r, r->beta_slow)));
        magnitude *= ht_yarn_magnitude(factor);
    }
    for (int32_t i = 0; i < r->dims / 2; i++) {
        double f = pow(r->base, -2.0 * i / r->dims);
        if (divisors) f /= divisors[i];
        double kept = yarn ? r->ext_factor * (1.0 - fmin(1.0, fmax(0.0, (i - low) / fmax(0.001, high - low)))) : 0.0;
        frequency[i] = f / factor * (1.0 - kept) + f * kept;
    }
    return magnitude;
}

void ht_rope_local_frequencies(const ht_rope *r, float base, double *frequency)
{
    for (int32_t i = 0; i < r->dims / 2; i++) frequency[i] = pow(base, -2.0 * i / r->dims);
}
