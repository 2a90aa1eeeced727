/* The small operations: embedding, element-wise activation, gathering columns, the largest of a column. */
#include "gpu/kernels/activation.cuh"
#include "gpu/kernels/unpack.cuh"
#include "gpu/kernels/warp.cuh"

namespace HT_BUILD {

constexpr int THREADS = 256;

/* ---- embedding: a thread expands a chunk ---- */

template <class T> __global__ void __launch_bounds__(THREADS) embed(ht_k_embed a)
{
    const int c = static_cast<int>(blockIdx.x);
    const int chunk = static_cast<int>(blockIdx.y * THREADS + threadIdx.x);
    if (32 * chunk >= a.cols) return;
    float w[32];
    expand<T>(static_cast<const uint8_t *>(a.table) + a.token[c] * a.row_bytes, chunk, a.cols, w);
    float *x = a.x + static_cast<int64_t>(c) * a.cols + 32 * chunk;
    for (int i = 0; i < 32 && 32 * chunk + i < a.cols; i++) x[i] = a.scale * w[i];
}

static int start_embed(const ht_k_embed *k, void *stream)
{
    const ht_k_embed a = *k;
    const dim3 grid(a.n, (a.cols + 32 * THREADS - 1) / (32 * THREADS));
    const double bytes = static_cast<double>(a.n) * (static_cast<double>(a.row_bytes) + 4.0 * a.cols);
#define START(T) return HT_LAUNCH(embed<T>, grid, dim3(THREADS), 0, bytes, stream, a)
    switch (a.type) {
        HT_FOR_FLOAT_TYPE(START)
        HT_FOR_BLOCK_TYPE(START)
    default: return BAD_ARGUMENT;
    }
#undef START
}

/* ---- element-wise ---- */

static __global__ void __launch_bounds__(THREADS) activate_all(ht_k_activate a)
{
    const int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= a.n) return;
    const float v = activate(a.activation, a.g[i]);
    a.h[i] = a.u ? v * a.u[i] : v;
}

static int start_activate(const ht_k_activate *k, void *stream)
{
    const ht_k_activate a = *k;
    const double bytes = static_cast<double>(a.n) * (a.u ? 12.0 : 8.0);
    return HT_LAUNCH(activate_all, dim3(static_cast<unsigned>((a.n + THREADS - 1) / THREADS)), dim3(THREADS), 0, bytes,
                     stream, a);
}

static __global__ void __launch_bounds__(THREADS) gather(ht_k_gather a)
{
    const int c = static_cast<int>(blockIdx.x);
    const float *from = a.src + static_cast<int64_t>(a.columns[c]) * a.cols;
    float *to = a.dst + static_cast<int64_t>(c) * a.cols;
    for (int i = static_cast<int>(threadIdx.x); i < a.cols; i += THREADS) to[i] = from[i];
}

static int start_gather(const ht_k_gather *k, void *stream)
{
    const ht_k_gather a = *k;
    return HT_LAUNCH(gather, dim3(a.m), dim3(THREADS), 0, 8.0 * a.m * a.cols, stream, a);
}

/* ---- top k: one after the other, each the best of what comes after the one before; NaN never ---- */

struct Best {
    float value;
    int index; /* negative: none */
};
/* Whether a comes before b: the larger, of equals the first. */
static __device__ __forceinline__ bool before(Best a, Best b)
{
    if (a.index < 0 || b.index < 0) return b.index < 0 && a.index >= 0;
    return a.value > b.value || (a.value == b.value && a.index < b.index);
}

static __global__ void __launch_bounds__(THREADS) top(ht_k_top a)
{
    __shared__ Best of_thread[THREADS];
    const int t = static_cast<int>(threadIdx.x);
    const float *x = a.x + static_cast<int64_t>(blockIdx.x) * a.cols;
    Best last = {INFINITY, -1};

    for (int k = 0; k < a.k; k++) {
        Best best = {0.0f, -1};
        for (int i = t; i < a.cols; i += THREADS) {
            const Best one = {x[i], i};
            if (one.value == one.value && (k == 0 || before(last, one)) && before(one, best)) best = one;
        }
        of_thread[t] = best;
        __syncthreads();
        for (int step = THREADS / 2; step; step /= 2) {
            if (t < step && before(of_thread[t + step], of_thread[t])) of_thread[t] = of_thread[t + step];
            __syncthreads();
        }
        last = of_thread[0];
        __syncthreads(); /* before the next round writes */
        if (t) continue;
        const int64_t at = static_cast<int64_t>(blockIdx.x) * a.k + k;
        a.index[at] = last.index < 0 ? 0 : last.index;
        if (a.value) a.value[at] = last.value;
    }
}

static int start_top(const ht_k_top *k, void *stream)
{
    const ht_k_top a = *k;
    if (a.k < 1 || a.k > a.cols || a.k > HT_K_TOP) return BAD_ARGUMENT;
    return HT_LAUNCH(top, dim3(a.n), dim3(THREADS), 0, 4.0 * a.n * a.cols * a.k, stream, a);
}

} // namespace HT_BUILD

extern "C" void HT_FILL(simple)(ht_gpu_kernels *k)
{
    k->embed = HT_BUILD::start_embed;
    k->activate = HT_BUILD::start_activate;
    k->gather = HT_BUILD::start_gather;
    k->top = HT_BUILD::start_top;
}
