/* Fibers: the switch itself (x86-64 assembly, ucontext elsewhere), and what the sanitizers must know of it. */
#include "gpu/emu/fiber.h"

#include "gpu/emu/sanitize.h"

#include <stdint.h>
#include <stdlib.h>

#if defined(__x86_64__)

/* Saves the registers that a call preserves on this stack, and takes up the other stack where it left. */
void ht_fiber_swap(void **save, void *to);
__asm__(".text\n"
        ".p2align 4\n"
        ".hidden ht_fiber_swap\n"
        ".globl ht_fiber_swap\n"
        ".type ht_fiber_swap,@function\n"
        "ht_fiber_swap:\n"
        "    push %rbp\n    push %rbx\n    push %r12\n    push %r13\n    push %r14\n    push %r15\n"
        "    mov %rsp, (%rdi)\n"
        "    mov %rsi, %rsp\n"
        "    pop %r15\n    pop %r14\n    pop %r13\n    pop %r12\n    pop %rbx\n    pop %rbp\n"
        "    ret\n"
        ".size ht_fiber_swap,.-ht_fiber_swap\n");

static void set_entry(ht_fiber *f, void (*entry)(void))
{
    void **top = (void **)((uintptr_t)(f->stack + f->stack_bytes) & ~(uintptr_t)15);

    top[-1] = NULL;                      /* so that the stack is 8 mod 16 at entry, as after a call */
    top[-2] = (void *)(uintptr_t)entry;  /* where ret goes */
    for (int i = 3; i <= 8; i++) top[-i] = NULL;
    f->sp = top - 8;
}

static void swap(ht_fiber *self, ht_fiber *to) { ht_fiber_swap(&self->sp, to->sp); }
static void release(ht_fiber *f) { (void)f; }

#else
#include <ucontext.h>

/* The context lies at the low end of the fiber's stack; the thread's own fiber keeps it in `sp` on the heap. */
static ucontext_t *context(ht_fiber *f)
{
    if (!f->sp) f->sp = calloc(1, sizeof(ucontext_t));
    return f->sp;
}

static void set_entry(ht_fiber *f, void (*entry)(void))
{
    ucontext_t *c = context(f);
    getcontext(c);
    c->uc_stack.ss_sp = f->stack;
    c->uc_stack.ss_size = f->stack_bytes;
    c->uc_link = NULL;
    makecontext(c, entry, 0);
}

static void swap(ht_fiber *self, ht_fiber *to) { swapcontext(context(self), context(to)); }
static void release(ht_fiber *f) { free(f->sp); f->sp = NULL; }
#endif

void ht_fiber_adopt(ht_fiber *self)
{
    *self = (ht_fiber){0};
#ifdef HT_TSAN
    self->tsan = __tsan_get_current_fiber();
#endif
}

void ht_fiber_prepare(ht_fiber *f, void (*entry)(void))
{
    f->fake_stack = NULL;
#ifdef HT_ASAN
    __asan_unpoison_memory_region(f->stack, f->stack_bytes);
#endif
#ifdef HT_TSAN
    if (!f->tsan) f->tsan = __tsan_create_fiber(0);
#endif
    set_entry(f, entry);
}

void ht_fiber_entered(ht_fiber *self, ht_fiber *home)
{
#ifdef HT_ASAN
    const void *bottom;
    size_t bytes;
    __sanitizer_finish_switch_fiber(self->fake_stack, &bottom, &bytes);
    if (!home->stack) { /* the first fiber after home learns where home's stack is */
        home->stack = (char *)(uintptr_t)bottom;
        home->stack_bytes = bytes;
    }
#else
    (void)self, (void)home;
#endif
}

void ht_fiber_switch(ht_fiber *self, ht_fiber *to, ht_fiber *home)
{
#ifdef HT_ASAN
    __sanitizer_start_switch_fiber(&self->fake_stack, to->stack, to->stack_bytes);
#endif
#ifdef HT_TSAN
    __tsan_switch_to_fiber(to->tsan, __tsan_switch_to_fiber_no_sync);
#endif
    swap(self, to);
    ht_fiber_entered(self, home);
}

void ht_fiber_leave(ht_fiber *self, ht_fiber *to)
{
#ifdef HT_ASAN
    __sanitizer_start_switch_fiber(NULL, to->stack, to->stack_bytes);
#endif
#ifdef HT_TSAN
    __tsan_switch_to_fiber(to->tsan, __tsan_switch_to_fiber_no_sync);
#endif
    swap(self, to);
    abort(); /* nobody switches to a fiber that has left */
}

void ht_fiber_drop(ht_fiber *f)
{
#ifdef HT_TSAN
    if (f->tsan && f->stack) __tsan_destroy_fiber(f->tsan);
#endif
    f->tsan = NULL;
    release(f);
}
