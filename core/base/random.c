/* Counter-based random numbers: Philox4x32-10, and how (seed, sequence, position, draw) becomes its counter. */
#include "core/base/random.h"

#include <math.h>

void ht_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3], k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* The seed is the key. 160 bits of (sequence, position, draw) share the 128 of the counter: the upper half of the
 * position lies over the upper half of the draw, so counters differ as long as draws stay below 2^16 or positions
 * below 2^32, and positions below 2^48. */
static void words(uint64_t seed, uint64_t sequence, uint64_t position, uint32_t draw, uint32_t out[4])
{
    const uint32_t counter[4] = {(uint32_t)position, draw ^ ((uint32_t)(position >> 32) << 16), (uint32_t)sequence,
                                 (uint32_t)(sequence >> 32)};
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    ht_philox(counter, key, out);
}

static double unit(uint32_t high, uint32_t low)
{
    return (double)(((uint64_t)high << 32 | low) >> 11) * 0x1p-53;
}

double ht_random_uniform(uint64_t seed, uint64_t sequence, uint64_t position, uint32_t draw)
{
    uint32_t w[4];
    words(seed, sequence, position, draw, w);
    return unit(w[0], w[1]);
}

double ht_random_normal(uint64_t seed, uint64_t sequence, uint64_t position, uint32_t draw)
{
    uint32_t w[4];
    words(seed, sequence, position, draw, w);
    double radius = sqrt(-2.0 * log(1.0 - unit(w[0], w[1]))); /* 1 - u is in (0, 1]: the logarithm is finite */
    return radius * cos(6.283185307179586476925 * unit(w[2], w[3]));
}
