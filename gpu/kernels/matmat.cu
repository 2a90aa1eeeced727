/* Block class: a matrix against many columns. Stored blocks are expanded tile by tile into shared memory, never stored.
 * The plain product keeps everything in F32 (any GPU; --act f32); the tensor-core one multiplies F16 tiles and sums in
 * F32. Both sum each output in order of k, so a column does not know the others. */
#include "gpu/kernels/halves.cuh"

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

/* ---- tensor cores: a block of four warps does 128 rows by COLUMNS, a chunk (32 elements) along k a step ----
 *
 * While the tensor cores multiply a step's tiles, the same warps expand the weights of the next between the products, and
 * the bytes of what comes after are on their way:
 *
 *     stored blocks  --cp.async-->  stored (a warp's own)  --expand-->  weights[2]  --ldmatrix-->  mma
 *     F16 columns    --cp.async---------------------------------------> columns[2]  --ldmatrix-->  mma
 *
 * Each of the tiles comes twice, one written while the other is read; one barrier a step. Stored bytes come in spans of
 * several chunks, in whole pieces of 16 bytes and neighbours by neighbouring lanes, for a lane that fetches the bytes of
 * its own row costs the first-level cache a pass for itself. */

constexpr int MMA_THREADS = 128, MMA_ROWS = 128, MMA_K = HT_K_STEP;

/* Rows of MMA_K F16 elements in shared memory, as four pieces of 16 bytes. A piece lies where the eight rows that are read
 * or written at once have theirs in different banks. */
struct Tile {
    static constexpr int PIECES = MMA_K / 8, PITCH = 16 * PIECES;
    uint8_t *memory;
    /* Of row + i, where row is a multiple of 8. */
    __device__ __forceinline__ unsigned *operator()(int row, int i, int piece) const
    {
        return reinterpret_cast<unsigned *>(memory + row * PITCH + (i * PITCH + 16 * (piece ^ (i >> 1 & 3))));
    }
};

/* A warp's rows as they are stored: a span of each. */
template <class T> struct Span {
    static constexpr int CHUNKS = T::LEN == 256 ? 8 : T::FLOAT ? 4 / T::BYTES : 4, BYTES = CHUNKS * 32 / T::LEN * T::BYTES;
    static constexpr int ALIGNED = T::BYTES & -T::BYTES; /* rows and spans begin at multiples of it, or of 16 */
    static constexpr int PIECES = (BYTES + (ALIGNED < 16 ? 16 - ALIGNED : 0) + 15) / 16;
    static constexpr int PITCH = (PIECES | 1) * 16; /* odd: eight rows read 16 bytes from different banks */

    uint8_t *memory;
    const uint8_t *row; /* the lane's own */

    /* Begins to copy span i of 32 rows from r0 on. Rows past the last are the last: nobody looks at their products. */
    __device__ __forceinline__ void copy(const MatmatArgs &a, int r0, int i) const
    {
        const int row_bytes = static_cast<int>(a.out.row_bytes), last = static_cast<int>(a.out.rows) - 1;
        const uint8_t *first = static_cast<const uint8_t *>(a.out.w) + i * BYTES;
#pragma unroll 2
        for (int at = lane_id(); at < 32 * PIECES; at += 32) {
            const int to = at / PIECES, piece = at % PIECES;
            const uint8_t *from = first + static_cast<int64_t>(min(r0 + to, last)) * row_bytes;
            const int shift = 16 * piece - misaligned(from), left = row_bytes - i * BYTES - shift;
            if (left > 0) cp_async16(memory + to * PITCH + 16 * piece, from + shift, min(left, 16));
        }
    }
    /* What HalfChunk loads the chunks of span i from. */
    __device__ __forceinline__ const uint8_t *stored(int i) const
    {
        return memory + lane_id() * PITCH + misaligned(row + i * BYTES);
    }
    static __device__ __forceinline__ const uint8_t *row_of(const MatmatArgs &a, int64_t r)
    {
        return static_cast<const uint8_t *>(a.out.w) + (r < a.out.rows ? r : a.out.rows - 1) * a.out.row_bytes;
    }

private:
    static __device__ __forceinline__ int misaligned(const uint8_t *p)
    {
        return ALIGNED < 16 ? static_cast<int>(reinterpret_cast<uintptr_t>(p) & 15) : 0;
    }
};

/* A block's columns of one step. Columns past the last are the last: nobody looks at their products either. */
template <int COLUMNS> __device__ __forceinline__ void copy_columns(const MatmatArgs &a, int c0, int step, const Tile &to)
{
#pragma unroll
    for (int i = 0; i < COLUMNS * Tile::PIECES; i += MMA_THREADS) {
        const int at = i + static_cast<int>(threadIdx.x), c = at / Tile::PIECES, piece = at % Tile::PIECES;
        cp_async16(to(0, c, piece), a.x_f16 + min(c0 + c, a.n - 1) * a.x_stride + step * MMA_K + 8 * piece);
    }
}

/* The shape of a block, and of the part of it that a warp multiplies. Wide blocks share an expanded weight among more
 * columns, and large parts an ldmatrix among more products; both want registers. */
template <int COLUMNS_> struct Shape {
    static constexpr int COLUMNS = COLUMNS_, BLOCKS = COLUMNS == 128 ? 2 : 3; /* of a multiprocessor, which registers allow */
    static constexpr int ROWS = COLUMNS == 128 ? 64 : 32, DOWN = MMA_ROWS / ROWS, ACROSS = COLUMNS * DOWN / 4;
    static constexpr int WEIGHTS = MMA_ROWS * Tile::PITCH, BYTES = WEIGHTS + COLUMNS * Tile::PITCH; /* of one stage */
    typedef float Sums[ROWS / 16][ACROSS / 8][4];
};

/* One step along k of a warp's part, at row wr and column wc of the block, of which `used` columns exist. part(0) to
 * part(3), which have nothing to do with it, come between the products. */
template <class S, class Part>
__device__ __forceinline__ void multiply(const Tile &weights, const Tile &columns, int wr, int wc, int used,
                                         typename S::Sums &d, Part part)
{
    constexpr int PAIRS = S::ACROSS / 16, GROUPS = MMA_K / 16 * PAIRS; /* of products between which parts can come */
    unsigned wa[S::ROWS / 16][4];

#pragma unroll
    for (int g = 0; g < GROUPS; g++) {
        const int k = g / PAIRS, j = g % PAIRS;
        unsigned xb[4];
        if (j == 0)
#pragma unroll
            for (int i = 0; i < S::ROWS / 16; i++) load_fragment<true>(wa[i], weights, wr + 16 * i, 2 * k);
        if (j == 0 || S::COLUMNS > 32 || 16 * j < used) { /* the same in all lanes; elsewhere not worth a branch */
            load_fragment<false>(xb, columns, wc + 16 * j, 2 * k);
#pragma unroll
            for (int i = 0; i < S::ROWS / 16; i++)
#pragma unroll
                for (int h = 0; h < 2; h++) mma_16x8x16(d[i][2 * j + h], wa[i], xb + 2 * h);
        }
        if ((g + 1) * 4 % GROUPS == 0) part((g + 1) * 4 / GROUPS - 1);
    }
}

/* r0 and c0: the first row and column of the warp. */
template <class S> __device__ __forceinline__ void store_sums(const MatmatArgs &a, int r0, int c0, const typename S::Sums &d)
{
    const int r = r0 + lane_id() / 4, c = c0 + lane_id() % 4 * 2;
    float bias[S::ROWS / 8];
#pragma unroll
    for (int i = 0; i < S::ROWS / 8; i++) bias[i] = a.out.bias && r + 8 * i < a.out.rows ? a.out.bias[r + 8 * i] : 0.0f;
#pragma unroll
    for (int j = 0; j < S::ACROSS / 8; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const int column = c + 8 * j + e;
            if (column >= a.n) return;
            const float scale = a.x_scale[column];
            float *y = a.out.y + column * a.out.rows + r;
#pragma unroll
            for (int i = 0; i < S::ROWS / 8; i++)
                if (r + 8 * i < a.out.rows) {
                    const float v = d[i / 2][j][i % 2 * 2 + e] * scale + bias[i];
                    y[8 * i] = a.add ? y[8 * i] + v : v;
                }
        }
}

template <class T, class S> __global__ void __launch_bounds__(MMA_THREADS, S::BLOCKS) matmat_mma(MatmatArgs a)
{
    HT_SHARED(uint8_t, memory); /* two stages of weights and columns, then the warps' spans */
    const int t = static_cast<int>(threadIdx.x), warp = t / 32, wr = warp % S::DOWN * S::ROWS, wc = warp / S::DOWN * S::ACROSS;
    const int c0 = static_cast<int>(blockIdx.x) * S::COLUMNS, r0 = static_cast<int>(blockIdx.y) * MMA_ROWS;
    const int steps = (a.cols + MMA_K - 1) / MMA_K;
    const Span<T> span = {memory + 2 * S::BYTES + warp * 32 * Span<T>::PITCH, Span<T>::row_of(a, r0 + t)};
    const auto weights = [&](int step) { return Tile{memory + step % 2 * S::BYTES}; };
    const auto columns = [&](int step) { return Tile{memory + step % 2 * S::BYTES + S::WEIGHTS}; };
    HalfChunk<T> next;
    typename S::Sums d = {};

    const auto load = [&](int step) { /* what is stored; behind the last chunk of a span the next span may come */
        const int i = step / Span<T>::CHUNKS, c = step % Span<T>::CHUNKS;
        next.load(span.stored(i), c, a.cols - i * Span<T>::CHUNKS * 32);
        if (c < Span<T>::CHUNKS - 1 || step + 1 >= steps) return;
        __syncwarp();
        span.copy(a, r0 + 32 * warp, i + 1);
    };
    const auto expand = [&](int step, int part) {
        unsigned h[4];
        next.part(part, h);
        store_aligned4(weights(step)(0, t, part), h[0], h[1], h[2], h[3]);
    };
    const auto landed = [] {
        cp_async_commit();
        cp_async_wait<0>();
        __syncthreads();
    };

    span.copy(a, r0 + 32 * warp, 0);
    copy_columns<S::COLUMNS>(a, c0, 0, columns(0));
    landed();
    load(0);
#pragma unroll
    for (int p = 0; p < 4; p++) expand(0, p);
    landed();
    for (int step = 0; step < steps; step++) {
        if (step + 1 < steps) {
            copy_columns<S::COLUMNS>(a, c0, step + 1, columns(step + 1));
            load(step + 1);
        } /* else `next` is expanded once more, for nobody */
        multiply<S>(weights(step), columns(step), wr, wc, a.n - c0 - wc, d, [&](int part) { expand(step + 1, part); });
        landed();
    }
    store_sums<S>(a, r0 + wr, c0 + wc, d);
}

template <class T, int COLUMNS> static int start_mma(const MatmatArgs &a, double bytes, void *stream)
{
    typedef Shape<COLUMNS> S;
    /* Blocks of the same rows are neighbours: their weights come from memory once. */
    const dim3 grid((a.n + COLUMNS - 1) / COLUMNS, (a.out.rows + MMA_ROWS - 1) / MMA_ROWS);
    const size_t shared = 2 * S::BYTES + MMA_ROWS * Span<T>::PITCH;
    return HT_LAUNCH((matmat_mma<T, S>), grid, dim3(MMA_THREADS), shared, bytes, stream, a);
}

/* Columns of a block: those with which all of the launch's blocks should be through first. A block's step takes as long as
 * its columns' products, and for the expansion of its weights about as long as for 32 columns more; two blocks share a
 * multiprocessor. */
static int choose_columns(int64_t rows, int n, int multiprocessors)
{
    const int64_t slots = 2 * static_cast<int64_t>(multiprocessors), down = (rows + MMA_ROWS - 1) / MMA_ROWS;
    int best = 128;
    int64_t least = INT64_MAX;
    for (int columns = 32; columns <= 128 && slots > 0; columns *= 2) {
        const int64_t blocks = down * ((n + columns - 1) / columns);
        const int64_t time = (blocks + slots - 1) / slots * (min(n, columns) + 32);
        if (time >= least) continue;
        best = columns;
        least = time;
    }
    return best;
}

static int start_matmat(const ht_k_matmat *k, void *stream)
{
    const bool plain = k->x != nullptr;
    const int columns = plain ? PLAIN_COLUMNS : choose_columns(k->out.rows, k->n, k->multiprocessors);
    const int64_t down = (k->out.rows + (plain ? PLAIN_ROWS : MMA_ROWS) - 1) / (plain ? PLAIN_ROWS : MMA_ROWS);
    const int across = (k->n + columns - 1) / columns;
    const double bytes = static_cast<double>(k->out.rows) * static_cast<double>(k->out.row_bytes) * across +
                         static_cast<double>(k->n) * (k->cols * (plain ? 4.0 : 2.0) * down + 4.0 * k->out.rows);
    const MatmatArgs a = {k->out,   k->cols,    k->n,
                          k->add,   k->x,       k->x_f16,
                          plain ? nullptr : k->x_scale,
                          plain ? static_cast<int64_t>(k->cols)
                                : static_cast<int64_t>(HT_K_HALF_STRIDE(k->cols) / sizeof(ht_half))};
    if (!k->n || !k->out.rows) return 0;
#define START(T)                                                                                                     \
    return plain            ? HT_LAUNCH(matmat_plain<T>, dim3(down, across), dim3(PLAIN_THREADS), 0, bytes, stream, a) \
           : columns == 128 ? start_mma<T, 128>(a, bytes, stream)                                                     \
           : columns == 64  ? start_mma<T, 64>(a, bytes, stream)                                                      \
                            : start_mma<T, 32>(a, bytes, stream)
    switch (k->type) {
        HT_FOR_FLOAT_TYPE(START)
        HT_FOR_BLOCK_TYPE(START)
    default: return BAD_ARGUMENT;
    }
#undef START
}

} // namespace HT_BUILD

extern "C" void HT_FILL(matmat)(ht_gpu_kernels *k) { k->matmat = HT_BUILD::start_matmat; }
