/* Fibers: stacks that take turns on one thread. Nothing here knows of grids or kernels. */
#ifndef HEARTH_GPU_EMU_FIBER_H
#define HEARTH_GPU_EMU_FIBER_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ht_fiber {
    void *sp;                /* saved stack pointer (or ucontext) while it does not run */
    char *stack;             /* lowest usable address, borrowed; NULL: the thread's own stack */
    size_t stack_bytes;
    void *fake_stack;        /* AddressSanitizer's */
    void *tsan;              /* ThreadSanitizer's, made at the first preparation */
} ht_fiber;

/* Describes the calling thread as a fiber that others can switch back to. */
void ht_fiber_adopt(ht_fiber *self);
/* The next switch to f enters `entry` on f's stack. entry never returns: it leaves by ht_fiber_leave. */
void ht_fiber_prepare(ht_fiber *f, void (*entry)(void));
/* The first thing that entry calls. `from` is the adopted fiber of this thread. */
void ht_fiber_entered(ht_fiber *self, ht_fiber *home);
/* Runs `to` until somebody switches back to `self`. Orders no memory for ThreadSanitizer. */
void ht_fiber_switch(ht_fiber *self, ht_fiber *to, ht_fiber *home);
/* As switch, and self will not run again before it is prepared anew. */
void ht_fiber_leave(ht_fiber *self, ht_fiber *to) __attribute__((noreturn));
/* A fiber that was abandoned in the middle, or will not be used again. */
void ht_fiber_drop(ht_fiber *f);

#ifdef __cplusplus
}
#endif
#endif
