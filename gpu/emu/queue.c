/* The emulated GPU's streams: the ring, the worker, and the events between them. */
#include "gpu/emu/queue.h"

#include "core/base/memory.h"

#include <linux/futex.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- sleeping -------------------------------------------------------------------------------------------- */

static void futex_sleep(uint32_t *word, uint32_t seen)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake(uint32_t *word) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0); }

/* Counters wrap: compared by their difference. Acquire: what was done before the count is visible after the wait. */
static void wait_for(uint32_t *counter, uint32_t count)
{
    for (;;) {
        uint32_t seen = __atomic_load_n(counter, __ATOMIC_ACQUIRE);
        if ((int32_t)(seen - count) >= 0) return;
        futex_sleep(counter, seen);
    }
}

static void publish(uint32_t *counter, uint32_t count)
{
    __atomic_store_n(counter, count, __ATOMIC_RELEASE);
    futex_wake(counter);
}

/* ---- events ---------------------------------------------------------------------------------------------- */

void ht_mark_wait(ht_device_event *e, uint32_t stamp) { wait_for(&e->done, stamp); }

bool ht_mark_passed(const ht_device_event *e, uint32_t stamp)
{
    return (int32_t)(__atomic_load_n(&e->done, __ATOMIC_ACQUIRE) - stamp) >= 0;
}

void ht_mark_pass(ht_device_event *e, uint32_t stamp)
{
    uint32_t seen = __atomic_load_n(&e->done, __ATOMIC_RELAXED);

    /* Records of one event in several streams may be passed out of order: the count never falls. */
    while ((int32_t)(seen - stamp) < 0 &&
           !__atomic_compare_exchange_n(&e->done, &seen, stamp, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED))
        ;
    futex_wake(&e->done);
}

/* ---- the worker ------------------------------------------------------------------------------------------ */

/* True when this is the piece of work that the tests want to fail. */
static bool strikes(int64_t *count, int64_t at) { return __atomic_add_fetch(count, 1, __ATOMIC_RELAXED) == at; }

static void run_kernel(ht_stream *s, ht_emu_work *w)
{
    ht_emu_device *d = s->device;
    char text[320] = "";

    if (strikes(&d->kernels_run, d->options.faults.launch)) {
        ht_emu_device_fail(d, -EIO, "kernel %s failed (fault injected)", w->u.kernel.name);
        return;
    }
    if (ht_emu_run(s->machine, &w->u.kernel, text, sizeof text) < 0) ht_emu_device_fail(d, -EFAULT, "%s", text);
}

static void run_copy(ht_stream *s, const ht_emu_work *w)
{
    ht_emu_device *d = s->device;

    if (strikes(&d->copies_run, d->options.faults.copy)) {
        ht_emu_device_fail(d, -EIO, "a copy of %zu bytes failed (fault injected)", w->u.memory.bytes);
        return;
    }
    memcpy(w->u.memory.dst, w->u.memory.src, w->u.memory.bytes);
}

static void run_work(ht_stream *s, ht_emu_work *w)
{
    ht_emu_device *d = s->device;

    /* Events are passed on a failed device too: nobody may hang. */
    if (w->kind == HT_WORK_RECORD) {
        ht_mark_pass(w->u.mark.event, w->u.mark.stamp);
        return;
    }
    if (w->kind == HT_WORK_WAIT) {
        ht_mark_wait(w->u.mark.event, w->u.mark.stamp);
        return;
    }
    if (ht_emu_device_failed(d)) return;
    if (d->options.faults.lost && __atomic_add_fetch(&d->work_run, 1, __ATOMIC_RELAXED) > d->options.faults.lost) {
        ht_emu_device_fail(d, -ENODEV, "the device is lost (fault injected)");
        return;
    }
    if (w->kind == HT_WORK_KERNEL) run_kernel(s, w);
    if (w->kind == HT_WORK_COPY) run_copy(s, w);
    if (w->kind == HT_WORK_FILL) memset(w->u.memory.dst, w->u.memory.byte, w->u.memory.bytes);
}

static void *worker(void *argument)
{
    ht_stream *s = argument;

    for (uint32_t i = 0;; i++) {
        wait_for(&s->head, i + 1);
        ht_emu_work *w = &s->slots[i % HT_QUEUE_SLOTS];
        bool quit = w->kind == HT_WORK_QUIT;
        if (!quit) run_work(s, w);
        publish(&s->finished, i + 1);
        if (quit) return NULL;
    }
}

/* ---- the submitter --------------------------------------------------------------------------------------- */

int ht_queue_open(ht_stream **out, ht_emu_device *device, const char *name, ht_error *err)
{
    sigset_t all, before;
    ht_stream *s = ht_alloc_aligned(sizeof *s, 64);

    if (!s) return ht_fail(err, -ENOMEM, "out of memory for stream %s", name);
    memset(s, 0, sizeof *s);
    s->device = device;
    s->name = name;
    if (ht_emu_machine_open(&s->machine) < 0) {
        ht_free(s);
        return ht_fail(err, -ENOMEM, "out of memory for stream %s", name);
    }
    /* Signals are for the program's own threads. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int r = pthread_create(&s->thread, NULL, worker, s);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (r) {
        ht_emu_machine_close(&s->machine);
        ht_free(s);
        return ht_fail(err, -r, "cannot start the thread of stream %s: %s", name, strerror(r));
    }
    *out = s;
    return 0;
}

void ht_queue_close(ht_stream *s)
{
    if (!s) return;
    ht_queue_slot(s)->kind = HT_WORK_QUIT;
    ht_queue_submit(s);
    pthread_join(s->thread, NULL);
    ht_emu_machine_close(&s->machine);
    ht_free(s);
}

ht_emu_work *ht_queue_slot(ht_stream *s)
{
    if (s->recording) return &s->recording->work[s->recording->n];
    /* The worker's count is read only when the ring looks full: every look orders memory. */
    if (s->submitted - s->known_finished >= HT_QUEUE_SLOTS) {
        wait_for(&s->finished, s->submitted - HT_QUEUE_SLOTS / 2);
        s->known_finished = __atomic_load_n(&s->finished, __ATOMIC_ACQUIRE);
    }
    return &s->slots[s->submitted % HT_QUEUE_SLOTS];
}

void ht_queue_submit(ht_stream *s)
{
    ht_device_graph *g = s->recording;

    if (!g) publish(&s->head, ++s->submitted);
    else if (g->n + 1 < g->capacity) g->n++;
    else g->overflow = true;
}

void ht_queue_drain(ht_stream *s)
{
    wait_for(&s->finished, s->submitted);
    s->known_finished = s->submitted;
}
