/* KV rows in their cache types: reading an element, storing a row. */
#ifndef HEARTH_GPU_KERNELS_KV_CUH
#define HEARTH_GPU_KERNELS_KV_CUH

#include "gpu/kernels/quantize.cuh"
#include "gpu/kernels/unpack.cuh"

namespace HT_BUILD {

template <class T> __device__ __forceinline__ float kv_at(const uint8_t *row, int i) { return T::at(row, i); }
template <> __device__ __forceinline__ float kv_at<Q8_0>(const uint8_t *row, int i)
{
    const uint8_t *b = row + i / 32 * Q8_0::BYTES;
    return load_half(b) * static_cast<float>(static_cast<int8_t>(b[2 + i % 32]));
}
template <> __device__ __forceinline__ float kv_at<Q4_0>(const uint8_t *row, int i)
{
    const uint8_t *b = row + i / 32 * Q4_0::BYTES;
    const int nibble = i % 32 < 16 ? b[2 + i % 16] & 15 : b[2 + i % 16] >> 4;
    return load_half(b) * static_cast<float>(nibble - 8);
}

/* The page of a column's token, or of any token of its sequence. */
__device__ __forceinline__ const uint8_t *page_of(const ht_k_pages &p, int sequence, int tile)
{
    return static_cast<const uint8_t *>(p.page[p.table[static_cast<int64_t>(sequence) * p.stride + tile]]);
}

} // namespace HT_BUILD
#endif
