/* Q16, a type of KV caches: integers of 14 bits in 16, with an F32 scale a row, laid out for integer multiply-adds.
 *
 *   d = max|x| / 8191    q = x * (8191 / max|x|), rounded once, ties to even    x ~ d q
 *
 * F16 has no finer steps for elements of a quarter of the row's largest and more. Rows are not contiguous: a tile is
 *
 *   float d[HT_KV_TILE];
 *   int16_t q[HT_KV_TILE / 16][e / 2][16][2];   K: block of tokens, pair of elements, token, element of the pair
 *   int16_t q[HT_KV_TILE / 2][e][2];            V: pair of tokens, element, token of the pair
 *
 * so that the lanes of a vector are tokens of K, or elements of V, and what a multiply-add sums is neighbours. e is a multiple
 * of 16.
 */
#ifndef HEARTH_CORE_PORTS_KV_Q16_H
#define HEARTH_CORE_PORTS_KV_Q16_H

#include "core/ports/store.h"

enum {
    HT_Q16_MULTIPLE = 16,    /* of elements of a head */
    HT_Q16_MOST_DIM = 1024,  /* the longest head: more could overflow the sum of a score */
    HT_Q16_TOKENS = 16,      /* of a block of K */
};

static inline size_t ht_q16_row_bytes(int32_t e) { return (size_t)e * sizeof(int16_t) + sizeof(float); }

/* The integers of a tile, behind its scales. */
static inline const int16_t *ht_q16_values(const void *tile)
{
    return (const int16_t *)(const void *)((const float *)tile + HT_KV_TILE);
}

/* Where element i of token t is among the integers of a tile of K, and of V. */
static inline int64_t ht_q16_k_at(int32_t e, int32_t t, int32_t i)
{
    return (((int64_t)(t / HT_Q16_TOKENS) * (e / 2) + i / 2) * HT_Q16_TOKENS + t % HT_Q16_TOKENS) * 2 + i % 2;
}
static inline int64_t ht_q16_v_at(int32_t e, int32_t t, int32_t i) { return ((int64_t)(t / 2) * e + i) * 2 + t % 2; }

#endif
