/* Attention over KV pages on their stored bytes, with a running softmax over the fixed tiles of HT_K_TILE tokens, so
 * that a row's result depends on its own positions alone.
 *
 * A block holds up to R query rows (columns of a group times heads that share a KV head) and one split of the tiles;
 * each KV element is read once for all its rows. Decode splits long sequences over blocks; the last of them to finish
 * merges the splits in their order. The block class runs all tiles in one block. */
#include "core/base/math.h"
#include "gpu/kernels/kv.cuh"

namespace HT_BUILD {

constexpr int ATTEND_THREADS = 128, ATTEND_WARPS = ATTEND_THREADS / 32;

/* Query rows of a block, and tokens staged in shared memory at once: all within 48 KiB. */
static __host__ __device__ int rows_of_block(int head_dim) { return head_dim <= 128 ? 16 : 8; }
static __host__ __device__ int staged_tokens(int head_dim) { return head_dim <= 128 ? 32 : 16; }

/* Shared memory of a block; R rows, e elements. */
struct Shared {
    float *q;       /* (R, e) */
    float *acc;     /* (R, e) */
    float *scores;  /* (R, HT_K_TILE) */
    float *stage;   /* (staged tokens, e + 1) */
    float *max, *sum, *factor; /* (R) */
    int *first, *limit;        /* (R): positions that the row sees */
};

static __host__ __device__ size_t shared_floats(int e)
{
    const int r = rows_of_block(e);
    return static_cast<size_t>(r) * (2 * e + HT_K_TILE + 5) + static_cast<size_t>(staged_tokens(e)) * (e + 1);
}

static __device__ Shared layout(float *p, int e)
{
    const int r = rows_of_block(e);
    Shared s;
    s.q = p, p += r * e;
    s.acc = p, p += r * e;
    s.scores = p, p += r * HT_K_TILE;
    s.max = p, p += r;
    s.sum = p, p += r;
    s.factor = p, p += r;
    s.first = reinterpret_cast<int *>(p), p += r;
    s.limit = reinterpret_cast<int *>(p), p += r;
    s.stage = p;
    return s;
}

/* Which rows of the problem this block does. Row i is column i / heads_per_kv of the group, head i % heads_per_kv. */
struct Rows {
    int column, sequence, kv_head, per_kv, first, n;
    __device__ __forceinline__ int column_of(int i) const { return column + (first + i) / per_kv; }
    __device__ __forceinline__ int head_of(int i) const { return kv_head * per_kv + (first + i) % per_kv; }
};

static __device__ void load_queries(const ht_k_attend &a, const Rows &rows, const Shared &s)
{
    const int e = a.head_dim;
    for (int i = static_cast<int>(threadIdx.x); i < rows.n * e; i += ATTEND_THREADS) {
        const int64_t at = (static_cast<int64_t>(rows.column_of(i / e)) * a.heads + rows.head_of(i / e)) * e + i % e;
        s.q[i] = a.q[at] * a.scale;
        s.acc[i] = 0.0f;
    }
    for (int i = static_cast<int>(threadIdx.x); i < rows.n; i += ATTEND_THREADS) {
        const int limit = a.pages.position[rows.column_of(i)] + 1;
        s.limit[i] = limit;
        s.first[i] = a.window && limit > a.window ? limit - a.window : 0;
        s.max[i] = -INFINITY;
        s.sum[i] = 0.0f;
    }
    __syncthreads();
}

/* Expands tokens [t0, t0 + n) of a tile: rows of K or V of one KV head. */
template <class T>
static __device__ void stage_tokens(const uint8_t *tile, int64_t row_bytes, int t0, int n, int e, float *stage)
{
    for (int i = static_cast<int>(threadIdx.x); i < n * e; i += ATTEND_THREADS)
        stage[i / e * (e + 1) + i % e] = kv_at<T>(tile + (t0 + i / e) * row_bytes, i % e);
    __syncthreads();
}

/* q . k in four sums over the elements modulo 4. */
static __device__ float score(const float *q, const float *k, int e)
{
    float v[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int i = 0; i + 3 < e; i += 4)
        for (int j = 0; j < 4; j++) v[j] += q[i + j] * k[i + j];
    for (int i = e / 4 * 4; i < e; i++) v[0] += q[i] * k[i];
    return (v[0] + v[1]) + (v[2] + v[3]);
}

/* Scores become weights; max, sum and the factor for what was summed before are brought up to date. A warp a row. */
static __device__ void soften(const Shared &s, int n_rows)
{
    const int lane = lane_id();
    for (int r = static_cast<int>(threadIdx.x / 32); r < n_rows; r += ATTEND_WARPS) {
        float *row = s.scores + r * HT_K_TILE;
        const float a = row[lane], b = row[lane + 32], before = s.max[r];
        const float max = Max::of(before, warp_reduce<Max>(Max::of(a, b)));
        float pa = 0.0f, pb = 0.0f, factor = 1.0f;
        if (max > -INFINITY) {
            pa = ht_expf(a - max);
            pb = ht_expf(b - max);
            factor = before > -INFINITY ? ht_expf(before - max) : 0.0f;
        }
        const float sum = warp_reduce<Add>(pa + pb);
        row[lane] = pa;
        row[lane + 32] = pb;
        __syncwarp();
        if (lane == 0) {
            s.max[r] = max;
            s.sum[r] = s.sum[r] * factor + sum;
            s.factor[r] = factor;
        }
    }
    __syncthreads();
}

template <class K, class V>
static __device__ void one_tile(const ht_k_attend &a, const Rows &rows, const Shared &s, int tile)
{
    const int e = a.head_dim, step = staged_tokens(e), t = static_cast<int>(threadIdx.x);
    const uint8_t *page = page_of(a.pages, rows.sequence, tile);
    const int64_t head_row = static_cast<int64_t>(rows.kv_head) * HT_K_TILE;
    const uint8_t *k = page + head_row * a.pages.k_row_bytes;
    const uint8_t *v = page + a.pages.v_offset + head_row * a.pages.v_row_bytes;

    /* Tokens that no row sees hold anything, even NaN: they are neither staged nor summed. */
    int seen = 0;
    for (int r = 0; r < rows.n; r++) seen = seen < s.limit[r] ? s.limit[r] : seen;
    seen = seen - tile * HT_K_TILE < HT_K_TILE ? seen - tile * HT_K_TILE : HT_K_TILE;

    for (int t0 = 0; t0 < HT_K_TILE; t0 += step) {
        const int n = seen - t0 < step ? seen - t0 : step;
        if (n > 0) stage_tokens<K>(k, a.pages.k_row_bytes, t0, n, e, s.stage);
        for (int i = t; i < rows.n * step; i += ATTEND_THREADS) {
            const int r = i / step, token = i % step, p = tile * HT_K_TILE + t0 + token;
            const bool visible = p >= s.first[r] && p < s.limit[r];
            float w = visible ? score(s.q + r * e, s.stage + token * (e + 1), e) : -INFINITY;
            if (a.softcap > 0.0f && visible) w = ht_softcapf(w, a.softcap);
            s.scores[r * HT_K_TILE + t0 + token] = w;
        }
        __syncthreads();
    }
    soften(s, rows.n);
    for (int i = t; i < rows.n * e; i += ATTEND_THREADS) s.acc[i] *= s.factor[i / e];
    for (int t0 = 0; t0 < seen; t0 += step) {
        const int n = seen - t0 < step ? seen - t0 : step;
        stage_tokens<V>(v, a.pages.v_row_bytes, t0, n, e, s.stage);
        for (int i = t; i < rows.n * e; i += ATTEND_THREADS) {
            const int r = i / e, from = s.first[r] - tile * HT_K_TILE, to = s.limit[r] - tile * HT_K_TILE;
            float sum = s.acc[i];
            for (int j = 0; j < n; j++)
                if (t0 + j >= from && t0 + j < to) sum += s.scores[r * HT_K_TILE + t0 + j] * s.stage[j * (e + 1) + i % e];
            s.acc[i] = sum;
        }
        __syncthreads();
    }
}

/* ---- results --------------------------------------------------------------------------------------------- */

/* acc / sum of every row, as floats and as 8-bit blocks. */
static __device__ void give_rows(const ht_k_attend &a, const Rows &rows, const Shared &s)
{
    const int e = a.head_dim, width = a.heads * e;

    for (int i = static_cast<int>(threadIdx.x); i < rows.n * e; i += ATTEND_THREADS) {
        const int column = rows.column_of(i / e), at = rows.head_of(i / e) * e + i % e;
        const float v = s.acc[i] / s.sum[i / e];
        a.out[static_cast<int64_t>(column) * width + at] = v;
        if (a.q8) quantize_block(static_cast<uint8_t *>(a.q8) + column * HT_K_ACT_STRIDE(width), width, at / 32, v);
    }
}

static __device__ void keep_split(const ht_k_attend &a, const Rows &rows, const Shared &s, int split)
{
    const int e = a.head_dim;

    for (int i = static_cast<int>(threadIdx.x); i < rows.n * e; i += ATTEND_THREADS) {
        const int64_t row = static_cast<int64_t>(rows.column_of(i / e)) * a.heads + rows.head_of(i / e);
        a.acc[(row * a.splits + split) * e + i % e] = s.acc[i];
        if (i % e) continue;
        a.max[row * a.splits + split] = s.max[i / e];
        a.sum[row * a.splits + split] = s.sum[i / e];
    }
}

/* All splits of the rows are kept: their sums in order of the splits, whoever was last. */
static __device__ void merge_splits(const ht_k_attend &a, const Rows &rows, const Shared &s)
{
    const int e = a.head_dim;

    for (int i = static_cast<int>(threadIdx.x); i < rows.n * e; i += ATTEND_THREADS) {
        const int64_t row = static_cast<int64_t>(rows.column_of(i / e)) * a.heads + rows.head_of(i / e);
        const float *maxima = a.max + row * a.splits, *sums = a.sum + row * a.splits;
        const float *acc = a.acc + row * a.splits * e + i % e;
        float max = -INFINITY, sum = 0.0f, v = 0.0f;
        for (int p = 0; p < a.splits; p++) max = Max::of(max, load_fresh(maxima + p));
        for (int p = 0; p < a.splits; p++) {
            const float m = load_fresh(maxima + p);
            if (!(m > -INFINITY)) continue; /* a split that the row does not reach */
            const float factor = ht_expf(m - max);
            sum += load_fresh(sums + p) * factor;
            v += load_fresh(acc + static_cast<int64_t>(p) * e) * factor;
        }
        s.acc[i] = v;
        if (i % e == 0) s.sum[i / e] = sum;
    }
    __syncthreads();
}

/* Block (row tile, KV head, group * splits + split). */
template <class K, class V> __global__ void __launch_bounds__(ATTEND_THREADS) attend(ht_k_attend a)
{
    HT_SHARED(float, memory);
    const int e = a.head_dim, R = rows_of_block(e), per_kv = a.heads / a.kv_heads;
    const int split = static_cast<int>(blockIdx.z) % a.splits;
    const ht_k_group group = a.groups[blockIdx.z / a.splits];
    Rows rows;
    rows.column = group.column;
    rows.sequence = a.pages.sequence[group.column];
    rows.kv_head = static_cast<int>(blockIdx.y);
    rows.per_kv = per_kv;
    rows.first = static_cast<int>(blockIdx.x) * R;
    rows.n = group.n * per_kv - rows.first < R ? group.n * per_kv - rows.first : R;
    if (rows.n <= 0) return; /* the whole block */

    const Shared s = layout(memory, e);
    load_queries(a, rows, s);
    int begin = s.first[0], end = s.limit[0];
    for (int r = 1; r < rows.n; r++) {
        begin = begin < s.first[r] ? begin : s.first[r];
        end = end > s.limit[r] ? end : s.limit[r];
    }
    begin = begin / HT_K_TILE;
    end = (end + HT_K_TILE - 1) / HT_K_TILE;
    if (a.splits > 1) {
        begin = begin > split * a.split_tiles ? begin : split * a.split_tiles;
        end = end < (split + 1) * a.split_tiles ? end : (split + 1) * a.split_tiles;
    }
    for (int tile = begin; tile < end; tile++) one_tile<K, V>(a, rows, s, tile);

    if (a.splits > 1) {
        keep_split(a, rows, s, split);
        const int64_t place = (static_cast<int64_t>(blockIdx.z / a.splits) * a.kv_heads + rows.kv_head) * gridDim.x;
        if (!last_to_arrive(a.arrived + place + blockIdx.x, a.splits)) return; /* the whole block */
        merge_splits(a, rows, s);
    }
    give_rows(a, rows, s);
}

template <class K> static int start_values(const ht_k_attend &a, dim3 grid, size_t shared, double bytes, void *stream)
{
#define START(V) return HT_LAUNCH((attend<K, V>), grid, dim3(ATTEND_THREADS), shared, bytes, stream, a)
    switch (a.pages.v_type) {
    case HT_F32: START(F32);
    case HT_F16: START(F16);
    case HT_Q8_0: START(Q8_0);
    case HT_Q4_0: START(Q4_0);
    default: return BAD_ARGUMENT;
    }
#undef START
}

static int start_attend(const ht_k_attend *k, void *stream)
{
    const ht_k_attend a = *k;
    const int R = rows_of_block(a.head_dim), per_kv = a.heads / a.kv_heads;
    const dim3 grid((a.columns_per_group * per_kv + R - 1) / R, a.kv_heads, a.n_groups * a.splits);
    const size_t shared = shared_floats(a.head_dim) * sizeof(float);
    /* Traffic is charged as if every split were full: virtual time must not depend on data. */
    const double bytes = static_cast<double>(grid.x) * a.n_groups * a.kv_heads * a.splits * a.split_tiles * HT_K_TILE *
                         static_cast<double>(a.pages.k_row_bytes + a.pages.v_row_bytes);
    if (a.head_dim > HT_K_MAX_HEAD || a.heads % a.kv_heads || (a.q8 && a.head_dim % 32) || (a.splits > 1 && !a.arrived))
        return BAD_ARGUMENT;
    switch (a.pages.k_type) {
    case HT_F32: return start_values<F32>(a, grid, shared, bytes, stream);
    case HT_F16: return start_values<F16>(a, grid, shared, bytes, stream);
    case HT_Q8_0: return start_values<Q8_0>(a, grid, shared, bytes, stream);
    case HT_Q4_0: return start_values<Q4_0>(a, grid, shared, bytes, stream);
    default: return BAD_ARGUMENT;
    }
}

static int32_t attend_rows(int32_t head_dim) { return rows_of_block(head_dim); }

} // namespace HT_BUILD

extern "C" void HT_FILL(attend)(ht_gpu_kernels *k)
{
    k->attend = HT_BUILD::start_attend;
    k->attend_rows = HT_BUILD::attend_rows;
}
