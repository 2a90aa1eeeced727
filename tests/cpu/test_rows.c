/* Row kernels: the references against double precision, every level against the references bit for bit, on odd sizes,
 * extremes and with a guard behind every output. */
#include "core/base/math.h"
#include "core/base/random.h"
#include "cpu/kernels.h"
#include "tests/support/harness.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

enum { MOST = 400, GUARD = 16 };

static const int64_t sizes[] = {0, 1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 64, 80, 127, 200, 333, 384};
#define N_SIZES (sizeof(sizes) / sizeof(*sizes))

static float noise(uint64_t seed, int64_t i) { return (float)(2.0 * ht_random_uniform(seed, 2, (uint64_t)i, 0) - 1.0); }

/* Kind 0: of size 1; 1: over many magnitudes; 2: with infinities, NaN, zeros and subnormals between. */
static void fill(float *x, int64_t n, uint64_t seed, int kind)
{
    static const float odd[] = {INFINITY, -INFINITY, NAN, 0.0f, -0.0f, 1e-40f, -1e-45f, 3e38f, -3e38f, 88.8f, -87.4f, -104.0f};

    for (int64_t i = 0; i < n; i++) {
        x[i] = noise(seed, i);
        if (kind >= 1) x[i] *= expf(20.0f * noise(seed + 1, i));
        if (kind == 2 && i % 5 == 3) x[i] = odd[(uint64_t)(i / 5 + (int64_t)seed) % 12];
    }
}

/* NaNs are equal whatever their payload: that is not part of IEEE arithmetic. */
static bool same(const float *a, const float *b, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (memcmp(&a[i], &b[i], sizeof(float)) != 0 && !(isnan(a[i]) && isnan(b[i]))) return false;
    return true;
}

/* ---- one exp ----------------------------------------------------------------------------------------------- */

static double ulps(float got, double want)
{
    float w = (float)want;
    return fabs((double)got - want) / ((double)nextafterf(w, INFINITY) - (double)w);
}

Test(rows, exp_is_within_one_ulp_everywhere)
{
    /* Every 61st float of either sign, from 2^-40 to the ends of the range. */
    for (uint32_t u = 0x2b800000; u < 0x42b20000; u += 61)
        for (uint32_t sign = 0; sign < 2; sign++) {
            union { uint32_t u; float f; } x = {u | sign << 31};
            if (x.f < HT_EXP_LOW || x.f > HT_EXP_HIGH) continue;
            double e = ulps(ht_expf(x.f), exp((double)x.f));
            if (e > 1.0) cr_assert(e <= 1.0, "exp(%a) = %a is %g ulp off", x.f, ht_expf(x.f), e);
        }
    cr_assert_eq(ht_expf(0.0f), 1.0f);
    cr_assert_eq(ht_expf(-INFINITY), 0.0f);
    cr_assert_eq(ht_expf(-200.0f), 0.0f);
    cr_assert_eq(ht_expf(INFINITY), INFINITY);
    cr_assert_eq(ht_expf(1e30f), INFINITY);
    cr_assert(isnan(ht_expf(NAN)));
}

Test(rows, activations_match_double_precision)
{
    for (int i = -120000; i <= 120000; i++) {
        float x = (float)i * 1e-4f;
        double gelu = 0.5 * x * erfc(-x * M_SQRT1_2);
        double tanh_gelu = x / (1.0 + exp(-2.0 * sqrt(2.0 / M_PI) * ((double)x + 0.044715 * x * x * x)));
        double silu = x / (1.0 + exp(-(double)x));
        cr_assert(fabs(ht_siluf(x) - silu) <= 3e-7 * fabs(silu), "silu(%g)", x);
        cr_assert(fabs(ht_geluf(x) - gelu) <= 2e-7 * fabs(x) + 1e-30, "gelu(%g) = %g, not %g", x, ht_geluf(x), gelu);
        cr_assert(fabs(ht_gelu_tanhf(x) - tanh_gelu) <= 3e-7 * fabs(x), "gelu_tanh(%g)", x);
    }
}

/* ---- norms ------------------------------------------------------------------------------------------------- */

typedef struct vectors { float x[MOST], gain[MOST], bias[MOST], want[MOST + GUARD], got[MOST + GUARD]; } vectors;

static void prepare(vectors *v, uint64_t seed, int kind)
{
    fill(v->x, MOST, seed, kind);
    fill(v->gain, MOST, seed + 10, 0);
    fill(v->bias, MOST, seed + 20, kind);
    for (int i = 0; i < MOST + GUARD; i++) v->want[i] = v->got[i] = 777.0f;
}

static void check(const vectors *v, const char *what, ht_isa isa, int64_t n, int kind)
{
    cr_assert(same(v->want, v->got, n), "%s at level %s: n %d, kind %d", what, ht_isa_name(isa), (int)n, kind);
    for (int i = 0; i < GUARD; i++) cr_assert_eq(v->got[n + i], 777.0f, "%s at level %s wrote past %d", what, ht_isa_name(isa), (int)n);
}

Test(rows, norm_references_match_double_precision)
{
    ht_kernels k;
    vectors v;

    ht_kernels_init(&k, HT_ISA_REF);
    for (size_t s = 1; s < N_SIZES; s++) {
        int64_t n = sizes[s];
        double sum = 0.0, square = 0.0, var = 0.0;
        prepare(&v, s, 0);
        for (int64_t i = 0; i < n; i++) sum += v.x[i], square += (double)v.x[i] * v.x[i];
        for (int64_t i = 0; i < n; i++) var += (v.x[i] - sum / n) * (v.x[i] - sum / n);
        k.rms_norm(v.got, v.x, v.gain, 1e-5f, n);
        for (int64_t i = 0; i < n; i++)
            cr_assert_float_eq(v.got[i], v.x[i] / sqrt(square / n + 1e-5) * v.gain[i], 2e-6);
        k.layer_norm(v.got, v.x, v.gain, v.bias, 1e-3f, n);
        for (int64_t i = 0; i < n; i++)
            cr_assert_float_eq(v.got[i], (v.x[i] - sum / n) / sqrt(var / n + 1e-3) * v.gain[i] + v.bias[i], 1e-5);
    }
}

Test(rows, norms_have_the_same_bits_on_every_level)
{
    ht_kernels ref, k;
    vectors v;

    ht_kernels_init(&ref, HT_ISA_REF);
    for (ht_isa isa = HT_ISA_AVX2; isa <= ht_isa_detect(); isa++) {
        ht_kernels_init(&k, isa);
        for (size_t s = 0; s < N_SIZES; s++)
            for (int kind = 0; kind < 3; kind++)
                for (int null = 0; null < 3; null++) {
                    int64_t n = sizes[s];
                    const float *gain = null ? NULL : v.gain, *bias = null == 1 ? NULL : v.bias;
                    prepare(&v, s + 100, kind);
                    ref.rms_norm(v.want, v.x, gain, 1e-6f, n);
                    k.rms_norm(v.got, v.x, gain, 1e-6f, n);
                    check(&v, "rms_norm", isa, n, kind);
                    ref.layer_norm(v.want, v.x, gain, bias, 1e-6f, n);
                    k.layer_norm(v.got, v.x, gain, bias, 1e-6f, n);
                    check(&v, "layer_norm", isa, n, kind);
                    memcpy(v.got, v.x, (size_t)n * sizeof(float)); /* in place */
                    ref.rms_norm(v.want, v.x, gain, 1e-6f, n);
                    k.rms_norm(v.got, v.got, gain, 1e-6f, n);
                    check(&v, "rms_norm in place", isa, n, kind);
                }
    }
}

/* ---- activations ------------------------------------------------------------------------------------------- */

Test(rows, activations_have_the_same_bits_on_every_level)
{
    static const char *const names[] = {"silu", "relu", "gelu", "gelu_tanh"};
    ht_kernels ref, k;
    vectors v;

    ht_kernels_init(&ref, HT_ISA_REF);
    for (ht_isa isa = HT_ISA_AVX2; isa <= ht_isa_detect(); isa++) {
        ht_kernels_init(&k, isa);
        void (*const a[])(float *, const float *, const float *, int64_t) = {ref.glu_silu, ref.glu_relu, ref.glu_gelu,
                                                                             ref.glu_gelu_tanh};
        void (*const b[])(float *, const float *, const float *, int64_t) = {k.glu_silu, k.glu_relu, k.glu_gelu,
                                                                             k.glu_gelu_tanh};
        for (int f = 0; f < 4; f++)
            for (size_t s = 0; s < N_SIZES; s++)
                for (int kind = 0; kind < 3; kind++)
                    for (int gated = 0; gated < 2; gated++) {
                        int64_t n = sizes[s];
                        prepare(&v, s + 200, kind);
                        a[f](v.want, v.x, gated ? v.gain : NULL, n);
                        b[f](v.got, v.x, gated ? v.gain : NULL, n);
                        check(&v, names[f], isa, n, kind);
                        memcpy(v.got, v.x, (size_t)n * sizeof(float)); /* in place */
                        b[f](v.got, v.got, gated ? v.gain : NULL, n);
                        check(&v, names[f], isa, n, kind);
                    }
    }
}

Test(rows, the_exp_of_vectors_is_the_scalar_one)
{
    /* Through silu, whose other operations are exact functions of exp: a dense walk over the whole range. */
    float x[64], y[64];

    for (ht_isa isa = HT_ISA_AVX2; isa <= ht_isa_detect(); isa++) {
        ht_kernels k;
        ht_kernels_init(&k, isa);
        for (int block = 0; block < 4000; block++) {
            for (int i = 0; i < 64; i++) x[i] = -110.0f + 220.0f * ((float)(block * 64 + i) / (4000.0f * 64.0f));
            k.glu_silu(y, x, NULL, 64);
            for (int i = 0; i < 64; i++)
                if (y[i] != ht_siluf(x[i])) cr_assert_eq(y[i], ht_siluf(x[i]), "silu(%a)", x[i]);
        }
    }
}

/* ---- RoPE and KV rows -------------------------------------------------------------------------------------- */

Test(rows, rope_has_the_same_bits_on_every_level)
{
    ht_kernels ref, k;
    vectors v;

    ht_kernels_init(&ref, HT_ISA_REF);
    for (ht_isa isa = HT_ISA_AVX2; isa <= ht_isa_detect(); isa++) {
        ht_kernels_init(&k, isa);
        for (int64_t dims = 0; dims <= 256; dims += 2) {
            prepare(&v, (uint64_t)dims, 0);
            memcpy(v.want, v.x, (size_t)dims * sizeof(float));
            memcpy(v.got, v.x, (size_t)dims * sizeof(float));
            ref.rope_interleaved(v.want, v.gain, dims);
            k.rope_interleaved(v.got, v.gain, dims);
            check(&v, "rope_interleaved", isa, dims, 0);
            ref.rope_halves(v.want, v.gain, dims);
            k.rope_halves(v.got, v.gain, dims);
            check(&v, "rope_halves", isa, dims, 0);
        }
    }
}

Test(rows, rope_references_turn_pairs)
{
    ht_kernels k;
    ht_kernels_init(&k, HT_ISA_REF);
    float x[4] = {1, 2, 3, 4}, y[4] = {1, 2, 3, 4};
    const float cos_sin[4] = {0.6f, 0.8f, 0.0f, 1.0f};
    k.rope_interleaved(x, cos_sin, 4);
    k.rope_halves(y, cos_sin, 4);
    const float want_x[4] = {0.6f - 1.6f, 0.8f + 1.2f, -4, 3}, want_y[4] = {0.6f - 2.4f, -4, 0.8f + 1.8f, 2};
    for (int i = 0; i < 4; i++) {
        cr_assert_float_eq(x[i], want_x[i], 1e-6);
        cr_assert_float_eq(y[i], want_y[i], 1e-6);
    }
}

Test(rows, kv_rows_have_the_same_bytes_on_every_level)
{
    static const ht_type types[] = {HT_F32, HT_F16, HT_Q8_0, HT_Q4_0};
    uint8_t want[4 * MOST + GUARD], got[4 * MOST + GUARD];
    float x[MOST], back[MOST];

    for (ht_isa isa = HT_ISA_REF; isa <= ht_isa_detect(); isa++) {
        ht_kernels k;
        ht_kernels_init(&k, isa);
        for (int t = 0; t < 4; t++)
            for (size_t s = 0; s < N_SIZES; s++)
                for (int kind = 0; kind < 40; kind++) { /* from 3 on: more of kind 0 to 2 */
                    const ht_type_info *info = ht_type_get(types[t]);
                    int64_t n = sizes[s];
                    bool any = kind % 3 == 2; /* not of float types: a NaN's payload is not part of IEEE arithmetic */
                    if (n % info->block_len || (any && info->block_len == 1)) continue;
                    fill(x, n, s + 300 + (uint64_t)kind, kind % 3);
                    for (int64_t i = 0; i < n && !any; i++) x[i] = fminf(fmaxf(x[i], -60000.0f), 60000.0f);
                    if (kind == 12)
                        for (int64_t i = 0; i < n; i++) x[i] = i % 3 ? -1.0f : 1.0f; /* the first of equals has the say */
                    memset(want, 0x5a, sizeof(want));
                    memset(got, 0x5a, sizeof(got));
                    info->quantize(x, want, n);
                    k.kv_store[types[t]][0](x, got, 0, n);
                    cr_assert_eq(k.kv_store[types[t]][0], k.kv_store[types[t]][1]);
                    cr_assert_eq(memcmp(want, got, sizeof(want)), 0, "%s at level %s, n %d", info->name, ht_isa_name(isa), (int)n);
                    if (kind || types[t] == HT_Q4_0) continue;
                    info->dequantize(got, back, n);
                    for (int64_t i = 0; i < n; i++) cr_assert_float_eq(back[i], x[i], 5e-3);
                }
    }
}
