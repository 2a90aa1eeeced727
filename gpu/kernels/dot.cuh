/* The dot product of stored rows with up to NC columns, by one warp: the heart of the decode class. Lane l takes
 * chunks l, l + 32, ... (floats: elements), and the lanes' sums meet in the butterfly, so a column's sum has one order
 * whatever NC is. Also what all launches of that class share: their columns, and the choice of the instance. */
#ifndef HEARTH_GPU_KERNELS_DOT_CUH
#define HEARTH_GPU_KERNELS_DOT_CUH

#include "gpu/kernels/norm.cuh"
#include "gpu/kernels/unpack.cuh"

namespace HT_BUILD {

constexpr int DECODE_THREADS = NORM_THREADS, DECODE_WARPS = DECODE_THREADS / 32;

/* Columns of activations: F32, or quantised rows (blocks.h). Reading past the last column repeats it. */
struct Columns {
    const uint8_t *x;
    int64_t bytes;
    int n, cols;
    __device__ __forceinline__ const uint8_t *at(int c) const { return x + (c < n ? c : n - 1) * bytes; }
};

static __host__ __device__ int64_t fused_stride(const ht_k_columns &k)
{
    return k.q8 ? static_cast<int64_t>(HT_K_ACT_STRIDE(k.cols)) : k.cols * static_cast<int64_t>(sizeof(float));
}

/* The columns of a launch of DECODE_THREADS: where they lie, or fused. Called by the whole block. */
template <bool Q8> __device__ __forceinline__ Columns open_columns(const ht_k_columns &k)
{
    if (!k.fused) return Columns{static_cast<const uint8_t *>(k.x), k.bytes, k.n, k.cols};
    HT_SHARED(uint8_t, memory);
    __shared__ float scratch[DECODE_WARPS];
    const int64_t stride = fused_stride(k);
    for (int c = 0; c < k.n; c++) {
        const float *x = reinterpret_cast<const float *>(static_cast<const uint8_t *>(k.x) + c * k.bytes);
        const Affine f = find_norm(k.norm, x, k.cols, scratch);
        if (Q8) write_blocks(f, k.cols, memory + c * stride);
        else write_floats(f, k.cols, reinterpret_cast<float *>(memory + c * stride));
    }
    __syncthreads();
    return Columns{memory, stride, k.n, k.cols};
}

/* Columns [first, first + n) of a launch's arguments. */
static inline ht_k_columns part_of(const ht_k_columns &k, int first, int n)
{
    ht_k_columns part = k;
    part.x = static_cast<const uint8_t *>(k.x) + first * k.bytes;
    part.n = n;
    return part;
}

/* The blocks that a launch with `work` pieces of work gets, its shared memory, and its traffic for the columns. */
static inline unsigned blocks_for(const ht_k_columns &k, int64_t work)
{
    return static_cast<unsigned>(k.fused && k.blocks && k.blocks < work ? k.blocks : work);
}
static inline size_t shared_for(const ht_k_columns &k) { return k.fused ? static_cast<size_t>(fused_stride(k)) * k.n : 0; }
static inline double traffic_of(const ht_k_columns &k) { return static_cast<double>(k.bytes) * k.n; }
static inline bool columns_fit(const ht_k_columns &k)
{
    return (!k.fused || ht_k_can_fuse(k.cols, k.n, k.q8)) && (!k.q8 || k.cols % 32 == 0);
}

/* START(part of the columns, their first), HT_K_COLUMNS at a time; the first code that is not 0. */
template <class Start> static inline int for_columns(const ht_k_columns &k, Start start)
{
    int r = columns_fit(k) ? 0 : BAD_ARGUMENT;
    for (int c = 0; c < k.n && !r; c += HT_K_COLUMNS)
        r = start(part_of(k, c, k.n - c < HT_K_COLUMNS ? k.n - c : HT_K_COLUMNS), c);
    return r;
}

__device__ __forceinline__ void load_quants(const uint8_t *p, int (&q)[8])
{
    load_aligned<4>(p, q);
    load_aligned<4>(p + 16, q + 4);
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

/* R rows at once, which share the loads of x; every lane gets the sums. Called by whole warps. All loops over rows and
 * columns are unrolled: the sums are registers. */
template <class T, int R, int NC, bool Q8>
__device__ __forceinline__ void dot_rows(const uint8_t *const (&row)[R], const Columns &x, float (&sum)[R][NC])
{
#pragma unroll
    for (int i = 0; i < R * NC; i++) sum[i / NC][i % NC] = 0.0f;
    /* With several columns registers are worth more than loads in flight. */
    if constexpr (T::FLOAT) {
#pragma unroll(R * NC == 1 ? 8 : 2)
        for (int k = lane_id(); k < x.cols; k += 32) {
            float w[R];
#pragma unroll
            for (int r = 0; r < R; r++) w[r] = T::at(row[r], k);
#pragma unroll
            for (int c = 0; c < NC; c++) {
                const float v = reinterpret_cast<const float *>(x.at(c))[k];
#pragma unroll
                for (int r = 0; r < R; r++) sum[r][c] += w[r] * v;
            }
        }
    } else {
#pragma unroll(R * NC == 1 ? 2 : 1)
        for (int k = lane_id(); k < x.cols / 32; k += 32) {
            Chunk w[R];
#pragma unroll
            for (int r = 0; r < R; r++) T::chunk(row[r], k, w[r]);
#pragma unroll
            for (int c = 0; c < NC; c++)
#pragma unroll
                for (int r = 0; r < R; r++)
                    sum[r][c] += Q8 ? dot_chunk_q8<T>(w[r], x.at(c), k, x.cols) : dot_chunk_f32<T>(w[r], x.at(c), k);
        }
    }
#pragma unroll
    for (int i = 0; i < R * NC; i++) sum[i / NC][i % NC] = warp_reduce<Add>(sum[i / NC][i % NC]);
}

/* Element `at` of the sums, which are registers. */
template <int NC> __device__ __forceinline__ float pick(const float (&sum)[NC], int at)
{
    float v = sum[0];
#pragma unroll
    for (int c = 1; c < NC; c++) v = at == c ? sum[c] : v;
    return v;
}

/* RUN(T, NC, Q8) with the narrowest instance that holds n columns. */
#define HT_FOR_COLUMNS(T, Q8, n, RUN)                                                                                \
    ((n) == 1 ? RUN(T, 1, Q8) : (n) <= 4 ? RUN(T, 4, Q8) : RUN(T, 8, Q8))

/* Returns RUN(T, NC, Q8) for a type and columns `x`: to end a starter with. RUN is defined by who uses it. */
#define HT_DECODE_FLOATS(T) return HT_FOR_COLUMNS(T, false, x.n, RUN)
#define HT_DECODE_BLOCKS(T) return x.q8 ? HT_FOR_COLUMNS(T, true, x.n, RUN) : HT_FOR_COLUMNS(T, false, x.n, RUN)
#define HT_RETURN_DECODE(type)                                                                                       \
    switch (type) {                                                                                                   \
        HT_FOR_FLOAT_TYPE(HT_DECODE_FLOATS)                                                                           \
        HT_FOR_BLOCK_TYPE(HT_DECODE_BLOCKS)                                                                           \
    default: return BAD_ARGUMENT;                                                                                     \
    }

} // namespace HT_BUILD
#endif
