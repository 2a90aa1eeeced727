/* Activation functions: those of core/base/math.h, the same for C and CUDA. */
#ifndef HEARTH_GPU_KERNELS_ACTIVATION_CUH
#define HEARTH_GPU_KERNELS_ACTIVATION_CUH

#include "core/base/math.h"
#include "gpu/kernels/cuda.cuh"

namespace HT_BUILD {

__device__ __forceinline__ float activate(int kind, float x)
{
    switch (kind) {
    case HT_K_SILU: return ht_siluf(x);
    case HT_K_RELU: return x > 0.0f ? x : 0.0f;
    case HT_K_GELU: return ht_geluf(x);
    default: return ht_gelu_tanhf(x);
    }
}

} // namespace HT_BUILD
#endif
