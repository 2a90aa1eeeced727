/* Sparse FFN: the active neurons of a column as a list in order of index, and the payload that reads the rows of active
 * neurons only: their up rows, and the sum of their rows of a neuron-major down matrix. */
#include "gpu/kernels/dot.cuh"

namespace HT_BUILD {

constexpr int LIST_THREADS = 1024, AXPY_THREADS = 64;

/* One block walks h in order; ballots give every active neuron its place. */
static __global__ void __launch_bounds__(LIST_THREADS) active_list(ht_k_active a)
{
    __shared__ int of_warp[LIST_THREADS / 32];
    const int t = static_cast<int>(threadIdx.x), warp = t / 32;
    int total = 0;

    for (int i0 = 0; i0 < a.f; i0 += LIST_THREADS) {
        const int i = i0 + t;
        const bool active = i < a.f && fabsf(a.h[i]) > a.threshold;
        const unsigned votes = __ballot_sync(HT_WARP_ALL, active);
        if (lane_id() == 0) of_warp[warp] = __popc(votes);
        __syncthreads();
        int before = total, all = 0;
        for (int w = 0; w < LIST_THREADS / 32; w++) {
            if (w < warp) before += of_warp[w];
            all += of_warp[w];
        }
        if (active) a.list[before + __popc(votes & ((1u << lane_id()) - 1))] = i;
        total += all;
        __syncthreads();
    }
    if (t == 0) *a.n_active = total;
}

static int start_active(const ht_k_active *k, void *stream)
{
    const ht_k_active a = *k;
    return HT_LAUNCH(active_list, dim3(1), dim3(LIST_THREADS), 0, 8.0 * a.f, stream, a);
}

/* A warp an active neuron. */
template <class T, int NC, bool Q8> __global__ void __launch_bounds__(DECODE_THREADS) up_rows(ht_k_up a)
{
    const Columns x = open_columns<Q8>(a.x);
    const int n = *a.n_active, step = static_cast<int>(gridDim.x) * DECODE_WARPS;

    for (int j = static_cast<int>(blockIdx.x) * DECODE_WARPS + static_cast<int>(threadIdx.x / 32); j < n; j += step) {
        const int neuron = a.list[j];
        const uint8_t *const row[1] = {static_cast<const uint8_t *>(a.up) + neuron * a.row_bytes};
        float sum[1][NC];
        dot_rows<T, 1, NC, Q8>(row, x, sum);
        if (lane_id() == 0) a.h[neuron] *= a.bias ? sum[0][0] + a.bias[neuron] : sum[0][0];
    }
}

static int start_up(const ht_k_up *k, void *stream)
{
    const ht_k_up a = *k;
    const ht_k_columns &x = a.x;
    const unsigned blocks = blocks_for(x, (a.f + DECODE_WARPS - 1) / DECODE_WARPS);
    const double bytes = static_cast<double>(a.f) * static_cast<double>(a.row_bytes); /* at most */
    if (x.n != 1 || !columns_fit(x)) return BAD_ARGUMENT;
#define RUN(T, NC, Q8) HT_LAUNCH((up_rows<T, 1, Q8>), dim3(blocks), dim3(DECODE_THREADS), shared_for(x), bytes, stream, a)
    HT_RETURN_DECODE(a.type)
#undef RUN
}

/* The first place in the list whose neuron is not below `neuron`. */
static __device__ int lower_bound(const int32_t *list, int n, int neuron)
{
    int lo = 0, hi = n;
    while (lo < hi) {
        const int mid = (lo + hi) / 2;
        if (list[mid] < neuron) lo = mid + 1;
        else hi = mid;
    }
    return lo;
}

/* Block (chunks, group): the group's active rows, a chunk of 32 outputs a thread. Groups are of absolute index: the
 * first may begin before the range. */
template <class T> __global__ void __launch_bounds__(AXPY_THREADS) axpy_groups(ht_k_axpy a)
{
    const int chunk = static_cast<int>(blockIdx.x * AXPY_THREADS + threadIdx.x), group = static_cast<int>(blockIdx.y);
    if (32 * chunk >= a.cols) return;
    const int from = group * HT_K_NEURONS - a.first % HT_K_NEURONS;
    const int begin = lower_bound(a.list, *a.n_active, from), end = lower_bound(a.list, *a.n_active, from + HT_K_NEURONS);
    float sum[32] = {};

    for (int j = begin; j < end; j++) {
        const int neuron = a.list[j];
        const float h = a.h[neuron];
        float w[32];
        expand<T>(static_cast<const uint8_t *>(a.down) + neuron * a.row_bytes, chunk, a.cols, w);
        for (int i = 0; i < 32; i++) sum[i] += h * w[i];
    }
    float *out = a.partial + static_cast<int64_t>(group) * a.cols + 32 * chunk;
    for (int i = 0; i < 32 && 32 * chunk + i < a.cols; i++) out[i] = sum[i];
}

static __global__ void __launch_bounds__(256) axpy_sum(float *x, const float *partial, int cols, int groups)
{
    const int i = static_cast<int>(blockIdx.x * 256 + threadIdx.x);
    if (i >= cols) return;
    float sum = 0.0f;
    for (int g = 0; g < groups; g++) sum += partial[static_cast<int64_t>(g) * cols + i];
    x[i] += sum;
}

static int start_groups(const ht_k_axpy &a, int groups, void *stream)
{
    const dim3 grid((a.cols + 32 * AXPY_THREADS - 1) / (32 * AXPY_THREADS), groups);
    const double bytes = static_cast<double>(a.f) * static_cast<double>(a.row_bytes); /* at most */
#define START(T) return HT_LAUNCH(axpy_groups<T>, grid, dim3(AXPY_THREADS), 0, bytes, stream, a)
    switch (a.type) {
        HT_FOR_FLOAT_TYPE(START)
        HT_FOR_BLOCK_TYPE(START)
    default: return BAD_ARGUMENT;
    }
#undef START
}

static int start_axpy(const ht_k_axpy *k, void *stream)
{
    const ht_k_axpy a = *k;
    const int groups = HT_K_GROUPS(a.first, a.f);
    const int r = start_groups(a, groups, stream);
    if (r) return r;
    float *const x = a.x;
    const float *const partial = a.partial;
    const int cols = a.cols;
    return HT_LAUNCH(axpy_sum, dim3((cols + 255) / 256), dim3(256), 0, 4.0 * cols * (groups + 2), stream, x, partial,
                     cols, groups);
}

} // namespace HT_BUILD

extern "C" void HT_FILL(sparse)(ht_gpu_kernels *k)
{
    k->active = HT_BUILD::start_active;
    k->up = HT_BUILD::start_up;
    k->axpy = HT_BUILD::start_axpy;
}
