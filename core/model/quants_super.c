/* Dequantisation of the super-blocks of 256 (Q2_K .. Q6_K, IQ4_XS). Formulas: blocks.h; element order: the GGUF
 * specification. Each product is rounded as written: scale times super-scale first, then times the quant. */
#include "core/model/quants.h"

/* Q2_K and Q3_K hold two halves of 128; in a half, byte l < 32 has elements l, l + 32, l + 64, l + 96, two bits
 * each from the lowest up. */
static inline int get2(const uint8_t *qs, int i)
{
    return qs[i / 128 * 32 + i % 32] >> (2 * (i % 128 / 32)) & 3;
}

void ht_dequantize_q2_k(const void *blocks, float *out, int64_t n)
{
    const ht_block_q2_k *b = blocks;
    for (int64_t k = 0; k < n / HT_QK_K; k++, b++, out += HT_QK_K) {
        float d = ht_half_to_float(b->d), dmin = ht_half_to_float(b->dmin);
        for (int i = 0; i < HT_QK_K; i++) {
            int s = b->scales[i / 16];
            out[i] = d * (float)(s & 15) * (float)get2(b->qs, i) - dmin * (float)(s >> 4);
        }
    }
}

void ht_dequantize_q3_k(const void *blocks, float *out, int64_t n)
{
    const ht_block_q3_k *b = blocks;
    for (int64_t k = 0; k < n / HT_QK_K; k++, b++, out += HT_QK_K) {
        float d = ht_half_to_float(b->d);
        for (int i = 0; i < HT_QK_K; i++) {
            int high = b->hmask[i % 32] >> (i / 32) & 1;
            out[i] = d * (float)(ht_q3_k_scale(b->scales, i / 16) - 32) * (float)(get2(b->qs, i) - (high ? 0 : 4));
        }
    }
}

/* Q4_K and Q5_K: group g < 4 of 64 elements has its first 32 in the low nibbles, the next 32 in the high ones. */
void ht_dequantize_q4_k(const void *blocks, float *out, int64_t n)
{
    const ht_block_q4_k *b = blocks;
    for (int64_t k = 0; k < n / HT_QK_K; k++, b++) {
        float d = ht_half_to_float(b->d), dmin = ht_half_to_float(b->dmin);
        for (int j = 0; j < 8; j++, out += 32) {
            int s, m;
            ht_k4_get(b->scales, j, &s, &m);
            float scale = d * (float)s, offset = dmin * (float)m;
            const uint8_t *qs = b->qs + j / 2 * 32;
            for (int i = 0; i < 32; i++) out[i] = scale * (float)(qs[i] >> (4 * (j % 2)) & 15) - offset;
        }
    }
}

void ht_dequantize_q5_k(const void *blocks, float *out, int64_t n)
{
    const ht_block_q5_k *b = blocks;
    for (int64_t k = 0; k < n / HT_QK_K; k++, b++) {
        float d = ht_half_to_float(b->d), dmin = ht_half_to_float(b->dmin);
        for (int j = 0; j < 8; j++, out += 32) {
            int s, m;
            ht_k4_get(b->scales, j, &s, &m);
            float scale = d * (float)s, offset = dmin * (float)m;
            const uint8_t *qs = b->qs + j / 2 * 32;
            for (int i = 0; i < 32; i++) {
                int q = (qs[i] >> (4 * (j % 2)) & 15) | (b->qh[i] >> j & 1) << 4;
                out[i] = scale * (float)q - offset;
            }
        }
    }
}

/* Q6_K: two halves of 128; in a half, quarter c of 32 has its low nibbles in ql[32 * (c % 2) ..] (low nibbles for
 * c < 2, high ones after) and its upper bits at bit 2c of qh. */
void ht_dequantize_q6_k(const void *blocks, float *out, int64_t n)
{
    const ht_block_q6_k *b = blocks;
    for (int64_t k = 0; k < n / HT_QK_K; k++, b++) {
        float d = ht_half_to_float(b->d);
        for (int c = 0; c < 8; c++, out += 32) {
            const uint8_t *ql = b->ql + c / 4 * 64 + c % 2 * 32, *qh = b->qh + c / 4 * 32;
            for (int i = 0; i < 32; i++) {
                int q = (ql[i] >> (c % 4 / 2 * 4) & 15) | (qh[i] >> (2 * (c % 4)) & 3) << 4;
                out[i] = d * (float)b->scales[2 * c + i / 16] * (float)(q - 32);
            }
        }
    }
}

void ht_dequantize_iq4_xs(const void *blocks, float *out, int64_t n)
{
    const ht_block_iq4_xs *b = blocks;
    for (int64_t k = 0; k < n / HT_QK_K; k++, b++) {
        float d = ht_half_to_float(b->d);
        for (int j = 0; j < 8; j++, out += 32) {
            float scale = d * (float)(ht_iq4_xs_scale(b, j) - 32);
            const uint8_t *qs = b->qs + 16 * j;
            for (int i = 0; i < 16; i++) {
                out[i] = scale * (float)ht_iq4_values[qs[i] & 15];
                out[i + 16] = scale * (float)ht_iq4_values[qs[i] >> 4];
            }
        }
    }
}
