/* Attention over tiles in Q16 (core/ports/kv_q16.h): queries, and the weights of the softmax, are rounded to 16 bits too, so
 * that all sums of products are exact integers. With many query rows a KV head, attention is bound by arithmetic, and one
 * multiply-add of 16-bit integers does the products of two in F32, with nothing to convert.
 *
 *   query    d = max(max|q| / 32767, sum|q| / Q16_SUM)     r = q / d, rounded once, ties to even
 *   scores   s[t] = (sum_e r[e] k[t][e]) * (d * d_k[t])
 *   mix      w[t] = s[t] * d_v[t], rounded like a query: d, r;     acc[e] = fma(sum_t r[t] v[t][e], d, acc[e] * carry)
 *
 * All levels give these bits (of a NaN, that it is one). sum|q| and sum w are made in 16 lanes (index mod 16), then a tree.
 * An infinity or a NaN makes its row of K or V NaN, and so all that it enters; so does a row of queries or weights whose
 * magnitudes sum up to infinity. A row of K or V whose largest element is below 2.4e-35 is zeros, and a row of queries or
 * weights whose d is below 2.9e-39, for then 1 / d overflows: V below about 1e-31 adds nothing.
 */
#ifndef HEARTH_CPU_ATTEND_Q16_H
#define HEARTH_CPU_ATTEND_Q16_H

#include "core/ports/kv_q16.h"
#include "cpu/fixed.h"
#include "cpu/kernels.h"

#include <string.h>

/* Rounding adds at most one half to each element, and the divisions less than 1e-5 of the sum. */
enum { Q16_SUM = 261600 };
_Static_assert((Q16_SUM + Q16_SUM / 10000 + HT_Q16_MOST_DIM / 2) * (int64_t)FIXED_MAX <= INT32_MAX, "a sum of products fits");

/* Of a row of queries or weights, from the largest magnitude and the sum of magnitudes. */
static inline fixed_scale q16_scale_of(float max, float sum)
{
    float by_max = max * (1.0f / INT16_MAX), d = sum * (1.0f / Q16_SUM);
    if (by_max > d) d = by_max;
    fixed_scale s = {d, 1.0f / d};
    if (!(sum <= FLT_MAX)) return (fixed_scale){NAN, 0};
    return s.inverse <= FLT_MAX ? s : (fixed_scale){0, 0};
}

/* A row of queries: (e) int16_t, float d. */
static inline const int16_t *q16_query(const void *q, size_t q_bytes, int32_t i)
{
    return (const int16_t *)(const void *)((const char *)q + (size_t)i * q_bytes);
}
static inline float q16_query_scale(const int16_t *row, int32_t e) { return *(const float *)(const void *)(row + e); }

/* A row of weights. */
typedef struct q16_weights { int16_t q[HT_KV_TILE]; float d; } q16_weights;

/* The rounded row t of K or V into its tile. */
static inline void q16_place_k(void *tile, int32_t t, int32_t e, const int16_t *q, float d)
{
    float *scales = tile;
    int16_t *values = (int16_t *)(void *)(scales + HT_KV_TILE);
    scales[t] = d;
    for (int32_t i = 0; i < e; i += 2) memcpy(values + ht_q16_k_at(e, t, i), q + i, 2 * sizeof(*q));
}
static inline void q16_place_v(void *tile, int32_t t, int32_t e, const int16_t *q, float d)
{
    float *scales = tile;
    int16_t *values = (int16_t *)(void *)(scales + HT_KV_TILE);
    scales[t] = d;
    for (int32_t i = 0; i < e; i++) values[ht_q16_v_at(e, t, i)] = q[i];
}

/* The entries of a level's largest_of(), sum_of() and round_row(). */
#define Q16_ROW_ENTRIES                                                                                              \
    static void query(const float *q, void *row, int32_t e)                                                          \
    {                                                                                                                \
        fixed_scale s = q16_scale_of(largest_of(q, e), sum_of(q, e));                                                \
        round_row(q, e, s.inverse, row);                                                                             \
        *(float *)(void *)((int16_t *)row + e) = s.d;                                                                \
    }                                                                                                                \
    static float round_stored(const float *in, int32_t n, int16_t *q)                                                \
    {                                                                                                                \
        fixed_scale s = fixed_scale_of(largest_of(in, n));                                                           \
        round_row(in, n, s.inverse, q);                                                                              \
        return s.d;                                                                                                  \
    }                                                                                                                \
    static void store_k(const float *in, void *tile, int32_t t, int64_t n)                                           \
    {                                                                                                                \
        int16_t q[HT_Q16_MOST_DIM];                                                                                  \
        q16_place_k(tile, t, (int32_t)n, q, round_stored(in, (int32_t)n, q));                                        \
    }                                                                                                                \
    static void store_v(const float *in, void *tile, int32_t t, int64_t n)                                           \
    {                                                                                                                \
        int16_t q[HT_Q16_MOST_DIM];                                                                                  \
        q16_place_v(tile, t, (int32_t)n, q, round_stored(in, (int32_t)n, q));                                        \
    }

#define Q16_FILL(k)                                                                                                  \
    ((k)->attend_query[HT_Q16] = query, (k)->attend_scores[HT_Q16] = scores, (k)->attend_mix[HT_Q16] = mix,         \
     (k)->kv_store[HT_Q16][0] = store_k, (k)->kv_store[HT_Q16][1] = store_v)

#endif
