/* Block class: a matrix against many columns. Stored blocks are expanded tile by tile into shared memory, never stored.
 * The plain product keeps everything in F32 (any GPU; --act f32); the tensor-core one multiplies F16 tiles and sums in
 * F32. Both sum each output in order of k, so a column does not know the others. */
#include "gpu/kernels/unpack.cuh"

namespace HT_BUILD {

struct MatmatArgs {
    ht_k_rows out;
    int cols, n, add;
    const float *x;
    const ht_half *x_f16;
    const float *x_scale;
    int64_t x_stride; /* elements */
};

__device__ __forceinline__ void put(const MatmatArgs &a, int r, int c, float v)
{
    if (r >= a.out.rows || c >= a.n) return;
    float *y = a.out.y + static_cast<int64_t>(c) * a.out.rows + r;
    if (a.x_scale) v *= a.x_scale[c];
    if (a.out.bias) v += a.out.bias[r];
    *y = a.add ? *y + v : v;
}

template <class T> __device__ __forceinline__ void expand_row(const MatmatArgs &a, int r, int c, float (&w)[32])
{
    if (r < a.out.rows) {
        expand<T>(static_cast<const uint8_t *>(a.out.w) + r * a.out.row_bytes, c, a.cols, w);
    } else {
        for (int i = 0; i < 32; i++) w[i] = 0.0f;
    }
}

/* ---- plain: 64 rows by 32 columns a block, 4 by 4 outputs a thread ---- */

constexpr int PLAIN_THREADS = 128, PLAIN_ROWS = 64, PLAIN_COLUMNS = 32, PLAIN_K = 64;

template <class T> __global__ void __launch_bounds__(PLAIN_THREADS) matmat_plain(MatmatArgs a)
{
    __shared__ float ws[PLAIN_ROWS][PLAIN_K + 1], xs[PLAIN_COLUMNS][PLAIN_K + 1];
    const int t = static_cast<int>(threadIdx.x), tr = t % 16, tc = t / 16;
    const int r0 = static_cast<int>(blockIdx.x) * PLAIN_ROWS, c0 = static_cast<int>(blockIdx.y) * PLAIN_COLUMNS;
    float sum[4][4] = {};

    for (int k0 = 0; k0 < a.cols; k0 += PLAIN_K) {
        float w[32];
        expand_row<T>(a, r0 + t / 2, k0 / 32 + t % 2, w);
        for (int i = 0; i < 32; i++) ws[t / 2][t % 2 * 32 + i] = w[i];
        for (int i = t; i < PLAIN_COLUMNS * PLAIN_K; i += PLAIN_THREADS) {
            const int c = c0 + i / PLAIN_K, k = k0 + i % PLAIN_K;
            xs[i / PLAIN_K][i % PLAIN_K] = c < a.n && k < a.cols ? a.x[c * a.x_stride + k] : 0.0f;
        }
        __syncthreads();
        for (int k = 0; k < PLAIN_K; k++)
            for (int i = 0; i < 4; i++)
                for (int j = 0; j < 4; j++) sum[i][j] += ws[tr + 16 * i][k] * xs[tc + 8 * j][k];
        __syncthreads();
    }
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) put(a, r0 + tr + 16 * i, c0 + tc + 8 * j, sum[i][j]);
}

/* ---- tensor cores: 128 rows by 64 columns a block; a warp does 32 by 32 of it as 2 by 4 tiles of 16 by 8 ---- */

constexpr int MMA_THREADS = 256, MMA_ROWS = 128, MMA_COLUMNS = 64, MMA_K = HT_K_STEP;
constexpr int MMA_PITCH = MMA_K + 8; /* F16 elements: 36 words, so the fragments of a warp lie in different banks */

/* What F16 cannot hold is cut; weights of that size do not occur in models that work. */
__device__ __forceinline__ float cut_to_half(float v) { return fminf(fmaxf(v, -65504.0f), 65504.0f); }

/* The block's weights for one step along k: thread t expands chunk t % 2 of row t / 2. */
template <class T> __device__ __forceinline__ void load_weights(const MatmatArgs &a, int r0, int k0, unsigned *ws)
{
    const int t = static_cast<int>(threadIdx.x);
    float w[32];
    expand_row<T>(a, r0 + t / 2, k0 / 32 + t % 2, w);
    unsigned *to = ws + t / 2 * (MMA_PITCH / 2) + t % 2 * 16, h[16];
    float amax = 0.0f;
#pragma unroll /* w and h stay in registers */
    for (int i = 0; i < 32; i++) amax = fmaxf(amax, fabsf(w[i]));
    if (amax > 65504.0f) {
#pragma unroll
        for (int i = 0; i < 32; i++) w[i] = cut_to_half(w[i]);
    }
#pragma unroll
    for (int i = 0; i < 16; i++) h[i] = pack_halves(w[2 * i], w[2 * i + 1]);
#pragma unroll /* eight lanes write to all banks */
    for (int i = 0; i < 16; i += 4) store_aligned4(to + i, h[i], h[i + 1], h[i + 2], h[i + 3]);
}

/* The block's columns: whole 16-byte pieces, columns past the last as zeros. */
__device__ __forceinline__ void load_columns(const MatmatArgs &a, int c0, int k0, unsigned *xs)
{
    for (int i = static_cast<int>(threadIdx.x); i < MMA_COLUMNS * MMA_K / 8; i += MMA_THREADS) {
        const int c = i / (MMA_K / 8), piece = i % (MMA_K / 8);
        unsigned *to = xs + c * (MMA_PITCH / 2) + piece * 4;
        if (c0 + c < a.n) {
            cp_async16(to, a.x_f16 + (c0 + c) * a.x_stride + k0 + piece * 8);
        } else {
            for (int j = 0; j < 4; j++) to[j] = 0;
        }
    }
    cp_async_commit();
}

/* One step along k of a warp's 32 by 32 outputs at row wr and column wc of the block; `tiles` of the four tiles of 8
 * columns have any. */
__device__ __forceinline__ void multiply(const unsigned *ws, const unsigned *xs, int wr, int wc, int tiles,
                                         float (&d)[2][4][4])
{
    constexpr int P = MMA_PITCH / 2;

    for (int k = 0; k < MMA_K / 2; k += 8) { /* words */
        unsigned wa[2][4], xb[2][4]; /* xb: two tiles of 8 columns each */
        for (int i = 0; i < 2; i++) load_fragment<true>(wa[i], ws + (wr + 16 * i) * P + k, P);
        for (int j = 0; j < 2; j++) load_fragment<false>(xb[j], xs + (wc + 16 * j) * P + k, P);
        for (int i = 0; i < 2; i++)
            for (int j = 0; j < 4; j++)
                if (j < tiles) mma_16x8x16(d[i][j], wa[i], xb[j / 2] + 2 * (j % 2)); /* the same in all lanes */
    }
}

template <class T> __global__ void __launch_bounds__(MMA_THREADS) matmat_mma(MatmatArgs a)
{
    HT_SHARED(unsigned, ws); /* MMA_ROWS rows, then MMA_COLUMNS columns, of MMA_PITCH F16 elements */
    unsigned *xs = ws + MMA_ROWS * MMA_PITCH / 2;
    const int warp = static_cast<int>(threadIdx.x / 32), wr = warp % 4 * 32, wc = warp / 4 * 32;
    const int r0 = static_cast<int>(blockIdx.x) * MMA_ROWS, c0 = static_cast<int>(blockIdx.y) * MMA_COLUMNS;
    const int tiles = (a.n - c0 - wc + 7) / 8;
    float d[2][4][4] = {};

    for (int k0 = 0; k0 < a.cols; k0 += MMA_K) {
        load_columns(a, c0, k0, xs);
        load_weights<T>(a, r0, k0, ws);
        cp_async_wait<0>();
        __syncthreads();
        multiply(ws, xs, wr, wc, tiles, d);
        __syncthreads();
    }
    const int g = lane_id() / 4, q = lane_id() % 4;
#pragma unroll /* d stays in registers */
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                put(a, r0 + wr + 16 * i + g + 8 * (e >> 1), c0 + wc + 8 * j + 2 * q + (e & 1), d[i][j][e]);
}

static int start_matmat(const ht_k_matmat *k, void *stream)
{
    const bool plain = k->x != nullptr;
    const int rows = plain ? PLAIN_ROWS : MMA_ROWS, columns = plain ? PLAIN_COLUMNS : MMA_COLUMNS;
    const dim3 grid((k->out.rows + rows - 1) / rows, (k->n + columns - 1) / columns);
    const double bytes = static_cast<double>(k->out.rows) * static_cast<double>(k->out.row_bytes) * grid.y +
                         static_cast<double>(k->n) * (k->cols * (plain ? 4.0 : 2.0) * grid.x + 4.0 * k->out.rows);
    const size_t shared = plain ? 0 : static_cast<size_t>(MMA_ROWS + MMA_COLUMNS) * MMA_PITCH * sizeof(ht_half);
    const MatmatArgs a = {k->out,   k->cols,    k->n,
                          k->add,   k->x,       k->x_f16,
                          plain ? nullptr : k->x_scale,
                          plain ? static_cast<int64_t>(k->cols)
                                : static_cast<int64_t>(HT_K_HALF_STRIDE(k->cols) / sizeof(ht_half))};
    if (!k->n || !k->out.rows) return 0;
#define START(T)                                                                                                     \
    return plain ? HT_LAUNCH(matmat_plain<T>, grid, dim3(PLAIN_THREADS), 0, bytes, stream, a)                         \
                 : HT_LAUNCH(matmat_mma<T>, grid, dim3(MMA_THREADS), shared, bytes, stream, a)
    switch (k->type) {
        HT_FOR_FLOAT_TYPE(START)
        HT_FOR_BLOCK_TYPE(START)
    default: return BAD_ARGUMENT;
    }
#undef START
}

} // namespace HT_BUILD

extern "C" void HT_FILL(matmat)(ht_gpu_kernels *k) { k->matmat = HT_BUILD::start_matmat; }
