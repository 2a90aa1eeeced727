/* Block types: geometry, single numbers, every dequantiser against golden blocks, every quantiser's error and its
 * behaviour on hostile blocks, and the 8-bit rows of activations. */
#include "core/base/random.h"
#include "core/model/types.h"
#include "tests/support/harness.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tests/model/golden_blocks.h"

static float float_of(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

Test(types, table)
{
    ht_type t;
    cr_assert(ht_type_by_name("q4_k", &t));
    cr_assert_eq(t, HT_Q4_K);
    cr_assert(ht_type_by_name("BF16", &t));
    cr_assert_eq(t, HT_BF16);
    cr_assert(!ht_type_by_name("q4_2", &t));
    cr_assert(!ht_type_by_name("", &t));
    int known = 0;
    for (uint32_t id = 0; id < 100; id++) {
        const ht_type_info *info = ht_type_get(id);
        if (!info) continue;
        known++;
        cr_assert(info->dequantize && info->quantize);
        cr_assert(ht_type_by_name(info->name, &t) && t == id, "%s", info->name);
        cr_assert_eq(ht_row_bytes(info, 512), (size_t)(512 / info->block_len * info->block_bytes));
    }
    cr_assert_eq(known, 15);
    cr_assert(!ht_type_get(4) && !ht_type_get(9) && !ht_type_get(UINT32_MAX));
}

Test(types, half_from_every_midpoint)
{
    /* For neighbours a < b: below the middle gives a, above it b, the middle itself the even one. */
    for (uint32_t h = 0; h < 0x7bff; h++) {
        float a = ht_half_to_float((ht_half)h), b = ht_half_to_float((ht_half)(h + 1)), middle = a + (b - a) / 2;
        cr_assert(a < b);
        cr_assert_eq(ht_half_from_float(a), h);
        cr_assert_eq(ht_half_from_float(nextafterf(middle, 0.0f)), h, "%x", h);
        cr_assert_eq(ht_half_from_float(nextafterf(middle, INFINITY)), h + 1, "%x", h);
        cr_assert_eq(ht_half_from_float(middle), h % 2 ? h + 1 : h, "%x", h);
        cr_assert_eq(ht_half_from_float(-middle), 0x8000 | (h % 2 ? h + 1 : h));
        cr_assert_eq(ht_half_to_float((ht_half)(0x8000 | h)), -a);
    }
    cr_assert_eq(ht_half_to_float(0x3c00), 1.0f);
    cr_assert_eq(ht_half_to_float(0x0001), 0x1p-24f);
    cr_assert_eq(ht_half_from_float(65519.996f), 0x7bff);
    cr_assert_eq(ht_half_from_float(65520.0f), 0x7c00);
    cr_assert_eq(ht_half_from_float(-FLT_MAX), 0xfc00);
    cr_assert_eq(ht_half_from_float(-0.0f), 0x8000);
    cr_assert(isinf(ht_half_to_float(0xfc00)) && isnan(ht_half_to_float(0x7c01)));
    for (uint32_t u = 0x7f800001; u < 0x80000000 && u > 0x7f800000; u += 0x1357) {
        cr_assert(isnan(ht_half_to_float(ht_half_from_float(float_of(u)))));
        cr_assert(isnan(ht_bf16_to_float(ht_bf16_from_float(float_of(u)))));
    }
}

Test(types, bf16_rounds_to_nearest_even)
{
    cr_assert_eq(ht_bf16_from_float(1.0f), 0x3f80);
    cr_assert_eq(ht_bf16_from_float(float_of(0x3f808000)), 0x3f80);
    cr_assert_eq(ht_bf16_from_float(float_of(0x3f818000)), 0x3f82);
    cr_assert_eq(ht_bf16_from_float(float_of(0x3f808001)), 0x3f81);
    cr_assert_eq(ht_bf16_from_float(FLT_MAX), 0x7f80);
    for (uint32_t b = 0; b < 0x7f80; b++) cr_assert_eq(ht_bf16_from_float(ht_bf16_to_float((ht_bf16)b)), b);
}

Test(types, golden_blocks)
{
    for (size_t g = 0; g < sizeof golden / sizeof *golden; g++) {
        const ht_type_info *info = ht_type_get(golden[g].type);
        uint8_t block[256];
        float w[HT_QK_K];
        cr_assert_eq(strlen(golden[g].hex), 2u * (size_t)info->block_bytes);
        for (int i = 0; i < info->block_bytes; i++) {
            unsigned byte;
            cr_assert_eq(sscanf(golden[g].hex + 2 * i, "%2x", &byte), 1);
            block[i] = (uint8_t)byte;
        }
        info->dequantize(block, w, info->block_len);
        uint64_t hash = 0xcbf29ce484222325u;
        for (int i = 0; i < info->block_len; i++) {
            uint32_t u;
            memcpy(&u, &w[i], sizeof u);
            for (int k = 0; k < 4; k++) hash = (hash ^ (u >> (8 * k) & 255)) * 0x100000001b3u;
            if (i % (info->block_len / 8) == 0)
                cr_assert_eq(u, golden[g].bits[i / (info->block_len / 8)], "%s element %d: %a", info->name, i, w[i]);
        }
        cr_assert_eq(hash, golden[g].hash, "%s", info->name);
    }
}

/* Relative rms error of quantising a normal distribution: a little above what was measured, and for the small
 * types below what gguf-py's quantisers have (Q4_0 0.0860, Q4_1 0.0782, Q5_0 0.0428, Q5_1 0.0378, Q8_0 0.0054). */
static const struct { ht_type type; double most; } errors[] = {
    {HT_F32, 0.0},       {HT_F16, 0.00025},   {HT_BF16, 0.0018},   {HT_Q8_0, 0.00545}, {HT_Q4_0, 0.0825},
    {HT_Q4_1, 0.0715},   {HT_Q5_0, 0.0412},   {HT_Q5_1, 0.0345},   {HT_Q2_K, 0.275},   {HT_Q3_K, 0.147},
    {HT_Q4_K, 0.0725},   {HT_Q5_K, 0.0365},   {HT_Q6_K, 0.0178},   {HT_IQ4_NL, 0.075}, {HT_IQ4_XS, 0.0755},
};

static void round_trip(const ht_type_info *info, const float *x, float *y, int64_t n)
{
    static uint8_t blocks[4 * 64 * HT_QK_K + 16];
    size_t bytes = ht_row_bytes(info, n);
    cr_assert(bytes + 16 <= sizeof blocks);
    memset(blocks + bytes, 0x5a, 16);
    info->quantize(x, blocks, n);
    for (int i = 0; i < 16; i++) cr_assert_eq(blocks[bytes + (size_t)i], 0x5a, "%s wrote past its end", info->name);
    info->dequantize(blocks, y, n);
}

Test(types, quantisers_have_small_errors)
{
    enum { N = 64 * HT_QK_K };
    static float x[N], y[N];
    for (int i = 0; i < N; i++) x[i] = 0.02f * (float)ht_random_normal(3, 0, (uint64_t)i, 0);
    for (size_t t = 0; t < sizeof errors / sizeof *errors; t++) {
        const ht_type_info *info = ht_type_get(errors[t].type);
        round_trip(info, x, y, N);
        double error = 0.0, power = 0.0;
        for (int i = 0; i < N; i++) {
            error += (double)(x[i] - y[i]) * (x[i] - y[i]);
            power += (double)x[i] * x[i];
        }
        cr_expect(sqrt(error / power) <= errors[t].most, "%s: %.5f", info->name, sqrt(error / power));
    }
}

Test(types, quantisers_bear_any_finite_block)
{
    static const float constants[] = {0.0f, -0.0f, 1.0f, -1.0f, 0.3f, -0.3f, 1e-7f, -1e-7f, 1e-30f, 1e-44f, -1e-44f,
                                      3e4f, -3e4f, 7e4f, 1e9f, -1e9f, FLT_MAX, -FLT_MAX};
    float x[HT_QK_K], y[HT_QK_K];
    for (uint32_t id = 0; id < HT_TYPE_COUNT; id++) {
        const ht_type_info *info = ht_type_get(id);
        if (!info) continue;
        for (size_t c = 0; c < sizeof constants / sizeof *constants; c++) {
            for (int shape = 0; shape < 4; shape++) { /* constant, one spike, alternating signs, one zero */
                for (int i = 0; i < HT_QK_K; i++)
                    x[i] = shape == 0                 ? constants[c]
                           : shape == 1               ? (i == 77 ? constants[c] : 0.0f)
                           : shape == 2               ? (i % 2 ? constants[c] : -constants[c])
                                                      : (i == 5 ? 0.0f : constants[c]);
                round_trip(info, x, y, HT_QK_K);
                for (int i = 0; i < HT_QK_K; i++) {
                    if (id == HT_F16 || id == HT_BF16) continue; /* infinities there are right */
                    cr_assert(isfinite(y[i]), "%s %g shape %d element %d", info->name, constants[c], shape, i);
                    if (fabsf(constants[c]) < 1e-3f || fabsf(constants[c]) > 3e4f) continue;
                    /* Even two bits hold two values and zero. */
                    cr_assert(fabsf(y[i] - x[i]) <= 0.35f * fabsf(constants[c]), "%s %g shape %d element %d: %g",
                              info->name, constants[c], shape, i, y[i]);
                }
            }
        }
    }
}

Test(types, activations)
{
    enum { N = 96 };
    float x[N], row_space[HT_ACT_ROW_BYTES(N) / sizeof(float)];
    for (int i = 0; i < 64; i++) x[i] = (float)ht_random_normal(5, 0, (uint64_t)i, 0);
    for (int i = 64; i < N; i++) x[i] = i % 2 ? 1e-31f : -0.0f; /* counts as zero */
    x[40] = -9.0f;
    ht_act_quantize(x, row_space, N);
    const int8_t *q = ht_act_quants(row_space);
    const float *d = ht_act_scales(row_space, N), *s = ht_act_sums(row_space, N);
    for (int b = 0; b < 2; b++) {
        float amax = 0.0f;
        int sum = 0;
        for (int i = 32 * b; i < 32 * b + 32; i++) amax = fmaxf(amax, fabsf(x[i]));
        cr_assert_eq(d[b], amax / 127.0f);
        for (int i = 32 * b; i < 32 * b + 32; i++) {
            cr_assert_eq(q[i], (int)nearbyintf(x[i] * (127.0f / amax)));
            cr_assert(fabsf(d[b] * (float)q[i] - x[i]) <= 0.501f * d[b]);
            sum += q[i];
        }
        cr_assert_eq(s[b], d[b] * (float)sum);
    }
    cr_assert_eq(q[40], -127);
    cr_assert(d[2] == 0.0f && s[2] == 0.0f);
    for (int i = 64; i < N; i++) cr_assert_eq(q[i], 0);
    for (int i = 0; i < 3; i++) { /* in a block of values, and in one of zeros */
        x[5] = x[70] = i == 0 ? NAN : i == 1 ? INFINITY : -INFINITY;
        ht_act_quantize(x, row_space, N);
        for (int b = 0; b < 3; b += 2) cr_assert(isnan(d[b]) && isnan(s[b]), "block %d with %g", b, x[5]);
        for (int j = 0; j < N; j++) cr_assert(q[j] == 0 || j / 32 == 1, "quant %d with %g", j, x[5]);
    }
}
