/* Decode class: matrices against up to 8 columns, straight from the stored blocks. One warp a row; up to three matrices
 * that share x in one launch, and the norm before them. Bound by memory: every weight byte is read once. */
#include "gpu/kernels/dot.cuh"

namespace HT_BUILD {

struct MatvecArgs {
    ht_k_rows out[3];
    int first_group[3]; /* of each matrix: a group is DECODE_WARPS rows */
    int groups, n_out, add;
    ht_k_columns x;
};

template <class T, int NC, bool Q8> __global__ void __launch_bounds__(DECODE_THREADS) matvec(MatvecArgs a)
{
    const Columns x = open_columns<Q8>(a.x);

    for (int g = static_cast<int>(blockIdx.x); g < a.groups; g += static_cast<int>(gridDim.x)) {
        int m = 0;
        while (m + 1 < a.n_out && g >= a.first_group[m + 1]) m++;
        const ht_k_rows &o = a.out[m];
        const int64_t r = (g - a.first_group[m]) * DECODE_WARPS + static_cast<int>(threadIdx.x / 32);
        if (r >= o.rows) continue; /* whole warps */

        const uint8_t *const row[1] = {static_cast<const uint8_t *>(o.w) + r * o.row_bytes};
        float sum[1][NC];
        dot_rows<T, 1, NC, Q8>(row, x, sum);
        const int c = lane_id(); /* writes its column */
        if (c >= NC || c >= x.n) continue;
        const float v = o.bias ? pick(sum[0], c) + o.bias[r] : pick(sum[0], c);
        float *y = o.y + c * o.rows + r;
        *y = a.add ? *y + v : v;
    }
}

static int start_columns(const ht_k_matvec *k, const ht_k_columns &x, int first, void *stream)
{
    MatvecArgs a = {};
    double bytes = traffic_of(x);

    for (int i = 0; i < k->n_out; i++) {
        a.out[i] = k->out[i];
        a.out[i].y += first * k->out[i].rows;
        a.first_group[i] = a.groups;
        a.groups += static_cast<int>((k->out[i].rows + DECODE_WARPS - 1) / DECODE_WARPS);
        bytes += static_cast<double>(k->out[i].rows) * (static_cast<double>(k->out[i].row_bytes) + 4.0 * x.n);
    }
    a.n_out = k->n_out;
    a.add = k->add;
    a.x = x;
    if (!a.groups) return 0;
#define RUN(T, NC, Q8)                                                                                               \
    HT_LAUNCH((matvec<T, NC, Q8>), dim3(blocks_for(x, a.groups)), dim3(DECODE_THREADS), shared_for(x), bytes, stream, a)
    HT_RETURN_DECODE(k->type)
#undef RUN
}

static int start(const ht_k_matvec *k, void *stream)
{
    return for_columns(k->x, [=](const ht_k_columns &x, int first) { return start_columns(k, x, first, stream); });
}

} // namespace HT_BUILD

extern "C" void HT_FILL(matvec)(ht_gpu_kernels *k) { k->matvec = HT_BUILD::start; }
