/* Norms, activations, RoPE and KV rows: the scalar references. Ground truth for row_avx2.c and row_avx512.c, which
 * give the same bits.
 */
#include "core/base/math.h"
#include "cpu/kernels.h"
#include "cpu/lanes.h"

#include <math.h>
#include <string.h>

static void rms_norm_ref(float *y, const float *x, const float *gain, float eps, int64_t n)
{
    float lane[HT_LANES] = {0};

    for (int64_t i = 0; i < n; i++) lane[i % HT_LANES] = ht_fmaf(x[i], x[i], lane[i % HT_LANES]);
    float scale = 1.0f / sqrtf(ht_tree_sum(lane) / (float)n + eps);
    for (int64_t i = 0; i < n; i++) y[i] = gain ? x[i] * scale * gain[i] : x[i] * scale;
}

static void layer_norm_ref(float *y, const float *x, const float *gain, const float *bias, float eps, int64_t n)
{
    float lane[HT_LANES] = {0}, lane2[HT_LANES] = {0};

    for (int64_t i = 0; i < n; i++) lane[i % HT_LANES] += x[i];
    float mean = ht_tree_sum(lane) / (float)n;
    for (int64_t i = 0; i < n; i++) {
        float v = x[i] - mean;
        lane2[i % HT_LANES] = ht_fmaf(v, v, lane2[i % HT_LANES]);
    }
    float scale = 1.0f / sqrtf(ht_tree_sum(lane2) / (float)n + eps);
    for (int64_t i = 0; i < n; i++) {
        float v = (x[i] - mean) * scale;
        if (gain) v *= gain[i];
        y[i] = bias ? v + bias[i] : v;
    }
}

static void glu_silu_ref(float *h, const float *g, const float *u, int64_t n)
{
    for (int64_t i = 0; i < n; i++) h[i] = u ? ht_siluf(g[i]) * u[i] : ht_siluf(g[i]);
}

/* A NaN stays one. */
static void glu_relu_ref(float *h, const float *g, const float *u, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float v = g[i] < 0.0f ? 0.0f : g[i];
        h[i] = u ? v * u[i] : v;
    }
}

static void glu_gelu_ref(float *h, const float *g, const float *u, int64_t n)
{
    for (int64_t i = 0; i < n; i++) h[i] = u ? ht_geluf(g[i]) * u[i] : ht_geluf(g[i]);
}

static void glu_gelu_tanh_ref(float *h, const float *g, const float *u, int64_t n)
{
    for (int64_t i = 0; i < n; i++) h[i] = u ? ht_gelu_tanhf(g[i]) * u[i] : ht_gelu_tanhf(g[i]);
}

static void rope_interleaved_ref(float *head, const float *cos_sin, int64_t dims)
{
    for (int64_t i = 0; i < dims; i += 2) {
        float a = head[i], b = head[i + 1], c = cos_sin[i], s = cos_sin[i + 1];
        head[i] = a * c - b * s;
        head[i + 1] = a * s + b * c;
    }
}

static void rope_halves_ref(float *head, const float *cos_sin, int64_t dims)
{
    int64_t half = dims / 2;

    for (int64_t i = 0; i < half; i++) {
        float a = head[i], b = head[i + half], c = cos_sin[2 * i], s = cos_sin[2 * i + 1];
        head[i] = a * c - b * s;
        head[i + half] = a * s + b * c;
    }
}

static void kv_store_f32_ref(const float *in, void *tile, int32_t t, int64_t n)
{
    memcpy((float *)tile + t * n, in, (size_t)n * sizeof(float));
}

static void kv_store_f16_ref(const float *in, void *tile, int32_t t, int64_t n)
{
    ht_half *out = (ht_half *)tile + t * n;

    for (int64_t i = 0; i < n; i++) out[i] = ht_half_from_float(in[i]);
}

static void kv_store_q8_0_ref(const float *in, void *tile, int32_t t, int64_t n)
{
    ht_type_get(HT_Q8_0)->quantize(in, (ht_block_q8_0 *)tile + t * (n / HT_QK), n);
}

static void kv_store_q4_0_ref(const float *in, void *tile, int32_t t, int64_t n)
{
    ht_type_get(HT_Q4_0)->quantize(in, (ht_block_q4_0 *)tile + t * (n / HT_QK), n);
}

void ht_kernels_row_ref(ht_kernels *k)
{
    k->rms_norm = rms_norm_ref;
    k->layer_norm = layer_norm_ref;
    k->glu_silu = glu_silu_ref;
    k->glu_relu = glu_relu_ref;
    k->glu_gelu = glu_gelu_ref;
    k->glu_gelu_tanh = glu_gelu_tanh_ref;
    k->rope_interleaved = rope_interleaved_ref;
    k->rope_halves = rope_halves_ref;
    k->kv_store[HT_F32][0] = k->kv_store[HT_F32][1] = kv_store_f32_ref;
    k->kv_store[HT_F16][0] = k->kv_store[HT_F16][1] = kv_store_f16_ref;
    k->kv_store[HT_Q8_0][0] = k->kv_store[HT_Q8_0][1] = kv_store_q8_0_ref;
    k->kv_store[HT_Q4_0][0] = k->kv_store[HT_Q4_0][1] = kv_store_q4_0_ref;
}
