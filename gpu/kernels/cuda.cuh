/* What every kernel file includes first: CUDA itself under nvcc, the emulation under a host compiler, and the few
 * wrappers that exist on both sides. Kernel files live in namespace HT_BUILD, so that both builds of them can be in
 * one program.
 *
 *   HT_LAUNCH(kernel, grid, block, shared_bytes, traffic_bytes, stream, args...)   0 or the device's error code
 *   HT_SHARED(type, name)        the launch's dynamic shared memory
 */
#ifndef HEARTH_GPU_KERNELS_CUDA_CUH
#define HEARTH_GPU_KERNELS_CUDA_CUH

#ifdef __CUDACC__
#define HT_BUILD ht_cuda
#define HT_FILL(family) ht_gpu_fill_##family##_cuda
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#define HT_LAUNCH(kernel, grid, block, shared, bytes, stream, ...)                                                  \
    (::ht_cuda::allow_shared(kernel, shared),                                                                         \
     (kernel)<<<grid, block, shared, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__), (void)(bytes),              \
     static_cast<int>(cudaGetLastError()))
#define HT_SHARED(type, name)                                                                                       \
    extern __shared__ __align__(128) unsigned char ht_dynamic_shared[];                                             \
    type *const name = reinterpret_cast<type *>(ht_dynamic_shared)

namespace ht_cuda {

/* More shared memory than every GPU gives has to be asked for. Where there is not as much, the launch fails. */
template <class Kernel> static inline void allow_shared(Kernel *kernel, size_t bytes)
{
    if (bytes > (48u << 10))
        (void)cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
}

__device__ __forceinline__ float half_to_float(uint16_t h) { return __half2float(__ushort_as_half(h)); }
__device__ __forceinline__ uint16_t float_to_half(float f) { return __half_as_ushort(__float2half_rn(f)); }
__device__ __forceinline__ int lane_id() { return static_cast<int>(threadIdx.x & 31); } /* blocks are flat */

/* N words (2 or 4) in one load, from a multiple of their bytes; four in one store. */
template <int N> __device__ __forceinline__ void load_aligned(const void *p, int *q)
{
    if constexpr (N == 4) {
        const int4 a = *static_cast<const int4 *>(p);
        q[0] = a.x, q[1] = a.y, q[2] = a.z, q[3] = a.w;
    } else {
        static_assert(N == 2, "the widths that GPUs have");
        const int2 a = *static_cast<const int2 *>(p);
        q[0] = a.x, q[1] = a.y;
    }
}
__device__ __forceinline__ void store_aligned4(void *p, unsigned a, unsigned b, unsigned c, unsigned d)
{
    *static_cast<uint4 *>(p) = make_uint4(a, b, c, d);
}
/* Byte i of a word, less 128. Conversions of integers are slow: the byte becomes the last of 2^23 + it. */
__device__ __forceinline__ float biased_byte_of(unsigned word, int i)
{
    return __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7540u | static_cast<unsigned>(i))) - 8388736.0f;
}
/* Byte i of a word, signed. */
__device__ __forceinline__ float byte_of(int word, int i)
{
    return biased_byte_of(static_cast<unsigned>(word) ^ 0x80808080u, i);
}
/* Two floats as F16, the first in the low half. */
__device__ __forceinline__ unsigned pack_halves(float low, float high)
{
    const __half2 h = __floats2half2_rn(low, high);
    return __half_as_ushort(__low2half(h)) | static_cast<unsigned>(__half_as_ushort(__high2half(h))) << 16;
}
/* Arithmetic on two F16 at a time; each result is rounded once. */
__device__ __forceinline__ __half2 half2_of(unsigned bits) { return *reinterpret_cast<__half2 *>(&bits); }
__device__ __forceinline__ unsigned bits_of(__half2 h) { return *reinterpret_cast<unsigned *>(&h); }
__device__ __forceinline__ unsigned half2_mul(unsigned a, unsigned b) { return bits_of(__hmul2_rn(half2_of(a), half2_of(b))); }
__device__ __forceinline__ unsigned half2_fma(unsigned a, unsigned b, unsigned c)
{
    return bits_of(__hfma2(half2_of(a), half2_of(b), half2_of(c)));
}
/* Bytes i and i + 1 of a word (i is 0 or 2), less 128, as two F16: the bytes become the last of 1024 + them. */
__device__ __forceinline__ unsigned biased_bytes_to_halves(unsigned word, int i)
{
    return bits_of(__hadd2_rn(half2_of(__byte_perm(word, 0x64646464u, i ? 0x4342u : 0x4140u)), half2_of(0xe480e480u)));
}

/* 16 bytes from global to shared memory, of which only the first `bytes` are read, the others zeros; landed after the
 * wait. Plain copies before sm_80. */
__device__ __forceinline__ void cp_async16(void *shared, const void *global, int bytes = 16)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(
                     static_cast<unsigned>(__cvta_generic_to_shared(shared))),
                 "l"(global), "r"(bytes)
                 : "memory");
#else
    if (bytes == 16) {
        *static_cast<uint4 *>(shared) = *static_cast<const uint4 *>(global);
    } else {
        for (int i = 0; i < 16; i++)
            static_cast<uint8_t *>(shared)[i] = i < bytes ? static_cast<const uint8_t *>(global)[i] : 0;
    }
#endif
}
__device__ __forceinline__ void cp_async_commit()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int N> __device__ __forceinline__ void cp_async_wait()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}
/* Counts the blocks that come here, each with all its threads; true in the last of n, which then sees (by load_fresh)
 * what the others wrote before. The counter is zero again after it. */
__device__ __forceinline__ bool last_to_arrive(int32_t *counter, int n)
{
    __shared__ int last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(counter, 1) == n - 1;
        if (last) *counter = 0;
    }
    __syncthreads();
    __threadfence();
    return last != 0;
}
/* Past the first-level cache, which may hold what was there before another block wrote. */
__device__ __forceinline__ float load_fresh(const float *p) { return __ldcg(p); }
/* A warp's part of a tile in shared memory: 16 rows of 16 F16 elements from `row` and piece `piece` on, where tile(row, i,
 * piece) is the address of 8 elements of row + i, a multiple of 16 bytes. As the A of mma_16x8x16, or (not A) as two Bs one
 * after the other, a row being a column of theirs. */
template <bool A, class Tile>
__device__ __forceinline__ void load_fragment(unsigned (&r)[4], const Tile &tile, int row, int piece)
{
    const int m = lane_id() / 8, down = A ? m & 1 : m >> 1, right = A ? m >> 1 : m & 1;
    const unsigned *from = tile(row, lane_id() % 8 + 8 * down, piece + right);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(static_cast<unsigned>(__cvta_generic_to_shared(from)))
                 : "memory");
}
/* D (16, 8) += A (16, 16) B (16, 8) by one warp; fragments as PTX lays them out. sm_75 does it in two steps of half the
 * depth: their fragments are the halves of ours. */
__device__ __forceinline__ void mma_16x8x16(float (&d)[4], const unsigned (&a)[4], const unsigned *b)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
#pragma unroll
    for (int h = 0; h < 2; h++)
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[2 * h]), "r"(a[2 * h + 1]), "r"(b[h]));
#endif
}

} // namespace ht_cuda

#else
#define HT_BUILD ht_emu
#define HT_FILL(family) ht_gpu_fill_##family##_emu
#include "gpu/emu/cuda_on_host.cuh"
#endif

#include "gpu/kernels.h"

#endif
