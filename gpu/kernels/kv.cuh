/* KV rows in their cache types: where they are, and their elements. */
#ifndef HEARTH_GPU_KERNELS_KV_CUH
#define HEARTH_GPU_KERNELS_KV_CUH

#include "gpu/kernels/quantize.cuh"
#include "gpu/kernels/unpack.cuh"

namespace HT_BUILD {

/* Elements [i, i + 4) of a row of e, i a multiple of 4; zeros behind the last. Rows of whole fours are aligned to them. */
template <class T> __device__ __forceinline__ void kv_four(const uint8_t *row, int i, int e, float (&v)[4])
{
    constexpr int N = T::BYTES; /* words of four elements: F32 4, F16 2 */
    if (e % 4) {
        for (int j = 0; j < 4; j++) v[j] = i + j < e ? T::at(row, i + j) : 0.0f;
        return;
    }
    int words[N];
    load_aligned<N>(row + T::BYTES * i, words);
    for (int j = 0; j < 4; j++) v[j] = T::of(words, j);
}
template <> __device__ __forceinline__ void kv_four<Q8_0>(const uint8_t *row, int i, int, float (&v)[4])
{
    const uint8_t *b = row + i / 32 * Q8_0::BYTES, *q = b + 2 + i % 32;
    const float d = load_half(b);
    const int word = load2(q) | static_cast<int>(static_cast<unsigned>(load2(q + 2)) << 16);
    for (int j = 0; j < 4; j++) v[j] = d * byte_of(word, j);
}
template <> __device__ __forceinline__ void kv_four<Q4_0>(const uint8_t *row, int i, int, float (&v)[4])
{
    const uint8_t *b = row + i / 32 * Q4_0::BYTES, *q = b + 2 + i % 16;
    const float d = load_half(b);
    const int word = load2(q) | static_cast<int>(static_cast<unsigned>(load2(q + 2)) << 16);
    const int quants = minus4(i % 32 < 16 ? low_nibbles(word) : high_nibbles(word), 8);
    for (int j = 0; j < 4; j++) v[j] = d * byte_of(quants, j);
}

/* The page of a column's token, or of any token of its sequence. */
__device__ __forceinline__ const uint8_t *page_of(const ht_k_pages &p, int sequence, int tile)
{
    return static_cast<const uint8_t *>(p.page[p.table[static_cast<int64_t>(sequence) * p.stride + tile]]);
}

} // namespace HT_BUILD
#endif
