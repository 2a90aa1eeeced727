/* Attention over a KV tile: the scalar references. Ground truth for attend_avx2.c and attend_avx512.c, which give the
 * same bits (the order of sums is in kernels.h).
 */
#include "core/base/math.h"
#include "core/ports/store.h"
#include "cpu/kernels.h"
#include "cpu/lanes.h"

#include <math.h>
#include <string.h>

#define MAX_PIECE 256 /* elements of a row that are expanded at once; a multiple of every block length */

static void scores_ref(ht_type type, float *s, const float *q, int64_t q_stride, int32_t m, const void *k,
                       size_t k_row_bytes, int32_t head_dim, int32_t begin, int32_t end)
{
    const ht_type_info *info = ht_type_get(type);
    float row[MAX_PIECE];

    for (int32_t i = 0; i < m; i++)
        for (int32_t t = begin; t < end; t++) {
            const char *kt = (const char *)k + (size_t)t * k_row_bytes;
            float lane[HT_LANES] = {0};
            for (int32_t e = 0; e < head_dim; e += MAX_PIECE) {
                int32_t n = head_dim - e < MAX_PIECE ? head_dim - e : MAX_PIECE;
                info->dequantize(kt + ht_row_bytes(info, e), row, n);
                for (int32_t j = 0; j < n; j++)
                    lane[j % HT_LANES] = ht_fmaf(q[i * q_stride + e + j], row[j], lane[j % HT_LANES]);
            }
            s[i * HT_KV_TILE + t] = ht_tree_sum(lane);
        }
}

static void softmax_ref(float *s, int32_t m, float scale, const int32_t *first, const int32_t *limit, float *max,
                        float *sum, float *carry, const ht_attend_next *next)
{
    (void)next;
    for (int32_t i = 0; i < m; i++, s += HT_KV_TILE) {
        float lane[HT_LANES] = {0}, top = max[i];

        for (int32_t t = first[i]; t < limit[i]; t++) {
            s[t] *= scale;
            if (s[t] > top) top = s[t];
        }
        for (int32_t t = 0; t < HT_KV_TILE; t++) {
            s[t] = t >= first[i] && t < limit[i] ? ht_expf(s[t] - top) : 0.0f;
            lane[t % HT_LANES] += s[t];
        }
        carry[i] = 1.0f;
        if (first[i] >= limit[i]) continue; /* also keeps -inf - -inf away */
        carry[i] = ht_expf(max[i] - top);
        sum[i] = ht_fmaf(sum[i], carry[i], ht_tree_sum(lane));
        max[i] = top;
    }
}

static void mix_ref(ht_type type, float *acc, int64_t acc_stride, const float *s, const float *carry, int32_t m,
                    const void *v, size_t v_row_bytes, int32_t head_dim, int32_t begin, int32_t end)
{
    const ht_type_info *info = ht_type_get(type);
    float row[MAX_PIECE];

    for (int32_t i = 0; i < m; i++) {
        for (int32_t e = 0; e < head_dim; e++) acc[i * acc_stride + e] *= carry[i];
        for (int32_t t = begin; t < end; t++) {
            const char *vt = (const char *)v + (size_t)t * v_row_bytes;
            for (int32_t e = 0; e < head_dim; e += MAX_PIECE) {
                int32_t n = head_dim - e < MAX_PIECE ? head_dim - e : MAX_PIECE;
                float *a = acc + i * acc_stride + e;
                info->dequantize(vt + ht_row_bytes(info, e), row, n);
                for (int32_t j = 0; j < n; j++) a[j] = ht_fmaf(s[i * HT_KV_TILE + t], row[j], a[j]);
            }
        }
    }
}

/* The references know the type from the function they are called by. */
#define ATTEND_REF(name, type)                                                                                       \
    static void scores_##name##_ref(float *s, const void *q, size_t q_bytes, int32_t m, const void *k,               \
                                    size_t row_bytes, int32_t head_dim, int32_t begin, int32_t end,                  \
                                    const ht_attend_next *next)                                                      \
    {                                                                                                                \
        (void)next;                                                                                                  \
        scores_ref(type, s, q, (int64_t)(q_bytes / sizeof(float)), m, k, row_bytes, head_dim, begin, end);           \
    }                                                                                                                \
    static void mix_##name##_ref(float *acc, int64_t acc_stride, const float *s, const float *carry, int32_t m,      \
                                 const void *v, size_t row_bytes, int32_t head_dim, int32_t begin, int32_t end,      \
                                 const ht_attend_next *next)                                                         \
    {                                                                                                                \
        (void)next;                                                                                                  \
        mix_ref(type, acc, acc_stride, s, carry, m, v, row_bytes, head_dim, begin, end);                             \
    }
ATTEND_REF(f32, HT_F32)
ATTEND_REF(f16, HT_F16)
ATTEND_REF(q8_0, HT_Q8_0)
ATTEND_REF(q4_0, HT_Q4_0)

void ht_kernels_attend_ref(ht_kernels *k)
{
    k->attend_softmax = softmax_ref;
    k->attend_scores[HT_F32] = scores_f32_ref;
    k->attend_scores[HT_F16] = scores_f16_ref;
    k->attend_scores[HT_Q8_0] = scores_q8_0_ref;
    k->attend_scores[HT_Q4_0] = scores_q4_0_ref;
    k->attend_mix[HT_F32] = mix_f32_ref;
    k->attend_mix[HT_F16] = mix_f16_ref;
    k->attend_mix[HT_Q8_0] = mix_q8_0_ref;
    k->attend_mix[HT_Q4_0] = mix_q4_0_ref;
}
