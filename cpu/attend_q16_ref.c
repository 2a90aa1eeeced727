/* Attention over a KV tile in Q16: the scalar reference. */
#include "core/base/math.h"
#include "cpu/attend_q16.h"
#include "cpu/lanes.h"

/* As integers, since the larger bits of an infinity or a NaN shall win. */
static float largest_of(const float *v, int32_t n)
{
    uint32_t bits, most = 0;
    float max;

    for (int32_t i = 0; i < n; i++) {
        memcpy(&bits, v + i, sizeof(bits));
        bits &= INT32_MAX;
        if (bits > most) most = bits;
    }
    memcpy(&max, &most, sizeof(max));
    return max;
}

static float sum_of(const float *v, int32_t n)
{
    float lane[HT_LANES] = {0};
    for (int32_t i = 0; i < n; i++) lane[i % HT_LANES] += fabsf(v[i]);
    return ht_tree_sum(lane);
}

static void round_row(const float *v, int32_t n, float inverse, int16_t *out)
{
    uint32_t bits;

    for (int32_t i = 0; i < n; i++) {
        float rounded = ht_fmaf(v[i], inverse, FIXED_MAGIC);
        memcpy(&bits, &rounded, sizeof(bits));
        out[i] = (int16_t)(uint16_t)bits;
    }
}

Q16_ROW_ENTRIES

static void scores(float *s, const void *q, size_t q_bytes, int32_t m, const void *k, size_t row_bytes, int32_t head_dim,
                   int32_t begin, int32_t end, const ht_attend_next *next)
{
    const float *d = k;
    const int16_t *values = ht_q16_values(k);

    (void)row_bytes, (void)next;
    for (int32_t i = 0; i < m; i++) {
        const int16_t *qi = q16_query(q, q_bytes, i);
        float qd = q16_query_scale(qi, head_dim);
        for (int32_t t = begin; t < end; t++) {
            uint32_t sum = 0; /* of what a NaN left it may overflow */
            for (int32_t e = 0; e < head_dim; e++) sum += (uint32_t)(qi[e] * values[ht_q16_k_at(head_dim, t, e)]);
            s[i * HT_KV_TILE + t] = (float)(int32_t)sum * (qd * d[t]);
        }
    }
}

static void mix(float *acc, int64_t acc_stride, const float *s, const float *carry, int32_t m, const void *v,
                size_t row_bytes, int32_t head_dim, int32_t begin, int32_t end, const ht_attend_next *next)
{
    const float *d = v;
    const int16_t *values = ht_q16_values(v);

    (void)row_bytes, (void)next;
    for (int32_t i = 0; i < m; i++, s += HT_KV_TILE, acc += acc_stride) {
        float w[HT_KV_TILE] = {0};
        int16_t q[HT_KV_TILE];
        for (int32_t t = begin; t < end; t++) w[t] = s[t] * d[t];
        fixed_scale scale = q16_scale_of(largest_of(w, HT_KV_TILE), sum_of(w, HT_KV_TILE));
        round_row(w, HT_KV_TILE, scale.inverse, q);
        for (int32_t e = 0; e < head_dim; e++) {
            uint32_t sum = 0;
            for (int32_t t = begin; t < end; t++) sum += (uint32_t)(q[t] * values[ht_q16_v_at(head_dim, t, e)]);
            acc[e] = ht_fmaf((float)(int32_t)sum, scale.d, acc[e] * carry[i]);
        }
    }
}

void ht_kernels_attend_q16_ref(ht_kernels *k) { Q16_FILL(k); }
