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
/* Rows in shared memory are read four elements at a time: whole fours, zeros behind the last element; those of tokens an odd
 * number of fours apart, so that neighbours lie in different banks. */
static __host__ __device__ int fours_of(int head_dim) { return (head_dim + 3) / 4; }
static __host__ __device__ int stage_pitch(int head_dim) { return 4 * (fours_of(head_dim) | 1); }

/* Shared memory of a block; R rows, e elements. */
struct Shared {
    float *q;       /* (R, 4 fours) */
    float *scores;  /* (R, HT_K_TILE): then weights; at last the factors of splits */
    float *stage;   /* (staged tokens, pitch) */
    float *acc;     /* (R, e) */
    float *max, *sum, *factor; /* (R) */
    int *first, *limit;        /* (R): positions that the row sees */
};

static __host__ __device__ size_t shared_floats(int e)
{
    const int r = rows_of_block(e);
    return static_cast<size_t>(r) * (4 * fours_of(e) + e + HT_K_TILE + 5) +
           static_cast<size_t>(staged_tokens(e)) * stage_pitch(e);
}

static __device__ Shared layout(float *p, int e)
{
    const int r = rows_of_block(e);
    Shared s;
    s.q = p, p += r * 4 * fours_of(e);
    s.scores = p, p += r * HT_K_TILE;
    s.stage = p, p += staged_tokens(e) * stage_pitch(e);
    s.acc = p, p += r * e;
    s.max = p, p += r;
    s.sum = p, p += r;
    s.factor = p, p += r;
    s.first = reinterpret_cast<int *>(p), p += r;
    s.limit = reinterpret_cast<int *>(p), p += r;
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
    const int e = a.head_dim, padded = 4 * fours_of(e);
    for (int i = static_cast<int>(threadIdx.x); i < rows.n * padded; i += ATTEND_THREADS) {
        const int r = i / padded, j = i % padded;
        const int64_t at = (static_cast<int64_t>(rows.column_of(r)) * a.heads + rows.head_of(r)) * e + j;
        s.q[i] = j < e ? a.q[at] * a.scale : 0.0f;
        if (j < e) s.acc[r * e + j] = 0.0f;
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

/* Expands n tokens, rows of K or V of one KV head. A thread goes through fours of elements. */
template <class T>
static __device__ void stage_tokens(const uint8_t *rows, int64_t row_bytes, int n, int e, float *stage)
{
    const int fours = fours_of(e), tokens = ATTEND_THREADS / fours, rest = ATTEND_THREADS % fours;
    int token = static_cast<int>(threadIdx.x) / fours, four = static_cast<int>(threadIdx.x) % fours;
    while (token < n) {
        float v[4];
        kv_four<T>(rows + token * row_bytes, 4 * four, e, v);
        store_aligned4(stage + token * stage_pitch(e) + 4 * four, __float_as_uint(v[0]), __float_as_uint(v[1]),
                       __float_as_uint(v[2]), __float_as_uint(v[3]));
        token += tokens, four += rest;
        if (four >= fours) token++, four -= fours;
    }
    __syncthreads();
}

__device__ __forceinline__ void load_floats(const float *p, float (&v)[4])
{
    int bits[4];
    load_aligned<4>(p, bits);
    for (int j = 0; j < 4; j++) v[j] = __uint_as_float(static_cast<unsigned>(bits[j]));
}

/* q . k for up to N rows of q, `apart` floats from each other, in four sums over the elements modulo 4. */
template <int N>
static __device__ __forceinline__ void score(const float *q, int apart, int n, const float *k, int fours, float (&out)[N])
{
    float v[N][4] = {};
    for (int i = 0; i < fours; i++) {
        float kf[4];
        load_floats(k + 4 * i, kf);
#pragma unroll
        for (int r = 0; r < N; r++) {
            float qf[4];
            if (r >= n) continue;
            load_floats(q + r * apart + 4 * i, qf);
            for (int j = 0; j < 4; j++) v[r][j] += qf[j] * kf[j];
        }
    }
#pragma unroll
    for (int r = 0; r < N; r++) out[r] = (v[r][0] + v[r][1]) + (v[r][2] + v[r][3]);
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

/* Scores of the staged tokens, [t0, ...) of the tile at position `begin`: a token a thread, four rows at a time. */
static __device__ void score_tokens(const ht_k_attend &a, const Rows &rows, const Shared &s, int begin, int t0)
{
    const int step = staged_tokens(a.head_dim), token = static_cast<int>(threadIdx.x) % step, p = begin + t0 + token;
    const int fours = fours_of(a.head_dim), beside = ATTEND_THREADS / step; /* rows at the same time */

    for (int r0 = static_cast<int>(threadIdx.x) / step; r0 < rows.n; r0 += 4 * beside) {
        const int left = (rows.n - r0 + beside - 1) / beside, n = left < 4 ? left : 4;
        float w[4];
        score(s.q + r0 * 4 * fours, beside * 4 * fours, n, s.stage + token * stage_pitch(a.head_dim), fours, w);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int r = r0 + i * beside;
            if (i >= n) continue;
            if (a.softcap > 0.0f) w[i] = ht_softcapf(w[i], a.softcap);
            s.scores[r * HT_K_TILE + t0 + token] = p >= s.first[r] && p < s.limit[r] ? w[i] : -INFINITY;
        }
    }
}

/* Adds the staged tokens of V, [t0, t0 + n) of the tile, by their weights: an element a thread, four rows at a time. Nothing
 * is added by weights of 0, for the row may not see such a token. */
static __device__ void sum_tokens(const Rows &rows, const Shared &s, int e, int t0, int n)
{
    const int width = e < ATTEND_THREADS ? e : ATTEND_THREADS, beside = ATTEND_THREADS / width, pitch = stage_pitch(e);
    const int first = static_cast<int>(threadIdx.x) / width; /* of the rows at the same time; beyond: nothing to do */

    for (int r0 = first < beside ? first : rows.n; r0 < rows.n; r0 += 4 * beside)
        for (int i = static_cast<int>(threadIdx.x) % width; i < e; i += width) {
            float sum[4];
#pragma unroll
            for (int b = 0; b < 4; b++) {
                const int r = r0 + b * beside;
                if (r < rows.n) sum[b] = t0 ? s.acc[r * e + i] : s.acc[r * e + i] * s.factor[r];
            }
            for (int j = 0; j < n; j += 4) {
                float v[4];
                for (int q = 0; q < 4; q++) v[q] = s.stage[(j + q) * pitch + i];
#pragma unroll
                for (int b = 0; b < 4; b++) {
                    float w[4];
                    if (r0 + b * beside >= rows.n) continue;
                    load_floats(s.scores + (r0 + b * beside) * HT_K_TILE + t0 + j, w);
                    for (int q = 0; q < 4; q++) sum[b] = w[q] > 0.0f ? sum[b] + w[q] * v[q] : sum[b];
                }
            }
#pragma unroll
            for (int b = 0; b < 4; b++)
                if (r0 + b * beside < rows.n) s.acc[(r0 + b * beside) * e + i] = sum[b];
        }
}

template <class K, class V>
static __device__ void one_tile(const ht_k_attend &a, const Rows &rows, const Shared &s, int tile)
{
    const int e = a.head_dim, step = staged_tokens(e);
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
        if (n > 0) stage_tokens<K>(k + t0 * a.pages.k_row_bytes, a.pages.k_row_bytes, n, e, s.stage);
        score_tokens(a, rows, s, tile * HT_K_TILE, t0);
        __syncthreads();
    }
    soften(s, rows.n);
    for (int t0 = 0; t0 < seen; t0 += step) {
        const int n = seen - t0 < step ? seen - t0 : step;
        stage_tokens<V>(v + t0 * a.pages.v_row_bytes, a.pages.v_row_bytes, n, e, s.stage);
        sum_tokens(rows, s, e, t0, n);
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

/* All splits of the rows are kept: their sums in an order that does not depend on who was last. */
static __device__ void merge_splits(const ht_k_attend &a, const Rows &rows, const Shared &s)
{
    const int e = a.head_dim, lane = lane_id();

    for (int r = static_cast<int>(threadIdx.x / 32); r < rows.n; r += ATTEND_WARPS) { /* a warp a row: two splits a lane */
        const int64_t first = (static_cast<int64_t>(rows.column_of(r)) * a.heads + rows.head_of(r)) * a.splits;
        float m[2], sum = 0.0f;
        for (int i = 0; i < 2; i++) m[i] = lane + 32 * i < a.splits ? load_fresh(a.max + first + lane + 32 * i) : -INFINITY;
        const float max = warp_reduce<Max>(Max::of(m[0], m[1]));
        for (int i = 0; i < 2; i++) {
            const float factor = m[i] > -INFINITY ? ht_expf(m[i] - max) : 0.0f; /* 0: the row does not reach the split */
            s.scores[r * HT_K_TILE + lane + 32 * i] = factor;
            if (lane + 32 * i < a.splits) sum += load_fresh(a.sum + first + lane + 32 * i) * factor;
        }
        sum = warp_reduce<Add>(sum);
        if (lane == 0) s.sum[r] = sum;
    }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < rows.n * e; i += ATTEND_THREADS) {
        const int r = i / e;
        const int64_t row = static_cast<int64_t>(rows.column_of(r)) * a.heads + rows.head_of(r);
        const float *acc = a.acc + row * a.splits * e + i % e;
        float v = 0.0f;
#pragma unroll 8
        for (int p = 0; p < a.splits; p++) v += load_fresh(acc + static_cast<int64_t>(p) * e) * s.scores[r * HT_K_TILE + p];
        s.acc[i] = v;
    }
}

/* Block (group * splits + split, KV head, row tile): only the first may be more than 65535. */
template <class K, class V> __global__ void __launch_bounds__(ATTEND_THREADS) attend(ht_k_attend a)
{
    HT_SHARED(float, memory);
    const int e = a.head_dim, R = rows_of_block(e), per_kv = a.heads / a.kv_heads;
    const int split = static_cast<int>(blockIdx.x) % a.splits;
    const ht_k_group group = a.groups[blockIdx.x / a.splits];
    Rows rows;
    rows.column = group.column;
    rows.sequence = a.pages.sequence[group.column];
    rows.kv_head = static_cast<int>(blockIdx.y);
    rows.per_kv = per_kv;
    rows.first = static_cast<int>(blockIdx.z) * R;
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
        const int64_t place = (static_cast<int64_t>(blockIdx.x / a.splits) * a.kv_heads + rows.kv_head) * gridDim.z;
        if (!last_to_arrive(a.arrived + place + blockIdx.z, a.splits)) return; /* the whole block */
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
    const dim3 grid(a.n_groups * a.splits, a.kv_heads, (a.columns_per_group * per_kv + R - 1) / R);
    const size_t shared = shared_floats(a.head_dim) * sizeof(float);
    /* Traffic is charged as if every split were full: virtual time must not depend on data. */
    const double bytes = static_cast<double>(grid.z) * a.n_groups * a.kv_heads * a.splits * a.split_tiles * HT_K_TILE *
                         static_cast<double>(a.pages.k_row_bytes + a.pages.v_row_bytes);
    if (a.head_dim > HT_K_MAX_HEAD || a.heads % a.kv_heads || (a.q8 && a.head_dim % 32) || (a.splits > 1 && !a.arrived) ||
        a.splits > HT_K_TILE)
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
