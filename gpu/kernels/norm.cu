/* Norms in a launch of their own, with the forms in which the next product takes its columns: F32, 8-bit blocks, or
 * scaled F16. One block a column. */
#include "gpu/kernels/norm.cuh"

namespace HT_BUILD {

/* 2^k that brings amax into [2^13, 2^14). */
static __device__ float power_for_half(float amax)
{
    if (!(amax >= 1e-30f)) return 1.0f;
    const int exponent = static_cast<int>(__float_as_uint(amax) >> 23) - 127;
    const int k = 13 - exponent;
    return __uint_as_float(static_cast<unsigned>(k > 126 ? 253 : k < -126 ? 1 : k + 127) << 23);
}

static __global__ void __launch_bounds__(NORM_THREADS) norm(ht_k_norm a)
{
    __shared__ float scratch[NORM_THREADS / 32];
    const int c = static_cast<int>(blockIdx.x), t = static_cast<int>(threadIdx.x);
    const Affine f = find_norm(a.norm, a.x + static_cast<int64_t>(c) * a.cols, a.cols, scratch);

    float *out = a.f32 + static_cast<int64_t>(c) * a.cols;
    if (a.f32 && !a.add) write_floats(f, a.cols, out);
    if (a.f32 && a.add)
        for (int i = t; i < a.cols; i += NORM_THREADS) out[i] += f(i);
    if (a.q8) write_blocks(f, a.cols, static_cast<uint8_t *>(a.q8) + c * HT_K_ACT_STRIDE(a.cols));
    if (a.f16) {
        float amax = 0.0f;
        for (int i = t; i < a.cols; i += NORM_THREADS) amax = Max::of(amax, fabsf(f(i)));
        const float power = power_for_half(block_reduce<Max>(amax, scratch));
        const int padded = static_cast<int>(HT_K_HALF_STRIDE(a.cols) / sizeof(ht_half));
        ht_half *halves = a.f16 + static_cast<int64_t>(c) * padded;
        for (int i = t; i < padded; i += NORM_THREADS) halves[i] = i < a.cols ? float_to_half(f(i) * power) : 0;
        if (t == 0) a.f16_scale[c] = 1.0f / power;
    }
}

static int start_norm(const ht_k_norm *a, void *stream)
{
    if (a->q8 && a->cols % 32) return 1;
    const double bytes = static_cast<double>(a->n) * a->cols * (4.0 + (a->f32 ? 4 : 0) + (a->q8 ? 1.25 : 0) + (a->f16 ? 2 : 0));
    const ht_k_norm k = *a;
    return HT_LAUNCH(norm, dim3(k.n), dim3(NORM_THREADS), 0, bytes, stream, k);
}

} // namespace HT_BUILD

extern "C" void HT_FILL(norm)(ht_gpu_kernels *k) { k->norm = HT_BUILD::start_norm; }
