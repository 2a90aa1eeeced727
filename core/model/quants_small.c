/* Conversions of the float types and of the blocks of 32. Formulas: blocks.h. */
#include "core/model/quants.h"

#include <string.h>

void ht_dequantize_f32(const void *blocks, float *out, int64_t n)
{
    memcpy(out, blocks, (size_t)n * sizeof *out);
}

void ht_quantize_f32(const float *in, void *blocks, int64_t n)
{
    memcpy(blocks, in, (size_t)n * sizeof *in);
}

void ht_dequantize_f16(const void *blocks, float *out, int64_t n)
{
    const ht_half *h = blocks;
    for (int64_t i = 0; i < n; i++) out[i] = ht_half_to_float(h[i]);
}

void ht_quantize_f16(const float *in, void *blocks, int64_t n)
{
    ht_half *h = blocks;
    for (int64_t i = 0; i < n; i++) h[i] = ht_half_from_float(in[i]);
}

void ht_dequantize_bf16(const void *blocks, float *out, int64_t n)
{
    const ht_bf16 *h = blocks;
    for (int64_t i = 0; i < n; i++) out[i] = ht_bf16_to_float(h[i]);
}

void ht_quantize_bf16(const float *in, void *blocks, int64_t n)
{
    ht_bf16 *h = blocks;
    for (int64_t i = 0; i < n; i++) h[i] = ht_bf16_from_float(in[i]);
}

void ht_dequantize_q8_0(const void *blocks, float *out, int64_t n)
{
    const ht_block_q8_0 *b = blocks;
    for (int64_t k = 0; k < n / HT_QK; k++, b++, out += HT_QK) {
        float d = ht_half_to_float(b->d);
        for (int i = 0; i < HT_QK; i++) out[i] = (float)b->qs[i] * d;
    }
}

void ht_quantize_q8_0(const float *in, void *blocks, int64_t n)
{
    ht_block_q8_0 *b = blocks;
    float x[HT_QK];
    for (int64_t k = 0; k < n / HT_QK; k++, b++, in += HT_QK) {
        ht_fit_load(in, x, HT_QK);
        float amax = 0.0f;
        for (int i = 0; i < HT_QK; i++) amax = fabsf(x[i]) > amax ? fabsf(x[i]) : amax;
        b->d = ht_scale_to_half(amax / 127.0f);
        float inverse = ht_inverse(ht_half_to_float(b->d));
        for (int i = 0; i < HT_QK; i++) b->qs[i] = (int8_t)ht_round_clamp(x[i] * inverse, -127, 127);
    }
}

void ht_dequantize_q4_0(const void *blocks, float *out, int64_t n)
{
    const ht_block_q4_0 *b = blocks;
    for (int64_t k = 0; k < n / HT_QK; k++, b++, out += HT_QK) {
        float d = ht_half_to_float(b->d);
        for (int i = 0; i < 16; i++) {
            out[i] = (float)((b->qs[i] & 15) - 8) * d;
            out[i + 16] = (float)((b->qs[i] >> 4) - 8) * d;
        }
    }
}

void ht_quantize_q4_0(const float *in, void *blocks, int64_t n)
{
    ht_block_q4_0 *b = blocks;
    float x[HT_QK];
    for (int64_t k = 0; k < n / HT_QK; k++, b++, in += HT_QK) {
        ht_fit_load(in, x, HT_QK);
        b->d = ht_scale_to_half(ht_fit_scale(x, HT_QK, -8, 7));
        float inverse = ht_inverse(ht_half_to_float(b->d));
        for (int i = 0; i < 16; i++) {
            int low = ht_round_clamp(x[i] * inverse, -8, 7) + 8;
            int high = ht_round_clamp(x[i + 16] * inverse, -8, 7) + 8;
            b->qs[i] = (uint8_t)(low | high << 4);
        }
    }
}

void ht_dequantize_q4_1(const void *blocks, float *out, int64_t n)
{
    const ht_block_q4_1 *b = blocks;
    for (int64_t k = 0; k < n / HT_QK; k++, b++, out += HT_QK) {
        float d = ht_half_to_float(b->d), m = ht_half_to_float(b->m);
        for (int i = 0; i < 16; i++) {
            out[i] = (float)(b->qs[i] & 15) * d + m;
            out[i + 16] = (float)(b->qs[i] >> 4) * d + m;
        }
    }
}

void ht_quantize_q4_1(const float *in, void *blocks, int64_t n)
{
    ht_block_q4_1 *b = blocks;
    float x[HT_QK], d, m;
    for (int64_t k = 0; k < n / HT_QK; k++, b++, in += HT_QK) {
        ht_fit_load(in, x, HT_QK);
        ht_fit_affine(x, HT_QK, 15, false, &d, &m);
        b->d = ht_scale_to_half(d);
        b->m = ht_scale_to_half(m);
        float inverse = ht_inverse(ht_half_to_float(b->d)), offset = ht_half_to_float(b->m);
        for (int i = 0; i < 16; i++) {
            int low = ht_round_clamp((x[i] - offset) * inverse, 0, 15);
            int high = ht_round_clamp((x[i + 16] - offset) * inverse, 0, 15);
            b->qs[i] = (uint8_t)(low | high << 4);
        }
    }
}

static inline uint32_t load_u32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* Quants of 5 bits: the low four as in Q4_0, the fifth in qh. */
static inline int get5(const uint8_t *qs, uint32_t qh, int i)
{
    int low = i < 16 ? qs[i] & 15 : qs[i - 16] >> 4;
    return low | (int)(qh >> i & 1) << 4;
}

static void put5(const uint8_t *q, uint8_t *qs, uint8_t *qh)
{
    uint32_t bits = 0;
    for (int i = 0; i < HT_QK; i++) bits |= (uint32_t)(q[i] >> 4 & 1) << i;
    for (int i = 0; i < 16; i++) qs[i] = (uint8_t)((q[i] & 15) | (q[i + 16] & 15) << 4);
    for (int i = 0; i < 4; i++) qh[i] = (uint8_t)(bits >> (8 * i));
}

void ht_dequantize_q5_0(const void *blocks, float *out, int64_t n)
{
    const ht_block_q5_0 *b = blocks;
    for (int64_t k = 0; k < n / HT_QK; k++, b++, out += HT_QK) {
        float d = ht_half_to_float(b->d);
        uint32_t qh = load_u32(b->qh);
        for (int i = 0; i < HT_QK; i++) out[i] = (float)(get5(b->qs, qh, i) - 16) * d;
    }
}

void ht_quantize_q5_0(const float *in, void *blocks, int64_t n)
{
    ht_block_q5_0 *b = blocks;
    float x[HT_QK];
    uint8_t q[HT_QK];
    for (int64_t k = 0; k < n / HT_QK; k++, b++, in += HT_QK) {
        ht_fit_load(in, x, HT_QK);
        b->d = ht_scale_to_half(ht_fit_scale(x, HT_QK, -16, 15));
        float inverse = ht_inverse(ht_half_to_float(b->d));
        for (int i = 0; i < HT_QK; i++) q[i] = (uint8_t)(ht_round_clamp(x[i] * inverse, -16, 15) + 16);
        put5(q, b->qs, b->qh);
    }
}

void ht_dequantize_q5_1(const void *blocks, float *out, int64_t n)
{
    const ht_block_q5_1 *b = blocks;
    for (int64_t k = 0; k < n / HT_QK; k++, b++, out += HT_QK) {
        float d = ht_half_to_float(b->d), m = ht_half_to_float(b->m);
        uint32_t qh = load_u32(b->qh);
        for (int i = 0; i < HT_QK; i++) out[i] = (float)get5(b->qs, qh, i) * d + m;
    }
}

void ht_quantize_q5_1(const float *in, void *blocks, int64_t n)
{
    ht_block_q5_1 *b = blocks;
    float x[HT_QK], d, m;
    uint8_t q[HT_QK];
    for (int64_t k = 0; k < n / HT_QK; k++, b++, in += HT_QK) {
        ht_fit_load(in, x, HT_QK);
        ht_fit_affine(x, HT_QK, 31, false, &d, &m);
        b->d = ht_scale_to_half(d);
        b->m = ht_scale_to_half(m);
        float inverse = ht_inverse(ht_half_to_float(b->d)), offset = ht_half_to_float(b->m);
        for (int i = 0; i < HT_QK; i++) q[i] = (uint8_t)ht_round_clamp((x[i] - offset) * inverse, 0, 31);
        put5(q, b->qs, b->qh);
    }
}

void ht_dequantize_iq4_nl(const void *blocks, float *out, int64_t n)
{
    const ht_block_iq4_nl *b = blocks;
    for (int64_t k = 0; k < n / HT_QK; k++, b++, out += HT_QK) {
        float d = ht_half_to_float(b->d);
        for (int i = 0; i < 16; i++) {
            out[i] = d * (float)ht_iq4_values[b->qs[i] & 15];
            out[i + 16] = d * (float)ht_iq4_values[b->qs[i] >> 4];
        }
    }
}

void ht_quantize_iq4_nl(const float *in, void *blocks, int64_t n)
{
    ht_block_iq4_nl *b = blocks;
    float x[HT_QK];
    for (int64_t k = 0; k < n / HT_QK; k++, b++, in += HT_QK) {
        ht_fit_load(in, x, HT_QK);
        b->d = ht_scale_to_half(ht_fit_iq4(x, HT_QK));
        float inverse = ht_inverse(ht_half_to_float(b->d));
        for (int i = 0; i < 16; i++)
            b->qs[i] = (uint8_t)(ht_iq4_nearest(x[i] * inverse) | ht_iq4_nearest(x[i + 16] * inverse) << 4);
    }
}
