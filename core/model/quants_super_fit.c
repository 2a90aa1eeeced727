/* Quantisation into the super-blocks of 256. All go the same way: fit each sub-block alone (quants_fit.c), round
 * its scale to an integer in units of a super-scale, quantise with the scales as rounded, then improve the
 * super-scales by least squares for the quants found and quantise once more if that has less error. */
#include "core/model/quants.h"

#include <string.h>

/* A super-block between fit and packing. Sub-block j covers elements [j * len, (j + 1) * len). */
typedef struct super {
    float x[HT_QK_K];
    uint8_t q[HT_QK_K];   /* quants, biased to be >= 0 */
    int s[16], m[16];     /* integer scales (signed) and minimums */
    int len, bias, qmax;  /* weight = D * s * level(q - bias) - M * m; q in [0, qmax] */
    bool table;           /* level(q) is ht_iq4_values[q], else q */
    ht_half d, dmin;
} super;

static inline float level(const super *b, int q)
{
    return b->table ? (float)ht_iq4_values[q] : (float)(q - b->bias);
}

/* Quants for the scales as they stand; returns the squared error. */
static double assign(super *b)
{
    float d = ht_half_to_float(b->d), dmin = ht_half_to_float(b->dmin);
    double error = 0.0;
    for (int j = 0; j < HT_QK_K / b->len; j++) {
        float scale = d * (float)b->s[j], offset = dmin * (float)b->m[j], inverse = ht_inverse(scale);
        for (int i = j * b->len; i < (j + 1) * b->len; i++) {
            float v = (b->x[i] + offset) * inverse;
            b->q[i] = (uint8_t)(b->table ? ht_iq4_nearest(v)
                                         : ht_round_clamp(v, -b->bias, b->qmax - b->bias) + b->bias);
            double e = (double)(scale * level(b, b->q[i]) - offset - b->x[i]);
            error += e * e;
        }
    }
    return error;
}

/* D and M that minimise sum (D a - M b - x)^2, a = s * level(q), b = m. */
static void improve(super *b)
{
    double aa = 0.0, ab = 0.0, bb = 0.0, ax = 0.0, bx = 0.0;
    for (int i = 0; i < HT_QK_K; i++) {
        int j = i / b->len;
        double a = b->s[j] * (double)level(b, b->q[i]), c = b->m[j], x = b->x[i];
        aa += a * a;
        ab += a * c;
        bb += c * c;
        ax += a * x;
        bx += c * x;
    }
    double det = aa * bb - ab * ab;
    if (det > 1e-9 * aa * bb) {
        double d = (ax * bb - ab * bx) / det, dmin = (ab * ax - aa * bx) / det;
        if (dmin < 0.0) return; /* a minimum that is none */
        b->d = ht_scale_to_half((float)d);
        b->dmin = ht_scale_to_half((float)dmin);
    } else if (aa > 0.0 && bb == 0.0) {
        b->d = ht_scale_to_half((float)(ax / aa));
    }
}

static void finish(super *b)
{
    double first = assign(b);
    super before = *b;
    improve(b);
    if (!(assign(b) < first)) *b = before;
}

/* Fit with signed scales and no minimums: D is such that the largest scale becomes `extreme` (negative: the range
 * of the integer scales is [extreme, -extreme - 1]). */
static void fit_signed(super *b, const float *in, int extreme)
{
    float scale[16], peak = 0.0f;
    ht_fit_load(in, b->x, HT_QK_K);
    for (int j = 0; j < HT_QK_K / b->len; j++) {
        const float *x = b->x + j * b->len;
        scale[j] = b->table ? ht_fit_iq4(x, b->len) : ht_fit_scale(x, b->len, -b->bias, b->qmax - b->bias);
        if (fabsf(scale[j]) > fabsf(peak)) peak = scale[j];
    }
    b->d = ht_scale_to_half(peak / (float)extreme);
    float inverse = ht_inverse(ht_half_to_float(b->d));
    for (int j = 0; j < HT_QK_K / b->len; j++) {
        b->s[j] = ht_round_clamp(scale[j] * inverse, extreme, -extreme - 1);
        b->m[j] = 0;
    }
    finish(b);
}

/* Fit with scales and minimums in [0, most]. */
static void fit_minimum(super *b, const float *in, int most)
{
    float scale[16], offset[16], largest = 0.0f, deepest = 0.0f;
    ht_fit_load(in, b->x, HT_QK_K);
    for (int j = 0; j < HT_QK_K / b->len; j++) {
        ht_fit_affine(b->x + j * b->len, b->len, b->qmax, true, &scale[j], &offset[j]);
        largest = scale[j] > largest ? scale[j] : largest;
        deepest = -offset[j] > deepest ? -offset[j] : deepest;
    }
    b->d = ht_scale_to_half(largest / (float)most);
    b->dmin = ht_scale_to_half(deepest / (float)most);
    float inverse = ht_inverse(ht_half_to_float(b->d)), inverse_min = ht_inverse(ht_half_to_float(b->dmin));
    for (int j = 0; j < HT_QK_K / b->len; j++) {
        b->s[j] = ht_round_clamp(scale[j] * inverse, 0, most);
        b->m[j] = ht_round_clamp(-offset[j] * inverse_min, 0, most);
    }
    finish(b);
}

static void put2(const uint8_t *q, uint8_t *qs)
{
    memset(qs, 0, 64);
    for (int i = 0; i < HT_QK_K; i++)
        qs[i / 128 * 32 + i % 32] |= (uint8_t)((q[i] & 3) << (2 * (i % 128 / 32)));
}

static void put4(const uint8_t *q, uint8_t *qs)
{
    for (int i = 0; i < 128; i++) {
        int e = i / 32 * 64 + i % 32;
        qs[i] = (uint8_t)((q[e] & 15) | (q[e + 32] & 15) << 4);
    }
}

static void put_k4_scales(const super *b, uint8_t *packed)
{
    memset(packed, 0, 12);
    for (int j = 0; j < 8; j++) {
        int s = b->s[j], m = b->m[j];
        if (j < 4) {
            packed[j] |= (uint8_t)s;
            packed[j + 4] |= (uint8_t)m;
        } else {
            packed[j + 4] = (uint8_t)((s & 15) | (m & 15) << 4);
            packed[j - 4] |= (uint8_t)(s >> 4 << 6);
            packed[j] |= (uint8_t)(m >> 4 << 6);
        }
    }
}

void ht_quantize_q2_k(const float *in, void *blocks, int64_t n)
{
    ht_block_q2_k *out = blocks;
    for (int64_t k = 0; k < n / HT_QK_K; k++, out++, in += HT_QK_K) {
        super b = {.len = 16, .qmax = 3};
        fit_minimum(&b, in, 15);
        out->d = b.d;
        out->dmin = b.dmin;
        for (int j = 0; j < 16; j++) out->scales[j] = (uint8_t)(b.s[j] | b.m[j] << 4);
        put2(b.q, out->qs);
    }
}

void ht_quantize_q3_k(const float *in, void *blocks, int64_t n)
{
    ht_block_q3_k *out = blocks;
    for (int64_t k = 0; k < n / HT_QK_K; k++, out++, in += HT_QK_K) {
        super b = {.len = 16, .qmax = 7, .bias = 4};
        fit_signed(&b, in, -32);
        memset(out, 0, sizeof *out);
        out->d = b.d;
        put2(b.q, out->qs);
        for (int i = 0; i < HT_QK_K; i++) out->hmask[i % 32] |= (uint8_t)((b.q[i] >> 2) << (i / 32));
        for (int j = 0; j < 16; j++) {
            int s = b.s[j] + 32;
            out->scales[j % 8] |= (uint8_t)((s & 15) << (4 * (j / 8)));
            out->scales[8 + j % 4] |= (uint8_t)((s >> 4) << (2 * (j / 4)));
        }
    }
}

void ht_quantize_q4_k(const float *in, void *blocks, int64_t n)
{
    ht_block_q4_k *out = blocks;
    for (int64_t k = 0; k < n / HT_QK_K; k++, out++, in += HT_QK_K) {
        super b = {.len = 32, .qmax = 15};
        fit_minimum(&b, in, 63);
        out->d = b.d;
        out->dmin = b.dmin;
        put_k4_scales(&b, out->scales);
        put4(b.q, out->qs);
    }
}

void ht_quantize_q5_k(const float *in, void *blocks, int64_t n)
{
    ht_block_q5_k *out = blocks;
    for (int64_t k = 0; k < n / HT_QK_K; k++, out++, in += HT_QK_K) {
        super b = {.len = 32, .qmax = 31};
        fit_minimum(&b, in, 63);
        memset(out, 0, sizeof *out);
        out->d = b.d;
        out->dmin = b.dmin;
        put_k4_scales(&b, out->scales);
        put4(b.q, out->qs);
        for (int i = 0; i < HT_QK_K; i++) out->qh[i % 32] |= (uint8_t)((b.q[i] >> 4) << (i / 32));
    }
}

void ht_quantize_q6_k(const float *in, void *blocks, int64_t n)
{
    ht_block_q6_k *out = blocks;
    for (int64_t k = 0; k < n / HT_QK_K; k++, out++, in += HT_QK_K) {
        super b = {.len = 16, .qmax = 63, .bias = 32};
        fit_signed(&b, in, -128);
        memset(out, 0, sizeof *out);
        out->d = b.d;
        for (int j = 0; j < 16; j++) out->scales[j] = (int8_t)b.s[j];
        for (int i = 0; i < HT_QK_K; i++) {
            int c = i / 32, l = i % 32;
            out->ql[c / 4 * 64 + c % 2 * 32 + l] |= (uint8_t)((b.q[i] & 15) << (c % 4 / 2 * 4));
            out->qh[c / 4 * 32 + l] |= (uint8_t)((b.q[i] >> 4) << (2 * (c % 4)));
        }
    }
}

void ht_quantize_iq4_xs(const float *in, void *blocks, int64_t n)
{
    ht_block_iq4_xs *out = blocks;
    for (int64_t k = 0; k < n / HT_QK_K; k++, out++, in += HT_QK_K) {
        super b = {.len = 32, .qmax = 15, .table = true};
        fit_signed(&b, in, -32);
        memset(out, 0, sizeof *out);
        out->d = b.d;
        for (int j = 0; j < 8; j++) {
            int s = b.s[j] + 32;
            out->scales_l[j / 2] |= (uint8_t)((s & 15) << (4 * (j % 2)));
            out->scales_h |= (uint16_t)((s >> 4) << (2 * j));
            for (int i = 0; i < 16; i++)
                out->qs[16 * j + i] = (uint8_t)(b.q[32 * j + i] | b.q[32 * j + i + 16] << 4);
        }
    }
}
