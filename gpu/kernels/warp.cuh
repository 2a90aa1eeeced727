/* Reductions over a warp and a block, in one fixed order: the xor butterfly, then warps in order. */
#ifndef HEARTH_GPU_KERNELS_WARP_CUH
#define HEARTH_GPU_KERNELS_WARP_CUH

#include "gpu/kernels/cuda.cuh"

namespace HT_BUILD {

#define HT_WARP_ALL 0xffffffffu

struct Add {
    template <class T> static __device__ __forceinline__ T of(T a, T b) { return a + b; }
};
struct Max {
    template <class T> static __device__ __forceinline__ T of(T a, T b) { return a < b ? b : a; }
};

/* Every lane gets the reduction of all 32. */
template <class Op, class T> __device__ __forceinline__ T warp_reduce_by_shuffles(T v)
{
    for (int x = 16; x; x /= 2) v = Op::of(v, __shfl_xor_sync(HT_WARP_ALL, v, x));
    return v;
}
template <class Op, class T> __device__ __forceinline__ T warp_reduce(T v)
{
#ifdef __CUDACC__
    return warp_reduce_by_shuffles<Op>(v);
#else
    return butterfly<Op>(v);
#endif
}

/* Every thread gets the reduction over the block. `scratch`: shared, one element a warp; free again on return. */
template <class Op, class T> __device__ __forceinline__ T block_reduce(T v, T *scratch)
{
    const int warps = static_cast<int>(blockDim.x / 32), warp = static_cast<int>(threadIdx.x / 32);
    v = warp_reduce<Op>(v);
    if (lane_id() == 0) scratch[warp] = v;
    __syncthreads();
    v = scratch[0];
    for (int w = 1; w < warps; w++) v = Op::of(v, scratch[w]);
    __syncthreads();
    return v;
}

} // namespace HT_BUILD
#endif
