/* Counter-based random numbers: a pure function of (seed, sequence, position, draw), so a token's luck does not
 * depend on what else is in the batch, nor on how often the process was restarted. */
#ifndef HEARTH_CORE_BASE_RANDOM_H
#define HEARTH_CORE_BASE_RANDOM_H

#include <stdint.h>

/* Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11): 128 bits of counter, 64
 * bits of key, 128 bits out. Matches the Random123 known-answer vectors. */
void ht_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* Uniform in [0, 1), 53 bits. */
double ht_random_uniform(uint64_t seed, uint64_t sequence, uint64_t position, uint32_t draw);

/* Standard normal (Box-Muller on two uniforms of the same position). */
double ht_random_normal(uint64_t seed, uint64_t sequence, uint64_t position, uint32_t draw);

#endif
