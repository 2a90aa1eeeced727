/* Decode class: matrices against up to 8 columns, straight from the stored blocks. One warp a row; up to three matrices
 * that share x in one launch. Bound by memory: every weight byte is read once. */
#include "gpu/kernels/dot.cuh"

namespace HT_BUILD {

constexpr int ROWS = 8; /* rows, and warps, of a block */

struct MatvecArgs {
    ht_k_rows out[3];
    int first_block[3]; /* of each matrix */
    int n_out, add;
    Columns x;
};

template <class T, int NC, bool Q8> __global__ void __launch_bounds__(32 * ROWS) matvec(MatvecArgs a)
{
    int m = 0;
    while (m + 1 < a.n_out && static_cast<int>(blockIdx.x) >= a.first_block[m + 1]) m++;
    const ht_k_rows &o = a.out[m];
    const int r = (static_cast<int>(blockIdx.x) - a.first_block[m]) * ROWS + static_cast<int>(threadIdx.x / 32);
    if (r >= o.rows) return; /* whole warps */

    float sum[NC];
    dot_row<T, NC, Q8>(static_cast<const uint8_t *>(o.w) + r * o.row_bytes, a.x, sum);
    for (int c = 0; c < NC; c++) {
        if (lane_id() != c || c >= a.x.n) continue;
        const float v = o.bias ? sum[c] + o.bias[r] : sum[c];
        float *y = o.y + static_cast<int64_t>(c) * o.rows + r;
        *y = a.add ? *y + v : v;
    }
}

static int start_columns(const ht_k_matvec *k, int first, int n, void *stream)
{
    MatvecArgs a = {};
    int blocks = 0;
    double bytes = static_cast<double>(k->x_bytes) * n;

    for (int i = 0; i < k->n_out; i++) {
        a.out[i] = k->out[i];
        a.out[i].y += static_cast<int64_t>(first) * k->out[i].rows;
        a.first_block[i] = blocks;
        blocks += (k->out[i].rows + ROWS - 1) / ROWS;
        bytes += static_cast<double>(k->out[i].rows) * (static_cast<double>(k->out[i].row_bytes) + 4.0 * n);
    }
    a.n_out = k->n_out;
    a.add = k->add;
    a.x = Columns{static_cast<const uint8_t *>(k->x) + first * k->x_bytes, k->x_bytes, n, k->cols};
    if (!blocks) return 0;
#define RUN(T, NC, Q8) HT_LAUNCH((matvec<T, NC, Q8>), dim3(blocks), dim3(32 * ROWS), 0, bytes, stream, a)
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

static int start(const ht_k_matvec *k, void *stream)
{
    int r = 0;
    for (int c = 0; c < k->n && !r; c += HT_K_COLUMNS)
        r = start_columns(k, c, k->n - c < HT_K_COLUMNS ? k->n - c : HT_K_COLUMNS, stream);
    return r;
}

} // namespace HT_BUILD

extern "C" void HT_FILL(matvec)(ht_gpu_kernels *k) { k->matvec = HT_BUILD::start; }
