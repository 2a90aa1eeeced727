/* Kernels with planted bugs, and a few right ones, for the tests of the emulation. */
#ifndef HEARTH_TESTS_GPU_BUGS_H
#define HEARTH_TESTS_GPU_BUGS_H

#ifdef __cplusplus
extern "C" {
#endif

typedef enum gpu_bug {
    BUG_NONE,              /* reverses 64 floats through shared memory, as it should be */
    BUG_NO_BARRIER,        /* the same without __syncthreads */
    BUG_NO_BARRIER_STATIC, /* in a static shared array */
    BUG_SHARED_OVERRUN,    /* one past the dynamic shared memory */
    BUG_STATIC_OVERRUN,    /* one past a static shared array */
    BUG_GLOBAL_OVERRUN,    /* one past an allocation */
    BUG_GLOBAL_RACE,       /* all threads add to y[0] */
    BUG_TWO_BARRIERS,      /* halves of the block wait at different barriers */
    BUG_EXITED,            /* a thread returns before the barrier */
    BUG_HALF_WARP,         /* a shuffle that half of its mask never reaches */
    BUG_GONE_LANE,         /* a shuffle with a lane that has returned */
    BUG_OUTSIDE_MASK,      /* a lane outside its own mask */
    BUG_NO_WAIT,           /* reads what cp.async has not brought yet */
    BUG_IN_FLIGHT,         /* returns with cp.async in flight */
    BUG_MISALIGNED,        /* cp.async to an odd address */
    BUG_WIDE_LOAD,         /* a load of 16 bytes from a multiple of 4 */
    BUG_UNSET_SHARED,      /* reads shared memory that nobody wrote */
    BUG_COUNT
} gpu_bug;

/* One block of 64 threads; x and y are 64 floats. The device's code of the launch. */
int gpu_bug_start(gpu_bug bug, const float *x, float *y, void *stream);
/* y[i] += 1 for n elements, one thread each, after spinning `turns` times (real time, not virtual). */
int gpu_add_one_start(float *y, int n, int turns, void *stream);
/* out[0, 32): butterfly sums of in[0, 32) by the wrapper; out[32, 64): by shuffles. */
int gpu_reduce_start(const float *in, float *out, void *stream);
/* Asks for more than any block may have. */
int gpu_too_large_start(void *stream);

#ifdef __cplusplus
}
#endif
#endif
