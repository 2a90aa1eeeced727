/* Quantising, bit for bit as the scalar references do it (core/model/types.c, quants_small.c): blocks of 32 by a warp,
 * one element a lane. */
#ifndef HEARTH_GPU_KERNELS_QUANTIZE_CUH
#define HEARTH_GPU_KERNELS_QUANTIZE_CUH

#include "gpu/kernels/warp.cuh"

namespace HT_BUILD {

/* |x| as an integer: in the same order, and NaN is larger than any number. So one maximum finds a block's largest magnitude
 * and whether something in it is not finite. */
__device__ __forceinline__ unsigned magnitude(float x) { return __float_as_uint(x) & 0x7fffffffu; }

/* How a block whose largest magnitude is `most` is scaled. A block with a NaN or an infinity is NaN, with quants 0. */
struct ActScale { float inverse, d; bool some; };
__device__ __forceinline__ ActScale act_scale(unsigned most)
{
    const float amax = __uint_as_float(most);
    const bool finite = most < 0x7f800000u, some = finite && amax >= HT_ACT_TINY;
    return {some ? 127.0f / amax : 0.0f, some ? amax / 127.0f : finite ? 0.0f : __uint_as_float(0x7fc00000u), some};
}

__device__ __forceinline__ void store_scale(uint8_t *row, int64_t cols, int64_t b, const ActScale &s, int total)
{
    float *scales = reinterpret_cast<float *>(row + cols);
    scales[b] = s.d;
    scales[cols / HT_QK + b] = s.d * static_cast<float>(total);
}

/* Block b of an activation row of `cols` elements (blocks.h). */
__device__ __forceinline__ void quantize_block(uint8_t *row, int64_t cols, int64_t b, float x)
{
    const ActScale s = act_scale(warp_reduce<Max>(magnitude(x)));
    const int q = s.some ? __float2int_rn(x * s.inverse) : 0;
    const int total = warp_reduce<Add>(q);

    row[32 * b + lane_id()] = static_cast<uint8_t>(static_cast<int8_t>(q));
    if (lane_id() == 0) store_scale(row, cols, b, s, total);
}

/* The same with four elements a lane, [i, i + 4) of the row, so that eight lanes hold a block and a warp four: it is shuffles
 * that quantising costs, and these are a seventh. `there` is false for whole blocks that do not exist. Whole warps. */
__device__ __forceinline__ void quantize_four(uint8_t *row, int64_t cols, int64_t i, const float (&x)[4], bool there)
{
    unsigned most = Max::of(Max::of(magnitude(x[0]), magnitude(x[1])), Max::of(magnitude(x[2]), magnitude(x[3])));
    for (int lanes = 4; lanes; lanes /= 2) most = Max::of(most, __shfl_xor_sync(HT_WARP_ALL, most, lanes));
    const ActScale s = act_scale(most);
    int total = 0;
    unsigned packed = 0;
    for (int j = 0; j < 4; j++) {
        const int q = s.some ? __float2int_rn(x[j] * s.inverse) : 0;
        total += q;
        packed |= (static_cast<unsigned>(q) & 255u) << 8 * j;
    }
    for (int lanes = 4; lanes; lanes /= 2) total += __shfl_xor_sync(HT_WARP_ALL, total, lanes);
    if (!there) return;
    *reinterpret_cast<unsigned *>(row + i) = packed;
    if (i % HT_QK == 0) store_scale(row, cols, i / HT_QK, s, total);
}

/* What no block type could hold anyway is cut, as ht_fit_load does. */
__device__ __forceinline__ float cut(float x) { return x > 1e9f ? 1e9f : x < -1e9f ? -1e9f : x; }

__device__ __forceinline__ uint16_t scale_to_half(float d)
{
    return float_to_half(d > 65504.0f ? 65504.0f : d < -65504.0f ? -65504.0f : d);
}

__device__ __forceinline__ int round_clamp(float v, int lo, int hi)
{
    if (!(v > static_cast<float>(lo))) return lo;
    if (v > static_cast<float>(hi)) return hi;
    return __float2int_rn(v);
}

__device__ __forceinline__ void store2(uint8_t *p, unsigned v) { *reinterpret_cast<uint16_t *>(p) = static_cast<uint16_t>(v); }

/* Both KV quantisers take elements that went through `cut`. */
__device__ __forceinline__ void quantize_q8_0(uint8_t *block, float x)
{
    const uint16_t d = scale_to_half(warp_reduce<Max>(fabsf(x)) / 127.0f);
    const float scale = half_to_float(d), inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
    block[2 + lane_id()] = static_cast<uint8_t>(static_cast<int8_t>(round_clamp(x * inverse, -127, 127)));
    if (lane_id() == 0) store2(block, d);
}

/* ht_fit_scale for quants -8..7: each of the first 19 lanes tries one candidate, the first best wins. `all`: the 32
 * elements in shared memory. */
__device__ __forceinline__ float fit_q4_0(const float *all)
{
    constexpr int TRIES = 19;
    float peak = 0.0f;
    for (int i = 0; i < 32; i++)
        if (fabsf(all[i]) > fabsf(peak)) peak = all[i];
    if (fabsf(peak) < 1e-20f) return 0.0f;

    const int k = lane_id();
    const float inverse = (-8.0f + 0.1f * static_cast<float>(k - TRIES / 2)) / peak;
    double xq = 0.0, qq = 0.0;
    for (int i = 0; i < 32; i++) {
        const int q = round_clamp(all[i] * inverse, -8, 7);
        xq += static_cast<double>(all[i]) * q;
        qq += static_cast<double>(q * q);
    }
    const double gain = k < TRIES && qq > 0.0 ? xq * xq / qq : -1.0;
    const double best = warp_reduce<Max>(gain);
    const unsigned winners = __ballot_sync(HT_WARP_ALL, gain == best && best > -1.0);
    const float scale = static_cast<float>(xq / (qq > 0.0 ? qq : 1.0));
    int first = 0;
    while (first < 31 && !(winners >> first & 1)) first++;
    return winners ? __shfl_sync(HT_WARP_ALL, scale, first) : 0.0f;
}

/* `all`: shared, the block's 32 elements. */
__device__ __forceinline__ void quantize_q4_0(uint8_t *block, const float *all)
{
    const uint16_t d = scale_to_half(fit_q4_0(all));
    const float scale = half_to_float(d), inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
    const int i = lane_id();
    if (i < 16) {
        const int low = round_clamp(all[i] * inverse, -8, 7) + 8, high = round_clamp(all[i + 16] * inverse, -8, 7) + 8;
        block[2 + i] = static_cast<uint8_t>(low | high << 4);
    }
    if (i == 0) store2(block, d);
}

} // namespace HT_BUILD
#endif
