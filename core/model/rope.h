/* By which angles RoPE turns: what a model says of bases and longer contexts, in one place for all backends. */
#ifndef HEARTH_CORE_MODEL_ROPE_H
#define HEARTH_CORE_MODEL_ROPE_H

#include "core/model/model.h"

/* What YaRN multiplies cos and sin by for a context `factor` times as long, unless a model says otherwise. */
double ht_yarn_magnitude(double factor);
/* frequency[0, dims / 2) = the angle per position of each pair, base^(-2i / dims) / divisors[i], stretched for long contexts
 * as the model says. divisors: [dims / 2] or NULL. Returns what cos and sin are multiplied by. */
double ht_rope_frequencies(const ht_rope *rope, const float *divisors, double *frequency);
/* The same of layers with a base of their own: neither divided nor stretched, and not multiplied. */
void ht_rope_local_frequencies(const ht_rope *rope, float base, double *frequency);

#endif
