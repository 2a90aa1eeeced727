/* The part of CUDA C++ that hearth's kernels use, for g++ and clang++: the same .cu file runs on the emulated GPU.
 * What is not here does not compile, on purpose: add the next intrinsic when a kernel needs it.
 *
 * Differences that remain: lanes of a warp do not run in lock step (as on Volta and later); blocks run one after
 * another, so races between blocks are not seen; static shared arrays keep the values of the block before; sums are
 * those of the host's float arithmetic. */
#ifndef HEARTH_GPU_EMU_CUDA_ON_HOST_CUH
#define HEARTH_GPU_EMU_CUDA_ON_HOST_CUH

#include "gpu/emu/exec.h"
#include "gpu/emu/launch.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __shared__ static thread_local /* one a host thread: several devices run at once */
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

/* Executor's code inside an instrumented file: it reads what other lanes wrote, by design. */
#define HT_UNSEEN __attribute__((no_sanitize("thread"), noinline))

namespace ht_emu {

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};

#define threadIdx (ht_emu_self->thread)
#define blockIdx (ht_emu_view_.block)
#define blockDim (ht_emu_view_.block_dim)
#define gridDim (ht_emu_view_.grid_dim)

/* ---- launches and shared memory ---- */

#define HT_SHARED(type, name) type *const name = static_cast<type *>(ht_emu_view_.shared)
#define HT_LAUNCH(kernel, grid, block, shared, bytes, stream, ...)                                                  \
    ::ht_emu::launch(stream, #kernel, grid, block, shared, bytes, [=] { kernel(__VA_ARGS__); })

template <class Body> static void call_body(void *closure) { (*static_cast<Body *>(closure))(); }

template <class Body>
static int launch(void *stream, const char *name, dim3 grid, dim3 block, size_t shared, double bytes, Body body)
{
    static_assert(std::is_trivially_copyable<Body>::value, "kernel arguments are plain data");
    const unsigned g[3] = {grid.x, grid.y, grid.z}, b[3] = {block.x, block.y, block.z};
    return ht_emu_submit(stream, name, g, b, shared, bytes, call_body<Body>, &body, sizeof body);
}

/* ---- barriers ---- */

#define __syncthreads() ((void)ht_emu_barrier(__LINE__, 0))
#define __syncthreads_count(p) ht_emu_barrier(__LINE__, (p) ? 1 : 0)
#define __syncthreads_or(p) (ht_emu_barrier(__LINE__, (p) ? 1 : 0) != 0)

/* ---- warp collectives: one rendezvous each ---- */

static inline int lane_id() { return (int)(ht_emu_self->index % HT_EMU_WARP); }

struct NoPayload {
    static void all(void *const *) {}
};
static inline void __syncwarp(unsigned mask = ~0u) { ht_emu_collective(mask, nullptr, NoPayload::all, true); }

template <class T> struct Shuffle {
    T in, out;
    int source;
    HT_UNSEEN static void all(void *const *p)
    {
        for (int l = 0; l < HT_EMU_WARP; l++) {
            Shuffle *s = static_cast<Shuffle *>(p[l]);
            if (!s) continue;
            Shuffle *from = static_cast<Shuffle *>(p[s->source]);
            if (!from) ht_emu_broken("a shuffle from a lane outside the mask");
            s->out = from->in;
        }
    }
};
template <class T> static T shuffle(unsigned mask, T v, int source)
{
    Shuffle<T> s = {v, v, source};
    ht_emu_collective(mask, &s, Shuffle<T>::all, false);
    return s.out;
}
template <class T> static T __shfl_sync(unsigned mask, T v, int source) { return shuffle(mask, v, source & 31); }
template <class T> static T __shfl_xor_sync(unsigned mask, T v, int x) { return shuffle(mask, v, (lane_id() ^ x) & 31); }
template <class T> static T __shfl_down_sync(unsigned mask, T v, int by)
{
    return shuffle(mask, v, lane_id() + by > 31 ? lane_id() : lane_id() + by);
}
template <class T> static T __shfl_up_sync(unsigned mask, T v, int by)
{
    return shuffle(mask, v, lane_id() < by ? lane_id() : lane_id() - by);
}

struct Ballot {
    int in;
    unsigned out;
    HT_UNSEEN static void all(void *const *p)
    {
        unsigned r = 0;
        for (int l = 0; l < HT_EMU_WARP; l++)
            if (p[l] && static_cast<Ballot *>(p[l])->in) r |= 1u << l;
        for (int l = 0; l < HT_EMU_WARP; l++)
            if (p[l]) static_cast<Ballot *>(p[l])->out = r;
    }
};
static inline unsigned __ballot_sync(unsigned mask, int predicate)
{
    Ballot b = {predicate, 0};
    ht_emu_collective(mask, &b, Ballot::all, false);
    return b.out;
}

/* The reductions of kernels/warp.cuh in one rendezvous instead of five: the butterfly of xor shuffles, in its order,
 * so the bits are those of the shuffles (tests/gpu/test_emu.c compares them). */
template <class T, class Op> struct Butterfly {
    T v;
    HT_UNSEEN static void all(void *const *p)
    {
        T a[HT_EMU_WARP], b[HT_EMU_WARP];
        for (int l = 0; l < HT_EMU_WARP; l++) a[l] = static_cast<Butterfly *>(p[l])->v;
        for (int x = HT_EMU_WARP / 2; x; x /= 2) {
            for (int l = 0; l < HT_EMU_WARP; l++) b[l] = Op::of(a[l], a[l ^ x]);
            memcpy(a, b, sizeof a);
        }
        for (int l = 0; l < HT_EMU_WARP; l++) static_cast<Butterfly *>(p[l])->v = a[l];
    }
};
template <class Op, class T> static T butterfly(T v)
{
    Butterfly<T, Op> b = {v};
    ht_emu_collective(~0u, &b, Butterfly<T, Op>::all, false);
    return b.v;
}

/* ---- asynchronous copies: they land at the wait, so a missing wait shows ---- */

HT_UNSEEN static inline void cp_async16(void *shared, const void *global, int bytes = 16)
{
    ht_emu_lane *l = ht_emu_self;
    if ((reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(global)) & 15)
        ht_emu_broken("cp.async on an address that is not 16-byte aligned");
    if (l->n_copies == HT_EMU_ASYNC_COPIES) ht_emu_broken("more cp.async in flight than the emulation keeps");
    l->copies[l->n_copies++] = {shared, global, bytes, l->group};
}
HT_UNSEEN static inline void cp_async_commit() { ht_emu_self->group++; }
template <int N> static inline void cp_async_wait() /* all but the last N groups have landed */
{
    ht_emu_lane *l = ht_emu_self;
    int kept = 0;
    for (int i = 0; i < l->n_copies; i++) {
        const ht_async_copy c = l->copies[i];
        if (c.group < l->group - N) {
            memcpy(c.dst, c.src, c.bytes);
            memset(static_cast<char *>(c.dst) + c.bytes, 0, 16 - c.bytes);
        } else {
            l->copies[kept++] = c;
        }
    }
    l->n_copies = kept;
}

/* ---- between blocks: they run one after another, in any order ---- */

static inline bool last_to_arrive(int32_t *counter, int n)
{
    static thread_local int last;
    __syncthreads();
    if (ht_emu_self->index == 0) {
        last = __atomic_add_fetch(counter, 1, __ATOMIC_RELAXED) == n;
        if (last) *counter = 0;
    }
    __syncthreads();
    return last != 0;
}
static inline float load_fresh(const float *p) { return *p; }

/* ---- wide loads and stores ---- */

static inline void need_aligned(const void *p, unsigned bytes)
{
    if (reinterpret_cast<uintptr_t>(p) % bytes)
        ht_emu_broken("a wide load or store at an address that is not a multiple of its width");
}
template <int N> static inline void load_aligned(const void *p, int *q)
{
    need_aligned(p, 4 * N);
    for (int i = 0; i < N; i++) q[i] = static_cast<const int *>(p)[i];
}
static inline void store_aligned4(void *p, unsigned a, unsigned b, unsigned c, unsigned d)
{
    unsigned *to = static_cast<unsigned *>(p);
    need_aligned(p, 16);
    to[0] = a, to[1] = b, to[2] = c, to[3] = d;
}

/* ---- numbers ---- */

template <class To, class From> static inline To bits_as(From f)
{
    static_assert(sizeof(To) == sizeof(From), "");
    To t;
    memcpy(&t, &f, sizeof t);
    return t;
}
static inline float __uint_as_float(unsigned u) { return bits_as<float>(u); }
static inline unsigned __float_as_uint(float f) { return bits_as<unsigned>(f); }
static inline float half_to_float(uint16_t h)
{
    const unsigned e = h >> 10 & 31, m = h & 1023;
    const float v = e ? __uint_as_float((e == 31 ? 255u : e + 112) << 23 | m << 13) : (float)m * 0x1p-24f;
    return h >> 15 ? -v : v;
}
static inline uint16_t float_to_half(float f) /* to nearest, ties to even */
{
    const unsigned u = __float_as_uint(f), sign = u >> 16 & 0x8000, a = u & 0x7fffffff;
    if (a > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    if (a >= 0x477ff000) return (uint16_t)(sign | 0x7c00);
    if (a < 0x38800000) return (uint16_t)(sign | (unsigned)lrintf(__uint_as_float(a) * 0x1p24f));
    return (uint16_t)(sign | (a + 0xfff + (a >> 13 & 1) - 0x38000000) >> 13);
}
static inline unsigned pack_halves(float low, float high)
{
    return float_to_half(low) | (unsigned)float_to_half(high) << 16;
}
template <class F> static inline unsigned by_half(unsigned a, unsigned b, unsigned c, F f) /* both halves of three words */
{
    const auto at = [](unsigned h) { return half_to_float((uint16_t)h); };
    return pack_halves(f(at(a), at(b), at(c)), f(at(a >> 16), at(b >> 16), at(c >> 16)));
}
static inline unsigned half2_mul(unsigned a, unsigned b)
{
    return by_half(a, b, 0, [](float x, float y, float) { return x * y; });
}
static inline unsigned half2_fma(unsigned a, unsigned b, unsigned c)
{
    return by_half(a, b, c, [](float x, float y, float z) { return __builtin_fmaf(x, y, z); });
}
static inline float biased_byte_of(unsigned word, int i) { return (float)(word >> 8 * i & 255) - 128.0f; }
static inline unsigned biased_bytes_to_halves(unsigned word, int i)
{
    return pack_halves(biased_byte_of(word, i), biased_byte_of(word, i + 1));
}
static inline float byte_of(int word, int i) { return (float)(int8_t)((unsigned)word >> 8 * i); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __float2int_rn(float f) { return (int)lrintf(f); }
static inline int __dp4a(int a, int b, int c)
{
    for (int i = 0; i < 32; i += 8) c += (int8_t)((unsigned)a >> i) * (int8_t)((unsigned)b >> i);
    return c;
}
/* Bytes of the eight in (b, a) by the four selectors in the low 16 bits of s. */
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned s)
{
    const uint64_t both = (uint64_t)b << 32 | a;
    unsigned r = 0;
    for (int i = 0; i < 4; i++) r |= (unsigned)(both >> 8 * (s >> 4 * i & 7) & 255) << 8 * i;
    return r;
}
template <class T> static inline T min(T a, T b) { return b < a ? b : a; }
template <class T> static inline T max(T a, T b) { return a < b ? b : a; }

/* ---- one tensor-core tile: D (16, 8) += A (16, 16) B (16, 8), f16 in, f32 sums in order of k ---- */

struct MmaTile {
    float *d;
    const unsigned *a, *b;
    HT_UNSEEN static void all(void *const *p)
    {
        float A[16][16], B[16][8], D[16][8];
        for (int l = 0; l < HT_EMU_WARP; l++) {
            const MmaTile *t = static_cast<MmaTile *>(p[l]);
            for (int r = 0; r < 4; r++) {
                D[(l >> 2) + (r >> 1) * 8][(l & 3) * 2 + (r & 1)] = t->d[r];
                for (int i = 0; i < 2; i++) {
                    const int row = l >> 2, k = (l & 3) * 2 + i;
                    A[row + (r & 1) * 8][k + (r >> 1) * 8] = half_to_float((uint16_t)(t->a[r] >> 16 * i));
                    if (r < 2) B[k + r * 8][row] = half_to_float((uint16_t)(t->b[r] >> 16 * i));
                }
            }
        }
        for (int row = 0; row < 16; row++)
            for (int k = 0; k < 16; k++)
                for (int c = 0; c < 8; c++) D[row][c] += A[row][k] * B[k][c]; /* c last: a vector at a time */
        for (int l = 0; l < HT_EMU_WARP; l++)
            for (int r = 0; r < 4; r++)
                static_cast<MmaTile *>(p[l])->d[r] = D[(l >> 2) + (r >> 1) * 8][(l & 3) * 2 + (r & 1)];
    }
};
/* What ldmatrix gives each lane (see kernels/cuda.cuh). */
template <bool A, class Tile> static inline void load_fragment(unsigned (&r)[4], const Tile &tile, int row, int piece)
{
    const int g = lane_id() / 4, q = lane_id() % 4;
    for (int i = 0; i < 4; i++) {
        const unsigned *from = tile(row, g + 8 * (A ? i & 1 : i >> 1), piece + (A ? i >> 1 : i & 1));
        if (reinterpret_cast<uintptr_t>(from) & 15) ht_emu_broken("ldmatrix on rows that are not 16-byte aligned");
        r[i] = from[q];
    }
}
static inline void mma_16x8x16(float (&d)[4], const unsigned (&a)[4], const unsigned *b)
{
    MmaTile t = {d, a, b};
    ht_emu_collective(~0u, &t, MmaTile::all, false);
}

} // namespace ht_emu
#endif
