/* An experiment, for the question whether rows stay GGUF blocks on a GPU too: the decode product on rows whose quants come
 * first and whose scales follow (the same bytes, rearranged), so that a lane reads its chunk in whole 16-byte pieces.
 * Used by nothing but tests/gpu/gpu_check, which measures it against the interleaved blocks. The sums are those of
 * matvec.cu, bit for bit. */
#include "gpu/kernels/dot.cuh"

namespace HT_BUILD {

/* Chunk c of a planar row of n chunks. */
template <class T> __device__ __forceinline__ void planar_chunk(const uint8_t *row, int64_t c, int64_t n, Chunk &o);
template <> __device__ __forceinline__ void planar_chunk<Q8_0>(const uint8_t *row, int64_t c, int64_t n, Chunk &o)
{
    load_quants(row + 32 * c, o.q);
    o.scale[0] = load_half(row + 32 * n + 2 * c);
}
template <> __device__ __forceinline__ void planar_chunk<Q4_0>(const uint8_t *row, int64_t c, int64_t n, Chunk &o)
{
    int packed[4];
    load_aligned<4>(row + 16 * c, packed);
    for (int i = 0; i < 4; i++) {
        o.q[i] = minus4(low_nibbles(packed[i]), 8);
        o.q[i + 4] = minus4(high_nibbles(packed[i]), 8);
    }
    o.scale[0] = load_half(row + 16 * n + 2 * c);
}

template <class T, int NC> __global__ void __launch_bounds__(DECODE_THREADS) matvec_planar(ht_k_rows o, ht_k_columns a)
{
    const Columns x = open_columns<true>(a);
    const int chunks = x.cols / 32;
    const int64_t step = static_cast<int64_t>(gridDim.x) * DECODE_WARPS;

    for (int64_t r = static_cast<int64_t>(blockIdx.x) * DECODE_WARPS + threadIdx.x / 32; r < o.rows; r += step) {
        const uint8_t *row = static_cast<const uint8_t *>(o.w) + r * o.row_bytes;
        float sum[NC] = {};
#pragma unroll(NC == 1 ? 2 : 1)
        for (int k = lane_id(); k < chunks; k += 32) {
            Chunk w;
            planar_chunk<T>(row, k, chunks, w);
            for (int c = 0; c < NC; c++) sum[c] += dot_chunk_q8<T>(w, x.at(c), k, x.cols);
        }
        for (int c = 0; c < NC; c++) {
            const float v = warp_reduce<Add>(sum[c]);
            if (lane_id() == c && c < x.n) o.y[c * o.rows + r] = v;
        }
    }
}

static int start_planar(const ht_k_matvec *k, void *stream)
{
    const ht_k_rows o = k->out[0];
    const ht_k_columns x = k->x;
    const unsigned blocks = blocks_for(x, (o.rows + DECODE_WARPS - 1) / DECODE_WARPS);
    const double bytes = static_cast<double>(o.rows) * static_cast<double>(o.row_bytes) + traffic_of(x);

    if (!x.q8 || !columns_fit(x) || k->n_out != 1 || o.bias || k->add || x.n > HT_K_COLUMNS || o.row_bytes % 16)
        return BAD_ARGUMENT;
#define RUN(T, NC, Q8) HT_LAUNCH((matvec_planar<T, NC>), dim3(blocks), dim3(DECODE_THREADS), shared_for(x), bytes, stream, o, x)
    switch (k->type) {
    case HT_Q4_0: return HT_FOR_COLUMNS(Q4_0, true, x.n, RUN);
    case HT_Q8_0: return HT_FOR_COLUMNS(Q8_0, true, x.n, RUN);
    default: return BAD_ARGUMENT;
    }
#undef RUN
}

} // namespace HT_BUILD

extern "C" void HT_FILL(planar)(ht_gpu_kernels *k) { k->matvec_planar = HT_BUILD::start_planar; }
