/* Planted bugs: see bugs.h. */
#include "tests/gpu/bugs.h"

#include "gpu/kernels/warp.cuh"

namespace HT_BUILD {

static __global__ void reverse(const float *x, float *y)
{
    HT_SHARED(float, s);
    s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = s[63 - threadIdx.x];
}
static __global__ void no_barrier(const float *x, float *y)
{
    HT_SHARED(float, s);
    s[threadIdx.x] = x[threadIdx.x];
    y[threadIdx.x] = s[63 - threadIdx.x];
}
static __global__ void no_barrier_static(const float *x, float *y)
{
    __shared__ float s[64];
    s[threadIdx.x] = x[threadIdx.x];
    y[threadIdx.x] = s[63 - threadIdx.x];
}
static __global__ void shared_overrun(const float *x, float *y)
{
    HT_SHARED(float, s);
    s[threadIdx.x + 1] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x + 1];
}
static __global__ void static_overrun(const float *x, float *y)
{
    __shared__ float s[64];
    s[threadIdx.x + 1] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x];
}
static __global__ void global_overrun(const float *x, float *y) { y[threadIdx.x + 1] = x[threadIdx.x]; }
static __global__ void global_race(const float *x, float *y) { y[0] += x[threadIdx.x]; }
static __global__ void two_barriers(const float *x, float *y)
{
    if (threadIdx.x < 32) {
        __syncthreads();
    } else {
        y[threadIdx.x] = x[threadIdx.x];
        __syncthreads();
    }
}
static __global__ void exited(const float *x, float *y)
{
    if (threadIdx.x == 5) return;
    __syncthreads();
    y[threadIdx.x] = x[threadIdx.x];
}
static __global__ void half_warp(const float *x, float *y)
{
    float v = x[threadIdx.x];
    if (threadIdx.x < 16) v = __shfl_xor_sync(0xffffffffu, v, 1);
    else __syncthreads();
    y[threadIdx.x] = v;
}
static __global__ void gone_lane(const float *x, float *y)
{
    if (threadIdx.x == 9) return;
    y[threadIdx.x] = __shfl_xor_sync(0xffffffffu, x[threadIdx.x], 1);
}
static __global__ void outside_mask(const float *x, float *y)
{
    y[threadIdx.x] = __shfl_xor_sync(0x0000ffffu, x[threadIdx.x], 1);
}
static __global__ void no_wait(const float *x, float *y)
{
    HT_SHARED(float, s);
    if (threadIdx.x < 16) {
        cp_async16(s + 4 * threadIdx.x, x + 4 * threadIdx.x);
        cp_async_commit();
    }
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x];
    cp_async_wait<0>();
}
static __global__ void in_flight(const float *x, float *y)
{
    HT_SHARED(float, s);
    if (threadIdx.x == 0) cp_async16(s, x);
    y[threadIdx.x] = x[threadIdx.x];
}
static __global__ void misaligned(const float *x, float *y)
{
    HT_SHARED(float, s);
    cp_async16(s + 1, x);
    cp_async_wait<0>();
    y[threadIdx.x] = x[threadIdx.x];
}
static __global__ void wide_load(const float *x, float *y)
{
    int words[4];
    load_aligned<4>(x + 1, words);
    y[threadIdx.x] = __uint_as_float(static_cast<unsigned>(words[threadIdx.x % 4]));
}
static __global__ void unset_shared(const float *x, float *y)
{
    HT_SHARED(float, s);
    if (threadIdx.x) s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x];
}

static __global__ void add_one(float *y, int n, int turns)
{
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    volatile int spun = 0;
    while (spun < turns) spun = spun + 1;
    if (i < n) y[i] += 1.0f;
}

static __global__ void reduce(const float *in, float *out)
{
    out[threadIdx.x] = warp_reduce<Add>(in[threadIdx.x]);
    out[threadIdx.x + 32] = warp_reduce_by_shuffles<Add>(in[threadIdx.x]);
}

} // namespace HT_BUILD

using namespace HT_BUILD;

#define ONE_BLOCK(kernel) HT_LAUNCH(kernel, dim3(1), dim3(64), 256, 512, stream, x, y)

int gpu_bug_start(gpu_bug bug, const float *x, float *y, void *stream)
{
    switch (bug) {
    case BUG_NONE: return ONE_BLOCK(reverse);
    case BUG_NO_BARRIER: return ONE_BLOCK(no_barrier);
    case BUG_NO_BARRIER_STATIC: return ONE_BLOCK(no_barrier_static);
    case BUG_SHARED_OVERRUN: return ONE_BLOCK(shared_overrun);
    case BUG_STATIC_OVERRUN: return ONE_BLOCK(static_overrun);
    case BUG_GLOBAL_OVERRUN: return ONE_BLOCK(global_overrun);
    case BUG_GLOBAL_RACE: return ONE_BLOCK(global_race);
    case BUG_TWO_BARRIERS: return ONE_BLOCK(two_barriers);
    case BUG_EXITED: return ONE_BLOCK(exited);
    case BUG_HALF_WARP: return ONE_BLOCK(half_warp);
    case BUG_GONE_LANE: return ONE_BLOCK(gone_lane);
    case BUG_OUTSIDE_MASK: return ONE_BLOCK(outside_mask);
    case BUG_NO_WAIT: return ONE_BLOCK(no_wait);
    case BUG_IN_FLIGHT: return ONE_BLOCK(in_flight);
    case BUG_MISALIGNED: return ONE_BLOCK(misaligned);
    case BUG_WIDE_LOAD: return ONE_BLOCK(wide_load);
    case BUG_UNSET_SHARED: return ONE_BLOCK(unset_shared);
    default: return 1;
    }
}

int gpu_add_one_start(float *y, int n, int turns, void *stream)
{
    return HT_LAUNCH(add_one, dim3((n + 63) / 64), dim3(64), 0, 8.0 * n, stream, y, n, turns);
}

int gpu_reduce_start(const float *in, float *out, void *stream)
{
    return HT_LAUNCH(reduce, dim3(1), dim3(32), 0, 384, stream, in, out);
}

int gpu_too_large_start(void *stream)
{
    float *const none = nullptr;
    return HT_LAUNCH(add_one, dim3(1), dim3(2048), 0, 0, stream, none, 0, 0);
}
