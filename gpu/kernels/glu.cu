/* Decode class: the first half of an FFN in one launch: the norm, gate and up rows of a neuron by one warp, the
 * activation, and h quantised where the second half wants it so. A block does 32 neighbouring neurons at a time: one
 * activation block of h. */
#include "gpu/kernels/activation.cuh"
#include "gpu/kernels/dot.cuh"

namespace HT_BUILD {

constexpr int GLU_NEURONS = 32;
constexpr int GLU_BLOCKS = 2; /* a multiprocessor holds at least: loads in flight are worth more than registers */

/* The products of a neuron's up row and, if it has one, gate row: in one pass, but that the weights of two rows as floats are
 * too many registers. */
template <class T, int NC, bool Q8>
__device__ __forceinline__ void dot_both(const uint8_t *up, const uint8_t *gate, const Columns &x, float (&sum)[2][NC])
{
    if ((Q8 || T::FLOAT) && gate) {
        const uint8_t *const rows[2] = {up, gate};
        dot_rows<T, 2, NC, Q8>(rows, x, sum);
        return;
    }
    for (int i = 0; i < (gate ? 2 : 1); i++) {
        const uint8_t *const row[1] = {i ? gate : up};
        float one[1][NC];
        dot_rows<T, 1, NC, Q8>(row, x, one);
#pragma unroll
        for (int c = 0; c < NC; c++) {
            if (i == 0) sum[0][c] = one[0][c];
            sum[1][c] = one[0][c];
        }
    }
}

template <class T, int NC, bool Q8> __global__ void __launch_bounds__(DECODE_THREADS, GLU_BLOCKS) glu(ht_k_glu a)
{
    __shared__ float h[NC][GLU_NEURONS];
    const Columns x = open_columns<Q8>(a.x);
    const uint8_t *gates = static_cast<const uint8_t *>(a.gate), *ups = static_cast<const uint8_t *>(a.up);
    const int warp = static_cast<int>(threadIdx.x / 32), groups = (a.f + GLU_NEURONS - 1) / GLU_NEURONS;

    for (int g = static_cast<int>(blockIdx.x); g < groups; g += static_cast<int>(gridDim.x)) {
        for (int i = warp; i < GLU_NEURONS; i += DECODE_WARPS) {
            const int r = g * GLU_NEURONS + i;
            if (r >= a.f) break; /* whole warps */
            float both[2][NC];
            dot_both<T, NC, Q8>(ups + r * a.row_bytes, gates ? gates + r * a.row_bytes : nullptr, x, both);
            const int c = lane_id(); /* writes its column */
            if (c >= NC || c >= x.n) continue;
            const float u = pick(both[0], c) + (a.up_bias ? a.up_bias[r] : 0.0f);
            const float gate = pick(both[1], c) + (a.gate_bias ? a.gate_bias[r] : 0.0f);
            const float v = gates ? activate(a.activation, gate) * u : activate(a.activation, u);
            h[c][i] = v;
            a.h[static_cast<int64_t>(c) * a.f + r] = v;
        }
        if (!a.h_q8) continue;
        __syncthreads();
        for (int c = warp; c < x.n; c += DECODE_WARPS)
            quantize_block(static_cast<uint8_t *>(a.h_q8) + c * HT_K_ACT_STRIDE(a.f), a.f, g, h[c][lane_id()]);
        __syncthreads(); /* before the next neurons are written */
    }
}

static int start_columns(const ht_k_glu *k, const ht_k_columns &x, int first, void *stream)
{
    const double bytes = (k->gate ? 2.0 : 1.0) * k->f * static_cast<double>(k->row_bytes) + traffic_of(x) + 5.0 * x.n * k->f;
    const int64_t groups = (k->f + GLU_NEURONS - 1) / GLU_NEURONS;
    ht_k_glu a = *k;

    a.x = x;
    a.h += static_cast<int64_t>(first) * k->f;
    if (a.h_q8) a.h_q8 = static_cast<uint8_t *>(a.h_q8) + first * HT_K_ACT_STRIDE(k->f);
    if (k->h_q8 && k->f % 32) return BAD_ARGUMENT;
#define RUN(T, NC, Q8)                                                                                               \
    HT_LAUNCH((glu<T, NC, Q8>), dim3(blocks_for(x, groups)), dim3(DECODE_THREADS), shared_for(x), bytes, stream, a)
    HT_RETURN_DECODE(k->type)
#undef RUN
}

static int start_glu(const ht_k_glu *k, void *stream)
{
    return for_columns(k->x, [=](const ht_k_columns &x, int first) { return start_columns(k, x, first, stream); });
}

} // namespace HT_BUILD

extern "C" void HT_FILL(glu)(ht_gpu_kernels *k) { k->glu = HT_BUILD::start_glu; }
