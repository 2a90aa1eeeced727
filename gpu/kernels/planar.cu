/* An experiment, for the open question of one weight format (design D1): the decode product on rows whose quants come
 * first and whose scales follow (the same bytes, rearranged), so that a lane reads its chunk in whole 16-byte pieces.
 * Used by nothing but tests/gpu/gpu_check, which measures it against the interleaved blocks. The sums are those of
 * matvec.cu, bit for bit. */
#include "gpu/kernels/dot.cuh"

namespace HT_BUILD {

constexpr int PLANAR_ROWS = 8;

struct PlanarArgs {
    const uint8_t *w;
    int64_t row_bytes;
    float *y;
    int rows;
    Columns x;
};

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
    load16(row + 16 * c, packed);
    for (int i = 0; i < 4; i++) {
        o.q[i] = minus4(low_nibbles(packed[i]), 8);
        o.q[i + 4] = minus4(high_nibbles(packed[i]), 8);
    }
    o.scale[0] = load_half(row + 16 * n + 2 * c);
}

template <class T, int NC> __global__ void __launch_bounds__(32 * PLANAR_ROWS) matvec_planar(PlanarArgs a)
{
    const int r = static_cast<int>(blockIdx.x) * PLANAR_ROWS + static_cast<int>(threadIdx.x / 32);
    const int chunks = a.x.cols / 32;
    if (r >= a.rows) return; /* whole warps */

    const uint8_t *row = a.w + r * a.row_bytes;
    float sum[NC] = {};
#pragma unroll 1
    for (int k = lane_id(); k < chunks; k += 32) {
        Chunk w;
        planar_chunk<T>(row, k, chunks, w);
        for (int c = 0; c < NC; c++) sum[c] += dot_chunk_q8<T>(w, a.x.at(c), k, a.x.cols);
    }
    for (int c = 0; c < NC; c++) {
        const float v = warp_reduce<Add>(sum[c]);
        if (lane_id() == c && c < a.x.n) a.y[static_cast<int64_t>(c) * a.rows + r] = v;
    }
}

static int start_planar(const ht_k_matvec *k, void *stream)
{
    const ht_k_rows &o = k->out[0];
    const PlanarArgs a = {static_cast<const uint8_t *>(o.w), o.row_bytes, o.y, o.rows,
                          Columns{static_cast<const uint8_t *>(k->x), k->x_bytes, k->n, k->cols}};
    const dim3 grid((o.rows + PLANAR_ROWS - 1) / PLANAR_ROWS);
    const double bytes = static_cast<double>(o.rows) * static_cast<double>(o.row_bytes);

    if (!k->q8 || k->n_out != 1 || o.bias || k->add || k->n > HT_K_COLUMNS || o.row_bytes % 16) return BAD_ARGUMENT;
#define RUN(T, NC, Q8) HT_LAUNCH((matvec_planar<T, NC>), grid, dim3(32 * PLANAR_ROWS), 0, bytes, stream, a)
    switch (k->type) {
    case HT_Q4_0: return HT_FOR_COLUMNS(Q4_0, true, k->n, RUN);
    case HT_Q8_0: return HT_FOR_COLUMNS(Q8_0, true, k->n, RUN);
    default: return BAD_ARGUMENT;
    }
#undef RUN
}

} // namespace HT_BUILD

extern "C" void HT_FILL(planar)(ht_gpu_kernels *k) { k->matvec_planar = HT_BUILD::start_planar; }
