/* What the tensor cores do when nothing keeps them waiting: products on registers alone. For gpu_check, which measures
 * the prefill against it. */
#include "gpu/kernels/warp.cuh"

namespace HT_BUILD {

constexpr int PROBE_THREADS = 256, PROBE_TILES = 8; /* independent sums of a warp: the latency of one is hidden by the others */

static __global__ void __launch_bounds__(PROBE_THREADS) tensor_probe(ht_k_probe a)
{
    const unsigned x[4] = {0x3c003c00u, 0x3c003c00u, 0x3c003c00u, 0x3c003c00u}, y[2] = {0x3c003c00u, 0x3c003c00u}; /* ones */
    float d[PROBE_TILES][4] = {};
    for (int i = 0; i < a.turns; i++)
        for (int t = 0; t < PROBE_TILES; t++) mma_16x8x16(d[t], x, y);
    float sum = 0.0f;
    for (int t = 0; t < PROBE_TILES; t++) sum += d[t][0] + d[t][1] + d[t][2] + d[t][3];
    a.out[blockIdx.x * PROBE_THREADS + threadIdx.x] = sum; /* so that the sums are made */
}

static int start_probe(const ht_k_probe *k, void *stream)
{
    const ht_k_probe a = *k;
    return HT_LAUNCH(tensor_probe, dim3(a.blocks), dim3(PROBE_THREADS), 0, 0.0, stream, a);
}

} // namespace HT_BUILD

extern "C" void HT_FILL(probe)(ht_gpu_kernels *k) { k->probe = HT_BUILD::start_probe; }
