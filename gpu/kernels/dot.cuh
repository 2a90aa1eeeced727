/* The dot product of one stored row with up to NC columns, by one warp: the heart of the decode class. Lane l takes
 * chunks l, l + 32, ... (floats: elements), and the lanes' sums meet in the butterfly, so a column's sum has one order
 * whatever NC is. */
#ifndef HEARTH_GPU_KERNELS_DOT_CUH
#define HEARTH_GPU_KERNELS_DOT_CUH

#include "gpu/kernels/unpack.cuh"
#include "gpu/kernels/warp.cuh"

namespace HT_BUILD {

/* Columns of activations: F32, or quantised rows (blocks.h). Reading past the last column repeats it. */
struct Columns {
    const uint8_t *x;
    int64_t bytes;
    int n, cols;
    __device__ __forceinline__ const uint8_t *at(int c) const { return x + (c < n ? c : n - 1) * bytes; }
};

/* 16 bytes, 16-byte aligned, in one load. */
__device__ __forceinline__ void load16(const uint8_t *p, int *q)
{
#ifdef __CUDACC__
    const int4 a = *reinterpret_cast<const int4 *>(p);
    q[0] = a.x, q[1] = a.y, q[2] = a.z, q[3] = a.w;
#else
    for (int i = 0; i < 4; i++) q[i] = reinterpret_cast<const int *>(p)[i];
#endif
}
__device__ __forceinline__ void load_quants(const uint8_t *p, int (&q)[8])
{
    load16(p, q);
    load16(p + 16, q + 4);
}

/* One chunk of weights with the same chunk of a quantised column. */
template <class T> __device__ __forceinline__ float dot_chunk_q8(const Chunk &w, const uint8_t *column, int64_t c, int cols)
{
    const float *scales = reinterpret_cast<const float *>(column + cols), *sums = scales + cols / HT_QK;
    int x[8], s[2] = {0, 0};
    load_quants(column + 32 * c, x);
    for (int i = 0; i < 8; i++) s[T::HALVES ? i / 4 : 0] = __dp4a(w.q[i], x[i], s[T::HALVES ? i / 4 : 0]);
    float v = w.scale[0] * static_cast<float>(s[0]);
    if (T::HALVES) v += w.scale[1] * static_cast<float>(s[1]);
    if (T::HALVES && T::MINIMUM) {
        int t[2] = {0, 0};
        for (int i = 0; i < 8; i++) t[i / 4] = __dp4a(0x01010101, x[i], t[i / 4]);
        v += w.offset[0] * static_cast<float>(t[0]) + w.offset[1] * static_cast<float>(t[1]);
    }
    v *= scales[c];
    if (T::MINIMUM && !T::HALVES) v += w.offset[0] * sums[c];
    return v;
}

/* One chunk of weights with the same chunk of an F32 column. */
template <class T> __device__ __forceinline__ float dot_chunk_f32(const Chunk &w, const uint8_t *column, int64_t c)
{
    const float *x = reinterpret_cast<const float *>(column) + 32 * c;
    float v = 0.0f;
    for (int h = 0; h < 2; h++) {
        float s = 0.0f, t = 0.0f;
        for (int i = 16 * h; i < 16 * h + 16; i++) {
            s += byte_of(w.q[i / 4], i % 4) * x[i];
            t += x[i];
        }
        v += w.scale[T::HALVES ? h : 0] * s;
        if (T::MINIMUM) v += w.offset[T::HALVES ? h : 0] * t;
    }
    return v;
}

/* Every lane gets the sums. Called by whole warps. */
template <class T, int NC, bool Q8>
__device__ __forceinline__ void dot_row(const uint8_t *row, const Columns &x, float (&sum)[NC])
{
    for (int c = 0; c < NC; c++) sum[c] = 0.0f;
    /* Not unrolled beyond what is written: with 8 columns the registers are worth more, and every type would be built
     * several times over. */
    if constexpr (T::FLOAT) {
#pragma unroll 2
        for (int k = lane_id(); k < x.cols; k += 32) {
            const float w = T::at(row, k);
            for (int c = 0; c < NC; c++) sum[c] += w * reinterpret_cast<const float *>(x.at(c))[k];
        }
    } else {
#pragma unroll 1
        for (int k = lane_id(); k < x.cols / 32; k += 32) {
            Chunk w;
            T::chunk(row, k, w);
            for (int c = 0; c < NC; c++)
                sum[c] += Q8 ? dot_chunk_q8<T>(w, x.at(c), k, x.cols) : dot_chunk_f32<T>(w, x.at(c), k);
        }
    }
    for (int c = 0; c < NC; c++) sum[c] = warp_reduce<Add>(sum[c]);
}

/* RUN(T, NC, Q8) with the narrowest instance that holds n columns. */
#define HT_FOR_COLUMNS(T, Q8, n, RUN)                                                                                \
    ((n) == 1 ? RUN(T, 1, Q8) : (n) <= 4 ? RUN(T, 4, Q8) : RUN(T, 8, Q8))

} // namespace HT_BUILD
#endif
