/* Norms of a column by a block of NORM_THREADS, and what is made of the result. The same code in a launch of its own
 * (norm.cu) and ahead of a product (dot.cuh), so that both give the same bits. */
#ifndef HEARTH_GPU_KERNELS_NORM_CUH
#define HEARTH_GPU_KERNELS_NORM_CUH

#include "gpu/kernels/quantize.cuh"

namespace HT_BUILD {

constexpr int NORM_THREADS = 256;

/* The norm as an affine map of each element. */
struct Affine {
    const float *x, *gain, *bias;
    float mean, factor;
    __device__ __forceinline__ float operator()(int i) const
    {
        float v = (x[i] - mean) * factor;
        if (gain) v *= gain[i];
        return bias ? v + bias[i] : v;
    }
    /* Elements [i, i + 4), i a multiple of 4, of columns that begin at a multiple of 16 bytes. */
    __device__ __forceinline__ void four(int i, float (&v)[4]) const
    {
        int a[4], g[4] = {}, b[4] = {};
        load_aligned<4>(x + i, a);
        if (gain) load_aligned<4>(gain + i, g);
        if (bias) load_aligned<4>(bias + i, b);
        for (int j = 0; j < 4; j++) {
            v[j] = (float_of(a[j]) - mean) * factor;
            if (gain) v[j] *= float_of(g[j]);
            if (bias) v[j] += float_of(b[j]);
        }
    }
    static __device__ __forceinline__ float float_of(int bits) { return __uint_as_float(static_cast<unsigned>(bits)); }
};

/* `scratch`: shared, an element a warp. */
static __device__ Affine find_norm(const ht_k_affine &a, const float *x, int cols, float *scratch)
{
    Affine f = {x, a.gain, a.bias, 0.0f, 1.0f};
    if (a.kind == HT_K_NORM_NONE) return f;

    float sum = 0.0f;
    if (a.kind == HT_K_NORM_LAYER) {
        for (int i = static_cast<int>(threadIdx.x); i < cols; i += NORM_THREADS) sum += x[i];
        f.mean = block_reduce<Add>(sum, scratch) / static_cast<float>(cols);
        sum = 0.0f;
    }
    for (int i = static_cast<int>(threadIdx.x); i < cols; i += NORM_THREADS) {
        const float v = x[i] - f.mean;
        sum += v * v;
    }
    f.factor = 1.0f / sqrtf(block_reduce<Add>(sum, scratch) / static_cast<float>(cols) + a.eps);
    return f;
}

__device__ __forceinline__ void write_floats(const Affine &f, int cols, float *out)
{
    for (int i = static_cast<int>(threadIdx.x); i < cols; i += NORM_THREADS) out[i] = f(i);
}

/* cols: a multiple of 32. */
__device__ __forceinline__ void write_blocks(const Affine &f, int cols, uint8_t *row)
{
    for (int begin = 0; begin < cols; begin += 4 * NORM_THREADS) { /* whole warps */
        const int i = begin + 4 * static_cast<int>(threadIdx.x);
        float v[4] = {};
        if (i < cols) f.four(i, v);
        quantize_four(row, cols, i, v, i < cols);
    }
}

} // namespace HT_BUILD
#endif
