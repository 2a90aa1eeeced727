/* The table of block types, and the conversions of single numbers that all devices agree on bit for bit. What is
 * inside the blocks is in quants_*.c. */
#include "core/model/types.h"

#include "core/model/quants.h"

#include <math.h>
#include <string.h>
#include <strings.h>

#define ENTRY(ID, NAME, LEN, BYTES, fn) [ID] = {NAME, LEN, BYTES, ht_dequantize_##fn, ht_quantize_##fn}
static const ht_type_info table[HT_TYPE_COUNT] = {
    ENTRY(HT_F32, "F32", 1, 4, f32),
    ENTRY(HT_F16, "F16", 1, 2, f16),
    ENTRY(HT_BF16, "BF16", 1, 2, bf16),
    ENTRY(HT_Q8_0, "Q8_0", HT_QK, sizeof(ht_block_q8_0), q8_0),
    ENTRY(HT_Q4_0, "Q4_0", HT_QK, sizeof(ht_block_q4_0), q4_0),
    ENTRY(HT_Q4_1, "Q4_1", HT_QK, sizeof(ht_block_q4_1), q4_1),
    ENTRY(HT_Q5_0, "Q5_0", HT_QK, sizeof(ht_block_q5_0), q5_0),
    ENTRY(HT_Q5_1, "Q5_1", HT_QK, sizeof(ht_block_q5_1), q5_1),
    ENTRY(HT_IQ4_NL, "IQ4_NL", HT_QK, sizeof(ht_block_iq4_nl), iq4_nl),
    ENTRY(HT_Q2_K, "Q2_K", HT_QK_K, sizeof(ht_block_q2_k), q2_k),
    ENTRY(HT_Q3_K, "Q3_K", HT_QK_K, sizeof(ht_block_q3_k), q3_k),
    ENTRY(HT_Q4_K, "Q4_K", HT_QK_K, sizeof(ht_block_q4_k), q4_k),
    ENTRY(HT_Q5_K, "Q5_K", HT_QK_K, sizeof(ht_block_q5_k), q5_k),
    ENTRY(HT_Q6_K, "Q6_K", HT_QK_K, sizeof(ht_block_q6_k), q6_k),
    ENTRY(HT_IQ4_XS, "IQ4_XS", HT_QK_K, sizeof(ht_block_iq4_xs), iq4_xs),
};

const int8_t ht_iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

const ht_type_info *ht_type_get(uint32_t id)
{
    return id < HT_TYPE_COUNT && table[id].name ? &table[id] : NULL;
}

bool ht_type_by_name(const char *name, ht_type *out)
{
    for (uint32_t id = 0; id < HT_TYPE_COUNT; id++) {
        if (!table[id].name || strcasecmp(table[id].name, name) != 0) continue;
        *out = (ht_type)id;
        return true;
    }
    return false;
}

void ht_act_quantize(const float *x, void *row, int64_t cols)
{
    int8_t *q = row;
    float *scale = (float *)(void *)(q + cols), *sum = scale + cols / HT_QK;
    for (int64_t b = 0; b < cols / HT_QK; b++, x += HT_QK, q += HT_QK) {
        float amax = 0.0f;
        bool finite = true;
        for (int i = 0; i < HT_QK; i++) {
            amax = fabsf(x[i]) > amax ? fabsf(x[i]) : amax;
            finite = finite && isfinite(x[i]);
        }
        if (!finite || amax < HT_ACT_TINY) {
            memset(q, 0, HT_QK);
            scale[b] = sum[b] = finite ? 0.0f : NAN;
            continue;
        }
        float inverse = 127.0f / amax;
        int32_t total = 0;
        for (int i = 0; i < HT_QK; i++) {
            q[i] = (int8_t)lrintf(x[i] * inverse); /* the rounding mode is to nearest even */
            total += q[i];
        }
        scale[b] = amax / 127.0f;
        sum[b] = scale[b] * (float)total;
    }
}

static inline float from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static inline uint32_t to_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

float ht_half_to_float(ht_half h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 0x3ff;
    if (exponent == 31) /* infinity; NaN keeps its payload and becomes quiet, as F16C does it */
        return from_bits(sign | 0x7f800000u | mantissa << 13 | (mantissa ? 0x400000u : 0u));
    if (exponent == 0) { /* subnormal: mantissa * 2^-24, exact in binary32 */
        float value = (float)mantissa * 0x1p-24f;
        return from_bits(sign | to_bits(value));
    }
    return from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
}

ht_half ht_half_from_float(float f)
{
    uint32_t u = to_bits(f), sign = (u >> 16) & 0x8000, a = u & 0x7fffffffu;
    if (a > 0x7f800000u) return (ht_half)(sign | 0x7e00 | (a >> 13 & 0x1ff));      /* NaN, made quiet */
    if (a >= 0x477ff000u) return (ht_half)(sign | 0x7c00);                         /* rounds to infinity */
    if (a < 0x38800000u) {                                                         /* subnormal or zero */
        /* Adding 0.5 puts the last bit of binary16 at the last bit of binary32: the adder rounds for us. */
        uint32_t rounded = to_bits(from_bits(a) + 0.5f) - to_bits(0.5f);
        return (ht_half)(sign | rounded);
    }
    uint32_t odd = (a >> 13) & 1;
    return (ht_half)(sign | (a - 0x38000000u + 0xfff + odd) >> 13);
}

ht_bf16 ht_bf16_from_float(float f)
{
    uint32_t u = to_bits(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (ht_bf16)(u >> 16 | 0x40);
    return (ht_bf16)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}
