/* Positions: the table of angles, and RoPE with the append to the KV pages. */
#include "gpu/kernels/kv.cuh"

namespace HT_BUILD {

/* Double precision as on the host: a float's error, times a position, would show. A table a step, not a layer. */
static __global__ void angles(ht_k_angles a)
{
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= a.n * a.pairs) return;
    const int c = i / a.pairs, p = i % a.pairs;
    double f = a.frequency[p];
    if (a.divisor) f /= static_cast<double>(a.divisor[p]);
    const double theta = static_cast<double>(a.position[c]) * f;
    a.angles[2 * i] = static_cast<float>(cos(theta) * static_cast<double>(a.magnitude));
    a.angles[2 * i + 1] = static_cast<float>(sin(theta) * static_cast<double>(a.magnitude));
}

static int start_angles(const ht_k_angles *k, void *stream)
{
    const ht_k_angles a = *k;
    const int n = a.n * a.pairs;
    return HT_LAUNCH(angles, dim3((n + 127) / 128), dim3(128), 0, 8.0 * n, stream, a);
}

constexpr int HEAD_THREADS = 128;

/* Per-head RMS norm in shared memory. */
static __device__ void norm_head(float *head, const float *gain, float eps, int e, float *scratch)
{
    float sum = 0.0f;
    for (int i = static_cast<int>(threadIdx.x); i < e; i += HEAD_THREADS) sum += head[i] * head[i];
    const float factor = 1.0f / sqrtf(block_reduce<Add>(sum, scratch) / static_cast<float>(e) + eps);
    for (int i = static_cast<int>(threadIdx.x); i < e; i += HEAD_THREADS) head[i] = head[i] * factor * gain[i];
    __syncthreads();
}

static __device__ void turn_head(float *head, const float *angle, int pairs, bool halves)
{
    for (int p = static_cast<int>(threadIdx.x); p < pairs; p += HEAD_THREADS) {
        const int i = halves ? p : 2 * p, j = halves ? p + pairs : 2 * p + 1;
        const float c = angle[2 * p], s = angle[2 * p + 1], x = head[i], y = head[j];
        head[i] = x * c - y * s;
        head[j] = x * s + y * c;
    }
    __syncthreads();
}

static __device__ void store_row(ht_type type, float *head, int e, uint8_t *row)
{
    const int t = static_cast<int>(threadIdx.x);
    if (type == HT_F32) {
        for (int i = t; i < e; i += HEAD_THREADS) reinterpret_cast<float *>(row)[i] = head[i];
    } else if (type == HT_F16) {
        for (int i = t; i < e; i += HEAD_THREADS) reinterpret_cast<ht_half *>(row)[i] = float_to_half(head[i]);
    } else {
        for (int i = t; i < e; i += HEAD_THREADS) head[i] = cut(head[i]);
        __syncthreads();
        for (int b = t / 32; b < e / 32; b += HEAD_THREADS / 32) {
            if (type == HT_Q8_0) quantize_q8_0(row + b * Q8_0::BYTES, head[32 * b + lane_id()]);
            else quantize_q4_0(row + b * Q4_0::BYTES, head + 32 * b);
        }
    }
}

/* Block (c, i): head i of column c; q heads, then k heads, then v heads. */
static __global__ void __launch_bounds__(HEAD_THREADS) rope_append(ht_k_rope_append a)
{
    __shared__ float head[HT_K_MAX_HEAD], scratch[HEAD_THREADS / 32];
    const int c = static_cast<int>(blockIdx.x), e = a.head_dim, i = static_cast<int>(blockIdx.y);
    const bool is_q = i < a.heads, is_k = !is_q && i < a.heads + a.kv_heads;
    const int g = is_q ? i : (i - a.heads) % a.kv_heads;
    const int64_t at = (static_cast<int64_t>(c) * (is_q ? a.heads : a.kv_heads) + g) * e;
    const float *from = (is_q ? a.q : is_k ? a.k : a.v) + at, *gain = is_q ? a.q_norm : is_k ? a.k_norm : nullptr;
    const ht_type type = is_k ? a.pages.k_type : a.pages.v_type;

    for (int j = static_cast<int>(threadIdx.x); j < e; j += HEAD_THREADS) head[j] = from[j];
    __syncthreads();
    if (gain) norm_head(head, gain, a.eps, e, scratch);
    if (is_q || is_k) turn_head(head, a.angles + static_cast<int64_t>(c) * 2 * a.pairs, a.pairs, a.halves != 0);
    if (is_q) {
        for (int j = static_cast<int>(threadIdx.x); j < e; j += HEAD_THREADS) a.q[at + j] = head[j];
        return;
    }
    const int position = a.pages.position[c];
    uint8_t *page = const_cast<uint8_t *>(page_of(a.pages, a.pages.sequence[c], position / HT_K_TILE));
    const int64_t row = static_cast<int64_t>(g) * HT_K_TILE + position % HT_K_TILE;
    store_row(type, head, e, is_k ? page + row * a.pages.k_row_bytes
                                  : page + a.pages.v_offset + row * a.pages.v_row_bytes);
}

static int start_rope_append(const ht_k_rope_append *k, void *stream)
{
    const ht_k_rope_append a = *k;
    if (a.head_dim > HT_K_MAX_HEAD) return 1;
    const double bytes = 8.0 * a.n * (a.heads + 2.0 * a.kv_heads) * a.head_dim;
    return HT_LAUNCH(rope_append, dim3(a.n, a.heads + 2 * a.kv_heads), dim3(HEAD_THREADS), 0, bytes, stream, a);
}

} // namespace HT_BUILD

extern "C" void HT_FILL(rope)(ht_gpu_kernels *k)
{
    k->angles = HT_BUILD::start_angles;
    k->rope_append = HT_BUILD::start_rope_append;
}
