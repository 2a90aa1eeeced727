/* Decode class: the first half of an FFN in one launch: gate and up rows of a neuron by one warp, the activation, and h
 * quantised where the second half wants it so. A block owns 32 neighbouring neurons: one activation block of h. */
#include "gpu/kernels/activation.cuh"
#include "gpu/kernels/dot.cuh"
#include "gpu/kernels/quantize.cuh"

namespace HT_BUILD {

constexpr int GLU_WARPS = 8;
constexpr int GLU_NEURONS = 32; /* of a block */

struct GluArgs {
    const uint8_t *gate, *up;
    int64_t row_bytes;
    const float *gate_bias, *up_bias;
    float *h;
    uint8_t *h_q8;
    int f, activation;
    Columns x;
};

template <class T, int NC, bool Q8> __global__ void __launch_bounds__(32 * GLU_WARPS) glu(GluArgs a)
{
    __shared__ float h[NC][GLU_NEURONS];
    const int warp = static_cast<int>(threadIdx.x / 32), first = static_cast<int>(blockIdx.x) * GLU_NEURONS;

    for (int i = warp; i < GLU_NEURONS; i += GLU_WARPS) {
        const int r = first + i;
        if (r >= a.f) break; /* whole warps */
        float gate[NC], up[NC];
        dot_row<T, NC, Q8>(a.up + r * a.row_bytes, a.x, up);
        if (a.gate) dot_row<T, NC, Q8>(a.gate + r * a.row_bytes, a.x, gate);
        for (int c = 0; c < NC; c++) {
            if (lane_id() != c || c >= a.x.n) continue;
            const float u = a.up_bias ? up[c] + a.up_bias[r] : up[c];
            const float v = a.gate ? activate(a.activation, a.gate_bias ? gate[c] + a.gate_bias[r] : gate[c]) * u
                                   : activate(a.activation, u);
            h[c][i] = v;
            a.h[static_cast<int64_t>(c) * a.f + r] = v;
        }
    }
    if (!a.h_q8) return;
    __syncthreads();
    for (int c = warp; c < a.x.n; c += GLU_WARPS)
        quantize_block(a.h_q8 + c * HT_K_ACT_STRIDE(a.f), a.f, static_cast<int>(blockIdx.x), h[c][lane_id()]);
}

static int start_columns(const ht_k_glu *k, int first, int n, void *stream)
{
    const int blocks = (k->f + GLU_NEURONS - 1) / GLU_NEURONS;
    const double bytes = (k->gate ? 2.0 : 1.0) * k->f * static_cast<double>(k->row_bytes) +
                         static_cast<double>(n) * (static_cast<double>(k->x_bytes) + 5.0 * k->f);
    const GluArgs a = {
        static_cast<const uint8_t *>(k->gate),
        static_cast<const uint8_t *>(k->up),
        k->row_bytes,
        k->gate_bias,
        k->up_bias,
        k->h + static_cast<int64_t>(first) * k->f,
        k->h_q8 ? static_cast<uint8_t *>(k->h_q8) + first * HT_K_ACT_STRIDE(k->f) : nullptr,
        k->f,
        k->activation,
        Columns{static_cast<const uint8_t *>(k->x) + first * k->x_bytes, k->x_bytes, n, k->cols},
    };
    if (k->h_q8 && k->f % 32) return BAD_ARGUMENT;
#define RUN(T, NC, Q8) HT_LAUNCH((glu<T, NC, Q8>), dim3(blocks), dim3(32 * GLU_WARPS), 0, bytes, stream, a)
#define FLOATS(T) return HT_FOR_COLUMNS(T, false, n, RUN)
#define BLOCKS(T) return k->q8 ? HT_FOR_COLUMNS(T, true, n, RUN) : HT_FOR_COLUMNS(T, false, n, RUN)
    switch (k->type) {
        HT_FOR_FLOAT_TYPE(FLOATS)
        HT_FOR_BLOCK_TYPE(BLOCKS)
    default: return BAD_ARGUMENT;
    }
#undef RUN
#undef FLOATS
#undef BLOCKS
}

static int start_glu(const ht_k_glu *k, void *stream)
{
    int r = 0;
    for (int c = 0; c < k->n && !r; c += HT_K_COLUMNS)
        r = start_columns(k, c, k->n - c < HT_K_COLUMNS ? k->n - c : HT_K_COLUMNS, stream);
    return r;
}

} // namespace HT_BUILD

extern "C" void HT_FILL(glu)(ht_gpu_kernels *k) { k->glu = HT_BUILD::start_glu; }
